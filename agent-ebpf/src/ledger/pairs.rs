//! Who waited for whom.

use super::{CONTAINER, SYSTEM, is_equal};
use crate::slot::ANY;

/// Pairs of each CPU in the array `PAIRS`; a power of two.
pub const PAIRS: u32 = 4_096;
const PAIR_SHIFT: u32 = 32 - PAIRS.trailing_zeros();
/// Set in each key, so that 0 is none.
const PAIR_BIT: u64 = 1 << 62;

shared! {
    /// Who waited for whom on a CPU, in the array `PAIRS` at `cpu * 4096 + ` [`pair_place`], or else at the place beside
    /// it ([`beside`]). A pair that finds both taken is not told by name. Written by `sched_switch` on that CPU; user space clears the key of one that rests.
    /// Its numbers go on with the next one.
    pub struct PairSlot [24] {
        /// [`pair_key`]; 0 is free.
        pub key: u64,
        /// What it waited, nanoseconds.
        pub ns: u64,
        /// What others waited that found this place taken, and the one beside it before, nanoseconds.
        pub lost_ns: u64,
    }
}

/// The key of a pair.
#[inline(always)]
#[must_use]
pub const fn pair_key(victim: u64, culprit: u64) -> u64 {
    PAIR_BIT | victim << 32 | culprit
}

/// The victim's slot in a key.
#[must_use]
pub const fn pair_victim(key: u64) -> u32 {
    ((key & !PAIR_BIT) >> 32) as u32
}

/// The culprit's slot in a key.
#[must_use]
pub const fn pair_culprit(key: u64) -> u32 {
    key as u32
}

/// The place of a pair among those of a CPU: on each another one, so that two pairs that share one do so on one CPU.
#[inline(always)]
#[must_use]
pub const fn pair_place(cpu: u32, victim: u64, culprit: u64) -> u32 {
    let mixed = (victim as u32).wrapping_mul(0x9e37_79b1)
        ^ (culprit as u32).wrapping_mul(0x85eb_ca6b)
        ^ cpu.wrapping_mul(0x27d4_eb2f);
    mixed.wrapping_mul(0xc2b2_ae35) >> PAIR_SHIFT
}

/// The second place of a pair.
#[inline(always)]
#[must_use]
pub const fn beside(place: u32) -> u32 {
    place ^ 1
}

/// 1 where an occupant that is of this cause for a victim is a pair's: another container or a service that is told by
/// itself.
#[inline(always)]
#[must_use]
pub const fn is_pair(cause: u64, culprit: u64) -> u64 {
    (is_equal(cause, CONTAINER as u64) | is_equal(cause, SYSTEM as u64))
        & (1 - is_equal(culprit, ANY as u64))
}

impl PairSlot {
    /// Adds what somebody else had of a wait, if the place is the pair's or free; says whether it is.
    #[inline(always)]
    pub fn take(&mut self, key: u64, ns: u64) -> bool {
        if self.key != key {
            if self.key != 0 {
                return false;
            }
            self.key = key;
        }
        self.ns = self.ns.wrapping_add(ns);
        true
    }
}
