//! Who the entities are by their runtimes' word, which of them share a name, and what stays of those
//! that go.

use std::{cmp::Reverse, collections::BTreeMap, mem, sync::Arc};

use super::{Entity, EntityId, Member, Naming, Now, Registry};
use crate::{
    runtime::Metadata,
    selection::Subject,
    snapshot::{Counted as _, Counters, Identity, Kind, OTHER_NAME},
};

/// How long a container is kept out of sight while its name is asked for, nanoseconds.
const NAME_PATIENCE_NS: u64 = 1_000_000_000;
/// Most questions that wait to be put; the asking of the next collection makes up for more.
const MOST_ASKS: usize = 4_096;
/// Most entities that the selection leaves out and that are remembered by themselves, some 5 KB each.
const MOST_EXCLUDED: usize = 4_096;
/// Name of a pod's sandbox where its runtime has none: what Kubernetes' own tools call it.
const SANDBOX_NAME: &str = "POD";

/// What a series is known by: namespace, pod, container.
pub(super) type Name = (String, String, String);

pub(super) fn name(identity: &Identity) -> Name {
    (
        identity.namespace.clone(),
        identity.pod.clone(),
        identity.container.clone(),
    )
}

impl Entity {
    /// Whether its name is still waited for, so that no series comes and goes that is called by its id.
    pub(crate) fn awaits_name(&self, now: Now, runtimes_answer: bool) -> bool {
        runtimes_answer
            && self.naming == Naming::Asked
            && now.ns.saturating_sub(self.first_seen.ns) < NAME_PATIENCE_NS
    }

    /// Whether it has a row of its own now.
    pub(crate) fn is_shown(&self, now: Now, runtimes_answer: bool) -> bool {
        self.is_visible() && !self.excluded && !self.awaits_name(now, runtimes_answer)
    }
}

impl Entity {
    /// Whether a runtime can know it: one of the user in whose cgroups it is, one of the system if nobody without
    /// privileges could make it. A user can give a cgroup the id of a container of the system.
    fn is_told_by(&self, user: Option<u32>) -> bool {
        let is_its = match user {
            None => !self.is_users(),
            Some(_) => user == self.user,
        };
        is_its && !self.is_foreign
    }

    /// What it has counted, without its predecessors: `counters` has what files say of it.
    fn counters(&mut self, mut counters: Counters) -> Counters {
        counters.sched = self.stats.has_run().then(|| self.stats.sched(0));
        counters.block = self.stats.did_io().then(|| self.stats.block().clone());
        counters
    }
}

impl Registry {
    /// Ids to ask the runtimes for, since the last call.
    pub(crate) fn take_asks(&mut self) -> Vec<String> {
        mem::take(&mut self.asks)
    }

    /// The user whose runtimes may know a container: the one in whose cgroups it is, if it is nowhere else. A
    /// user's runtime could answer before the one that knows.
    pub(crate) fn user_of(&self, container_id: &str) -> Option<u32> {
        let ids = self.by_key.get(container_id)?;
        let entities = ids.iter().filter_map(|id| self.entities.get(id));
        let mut users = entities.map(|entity| entity.user);
        let user = users.next()?;
        users.all(|other| other == user).then_some(user).flatten()
    }

    /// Those that a runtime's word is of.
    fn told(&self, container_id: &str, by: Option<u32>) -> Vec<EntityId> {
        let ids = self.by_key.get(container_id).into_iter().flatten();
        let is_meant = |id: &&EntityId| {
            let entity = self.entities.get(id);
            entity.is_some_and(|entity| entity.is_told_by(by))
        };
        ids.filter(is_meant).copied().collect()
    }

    /// Says whether any runtime answers. When one more does, all that has no name is asked for again.
    pub(crate) fn runtimes_answer(&mut self, answer: bool, ask_again: bool) {
        self.runtimes_answer = answer;
        if !ask_again {
            return;
        }
        for entity in self.entities.values_mut() {
            let is_named = entity.metadata.is_some() || entity.naming == Naming::Needless;
            if !is_named && self.asks.len() < MOST_ASKS {
                self.asks.push(entity.identity.container_id.clone());
            }
        }
    }

    /// Whether any container's name is still waited for.
    pub(crate) fn awaits_names(&self) -> bool {
        self.entities
            .values()
            .any(|entity| entity.naming == Naming::Asked)
    }

