//! Why an engine does not start.

use crate::{bpf::btf::BtfError, cgroup::CgroupError};

/// Why an engine does not start. Each message names the fix.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// None of the capabilities that load and attach programs. One of the two alone is a lack, which
    /// costs the programs and not the agent.
    #[error(
        "loading eBPF programs needs root, or the capabilities CAP_BPF and CAP_PERFMON: run it with sudo"
    )]
    Privilege,
    /// The file of type information that was given is not usable.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// No usable cgroup mount.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A thread could not be started.
    #[error("start the collecting thread")]
    Thread(#[source] std::io::Error),
}
