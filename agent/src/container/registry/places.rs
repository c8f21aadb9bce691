//! Who holds a slot and a place among the entities, and who gives way.

use super::{Entity, EntityId, Member, Now, Registry, Released, SlotWrite, Waiting};
use crate::snapshot::Kind;

impl Registry {
    pub(super) fn ensure_slot(&mut self, id: EntityId, now: Now) {
        if self
            .entities
            .get(&id)
            .is_none_or(|entity| entity.slot.is_some())
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
            for &(subsystem, css) in &entity.css {
                self.writes.push(SlotWrite {
                    subsystem,
                    css,
                    owner,
                    report: false,
                });
            }
        }
    }

    /// Gives slots that have become free to live entities that have none.
    pub(crate) fn fill_slots(&mut self, now: Now) {
        let waiting: Vec<EntityId> = self
            .entities
            .iter()
            .filter(|(_, entity)| entity.slot.is_none() && entity.exited.is_none())
            .map(|(&id, _)| id)
            .collect();
        for id in waiting {
            self.ensure_slot(id, now);
        }
    }

    pub(super) fn oldest_exited(&self, suits: impl Fn(&Entity) -> bool) -> Option<EntityId> {
        self.entities
            .iter()
            .filter(|(_, entity)| suits(entity))
            .filter_map(|(&id, entity)| Some((entity.is_visible(), entity.exited?.ns, id)))
            .min()
            .map(|(.., id)| id)
    }

    pub(super) fn forget_oldest_exited(&mut self, now: Now) -> bool {
        match self.oldest_exited(|_| true) {
            Some(id) => {
                self.remove_entity(id, now);
                true
            }
            None => false,
        }
    }

    /// Takes the place of a plain cgroup in which nothing has run. Its cgroups wait for room, and are
    /// reported when something runs in them.
    pub(super) fn displace_empty(&mut self, now: Now) -> bool {
        let empty = self.entities.iter().find(|(_, entity)| {
            entity.identity.kind == Kind::Cgroup && !entity.is_visible() && entity.exited.is_none()
        });
        let Some((&id, entity)) = empty else {
            return false;
        };
        let path = entity.owner_path.clone();
        for (&key, member) in &mut self.cgroups {
            if *member == Member::Entity(id) {
                *member = Member::Refused;
                let waiting = Waiting {
                    path: path.clone(),
                    populated: false,
                    css: Vec::new(),
                };
                self.waiting.insert(key, waiting);
            }
        }
        self.remove_entity(id, now);
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
        for (subsystem, css) in entity.css.drain(..) {
            self.writes.push(SlotWrite {
                subsystem,
                css,
                owner: None,
                report: false,
            });
        }
        self.slots.give_back(slot, now.ns);
    }

    /// Removes an entity and its series. Its numbers go nowhere: added to the sum of the others they
    /// would show there as a rate of now.
    pub(super) fn remove_entity(&mut self, id: EntityId, now: Now) {
        self.release_slot(id, now);
        if let Some(entity) = self.entities.remove(&id) {
            self.by_key.remove(&entity.key);
        }
    }
}
