use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot};

use super::{MAX_URI_BYTES, ServerState, router, serve};
use crate::{
    export::synthetic::synthetic_snapshot,
    snapshot::{CollectorState, Snapshot},
    source::{Cancel, ProfileRequest, RenderedProfile, Source, SourceError},
};

type MakeError = fn() -> SourceError;

/// A source that answers what a test tells it to.
struct Fake {
    snapshot: Mutex<Arc<Snapshot>>,
    fails: Option<MakeError>,
    /// Whether profiles run until they are cancelled.
    endless: bool,
    snapshots: AtomicUsize,
    recording: AtomicBool,
    cancelled: AtomicBool,
    last_request: Mutex<Option<ProfileRequest>>,
}

impl Fake {
    fn of(count: usize) -> Self {
        Self {
            snapshot: Mutex::new(Arc::new(synthetic_snapshot(count))),
            fails: None,
            endless: false,
            snapshots: AtomicUsize::new(0),
            recording: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            last_request: Mutex::new(None),
        }
    }

    fn failing(fails: MakeError) -> Self {
        Self {
            fails: Some(fails),
            ..Self::of(1)
        }
    }

    fn endless() -> Self {
        Self {
            endless: true,
            ..Self::of(1)
        }
    }
}

impl Source for Fake {
    fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
        match self.fails {
            Some(error) => Err(error()),
            None => Ok(self.snapshot.lock().expect("no test panics in it").clone()),
        }
    }

    fn profile(
        &self,
        request: &ProfileRequest,
        cancel: &Cancel,
    ) -> Result<RenderedProfile, SourceError> {
        *self.last_request.lock().expect("no test panics in it") = Some(request.clone());
        if let Some(error) = self.fails {
            return Err(error());
        }
        self.recording.store(true, Ordering::Relaxed);
        while self.endless {
            if cancel.is_cancelled() {
                self.cancelled.store(true, Ordering::Relaxed);
                return Err(SourceError::Cancelled);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(RenderedProfile {
            body: b"checkout;main 3\n".to_vec(),
            samples: 3,
            lost: 1,
        })
    }
}

/// A server on a free port; it ends when dropped.
struct Server {
    address: SocketAddr,
    runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
}

impl Server {
    fn over(source: &Arc<Fake>) -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let state = ServerState::new(source.clone()).expect("the names are valid");
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = runtime.spawn(serve(listener, router(state), async {
            let _ = stopped.await;
        }));
        Self {
            address,
            runtime,
            stop: Some(stop),
            ended: Some(ended),
        }
    }

    fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("it connects");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("it can be set");
        stream.write_all(bytes).expect("it is sent");
        stream
    }

    fn ask(&self, method: &str, target: &str) -> Answer {
        let request = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        Answer::read(self.send(request.as_bytes()))
    }

    fn get(&self, target: &str) -> Answer {
        self.ask("GET", target)
    }

    /// Ends the server and returns how long that took.
    fn stop(&mut self) -> Duration {
        let began = Instant::now();
        drop(self.stop.take());
        if let Some(ended) = self.ended.take() {
            let result = self.runtime.block_on(ended).expect("it does not panic");
            result.expect("it ends well");
        }
        began.elapsed()
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(mut stream: TcpStream) -> Self {
        let mut text = Vec::new();
        stream.read_to_end(&mut text).expect("an answer comes");
        let text = String::from_utf8(text).expect("it is UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("it has a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Self {
            status: status.expect("it has a status"),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    /// Status and code of an error, whose message has to contain a text.
    fn error(&self, message: &str) -> (u16, String) {
        let json: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        let found = json["error"]["message"].as_str().unwrap_or_default();
        assert!(found.contains(message), "{message:?} is not in {self:?}");
        let code = json["error"]["code"].as_str().unwrap_or_default();
        (self.status, code.to_owned())
    }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

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
        ("/api/v1/profile", "image/svg+xml", "checkout;main 3"),
        (
            "/api/v1/profile?format=folded&container=a%20b&seconds=300&frequency=999&type=cpu",
            "text/plain",
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
        snapshot.containers[1].sched,
        synthetic_snapshot(2).containers[1].sched
    );
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
        ("seconds=1&seconds=2", "\"seconds\" is given twice"),
        (
            "second=1",
            "unknown parameter \"second\"; known are container, type",
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

#[test]
fn readers_that_take_nothing_do_not_pile_expositions_up() {
    let source = Arc::new(Fake::of(1_000));
    let server = Server::over(&source);
    let mut readers = Vec::new();
    let mut refused = None;
    for age in 0..10 {
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
    assert!(refused.is_some(), "each of ten readers was given a text of its own");
    readers.clear();
    wait_for("a place", || server.get("/metrics").status == 200);
}
