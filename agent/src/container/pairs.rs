//! Who waited for whom for a CPU: sums of what the kernel side counts in pairs of slots.

use std::collections::{BTreeMap, HashMap};

use ctrscope_ebpf::ledger::{PairSlot, pair_culprit, pair_victim};

/// Sums since each of the two slots was given. Bounded by the places that the kernel side has.
#[derive(Debug, Default)]
pub(crate) struct WaitPairs {
    places: HashMap<u32, PairSlot>,
    /// Nanoseconds by victim and culprit.
    sums: HashMap<u32, BTreeMap<u32, u64>>,
    lost: u64,
}

impl WaitPairs {
    /// Takes in a reading of a place. Says whether its key is to be cleared: its pair rests while others want the place.
    /// Whoever clears it has it read once more: until then it still counts for that pair.
    pub(crate) fn update(&mut self, place: u32, now: PairSlot) -> bool {
        if now.key == 0 && !self.places.contains_key(&place) {
            return false;
        }
        let last = self.places.entry(place).or_insert(PairSlot::ZERO);
        // One that was cleared has counted for its pair until then.
        let key = if now.key == 0 { last.key } else { now.key };
        let added = now.ns.wrapping_sub(last.ns);
        let lost = now.lost.wrapping_sub(last.lost);
        *last = PairSlot { key, ..now };
        self.lost = self.lost.wrapping_add(lost);
        if added > 0 && key != 0 {
            let of_victim = self.sums.entry(pair_victim(key)).or_default();
            *of_victim.entry(pair_culprit(key)).or_default() += added;
        }
        now.key != 0 && added == 0 && lost > 0
    }

    /// Whether a place was ever taken.
    pub(crate) fn is_known(&self, place: u32) -> bool {
        self.places.contains_key(&place)
    }

    /// A slot is another's from now on. All places have been read just before.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.sums.remove(&slot);
        self.sums.retain(|_, culprits| {
            culprits.remove(&slot);
            !culprits.is_empty()
        });
    }

    /// Whom a slot waited for, and for how many nanoseconds.
    pub(crate) fn of(&self, victim: u32) -> impl Iterator<Item = (u32, u64)> {
        let culprits = self.sums.get(&victim).into_iter().flatten();
        culprits.map(|(culprit, ns)| (*culprit, *ns))
    }

    /// All pairs of victim and culprit, with the nanoseconds.
    pub(crate) fn all(&self) -> impl Iterator<Item = ((u32, u32), u64)> {
        let victims = self.sums.iter();
        victims.flat_map(|(victim, culprits)| {
            let culprits = culprits.iter();
            culprits.map(|(culprit, ns)| ((*victim, *culprit), *ns))
        })
    }

    /// Parts of waits of pairs that found their place taken.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
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
            lost,
        }
    }

    fn of(pairs: &WaitPairs, victim: u32) -> Vec<(u32, u64)> {
        pairs.of(victim).collect()
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
        assert!(!pairs.update(7, place(1, 2, 110, 30)));
        assert!(!pairs.update(7, place(1, 2, 110, 30)), "nobody wants it");
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
        assert_eq!(pairs.lost(), 50);
    }

    #[test]
    fn a_slot_that_is_given_away_begins_anew() {
        let mut pairs = WaitPairs::default();
        pairs.update(7, place(1, 2, 100, 0));
        pairs.update(8, place(2, 1, 200, 0));
        pairs.update(9, place(3, 2, 300, 0));
        pairs.update(9, place(3, 4, 310, 0));
        pairs.forget(2);
        assert_eq!((of(&pairs, 1), of(&pairs, 2)), (vec![], vec![]));
        assert_eq!(of(&pairs, 3), [(4, 10)]);
        // The kernel side's sums go on.
        pairs.update(7, place(1, 2, 101, 0));
        assert_eq!(of(&pairs, 1), [(2, 1)]);
    }
}
