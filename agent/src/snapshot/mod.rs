//! Snapshots: what is known of each container at one instant, cumulative, and how two are subtracted.
//!
//! A snapshot is the only thing that exposition, tables and diagnosis see. Every number in it is
//! cumulative since the container was first seen, never goes backwards, and is absent rather than
//! zero where it was not measured.

#[macro_use]
mod counted;
mod counters;
mod group;
mod histogram;
mod rates;
mod resources;
mod types;
mod workload;

pub use counted::Counted;
pub use counters::{
    BlockOperation, BlockStats, Counters, MemoryEvents, Operation, PreemptedBy, Pressure,
    PressureTimes, SchedStats, Throttling,
};
pub use group::{Group, group_by, series_name};
pub use histogram::Histogram;
pub use rates::{Course, EarlierContainers, FileRates, Rates, is_same, seconds_between};
pub use resources::{Labels, Qos, Resources};
pub use types::{
    AgentHealth, AsOf, ChargedBytes, CollectorState, CollectorStatus, Container, Gauges, Host,
    Identity, InOther, KernelMap, KernelProgram, Kind, LossCounter, NeighbourWait, NeighbourWaits,
    OTHER_NAME, RuntimeHealth, SeenContainers, Snapshot,
};
pub use workload::{EvictedWorkloads, Total, Totals, Workload, WorkloadIdentity, WorkloadKind};
