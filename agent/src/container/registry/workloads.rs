//! What entities have counted goes to their workloads.

use std::sync::Arc;

use super::{Entity, EntityId, Naming, Now, Registry};
use crate::{
    container::{WorkloadId, Workloads, owner::owner},
    runtime::Metadata,
    snapshot::{Container, Counters, Kind, Total, Totals, WorkloadIdentity},
};

/// How long a container's numbers wait for its name before they go to the workload of those that have
/// none, nanoseconds. Longer than its series wait: what was added to a workload is never taken back.
const OWNER_PATIENCE_NS: u64 = 5_000_000_000;

/// What an entity has given to its workload.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// The workload, once anything was added to it.
    workload: Option<WorkloadId>,
    /// It was described anew since.
    is_stale: bool,
    /// Its numbers that are in a workload already.
    pub(super) counted: Totals,
    /// It is counted among those that live.
    is_alive: bool,
    /// What cgroup files say was counted before it had a place, and is nobody's.
    begins_late: bool,
    /// Times that it started and ended.
    pub(super) starts: u64,
    pub(super) ends: u64,
}

impl Share {
    /// That of a container that has started.
    pub(super) fn of_new() -> Self {
        Self {
            starts: 1,
            ..Self::default()
        }
    }

    /// It was there before it had a place. What cgroup files have of that time is nobody's: part of it may
    /// be in a workload already, and all at once it would show as a rate of now.
    pub(super) fn begin_late(&mut self, starts: u64) {
        self.begins_late = true;
        self.starts = starts;
    }

    /// Times that it started which no workload has counted yet.
    pub(super) fn uncounted_starts(&self) -> u64 {
        let counted = self.counted.get(Total::STARTED).unwrap_or(0);
        self.starts.saturating_sub(counted)
    }
}

impl Entity {
    /// Has what it gained since the last time added to its workload. `container` is what is known of it now.
    pub(crate) fn settle(&mut self, workloads: &mut Workloads, container: &Container, now: Now) {
        let waits = now.ns.saturating_sub(self.first_seen.ns) < OWNER_PATIENCE_NS;
        if self.naming == Naming::Asked && waits {
            return;
        }
        self.add_to(workloads, Totals::of_container(container));
    }

    /// The same for the last time.
    pub(super) fn settle_last(&mut self, workloads: &mut Workloads, left: &Counters) {
        self.add_to(workloads, Totals::of_counters(left));
        self.leave_workload(workloads);
    }

    fn add_to(&mut self, workloads: &mut Workloads, mut totals: Totals) {
        let id = match self.share.workload {
            Some(id) if !self.share.is_stale => id,
            _ => self.join_workload(workloads),
        };
        // A sandbox is a part of its pod, and no container to anybody.
        let is_container = self.identity.kind != Kind::Sandbox;
        if is_container {
            totals.set(Total::STARTED, self.share.starts);
            totals.set(Total::EXITED, self.share.ends);
        }
        if std::mem::take(&mut self.share.begins_late) {
            let _nobodys = totals.of_files().take_gained(&mut self.share.counted);
        }
        if totals != self.share.counted {
            workloads.add(id, &totals.take_gained(&mut self.share.counted));
        }
        let lives = is_container && self.exited.is_none();
        if lives != self.share.is_alive {
            self.share.is_alive = lives;
            workloads.count_alive(id, lives);
        }
    }

    fn join_workload(&mut self, workloads: &mut Workloads) -> WorkloadId {
        self.share.is_stale = false;
        let identity = WorkloadIdentity {
            namespace: self.identity.namespace.clone(),
            name: self.identity.workload.clone(),
            kind: self.identity.workload_kind,
        };
        match self.share.workload {
            Some(id) if workloads.is(id, &identity) => id,
            _ => {
                self.leave_workload(workloads);
                *self.share.workload.insert(workloads.join(identity))
            }
        }
    }

    fn leave_workload(&mut self, workloads: &mut Workloads) {
        if let Some(id) = self.share.workload.take() {
            if std::mem::take(&mut self.share.is_alive) {
                workloads.count_alive(id, false);
            }
            workloads.leave(id);
        }
    }

    /// Finds out whose it is, by what its runtime says, or by its path.
    pub(super) fn find_owner(&mut self, metadata: Option<&Metadata>, node: &str) {
        let prefix = self.prefix.as_deref();
        let (name, kind) = owner(&self.identity, prefix, metadata, node);
        let identity = Arc::make_mut(&mut self.identity);
        identity.workload = name;
        identity.workload_kind = kind;
        self.share.is_stale = true;
    }
}

impl Registry {
    /// All entities, and the workloads to [`settle`](Entity::settle) them with.
    pub(crate) fn entities_and_workloads(
        &mut self,
    ) -> (impl Iterator<Item = &mut Entity>, &mut Workloads) {
        (self.entities.values_mut(), &mut self.workloads)
    }

    /// Takes in the numbers of all that has no entry of its own.
    pub(crate) fn settle_other(&mut self, other: &Container) {
        let gained = Totals::of_container(other).take_gained(&mut self.other_counted);
        self.workloads.add_other(&gained);
    }

    /// The workloads.
    pub(crate) fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    /// The selection leaves an entity out: what it counts goes to the workload of all others from now on.
    pub(super) fn take_out(&mut self, id: EntityId) {
        if let Some(entity) = self.entities.get_mut(&id) {
            entity.leave_workload(&mut self.workloads);
        }
    }
}
