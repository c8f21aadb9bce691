//! Who waited for whom.

use super::{CONTAINER, KERNEL, SYSTEM, is_equal};

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
        /// Parts of waits of others that found this place taken, and the one beside it before.
        pub lost: u64,
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

/// The place of a pair among those of a CPU.
#[inline(always)]
#[must_use]
pub const fn pair_place(victim: u64, culprit: u64) -> u32 {
    let mixed =
        (victim as u32).wrapping_mul(0x9e37_79b1) ^ (culprit as u32).wrapping_mul(0x85eb_ca6b);
    mixed.wrapping_mul(0xc2b2_ae35) >> PAIR_SHIFT
}

/// The second place of a pair.
#[inline(always)]
#[must_use]
pub const fn beside(place: u32) -> u32 {
    place ^ 1
}

/// 1 where a cause is a pair's: somebody else had the CPU.
#[inline(always)]
#[must_use]
pub const fn is_pair(cause: u64) -> u64 {
    is_equal(cause, CONTAINER as u64)
        | is_equal(cause, SYSTEM as u64)
        | is_equal(cause, KERNEL as u64)
}

impl PairSlot {
    /// Adds what somebody else had of a wait, if the place is the pair's or free; says whether it is. For where a branch
    /// costs less than what it spares.
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

    /// The same without a branch that depends on who it is, and only where `wanted` is 1; gives 1 where it is still to be
    /// added.
    #[inline(always)]
    pub fn add(&mut self, key: u64, ns: u64, wanted: u64) -> u64 {
        let is_free = is_equal(self.key, 0) & wanted;
        self.key |= key * is_free;
        let fits = is_equal(self.key, key) & wanted;
        self.ns = self.ns.wrapping_add(fits * ns);
        wanted - fits
    }
}
