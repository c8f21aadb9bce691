//! Who waited for whom, for a CPU or a disk: sums of what the kernel side counts in pairs of slots.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
};

use ctrscope_ebpf::ledger::{PairSlot, pair_culprit, pair_victim};

/// Pairs that have sums, at most, once a reading is over.
const MOST_PAIRS: usize = 65_536;
/// Culprits of one victim that a reading tells, at most.
const MOST_TOLD: usize = 64;
/// Stands for a place that was never taken.
const NOT_TAKEN: u32 = u32::MAX;
/// In this time what was waited loses half its weight.
const HALF_LIFE_NS: u64 = 60_000_000_000;

/// What a victim waited for a culprit, nanoseconds.
#[derive(Debug, Default)]
struct Sum {
    ns: u64,
    /// What it waited of late.
    recent_ns: u64,
    /// The sum at the last reading of its victim.
    read_ns: u64,
    /// The sum from which on readings tell it; `None` where the last one did not.
    told_from_ns: Option<u64>,
}

/// Sums since each of the two slots was given, or since the pair was last left out. Bounded: of too many pairs those are
/// left out that have waited least of late, and what they waited has no name.
#[derive(Debug)]
pub(crate) struct WaitPairs {
    most: usize,
    /// What was last read of each place that was ever taken.
    places: Vec<PairSlot>,
    /// By place, where it is in `places`; [`NOT_TAKEN`] elsewhere.
    taken: Vec<u32>,
    /// By victim and culprit.
    sums: HashMap<u32, BTreeMap<u32, Sum>>,
    /// How many sums.
    count: usize,
    /// Until when weights are halved, monotonic nanoseconds.
    halved_ns: Option<u64>,
    lost_ns: u64,
}

impl Default for WaitPairs {
    fn default() -> Self {
        Self::new(MOST_PAIRS)
    }
}

impl WaitPairs {
    fn new(most: usize) -> Self {
        Self {
            most,
            places: Vec::new(),
            taken: Vec::new(),
            sums: HashMap::new(),
            count: 0,
            halved_ns: None,
            lost_ns: 0,
        }
    }

    /// Takes in a reading of a place. Says whether its key is to be cleared: others waited more for the place than its pair did.
    /// Whoever clears it has it read once more: until then it still counts for that pair.
    pub(crate) fn update(&mut self, place: u32, now: PairSlot) -> bool {
        if now.key == 0 && !self.is_known(place) {
            return false;
        }
        let Some(last) = self.last_of(place) else {
            return false;
        };
        // One that was cleared has counted for its pair until then.
        let key = if now.key == 0 { last.key } else { now.key };
        let added = now.ns.wrapping_sub(last.ns);
        let lost = now.lost_ns.wrapping_sub(last.lost_ns);
        *last = PairSlot { key, ..now };
        self.lost_ns = self.lost_ns.wrapping_add(lost);
        if added > 0 && key != 0 {
            let of_victim = self.sums.entry(pair_victim(key)).or_default();
            let count = &mut self.count;
            let sum = of_victim.entry(pair_culprit(key)).or_insert_with(|| {
                *count += 1;
                Sum::default()
            });
            sum.ns += added;
            sum.recent_ns += added;
        }
        now.key != 0 && lost > added
    }

    /// Whether a place was ever taken.
    pub(crate) fn is_known(&self, place: u32) -> bool {
        let taken = self.taken.get(place as usize);
        taken.is_some_and(|index| *index != NOT_TAKEN)
    }

    /// What was last read of a place, which is taken from now on.
    fn last_of(&mut self, place: u32) -> Option<&mut PairSlot> {
        let place = place as usize;
        if self.taken.len() <= place {
            self.taken.resize(place + 1, NOT_TAKEN);
        }
        let index = self.taken.get_mut(place)?;
        if *index == NOT_TAKEN {
            *index = u32::try_from(self.places.len()).ok()?;
            self.places.push(PairSlot::ZERO);
        }
        self.places.get_mut(*index as usize)
    }

    /// All places have been read, at a monotonic time.
    pub(crate) fn settle(&mut self, now_ns: u64) {
        if self.count > self.most {
            self.leave_out_least();
        }
        let halved_ns = self.halved_ns.get_or_insert(now_ns);
        let halves = now_ns.saturating_sub(*halved_ns) / HALF_LIFE_NS;
        if halves > 0 {
            *halved_ns += halves * HALF_LIFE_NS;
            let halves = u32::try_from(halves).unwrap_or(u32::MAX);
            for sum in self.sums.values_mut().flat_map(BTreeMap::values_mut) {
                sum.recent_ns = sum.recent_ns.checked_shr(halves).unwrap_or(0);
            }
        }
    }

