//! Docker's Engine API, which podman has too: HTTP/1.1 with JSON over a unix socket.
//!
//! The paths and fields are those of Docker's API reference 1.40 and later, and of podman's
//! compatible part. Nothing is asked for by version, so that old and new ones answer.

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod json;

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
};
use hyper_util::rt::TokioIo;
use tokio::{sync::Semaphore, task::AbortHandle, time::timeout};

use self::json::Event;
use super::{Metadata, Update, failure::Failure, pace::Pace, sockets::Place};

/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of the version, of what is said of one container, of the list of all, and of one event.
const MOST_VERSION: usize = 64 << 10;
const MOST_ONE: usize = 1 << 20;
const MOST_LIST: usize = 16 << 20;
const MOST_EVENT: usize = 1 << 20;
/// What is kept of a list, bytes; what comes then is asked for one by one.
const MOST_LISTED: usize = 16 << 20;
/// Bytes of a head and of what is read at once.
const MOST_HEAD: usize = 64 << 10;
/// Questions that are asked at once.
const AT_ONCE: usize = 4;
/// `{"type":["container"],"event":["create","start","die","died","rename"]}`: podman before 4.4 says `die` and
/// finds it by `died` alone (<https://github.com/containers/podman/pull/16912>).
const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22create%22%2C%22start%22%2C%22die%22%2C%22died%22%2C%22rename%22%5D%7D";
/// Those that run or are paused; one that is made and not started is told by the event of its start.
const LIST: &str = "/containers/json";

/// A Docker Engine or podman behind a socket.
#[derive(Clone, Debug)]
pub(super) struct Docker {
    place: Arc<Place>,
    runtime: &'static str,
    questions: Arc<Semaphore>,
}

/// An answer that is still being read; ends its connection on drop.
struct Answer {
    response: Response<Incoming>,
    connection: AbortHandle,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Docker {
    /// Asks who is there.
    pub(super) async fn connect(place: &Arc<Place>) -> Result<Self, Failure> {
        let mut docker = Self {
            place: Arc::clone(place),
            runtime: "docker",
            questions: Arc::new(Semaphore::new(AT_ONCE)),
        };
        let body = docker.get("/version", MOST_VERSION).await?;
        let body = body.unwrap_or_default();
        if json::is_podman(&body).map_err(|error| Failure::nonsense("/version", &error))? {
            docker.runtime = "podman";
        }
        Ok(docker)
    }

    pub(super) fn runtime(&self) -> &'static str {
        self.runtime
    }

    /// All containers that run, as far as a list tells: without their limits. And how many there was no
    /// room for.
    pub(super) async fn list(&self) -> Result<(Vec<Metadata>, u64), Failure> {
        let body = self.get(LIST, MOST_LIST).await?.unwrap_or_default();
        let listing = json::list(&body, self.runtime, MOST_LISTED)
            .map_err(|error| Failure::nonsense(LIST, &error))?;
        Ok((listing.containers, listing.left_out))
    }

    /// One container by its id; `None` if there is none.
    pub(super) async fn lookup(&self, id: &str) -> Result<Option<Metadata>, Failure> {
        let path = format!("/containers/{id}/json");
        let Some(body) = self.get(&path, MOST_ONE).await? else {
            return Ok(None);
        };
        json::inspected(&body, id, self.runtime).map_err(|error| Failure::nonsense(&path, &error))
    }

