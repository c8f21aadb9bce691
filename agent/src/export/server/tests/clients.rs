//! Clients that ask for nonsense, go away, take nothing, or come all at once.

use std::{
    io::Read as _,
    net::TcpStream,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use super::{Answer, Fake, Server, wait_for};
use crate::export::{server::MAX_URI_BYTES, synthetic::synthetic_snapshot};

#[test]
fn a_bad_parameter_is_named_with_its_range() {
    let source = Arc::new(Fake::of(3));
    let server = Server::over(&source);
    let long = format!("container={}", "x".repeat(513));
    for (query, message) in [
        (
            "seconds=0",
            "seconds must be a whole number from 1 to 300, not \"0\"",
        ),
        ("seconds=-1", "from 1 to 300"),
        ("seconds=+1", "from 1 to 300"),
        ("seconds=1e9", "from 1 to 300"),
        ("seconds=1.5", "from 1 to 300"),
        ("seconds=abc", "from 1 to 300"),
        ("seconds=", "from 1 to 300"),
        ("seconds", "from 1 to 300"),
        ("seconds=301", "from 1 to 300"),
        ("seconds=99999999999999999999", "from 1 to 300"),
        (
            "frequency=0",
            "frequency must be a whole number from 1 to 999",
        ),
        ("frequency=1000", "from 1 to 999"),
        ("type=gpu", "type must be one of cpu"),
        ("format=png", "format must be one of svg, folded"),
        ("format=SVG", "format must be one of svg, folded"),
        ("inlined=1", "inlined must be true or false, not \"1\""),
        ("inlined=", "inlined must be true or false"),
        ("split=pod", "split must be one of name, process, thread"),
        ("seconds=1&seconds=2", "\"seconds\" is given twice"),
        (
            "second=1",
            "unknown parameter \"second\"; known are container, seconds",
        ),
        ("SECONDS=1", "unknown parameter"),
        ("container=", "container is empty"),
        ("container=%zz", "percent-encoded"),
        ("container=%", "percent-encoded"),
        ("container=%ff%fe", "percent-encoded"),
        ("%00=1", "unknown parameter"),
        (long.as_str(), "1 to 512 bytes, not 513"),
    ] {
        let answer = server.get(&format!("/api/v1/profile?{query}"));
        assert_eq!(
            answer.error(message),
            (400, "bad_request".to_owned()),
            "{query}"
        );
    }
    assert!(
        source.last_request.lock().expect("it is there").is_none(),
        "nothing was recorded"
    );

    let bad = (400, "bad_request".to_owned());
    assert_eq!(
        server.get("/api/v1/containers?x=1").error("takes none"),
        bad
    );
    assert_eq!(
        server.get("/api/v1/containers/a?x=1").error("takes none"),
        bad
    );
    assert_eq!(
        server
            .get("/api/v1/containers/%ff")
            .error("percent-encoded"),
        bad
    );
    let long = format!("/api/v1/containers/{}", "x".repeat(513));
    assert_eq!(server.get(&long).error("1 to 512 bytes"), bad);
    assert_eq!(
        server.get("/api/v1/containers/nobody").error("nobody"),
        (404, "unknown_container".to_owned())
    );
    assert_eq!(
        server
            .get("/api/v1/containers/checkout")
            .error("3 containers"),
        (409, "ambiguous_container".to_owned())
    );
    assert_eq!(
        server.get("/metrics?collect=x").status,
        200,
        "a scraper may add parameters"
    );
}

#[test]
fn unknown_paths_methods_and_oversized_requests_are_refused() {
    let server = Server::over(&Arc::new(Fake::of(1)));
    let missing = (404, "not_found".to_owned());
    for path in [
        "/nothing",
        "/api/v1",
        "/metrics/",
        "/../etc/passwd",
        "/api/v1/containers/",
        "//",
    ] {
        assert_eq!(server.get(path).error("lists the paths"), missing, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let answer = server.ask(method, "/metrics");
        assert_eq!(
            answer.error("use GET or HEAD"),
            (405, "method_not_allowed".to_owned())
        );
        assert!(answer.head.contains("allow: get,head"), "{}", answer.head);
    }
    let long = format!("/metrics?{}", "x".repeat(MAX_URI_BYTES));
    assert_eq!(
        server.get(&long).error("4096 bytes"),
        (414, "uri_too_long".to_owned())
    );
    let huge = format!("/metrics?{}", "x".repeat(40_000));
    assert!([414, 431].contains(&server.get(&huge).status));
    for garbage in [
        "\x16\x03\x01\x02\0",
        "GET / HTTP/9.9\r\n\r\n",
        "GET\r\n\r\n",
    ] {
        let mut answer = String::new();
        let read = server.send(garbage.as_bytes()).read_to_string(&mut answer);
        assert!(
            read.is_err() || answer.starts_with("HTTP/1.1 4") || answer.is_empty(),
            "{answer}"
        );
    }
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn a_client_that_goes_away_cancels_its_profile() {
    let source = Arc::new(Fake::endless());
    let server = Server::over(&source);
    let stream = server.send(b"GET /api/v1/profile?seconds=300 HTTP/1.1\r\nhost: x\r\n\r\n");
    wait_for("the recording", || source.recording.load(Ordering::Relaxed));
    assert!(!source.cancelled.load(Ordering::Relaxed));
    drop(stream);
    wait_for("the cancellation", || {
        source.cancelled.load(Ordering::Relaxed)
    });
}

#[test]
fn a_recording_that_is_stopped_by_its_id_answers_with_what_it_has() {
    let source = Arc::new(Fake::endless());
    let server = Server::over(&source);
    let unknown = server.get("/api/v1/profile/stop?id=mine");
    assert_eq!(
        unknown.error("by the id mine"),
        (404, "unknown_recording".to_owned())
    );
    for query in ["", "?id=", "?id=a/b", "?ids=mine"] {
        let refused = server.get(&format!("/api/v1/profile/stop{query}"));
        assert_eq!(refused.status, 400, "{query}");
    }
    let stream = server.send(
        b"GET /api/v1/profile?seconds=300&id=mine HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    wait_for("the recording", || source.recording.load(Ordering::Relaxed));
    let twice = server.get("/api/v1/profile?id=mine");
    assert_eq!(twice.error("goes on"), (400, "bad_request".to_owned()));
    assert_eq!(
        server.ask("HEAD", "/api/v1/profile/stop?id=mine").status,
        200
    );
    let stopped = server.get("/api/v1/profile/stop?id=mine");
    assert_eq!(
        (stopped.status, &*stopped.body),
        (200, r#"{"stopped":"mine"}"#)
    );
    let answer = Answer::read(stream);
    assert_eq!((answer.status, &*answer.body), (200, "checkout;main 3\n"));
    assert!(!source.cancelled.load(Ordering::Relaxed));
    let late = server.get("/api/v1/profile/stop?id=mine");
    assert_eq!(late.status, 404);
}

#[test]
fn shutdown_ends_open_profiles_and_idle_connections_at_once() {
    let source = Arc::new(Fake::endless());
    let mut server = Server::over(&source);
    let recording = server.send(b"GET /api/v1/profile HTTP/1.1\r\nhost: x\r\n\r\n");
    let _idle = server.send(b"");
    wait_for("the recording", || source.recording.load(Ordering::Relaxed));
    let took = server.stop();
    assert!(took < Duration::from_millis(2500), "{took:?}");
    wait_for("the cancellation", || {
        source.cancelled.load(Ordering::Relaxed)
    });
    let answer = Answer::read(recording);
    assert_eq!(answer.error("shutting down"), (503, "not_ready".to_owned()));
    assert!(
        TcpStream::connect(server.address).is_err(),
        "the port is free"
    );
}

#[test]
fn fifty_scrapes_at_once_get_the_same_text() {
    let source = Arc::new(Fake::of(50));
    let server = Server::over(&source);
    let bodies: Vec<String> = thread::scope(|scope| {
        let scrapes: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    let answer = server.get("/metrics");
                    assert_eq!(answer.status, 200);
                    answer.body
                })
            })
            .collect();
        scrapes
            .into_iter()
            .map(|scrape| scrape.join().expect("it answers"))
            .collect()
    });
    let containers = |body: &String| {
        let lines = body
            .lines()
            .filter(|line| line.starts_with("ctrscope_container_"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = containers(&bodies[0]);
    assert!(first.len() > 50 * 90);
    assert!(bodies.iter().all(|body| containers(body) == first));
}

#[test]
fn readers_that_take_nothing_do_not_pile_expositions_up() {
    let source = Arc::new(Fake::of(1_000));
    let server = Server::over(&source);
    let mut readers = Vec::new();
    let mut refused = None;
    for age in 0..20 {
        let mut snapshot = synthetic_snapshot(1_000);
        snapshot.taken_at_ns = age;
        *source.snapshot.lock().expect("it is there") = Arc::new(snapshot);
        let mut stream = server.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut start = [0u8; 12];
        stream.read_exact(&mut start).expect("an answer begins");
        if start.ends_with(b"429") {
            refused = Some(age);
            break;
        }
        readers.push(stream);
    }
    assert!(
        refused.is_some(),
        "each of twenty readers was given a text of its own"
    );
    readers.clear();
    wait_for("a place", || server.get("/metrics").status == 200);
}
