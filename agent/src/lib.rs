//! ctrscope: container performance analysis with eBPF.
//!
//! The way of a number: `bpf` reads the kernel side, `cgroup` the kernel's files; `container` decides
//! whose it is; `engine` brings them together into a `snapshot`; `export`, `terminal` and the commands
//! see snapshots only.

pub mod bpf;
pub mod cgroup;
pub mod choice;
pub mod cli;
pub mod client;
pub mod commands;
mod complete;
pub mod config;
mod container;
pub mod daemon;
pub mod diagnosis;
pub mod engine;
pub mod error_chain;
pub mod export;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod host;
#[cfg(test)]
mod hostile;
mod nearest;
pub mod observer;
pub mod profile;
mod reading;
pub mod resolve;
pub mod runtime;
pub mod selection;
mod signals;
pub mod snapshot;
pub mod source;
pub mod terminal;
mod unprintable;
