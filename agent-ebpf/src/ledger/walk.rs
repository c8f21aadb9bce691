//! Walks back over the slices of a CPU, from its last switch to when a wait began.
//!
//! Each part has two numbers: what an occupant had of the wait, and what of that while the container that waited was not
//! throttled ([`Stretches::throttled`]). In stretches and spans the second is by share.

use super::{
    is_equal, outside,
    stretches::{
        BEGIN, FIRST_SPAN_TIME, FIRST_TIME, INTERRUPTS, OCCUPANTS, PREEMPTED, SLICES,
        SPAN_INTERRUPTS, SPAN_OCCUPANTS, SPANS, Stretches, WALKED, occupant_at, slice, span,
        stretch,
    },
};

/// Bits of a share of a stretch.
const SHARE_BITS: u32 = 10;

/// How much of a stretch or span is in a wait, and in it and not throttled, in 1,024ths.
#[derive(Clone, Copy)]
pub struct Shares {
    /// In the wait.
    pub share: u64,
    /// And not throttled.
    pub left: u64,
}

impl Shares {
    #[inline(always)]
    const fn of(self, ns: u64) -> u64 {
        (ns * self.share) >> SHARE_BITS
    }

    #[inline(always)]
    const fn left_of(self, ns: u64) -> u64 {
        (ns * self.left) >> SHARE_BITS
    }
}

/// What of a part of a wait was while the container that waited was not throttled.
///
/// # Safety
///
/// As [`append`](super::append).
#[inline(always)]
pub unsafe fn not_throttled(ring: *mut Stretches, begin: u64, end: u64) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        if (*ring).has_throttled == 0 {
            return end - begin;
        }
        outside(&(*ring).throttled, begin, end)
    }
}

/// Walks back over the slices before the last one, to when a wait began: gives each occupant and what it had of that time
/// to `charge`, and the sum of what that returns back. What interrupts had is `interrupts`'. How far it came is in
/// [`Stretches::walked_to`]: [`walk`] goes on.
///
/// # Safety
///
/// As [`append`].
#[inline(always)]
pub unsafe fn walk_slices(
    ring: *mut Stretches,
    queued: u64,
    interrupts: u64,
    mut charge: impl FnMut(u64, u64, u64) -> u64,
) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        let head = (*ring).slice_head;
        let mut end = (*ring).slice_begin;
        let mut interrupted = 0_u64;
        let mut interrupted_left = 0_u64;
        let mut sum = 0_u64;
        let mut i = 1;
        while i < SLICES as u64 {
            let one = slice(ring, head.wrapping_sub(i));
            let begin = *one;
            if begin == 0 || begin > end || end <= queued {
                break;
            }
            let word = *one.add(1);
            let late = if begin >= queued { begin } else { queued };
            let ns = end - late;
            let left = not_throttled(ring, late, end);
            let mut taken = word >> 32;
            let mut taken_left = 0;
            if taken != 0 {
                let length = end - begin;
                let length = length + is_equal(length, 0);
                core::hint::assert_unchecked(length != 0);
                // In 1,024ths.
                taken_left = (taken * ((left << SHARE_BITS) / length)) >> SHARE_BITS;
                taken = (taken * ((ns << SHARE_BITS) / length)) >> SHARE_BITS;
            }
            interrupted += taken;
            interrupted_left += taken_left;
            sum += charge(word & (PREEMPTED - 1), ns - taken, left - taken_left);
            end = begin;
            i += 1;
        }
        (*ring).walked_to = end;
        sum + charge(interrupts, interrupted, interrupted_left)
    }
}

