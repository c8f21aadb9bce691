//! The registry: a pure state machine from what is seen of cgroups to who owns which slot.
//!
//! It touches neither the kernel nor the file system. What is to be written into the kernel side's
//! slot tables comes back as [`SlotWrite`]s, so its rules are tested on literal events.
//!
//! Life of a container: seen (a cgroup made, found in the tree, or running) → live, with a slot →
//! exited, when its last cgroup in the hierarchy of the cpu controller is removed; it keeps its slot
//! as long as nobody needs it, because writeback goes on after the end → gone, after its retention.
//! A container that comes back under its old key within that time goes on with its old counters.

mod places;

use std::collections::{BTreeMap, HashMap};

use ctrscope_ebpf::slot;

use super::{Accumulated, SlotTable};
use crate::{
    bpf::{CssId, Subsystem},
    cgroup::{PathIdentity, identify},
    snapshot::{Identity, Kind},
};

/// A moment, on both clocks that matter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Milliseconds since the epoch.
    pub(crate) unix_ms: u64,
    /// Monotonic nanoseconds.
    pub(crate) ns: u64,
}

/// A cgroup by the id of its hierarchy and its own kernfs id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CgroupKey {
    /// Hierarchy; 0 is the unified one.
    pub(crate) hierarchy: u32,
    /// Kernfs id.
    pub(crate) id: u64,
}

/// An entry to be written into a slot table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotWrite {
    /// Which table.
    pub(crate) subsystem: Subsystem,
    /// Where, and for which css.
    pub(crate) css: CssId,
    /// [`slot::owner`]; `None` takes the entry back, so that the css is reported anew when it is
    /// next seen.
    pub(crate) owner: Option<u32>,
    /// Whether the kernel side shall report the css when it is next seen.
    pub(crate) report: bool,
}

/// Limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegistryLimits {
    /// Entities that are kept, live and exited.
    pub(crate) entities: usize,
    /// Slots, the one for everything else included.
    pub(crate) slots: u32,
    /// Cgroups whose paths are remembered.
    pub(crate) cgroups: usize,
    /// How long an exited container is kept, nanoseconds.
    pub(crate) retention_ns: u64,
}

type EntityId = u64;

/// Css that are remembered of one container: its own and its child cgroups', the dead ones too, for
/// they still write back.
const MOST_CSS: usize = 512;

/// Who a cgroup counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Entity(EntityId),
    /// The root, or a cgroup that only holds others.
    System,
    /// A container over the limit.
    Refused,
}

/// A container, or what else has counters of its own.
#[derive(Debug)]
pub(crate) struct Entity {
    /// Who it is.
    pub(crate) identity: Identity,
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
    /// A task ran in it, or was found in it.
    populated: bool,
    key: String,
    css: Vec<(Subsystem, CssId)>,
    /// Its live cgroups in the primary hierarchy.
    primary: usize,
    /// Its live cgroups in the others.
    others: usize,
}

impl Entity {
    fn owner(&self) -> u32 {
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
}

/// A cgroup of a container over the limit.
#[derive(Debug)]
struct Waiting {
    path: String,
    populated: bool,
    css: Vec<(Subsystem, CssId)>,
}

/// A slot that was taken from an entity, which may be gone itself.
#[derive(Debug)]
struct Released {
    slot: u32,
    entity: EntityId,
    kind: Kind,
}

/// Css that are remembered of a cgroup over the limit: one of each controller, and the last ones
/// where controllers come and go.
const MOST_WAITING_CSS: usize = 8;

/// All that is known of cgroups and containers.
#[derive(Debug)]
pub(crate) struct Registry {
    limits: RegistryLimits,
    primary_hierarchy: u32,
    entities: BTreeMap<EntityId, Entity>,
    by_key: HashMap<String, EntityId>,
    cgroups: HashMap<CgroupKey, Member>,
    slots: SlotTable,
    next_id: EntityId,
    other: Accumulated,
    refused: u64,
    unremembered: u64,
    /// Cgroups of [`Member::Refused`], to be looked at again when there is room.
    waiting: BTreeMap<CgroupKey, Waiting>,
    writes: Vec<SlotWrite>,
    /// Slots that were taken from entities and not read since.
    released: Vec<Released>,
}

impl Registry {
    /// An empty registry. The primary hierarchy is that of the cpu controller.
    pub(crate) fn new(limits: RegistryLimits, primary_hierarchy: u32) -> Self {
        Self {
            limits,
            primary_hierarchy,
            entities: BTreeMap::new(),
            by_key: HashMap::new(),
            cgroups: HashMap::new(),
            slots: SlotTable::new(limits.slots),
            next_id: 1,
            other: Accumulated::default(),
            refused: 0,
            unremembered: 0,
            waiting: BTreeMap::new(),
            writes: Vec::new(),
            released: Vec::new(),
        }
    }

