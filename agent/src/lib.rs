//! ctrscope: container performance analysis with eBPF.

pub mod bpf;
pub mod cgroup;
mod container;
pub mod engine;
pub mod export;
pub mod profile;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
mod nearest;
pub mod resolve;
pub mod snapshot;
pub mod source;
pub mod terminal;
