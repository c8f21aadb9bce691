//! Snapshots: what is known of each container at one instant, cumulative, and how two are subtracted.
//!
//! A snapshot is the only thing that exposition, tables and diagnosis see. Every number in it is
//! cumulative since the container was first seen, never goes backwards, and is absent rather than
//! zero where it was not measured.

mod histogram;
mod rates;
mod types;

pub use histogram::Histogram;
pub use rates::{EarlierContainers, Rates, histogram_increase, is_same, seconds_between};
pub use types::{
    AgentHealth, BlockOperation, BlockStats, ChargedBytes, CollectorState, CollectorStatus,
    Container, CpuControl, Host, Identity, KernelMap, KernelProgram, Kind, LossCounter, Memory,
    Operation, PreemptedBy, Pressure, PressureTimes, SchedStats, Snapshot,
};
