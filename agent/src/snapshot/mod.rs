//! Snapshots: what is known of each container at one instant, cumulative, and how two are subtracted.
//!
//! A snapshot is the only thing that exposition, tables and diagnosis see. Every number in it is
//! cumulative since the container was first seen, never goes backwards, and is absent rather than
//! zero where it was not measured.

mod counters;
mod histogram;
mod rates;
mod resources;
mod types;
mod workload;

pub use counters::Counters;
pub use histogram::Histogram;
pub use rates::{EarlierContainers, Rates, histogram_increase, is_same, seconds_between};
pub use resources::{Labels, Qos, Resources};
pub use types::{
    AgentHealth, BlockOperation, BlockStats, ChargedBytes, CollectorState, CollectorStatus,
    Container, CpuControl, Host, Identity, InOther, KernelMap, KernelProgram, Kind, LossCounter,
    Memory, OTHER_NAME, Operation, PreemptedBy, Pressure, PressureTimes, RuntimeHealth, SchedStats,
    SeenContainers, Snapshot,
};
pub use workload::{EvictedWorkloads, Total, Totals, Workload, WorkloadIdentity, WorkloadKind};