    pub(super) fn ask(&mut self, id: EntityId, now: Now) {
        let Some(entity) = self.entities.get_mut(&id) else {
            return;
        };
        let identity = &entity.identity;
        let is_container = matches!(identity.kind, Kind::Container | Kind::Sandbox);
        let has_id = !identity.container_id.is_empty() && !entity.is_foreign;
        if is_container && has_id && entity.metadata.is_none() {
            entity.naming = Naming::Asked;
            self.seen.all += 1;
            if self.asks.len() < MOST_ASKS {
                self.asks.push(identity.container_id.clone());
            }
        } else {
            self.judge(id, now);
        }
    }

    /// A runtime said who a container is. A name that it leaves keeps what it had counted, if others go by
    /// that name: their series is a sum. `files` gives what cgroup files say of it.
    ///
    /// A user's runtime names what runs in the cgroups of that user, and nothing else: it could say
    /// anything of anybody's.
    pub(crate) fn described(
        &mut self,
        metadata: &Arc<Metadata>,
        now: Now,
        mut files: impl FnMut(&Entity) -> Counters,
    ) {
        for id in self.told(&metadata.id, metadata.user) {
            self.describe(id, metadata, now, &mut files);
        }
    }

    fn describe(
        &mut self,
        id: EntityId,
        metadata: &Arc<Metadata>,
        now: Now,
        files: &mut impl FnMut(&Entity) -> Counters,
    ) {
        let Some(entity) = self.entities.get_mut(&id) else {
            return;
        };
        let former = Arc::clone(&entity.identity);
        let identity = Arc::make_mut(&mut entity.identity);
        take_names(identity, metadata, entity.prefix.as_deref());
        entity.find_owner(Some(metadata), &self.node);
        self.seen.named += u64::from(entity.metadata.is_none());
        entity.metadata = Some(Arc::clone(metadata));
        entity.naming = Naming::Settled;
        if name(&former) != name(&entity.identity) {
            let left = files(entity);
            let left = entity.counters(left);
            // Its predecessors' numbers are the old name's, if anybody goes by that yet.
            let predecessors = entity.former.take();
            let name = name(&entity.identity);
            self.leave_name(id, &former);
            self.by_name.entry(name).or_default().push(id);
            let kept = self.inherit(&former, &left, predecessors);
            if let Some(entity) = self.entities.get_mut(&id) {
                entity.former = kept;
            }
        }
        self.judge(id, now);
    }

    /// No runtime knows a container: its short id stays its name.
    pub(crate) fn unknown(&mut self, container_id: &str, now: Now) {
        for id in self.by_key.get(container_id).cloned().unwrap_or_default() {
            if let Some(entity) = self.entities.get_mut(&id)
                && entity.naming == Naming::Asked
            {
                entity.naming = Naming::Settled;
                self.judge(id, now);
            }
        }
    }

    /// A runtime saw a container's first process end.
    pub(crate) fn ended(&mut self, container_id: &str, by: Option<u32>, exit_code: Option<i32>) {
        for id in self.told(container_id, by) {
            if let Some(entity) = self.entities.get_mut(&id) {
                entity.exit_code = exit_code.or(entity.exit_code);
            }
        }
    }

    /// Whoever has the name of an entity that was removed inherits what it counted. Without anybody the name has no series that could go backwards. `files`
    /// gives what cgroup files said of it. To be called when the slots that were released have been read.
    pub(crate) fn bury_departed(&mut self, mut files: impl FnMut(&Entity) -> Counters) {
        for (_, mut entity) in mem::take(&mut self.departed) {
            if !entity.is_visible() {
                continue;
            }
            let left = files(&entity);
            let left = entity.counters(left);
            entity.settle_last(&mut self.workloads, &left);
            let predecessors = entity.former.take();
            self.inherit(&entity.identity, &left, predecessors);
        }
    }

