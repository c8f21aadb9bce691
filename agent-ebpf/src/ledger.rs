//! The wait ledger: who had the CPU while a task waited for it.
//!
//! A CPU keeps its last slices as [`Stretches`]. When a task gets the CPU, its wait is split over the slices that it
//! overlapped, from now back to when the task was queued, each under the cause that its occupant is for the one that
//! waited. Slices of a few microseconds, of which a wait can have thousands, are summed by occupant, so that a walk
//! of [`WALKED`] stretches reaches back for 16 ms of the shortest slices, and for longer of longer ones. What is
//! older than that stands in spans of 8 to 17 ms, summed from the stretches, of which a walk goes back one to two
//! seconds: a task of little weight beside busy ones of much waits that long.
//!
//! What its quota, or that of a cgroup above, took from the wait is told by the kernel: [`Throttles`].

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
/// Occupants that a span can tell apart; what more have is nobody's.
pub const SPAN_OCCUPANTS: usize = 8;
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

/// Words of a stretch: when it began, its occupants (two in each; 0 is none), their times, and what interrupts had. A
/// line of the cache.
pub type Stretch = [u64; 8];
const BEGIN: usize = 0;
const FIRST_TIME: usize = 1 + OCCUPANTS / 2;
const INTERRUPTS: usize = FIRST_TIME + OCCUPANTS;

/// Words of a span, as those of a stretch. Two lines.
pub type Span = [u64; 16];
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
    pub struct Stretches [20_608] {
        /// Number of the open one.
        pub head: u64,
        /// When the last slice ended; 0 before the first switch.
        pub last: u64,
        /// `rq->clock_task` then.
        pub last_task_clock: u64,
        /// When the last slice began.
        pub slice_begin: u64,
        /// What its occupant had of it.
        pub slice_ns: u64,
        /// What interrupts had of it.
        pub slice_interrupts_ns: u64,
        /// 1 if the next slice opens another stretch.
        pub is_closed: u64,
        /// Number of the open span.
        pub span_head: u64,
        /// When what is in spans ends: where the open stretch begins.
        pub span_end: u64,
        /// 1 if the next stretch opens another span.
        pub is_span_closed: u64,
        /// How far the last walk over stretches came.
        pub walked_to: u64,
        /// Zero, so that what follows begins with a line of the cache.
        pub reserved: [u64; 5],
        /// Stretches by number.
        pub list: [Stretch; STRETCHES],
        /// Spans by number.
        pub spans: [Span; SPANS],
    }
}

