//! [`Source`] behind the HTTP API of a daemon.

use std::{
    error::Error as StdError,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::{self, Read as _},
    str::FromStr,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, de::DeserializeOwned};
use ureq::{Agent, Body, http::Response};

use crate::{
    choice::Choice as _,
    diagnosis::{ContainerStanding, Diagnosis, WaitMatrix, facts::WindowFacts},
    snapshot::Snapshot,
    source::{
        Cancel, DiagnosisRequest, ErrorDetails, ProfileRequest, RenderedProfile, Source,
        SourceError, check_window,
    },
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two tries to tell the daemon that a recording shall end.
const TELL_INTERVAL: Duration = Duration::from_millis(500);
/// For a whole snapshot: a collection and its transfer.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(15);
/// Beyond the time that a profile records: symbolization and its transfer.
const PROFILE_MARGIN: Duration = Duration::from_secs(120);
/// To tell the daemon that a recording is to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
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

    fn get_profile(
        &self,
        request: &ProfileRequest,
        id: &str,
    ) -> Result<RenderedProfile, SourceError> {
        let container = request.container.as_deref();
        let mut get = self
            .agent
            .get(self.url("/api/v1/profile"))
            .query("type", request.profile_type.name())
            .query("seconds", request.duration.as_secs().to_string())
            .query("frequency", request.frequency.to_string())
            .query("split", request.split.name())
            .query("format", request.format.name());
        if request.inlined {
            get = get.query("inlined", "true");
        }
        if let Some(container) = container {
            get = get.query("container", container);
        }
        let get = get.query("id", id);
        let response = get
            .config()
            .timeout_global(Some(request.duration + PROFILE_MARGIN))
            .build()
            .call()
            .map_err(|error| self.unreachable(error))?;
        let samples = number(&response, "x-ctrscope-samples");
        let lost = number(&response, "x-ctrscope-lost");
        let seconds = number(&response, "x-ctrscope-seconds");
        let frequency = number(&response, "x-ctrscope-frequency");
        let body = self.body(response, container.unwrap_or_default(), MAX_PROFILE_BYTES)?;
        let (Some(samples), Some(lost), Some(seconds), Some(frequency)) =
            (samples, lost, seconds, frequency)
        else {
            return Err(self.failed(
                "use the profile",
                "the answer lacks an x-ctrscope-... header that says what it holds; is it another \
                 version?",
            ));
        };
        Ok(RenderedProfile {
            body,
            samples,
            lost,
            seconds,
            frequency,
        })
    }

    /// Ends a recording early, and says whether there was one. It may not have begun yet, or have ended.
    fn stop_profile(&self, id: &str) -> bool {
        let answer = self
            .agent
            .get(self.url("/api/v1/profile/stop"))
            .query("id", id)
            .config()
            .timeout_global(Some(STOP_TIMEOUT))
            .build()
            .call();
        answer.is_ok_and(|answer| answer.status().is_success())
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

    fn neighbours(&self, request: &DiagnosisRequest) -> Result<Arc<WaitMatrix>, SourceError> {
        let mut query = Vec::new();
        let container = request.container.as_deref().unwrap_or_default();
        if !container.is_empty() {
            query.push(format!("container={}", encoded(container)));
        }
        if let Some(window) = request.window {
            check_window(window)?;
            query.push(format!("window={}", window.as_secs()));
        }
        let separator = if query.is_empty() { "" } else { "?" };
        let path = format!("/api/v1/neighbours{separator}{}", query.join("&"));
        self.json(&path, container, "list of neighbours")
    }

    fn standing(&self) -> Result<Arc<Vec<ContainerStanding>>, SourceError> {
        self.json("/api/v1/verdicts", "", "list of verdicts")
    }

    /// A cancelled request is given up at once; its connection closes when the process ends or the
    /// answer arrives, whichever is first. Of one that is stopped the daemon is told, until it knows.
    fn profile(
        &self,
        request: &ProfileRequest,
        cancel: &Cancel,
    ) -> Result<RenderedProfile, SourceError> {
        let (sender, receiver) = sync_channel(1);
        let source = self.clone();
        let request = request.clone();
        let id = recording_id();
        let its_id = id.clone();
        let mut is_told = false;
        let mut tell_again = Instant::now();
        thread::Builder::new()
            .name("profile-request".to_owned())
            .spawn(move || {
                // Nobody listens any more once it is cancelled.
                let _ = sender.send(source.get_profile(&request, &its_id));
            })
            .map_err(|error| self.failed("start the request", error))?;
        loop {
            if cancel.is_cancelled() {
                return Err(SourceError::Cancelled);
            }
            // The request may only be on its way, or be answered already.
            if cancel.is_stopped() && !is_told && Instant::now() >= tell_again {
                is_told = self.stop_profile(&id);
                tell_again = Instant::now() + TELL_INTERVAL;
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

/// An id that nobody else has and nobody can guess.
fn recording_id() -> String {
    // Its keys are random.
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

/// The number in a header.
fn number<T: FromStr>(response: &Response<Body>, header: &str) -> Option<T> {
    response.headers().get(header)?.to_str().ok()?.parse().ok()
}

/// A container as a part of a path or query.
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
    details: Option<ErrorDetails>,
}

impl ErrorBody {
    /// The error that the daemon meant, by its code and details; the message of a code that is not known.
    fn into_source_error(self, query: &str) -> Result<SourceError, String> {
        let (message, details) = (self.message, self.details);
        let query = query.to_owned();
        let ErrorDetails {
            hint,
            matches,
            slots,
            reason,
        } = details.unwrap_or_default();
        match (self.code.as_str(), hint, slots, reason) {
            ("bad_request", ..) => Ok(SourceError::BadRequest(message)),
            ("unsupported", ..) => Ok(SourceError::Unsupported(message)),
            ("unknown_container", Some(hint), ..) => {
                Ok(SourceError::UnknownContainer { query, hint })
            }
            ("ambiguous_container", ..) if !matches.is_empty() => {
                Ok(SourceError::AmbiguousContainer { query, matches })
            }
            ("busy", _, Some(slots), _) => Ok(SourceError::Busy { slots }),
            ("not_ready", _, _, Some(reason)) => Ok(SourceError::NotReady(reason)),
            _ => Err(message),
        }
    }
}

#[cfg(test)]
mod tests;