/// Walks on over stretches where [`walk_slices`] has ended: gives the number of each to `visit`, and how much of it is in
/// that time, and in that time and not throttled, in 1,024ths; and the sum of what that returns back. How far it came is
/// in [`Stretches::walked_to`] again: [`walk_spans`] goes on.
///
/// # Safety
///
/// As [`append`].
#[inline(always)]
pub unsafe fn walk(
    ring: *mut Stretches,
    queued: u64,
    mut visit: impl FnMut(u64, Shares) -> u64,
) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        let head = (*ring).head;
        let mut end = (*ring).stretch_end;
        let mut sum = 0_u64;
        let mut i = 0;
        while i < WALKED {
            let number = head.wrapping_sub(i);
            let begin = *stretch(ring, number).add(BEGIN);
            if begin == 0 || begin > end || end <= queued {
                break;
            }
            let late = if begin >= queued { begin } else { queued };
            let length = end - begin;
            let length = length + is_equal(length, 0);
            // Or there would be a branch to a panic, which no program can have.
            core::hint::assert_unchecked(length != 0);
            let shares = Shares {
                share: ((end - late) << SHARE_BITS) / length,
                left: (not_throttled(ring, late, end) << SHARE_BITS) / length,
            };
            sum += visit(number, shares);
            end = begin;
            i += 1;
        }
        (*ring).walked_to = end;
        sum
    }
}

/// Gives each occupant of a stretch and a share of what it had to `charge`, and the sum of what that returns back. What
/// interrupts had is `interrupts`'.
///
/// # Safety
///
/// As [`append`].
#[inline(always)]
pub unsafe fn parts_of_stretch(
    ring: *mut Stretches,
    number: u64,
    shares: Shares,
    interrupts: u64,
    mut charge: impl FnMut(u64, u64, u64) -> u64,
) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        let one = stretch(ring, number);
        let ns = *one.add(INTERRUPTS);
        let mut sum = charge(interrupts, shares.of(ns), shares.left_of(ns));
        let mut k = 0;
        while k < OCCUPANTS {
            let there = u64::from(*occupant_at(one, k));
            if there == 0 {
                break;
            }
            let ns = *one.add(FIRST_TIME + k);
            sum += charge(there, shares.of(ns), shares.left_of(ns));
            k += 1;
        }
        sum
    }
}

/// Walks on over spans where [`walk`] has ended, in the same way.
///
/// # Safety
///
/// As [`append`].
#[inline(always)]
pub unsafe fn walk_spans(
    ring: *mut Stretches,
    queued: u64,
    mut visit: impl FnMut(u64, Shares) -> u64,
) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        let head = (*ring).span_head;
        let until = (*ring).walked_to;
        let mut end = (*ring).span_end;
        let mut sum = 0_u64;
        let mut i = 0;
        while i < SPANS as u64 {
            let number = head.wrapping_sub(i);
            let begin = *span(ring, number).add(BEGIN);
            if begin == 0 || begin >= end {
                break;
            }
            let late = if begin >= queued { begin } else { queued };
            let early = if end <= until { end } else { until };
            if early > late {
                let length = end - begin;
                core::hint::assert_unchecked(length != 0);
                let shares = Shares {
                    share: ((early - late) << SHARE_BITS) / length,
                    left: (not_throttled(ring, late, early) << SHARE_BITS) / length,
                };
                sum += visit(number, shares);
            }
            end = begin;
            i += 1;
            if begin <= queued {
                break;
            }
        }
        sum
    }
}

/// [`parts_of_stretch`] of a span.
///
/// # Safety
///
/// As [`append`].
#[inline(always)]
pub unsafe fn parts_of_span(
    ring: *mut Stretches,
    number: u64,
    shares: Shares,
    interrupts: u64,
    mut charge: impl FnMut(u64, u64, u64) -> u64,
) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        let one = span(ring, number);
        let ns = *one.add(SPAN_INTERRUPTS);
        let mut sum = charge(interrupts, shares.of(ns), shares.left_of(ns));
        let mut k = 0;
        while k < SPAN_OCCUPANTS {
            let there = u64::from(*occupant_at(one, k));
            let ns = *one.add(FIRST_SPAN_TIME + k);
            sum += charge(there, shares.of(ns), shares.left_of(ns));
            k += 1;
        }
        sum
    }
}
