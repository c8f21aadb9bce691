use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::*;
use crate::source::{ProfileFormat, ProfileType, Split};

#[test]
fn facts_come_back_whole() {
    let facts = WindowFacts {
        seconds: 9.5,
        ..WindowFacts::default()
    };
    let body = serde_json::to_string(&facts).expect("it serializes");
    let (source, server) = serve(answer("200 OK", "", &body));
    let got = source.facts(Duration::from_secs(10)).expect("it answers");
    assert_eq!(*got, facts);
    assert_eq!(
        server.join().expect("it ends"),
        "GET /api/v1/facts?window=10 HTTP/1.1"
    );
    let refused = source.facts(Duration::from_secs(61));
    assert!(matches!(refused, Err(SourceError::BadRequest(_))));
}

const PROFILE_HEADERS: &str = "x-ctrscope-samples: 7\r\nx-ctrscope-lost: 1\r\n\
    x-ctrscope-seconds: 2.500\r\nx-ctrscope-frequency: 60\r\n";

/// The next client, and the line of its request.
fn accept(listener: &TcpListener) -> (TcpStream, String) {
    let (stream, _) = listener.accept().expect("a client");
    let mut lines = BufReader::new(stream.try_clone().expect("a clone")).lines();
    let request = lines.next().expect("a line").expect("text");
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
    {}
    (stream, request)
}

/// Answers one request with `answer` and returns its request line.
fn serve(answer: String) -> (HttpSource, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = thread::spawn(move || {
        let (mut stream, request) = accept(&listener);
        stream.write_all(answer.as_bytes()).expect("an open client");
        request
    });
    (HttpSource::new(&address), server)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
}

fn error_answer(status: &str, code: &str, error: &SourceError) -> String {
    let (message, details) = (error.to_string(), ErrorDetails::of(error));
    let body = serde_json::json!({"error": {"code": code, "message": message, "details": details}});
    answer(status, "", &body.to_string())
}

fn request(container: &str) -> ProfileRequest {
    ProfileRequest {
        container: Some(container.to_owned()),
        profile_type: ProfileType::Cpu,
        duration: Duration::from_secs(3),
        frequency: 99,
        split: Split::Name,
        inlined: false,
        format: ProfileFormat::Folded,
    }
}

#[test]
fn a_snapshot_comes_back_whole() {
    let mut snapshot = Snapshot::default();
    snapshot.host.name = "h".to_owned();
    let body = serde_json::to_string(&snapshot).expect("it serializes");
    let (source, server) = serve(answer("200 OK", "", &body));
    assert_eq!(source.snapshot().expect("it answers").host.name, "h");
    assert_eq!(
        server.join().expect("it ends"),
        "GET /api/v1/containers HTTP/1.1"
    );
}

#[test]
fn diagnosis_and_neighbours_are_asked_for_by_the_containers_name_as_it_is_called() {
    let body = serde_json::to_string(&Diagnosis::default()).expect("it serializes");
    for (container, window, line) in [
        (None, None, "/api/v1/diagnosis"),
        (Some("/a b/c%"), None, "/api/v1/diagnosis/a%20b/c%25"),
        (
            Some("shop/x/app"),
            Some(7),
            "/api/v1/diagnosis/shop/x/app?window=7",
        ),
    ] {
        let (source, server) = serve(answer("200 OK", "", &body));
        let request = DiagnosisRequest {
            container: container.map(str::to_owned),
            window: window.map(Duration::from_secs),
        };
        source.diagnosis(&request).expect("it answers");
        let asked = server.join().expect("it ends");
        assert_eq!(asked, format!("GET {line} HTTP/1.1"));
    }
    let body = serde_json::to_string(&WaitMatrix::default()).expect("it serializes");
    for (container, window, query) in [
        (None, None, ""),
        (None, Some(7), "?window=7"),
        (Some("/a b&c"), Some(7), "?container=/a%20b%26c&window=7"),
    ] {
        let (source, server) = serve(answer("200 OK", "", &body));
        let request = DiagnosisRequest {
            container: container.map(str::to_owned),
            window: window.map(Duration::from_secs),
        };
        source.neighbours(&request).expect("it answers");
        let asked = server.join().expect("it ends");
        assert_eq!(asked, format!("GET /api/v1/neighbours{query} HTTP/1.1"));
    }
    let (source, server) = serve(answer("200 OK", "", "[]"));
    assert!(source.standing().expect("it answers").is_empty());
    let asked = server.join().expect("it ends");
    assert_eq!(asked, "GET /api/v1/verdicts HTTP/1.1");
}