    /// Makes room for an eighth, so that this is rare.
    fn leave_out_least(&mut self) {
        let weight = |sum: &Sum| (sum.recent_ns, sum.ns);
        let mut weights: Vec<(u64, u64)> = self
            .sums
            .values()
            .flat_map(BTreeMap::values)
            .map(weight)
            .collect();
        let excess = self.count - (self.most - self.most / 8);
        let (lighter, &mut limit, _) = weights.select_nth_unstable(excess - 1);
        // Of those that weigh the same only as many as needed.
        let mut at_limit = excess - lighter.iter().filter(|one| **one < limit).count();
        self.retain(|_, _, sum| {
            let weight = weight(sum);
            if weight == limit && at_limit > 0 {
                at_limit -= 1;
                return false;
            }
            weight >= limit
        });
    }

    fn retain(&mut self, mut stays: impl FnMut(u32, u32, &Sum) -> bool) {
        let mut count = 0;
        self.sums.retain(|victim, culprits| {
            culprits.retain(|culprit, sum| stays(*victim, *culprit, sum));
            count += culprits.len();
            !culprits.is_empty()
        });
        self.count = count;
    }

    /// Slots are others' from now on. All places have been read just before.
    pub(crate) fn forget(&mut self, slots: &HashSet<u32>) {
        if !slots.is_empty() {
            self.retain(|victim, culprit, _| !slots.contains(&victim) && !slots.contains(&culprit));
        }
    }

    /// Whom a slot waited for most of late, among those that have a name, and for how many nanoseconds, in the order of
    /// slots. One that was not told the last time is told from what it had then: the increase of a sum, or what it is
    /// where it decreased or was not told before, is never more than what was waited between two readings.
    pub(crate) fn told(&mut self, victim: u32, has_name: impl Fn(u32) -> bool) -> Vec<(u32, u64)> {
        let Some(culprits) = self.sums.get_mut(&victim) else {
            return Vec::new();
        };
        let named = culprits.iter().filter(|(culprit, _)| has_name(**culprit));
        let mut weights: Vec<_> = named
            .map(|(culprit, sum)| Reverse((sum.recent_ns, sum.ns, *culprit)))
            .collect();
        let limit =
            (weights.len() > MOST_TOLD).then(|| *weights.select_nth_unstable(MOST_TOLD - 1).1);
        let mut told = Vec::with_capacity(weights.len().min(MOST_TOLD));
        for (&culprit, sum) in culprits {
            let weight = Reverse((sum.recent_ns, sum.ns, culprit));
            let is_told = limit.is_none_or(|limit| weight <= limit) && has_name(culprit);
            let before = std::mem::replace(&mut sum.read_ns, sum.ns);
            sum.told_from_ns = is_told.then(|| sum.told_from_ns.unwrap_or(before));
            told.extend(sum.told_from_ns.map(|from| (culprit, sum.ns - from)));
        }
        told
    }

    /// All pairs of victim and culprit, with the nanoseconds.
    pub(crate) fn all(&self) -> impl Iterator<Item = ((u32, u32), u64)> {
        let victims = self.sums.iter();
        victims.flat_map(|(victim, culprits)| {
            let culprits = culprits.iter();
            culprits.map(|(culprit, sum)| ((*victim, *culprit), sum.ns))
        })
    }

    /// What was waited of pairs that found their places taken, nanoseconds.
    pub(crate) fn lost_ns(&self) -> u64 {
        self.lost_ns
    }
}

#[cfg(test)]
mod tests {
    use ctrscope_ebpf::ledger::pair_key;

    use super::*;

    fn place(victim: u64, culprit: u64, ns: u64, lost: u64) -> PairSlot {
        PairSlot {
            key: pair_key(victim, culprit),
            ns,
            lost_ns: lost,
        }
    }

    fn of(pairs: &WaitPairs, victim: u32) -> Vec<(u32, u64)> {
        let mut of: Vec<(u32, u64)> = pairs
            .all()
            .filter(|((of, _), _)| *of == victim)
            .map(|((_, culprit), ns)| (culprit, ns))
            .collect();
        of.sort_unstable();
        of
    }

    #[test]
    fn what_cpus_count_of_a_pair_is_one_sum() {
        let mut pairs = WaitPairs::default();
        assert!(!pairs.update(7, PairSlot::ZERO) && !pairs.is_known(7));
        pairs.update(7, place(1, 2, 100, 0));
        pairs.update(4_103, place(1, 2, 50, 0));
        pairs.update(8, place(1, 3, 5, 0));
        pairs.update(7, place(1, 2, 130, 0));
        assert_eq!(of(&pairs, 1), [(2, 180), (3, 5)]);
        assert_eq!(of(&pairs, 2), []);
    }

