//! One container, or what else has counters of its own, and what waits to become one.

use std::sync::Arc;

use ctrscope_ebpf::slot;

use super::{
    ExitOrder, Now, Origin, css::CssSet, idle::Activity, types::is_unprivileged, workloads::Share,
};
use crate::{
    bpf::{CssId, Subsystem},
    cgroup::{PathIdentity, identify},
    container::Accumulated,
    runtime::Metadata,
    snapshot::{Counters, Identity, Kind, OTHER_NAME},
};

/// Whether a name may still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// No runtime has one for it.
    Needless,
    /// Runtimes were asked, and none has answered.
    Asked,
    /// It has its name, for good or until the runtime gives another.
    Settled,
}

/// A container, or what else has counters of its own.
#[derive(Debug)]
pub(crate) struct Entity {
    /// Who it is.
    pub(crate) identity: Arc<Identity>,
    /// Path of its own cgroup in any hierarchy.
    pub(crate) owner_path: String,
    /// When it was first seen.
    pub(crate) first_seen: Now,
    /// When its last cgroup was removed.
    pub(crate) exited: Option<Now>,
    /// Its slot.
    pub(crate) slot: Option<u32>,
    /// Its numbers.
    pub(crate) stats: Accumulated,
    /// What its runtime says of it.
    pub(crate) metadata: Option<Arc<Metadata>>,
    /// How its first process ended, the last time that it did.
    pub(crate) exit_code: Option<i32>,
    /// What others of its name had counted that are gone.
    pub(crate) former: Option<Box<Counters>>,
    /// It counts as other by the selection.
    pub(crate) excluded: bool,
    /// Its place in the last snapshot, by name.
    pub(crate) place: usize,
    pub(super) naming: Naming,
    pub(super) activity: Activity,
    pub(super) share: Share,
    /// Its place in the order of those that exited.
    pub(super) exit_order: Option<ExitOrder>,
    /// A task ran in it, or was found in it.
    pub(super) populated: bool,
    pub(super) key: String,
    /// Its own path in each hierarchy in which it was seen.
    pub(super) paths: Vec<(u32, String)>,
    /// What stands before its name.
    pub(super) prefix: Option<String>,
    /// The user in whose cgroups it is.
    pub(super) user: Option<u32>,
    /// It is inside of a container.
    pub(super) is_inside: bool,
    /// It is inside of a container that the agent is not in itself. Whoever is root there can give a cgroup
    /// any id, so no runtime's word is taken for it.
    pub(super) is_foreign: bool,
    pub(super) css: CssSet,
    /// Its live cgroups in the primary hierarchy.
    pub(super) primary: usize,
    /// Its live cgroups in the others.
    pub(super) others: usize,
}

impl Entity {
    pub(super) fn path_in(&self, hierarchy: u32) -> Option<&String> {
        let mut paths = self.paths.iter();
        paths.find(|(of, _)| *of == hierarchy).map(|(_, path)| path)
    }

    /// Whether it can be a container of another hierarchy that has its key.
    pub(super) fn may_be(&self, found: &PathIdentity) -> bool {
        self.prefix == found.prefix && self.is_inside == found.enclosing.is_some()
    }

    /// Whether a user without privileges can have made it.
    pub(crate) fn is_users(&self) -> bool {
        is_unprivileged(self.user)
    }

    pub(super) fn owner(&self) -> u32 {
        let kind = match self.identity.kind {
            Kind::Container | Kind::Sandbox | Kind::Cgroup => slot::KIND_CONTAINER,
            Kind::Service | Kind::Other => slot::KIND_SYSTEM,
        };
        slot::owner(self.slot.unwrap_or(slot::OTHER), kind)
    }

    /// Whether it is shown. A plain cgroup in which nothing ever ran is a directory, no more.
    pub(crate) fn is_visible(&self) -> bool {
        self.identity.kind != Kind::Cgroup || self.populated || self.stats.was_active()
    }

    /// Whether its cgroup files are read while it lives.
    pub(crate) fn has_files(&self) -> bool {
        self.is_visible() && !self.excluded
    }
}

/// A cgroup of a container over the limit.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) path: String,
    pub(super) user: Option<u32>,
    pub(super) populated: bool,
    pub(super) css: Vec<(Subsystem, CssId)>,
    /// It was reported to run since the last look.
    pub(super) ran: bool,
    /// It will be reported when it runs.
    pub(super) awaits_report: bool,
    /// Looks in a row at which it had run.
    pub(super) runs_in_a_row: u8,
    /// Times that its container started which no workload has counted.
    pub(super) starts: u64,
}

impl Waiting {
    pub(super) fn new(path: String, user: Option<u32>) -> Self {
        Self {
            path,
            user,
            populated: false,
            css: Vec::new(),
            ran: false,
            awaits_report: false,
            runs_in_a_row: 0,
            starts: 1,
        }
    }
}

/// What a path says of what was made there.
pub(super) fn found(origin: Origin<'_>) -> PathIdentity {
    let found = identify(origin.path);
    if origin.is_users() {
        found.delegated()
    } else {
        found
    }
}

pub(super) fn new_entity(found: PathIdentity, hierarchy: u32, now: Now) -> Entity {
    // The series of this name is the sum of all others.
    let container = match found.name.as_str() {
        OTHER_NAME => found.owner_path.clone(),
        _ => found.name,
    };
    Entity {
        identity: Arc::new(Identity {
            container,
            container_id: found.container_id.unwrap_or_default(),
            pod_uid: found.pod_uid.unwrap_or_default(),
            qos: found.qos,
            runtime: found.runtime.to_owned(),
            kind: found.kind,
            cgroup: found.owner_path.clone(),
            ..Identity::default()
        }),
        paths: vec![(hierarchy, found.owner_path.clone())],
        prefix: found.prefix,
        user: None,
        is_inside: found.enclosing.is_some(),
        is_foreign: false,
        owner_path: found.owner_path,
        first_seen: now,
        exited: None,
        slot: None,
        stats: Accumulated::default(),
        metadata: None,
        exit_code: None,
        former: None,
        excluded: false,
        place: 0,
        naming: Naming::Needless,
        activity: Activity::default(),
        share: Share::of_new(),
        exit_order: None,
        populated: false,
        key: found.entity_key,
        css: CssSet::default(),
        primary: 0,
        others: 0,
    }
}
