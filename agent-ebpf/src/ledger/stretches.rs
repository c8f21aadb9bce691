//! The last slices of a CPU: one by one, and summed in stretches and spans.

use super::{CAUSE_SHIFT, CONTAINER, SYSTEM, throttles::Times};
use crate::slot;

/// Slices kept of each CPU one by one; a power of two.
pub const SLICES: usize = 16;
/// Stretches kept of each CPU; a power of two.
pub const STRETCHES: usize = 64;
/// How many of them a walk goes back.
pub const WALKED: u64 = 32;
/// Occupants that a stretch can tell apart.
pub const OCCUPANTS: usize = 4;
/// The time within which slices are put into one stretch, nanoseconds.
const STRETCH_NS: u64 = 1 << 19;
/// A slice as long as this that ends by preemption closes its stretch, so that the wait that begins there begins with
/// a stretch. Of shorter ones a stretch must take in more, or a walk does not reach back far enough.
const CLOSING_NS: u64 = 1 << 18;

/// Spans kept of each CPU; a power of two. A walk goes back all of them.
pub const SPANS: usize = 128;
/// Places for occupants in a span; even.
pub const SPAN_OCCUPANTS: usize = 12;
/// Occupants that it can tell apart. What more containers have is put together in the place behind them, as
/// [`slot::ANY`]'s, and what more services have in the last one.
const SPAN_NAMED: usize = SPAN_OCCUPANTS - 2;
/// The time within which stretches are put into one span, nanoseconds.
const SPAN_NS: u64 = 1 << 24;
/// A span as long as this ends where a stretch was closed, for the same reason.
const CLOSING_SPAN_NS: u64 = 1 << 23;

/// Words of a slice: when it began; its occupant, [`PREEMPTED`], and from the 32nd bit on what interrupts had of it.
pub type Slice = [u64; 2];
/// Set with the occupant of a slice that was preempted.
pub(super) const PREEMPTED: u64 = 1 << 31;
const MOST_INTERRUPTS: u64 = u32::MAX as u64;

/// Words of a stretch: when it began, its occupants (two in each; 0 is none), their times, and what interrupts had. A
/// line of the cache.
pub type Stretch = [u64; 8];
pub(super) const BEGIN: usize = 0;
pub(super) const FIRST_TIME: usize = 1 + OCCUPANTS / 2;
pub(super) const INTERRUPTS: usize = FIRST_TIME + OCCUPANTS;

/// Words of a span, as those of a stretch. Three lines.
pub type Span = [u64; 24];
pub(super) const FIRST_SPAN_TIME: usize = 1 + SPAN_OCCUPANTS / 2;
pub(super) const SPAN_INTERRUPTS: usize = FIRST_SPAN_TIME + SPAN_OCCUPANTS;

/// Where an occupant of a stretch or span is: each has half a word.
#[inline(always)]
pub(super) unsafe fn occupant_at(one: *mut u64, place: usize) -> *mut u32 {
    // SAFETY: by the caller, `one` is a stretch or span that has so many.
    unsafe { one.cast::<u32>().add(2 + place) }
}

shared! {
    /// A wait that has ended.
    pub struct Waited [64] {
        /// Since when the task waited on this CPU.
        pub queued: u64,
        /// When it got it.
        pub now: u64,
        /// All that it waited, on other CPUs as well, nanoseconds.
        pub whole: u64,
        /// Who had the CPU last.
        pub last: u64,
        /// A number of its run queue, a function of the address.
        pub queue: u64,
        /// What that was throttled in sum, nanoseconds.
        pub throttled_ns: u64,
        /// Slot of the container that waited.
        pub victim: u32,
        /// The cause of what it waited on other CPUs.
        pub elsewhere: u32,
        /// The departure that it began with, where the task was on no other queue since; else 0.
        pub left_with: u32,
        /// Zero.
        pub reserved: u32,
    }
}

shared! {
    /// The last slices of a CPU, in the array `STRETCHES`: each by itself, or several short ones by occupant. Times are
    /// nanoseconds of the scheduler's clock (`rq->clock`). What every switch writes comes first, in one line of the cache.
    pub struct Stretches [29_184] {
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
        /// When what is in stretches ends: where the oldest slice begins.
        pub stretch_end: u64,
        /// When what is in spans ends: where the open stretch begins.
        pub span_end: u64,
        /// 1 if the next stretch opens another span.
        pub is_span_closed: u64,
        /// How far the last walk over slices or stretches came.
        pub walked_to: u64,
        /// Number of the open span.
        pub span_head: u64,
        /// 1 while a wait is charged in which the quota had a part.
        pub has_throttled: u64,
        /// What others had of that wait outside of [`throttled`](Self::throttled).
        pub others_ns: u64,
        /// Zero, so that what follows begins with a line of the cache.
        pub reserved: [u64; 2],
        /// A wait that is charged out of the way of most.
        pub waited: Waited,
        /// When the quota kept the container that waited from running.
        pub throttled: Times,
        /// Slices by number.
        pub slices: [Slice; SLICES],
        /// Stretches by number.
        pub list: [Stretch; STRETCHES],
        /// Spans by number.
        pub spans: [Span; SPANS],
    }
}

impl Stretches {
    /// What interrupts had of a part at the end of the last slice, which ends now; of all of it if the part is not within.
    #[inline(always)]
    #[must_use]
    pub const fn interrupts_in(&self, is_within: bool, part: u64, now: u64) -> u64 {
        let interrupts = self.slice_interrupts_ns;
        if interrupts == 0 || !is_within {
            return interrupts;
        }
        let length = now.wrapping_sub(self.slice_begin);
        interrupts * (part >> 8) / ((length >> 8) + 1)
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

/// A slice by its number.
#[inline(always)]
pub(super) unsafe fn slice(ring: *mut Stretches, number: u64) -> *mut u64 {
    let index = masked::<{ SLICES - 1 }>(number) as usize;
    // SAFETY: by the caller, `ring` is valid; the index is within the list.
    unsafe { (&raw mut (*ring).slices).cast::<Slice>().add(index).cast() }
}

/// A stretch by its number.
#[inline(always)]
pub(super) unsafe fn stretch(ring: *mut Stretches, number: u64) -> *mut u64 {
    let index = masked::<{ STRETCHES - 1 }>(number) as usize;
    // SAFETY: as above.
    unsafe { (&raw mut (*ring).list).cast::<Stretch>().add(index).cast() }
}

/// A span by its number.
#[inline(always)]
pub(super) unsafe fn span(ring: *mut Stretches, number: u64) -> *mut u64 {
    let index = masked::<{ SPANS - 1 }>(number) as usize;
    // SAFETY: as above.
    unsafe { (&raw mut (*ring).spans).cast::<Span>().add(index).cast() }
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
            *occupant_at(open, place) = super::occupant(slot::ANY, cause as usize) as u32;
            *open.add(FIRST_SPAN_TIME + place) += ns;
        }
    }
}
