//! The registry: a pure state machine from what is seen of cgroups to who owns which slot.
//!
//! It touches neither the kernel nor the file system. What is to be written into the kernel side's
//! slot tables comes back as [`SlotWrite`]s, so its rules are tested on literal events.
//!
//! Life of a container: seen (a cgroup made, found in the tree, or running) → live, with a slot →
//! exited, when its last cgroup in the hierarchy of the cpu controller is removed; it keeps its slot
//! as long as nobody needs it, because writeback goes on after the end → gone, after its retention.
//! A container that comes back under its old key within that time goes on with its old counters.

mod css;
mod entity;
mod idle;
mod names;
mod places;
mod types;
mod workloads;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ctrscope_ebpf::slot;

pub(crate) use self::{
    entity::Entity,
    types::{CgroupKey, Now, Origin, RegistryLimits, Report, SlotWrite},
};
use self::{
    entity::{Naming, Waiting, found, new_entity},
    names::Name,
};
use super::{Accumulated, SlotTable, Workloads};
use crate::{
    bpf::{CssId, Subsystem},
    cgroup::{PathIdentity, identify},
    selection::Selection,
    snapshot::{Kind, SeenContainers, Totals},
};

type EntityId = u64;

/// Those that left nothing to be seen first, then by when they exited.
type ExitOrder = (bool, u64, EntityId);

/// Users without privileges, all of them together, may take one of so many cgroups that are remembered, and
/// hold as many places for entities if others want them.
const USERS_SHARE: usize = 4;

/// Takes the entry of a css back.
fn forget((subsystem, css): (Subsystem, CssId)) -> SlotWrite {
    SlotWrite {
        subsystem,
        css,
        owner: None,
        report: Report::No,
    }
}

/// Who a cgroup counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Entity(EntityId),
    /// The root, or a cgroup that only holds others.
    System,
    /// A container over the limit.
    Refused,
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
    /// Several where ids are used again elsewhere.
    by_key: HashMap<String, Vec<EntityId>>,
    cgroups: HashMap<CgroupKey, Member>,
    /// Those of them that users without privileges could make.
    cgroups_of_users: HashSet<CgroupKey>,
    slots: SlotTable,
    next_id: EntityId,
    other: Accumulated,
    /// What of it is in the workload of all others.
    other_counted: Totals,
    workloads: Workloads,
    /// Name of the host.
    node: String,
    /// Own paths of the containers that the agent is in.
    homes: Vec<String>,
    refused: u64,
    unremembered: u64,
    /// Cgroups of [`Member::Refused`], to be looked at again when there is room.
    waiting: BTreeMap<CgroupKey, Waiting>,
    writes: Vec<SlotWrite>,
    /// Slots that were taken from entities and not read since.
    released: Vec<Released>,
    /// Entities that were removed, for their last numbers. Emptied after each event.
    departed: Vec<(EntityId, Entity)>,
    /// Those that exited, the first to be forgotten first.
    exited: BTreeSet<ExitOrder>,
    by_name: HashMap<Name, Vec<EntityId>>,
    asks: Vec<String>,
    runtimes_answer: bool,
    selection: Selection,
    /// Entities that the selection leaves out now.
    excluded: usize,
    excluded_total: u64,
    seen: SeenContainers,
    last_look_ns: u64,
}

impl Registry {
    /// An empty registry. The primary hierarchy is that of the cpu controller.
    pub(crate) fn new(
        limits: RegistryLimits,
        primary_hierarchy: u32,
        selection: Selection,
    ) -> Self {
        Self {
            limits,
            primary_hierarchy,
            entities: BTreeMap::new(),
            by_key: HashMap::new(),
            cgroups: HashMap::new(),
            cgroups_of_users: HashSet::new(),
            slots: SlotTable::new(limits.slots),
            next_id: 1,
            other: Accumulated::default(),
            other_counted: Totals::default(),
            workloads: Workloads::new(limits.entities),
            node: String::new(),
            homes: Vec::new(),
            refused: 0,
            unremembered: 0,
            waiting: BTreeMap::new(),
            writes: Vec::new(),
            released: Vec::new(),
            departed: Vec::new(),
            exited: BTreeSet::new(),
            by_name: HashMap::new(),
            asks: Vec::new(),
            runtimes_answer: false,
            selection,
            excluded: 0,
            excluded_total: 0,
            seen: SeenContainers::default(),
            last_look_ns: 0,
        }
    }

    /// Says what the host is called.
    pub(crate) fn on_node(&mut self, name: &str) {
        name.clone_into(&mut self.node);
    }

