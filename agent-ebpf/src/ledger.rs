//! The wait ledger: who had the CPU while a task waited for it.
//!
//! A CPU keeps its last slices as [`Stretches`]. When a task gets the CPU, its wait is split over the slices that it
//! overlapped, from now back to when the task was queued, each under the cause that its occupant is for the one that
//! waited. The last [`SLICES`] are kept one by one. Older ones, of which a wait can have thousands where they last a few
//! microseconds, are summed by occupant, so that a walk of [`WALKED`] stretches reaches back for 16 ms of the shortest slices, and for longer of longer ones. What is
//! older than that stands in spans of 8 to 17 ms, summed from the stretches, of which a walk goes back one to two
//! seconds: a task of little weight beside busy ones of much waits that long.
//!
//! What its quota, or that of a cgroup above, took from the wait is told by the kernel: [`Throttles`].

use crate::slot;

mod pairs;
mod throttles;

pub use pairs::{
    PAIRS, PairSlot, beside, is_pair, pair_culprit, pair_key, pair_place, pair_victim,
};
pub use throttles::{KEPT_THROTTLES, THROTTLED_QUEUES, Throttles};

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

/// Slices kept of each CPU one by one; a power of two.
pub const SLICES: usize = 16;
/// Stretches kept of each CPU; a power of two.
pub const STRETCHES: usize = 64;
/// How many of them a walk goes back.
pub const WALKED: u64 = 32;
/// Occupants that a stretch can tell apart.
pub const OCCUPANTS: usize = 4;
/// The time within which slices are put into one stretch, nanoseconds.
pub const STRETCH_NS: u64 = 1 << 19;
/// A slice as long as this that ends by preemption closes its stretch, so that the wait that begins there begins with
/// a stretch. Of shorter ones a stretch must take in more, or a walk does not reach back far enough.
pub const CLOSING_NS: u64 = 1 << 18;

/// Spans kept of each CPU; a power of two. A walk goes back all of them.
pub const SPANS: usize = 128;
/// Places for occupants in a span; even.
pub const SPAN_OCCUPANTS: usize = 12;
/// Occupants that it can tell apart. What more containers have is put together in the place behind them, as
/// [`slot::ANY`]'s, and what more services have in the last one.
pub const SPAN_NAMED: usize = SPAN_OCCUPANTS - 2;
/// The time within which stretches are put into one span, nanoseconds.
pub const SPAN_NS: u64 = 1 << 24;
/// A span as long as this ends where a stretch was closed, for the same reason.
pub const CLOSING_SPAN_NS: u64 = 1 << 23;

/// A factor that leaves a part as it is.
pub const WHOLE: u64 = 1 << FACTOR_BITS;
/// In place of a factor: a walk only sums what was the waiting container's own.
pub const ONLY_OWN: u64 = WHOLE + 1;
const FACTOR_BITS: u32 = 16;

/// Bits of a share of a stretch.
const SHARE_BITS: u32 = 10;

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

/// A part of a wait, less what the quota had of it. What was the container's own was no part of the quota's.
#[inline(always)]
#[must_use]
pub const fn scaled(part: u64, cause: u64, factor: u64) -> u64 {
    let scaled = (part * factor) >> FACTOR_BITS;
    scaled + is_equal(cause, SELF as u64) * (part - scaled)
}

/// The factor by which what others had of a wait is scaled, so that with the quota's part and the own part the sum is
/// the wait.
#[inline(always)]
#[must_use]
pub const fn factor(wait: u64, own: u64, quota: u64) -> u64 {
    let others = wait.saturating_sub(own);
    if others <= quota {
        return 0;
    }
    // Of 2^40 ns, 18 minutes, 2^24 are left to divide by.
    let (mut rest, mut all) = (others - quota, others);
    if all >= 1 << 40 {
        rest >>= 16;
        all >>= 16;
    }
    // SAFETY: it is above the quota, and stays above 0 where it is shifted. Or there would be a branch to a panic,
    // which no program can have.
    unsafe { core::hint::assert_unchecked(all != 0) };
    (rest << FACTOR_BITS) / all
}

/// Words of a slice: when it began; its occupant, [`PREEMPTED`], and from the 32nd bit on what interrupts had of it.
pub type Slice = [u64; 2];
/// Set with the occupant of a slice that was preempted.
const PREEMPTED: u64 = 1 << 31;
const MOST_INTERRUPTS: u64 = u32::MAX as u64;

