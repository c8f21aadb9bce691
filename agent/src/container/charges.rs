//! Bytes of all block requests of the host, by whom they are charged to.
//!
//! Read from the slots that the containers' numbers are read from, but summed beside them: a
//! container takes its numbers with it when it goes, and these stay. A slot is read to its last
//! request, also while it rests, because requests that were under way complete in its name.

use std::collections::HashMap;

use ctrscope_ebpf::block::OPERATIONS;

use crate::snapshot::{ChargedBytes, Kind};

/// Bytes of each operation.
pub(crate) type OperationBytes = [u64; OPERATIONS];

/// Sums since the start, which never go down. At most one entry a slot is remembered.
#[derive(Debug, Default)]
pub(crate) struct BlockCharges {
    sums: ChargedBytes,
    slots: HashMap<u32, Reading>,
}

/// What has been taken in of a slot since it was given, and of whom.
#[derive(Debug)]
struct Reading {
    kind: Kind,
    bytes: OperationBytes,
}

impl BlockCharges {
    /// Takes in a reading of a slot. Whoever it is first read for has it until it is cleared.
    pub(crate) fn update(&mut self, slot: u32, kind: Kind, now: OperationBytes) {
        let reading = self.slots.entry(slot).or_insert(Reading {
            kind,
            bytes: [0; OPERATIONS],
        });
        let sums = match reading.kind {
            Kind::Container | Kind::Sandbox | Kind::Cgroup => &mut self.sums.container,
            Kind::Service => &mut self.sums.service,
            Kind::Other => &mut self.sums.other,
        };
        for ((sum, now), last) in sums.iter_mut().zip(now).zip(reading.bytes) {
            *sum += now.wrapping_sub(last);
        }
        reading.bytes = now;
    }

    /// Takes in the last reading of a slot, whose counters begin at zero after it.
    pub(crate) fn finish(&mut self, slot: u32, now: OperationBytes) {
        self.update(slot, Kind::Other, now);
        self.slots.remove(&slot);
    }

    /// The sums.
    pub(crate) fn sums(&self) -> ChargedBytes {
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_sum() {
        let mut charges = BlockCharges::default();
        charges.update(0, Kind::Other, [1, 2, 0, 3]);
        charges.update(1, Kind::Container, [10, 0, 0, 0]);
        charges.update(2, Kind::Cgroup, [10, 0, 0, 0]);
        charges.update(3, Kind::Sandbox, [10, 5, 0, 0]);
        charges.update(4, Kind::Service, [0, 7, 0, 0]);
        let sums = charges.sums();
        assert_eq!(sums.container, [30, 5, 0, 0]);
        assert_eq!(sums.service, [0, 7, 0, 0]);
        assert_eq!(sums.other, [1, 2, 0, 3]);
    }

    #[test]
    fn a_reading_adds_what_is_new() {
        let mut charges = BlockCharges::default();
        charges.update(1, Kind::Container, [10, 0, 0, 0]);
        charges.update(1, Kind::Container, [15, 1, 0, 0]);
        charges.update(1, Kind::Container, [15, 1, 0, 0]);
        assert_eq!(charges.sums().container, [15, 1, 0, 0]);
    }

    #[test]
    fn what_a_container_wrote_stays_when_its_slot_has_a_new_owner() {
        let mut charges = BlockCharges::default();
        charges.update(1, Kind::Container, [10, 0, 0, 0]);
        // A request that was under way when the container went.
        charges.finish(1, [12, 0, 0, 0]);
        charges.update(1, Kind::Service, [4, 0, 0, 0]);
        let sums = charges.sums();
        assert_eq!((sums.container[0], sums.service[0]), (12, 4));
    }
}
