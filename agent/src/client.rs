//! [`Source`] behind the HTTP API of a daemon.

use std::{
    error::Error as StdError,
    io::{self, Read as _},
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};
use ureq::{Agent, Body, http::Response};

use crate::{
    choice::Choice as _,
    diagnosis::{ContainerStanding, Diagnosis, facts::WindowFacts},
    snapshot::Snapshot,
    source::{
        Cancel, DiagnosisRequest, ProfileRequest, RenderedProfile, Source, SourceError,
        check_window,
    },
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For a whole snapshot: a collection and its transfer.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(15);
/// Beyond the time that a profile records: symbolization and its transfer.
const PROFILE_MARGIN: Duration = Duration::from_secs(120);
const MAX_SNAPSHOT_BYTES: u64 = 256 << 20;
const MAX_PROFILE_BYTES: u64 = 256 << 20;
const MAX_ERROR_BYTES: u64 = 64 << 10;
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// A daemon's answers.
#[derive(Clone, Debug)]
pub struct HttpSource {
    agent: Agent,
    address: String,
}

impl HttpSource {
    /// A source at `host:port`. Nothing is asked yet.
    #[must_use]
    pub fn new(address: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .user_agent(concat!("ctrscope/", env!("CARGO_PKG_VERSION")))
            // The environment's proxy is for the outside world.
            .proxy(None)
            .build();
        Self {
            agent: config.new_agent(),
            address: address.to_owned(),
        }
    }

    /// Address of the daemon, `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn unreachable(&self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> SourceError {
        SourceError::Unreachable {
            address: self.address.clone(),
            source: source.into(),
        }
    }

    fn failed(
        &self,
        what: &str,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> SourceError {
        SourceError::Failed {
            context: format!("cannot {what} of the daemon at {}", self.address),
            source: source.into(),
        }
    }

    /// The body of a good answer; a bad one becomes the error that it tells of.
    fn body(
        &self,
        mut response: Response<Body>,
        query: &str,
        limit: u64,
    ) -> Result<Vec<u8>, SourceError> {
        let status = response.status();
        let is_ok = status.is_success();
        let limit = if is_ok { limit } else { MAX_ERROR_BYTES };
        let mut body = Vec::new();
        response
            .body_mut()
            .with_config()
            .limit(limit)
            .reader()
            .read_to_end(&mut body)
            .map_err(|error| self.failed("read the answer", error))?;
        if is_ok {
            return Ok(body);
        }
        Err(self.error_of_answer(status.as_u16(), &body, query))
    }

    fn error_of_answer(&self, status: u16, body: &[u8], query: &str) -> SourceError {
        match serde_json::from_slice::<ErrorAnswer>(body) {
            Ok(answer) => answer
                .error
                .into_source_error(query)
                .unwrap_or_else(|message| {
                    self.failed("use the answer", format!("status {status}: {message}"))
                }),
            Err(_) => self.unreachable(format!(
                "it answers with status {status} and not as ctrscope does; another server may \
                 listen there"
            )),
        }
    }

    fn get_profile(&self, request: &ProfileRequest) -> Result<RenderedProfile, SourceError> {
        let container = request.container.as_deref();
        let mut get = self
            .agent
            .get(self.url("/api/v1/profile"))
            .query("type", request.profile_type.name())
            .query("seconds", request.duration.as_secs().to_string())
            .query("frequency", request.frequency.to_string())
            .query("split", request.split.name())
            .query("format", request.format.name());
        if let Some(container) = container {
            get = get.query("container", container);
        }
        let response = get
            .config()
            .timeout_global(Some(request.duration + PROFILE_MARGIN))
            .build()
            .call()
            .map_err(|error| self.unreachable(error))?;
        let header = |name: &str| -> Option<u64> {
            response.headers().get(name)?.to_str().ok()?.parse().ok()
        };
        let samples = header("x-ctrscope-samples");
        let lost = header("x-ctrscope-lost");
        let body = self.body(response, container.unwrap_or_default(), MAX_PROFILE_BYTES)?;
        let (Some(samples), Some(lost)) = (samples, lost) else {
            return Err(self.failed(
                "use the profile",
                "the answer has no x-ctrscope-samples or x-ctrscope-lost header; is it another \
                 version?",
            ));
        };
        Ok(RenderedProfile {
            body,
            samples,
            lost,
        })
    }
}

impl HttpSource {
    /// Asks for JSON. `query` is the container that is asked for, if one is.
    fn json<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &str,
        what: &str,
    ) -> Result<Arc<T>, SourceError> {
        let response = self
            .agent
            .get(self.url(path))
            .config()
            .timeout_global(Some(SNAPSHOT_TIMEOUT))
            .build()
            .call()
            .map_err(|error| self.unreachable(error))?;
        let body = self.body(response, query, MAX_SNAPSHOT_BYTES)?;
        let value = serde_json::from_slice(&body).map_err(|error| {
            self.unreachable(format!(
                "what it answers is no {what} ({error}); another server or another version may \
                 listen there"
            ))
        })?;
        Ok(Arc::new(value))
    }
}