/// Words of a stretch: when it began, its occupants (two in each; 0 is none), their times, and what interrupts had. A
/// line of the cache.
pub type Stretch = [u64; 8];
const BEGIN: usize = 0;
const FIRST_TIME: usize = 1 + OCCUPANTS / 2;
const INTERRUPTS: usize = FIRST_TIME + OCCUPANTS;

/// Words of a span, as those of a stretch. Three lines.
pub type Span = [u64; 24];
const FIRST_SPAN_TIME: usize = 1 + SPAN_OCCUPANTS / 2;
const SPAN_INTERRUPTS: usize = FIRST_SPAN_TIME + SPAN_OCCUPANTS;

/// Where an occupant of a stretch or span is: each has half a word.
#[inline(always)]
unsafe fn occupant_at(one: *mut u64, place: usize) -> *mut u32 {
    // SAFETY: by the caller, `one` is a stretch or span that has so many.
    unsafe { one.cast::<u32>().add(2 + place) }
}

shared! {
    /// The last slices of a CPU, in the array `STRETCHES`: each by itself, or several short ones by occupant. Times are
    /// nanoseconds of the scheduler's clock (`rq->clock`).
    pub struct Stretches [29_056] {
        /// Number of the open one.
        pub head: u64,
        /// When the last slice ended; 0 before the first switch.
        pub last: u64,
        /// `rq->clock_task` then.
        pub last_task_clock: u64,
        /// When the last slice began.
        pub slice_begin: u64,
        /// What interrupts had of it.
        pub slice_interrupts_ns: u64,
        /// Number of the last slice.
        pub slice_head: u64,
        /// 1 if the next slice opens another stretch.
        pub is_closed: u64,
        /// Number of the open span.
        pub span_head: u64,
        /// When what is in spans ends: where the open stretch begins.
        pub span_end: u64,
        /// 1 if the next stretch opens another span.
        pub is_span_closed: u64,
        /// How far the last walk over slices or stretches came.
        pub walked_to: u64,
        /// When what is in stretches ends: where the oldest slice begins.
        pub stretch_end: u64,
        /// Zero, so that what follows begins with a line of the cache.
        pub reserved: [u64; 4],
        /// Slices by number.
        pub slices: [Slice; SLICES],
        /// Stretches by number.
        pub list: [Stretch; STRETCHES],
        /// Spans by number.
        pub spans: [Span; SPANS],
    }
}

/// Masks an index in a way that LLVM cannot see through: what it knows of it, the verifier does not, and it drops an
/// ordinary mask.
#[inline(always)]
fn masked<const MASK: usize>(index: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut index = index;
        // SAFETY: one register operation.
        unsafe {
            core::arch::asm!("{0} &= {1}", inout(reg) index, const MASK, options(pure, nomem, nostack));
        }
        index
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        index & MASK as u64
    }
}

/// Place of a slice by number.
#[inline(always)]
unsafe fn slice(ring: *mut Stretches, number: u64) -> *mut u64 {
    let index = masked::<{ SLICES - 1 }>(number);
    // SAFETY: by the caller, `ring` is valid; the index is within the list.
    unsafe {
        (&raw mut (*ring).slices)
            .cast::<Slice>()
            .add(index as usize)
            .cast()
    }
}

/// The same of a stretch.
#[inline(always)]
unsafe fn stretch(ring: *mut Stretches, number: u64) -> *mut u64 {
    let index = masked::<{ STRETCHES - 1 }>(number);
    // SAFETY: by the caller, `ring` is valid; the index is within the list.
    unsafe {
        (&raw mut (*ring).list)
            .cast::<Stretch>()
            .add(index as usize)
            .cast()
    }
}

/// The same of a span.
#[inline(always)]
unsafe fn span(ring: *mut Stretches, number: u64) -> *mut u64 {
    let index = masked::<{ SPANS - 1 }>(number);
    // SAFETY: as above.
    unsafe {
        (&raw mut (*ring).spans)
            .cast::<Span>()
            .add(index as usize)
            .cast()
    }
}

