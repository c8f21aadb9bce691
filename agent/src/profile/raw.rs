//! A profile as it was sampled: addresses, not names.

use std::sync::Arc;

use ctrscope_ebpf::{profile::ProgramKey, python, walk};

use super::kind::ProfileType;

/// Samples of one recording.
#[derive(Clone, Debug, Default)]
pub struct RawProfile {
    /// What was measured.
    pub profile_type: ProfileType,
    /// Distinct stacks with their counts.
    pub samples: Vec<RawSample>,
    /// When it began, milliseconds since the epoch.
    pub began_unix_ms: u64,
    /// How long samples were taken, seconds.
    pub seconds: f64,
    /// Samples per second and CPU, Hz; 0 where every event is counted.
    pub frequency: u32,
    /// What was asked for.
    pub asked: Asked,
    /// What is missing.
    pub losses: ProfileLosses,
}

/// What a recording was asked for, where that is more than it became: it was stopped, or the kernel allows no
/// more samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Asked {
    /// Length, seconds.
    pub seconds: f64,
    /// Samples per second and CPU, Hz.
    pub frequency: u32,
}

/// Who a container is, as profiles say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Kubernetes namespace; empty outside Kubernetes.
    pub namespace: String,
    /// Kubernetes pod; empty outside Kubernetes.
    pub pod: String,
    /// Name.
    pub container: String,
}

impl Owner {
    /// One with a name alone.
    #[must_use]
    pub fn named(container: impl Into<String>) -> Self {
        Self {
            container: container.into(),
            ..Self::default()
        }
    }

    /// All of its names that it has: the root frame.
    #[must_use]
    pub fn label(&self) -> String {
        [&self.namespace, &self.pod, &self.container]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("/")
    }
}

/// One stack of one thread and how often it was seen.
#[derive(Clone, Debug)]
pub struct RawSample {
    /// The container.
    pub owner: Arc<Owner>,
    /// What the process ran.
    pub program: ProgramKey,
    /// The kernel's pid; 0 where threads are not told apart.
    pub tid: u32,
    /// User addresses, the innermost first; empty when there is no user stack. All but the first are
    /// return addresses.
    pub user: Arc<[u64]>,
    /// How the walk of them ended.
    pub end: WalkEnd,
    /// Kernel addresses, the innermost first; empty for a sample taken in user mode. All but the
    /// first are return addresses.
    pub kernel: Arc<[u64]>,
    /// Python functions that the thread was in.
    pub python: Option<Arc<PythonStack>>,
    /// Number of samples.
    pub count: u64,
    /// How long they took together, nanoseconds.
    pub ns: u64,
}

/// Python functions of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PythonStack {
    /// Runs of functions that called one another, the innermost first; each stands for one native frame of the
    /// interpreter. In a run, too, the innermost comes first.
    pub runs: Vec<Vec<PythonFrame>>,
    /// Addresses of the code objects of functions that have no name, since they could not be read; of all functions
    /// where nothing could be.
    pub unread: Vec<u64>,
    /// As deep as the limit: the outermost are missing.
    pub is_truncated: bool,
}

impl PythonStack {
    /// A stack whose functions could not be named in time: it has none, but it says so.
    #[must_use]
    pub fn unread(words: &[u64]) -> Self {
        let codes = words.iter().map(|word| python::code(*word));
        Self {
            unread: codes.filter(|code| *code != 0).collect(),
            ..Self::default()
        }
    }
}

/// A Python function, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PythonFrame {
    /// Its qualified name, cleaned.
    pub function: Arc<str>,
    /// Path of its file as the interpreter has it, cleaned.
    pub file: Arc<str>,
    /// The line that ran, from 1 on; 0 is not known.
    pub line: u32,
}

impl PythonFrame {
    /// What graphs show: `function (folder/file.py:12)`. A file of a package is known by its folder as well.
    #[must_use]
    pub fn label(&self) -> String {
        if self.file.is_empty() {
            return self.function.to_string();
        }
        let mut parts = self.file.rsplitn(3, '/');
        let file = parts.next().unwrap_or_default();
        let folder = parts.next().filter(|folder| !folder.is_empty());
        let place = match folder {
            Some(folder) => format!("{folder}/{file}"),
            None => file.to_owned(),
        };
        match self.line {
            0 => format!("{} ({place})", self.function),
            line => format!("{} ({place}:{line})", self.function),
        }
    }
}

/// How the walk of a user stack ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalkEnd {
    /// At the outermost frame.
    Outermost,
    /// At the limit of the depth.
    Depth,
    /// By frame pointers alone, or at the last by them where no table says that it is the outermost frame; whether it
    /// left the code is to be seen from the addresses.
    #[default]
    Pointers,
    /// Before the outermost frame; the word is that of [`walk::STOPS`].
    Cut(&'static str),
}

impl WalkEnd {
    /// Why a stack that was cut was.
    #[must_use]
    pub fn cut(self) -> &'static str {
        match self {
            Self::Cut(reason) => reason,
            // The kernel's walk by frame pointers went astray; one that came to its end did not, but its frames are
            // in no mapping that is known.
            Self::Pointers => "frame_pointers",
            Self::Outermost | Self::Depth => "unmapped",
        }
    }

    /// From the number that the kernel side gives.
    #[must_use]
    pub fn of(stop: u32) -> Self {
        match stop & walk::STOP_MASK {
            walk::STOP_END => Self::Outermost,
            walk::STOP_DEPTH => Self::Depth,
            walk::STOP_POINTERS
            | walk::STOP_POINTER_END
            | walk::STOP_NO_REGISTERS
            | walk::STOP_32_BIT
            | walk::STOP_ABSENT => Self::Pointers,
            other => Self::Cut(
                walk::STOPS
                    .get(other as usize)
                    .copied()
                    .unwrap_or("unknown"),
            ),
        }
    }
}

/// What a recording could not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileLosses {
    /// Samples that were not counted because the map of samples was full.
    pub samples: u64,
    /// Samples counted without one or more of their stacks (user, kernel, Python functions) because a map of stacks was
    /// full.
    pub stacks: u64,
    /// Stacks, of the user or the kernel, that could not be walked at all.
    pub unreadable: u64,
    /// Samples of cgroups that the agent did not know yet, any of which may be the container's; in a profile of the
    /// host they are there, under no container.
    pub strangers: u64,
}

impl ProfileLosses {
    /// Samples that are missing, lack a stack, or are nobody's.
    #[must_use]
    pub fn total(&self) -> u64 {
        let more = self.unreadable.saturating_add(self.strangers);
        self.samples
            .saturating_add(self.stacks)
            .saturating_add(more)
    }
}
