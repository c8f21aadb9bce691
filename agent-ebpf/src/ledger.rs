//! The wait ledger: who had the CPU while a task waited for it.
//!
//! A CPU keeps its last slices as [`Stretches`]. When a task gets the CPU, its wait is split over the slices that it
//! overlapped, from now back to when the task was queued, each under the cause that its occupant is for the one that
//! waited. The last [`SLICES`] are kept one by one. Older ones, of which a wait can have thousands where they last a few
//! microseconds, are summed by occupant, so that a walk of [`WALKED`] stretches reaches back for 16 ms of the shortest
//! slices, and for longer of longer ones. What is older than that stands in spans of 8 to 17 ms, summed from the
//! stretches, of which a walk goes back one to two seconds: a task of little weight beside busy ones of much waits
//! that long.
//!
//! What its quota, or that of a cgroup above, took from the wait is told by the kernel: [`Throttles`]. Who had the CPU
//! meanwhile is not to blame; only where it is not known when that was, all others have less by the same factor.

mod pairs;
mod stretches;
mod throttles;
mod walk;

pub use pairs::{
    PAIRS, PairSlot, beside, is_pair, pair_culprit, pair_key, pair_place, pair_victim,
};
pub use stretches::{
    OCCUPANTS, SLICES, SPAN_OCCUPANTS, SPANS, STRETCHES, Slice, Span, Stretch, Stretches, WALKED,
    Waited, append, fold, put_in_span,
};
pub use throttles::{
    KEPT_THROTTLES, THROTTLED_QUEUES, Throttles, Times, inside, outside, throttles_place,
};
pub use walk::{
    Shares, not_throttled, parts_of_span, parts_of_stretch, walk, walk_slices, walk_spans,
};

/// Its own quota, or that of a cgroup above it.
pub const QUOTA: usize = 0;
/// Its own tasks had the CPU.
pub const SELF: usize = 1;
/// Another container had it.
pub const CONTAINER: usize = 2;
/// A system service, a session or the root cgroup had it.
pub const SYSTEM: usize = 3;
/// Kernel threads had it, or interrupts and the hypervisor, where the scheduler's clock leaves their time out.
pub const KERNEL: usize = 4;
/// Nobody had it: the CPU was idle and being woken.
pub const WAKE_UP: usize = 5;
/// Waited on another CPU before it was moved to the one that it ran on.
pub const MIGRATED: usize = 6;
/// Longer ago than is remembered.
pub const UNATTRIBUTED: usize = 7;
/// Number of the above.
pub const CAUSES: usize = 8;

/// Their names, in that order.
pub const NAMES: [&str; CAUSES] = [
    "quota",
    "self",
    "container",
    "system",
    "kernel",
    "wakeup",
    "migrated",
    "unattributed",
];

/// A factor that leaves a part as it is.
pub const WHOLE: u64 = 1 << FACTOR_BITS;
/// In place of a factor: a walk only sums what was the waiting container's own, and in [`Stretches::others_ns`] what
/// others had while it was not throttled.
pub const ONLY_OWN: u64 = WHOLE + 1;
const FACTOR_BITS: u32 = 16;

const CAUSE_SHIFT: u32 = 20;

/// Who has a CPU: a slot, and the cause that it is for others. Never 0.
#[inline(always)]
#[must_use]
pub const fn occupant(slot: u32, cause: usize) -> u64 {
    slot as u64 | (cause as u64) << CAUSE_SHIFT
}

/// The slot of an occupant.
#[inline(always)]
#[must_use]
pub const fn occupant_slot(occupant: u64) -> u64 {
    occupant & ((1 << CAUSE_SHIFT) - 1)
}

/// The cause that an occupant is for a container that waits: [`SELF`] where it is the container's own.
#[inline(always)]
#[must_use]
pub const fn cause_for(occupant: u64, victim: u64) -> u64 {
    // Without a branch, each of which an old kernel's verifier would follow both ways in each round of a loop.
    let is_own = is_equal(occupant_slot(occupant), victim);
    (occupant >> CAUSE_SHIFT) * (1 - is_own) + is_own
}

/// 1 where two numbers below 2^63 are equal.
#[inline(always)]
#[must_use]
pub const fn is_equal(a: u64, b: u64) -> u64 {
    (a ^ b).wrapping_sub(1) >> 63
}

/// What others had of a wait, less what the quota had of that.
#[inline(always)]
#[must_use]
pub const fn scaled(part: u64, factor: u64) -> u64 {
    (part * factor) >> FACTOR_BITS
}

/// The factor by which what others had of a wait is scaled to what is left of it for them.
#[inline(always)]
#[must_use]
pub const fn factor(left: u64, others: u64) -> u64 {
    if left >= others {
        return WHOLE;
    }
    // Of 2^40 ns, 18 minutes, 2^24 are left to divide by.
    let (mut left, mut others) = (left, others);
    if others >= 1 << 40 {
        left >>= 16;
        others >>= 16;
    }
    // SAFETY: there was more of it than what is left, and it stays above 0 where it is shifted. Or there would be a
    // branch to a panic, which no program can have.
    unsafe { core::hint::assert_unchecked(others != 0) };
    (left << FACTOR_BITS) / others
}

#[cfg(test)]
mod tests;