/// Adds the slice of an occupant that ends now. The difference of the two clocks is what interrupts and the hypervisor
/// had, where the kernel accounts for those. `fold` is to do what [`fold`] does: now and then a stretch has ended.
///
/// # Safety
///
/// `ring` is valid and nobody else's meanwhile.
#[inline(always)]
pub unsafe fn append(
    ring: *mut Stretches,
    occupant: u64,
    now: u64,
    task_clock: u64,
    is_preempted: bool,
    fold: impl FnOnce(),
) {
    // SAFETY: by the caller.
    unsafe {
        let begin = (*ring).last;
        let task_begin = (*ring).last_task_clock;
        (*ring).last = now;
        (*ring).last_task_clock = task_clock;
        if begin == 0 {
            // The first slice has no known begin.
            (*ring).slice_begin = now;
            (*ring).is_closed = 1;
            return;
        }
        let whole = now.saturating_sub(begin);
        let occupied = task_clock.wrapping_sub(task_begin);
        // Without such an account the two go alike.
        let mut interrupts = whole.saturating_sub(occupied);
        if interrupts > MOST_INTERRUPTS {
            interrupts = MOST_INTERRUPTS;
        }
        (*ring).slice_begin = begin;
        (*ring).slice_interrupts_ns = interrupts;
        let number = (*ring).slice_head.wrapping_add(1);
        (*ring).slice_head = number;
        let place = slice(ring, number);
        let (old_begin, old) = (*place, *place.add(1));
        *place = begin;
        *place.add(1) = occupant | (is_preempted as u64) << 31 | interrupts << 32;
        if old_begin != 0 {
            let old_end = *slice(ring, number.wrapping_add(1));
            add_to_stretch(ring, old, old_begin, old_end, fold);
        }
    }
}

/// Adds a slice that is not kept by itself any more to the open stretch, or to another one.
#[inline(always)]
unsafe fn add_to_stretch(
    ring: *mut Stretches,
    old: u64,
    begin: u64,
    end: u64,
    fold: impl FnOnce(),
) {
    // SAFETY: by the caller; `place` is bounded.
    unsafe {
        let occupant = (old & (PREEMPTED - 1)) as u32;
        let interrupts = old >> 32;
        let whole = end.wrapping_sub(begin);
        let mut open = stretch(ring, (*ring).head);
        let mut place = 0;
        let mut fits = false;
        if (*ring).is_closed == 0 && end.wrapping_sub(*open.add(BEGIN)) <= STRETCH_NS {
            while place < OCCUPANTS {
                let there = *occupant_at(open, place);
                if there == occupant || there == 0 {
                    fits = true;
                    break;
                }
                place += 1;
            }
        }
        if !fits {
            (*ring).stretch_end = begin;
            fold();
            let head = (*ring).head.wrapping_add(1);
            (*ring).head = head;
            open = stretch(ring, head);
            *open.add(BEGIN) = begin;
            let mut word = 1;
            while word < size_of::<Stretch>() / 8 {
                *open.add(word) = 0;
                word += 1;
            }
            place = 0;
        }
        let place = place & (OCCUPANTS - 1);
        *occupant_at(open, place) = occupant;
        *open.add(FIRST_TIME + place) += whole.wrapping_sub(interrupts);
        *open.add(INTERRUPTS) += interrupts;
        (*ring).stretch_end = end;
        (*ring).is_closed = (old & PREEMPTED != 0 && whole >= CLOSING_NS) as u64;
    }
}

/// Adds the open stretch, which has ended, to the spans: gives each occupant and what it had to `put`, which is to do what
/// [`put_in_span`] does.
///
/// # Safety
///
/// As [`append`].
#[inline(always)]
pub unsafe fn fold(ring: *mut Stretches, mut put: impl FnMut(u64, u64)) {
    // SAFETY: by the caller.
    unsafe {
        let done = stretch(ring, (*ring).head);
        let begin = *done.add(BEGIN);
        if begin == 0 {
            return;
        }
        let end = (*ring).stretch_end;
        let mut open = span(ring, (*ring).span_head);
        let opened = *open.add(BEGIN);
        if opened == 0 || (*ring).is_span_closed != 0 || end.wrapping_sub(opened) > SPAN_NS {
            let head = (*ring).span_head.wrapping_add(1);
            (*ring).span_head = head;
            open = span(ring, head);
            *open.add(BEGIN) = begin;
            let mut word = 1;
            while word < size_of::<Span>() / 8 {
                *open.add(word) = 0;
                word += 1;
            }
        }
        let mut k = 0;
        while k < OCCUPANTS {
            let occupant = *occupant_at(done, k);
            if occupant == 0 {
                break;
            }
            put(u64::from(occupant), *done.add(FIRST_TIME + k));
            k += 1;
        }
        *open.add(SPAN_INTERRUPTS) += *done.add(INTERRUPTS);
        (*ring).span_end = end;
        let is_long = end.wrapping_sub(*open.add(BEGIN)) >= CLOSING_SPAN_NS;
        (*ring).is_span_closed = (is_long && (*ring).is_closed != 0) as u64;
    }
}

