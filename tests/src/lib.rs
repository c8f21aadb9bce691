//! Harness: real containers, the workload that runs in them, the agent under test, and the kernel's
//! own accounts to compare with.
//!
//! Everything that is started is a guard: dropping it kills, deletes and removes what it made. The
//! library knows nothing of the agent's types, so that `xtask demo` can use it without building one.

pub mod accounts;
pub mod agent;
pub mod binaries;
pub mod bpf;
pub mod cgroup;
pub mod container;
#[cfg(feature = "containerd")]
pub mod containerd;
#[cfg(feature = "containerd")]
pub mod cri;
pub mod docker;
pub mod filesystem;
pub mod http;
pub mod issuers;
pub mod measure;
pub mod metrics;
pub mod network;
pub mod overlay;
pub mod perf;
pub mod picture;
pub mod podman;
pub mod prometheus;
#[cfg(feature = "slow-disk")]
pub mod slow_disk;
pub mod trace;
pub mod wait;
pub mod without;
pub mod workload;

mod daemon;
mod engine;
mod lock;
mod skip;

pub use agent::{Agent, AgentCommand};
pub use cgroup::Group;
pub use container::{Container, ContainerSpec};
pub use metrics::Metrics;
pub use network::Cable;
pub use overlay::Overlay;
pub use skip::{is_root, skip};
#[cfg(feature = "slow-disk")]
pub use slow_disk::SlowDisk;
pub use wait::wait_until;
pub use without::{Capability, Without};
