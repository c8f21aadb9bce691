//! Places in an array, handed out as ranges.

use std::{collections::BTreeMap, ops::Range};

/// The free places of an array. First fit; ranges that are given back grow together.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Length of each free range, by its start. No two of them touch.
    free: BTreeMap<u32, u32>,
}

impl Pool {
    /// An array of which these places are free.
    pub(crate) fn new(places: Range<u32>) -> Self {
        let length = places.end.saturating_sub(places.start);
        let free = (length > 0).then_some((places.start, length));
        Self {
            free: free.into_iter().collect(),
        }
    }

    /// Takes so many places side by side; `None` if there are none.
    pub(crate) fn take(&mut self, length: u32) -> Option<Range<u32>> {
        if length == 0 {
            return Some(0..0);
        }
        let fits = |(_, free): &(&u32, &u32)| **free >= length;
        let (&start, &free) = self.free.iter().find(fits)?;
        self.free.remove(&start);
        if free > length {
            self.free.insert(start + length, free - length);
        }
        Some(start..start + length)
    }

    /// Gives back what was taken.
    pub(crate) fn give(&mut self, places: Range<u32>) {
        let (mut start, mut end) = (places.start, places.end);
        if start >= end {
            return;
        }
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        self.free.insert(start, end - start);
    }

    /// Number of places that are free.
    #[cfg(test)]
    pub(crate) fn free_count(&self) -> u32 {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_given_back_grows_together() {
        let mut pool = Pool::new(1..101);
        let taken: Vec<_> = (0..10).map(|_| pool.take(10).unwrap()).collect();
        assert_eq!((taken[0].clone(), pool.take(1)), (1..11, None));
        for index in [3, 5, 4] {
            pool.give(taken[index].clone());
        }
        assert_eq!(pool.take(31), None);
        assert_eq!(pool.take(30), Some(31..61));
        assert_eq!(pool.take(0), Some(0..0));
        assert_eq!(Pool::new(5..5).take(1), None);
    }

    proptest! {
        #[test]
        fn no_place_is_taken_twice_and_none_is_lost(lengths in prop::collection::vec(0_u32..40, 1..60)) {
            let mut pool = Pool::new(7..507);
            let mut taken: Vec<Range<u32>> = Vec::new();
            for (round, length) in lengths.into_iter().enumerate() {
                if round % 3 == 2 && !taken.is_empty() {
                    let index = length as usize % taken.len();
                    pool.give(taken.swap_remove(index));
                } else if let Some(range) = pool.take(length) {
                    prop_assert!(range.start >= 7 || range.is_empty());
                    prop_assert!(range.end <= 507);
                    prop_assert!(taken.iter().all(|other| other.end <= range.start || range.end <= other.start));
                    taken.push(range);
                }
                let held: u32 = taken.iter().map(|range| range.end - range.start).sum();
                prop_assert_eq!(held + pool.free_count(), 500);
            }
            for range in taken {
                pool.give(range);
            }
            prop_assert_eq!(pool.take(500), Some(7..507));
        }
    }
}