    /// Gives numbers to whom they are left. If there is nobody, gives back those of the predecessors.
    fn inherit(
        &mut self,
        identity: &Identity,
        counters: &Counters,
        predecessors: Option<Box<Counters>>,
    ) -> Option<Box<Counters>> {
        let heirs = self.by_name.get(&name(identity));
        // Above all one whose row is shown; the oldest, because one that awaits its name is not.
        let heir = heirs.into_iter().flatten().copied().max_by_key(|id| {
            let entity = self.entities.get(id);
            let is_shown = entity.is_some_and(|one| one.is_visible() && !one.excluded);
            let is_named = entity.is_some_and(|one| one.naming != Naming::Asked);
            (is_shown, is_named, Reverse(*id))
        });
        let Some(heir) = heir.and_then(|id| self.entities.get_mut(&id)) else {
            return predecessors;
        };
        let sum = heir.former.get_or_insert_default();
        sum.add(counters);
        if let Some(predecessors) = predecessors {
            sum.add(&predecessors);
        }
        None
    }

    pub(super) fn leave_name(&mut self, id: EntityId, identity: &Identity) {
        let name = name(identity);
        if let Some(ids) = self.by_name.get_mut(&name) {
            ids.retain(|&one| one != id);
            if ids.is_empty() {
                self.by_name.remove(&name);
            }
        }
    }

    /// Puts those under the selection whose names have not come in time. To be called before rows are
    /// made.
    pub(crate) fn judge_unnamed(&mut self, now: Now) {
        if self.selection.is_everything() {
            return;
        }
        let late: Vec<EntityId> = self
            .entities
            .iter()
            .filter(|(_, one)| {
                one.naming == Naming::Asked && !one.awaits_name(now, self.runtimes_answer)
            })
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            self.judge(id, now);
        }
    }

    /// Whether an entity has numbers of its own, by the selection. One that has not gives its slot back;
    /// what the slot has counted goes to the sum of the others when it is read.
    pub(super) fn judge(&mut self, id: EntityId, now: Now) {
        if self.selection.is_everything() {
            return;
        }
        let Some(entity) = self.entities.get_mut(&id) else {
            return;
        };
        let none = BTreeMap::new();
        let known = entity.metadata.as_deref();
        let admitted = self.selection.admits(Subject {
            identity: &entity.identity,
            labels: known.map_or(&none, |known| &known.labels),
            annotations: known.map_or(&none, |known| &known.annotations),
        });
        if admitted != entity.excluded {
            return;
        }
        if admitted {
            // It may be one too many for a while; the next new one makes the room.
            entity.excluded = false;
            self.excluded = self.excluded.saturating_sub(1);
            self.ensure_slot(id, now);
            return;
        }
        entity.excluded = true;
        if entity.slot.is_none() {
            entity.give_to_others(&mut self.other, &mut self.other_counted);
        }
        self.excluded += 1;
        self.excluded_total += 1;
        self.release_slot(id, now);
        self.take_out(id);
        if self.excluded > MOST_EXCLUDED {
            // It counts as other from now on as what only holds others does, whatever it will be called.
            for member in self.cgroups.values_mut() {
                if *member == Member::Entity(id) {
                    *member = Member::System;
                }
            }
            self.remove_entity(id, now);
        }
    }
}

/// Takes over what a runtime says, and keeps what it does not. `prefix` stands before the name: what bears one
/// is somebody's who could say anything, and is in no namespace and no pod of the cluster.
fn take_names(identity: &mut Identity, metadata: &Metadata, prefix: Option<&str>) {
    let take = |mine: &mut String, theirs: &str| {
        if !theirs.is_empty() {
            theirs.clone_into(mine);
        }
    };
    if prefix.is_none() {
        take(&mut identity.namespace, &metadata.namespace);
        take(&mut identity.pod, &metadata.pod);
        take(&mut identity.pod_uid, &metadata.pod_uid);
    }
    take(&mut identity.image, &metadata.image);
    take(&mut identity.runtime, metadata.runtime);
    let is_plain = identity.namespace.is_empty() && identity.pod.is_empty();
    // The series of this name is the sum of all others; the short id stays.
    if let Some(prefix) = prefix
        && !metadata.name.is_empty()
    {
        identity.container = format!("{prefix}/{}", metadata.name);
    } else if !(is_plain && metadata.name == OTHER_NAME) {
        take(&mut identity.container, &metadata.name);
    }
    if metadata.is_sandbox {
        identity.kind = Kind::Sandbox;
        if metadata.name.is_empty() {
            identity.container = match prefix {
                Some(prefix) => format!("{prefix}/{SANDBOX_NAME}"),
                None => SANDBOX_NAME.to_owned(),
            };
        }
    } else {
        identity.kind = Kind::Container;
    }
}
