//! Snapshots as Prometheus text and JSON, and the HTTP server that hands them out.
//!
//! This module knows snapshots and [`crate::source::Source`] and nothing below them: it never reads a
//! map or a file of a cgroup.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod metrics;
pub mod server;
pub mod synthetic;
