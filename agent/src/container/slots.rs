//! Which slot belongs to whom.

use std::collections::VecDeque;

/// Hands out the kernel side's slots. A slot that was given back rests until whatever was under way
/// in its name (a last context switch, a request at the device) has ended.
#[derive(Debug)]
pub(crate) struct SlotTable {
    free: VecDeque<u32>,
    resting: VecDeque<(u64, u32)>,
    total: u32,
}

/// How long a slot rests, nanoseconds.
const REST_NS: u64 = 2_000_000_000;

impl SlotTable {
    /// Slots from 1 to `total - 1`; 0 is the one for everything else.
    pub(crate) fn new(total: u32) -> Self {
        Self {
            free: (1..total).collect(),
            resting: VecDeque::new(),
            total,
        }
    }

    /// A slot, or `None` if all are taken.
    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop_front()
    }

    /// Gives a slot back to rest.
    pub(crate) fn give_back(&mut self, slot: u32, now_ns: u64) {
        self.resting.push_back((now_ns, slot));
    }

    /// The next slot that has rested long enough. The caller clears its counters, then calls
    /// [`cleared`](Self::cleared).
    pub(crate) fn rested(&mut self, now_ns: u64) -> Option<u32> {
        let &(since, slot) = self.resting.front()?;
        if now_ns.saturating_sub(since) < REST_NS {
            return None;
        }
        self.resting.pop_front();
        Some(slot)
    }

    /// A slot's counters are zero again.
    pub(crate) fn cleared(&mut self, slot: u32) {
        self.free.push_back(slot);
    }

    /// Slots that belong to somebody.
    pub(crate) fn used(&self) -> u32 {
        let idle = self.free.len() + self.resting.len();
        self.total
            .saturating_sub(1)
            .saturating_sub(u32::try_from(idle).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_given_back_rests_before_it_is_handed_out_again() {
        let mut slots = SlotTable::new(2);
        assert_eq!(slots.take(), Some(1));
        assert_eq!(slots.used(), 1);
        assert_eq!(slots.take(), None);
        slots.give_back(1, 1_000);
        assert_eq!(slots.used(), 0);
        assert_eq!(slots.rested(1_000 + REST_NS - 1), None);
        assert_eq!(slots.take(), None);
        assert_eq!(slots.rested(1_000 + REST_NS), Some(1));
        slots.cleared(1);
        assert_eq!(slots.take(), Some(1));
    }
}
