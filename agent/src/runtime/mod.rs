//! Container runtimes: who a container is, by the runtimes' own sockets.
//!
//! Knows nothing of cgroups, slots or the registry: ids go in, descriptions come out. Everything that a
//! socket says has a limit of time and of size, and what a user's own runtime says is marked as that
//! user's word.

mod bounded;
mod client;
mod cri;
mod docker;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod oci;
mod pace;
mod sockets;
mod types;

pub use client::{RuntimeOptions, Runtimes};
pub(crate) use sockets::search;
pub use types::{Metadata, RuntimeStatus, SocketState, Update};
