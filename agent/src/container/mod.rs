//! Cgroups → containers: who owns which slot, from the first sight of a cgroup to the end of its
//! container's retention.

mod charges;
mod registry;
mod slots;
mod stats;

pub(crate) use charges::{BlockCharges, OperationBytes};
pub(crate) use registry::{CgroupKey, Now, Registry, RegistryLimits, SlotWrite};
pub(crate) use slots::SlotTable;
pub(crate) use stats::{Accumulated, RawSched};