/// Adds what an occupant had to the open span.
///
/// # Safety
///
/// As [`append`].
#[inline(always)]
pub unsafe fn put_in_span(ring: *mut Stretches, occupant: u64, ns: u64) {
    // SAFETY: by the caller.
    unsafe {
        let open = span(ring, (*ring).span_head);
        let mut place = 0;
        while place < SPAN_NAMED {
            let there = *occupant_at(open, place);
            if there == occupant as u32 || there == 0 {
                *occupant_at(open, place) = occupant as u32;
                *open.add(FIRST_SPAN_TIME + place) += ns;
                return;
            }
            place += 1;
        }
        let cause = occupant >> CAUSE_SHIFT;
        if cause == CONTAINER as u64 || cause == SYSTEM as u64 {
            let place = SPAN_NAMED + masked::<1>(cause - CONTAINER as u64) as usize;
            *occupant_at(open, place) = self::occupant(slot::ANY, cause as usize) as u32;
            *open.add(FIRST_SPAN_TIME + place) += ns;
        }
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
    mut charge: impl FnMut(u64, u64) -> u64,
) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        let head = (*ring).slice_head;
        let mut end = (*ring).slice_begin;
        let mut interrupted = 0_u64;
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
            let mut taken = word >> 32;
            if taken != 0 {
                let length = end - begin;
                let length = length + is_equal(length, 0);
                core::hint::assert_unchecked(length != 0);
                // In 1,024ths.
                taken = (taken * ((ns << SHARE_BITS) / length)) >> SHARE_BITS;
            }
            interrupted += taken;
            sum += charge(word & (PREEMPTED - 1), ns - taken);
            end = begin;
            i += 1;
        }
        (*ring).walked_to = end;
        sum + charge(interrupts, interrupted)
    }
}

/// Walks on over stretches where [`walk_slices`] has ended: gives the number of each to `visit`, and how much of it is in
/// that time, in 1,024ths; and the sum of what that returns back. How far it came is in [`Stretches::walked_to`] again:
/// [`walk_spans`] goes on.
///
/// # Safety
///
/// As [`append`].
#[inline(always)]
pub unsafe fn walk(
    ring: *mut Stretches,
    queued: u64,
    mut visit: impl FnMut(u64, u64) -> u64,
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
            sum += visit(number, (end.wrapping_sub(late) << SHARE_BITS) / length);
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
    share: u64,
    interrupts: u64,
    mut charge: impl FnMut(u64, u64) -> u64,
) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        let one = stretch(ring, number);
        let mut sum = charge(interrupts, (*one.add(INTERRUPTS) * share) >> SHARE_BITS);
        let mut k = 0;
        while k < OCCUPANTS {
            let there = u64::from(*occupant_at(one, k));
            if there == 0 {
                break;
            }
            sum += charge(there, (*one.add(FIRST_TIME + k) * share) >> SHARE_BITS);
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
    mut visit: impl FnMut(u64, u64) -> u64,
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
                sum += visit(number, ((early - late) << SHARE_BITS) / length);
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
    share: u64,
    interrupts: u64,
    mut charge: impl FnMut(u64, u64) -> u64,
) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        let one = span(ring, number);
        let ns = *one.add(SPAN_INTERRUPTS);
        let mut sum = charge(interrupts, (ns * share) >> SHARE_BITS);
        let mut k = 0;
        while k < SPAN_OCCUPANTS {
            let there = u64::from(*occupant_at(one, k));
            let ns = *one.add(FIRST_SPAN_TIME + k);
            sum += charge(there, (ns * share) >> SHARE_BITS);
            k += 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests;
