//! What each path answers, and how each failure is told.

use std::{io::Read as _, sync::Arc};

use flate2::read::GzDecoder;

use super::{Fake, MakeError, Server};
use crate::{
    diagnosis::{Diagnosis, WaitMatrix, facts::WindowFacts},
    export::synthetic::synthetic_snapshot,
    snapshot::{CollectorState, Snapshot},
    source::{ProfileFormat, ProfileType, Source as _, SourceError, Split},
};

#[test]
fn every_path_answers() {
    let source = Arc::new(Fake::of(3));
    let server = Server::over(&source);
    for (path, content_type, part) in [
        ("/", "text/html", "/api/v1/profile"),
        (
            "/metrics",
            "text/plain; version=0.0.4",
            "# TYPE ctrscope_container_cpu_seconds_total counter",
        ),
        ("/healthz", "text/plain", "ok"),
        ("/readyz", "text/plain", "ready"),
        ("/status", "application/json", "\"collectors\""),
        (
            "/api/v1/containers",
            "application/json",
            "checkout-7d9f8c6b5-00002",
        ),
        (
            "/api/v1/containers/team-1/checkout-7d9f8c6b5-00001/checkout",
            "application/json",
            "checkout-7d9f8c6b5-00001",
        ),
        (
            "/api/v1/diagnosis",
            "application/json",
            "\"verdict\":\"cap_throttled\"",
        ),
        (
            "/api/v1/diagnosis/team-1/checkout-7d9f8c6b5-00001/checkout?window=5",
            "application/json",
            "\"seconds\":5.0",
        ),
        (
            "/api/v1/neighbours?window=5",
            "application/json",
            "\"name\":\"bully\"",
        ),
        (
            "/api/v1/verdicts",
            "application/json",
            "\"verdict\":\"cap_throttled\"",
        ),
        (
            "/api/v1/workloads",
            "application/json",
            "\"workload_kind\":\"deployment\"",
        ),
        ("/api/v1/profile", "image/svg+xml", "checkout;main 3"),
        (
            "/api/v1/profile?format=folded&container=a%20b&seconds=300&frequency=999&type=cpu",
            "text/plain",
            "checkout;main 3",
        ),
        (
            "/api/v1/profile?format=speedscope&split=thread",
            "application/json",
            "checkout;main 3",
        ),
        (
            "/debug/pprof/profile?seconds=5",
            "application/octet-stream",
            "checkout;main 3",
        ),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(
            answer
                .head
                .contains(&format!("content-type: {content_type}")),
            "{path}: {}",
            answer.head
        );
        assert!(answer.body.contains(part), "{path}");
        let head = server.ask("HEAD", path);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
    }
    let cgroup = source.snapshot().expect("it answers").containers[1]
        .identity
        .cgroup
        .clone();
    for target in [cgroup.clone(), cgroup.replace('/', "%2F")] {
        let answer = server.get(&format!("/api/v1/containers/{target}"));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[test]
fn containers_come_back_as_the_snapshot_they_were() {
    let server = Server::over(&Arc::new(Fake::of(2)));
    let answer = server.get("/api/v1/containers");
    let snapshot: Snapshot = serde_json::from_str(&answer.body).expect("it is a snapshot");
    assert_eq!(snapshot.containers.len(), 2);
    assert_eq!(
        snapshot.containers[1].counters,
        synthetic_snapshot(2).containers[1].counters
    );
}

#[test]
fn metrics_are_the_same_compressed_and_not() {
    let server = Server::over(&Arc::new(Fake::of(50)));
    let containers = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter(|line| line.starts_with("ctrscope_container_"));
        lines.map(str::to_owned).collect()
    };
    let plain = server.get("/metrics");
    assert!(!plain.head.contains("content-encoding"), "{}", plain.head);
    assert!(
        plain.head.contains("vary: accept-encoding"),
        "{}",
        plain.head
    );
    let length = format!("content-length: {}\r\n", plain.body.len());
    assert!(plain.head.contains(&length), "{}", plain.head);

    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\naccept-encoding: deflate, gzip\r\n\
        connection: close\r\n\r\n";
    let mut answer = Vec::new();
    let mut stream = server.send(request.as_bytes());
    stream.read_to_end(&mut answer).expect("an answer comes");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.expect("it has a head") + 4);
    let head = String::from_utf8_lossy(head).to_lowercase();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(body.len() * 5 < plain.body.len(), "{} bytes", body.len());
    let mut text = String::new();
    let unpacked = GzDecoder::new(body).read_to_string(&mut text);
    unpacked.expect("it is gzip");
    assert_eq!(containers(&text), containers(&plain.body));
    assert!(containers(&text).len() > 50 * 40);
}