impl Source for HttpSource {
    fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
        self.json("/api/v1/containers", "", "snapshot")
    }

    fn facts(&self, window: Duration) -> Result<Arc<WindowFacts>, SourceError> {
        check_window(window)?;
        let path = format!("/api/v1/facts?window={}", window.as_secs());
        self.json(&path, "", "list of facts")
    }

    fn diagnosis(&self, request: &DiagnosisRequest) -> Result<Arc<Diagnosis>, SourceError> {
        let mut path = "/api/v1/diagnosis".to_owned();
        let container = request.container.as_deref().unwrap_or_default();
        if !container.is_empty() {
            path.push('/');
            path.push_str(&encoded(container.trim_start_matches('/')));
        }
        if let Some(window) = request.window {
            check_window(window)?;
            path.push_str(&format!("?window={}", window.as_secs()));
        }
        self.json(&path, container, "diagnosis")
    }

    fn standing(&self) -> Result<Arc<Vec<ContainerStanding>>, SourceError> {
        self.json("/api/v1/verdicts", "", "list of verdicts")
    }

    /// A cancelled request is given up at once; its connection closes when the process ends or the
    /// answer arrives, whichever is first.
    fn profile(
        &self,
        request: &ProfileRequest,
        cancel: &Cancel,
    ) -> Result<RenderedProfile, SourceError> {
        let (sender, receiver) = sync_channel(1);
        let source = self.clone();
        let request = request.clone();
        thread::Builder::new()
            .name("profile-request".to_owned())
            .spawn(move || {
                // Nobody listens any more once it is cancelled.
                let _ = sender.send(source.get_profile(&request));
            })
            .map_err(|error| self.failed("start the request", error))?;
        loop {
            if cancel.is_cancelled() {
                return Err(SourceError::Cancelled);
            }
            match receiver.recv_timeout(CANCEL_POLL) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failed(
                        "wait for the answer",
                        io::Error::other("the request thread ended without one"),
                    ));
                }
            }
        }
    }
}

/// A container as a part of a path.
fn encoded(container: &str) -> String {
    let mut path = String::with_capacity(container.len());
    for byte in container.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
}

impl ErrorBody {
    /// The error that the daemon meant, by its code; the message of an unknown code.
    fn into_source_error(self, query: &str) -> Result<SourceError, String> {
        let message = self.message;
        let rest = |prefix: &str| message.strip_prefix(prefix).unwrap_or(&message).to_owned();
        Ok(match self.code.as_str() {
            "bad_request" => SourceError::BadRequest(message),
            "unknown_container" => SourceError::UnknownContainer {
                query: query.to_owned(),
                hint: rest(&format!("no container {query:?}: ")),
            },
            "ambiguous_container" => SourceError::AmbiguousContainer {
                query: query.to_owned(),
                matches: ambiguous_matches(&message).ok_or(message)?,
            },
            "busy" => SourceError::Busy {
                slots: message
                    .split_ascii_whitespace()
                    .find_map(|word| word.parse().ok())
                    .ok_or(message)?,
            },
            "not_ready" => SourceError::NotReady(rest("not collecting yet: ")),
            "unsupported" => SourceError::Unsupported(message),
            _ => return Err(message),
        })
    }
}

/// The names in `"x" means 2 containers: a, b; give more of the name`.
fn ambiguous_matches(message: &str) -> Option<Vec<String>> {
    let (_, list) = message.split_once(" containers: ")?;
    let (list, _) = list.rsplit_once("; give more of the name")?;
    Some(list.split(", ").map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
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

    /// Answers one request with `answer` and returns its request line.
    fn serve(answer: String) -> (HttpSource, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut lines = BufReader::new(stream.try_clone().expect("a clone")).lines();
            let request = lines.next().expect("a line").expect("text");
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
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
        let body = serde_json::json!({"error": {"code": code, "message": error.to_string()}});
        answer(status, "", &body.to_string())
    }

    fn request(container: &str) -> ProfileRequest {
        ProfileRequest {
            container: Some(container.to_owned()),
            profile_type: ProfileType::Cpu,
            duration: Duration::from_secs(3),
            frequency: 99,
            split: Split::Name,
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
    fn a_diagnosis_is_asked_for_by_the_containers_name_as_it_is_called() {
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
        let (source, server) = serve(answer("200 OK", "", "[]"));
        assert!(source.standing().expect("it answers").is_empty());
        let asked = server.join().expect("it ends");
        assert_eq!(asked, "GET /api/v1/verdicts HTTP/1.1");
    }

    #[test]
    fn a_profile_carries_its_counts_and_escapes_its_query() {
        let headers = "x-ctrscope-samples: 7\r\nx-ctrscope-lost: 1\r\n";
        let (source, server) = serve(answer("200 OK", headers, "a;b 7\n"));
        let profile = source
            .profile(&request("/a b&c"), &Cancel::default())
            .expect("it answers");
        assert_eq!((profile.samples, profile.lost), (7, 1));
        assert_eq!(profile.body, b"a;b 7\n");
        let line = server.join().expect("it ends");
        let query =
            "type=cpu&seconds=3&frequency=99&split=name&format=folded&container=%2Fa%20b%26c";
        assert_eq!(line, format!("GET /api/v1/profile?{query} HTTP/1.1"));
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
}