    /// A cgroup was made, or found in the tree. `populated` says that it holds tasks already.
    pub(crate) fn cgroup_made(
        &mut self,
        key: CgroupKey,
        path: &str,
        populated: bool,
        css: &[(Subsystem, CssId)],
        now: Now,
    ) {
        if !self.cgroups.contains_key(&key) {
            if self.cgroups.len() >= self.limits.cgroups {
                self.unremembered += 1;
                return;
            }
            let member = self.member_of(path, populated, now);
            if let Member::Entity(id) = member
                && let Some(entity) = self.entities.get_mut(&id)
            {
                if key.hierarchy == self.primary_hierarchy {
                    entity.primary += 1;
                } else {
                    entity.others += 1;
                }
            }
            if member == Member::Refused {
                let waiting = Waiting {
                    path: path.to_owned(),
                    populated: false,
                    css: Vec::new(),
                };
                self.waiting.insert(key, waiting);
            }
            self.cgroups.insert(key, member);
        }
        if populated {
            self.mark_populated(key);
        }
        for &(subsystem, css) in css {
            self.claim(key, subsystem, css);
        }
    }

    /// A css ran or did I/O; returns the owner that it has now, or `None` if its cgroup is unknown.
    pub(crate) fn css_seen(
        &mut self,
        key: CgroupKey,
        subsystem: Subsystem,
        css: CssId,
    ) -> Option<u32> {
        if !self.cgroups.contains_key(&key) {
            return None;
        }
        if subsystem == Subsystem::Cpu {
            self.mark_populated(key);
        }
        Some(self.claim(key, subsystem, css))
    }

    /// Whether a cgroup is known.
    pub(crate) fn knows(&self, key: CgroupKey) -> bool {
        self.cgroups.contains_key(&key)
    }

    /// Whether a known cgroup is one that is shown only when something ran in it, and nothing did.
    pub(crate) fn may_be_empty(&self, key: CgroupKey) -> bool {
        match self.cgroups.get(&key) {
            Some(Member::Entity(id)) => self
                .entities
                .get(id)
                .is_some_and(|entity| !entity.is_visible()),
            Some(Member::Refused) => self
                .waiting
                .get(&key)
                .is_some_and(|waiting| !waiting.populated),
            Some(Member::System) | None => false,
        }
    }

    /// Tasks were found in a known cgroup.
    pub(crate) fn populated(&mut self, key: CgroupKey) {
        self.mark_populated(key);
    }

    /// Cgroups known of a hierarchy.
    pub(crate) fn known_in(&self, hierarchy: u32) -> Vec<CgroupKey> {
        self.cgroups
            .keys()
            .copied()
            .filter(|key| key.hierarchy == hierarchy)
            .collect()
    }

    /// A cgroup was removed.
    pub(crate) fn cgroup_removed(&mut self, key: CgroupKey, now: Now) {
        self.waiting.remove(&key);
        let Some(Member::Entity(id)) = self.cgroups.remove(&key) else {
            return;
        };
        let Some(entity) = self.entities.get_mut(&id) else {
            return;
        };
        let in_primary = key.hierarchy == self.primary_hierarchy;
        if in_primary {
            entity.primary = entity.primary.saturating_sub(1);
        } else {
            entity.others = entity.others.saturating_sub(1);
        }
        if entity.primary == 0 && (in_primary || entity.others == 0) && entity.exited.is_none() {
            entity.exited = Some(now);
        }
    }

