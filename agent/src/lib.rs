//! ctrscope: container performance analysis with eBPF.

pub mod cgroup;
pub mod export;
pub mod bpf;
pub mod profile;
pub mod snapshot;
pub mod source;
