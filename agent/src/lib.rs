//! ctrscope: container performance analysis with eBPF.

pub mod snapshot;
pub mod source;