    /// Takes out what has outlived its retention, and what ended without ever having run anything. To
    /// be called when the slots have been read.
    pub(crate) fn expire(&mut self, now: Now) {
        let expired: Vec<EntityId> = self
            .entities
            .iter()
            .filter(|(_, entity)| {
                entity.exited.is_some_and(|exited| {
                    !entity.is_visible()
                        || now.ns.saturating_sub(exited.ns) >= self.limits.retention_ns
                })
            })
            .map(|(&id, _)| id)
            .collect();
        for id in expired {
            self.remove_entity(id, now);
        }
    }

    /// Takes in containers that were refused, as far as there is room now. Costs nothing while there
    /// is none, else one look at each path.
    pub(crate) fn admit_waiting(&mut self, now: Now) {
        if self.waiting.is_empty() {
            return;
        }
        // As for a new container, an exited one makes room.
        let live = self
            .entities
            .values()
            .filter(|entity| entity.exited.is_none())
            .count();
        let mut room = self.limits.entities.saturating_sub(live);
        if room == 0 && !self.waiting.values().any(|waiting| waiting.populated) {
            return;
        }
        let mut has_empty = true;
        for (key, waiting) in std::mem::take(&mut self.waiting) {
            let is_known = self
                .by_key
                .contains_key(&identify(&waiting.path).entity_key);
            let mut has_room = room > 0;
            if !has_room && waiting.populated && has_empty {
                has_empty = self.displace_empty(now);
                has_room = has_empty;
            }
            if is_known || has_room {
                room = room.saturating_sub(usize::from(!is_known));
                self.cgroups.remove(&key);
                self.cgroup_made(key, &waiting.path, waiting.populated, &waiting.css, now);
            } else {
                self.waiting.insert(key, waiting);
            }
        }
    }

    /// The next slot whose counters are to be cleared; then call [`slot_cleared`](Self::slot_cleared).
    pub(crate) fn slot_to_clear(&mut self, now: Now) -> Option<u32> {
        self.slots.rested(now.ns)
    }

    /// A slot's counters are zero again.
    pub(crate) fn slot_cleared(&mut self, slot: u32) {
        self.slots.cleared(slot);
    }

    /// Entries to be written into the slot tables since the last call.
    pub(crate) fn take_writes(&mut self) -> Vec<SlotWrite> {
        std::mem::take(&mut self.writes)
    }

    /// Has the slots read that entities lost since the last call, with the numbers of those that have
    /// not gone themselves. After [`take_writes`](Self::take_writes), so that no new request or slice
    /// is counted there in their names.
    pub(crate) fn read_released(
        &mut self,
        mut read: impl FnMut(u32, Kind, Option<&mut Accumulated>),
    ) {
        for Released { slot, entity, kind } in std::mem::take(&mut self.released) {
            match self.entities.get_mut(&entity) {
                Some(entity) => {
                    read(slot, kind, Some(&mut entity.stats));
                    entity.stats.detach();
                }
                None => read(slot, kind, None),
            }
        }
    }

    /// All entities.
    pub(crate) fn entities(&self) -> impl Iterator<Item = &Entity> {
        self.entities.values()
    }

    /// All entities.
    pub(crate) fn entities_mut(&mut self) -> impl Iterator<Item = &mut Entity> {
        self.entities.values_mut()
    }

    /// The numbers of whatever has no entry of its own.
    pub(crate) fn other_mut(&mut self) -> &mut Accumulated {
        &mut self.other
    }

    /// Slots that belong to somebody.
    pub(crate) fn slots_used(&self) -> u32 {
        self.slots.used()
    }

    /// Containers that were refused an entry of their own because of the limit.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Times that a cgroup was not remembered because there are too many.
    pub(crate) fn unremembered(&self) -> u64 {
        self.unremembered
    }

    fn mark_populated(&mut self, key: CgroupKey) {
        if let Some(Member::Entity(id)) = self.cgroups.get(&key)
            && let Some(entity) = self.entities.get_mut(id)
        {
            entity.populated = true;
        } else if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.populated = true;
        }
    }

