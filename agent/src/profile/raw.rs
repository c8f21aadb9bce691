//! A profile as it was sampled: addresses, not names.

use std::sync::Arc;

/// Samples of one recording.
#[derive(Clone, Debug, Default)]
pub struct RawProfile {
    /// Distinct stacks with their counts.
    pub samples: Vec<RawSample>,
    /// How long samples were taken, seconds.
    pub seconds: f64,
    /// Samples per second and CPU, Hz.
    pub frequency: u32,
    /// What is missing.
    pub losses: ProfileLosses,
}

/// One stack of one thread and how often it was seen.
#[derive(Clone, Debug)]
pub struct RawSample {
    /// Label of the container: the root frame.
    pub container: Arc<str>,
    /// The kernel's tgid.
    pub tgid: u32,
    /// The kernel's pid.
    pub tid: u32,
    /// User addresses, the innermost first; empty when there is no user stack. All but the first are
    /// return addresses.
    pub user: Arc<[u64]>,
    /// Kernel addresses, the innermost first; empty for a sample taken in user mode. All but the
    /// first are return addresses.
    pub kernel: Arc<[u64]>,
    /// Number of samples.
    pub count: u64,
}

/// What a recording could not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileLosses {
    /// Samples that were not counted because the map of samples was full.
    pub samples: u64,
    /// Samples counted without a stack because the map of stacks was full.
    pub stacks: u64,
}

impl ProfileLosses {
    /// Samples that are missing or have no stack.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.samples.saturating_add(self.stacks)
    }
}
