//! A server over a source that answers what a test tells it to, asked over real connections.

mod answers;
mod clients;

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

use super::{ServerState, router, serve};
use crate::{
    config::DiagnosisConfig,
    diagnosis::facts::{ContainerFacts, Neighbour, QuotaFacts, WaitedFor, WindowFacts},
    export::synthetic::synthetic_snapshot,
    observer::Observer,
    snapshot::Snapshot,
    source::{Cancel, ProfileRequest, RenderedProfile, Source, SourceError},
};

type MakeError = fn() -> SourceError;

/// A source that answers what a test tells it to.
struct Fake {
    snapshot: Mutex<Arc<Snapshot>>,
    fails: Option<MakeError>,
    /// Whether profiles run until they are stopped or cancelled.
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

    /// Its containers, all of which ran into a quota and waited for a neighbour.
    fn throttled(&self) -> Vec<ContainerFacts> {
        let snapshot = self.snapshot.lock().expect("no test panics in it").clone();
        let containers = snapshot.containers.iter();
        containers
            .map(|container| {
                let mut facts = ContainerFacts {
                    identity: container.identity.clone(),
                    ..ContainerFacts::default()
                };
                facts.cpu.used_seconds = Some(10.0);
                facts.cpu.quotas.push(QuotaFacts {
                    cgroup: container.identity.cgroup.clone(),
                    is_own: true,
                    quota_cores: 0.5,
                    periods: 10,
                    throttled_periods: 9,
                    ..QuotaFacts::default()
                });
                facts.cpu.waited_for = Some(WaitedFor {
                    containers: vec![Neighbour {
                        name: "bully".to_owned(),
                        seconds: 0.5,
                    }],
                    ..WaitedFor::default()
                });
                facts
            })
            .collect()
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

    fn facts(&self, window: Duration) -> Result<Arc<WindowFacts>, SourceError> {
        match self.fails {
            Some(error) => Err(error()),
            None => Ok(Arc::new(WindowFacts {
                seconds: window.as_secs_f64(),
                ended_at_unix_ms: 1_700_000_000_000,
                containers: self.throttled(),
                ..WindowFacts::default()
            })),
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
        if self.endless {
            while !cancel.is_stopped() {
                thread::sleep(Duration::from_millis(1));
            }
            if cancel.is_cancelled() {
                self.cancelled.store(true, Ordering::Relaxed);
                return Err(SourceError::Cancelled);
            }
        }
        Ok(RenderedProfile {
            body: b"checkout;main 3\n".to_vec(),
            samples: 3,
            lost: 1,
            seconds: 2.5,
            frequency: 49,
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
        let observer = Observer::new(source.clone(), DiagnosisConfig::default());
        let state = ServerState::new(Arc::new(observer)).expect("the names are valid");
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = runtime.spawn(serve(vec![listener], router(state), async {
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
