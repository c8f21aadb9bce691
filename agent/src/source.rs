//! Where snapshots and profiles come from: an agent in this process, or one behind its HTTP API.
//!
//! The HTTP server and every command are written against [`Source`], so that a command does the same
//! with a daemon and without one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    choice::Choice,
    diagnosis::{ContainerStanding, Diagnosis, WaitMatrix, facts::WindowFacts},
    snapshot::Snapshot,
};

pub use crate::profile::{ProfileType, Split};

/// Where snapshots and profiles come from.
pub trait Source: Send + Sync {
    /// Takes a snapshot, or returns the last one if it is young (100 ms, or more where a collection
    /// is expensive). Blocks for the time of a collection.
    ///
    /// # Errors
    ///
    /// [`SourceError::NotReady`], [`SourceError::Unreachable`].
    fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError>;

    /// What each container and the host did in the last `window`, 1 s to [`MAX_WINDOW_SECONDS`]. It is
    /// as long as the readings that are kept allow: [`WindowFacts::seconds`]. Blocks for the time of a
    /// reading, 5 s after the last at the latest.
    ///
    /// # Errors
    ///
    /// [`SourceError::NotReady`] in the first second, [`SourceError::BadRequest`],
    /// [`SourceError::Unreachable`].
    fn facts(&self, window: Duration) -> Result<Arc<WindowFacts>, SourceError> {
        check_window(window)?;
        Err(SourceError::Unsupported(
            "nothing is kept here from which facts could be made".into(),
        ))
    }

    /// What holds each container back, or one of them, over a window.
    ///
    /// # Errors
    ///
    /// Those of [`facts`](Self::facts), [`SourceError::UnknownContainer`],
    /// [`SourceError::AmbiguousContainer`].
    fn diagnosis(&self, request: &DiagnosisRequest) -> Result<Arc<Diagnosis>, SourceError> {
        let _ = request;
        Err(SourceError::Unsupported("nothing is diagnosed here".into()))
    }

    /// Who made whom wait for CPUs over a window: all, or one of them.
    ///
    /// # Errors
    ///
    /// Those of [`diagnosis`](Self::diagnosis), [`SourceError::Unsupported`] where it is not measured for whom the one
    /// that is asked for waited.
    fn neighbours(&self, request: &DiagnosisRequest) -> Result<Arc<WaitMatrix>, SourceError> {
        let _ = request;
        Err(SourceError::Unsupported(
            "nothing is kept here from which neighbours could be told".into(),
        ))
    }

    /// The verdicts that stand for each container: those of the last windows, without flapping.
    ///
    /// # Errors
    ///
    /// [`SourceError::NotReady`], [`SourceError::Unreachable`].
    fn standing(&self) -> Result<Arc<Vec<ContainerStanding>>, SourceError> {
        Err(SourceError::Unsupported("nothing is diagnosed here".into()))
    }

    /// Records and renders a profile. Blocks for its duration. `cancel` ends it early: stopped, it gives
    /// what was sampled so far; cancelled, [`SourceError::Cancelled`]. Either takes back everything it
    /// attached.
    ///
    /// # Errors
    ///
    /// Any [`SourceError`].
    fn profile(
        &self,
        request: &ProfileRequest,
        cancel: &Cancel,
    ) -> Result<RenderedProfile, SourceError>;
}

/// A diagnosis to make, or neighbours to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiagnosisRequest {
    /// Of how long a time, 1 s to [`MAX_WINDOW_SECONDS`]; `None` takes what is configured.
    pub window: Option<Duration>,
    /// Container as the user named it; `None` for all.
    pub container: Option<String>,
}

/// A flag that ends something long from another thread. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicU8>);

/// What there is so far is wanted.
const STOPPED: u8 = 1;
/// Nothing is wanted any more.
const CANCELLED: u8 = 2;

impl Cancel {
    /// Asks for the end, with what there is so far.
    pub fn stop(&self) {
        self.0.fetch_max(STOPPED, Ordering::Relaxed);
    }

    /// Asks for the end, for nothing.
    pub fn cancel(&self) {
        self.0.fetch_max(CANCELLED, Ordering::Relaxed);
    }

    /// Whether the end was asked for, with or without what there is so far.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= STOPPED
    }

    /// Whether the end was asked for, for nothing.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= CANCELLED
    }
}

/// How a profile is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProfileFormat {
    /// A flame graph.
    #[default]
    Svg,
    /// Folded stacks: `a;b;c count`.
    Folded,
    /// For `go tool pprof` and profile stores, gzip-compressed.
    Pprof,
    /// For speedscope.
    Speedscope,
}

impl Choice for ProfileFormat {
    const ALL: &'static [Self] = &[Self::Svg, Self::Folded, Self::Pprof, Self::Speedscope];

