//! Readings: what the diagnosis needs of each container and of the host at one instant, and the history of
//! them from which the facts of a window are made.
//!
//! A [`Reading`] holds cumulative numbers, as the kernel and the collectors keep them; [`History`] keeps as
//! many as a window needs, and makes [`WindowFacts`](crate::diagnosis::facts::WindowFacts) of two of them.
//! Nothing here reads a file: the engine does, and hands readings in.

mod between;
mod entitlement;
mod history;
mod machine;
mod tree;
mod types;

pub(crate) use history::{History, TICK};
pub(crate) use machine::cpu_times;
pub(crate) use types::{
    ContainerReading, DiskReading, GroupReading, HostReading, InterfaceReading, PairReading,
    RanOnReading, Reading, RequestReading, TaskReading,
};
