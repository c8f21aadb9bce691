//! Who holds a slot and a place among the entities, and who gives way.

use super::{
    CgroupKey, Entity, EntityId, Now, Origin, Registry, Released, Report, SlotWrite, forget,
};
use crate::{
    container::Accumulated,
    snapshot::{Kind, Totals},
};

impl Entity {
    /// What it has counted goes to the sum of the others; what of it is in its workload already is not
    /// added to that of the others again.
    pub(super) fn give_to_others(&mut self, other: &mut Accumulated, other_counted: &mut Totals) {
        other.absorb(&std::mem::take(&mut self.stats));
        let counted = self.share.counted.of_programs();
        other_counted.add(&counted);
        self.share.counted = self.share.counted.without(&counted);
    }
}

impl Registry {
    /// Takes out what has outlived its retention, and what ended without ever having run anything. To
    /// be called when the slots have been read.
    pub(crate) fn expire(&mut self, now: Now) {
        let expired: Vec<EntityId> = self
            .entities
            .iter()
            .filter(|(_, entity)| {
                entity.exited.is_some_and(|exited| {
                    !entity.is_visible()
                        || entity.excluded
                        || (now.ns.saturating_sub(exited.ns) >= self.limits.retention_ns
                            && !entity.awaits_name(now, self.runtimes_answer))
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
            .filter(|entity| entity.exited.is_none() && !entity.excluded)
            .count();
        let mut room = self.limits.entities.saturating_sub(live);
        if room > 0 || self.waiting.values().any(|waiting| waiting.populated) {
            let mut has_empty = true;
            let keys: Vec<CgroupKey> = self.waiting.keys().copied().collect();
            for key in keys {
                let Some(waiting) = self.waiting.get(&key) else {
                    continue;
                };
                let origin = Origin {
                    path: &waiting.path,
                    user: waiting.user,
                };
                let is_known = self.is_known(origin, key.hierarchy);
                let mut has_room = room > 0;
                if !has_room && waiting.populated && has_empty {
                    has_empty = self.displace_empty(now);
                    has_room = has_empty;
                }
                if is_known || has_room {
                    room = room.saturating_sub(usize::from(!is_known));
                    self.admit(key, now);
                }
            }
        }
        if room == 0 {
            self.exchange_idle(now);
        }
    }

    /// Has the slots read that entities lost since the last call, with their numbers; what one counted
    /// that is left out by the selection goes to the sum of the others. After [`take_writes`](Self::take_writes), so that no new request or slice
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
                    if entity.excluded {
                        entity.give_to_others(&mut self.other, &mut self.other_counted);
                    }
                }
                None => {
                    let departed = self.departed.iter_mut().find(|(id, _)| *id == entity);
                    read(slot, kind, departed.map(|(_, entity)| &mut entity.stats));
                }
            }
        }
    }

    pub(super) fn ensure_slot(&mut self, id: EntityId, now: Now) {
        if self
            .entities
            .get(&id)
            .is_none_or(|entity| entity.slot.is_some() || entity.excluded)
        {
            return;
        }
        let slot = match self.slots.take() {
            Some(slot) => Some(slot),
            None => {
                // The slot of the container that is longest gone serves the next one after its rest.
                if let Some(oldest) = self.oldest_exited(|entity| entity.slot.is_some()) {
                    self.release_slot(oldest, now);
                }
                None
            }
        };
        if let Some(slot) = slot
            && let Some(entity) = self.entities.get_mut(&id)
        {
            entity.slot = Some(slot);
            let owner = Some(entity.owner());
            for (subsystem, css) in entity.css.iter() {
                self.writes.push(SlotWrite {
                    subsystem,
                    css,
                    owner,
                    report: Report::No,
                });
            }
        }
    }

    /// Gives slots that have become free to live entities that have none.
    pub(crate) fn fill_slots(&mut self, now: Now) {
        let waiting: Vec<EntityId> = self
            .entities
            .iter()
            .filter(|(_, entity)| {
                entity.slot.is_none() && entity.exited.is_none() && !entity.excluded
            })
            .map(|(&id, _)| id)
            .collect();
        for id in waiting {
            self.ensure_slot(id, now);
        }
    }

    pub(super) fn oldest_exited(&self, suits: impl Fn(&Entity) -> bool) -> Option<EntityId> {
        self.exited
            .iter()
            .map(|&(.., id)| id)
            .find(|id| self.entities.get(id).is_some_and(&suits))
    }

    /// Makes room by what ended: of what users ran first, and for a user by that alone, so that what a user starts
    /// and ends takes nobody's last numbers away.
    pub(super) fn forget_oldest_exited(&mut self, for_user: bool, now: Now) -> bool {
        let users = self.oldest_exited(|entity| !entity.excluded && entity.is_users());
        let anybodys = || self.oldest_exited(|entity| !entity.excluded);
        match users.or_else(|| anybodys().filter(|_| !for_user)) {
            Some(id) => {
                self.remove_entity(id, now);
                true
            }
            None => false,
        }
    }

    /// Takes the place of a plain cgroup in which nothing has run, or of anything that a user made and nothing
    /// has run in. Its cgroups wait for room, and are reported when something runs in them.
    pub(super) fn displace_empty(&mut self, now: Now) -> bool {
        let empty = self.entities.iter().find(|(_, entity)| {
            let is_empty = !entity.populated && !entity.stats.was_active();
            let may_stay_so = entity.identity.kind == Kind::Cgroup || entity.is_users();
            is_empty && may_stay_so && entity.exited.is_none()
        });
        let Some((&id, _)) = empty else {
            return false;
        };
        self.displace(id, now);
        true
    }

    pub(super) fn release_slot(&mut self, id: EntityId, now: Now) {
        let Some(entity) = self.entities.get_mut(&id) else {
            return;
        };
        let Some(slot) = entity.slot.take() else {
            return;
        };
        self.released.push(Released {
            slot,
            entity: id,
            kind: entity.identity.kind,
        });
        let css = entity.css.take();
        self.writes.extend(css.iter().map(forget));
        self.slots.give_back(slot, now.ns);
    }

    /// Removes an entity. Whoever has its name inherits its numbers, when its slot has been read. With
    /// nobody they go nowhere: added to the sum of the others they would show there as a rate of now.
    pub(super) fn remove_entity(&mut self, id: EntityId, now: Now) {
        self.release_slot(id, now);
        if let Some(entity) = self.entities.remove(&id) {
            if let Some(ids) = self.by_key.get_mut(&entity.key) {
                ids.retain(|one| *one != id);
                if ids.is_empty() {
                    self.by_key.remove(&entity.key);
                }
            }
            self.leave_name(id, &entity.identity);
            if let Some(order) = entity.exit_order {
                self.exited.remove(&order);
            }
            if entity.excluded {
                self.excluded = self.excluded.saturating_sub(1);
            } else {
                self.departed.push((id, entity));
            }
        }
    }
}