    /// Says in which cgroup the agent is. What runs in the container around it is no foreign container's to
    /// its runtimes: they are those of that container, as in a cluster whose nodes are containers.
    pub(crate) fn at_home_in(&mut self, cgroup_path: &str) {
        let found = identify(cgroup_path);
        self.homes.extend(found.enclosing);
        if found.kind == Kind::Container {
            self.homes.push(found.owner_path);
        }
    }

    /// A cgroup was made, or found in the tree. `populated` says that it holds tasks already.
    pub(crate) fn cgroup_made<'a>(
        &mut self,
        key: CgroupKey,
        origin: impl Into<Origin<'a>>,
        populated: bool,
        css: &[(Subsystem, CssId)],
        now: Now,
    ) {
        if !self.cgroups.contains_key(&key) {
            let origin = origin.into();
            let is_users = origin.is_users();
            let of_users = self.cgroups_of_users.len();
            if self.cgroups.len() >= self.limits.cgroups
                || (is_users && of_users >= self.limits.cgroups / USERS_SHARE)
            {
                self.unremembered += 1;
                return;
            }
            if is_users {
                self.cgroups_of_users.insert(key);
            }
            let in_primary = key.hierarchy == self.primary_hierarchy;
            let member = self.member_of(origin, key.hierarchy, populated, now);
            if let Member::Entity(id) = member
                && let Some(entity) = self.entities.get_mut(&id)
            {
                if in_primary {
                    entity.primary += 1;
                } else {
                    entity.others += 1;
                }
            }
            if member == Member::Refused {
                let waiting = Waiting::new(origin.path.to_owned(), origin.user);
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
            if let Some(waiting) = self.waiting.get_mut(&key) {
                waiting.ran = true;
                waiting.awaits_report = false;
            }
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

    /// The container whose own cgroup, at this path, this is.
    pub(crate) fn owner_of(&self, key: CgroupKey, path: &str) -> Option<&Entity> {
        let Some(Member::Entity(id)) = self.cgroups.get(&key) else {
            return None;
        };
        let entity = self.entities.get(id)?;
        let own = entity.path_in(key.hierarchy)?;
        (own == path).then_some(entity)
    }

    /// A cgroup was removed.
    pub(crate) fn cgroup_removed(&mut self, key: CgroupKey, now: Now) {
        self.waiting.remove(&key);
        self.cgroups_of_users.remove(&key);
        let Some(Member::Entity(id)) = self.cgroups.remove(&key) else {
            return;
        };
        let Some(entity) = self.entities.get_mut(&id) else {
            return;
        };
        let forgotten = entity.css.cgroup_removed(key);
        self.writes.extend(forgotten.into_iter().map(forget));
        let in_primary = key.hierarchy == self.primary_hierarchy;
        if in_primary {
            entity.primary = entity.primary.saturating_sub(1);
        } else {
            entity.others = entity.others.saturating_sub(1);
        }
        if entity.primary == 0 && (in_primary || entity.others == 0) && entity.exited.is_none() {
            entity.exited = Some(now);
            entity.share.ends += 1;
            let order = (entity.is_visible(), now.ns, id);
            entity.exit_order = Some(order);
            self.exited.insert(order);
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

    /// Containers of runtimes that were seen, and how many of them were named.
    pub(crate) fn seen(&self) -> SeenContainers {
        self.seen
    }

    /// Times that a container was left out by the selection.
    pub(crate) fn excluded(&self) -> u64 {
        self.excluded_total
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

    fn owner_of_refused() -> u32 {
        slot::owner(slot::OTHER, slot::KIND_CONTAINER)
    }

    /// Writes the owner of a cgroup's css.
    fn claim(&mut self, key: CgroupKey, subsystem: Subsystem, css: CssId) -> u32 {
        let member = self.cgroups.get(&key).copied().unwrap_or(Member::System);
        let mut report = false;
        let owner = match member {
            Member::Entity(id) => match self.entities.get_mut(&id) {
                Some(entity) => {
                    let forgotten = entity.css.add(key, subsystem, css);
                    self.writes.extend(forgotten.map(forget));
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
                Self::owner_of_refused()
            }
        };
        let report = if report { Report::First } else { Report::No };
        self.writes.push(SlotWrite {
            subsystem,
            css,
            owner: Some(owner),
            report,
        });
        owner
    }

    /// Who a path counts as; makes the entity if it is new.
    fn member_of(
        &mut self,
        origin: Origin<'_>,
        hierarchy: u32,
        populated: bool,
        now: Now,
    ) -> Member {
        let found = found(origin);
        let path = origin.path;
        let in_primary = hierarchy == self.primary_hierarchy;
        if found.groups_others || found.kind == Kind::Other {
            return Member::System;
        }
        if found.kind == Kind::Cgroup
            && let Some(id) = self.populated_ancestor(path)
        {
            return Member::Entity(id);
        }
        if let Some(id) = self.known_as(&found, hierarchy)
            && let Some(entity) = self.entities.get_mut(&id)
        {
            if entity.path_in(hierarchy).is_none() {
                entity.paths.push((hierarchy, found.owner_path));
            }
            if entity.exited.take().is_some() {
                entity.share.starts += 1;
                entity.primary = 0;
                entity.others = 0;
                if let Some(order) = entity.exit_order.take() {
                    self.exited.remove(&order);
                }
            }
            self.ensure_slot(id, now);
            return Member::Entity(id);
        }
        let counted = self.entities.len().saturating_sub(self.excluded);
        if counted >= self.limits.entities && !self.forget_oldest_exited(origin.is_users(), now) {
            // What may stay empty for ever takes no place from what runs; it is looked at again when
            // it runs itself.
            let may_be_empty = found.kind == Kind::Cgroup && !populated;
            let has_room = !may_be_empty
                && (self.displace_empty(now) || (!origin.is_users() && self.displace_users(now)));
            if !has_room {
                // Once a container, not once a hierarchy or child cgroup.
                let is_own = in_primary && found.owner_path == path;
                self.refused += u64::from(!may_be_empty && is_own);
                return Member::Refused;
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        self.by_key
            .entry(found.entity_key.clone())
            .or_default()
            .push(id);
        let enclosing = found.enclosing.as_ref();
        let is_foreign = enclosing.is_some_and(|outer| !self.homes.contains(outer));
        let mut entity = new_entity(found, hierarchy, now);
        entity.user = origin.user;
        entity.is_foreign = is_foreign;
        self.tell_apart(&mut entity);
        entity.find_owner(None, &self.node);
        let name = names::name(&entity.identity);
        self.by_name.entry(name).or_default().push(id);
        self.entities.insert(id, entity);
        self.ensure_slot(id, now);
        self.ask(id, now);
        Member::Entity(id)
    }

    /// The entity that a cgroup of this hierarchy belongs to, if it is there. One id in two places of a
    /// hierarchy is two entities; in two hierarchies it is one, whose path may differ, as long as whoever
    /// made the one could have made the other.
    fn known_as(&self, found: &PathIdentity, hierarchy: u32) -> Option<EntityId> {
        let ids = self.by_key.get(&found.entity_key)?;
        let entities = || {
            ids.iter()
                .filter_map(|id| Some((*id, self.entities.get(id)?)))
        };
        let is_it = |entity: &Entity| entity.path_in(hierarchy) == Some(&found.owner_path);
        let may_be_it =
            |entity: &Entity| entity.path_in(hierarchy).is_none() && entity.may_be(found);
        entities()
            .find(|(_, entity)| is_it(entity))
            .or_else(|| entities().find(|(_, entity)| may_be_it(entity)))
            .map(|(id, _)| id)
    }

    /// Whether a new container of this path would be one that is known.
    fn is_known(&self, origin: Origin<'_>, hierarchy: u32) -> bool {
        self.known_as(&found(origin), hierarchy).is_some()
    }

    /// Calls a new entity by its path where its name is that of another one that lives.
    fn tell_apart(&self, entity: &mut Entity) {
        let holders = self.by_name.get(&names::name(&entity.identity));
        let mut holders = holders.into_iter().flatten();
        if holders.any(|id| {
            self.entities
                .get(id)
                .is_some_and(|one| one.exited.is_none())
        }) {
            let path = entity.owner_path.trim_start_matches('/').to_owned();
            Arc::make_mut(&mut entity.identity).container = path;
        }
    }

    /// A plain cgroup inside another one that runs tasks itself is a part of that one: only a
    /// container's own cgroup holds tasks beside child cgroups. The outermost such one wins.
    fn populated_ancestor(&self, path: &str) -> Option<EntityId> {
        path.match_indices('/')
            .map(|(end, _)| path.get(..end).unwrap_or_default())
            .filter(|prefix| !prefix.is_empty())
            .find_map(|prefix| {
                let &id = self.by_key.get(prefix)?.first()?;
                let entity = self.entities.get(&id)?;
                let is_plain = entity.identity.kind == Kind::Cgroup;
                (is_plain && entity.exited.is_none() && entity.populated).then_some(id)
            })
    }
}

#[cfg(test)]
mod tests;
