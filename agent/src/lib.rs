//! ctrscope: container performance analysis with eBPF.
//!
//! The way of a number: `bpf` reads the kernel side, `cgroup` the kernel's files; `container` decides
//! whose it is; `engine` brings them together into a `snapshot`; `export`, `terminal` and the commands
//! see snapshots only.

pub mod bpf;
pub mod cgroup;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
mod container;
pub mod daemon;
pub mod engine;
pub mod export;
mod nearest;
pub mod profile;
pub mod resolve;
pub mod snapshot;
pub mod source;
pub mod terminal;
