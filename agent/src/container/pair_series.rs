//! The pairs of victim and culprit that have series of their own: those that waited most of late, by name.

use std::{
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::snapshot::{Identity, NeighbourWait, NeighbourWaits, series_name};

/// Pairs that have series of their own, at most: with all numbers of the agent itself about as many series as three
/// containers.
pub(crate) const MOST_PAIRS: usize = 100;

/// In this time what was waited loses half its weight.
const HALF_LIFE_NS: u64 = 600_000_000_000;

/// Who waited for whom, by the names that tell series apart.
#[derive(Clone, Debug)]
struct Names {
    victim: Arc<Identity>,
    culprit: Arc<Identity>,
}

type Key<'a> = [(&'a str, &'a str, &'a str); 2];

fn key<'a>(victim: &'a Identity, culprit: &'a Identity) -> Key<'a> {
    [victim, culprit].map(series_name)
}

impl Names {
    fn key(&self) -> Key<'_> {
        key(&self.victim, &self.culprit)
    }

    /// Whether it is the same without a look at the names.
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.victim, &other.victim) && Arc::ptr_eq(&self.culprit, &other.culprit)
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Names {}

impl Hash for Names {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// A pair of slots.
#[derive(Debug)]
struct Known {
    /// `None` where it is of those without entries of their own.
    names: Option<Names>,
    ns: u64,
    /// The last update in which it was there.
    seen: u64,
}

/// Pairs of slots that have the same names.
#[derive(Debug, Default)]
struct Sum {
    /// How many pairs of slots.
    slots: u32,
    /// What they waited of late, whether that was exported or not: by this they are ranked.
    recent_ns: u64,
    /// What they waited while they had a series, which is its value. It stays while the series is away, so that it goes
    /// on from there, and what `_other` has got meanwhile is in no rate twice.
    exported_ns: u64,
    /// What is not in either yet.
    added_ns: u64,
    is_exported: bool,
}

/// Which pairs have series, and what is in them. As large as what it is updated with, which [`super::WaitPairs`]
/// bounds.
#[derive(Debug)]
pub(crate) struct PairSeries {
    most: usize,
    updates: u64,
    /// Until when weights are halved, monotonic nanoseconds.
    halved_ns: Option<u64>,
    /// By the slots of victim and culprit.
    slots: HashMap<(u32, u32), Known>,
    sums: HashMap<Names, Sum>,
    exported: usize,
    other_ns: u64,
}

impl Default for PairSeries {
    fn default() -> Self {
        Self::new(MOST_PAIRS)
    }
}

impl PairSeries {
    fn new(most: usize) -> Self {
        Self {
            most,
            updates: 0,
            halved_ns: None,
            slots: HashMap::new(),
            sums: HashMap::new(),
            exported: 0,
            other_ns: 0,
        }
    }

    /// Takes in the sums of all pairs of slots, with victim and culprit; without those the pair is of what has no entry of
    /// its own. One that is not among them any more is gone. The time is monotonic.
    pub(crate) fn update(
        &mut self,
        pairs: impl Iterator<Item = ((u32, u32), Option<(Arc<Identity>, Arc<Identity>)>, u64)>,
        now_ns: u64,
    ) {
        self.updates += 1;
        self.halve(now_ns);
        for (slots, names, ns) in pairs {
            let names = names.map(|(victim, culprit)| Names { victim, culprit });
            self.take_in(slots, names, ns);
        }
        let updates = self.updates;
        self.drop_slots(|_, known| known.seen == updates);
        self.fill_room();
        for sum in self.sums.values_mut() {
            let added = std::mem::take(&mut sum.added_ns);
            if sum.is_exported {
                sum.exported_ns += added;
            } else {
                self.other_ns += added;
            }
        }
        self.give_way();
    }

    fn halve(&mut self, now_ns: u64) {
        let halved_ns = self.halved_ns.get_or_insert(now_ns);
        let halves = now_ns.saturating_sub(*halved_ns) / HALF_LIFE_NS;
        if halves == 0 {
            return;
        }
        *halved_ns += halves * HALF_LIFE_NS;
        let halves = u32::try_from(halves).unwrap_or(u32::MAX);
        for sum in self.sums.values_mut() {
            sum.recent_ns = sum.recent_ns.checked_shr(halves).unwrap_or(0);
        }
    }

    /// Slots are others' from now on.
    pub(crate) fn forget(&mut self, slots: &HashSet<u32>) {
        if !slots.is_empty() {
            self.drop_slots(|(victim, culprit), _| {
                !slots.contains(victim) && !slots.contains(culprit)
            });
        }
    }