    #[test]
    fn a_pair_that_rests_makes_room_for_one_that_wants_its_place() {
        let mut pairs = WaitPairs::default();
        assert!(!pairs.update(7, place(1, 2, 100, 0)));
        // Both are active.
        assert!(!pairs.update(7, place(1, 2, 110, 5)));
        assert!(!pairs.update(7, place(1, 2, 110, 5)), "nobody wants it");
        assert!(pairs.update(7, place(1, 2, 110, 50)));
        // It counted until it was cleared, and goes on for the next.
        let cleared = PairSlot {
            key: 0,
            ..place(1, 2, 115, 50)
        };
        assert!(!pairs.update(7, cleared));
        pairs.update(7, place(3, 4, 120, 50));
        assert_eq!(
            (of(&pairs, 1), of(&pairs, 3)),
            (vec![(2, 115)], vec![(4, 5)])
        );
        assert_eq!(pairs.lost_ns(), 50);
    }

    #[test]
    fn a_slot_that_is_given_away_begins_anew() {
        let mut pairs = WaitPairs::default();
        pairs.update(7, place(1, 2, 100, 0));
        pairs.update(8, place(2, 1, 200, 0));
        pairs.update(9, place(3, 2, 300, 0));
        pairs.update(9, place(3, 4, 310, 0));
        assert_eq!(pairs.count, 4);
        pairs.forget(&HashSet::from([2]));
        assert_eq!((of(&pairs, 1), of(&pairs, 2)), (vec![], vec![]));
        assert_eq!(pairs.count, 1);
        assert_eq!(of(&pairs, 3), [(4, 10)]);
        // The kernel side's sums go on.
        pairs.update(7, place(1, 2, 101, 0));
        assert_eq!(of(&pairs, 1), [(2, 1)]);
    }

    #[test]
    fn of_too_many_pairs_those_are_left_out_that_waited_least_of_late() {
        let mut pairs = WaitPairs::new(64);
        pairs.settle(HALF_LIFE_NS);
        for culprit in 1..=40 {
            pairs.update(culprit, place(1, culprit.into(), 1_000_000, 0));
        }
        pairs.settle(HALF_LIFE_NS * 21);
        for culprit in 41..=80 {
            pairs.update(culprit, place(1, culprit.into(), 1_000, 0));
        }
        pairs.update(1, place(1, 1, 1_000_010, 0));
        assert_eq!(of(&pairs, 1).len(), 80);
        pairs.settle(HALF_LIFE_NS * 21);
        let left = of(&pairs, 1);
        assert_eq!((left.len(), pairs.count), (56, 56));
        assert_eq!(left.first(), Some(&(1, 1_000_010)));
        let young = left.iter().filter(|(culprit, _)| *culprit > 40);
        assert_eq!(young.count(), 40);
        // What is left out begins anew; what places have counted is not counted again.
        let (gone, _) = (2..=40)
            .map(|culprit| (culprit, left.iter().any(|(one, _)| *one == culprit)))
            .find(|(_, is_there)| !is_there)
            .unwrap();
        pairs.update(gone, place(1, gone.into(), 1_000_003, 0));
        assert!(of(&pairs, 1).contains(&(gone, 3)));
    }

    #[test]
    fn a_reading_tells_those_that_were_waited_for_most_of_late() {
        let all = |_| true;
        let mut pairs = WaitPairs::default();
        pairs.settle(1);
        let most = u32::try_from(MOST_TOLD).unwrap();
        for culprit in 1..=most {
            pairs.update(culprit, place(1, culprit.into(), 10_000, 0));
        }
        let newcomer = most + 1;
        pairs.update(newcomer, place(1, newcomer.into(), 100, 0));
        assert_eq!(pairs.told(2, all), []);
        let told = pairs.told(1, all);
        assert_eq!(told.len(), MOST_TOLD);
        assert!(told.iter().all(|(_, ns)| *ns == 10_000) && told.is_sorted());
        // Smaller than all of them, but they rest: told from what it had at the last reading.
        pairs.settle(1 + 10 * HALF_LIFE_NS);
        pairs.update(newcomer, place(1, newcomer.into(), 5_100, 0));
        let told = pairs.told(1, all);
        assert_eq!(told.len(), MOST_TOLD);
        assert_eq!(told.last(), Some(&(newcomer, 5_000)));
        pairs.update(newcomer, place(1, newcomer.into(), 5_200, 0));
        assert_eq!(pairs.told(1, all).last(), Some(&(newcomer, 5_100)));
        // The one that went for it comes back likewise.
        assert_eq!(told.first(), Some(&(2, 10_000)));
        pairs.update(1, place(1, 1, 10_900, 0));
        assert_eq!(pairs.told(1, all).first(), Some(&(1, 900)));
    }

    #[test]
    fn one_that_got_its_name_late_is_told_from_there() {
        let mut pairs = WaitPairs::default();
        pairs.update(7, place(1, 2, 100, 0));
        assert_eq!(pairs.told(1, |_| false), []);
        pairs.update(7, place(1, 2, 130, 0));
        assert_eq!(pairs.told(1, |_| true), [(2, 30)]);
        pairs.update(7, place(1, 2, 140, 0));
        assert_eq!(pairs.told(1, |_| true), [(2, 40)]);
    }
}