#[test]
fn facts_come_back_as_they_were() {
    let server = Server::over(&Arc::new(Fake::of(0)));
    let seconds = |path: &str| {
        let answer = server.get(path);
        let facts: WindowFacts = serde_json::from_str(&answer.body).expect("they are facts");
        facts.seconds
    };
    assert_eq!(seconds("/api/v1/facts"), 60.0);
    assert_eq!(seconds("/api/v1/facts?window=7"), 7.0);
    for window in ["0", "61", "1.5", "", "x"] {
        let answer = server.get(&format!("/api/v1/facts?window={window}"));
        let error = answer.error("window must be a whole number from 1 to 60");
        assert_eq!(error, (400, "bad_request".to_owned()), "{window}");
    }
}

#[test]
fn a_diagnosis_is_of_all_or_of_one_and_the_verdicts_are_in_the_metrics() {
    let server = Server::over(&Arc::new(Fake::of(3)));
    let names = |path: &str| -> Vec<String> {
        let answer = server.get(path);
        let diagnosis: Diagnosis = serde_json::from_str(&answer.body).expect("a diagnosis");
        let containers = diagnosis.containers.into_iter();
        containers.map(|one| one.identity.pod.clone()).collect()
    };
    assert_eq!(names("/api/v1/diagnosis").len(), 3);
    let one = names("/api/v1/diagnosis/team-1/checkout-7d9f8c6b5-00001/checkout");
    assert_eq!(one, ["checkout-7d9f8c6b5-00001"]);
    let unknown = server.get("/api/v1/diagnosis/team-1/none");
    assert_eq!(
        unknown.error("no container \"team-1/none\""),
        (404, "unknown_container".to_owned())
    );
    for window in ["0", "61", "x"] {
        let answer = server.get(&format!("/api/v1/diagnosis?window={window}"));
        let error = answer.error("window must be a whole number from 1 to 60");
        assert_eq!(error, (400, "bad_request".to_owned()), "{window}");
    }
    let text = server.get("/metrics").body;
    let series = "ctrscope_container_bottleneck{namespace=\"team-0\",pod=\"checkout-7d9f8c6b5-00000\",\
                  container=\"checkout\",resource=\"cpu\",verdict=\"cap_throttled\"} 1\n";
    assert!(text.contains(series));
}

#[test]
fn neighbours_are_of_all_or_of_one() {
    let server = Server::over(&Arc::new(Fake::of(3)));
    let matrix = |path: &str| -> WaitMatrix {
        serde_json::from_str(&server.get(path).body).expect("a matrix")
    };
    let all = matrix("/api/v1/neighbours");
    assert_eq!((all.seconds, all.measured), (60.0, 3));
    assert_eq!((all.containers.len(), all.culprits[0].victim_count), (3, 3));
    let path = "/api/v1/neighbours?window=5&container=team-1/checkout-7d9f8c6b5-00001/checkout";
    let one = matrix(path);
    assert_eq!((one.seconds, one.containers.len()), (5.0, 1));
    assert_eq!(one.containers[0].neighbours[0].name, "bully");
    let unknown = server.get("/api/v1/neighbours?container=none");
    assert_eq!(
        unknown.error("no container \"none\""),
        (404, "unknown_container".to_owned())
    );
    for (query, message) in [
        ("window=61", "window must be a whole number from 1 to 60"),
        (
            "container=",
            "container is empty; leave it out to ask for all",
        ),
        ("top=3", "known are container, window"),
    ] {
        let answer = server.get(&format!("/api/v1/neighbours?{query}"));
        assert_eq!(answer.error(message), (400, "bad_request".to_owned()));
    }
}

#[test]
fn paths_as_go_has_them_give_the_format_of_pprof() {
    let source = Arc::new(Fake::of(1));
    let server = Server::over(&source);
    let asked = || {
        let last = source.last_request.lock().expect("it is there").clone();
        last.expect("it was asked")
    };
    server.get("/debug/pprof/profile?seconds=3&container=a&frequency=7&split=process&inlined=true");
    let request = asked();
    assert_eq!(request.profile_type, ProfileType::Cpu);
    assert_eq!(request.format, ProfileFormat::Pprof);
    assert_eq!(request.split, Split::Process);
    assert!(request.inlined);
    assert_eq!((request.duration.as_secs(), request.frequency), (3, 7));
    // The path says what it is.
    let bad = (400, "bad_request".to_owned());
    for parameter in ["type=cpu", "format=svg"] {
        let answer = server.get(&format!("/debug/pprof/profile?{parameter}"));
        assert_eq!(answer.error("unknown parameter"), bad);
    }
    for path in ["/debug/pprof/heap", "/debug/pprof/cpu", "/debug/pprof/"] {
        let answer = server.get(path);
        assert_eq!(answer.error("/ lists the paths").0, 404, "{path}");
    }
}

#[test]
fn workloads_have_their_totals_and_what_is_no_longer_among_them() {
    let source = Arc::new(Fake::of(40));
    let answer = Server::over(&source).get("/api/v1/workloads");
    let answer: serde_json::Value = serde_json::from_str(&answer.body).expect("it is JSON");
    let workloads = answer["workloads"].as_array().expect("a list");
    assert_eq!(workloads.len(), 20, "two containers each");
    let first = &workloads[0];
    assert_eq!(first["namespace"], "team-0");
    assert_eq!(first["workload"], "checkout-0");
    assert_eq!(first["containers"], 2);
    let snapshot = source.snapshot().expect("it answers");
    let on_cpu_ns = |index: usize| snapshot.containers[index].on_cpu_ns().unwrap_or(0);
    assert_eq!(first["totals"]["cpu_ns"], on_cpu_ns(0) + on_cpu_ns(20));
    assert_eq!(answer["evicted"]["workloads"], 0);
}

