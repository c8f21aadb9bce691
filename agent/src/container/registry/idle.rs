//! At the limit, what is busy takes the place of what has been idle.
//!
//! The kernel side tells of a css whose report bit is set when it next runs, once. That bit is set anew
//! for what is over the limit, every few seconds and for a bounded number, so that a container over the
//! limit that goes on running is seen to, at the price of one event each time, and one that does not
//! costs nothing.

use std::collections::BTreeMap;

use super::{
    CgroupKey, Entity, EntityId, Member, Now, Origin, Registry, Report, SlotWrite, USERS_SHARE,
    Waiting,
};
use crate::bpf::Subsystem;

/// Time between two looks at what is over the limit, nanoseconds.
const LOOK_INTERVAL_NS: u64 = 5_000_000_000;
/// Looks in a row at which a container has run before it is busy.
const BUSY_LOOKS: u8 = 3;
/// How long a container has neither run nor done I/O before it is idle, nanoseconds.
const IDLE_NS: u64 = 30_000_000_000;
/// Readings at least in which nothing was new.
const IDLE_READINGS: u8 = 3;
/// Report bits that are set anew at one look.
const MOST_REPORTS: usize = 256;
/// Places that change hands at one look.
const MOST_EXCHANGES: usize = 16;

/// When an entity was last seen to do something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Activity {
    done: u64,
    since_ns: u64,
    idle_readings: u8,
}

impl Entity {
    /// Notes and says whether it did something since the last reading. `running` says that a task of it is on a
    /// CPU now, which its counters show only when it leaves that.
    pub(crate) fn note_activity(&mut self, running: bool, now: Now) -> bool {
        let done = self.stats.activity();
        let last = &mut self.activity;
        if running || done != last.done || last.since_ns == 0 {
            *last = Activity {
                done,
                since_ns: now.ns,
                idle_readings: 0,
            };
            true
        } else {
            last.idle_readings = last.idle_readings.saturating_add(1);
            false
        }
    }

    fn takes_place_of_users(&self) -> bool {
        self.is_users() && !self.excluded && self.exited.is_none()
    }

    fn is_idle(&self, now: Now) -> bool {
        self.exited.is_none()
            && !self.excluded
            && self.activity.idle_readings >= IDLE_READINGS
            && now.ns.saturating_sub(self.activity.since_ns) >= IDLE_NS
    }
}

impl Registry {
    /// Gives the places of idle entities to what is over the limit and busy.
    pub(super) fn exchange_idle(&mut self, now: Now) {
        if now.ns.saturating_sub(self.last_look_ns) < LOOK_INTERVAL_NS {
            return;
        }
        self.last_look_ns = now.ns;
        let mut idle = self.idle(now);
        if idle.is_empty() {
            return;
        }
        let mut reports = 0;
        let mut busy = Vec::new();
        for (&key, waiting) in &mut self.waiting {
            if !waiting.ran {
                waiting.runs_in_a_row = 0;
                if waiting.awaits_report {
                    continue;
                }
            } else {
                waiting.runs_in_a_row = waiting.runs_in_a_row.saturating_add(1);
            }
            if waiting.runs_in_a_row >= BUSY_LOOKS {
                busy.push(key);
            }
            waiting.ran = false;
            for &(subsystem, css) in &waiting.css {
                if subsystem == Subsystem::Cpu && reports < MOST_REPORTS {
                    reports += 1;
                    waiting.awaits_report = true;
                    self.writes.push(SlotWrite {
                        subsystem,
                        css,
                        owner: Some(Self::owner_of_refused()),
                        report: Report::Again,
                    });
                }
            }
        }
        for key in busy.into_iter().take(MOST_EXCHANGES) {
            let Some(victim) = idle.pop() else {
                return;
            };
            self.displace(victim, now);
            self.refused += 1;
            self.admit(key, now);
        }
    }

    /// Entities that are idle, the longest idle last.
    fn idle(&self, now: Now) -> Vec<EntityId> {
        let mut idle: Vec<_> = self
            .entities
            .iter()
            .filter(|(_, entity)| entity.is_idle(now))
            .map(|(&id, entity)| (std::cmp::Reverse(entity.activity.since_ns), id))
            .collect();
        idle.sort_unstable();
        idle.into_iter().map(|(_, id)| id).collect()
    }

    /// Takes the place of what a user runs, if users hold more than their share: of what has done nothing for the
    /// longest.
    pub(super) fn displace_users(&mut self, now: Now) -> bool {
        let of_users = || {
            self.entities
                .iter()
                .filter(|(_, one)| one.takes_place_of_users())
        };
        if of_users().count() <= self.limits.entities / USERS_SHARE {
            return false;
        }
        let longest = of_users().min_by_key(|(_, entity)| entity.activity.since_ns);
        let Some((&id, _)) = longest else {
            return false;
        };
        self.displace(id, now);
        true
    }

    /// Takes an entity's place. Its cgroups wait for room, and are reported when something runs in them.
    pub(super) fn displace(&mut self, id: EntityId, now: Now) {
        let Some(entity) = self.entities.get(&id) else {
            return;
        };
        let (path, user) = (entity.owner_path.clone(), entity.user);
        let starts = entity.share.uncounted_starts();
        let mut waiting = BTreeMap::<CgroupKey, Waiting>::new();
        for (&key, member) in &mut self.cgroups {
            if *member == Member::Entity(id) {
                *member = Member::Refused;
                let starts_of = Waiting {
                    starts,
                    ..Waiting::new(path.clone(), user)
                };
                waiting.insert(key, starts_of);
            }
        }
        self.waiting.append(&mut waiting);
        self.remove_entity(id, now);
    }

    /// Takes in what waited.
    pub(super) fn admit(&mut self, key: CgroupKey, now: Now) {
        if let Some(waiting) = self.waiting.remove(&key) {
            self.cgroups.remove(&key);
            self.cgroups_of_users.remove(&key);
            let next = self.next_id;
            let origin = Origin {
                path: &waiting.path,
                user: waiting.user,
            };
            self.cgroup_made(key, origin, waiting.populated, &waiting.css, now);
            if let Some(entity) = self.entities.get_mut(&next) {
                entity.share.begin_late(waiting.starts);
            } else if let Some(again) = self.waiting.get_mut(&key) {
                again.starts = waiting.starts;
            }
        }
    }
}