/// Keeps the number of a stretch within the list, in a way that LLVM cannot see through: what it knows, the verifier
/// does not.
#[inline(always)]
unsafe fn stretch(ring: *mut Stretches, number: u64) -> *mut u64 {
    #[allow(unused_mut, reason = "of one architecture")]
    let mut index = number;
    #[cfg(target_arch = "bpf")]
    // SAFETY: one register operation.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) index, const STRETCHES - 1, options(pure, nomem, nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    let index = index & (STRETCHES as u64 - 1);
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
    #[allow(unused_mut, reason = "of one architecture")]
    let mut index = number;
    #[cfg(target_arch = "bpf")]
    // SAFETY: one register operation.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) index, const SPANS - 1, options(pure, nomem, nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    let index = index & (SPANS as u64 - 1);
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
    // SAFETY: by the caller; `place` is bounded.
    unsafe {
        let begin = (*ring).last;
        let task_begin = (*ring).last_task_clock;
        (*ring).last = now;
        (*ring).last_task_clock = task_clock;
        if begin == 0 || begin > now {
            // The first slice has no known begin.
            (*ring).slice_begin = now;
            (*ring).slice_ns = 0;
            (*ring).slice_interrupts_ns = 0;
            (*ring).is_closed = 1;
            return;
        }
        let whole = now - begin;
        let occupied = task_clock.wrapping_sub(task_begin);
        // Without such an account the two go alike.
        let interrupts = whole.saturating_sub(occupied);
        (*ring).slice_begin = begin;
        (*ring).slice_ns = whole - interrupts;
        (*ring).slice_interrupts_ns = interrupts;
        let mut open = stretch(ring, (*ring).head);
        let mut place = 0;
        let mut fits = false;
        if (*ring).is_closed == 0 && now.wrapping_sub(*open.add(BEGIN)) <= STRETCH_NS {
            while place < OCCUPANTS {
                let there = *occupant_at(open, place);
                if there == occupant as u32 || there == 0 {
                    fits = true;
                    break;
                }
                place += 1;
            }
        }
        if !fits {
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
        *occupant_at(open, place) = occupant as u32;
        *open.add(FIRST_TIME + place) += whole - interrupts;
        *open.add(INTERRUPTS) += interrupts;
        (*ring).is_closed = (is_preempted && whole >= CLOSING_NS) as u64;
    }
}

/// Adds the open stretch, which ends where the last slice begins, to the spans.
///
/// # Safety
///
/// As [`append`].
#[inline(always)]
pub unsafe fn fold(ring: *mut Stretches) {
    // SAFETY: by the caller.
    unsafe {
        let done = stretch(ring, (*ring).head);
        let begin = *done.add(BEGIN);
        if begin == 0 {
            return;
        }
        let end = (*ring).slice_begin;
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
            let ns = *done.add(FIRST_TIME + k);
            let mut place = 0;
            while place < SPAN_OCCUPANTS {
                let there = *occupant_at(open, place);
                if there == occupant || there == 0 {
                    *occupant_at(open, place) = occupant;
                    *open.add(FIRST_SPAN_TIME + place) += ns;
                    break;
                }
                place += 1;
            }
            k += 1;
        }
        *open.add(SPAN_INTERRUPTS) += *done.add(INTERRUPTS);
        (*ring).span_end = end;
        let is_long = end.wrapping_sub(*open.add(BEGIN)) >= CLOSING_SPAN_NS;
        (*ring).is_span_closed = (is_long && (*ring).is_closed != 0) as u64;
    }
}

/// Walks back over stretches from the begin of the last slice to when a wait began: gives the number of each to `visit`,
/// and how much of it is in that time, in 1,024ths; and the sum of what that returns back. How far it came is in
/// [`Stretches::walked_to`]: [`walk_spans`] goes on.
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
        let mut end = (*ring).slice_begin;
        let mut sum = 0_u64;
        let mut i = 0;
        while i < WALKED {
            let number = head.wrapping_sub(i);
            let begin = *stretch(ring, number).add(BEGIN);
            if begin > end {
                break;
            }
            let late = if begin >= queued { begin } else { queued };
            // One that begins where the last slice does has nothing else.
            let length = end - begin;
            let length = length + is_equal(length, 0);
            // Or there would be a branch to a panic, which no program can have.
            core::hint::assert_unchecked(length != 0);
            sum += visit(number, (end.wrapping_sub(late) << SHARE_BITS) / length);
            end = begin;
            i += 1;
            if begin <= queued {
                break;
            }
        }
        (*ring).walked_to = end;
        sum
    }
}

/// Gives each occupant of a stretch and a share of what it had to `charge`, and the sum of what that returns back.
/// `last` is who had the last slice, where the stretch is the one that it is in: that is charged already; else 0. What
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
    [last, interrupts]: [u64; 2],
    mut charge: impl FnMut(u64, u64) -> u64,
) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        let one = stretch(ring, number);
        let is_first = 1 - is_equal(last, 0);
        let less = (*ring).slice_interrupts_ns * is_first;
        let ns = (*one.add(INTERRUPTS)).wrapping_sub(less);
        let mut sum = charge(interrupts, (ns * share) >> SHARE_BITS);
        let mut k = 0;
        while k < OCCUPANTS {
            let there = u64::from(*occupant_at(one, k));
            if there == 0 {
                break;
            }
            let less = (*ring).slice_ns * is_equal(there, last);
            let ns = (*one.add(FIRST_TIME + k)).wrapping_sub(less);
            sum += charge(there, (ns * share) >> SHARE_BITS);
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
            if there == 0 {
                break;
            }
            let ns = *one.add(FIRST_SPAN_TIME + k);
            sum += charge(there, (ns * share) >> SHARE_BITS);
            k += 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests;
