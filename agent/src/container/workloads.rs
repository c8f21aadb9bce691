//! The workloads and what their containers have counted, those that are gone among them.
//!
//! Totals are only ever added to: each container's numbers are compared with those of its that are in
//! already, and what is more is added to the workload that it belongs to now. So they cannot go backwards,
//! and nothing need be kept of a container that goes.
//!
//! A workload that has a container keeps its place, whatever the limit says; there are never more
//! containers than places. Beyond the limit the one that has had none for the longest goes.

use std::{collections::BTreeMap, sync::Arc};

use super::owner::OTHER;
use crate::snapshot::{EvictedWorkloads, Totals, Workload, WorkloadIdentity, WorkloadKind};

/// A workload's place, for as long as it has members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WorkloadId(usize);

#[derive(Debug)]
struct Entry {
    workload: Workload,
    /// Entities that belong to it, those that exited and are kept among them.
    members: usize,
    /// Its place in the order of those without any.
    left: u64,
}

/// All workloads.
#[derive(Debug)]
pub(crate) struct Workloads {
    limit: usize,
    by_identity: BTreeMap<Arc<WorkloadIdentity>, WorkloadId>,
    places: Vec<Option<Entry>>,
    free: Vec<WorkloadId>,
    /// Those without members, in the order in which the last one went.
    left: BTreeMap<u64, WorkloadId>,
    next_left: u64,
    other: Workload,
    evicted: EvictedWorkloads,
}

impl Workloads {
    /// None but the one of all that has no entry of its own, and room for `limit` more.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            by_identity: BTreeMap::new(),
            places: Vec::new(),
            free: Vec::new(),
            left: BTreeMap::new(),
            next_left: 0,
            other: Workload {
                identity: Arc::new(WorkloadIdentity {
                    namespace: String::new(),
                    name: OTHER.to_owned(),
                    kind: WorkloadKind::Other,
                }),
                ..Workload::default()
            },
            evicted: EvictedWorkloads::default(),
        }
    }

    /// A container belongs to a workload from now on.
    pub(crate) fn join(&mut self, identity: WorkloadIdentity) -> WorkloadId {
        let id = match self.by_identity.get(&identity) {
            Some(&id) => id,
            None => self.begin(identity),
        };
        if let Some(entry) = self.entry(id) {
            entry.members += 1;
            let left = entry.left;
            self.left.remove(&left);
        }
        id
    }

    /// Whether that is who a workload is.
    pub(crate) fn is(&self, id: WorkloadId, identity: &WorkloadIdentity) -> bool {
        self.places
            .get(id.0)
            .and_then(Option::as_ref)
            .is_some_and(|entry| *entry.workload.identity == *identity)
    }

    fn begin(&mut self, identity: WorkloadIdentity) -> WorkloadId {
        self.keep_at_most(self.limit.saturating_sub(1));
        let identity = Arc::new(identity);
        let entry = Entry {
            workload: Workload {
                identity: Arc::clone(&identity),
                containers: Some(0),
                totals: Totals::default(),
            },
            members: 0,
            left: u64::MAX,
        };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.places.push(None);
                WorkloadId(self.places.len() - 1)
            }
        };
        if let Some(place) = self.places.get_mut(id.0) {
            *place = Some(entry);
        }
        self.by_identity.insert(identity, id);
        id
    }

    /// Forgets those that have had no container for the longest.
    fn keep_at_most(&mut self, most: usize) {
        while self.by_identity.len() > most
            && let Some((_, id)) = self.left.pop_first()
        {
            if let Some(entry) = self.places.get_mut(id.0).and_then(Option::take) {
                self.by_identity.remove(&entry.workload.identity);
                self.evicted.count += 1;
                self.evicted.totals.add(&entry.workload.totals);
                self.free.push(id);
            }
        }
    }

    /// A container no longer belongs to a workload.
    pub(crate) fn leave(&mut self, id: WorkloadId) {
        let left = self.next_left;
        let Some(entry) = self.entry(id) else {
            return;
        };
        entry.members = entry.members.saturating_sub(1);
        if entry.members == 0 {
            entry.left = left;
            self.left.insert(left, id);
            self.next_left += 1;
            self.keep_at_most(self.limit);
        }
    }

    /// Adds what a container has gained.
    pub(crate) fn add(&mut self, id: WorkloadId, gained: &Totals) {
        if let Some(entry) = self.entry(id) {
            entry.workload.totals.add(gained);
        }
    }

    /// One more of its containers lives, or one less.
    pub(crate) fn count_alive(&mut self, id: WorkloadId, lives: bool) {
        let containers = self
            .entry(id)
            .and_then(|entry| entry.workload.containers.as_mut());
        if let Some(containers) = containers {
            *containers = match lives {
                true => *containers + 1,
                false => containers.saturating_sub(1),
            };
        }
    }

    /// Adds what was gained by all that has no entry of its own.
    pub(crate) fn add_other(&mut self, gained: &Totals) {
        self.other.totals.add(gained);
    }

    /// All of them as they are now, ordered by identity, the one of all others last.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Workload> {
        self.by_identity
            .values()
            .filter_map(|id| Some(&self.places.get(id.0)?.as_ref()?.workload))
            .chain([&self.other])
    }

    /// Those that gave their places to others.
    pub(crate) fn evicted(&self) -> &EvictedWorkloads {
        &self.evicted
    }

    fn entry(&mut self, id: WorkloadId) -> Option<&mut Entry> {
        self.places.get_mut(id.0)?.as_mut()
    }
}