    /// The series, in the order of their names.
    pub(crate) fn told(&self) -> NeighbourWaits {
        let exported = self.sums.iter().filter(|(_, sum)| sum.is_exported);
        let mut pairs: Vec<NeighbourWait> = exported
            .map(|(names, sum)| NeighbourWait {
                victim: Arc::clone(&names.victim),
                culprit: Arc::clone(&names.culprit),
                ns: sum.exported_ns,
            })
            .collect();
        pairs.sort_by(|a, b| key(&a.victim, &a.culprit).cmp(&key(&b.victim, &b.culprit)));
        NeighbourWaits {
            pairs,
            other_ns: self.other_ns,
        }
    }

    fn take_in(&mut self, slots: (u32, u32), names: Option<Names>, ns: u64) {
        let seen = self.updates;
        let known = self.slots.get_mut(&slots);
        if let Some(known) = known {
            let is_same = match (&known.names, &names) {
                (Some(known), Some(now)) => known.is_same(now) || known == now,
                (None, None) => true,
                _ => false,
            };
            if is_same {
                let added = ns.checked_sub(known.ns).unwrap_or(ns);
                *known = Known {
                    names: names.clone(),
                    ns,
                    seen,
                };
                if added > 0 {
                    self.add(names, added);
                }
                return;
            }
        }
        // What it waited under another name is in a series already. It keeps its rank, if it was alone with that name.
        let former = self.slots.remove(&slots);
        let before = former.as_ref().map_or(0, |former| former.ns);
        let former = former.and_then(|former| self.leave(&former.names?));
        let added = ns.checked_sub(before).unwrap_or(ns);
        if let Some(names) = &names {
            let sum = self.sums.entry(names.clone()).or_default();
            sum.slots += 1;
            sum.recent_ns += former.map_or(0, |former| former.recent_ns);
        }
        self.add(names.clone(), added);
        self.slots.insert(slots, Known { names, ns, seen });
    }

    fn add(&mut self, names: Option<Names>, ns: u64) {
        match names.and_then(|names| self.sums.get_mut(&names)) {
            Some(sum) => {
                sum.recent_ns += ns;
                sum.added_ns += ns;
            }
            None => self.other_ns += ns,
        }
    }

    fn drop_slots(&mut self, stays: impl Fn(&(u32, u32), &Known) -> bool) {
        let mut gone = Vec::new();
        self.slots.retain(|slots, known| {
            let stays = stays(slots, known);
            if !stays {
                gone.extend(known.names.take());
            }
            stays
        });
        for names in gone {
            self.leave(&names);
        }
    }

    /// One of its pairs of slots is gone; with the last one it goes, and is given back.
    fn leave(&mut self, names: &Names) -> Option<Sum> {
        let sum = self.sums.get_mut(names)?;
        sum.slots -= 1;
        if sum.slots > 0 {
            return None;
        }
        if sum.is_exported {
            self.exported -= 1;
        }
        self.sums.remove(names)
    }

    /// Gives series to the largest where there is room.
    fn fill_room(&mut self) {
        let room = self.most - self.exported;
        if room == 0 || self.sums.len() == self.exported {
            return;
        }
        let mut waiting: Vec<(&Names, &mut Sum)> = self
            .sums
            .iter_mut()
            .filter(|(_, sum)| !sum.is_exported && sum.recent_ns > 0)
            .collect();
        waiting.sort_by(|(a, one), (b, other)| {
            (other.recent_ns, a.key()).cmp(&(one.recent_ns, b.key()))
        });
        for (_, sum) in waiting.into_iter().take(room) {
            sum.is_exported = true;
            self.exported += 1;
        }
    }

    /// Lets pairs take the place of much smaller ones. Each series that comes and goes is one more in a store, so it takes
    /// a sum half as large again.
    fn give_way(&mut self) {
        if self.sums.len() == self.exported {
            return;
        }
        loop {
            let by_size = |(a, one): &(&Names, &Sum), (b, other): &(&Names, &Sum)| {
                (one.recent_ns, b.key()).cmp(&(other.recent_ns, a.key()))
            };
            let of = |exported: bool| {
                let sums = self.sums.iter();
                sums.filter(move |(_, sum)| sum.is_exported == exported)
            };
            let (Some((smallest, least)), Some((largest, most))) =
                (of(true).min_by(by_size), of(false).max_by(by_size))
            else {
                return;
            };
            let is_much_more = u128::from(most.recent_ns) * 2 >= u128::from(least.recent_ns) * 3;
            // Of two that rest none is more.
            if most.recent_ns == 0 || !is_much_more {
                return;
            }
            for (names, is_exported) in [(smallest.clone(), false), (largest.clone(), true)] {
                if let Some(sum) = self.sums.get_mut(&names) {
                    sum.is_exported = is_exported;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
