//! ctrscope: container performance analysis with eBPF.

pub mod bpf;
pub mod cgroup;
mod container;
pub mod engine;
pub mod export;
pub mod profile;
pub mod snapshot;
pub mod source;
