//! Why an engine does not start.

use crate::{
    bpf::{BpfError, btf::BtfError},
    cgroup::CgroupError,
};

/// Why an engine does not start. Each message names the fix.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Not enough privilege to load programs.
    #[error(
        "loading eBPF programs needs root, or the capabilities CAP_BPF and CAP_PERFMON: run it with sudo"
    )]
    Privilege,
    /// No usable type information.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// No usable cgroup mount.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The kernel side could not be brought up.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// Not one program could be attached.
    #[error("no program could be attached: {0}; `ctrscope check` says what this host lacks")]
    NothingAttached(String),
    /// A thread could not be started.
    #[error("start the collecting thread")]
    Thread(#[source] std::io::Error),
}