    fn name(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Folded => "folded",
            Self::Pprof => "pprof",
            Self::Speedscope => "speedscope",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Svg => "A flame graph",
            Self::Folded => "Folded stacks: `a;b;c count`",
            Self::Pprof => "For `go tool pprof` and profile stores, gzip-compressed",
            Self::Speedscope => "For speedscope",
        }
    }
}

impl ProfileFormat {
    /// The HTTP content type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Svg => "image/svg+xml",
            Self::Folded => "text/plain; charset=utf-8",
            // As Go's own handler has it.
            Self::Pprof => "application/octet-stream",
            Self::Speedscope => "application/json",
        }
    }

    /// How the name of a file of it ends.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Folded => "folded",
            Self::Pprof => "pb.gz",
            Self::Speedscope => "speedscope.json",
        }
    }
}

/// Longest window of facts, seconds.
pub const MAX_WINDOW_SECONDS: u32 = 60;

/// Refuses a window out of range.
pub(crate) fn check_window(window: Duration) -> Result<(), SourceError> {
    let longest = Duration::from_secs(MAX_WINDOW_SECONDS.into());
    if (Duration::from_secs(1)..=longest).contains(&window) {
        return Ok(());
    }
    Err(SourceError::BadRequest(format!(
        "a window has 1 to {MAX_WINDOW_SECONDS} seconds, not {}",
        window.as_secs_f64()
    )))
}

/// Longest profile, seconds.
pub const MAX_PROFILE_SECONDS: u32 = 300;
/// Highest sampling frequency, Hz.
pub const MAX_PROFILE_FREQUENCY: u32 = 999;
/// Default sampling frequency, Hz: off the beat of timers that tick a hundred times a second.
pub const DEFAULT_PROFILE_FREQUENCY: u32 = 99;

/// A profile to record.
#[derive(Clone, Debug)]
pub struct ProfileRequest {
    /// Container as the user named it (name, id, unique prefix, `namespace/pod/container`, cgroup
    /// path); `None` for the whole host.
    pub container: Option<String>,
    /// What to measure.
    pub profile_type: ProfileType,
    /// For how long; whole seconds from 1 to [`MAX_PROFILE_SECONDS`].
    pub duration: Duration,
    /// Samples per second and CPU, 1 to [`MAX_PROFILE_FREQUENCY`].
    pub frequency: u32,
    /// How finely the stacks of a container are told apart.
    pub split: Split,
    /// Whether addresses are expanded into the functions that were inlined there.
    pub inlined: bool,
    /// How to write it.
    pub format: ProfileFormat,
}

/// A profile, rendered.
#[derive(Clone, Debug)]
pub struct RenderedProfile {
    /// The bytes, in the format asked for.
    pub body: Vec<u8>,
    /// Samples in it.
    pub samples: u64,
    /// Samples or stacks that were lost.
    pub lost: u64,
    /// How long samples were taken: less than was asked for where it was stopped.
    pub seconds: f64,
    /// Samples per second and CPU: less than was asked for where the kernel allows no more.
    pub frequency: u32,
}

/// Why a source has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No container goes by that name.
    #[error("no container {query:?}: {hint}")]
    UnknownContainer {
        /// What was asked for.
        query: String,
        /// Names near it, or how to list them.
        hint: String,
    },
    /// Several containers go by that name.
    #[error("{query:?} means {} containers: {}; give more of the name", matches.len(), matches.join(", "))]
    AmbiguousContainer {
        /// What was asked for.
        query: String,
        /// What it could mean.
        matches: Vec<String>,
    },
    /// A parameter is out of range or malformed; the message names it and the range.
    #[error("{0}")]
    BadRequest(String),
    /// All profile slots are taken.
    #[error("all {slots} profile slots are taken; try again when one of them has ended")]
    Busy {
        /// How many there are.
        slots: usize,
    },
    /// Not collecting yet.
    #[error("not collecting yet: {0}")]
    NotReady(String),
    /// This host cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The daemon does not answer.
    #[error("no answer from the daemon at {address}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It went wrong.
    #[error("{context}")]
    Failed {
        /// What was attempted.
        context: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a [`SourceError`] is made of, as it crosses between daemon and command: the message is for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorDetails {
    /// Names near the one that is unknown, or how to list them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
    /// What an ambiguous name could mean.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) matches: Vec<String>,
    /// How many places for profiles there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slots: Option<usize>,
    /// Why it does not collect yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

impl ErrorDetails {
    /// Those of an error; `None` where its message is all.
    pub(crate) fn of(error: &SourceError) -> Option<Self> {
        let mut details = Self::default();
        match error {
            SourceError::UnknownContainer { hint, .. } => details.hint = Some(hint.clone()),
            SourceError::AmbiguousContainer { matches, .. } => details.matches.clone_from(matches),
            SourceError::Busy { slots } => details.slots = Some(*slots),
            SourceError::NotReady(reason) => details.reason = Some(reason.clone()),
            _ => return None,
        }
        Some(details)
    }
}