#[test]
fn a_profile_says_how_much_it_holds_and_gets_what_was_asked() {
    let source = Arc::new(Fake::of(1));
    let server = Server::over(&source);
    let answer =
        server.get("/api/v1/profile?container=caf%C3%A9&seconds=7&frequency=49&format=folded");
    assert!(
        answer.head.contains("x-ctrscope-samples: 3"),
        "{}",
        answer.head
    );
    assert!(
        answer.head.contains("x-ctrscope-lost: 1"),
        "{}",
        answer.head
    );
    for header in ["x-ctrscope-seconds: 2.500", "x-ctrscope-frequency: 49"] {
        assert!(answer.head.contains(header), "{}", answer.head);
    }
    let request = source
        .last_request
        .lock()
        .expect("it is there")
        .clone()
        .expect("it was asked");
    assert_eq!(request.container.as_deref(), Some("café"));
    assert_eq!((request.duration.as_secs(), request.frequency), (7, 49));
    let head = server.ask("HEAD", "/api/v1/profile?seconds=8");
    assert_eq!(head.status, 200);
    let last = source
        .last_request
        .lock()
        .expect("it is there")
        .clone()
        .expect("it was asked");
    assert_eq!(last.duration.as_secs(), 7, "HEAD records nothing");
}

#[test]
fn every_failure_of_the_source_has_its_code() {
    let cases: [(MakeError, u16, &str, &str); 9] = [
        (
            || SourceError::UnknownContainer {
                query: "x".into(),
                hint: "try y".into(),
            },
            404,
            "unknown_container",
            "try y",
        ),
        (
            || SourceError::AmbiguousContainer {
                query: "x".into(),
                matches: vec!["xa".into(), "xb".into()],
            },
            409,
            "ambiguous_container",
            "xa, xb",
        ),
        (
            || SourceError::BadRequest("seconds must".into()),
            400,
            "bad_request",
            "seconds must",
        ),
        (
            || SourceError::Busy { slots: 2 },
            429,
            "busy",
            "all 2 profile slots",
        ),
        (
            || SourceError::NotReady("loading".into()),
            503,
            "not_ready",
            "loading",
        ),
        (
            || SourceError::Unsupported("no perf events".into()),
            501,
            "unsupported",
            "no perf events",
        ),
        (|| SourceError::Cancelled, 503, "not_ready", "cancelled"),
        (
            || SourceError::Unreachable {
                address: "a".into(),
                source: "refused".into(),
            },
            500,
            "failed",
            "refused",
        ),
        (
            || SourceError::Failed {
                context: "could not read".into(),
                source: "the cause".into(),
            },
            500,
            "failed",
            "could not read: the cause",
        ),
    ];
    for (make, status, code, message) in cases {
        let server = Server::over(&Arc::new(Fake::failing(make)));
        for path in [
            "/api/v1/profile",
            "/metrics",
            "/readyz",
            "/api/v1/containers",
            "/api/v1/containers/x",
            "/api/v1/facts",
            "/api/v1/diagnosis",
            "/api/v1/diagnosis/x",
            "/api/v1/neighbours",
            "/api/v1/neighbours?container=x",
        ] {
            let answer = server.get(path);
            assert_eq!(answer.error(message), (status, code.to_owned()), "{path}");
        }
        assert_eq!(server.get("/healthz").status, 200);
        let status = server.get("/status");
        assert_eq!(status.status, 200);
        assert!(status.body.contains("\"ready\":false"), "{}", status.body);
    }
}

#[test]
fn not_ready_while_no_collector_runs() {
    let source = Arc::new(Fake::of(1));
    let mut snapshot = synthetic_snapshot(1);
    for collector in &mut snapshot.agent.collectors {
        collector.state = CollectorState::Unsupported;
        collector.reason = "no BTF".to_owned();
    }
    *source.snapshot.lock().expect("it is there") = Arc::new(snapshot);
    let server = Server::over(&source);
    let answer = server.get("/readyz");
    assert_eq!(answer.error("sched: no BTF"), (503, "not_ready".to_owned()));
    assert!(server.get("/status").body.contains("\"ready\":false"));
}

#[test]
fn the_next_scrape_counts_the_requests_before_it() {
    let server = Server::over(&Arc::new(Fake::of(1)));
    server.get("/nothing-here");
    server.get("/api/v1/containers/nobody");
    let body = server.get("/metrics").body;
    assert!(
        body.contains("ctrscope_http_requests_total{code=\"404\",path=\"other\"} 1"),
        "{body}"
    );
    assert!(body.contains("{code=\"404\",path=\"/api/v1/containers/{*id}\"} 1"));
}