    /// Follows what happens; returns only with the reason why it cannot any longer. `opened` is called
    /// when nothing more can be missed.
    pub(super) async fn follow(
        &self,
        opened: impl FnOnce(),
        mut happened: impl FnMut(Update),
    ) -> Result<(), Failure> {
        let mut answer = timeout(PATIENCE, self.request(EVENTS))
            .await
            .map_err(|_| Failure::Silent {
                asked: EVENTS.to_owned(),
            })??;
        if answer.response.status() != StatusCode::OK {
            return Err(Failure::refused(
                EVENTS,
                &answer.response.status().to_string(),
            ));
        }
        opened();
        let mut pace = Pace::default();
        let mut rest: Vec<u8> = Vec::new();
        while let Some(frame) = answer.response.body_mut().frame().await {
            let frame = frame.map_err(|error| Failure::broken("/events", &error))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let mut events = 0;
            let mut lines = data.split(|&byte| byte == b'\n');
            // What follows the last line's end is the beginning of the next one.
            let begun = lines.next_back().unwrap_or_default();
            for line in lines {
                if rest.is_empty() {
                    self.understand(line, &mut happened)?;
                } else {
                    rest.extend_from_slice(line);
                    self.understand(&rest, &mut happened)?;
                    rest.clear();
                }
                events += 1;
            }
            rest.extend_from_slice(begun);
            if rest.len() > MOST_EVENT {
                return Err(Failure::TooLong {
                    asked: "/events".to_owned(),
                    limit: MOST_EVENT,
                });
            }
            pace.spend(events, data.len()).await;
        }
        Err(Failure::broken("/events", &"the stream ended"))
    }

    fn understand(&self, line: &[u8], happened: &mut impl FnMut(Update)) -> Result<(), Failure> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let event = json::event(line, self.runtime);
        match event.map_err(|error| Failure::nonsense("/events", &error))? {
            Some(Event::Described(metadata)) => happened(Update::Described(metadata)),
            Some(Event::Exited {
                id,
                exit_code,
                unix_ms,
            }) => happened(Update::Exited {
                id,
                user: None,
                exit_code,
                unix_ms,
            }),
            None => {}
        }
        Ok(())
    }

    /// The body of an answer; `None` if there is no such thing.
    async fn get(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Failure> {
        let asked = || path.to_owned();
        let silent = |_| Failure::Silent { asked: asked() };
        let whole = async {
            let mut answer = self.request(path).await?;
            match answer.response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(None),
                status => return Err(Failure::refused(path, &status.to_string())),
            }
            let too_long = || Failure::TooLong {
                asked: asked(),
                limit,
            };
            // What says its length is not even begun.
            if answer.response.body().size_hint().lower() > limit as u64 {
                return Err(too_long());
            }
            let mut body = Vec::new();
            while let Some(frame) = answer.response.body_mut().frame().await {
                let frame = frame.map_err(|error| Failure::broken(path, &error))?;
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                if body.len() + data.len() > limit {
                    return Err(too_long());
                }
                body.extend_from_slice(&data);
            }
            Ok(Some(body))
        };
        // Those that wait for one that hangs are not asked either.
        let permit = timeout(PATIENCE, self.questions.acquire());
        let _permit = permit.await.map_err(silent)?;
        timeout(PATIENCE, whole).await.map_err(silent)?
    }

    async fn request(&self, path: &str) -> Result<Answer, Failure> {
        let stream = self.place.connect().await.map_err(Failure::Connect)?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MOST_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::broken(path, &error))?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        })
        .abort_handle();
        let request = Request::get(path)
            .header("Host", "localhost")
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::broken(path, &error))?;
        match sender.send_request(request).await {
            Ok(response) => Ok(Answer {
                response,
                connection,
            }),
            Err(error) => {
                connection.abort();
                Err(Failure::broken(path, &error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_container_is_asked_for_by_dockers_name_and_by_podmans() {
        let filters = EVENTS.split_once("filters=").unwrap().1;
        let filters = [
            ("%7B", "{"),
            ("%7D", "}"),
            ("%22", "\""),
            ("%3A", ":"),
            ("%2C", ","),
        ]
        .into_iter()
        .fold(filters.to_owned(), |text, (code, char)| {
            text.replace(code, char)
        })
        .replace("%5B", "[")
        .replace("%5D", "]");
        let filters: serde_json::Value = serde_json::from_str(&filters).unwrap();
        let events = filters["event"].as_array().unwrap();
        for name in ["create", "start", "die", "died", "rename"] {
            assert!(events.iter().any(|event| event == name), "{name}");
        }
    }
}