#[test]
fn a_profile_carries_its_counts_and_escapes_its_query() {
    let (source, server) = serve(answer("200 OK", PROFILE_HEADERS, "a;b 7\n"));
    let profile = source
        .profile(&request("/a b&c"), &Cancel::default())
        .expect("it answers");
    assert_eq!((profile.samples, profile.lost), (7, 1));
    assert_eq!((profile.seconds, profile.frequency), (2.5, 60));
    assert_eq!(profile.body, b"a;b 7\n");
    let line = server.join().expect("it ends");
    let query = "type=cpu&seconds=3&frequency=99&split=name&format=folded&container=%2Fa%20b%26c";
    let start = format!("GET /api/v1/profile?{query}&id=");
    assert!(line.starts_with(&start), "{line}");
}

#[test]
fn inlined_functions_are_asked_for_by_a_parameter() {
    let (source, server) = serve(answer("200 OK", PROFILE_HEADERS, "a;b 7\n"));
    let mut request = request("web");
    request.inlined = true;
    source
        .profile(&request, &Cancel::default())
        .expect("it answers");
    let line = server.join().expect("it ends");
    assert!(line.contains("&inlined=true&"), "{line}");
}

#[test]
fn a_stopped_profile_is_stopped_by_its_id_until_the_daemon_knows_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let source = HttpSource::new(&listener.local_addr().expect("bound").to_string());
    let cancel = Cancel::default();
    let client = {
        let cancel = cancel.clone();
        thread::spawn(move || source.profile(&request("web"), &cancel))
    };
    let id = |line: &str| -> String {
        let (_, rest) = line.split_once("id=").expect("an id");
        rest.split([' ', '&']).next().unwrap_or_default().to_owned()
    };
    let (mut recording, line) = accept(&listener);
    cancel.stop();
    let (mut early, stop) = accept(&listener);
    assert!(stop.starts_with("GET /api/v1/profile/stop?id="), "{stop}");
    assert_eq!(id(&stop), id(&line));
    let unknown = answer("404 Not Found", "", "{}");
    early.write_all(unknown.as_bytes()).expect("an open client");
    let (mut again, stop) = accept(&listener);
    assert_eq!(id(&stop), id(&line));
    let known = answer("200 OK", "", "{}");
    again.write_all(known.as_bytes()).expect("an open client");
    let part = answer("200 OK", PROFILE_HEADERS, "a;b 7\n");
    recording
        .write_all(part.as_bytes())
        .expect("an open client");
    let profile = client.join().expect("it ends").expect("a part");
    assert_eq!((profile.samples, profile.seconds), (7, 2.5));
}

#[test]
fn errors_keep_their_meaning_over_http() {
    let errors = [
        (
            "400 Bad Request",
            "bad_request",
            SourceError::BadRequest("seconds".to_owned()),
        ),
        (
            "404 Not Found",
            "unknown_container",
            SourceError::UnknownContainer {
                query: "web".to_owned(),
                hint: "did you mean wbe?".to_owned(),
            },
        ),
        (
            "409 Conflict",
            "ambiguous_container",
            SourceError::AmbiguousContainer {
                query: "web".to_owned(),
                matches: vec!["a (1)".to_owned(), "b (2)".to_owned()],
            },
        ),
        (
            "429 Too Many Requests",
            "busy",
            SourceError::Busy { slots: 2 },
        ),
        (
            "503 Service Unavailable",
            "not_ready",
            SourceError::NotReady("starting".to_owned()),
        ),
        (
            "501 Not Implemented",
            "unsupported",
            SourceError::Unsupported("no perf events".to_owned()),
        ),
    ];
    for (status, code, error) in errors {
        let (source, server) = serve(error_answer(status, code, &error));
        let got = source
            .profile(&request("web"), &Cancel::default())
            .expect_err(code);
        assert_eq!(got.to_string(), error.to_string());
        assert_eq!(
            std::mem::discriminant(&got),
            std::mem::discriminant(&error),
            "{code}"
        );
        server.join().expect("it ends");
    }
}

#[test]
fn another_server_at_the_address_counts_as_no_daemon() {
    for other in [
        answer("404 Not Found", "", "no"),
        answer("200 OK", "", "<html>"),
        answer("302 Found", "location: http://127.0.0.1:1/\r\n", ""),
    ] {
        let (source, server) = serve(other);
        let error = source.snapshot().expect_err("no snapshot");
        assert!(
            matches!(error, SourceError::Unreachable { .. }),
            "{error:?}"
        );
        server.join().expect("it ends");
    }
}

#[test]
fn nobody_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let error = HttpSource::new(&address).snapshot().expect_err("refused");
    assert_eq!(
        error.to_string(),
        format!("no answer from the daemon at {address}")
    );
}

#[test]
fn a_cancelled_profile_is_given_up_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let cancel = Cancel::default();
    let started = Instant::now();
    let canceller = {
        let cancel = cancel.clone();
        thread::spawn(move || {
            let client = listener.accept().expect("a client");
            cancel.cancel();
            client
        })
    };
    let error = HttpSource::new(&address)
        .profile(&request("web"), &cancel)
        .expect_err("cancelled");
    assert!(matches!(error, SourceError::Cancelled), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
    canceller.join().expect("it ends");
}