    /// Writes the owner of a cgroup's css.
    fn claim(&mut self, key: CgroupKey, subsystem: Subsystem, css: CssId) -> u32 {
        let member = self.cgroups.get(&key).copied().unwrap_or(Member::System);
        let mut report = false;
        let owner = match member {
            Member::Entity(id) => match self.entities.get_mut(&id) {
                Some(entity) => {
                    if !entity.css.contains(&(subsystem, css)) {
                        entity.css.push((subsystem, css));
                        if entity.css.len() > MOST_CSS {
                            let (subsystem, css) = entity.css.remove(0);
                            self.writes.push(SlotWrite {
                                subsystem,
                                css,
                                owner: None,
                                report: false,
                            });
                        }
                    }
                    // Whether a plain cgroup runs tasks itself decides whose its children are.
                    report = entity.identity.kind == Kind::Cgroup
                        && !entity.populated
                        && subsystem == Subsystem::Cpu;
                    entity.owner()
                }
                None => slot::owner(slot::OTHER, slot::KIND_UNKNOWN),
            },
            Member::System => slot::owner(slot::OTHER, slot::KIND_SYSTEM),
            Member::Refused => {
                if let Some(waiting) = self.waiting.get_mut(&key) {
                    // What runs may take the place of what is empty.
                    report = !waiting.populated && subsystem == Subsystem::Cpu;
                    if !waiting.css.contains(&(subsystem, css)) {
                        if waiting.css.len() >= MOST_WAITING_CSS {
                            waiting.css.remove(0);
                        }
                        waiting.css.push((subsystem, css));
                    }
                }
                slot::owner(slot::OTHER, slot::KIND_CONTAINER)
            }
        };
        self.writes.push(SlotWrite {
            subsystem,
            css,
            owner: Some(owner),
            report,
        });
        owner
    }

    /// Who a path counts as; makes the entity if it is new.
    fn member_of(&mut self, path: &str, populated: bool, now: Now) -> Member {
        let found = identify(path);
        if found.groups_others || found.kind == Kind::Other {
            return Member::System;
        }
        if found.kind == Kind::Cgroup
            && let Some(id) = self.populated_ancestor(path)
        {
            return Member::Entity(id);
        }
        if let Some(&id) = self.by_key.get(&found.entity_key)
            && let Some(entity) = self.entities.get_mut(&id)
        {
            if entity.exited.take().is_some() {
                entity.primary = 0;
                entity.others = 0;
            }
            self.ensure_slot(id, now);
            return Member::Entity(id);
        }
        if self.entities.len() >= self.limits.entities && !self.forget_oldest_exited(now) {
            // What may stay empty for ever takes no place from what runs; it is looked at again when
            // it runs itself.
            let may_be_empty = found.kind == Kind::Cgroup && !populated;
            if may_be_empty || !self.displace_empty(now) {
                self.refused += u64::from(!may_be_empty);
                return Member::Refused;
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        self.by_key.insert(found.entity_key.clone(), id);
        self.entities.insert(id, new_entity(found, now));
        self.ensure_slot(id, now);
        Member::Entity(id)
    }

    /// A plain cgroup inside another one that runs tasks itself is a part of that one: only a
    /// container's own cgroup holds tasks beside child cgroups. The outermost such one wins.
    fn populated_ancestor(&self, path: &str) -> Option<EntityId> {
        path.match_indices('/')
            .map(|(end, _)| path.get(..end).unwrap_or_default())
            .filter(|prefix| !prefix.is_empty())
            .find_map(|prefix| {
                let &id = self.by_key.get(prefix)?;
                let entity = self.entities.get(&id)?;
                let is_plain = entity.identity.kind == Kind::Cgroup;
                (is_plain && entity.exited.is_none() && entity.populated).then_some(id)
            })
    }
}

fn new_entity(found: PathIdentity, now: Now) -> Entity {
    Entity {
        identity: Identity {
            container: found.name,
            container_id: found.container_id.unwrap_or_default(),
            pod_uid: found.pod_uid.unwrap_or_default(),
            runtime: found.runtime.to_owned(),
            kind: found.kind,
            cgroup: found.owner_path.clone(),
            ..Identity::default()
        },
        owner_path: found.owner_path,
        first_seen: now,
        exited: None,
        slot: None,
        stats: Accumulated::default(),
        populated: false,
        key: found.entity_key,
        css: Vec::new(),
        primary: 0,
        others: 0,
    }
}

#[cfg(test)]
mod tests;
