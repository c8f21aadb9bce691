//! Cgroups → containers: who owns which slot, from the first sight of a cgroup to the end of its
//! container's retention.

mod charges;
mod owner;
mod pair_series;
mod pairs;
mod registry;
mod slots;
mod stats;
mod workloads;

pub(crate) use charges::{BlockCharges, OperationBytes};
pub(crate) use pair_series::PairSeries;
pub(crate) use pairs::WaitPairs;
pub(crate) use registry::{
    CgroupKey, Entity, Now, Origin, Registry, RegistryLimits, Report, SlotWrite,
};
pub(crate) use slots::SlotTable;
pub(crate) use stats::{Accumulated, RawSched};
pub(crate) use workloads::{WorkloadId, Workloads};
