//! The wait ledger of `sched_switch`: what is decided is in [`ctrscope_ebpf::ledger`], here is where it stands.

use ctrscope_ebpf::{
    ledger::{
        self, CAUSES, KEPT_THROTTLES, KERNEL, ONLY_OWN, PAIRS as PAIRS_OF_CPU, QUOTA, SELF, Shares,
        Stretches, THROTTLED_QUEUES, Throttles, UNATTRIBUTED, WAKE_UP, WHOLE, Waited, beside,
        cause_for, factor, is_pair, not_throttled, pair_key, pair_place, scaled, throttles_place,
    },
    sched::{SchedSlot, departed, is_preempted, since_departure},
    slot,
};

use crate::{
    kernel::{self, Kernel, layout, load},
    maps::{PAIRS, SCHED, STRETCHES, THROTTLES},
};

/// Interrupts and the hypervisor.
const KERNEL_OCCUPANT: u64 = ledger::occupant(slot::KERNEL, KERNEL);

/// Who had a CPU until now.
#[inline(always)]
pub(super) fn occupant(task: Kernel, pid: u32, owner: u32) -> u64 {
    if pid == 0 {
        ledger::occupant(slot::IDLE, WAKE_UP)
    } else if kernel::is_kernel_thread(task) {
        ledger::occupant(slot::KERNEL, KERNEL)
    } else if slot::kind(owner) == slot::KIND_CONTAINER {
        ledger::occupant(slot::slot(owner), ledger::CONTAINER)
    } else {
        ledger::occupant(slot::slot(owner), ledger::SYSTEM)
    }
}

/// How long a queue was throttled in sum, by its own quota or one above, until now where the kernel says since when it is;
/// 0 where it does not say.
#[inline(always)]
pub(super) fn throttled_ns(queue: Kernel, now: u64) -> u64 {
    if layout!(cfs_rq_throttled_ns) == 0 {
        return 0;
    }
    let sum: u64 = load(queue, layout!(cfs_rq_throttled_ns));
    if layout!(cfs_rq_throttled_since) == 0 {
        return sum;
    }
    let since: u64 = load(queue, layout!(cfs_rq_throttled_since));
    if since == 0 || since > now {
        return sum;
    }
    sum + (now - since)
}

/// Whether a queue is throttled, by its own quota or one above.
#[inline(always)]
pub(super) fn is_throttled(queue: Kernel) -> bool {
    match layout!(cfs_rq_throttle_count) {
        0 => false,
        offset => load::<u32>(queue, offset) != 0,
    }
}

/// Where the throttling of a queue is kept; that of another queue if its own is not.
#[inline(always)]
fn throttles(cpu: u32, queue: u64) -> Option<*mut Throttles> {
    let place = cpu * THROTTLED_QUEUES + throttles_place(queue);
    let one = THROTTLES.get_ptr_mut(place)?;
    // SAFETY: the pointers come from the map, and only this CPU writes these elements.
    unsafe {
        if (*one).queue == queue {
            return Some(one);
        }
        let other = THROTTLES.get_ptr_mut(place ^ 1)?;
        let is_others = (*other).queue == queue || (*other).used_at < (*one).used_at;
        Some(if is_others { other } else { one })
    }
}

/// Notes that a task leaves the CPU whose queue is throttled (`is_throttled` is not 0), or of whose container one was seen to
/// be. A global function, out of the way of tasks that no quota concerns.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn left_watched(
    whose: u64,
    queue: u64,
    total_ns: u64,
    now: u64,
    is_throttled: u32,
) -> u32 {
    let cpu = (whose >> 32) as u32;
    let place = cpu * layout!(slots) + whose as u32;
    if let (Some(stats), Some(kept)) = (SCHED.get_ptr_mut(place), throttles(cpu, queue)) {
        // SAFETY: the pointers come from the maps, and only this CPU writes these elements.
        unsafe {
            (*stats).throttled = 1;
            (*kept).left(queue, total_ns, now, is_throttled != 0);
        }
    }
    0
}

/// [`left_watched`] where the queue is or was throttled; gives what it was in sum.
#[inline(always)]
pub(super) fn left(whose: u64, queue: Kernel, now: u64, is_throttled: bool) -> u64 {
    let total_ns = throttled_ns(queue, now);
    if total_ns != 0 || is_throttled {
        left_watched(
            whose,
            kernel::number(queue),
            total_ns,
            now,
            u32::from(is_throttled),
        );
    }
    total_ns
}

/// The quota's part of a wait that ends now on a queue that was throttled: exactly what the queue was throttled since the
/// task left it, where it was never off it, else by when it was.
#[inline(always)]
fn quota_part(cpu: u32, wait: &Waited) -> u64 {
    let total_ns = wait.throttled_ns;
    let part = throttled_part(cpu, wait.queue, total_ns, wait.queued, wait.now);
    if is_preempted(departed(wait.left_with)) {
        since_departure(wait.left_with, total_ns)
    } else {
        part
    }
}

/// What the times of throttling that are kept have of a wait; the CPU's [`Stretches`] have those times then. A global
/// function, which the kernel proves by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn throttled_part(
    cpu: u32,
    queue: u64,
    total_ns: u64,
    queued: u64,
    now: u64,
) -> u64 {
    let (Some(kept), Some(ring)) = (throttles(cpu, queue), STRETCHES.get_ptr_mut(cpu)) else {
        return 0;
    };
    // SAFETY: the pointers come from the map, and only this CPU writes these elements.
    unsafe {
        if (*kept).queue != queue {
            (*ring).throttled = [[0; 2]; KEPT_THROTTLES];
            return 0;
        }
        let counts_empty = layout!(cfs_rq_throttled_since) == 0;
        (*kept).got(total_ns, queued, now, counts_empty);
        (*ring).throttled = (*kept).times;
        (*kept).part_of(queued, now)
    }
}

/// Puts every nanosecond of a wait ([`Stretches::waited`]) under one cause, where a quota may have had a part. A global
/// function, out of the way of the others.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn split_watched(cpu: u32) -> u32 {
    let Some(ring) = STRETCHES.get_ptr_mut(cpu) else {
        return 0;
    };
    // SAFETY: the pointers come from the maps, and only this CPU writes these elements.
    unsafe {
        let wait = (*ring).waited;
        let Some(stats) = SCHED.get_ptr_mut(cpu * layout!(slots) + wait.victim) else {
            return 0;
        };
        let mut quota = 0;
        if wait.throttled_ns != 0 {
            let is_known = (*stats).throttled != 0 || is_preempted(departed(wait.left_with));
            (*stats).throttled = 1;
            if !is_known && let Some(kept) = throttles(cpu, wait.queue) {
                // It was throttled at some time, and whether it was in this wait nobody has noted.
                (*kept).left(wait.queue, wait.throttled_ns, wait.now, false);
                add(stats, UNATTRIBUTED, wait.whole);
                return 0;
            }
            quota = quota_part(cpu, &wait);
        }
        if quota == 0 {
            split(stats, ring, cpu, &wait);
        } else {
            split_throttled(stats, ring, cpu, &wait, quota);
        }
    }
    0
}

/// Charges what was waited on other CPUs; gives what was waited on this one, whether all of that is in the last slice, and what
/// of it is, nanoseconds.
#[inline(always)]
unsafe fn begin_split(
    stats: *mut SchedSlot,
    ring: *mut Stretches,
    wait: &Waited,
) -> (u64, bool, u64) {
    let here = wait.now - wait.queued;
    if wait.whole != here {
        let elsewhere = wait.whole.wrapping_sub(here);
        add(stats, wait.elsewhere as usize, elsewhere);
    }
    // SAFETY: by the caller.
    let begin = unsafe { (*ring).slice_begin };
    let is_within = begin <= wait.queued;
    let part = if is_within { here } else { wait.now - begin };
    (here, is_within, part)
}

/// Puts every nanosecond of a wait of which no quota had a part under one cause.
#[inline(always)]
pub(super) fn split(stats: *mut SchedSlot, ring: *mut Stretches, cpu: u32, wait: &Waited) {
    // SAFETY: pointers into maps, and only this CPU writes these elements.
    unsafe {
        let (here, is_within, part) = begin_split(stats, ring, wait);
        let interrupts = (*ring).interrupts_in(is_within, part, wait.now);
        if interrupts != 0 {
            add(stats, KERNEL, interrupts);
        }
        let own = part - interrupts;
        charge(stats, cpu, wait.victim, wait.last, [own, own], WHOLE);
        if !is_within {
            let counted = part + walk_all(ring, cpu, wait, WHOLE);
            let rest = here.wrapping_sub(counted);
            if rest != 0 {
                add(stats, UNATTRIBUTED, rest);
            }
        }
    }
}

/// Puts every nanosecond of a wait under one cause, of which its quota had at most so much.
#[inline(always)]
fn split_throttled(
    stats: *mut SchedSlot,
    ring: *mut Stretches,
    cpu: u32,
    wait: &Waited,
    quota: u64,
) {
    // SAFETY: pointers into maps, and only this CPU writes these elements.
    unsafe {
        let (here, is_within, part) = begin_split(stats, ring, wait);
        (*ring).has_throttled = 1;
        let left = not_throttled(ring, wait.now - part, wait.now);
        let is_own = ledger::occupant_slot(wait.last) == u64::from(wait.victim);
        let (mut own, others) = if is_own { (part, 0) } else { (0, left) };
        (*ring).others_ns = others;
        if !is_within {
            own += walk_all(ring, cpu, wait, ONLY_OWN);
        }
        let not_own = here.saturating_sub(own);
        let quota = quota.min(not_own);
        let factor_of_others = factor(not_own - quota, (*ring).others_ns);
        add(stats, QUOTA, quota);
        let mut counted = 0;
        let interrupts = (*ring).interrupts_in(is_within, part, wait.now);
        if interrupts != 0 {
            // Nobody's in particular.
            let part = scaled(interrupts.min(left), factor_of_others);
            add(stats, KERNEL, part);
            counted += part;
        }
        counted += charge(
            stats,
            cpu,
            wait.victim,
            wait.last,
            [part - interrupts, left.saturating_sub(interrupts)],
            factor_of_others,
        );
        if !is_within {
            counted += walk_all(ring, cpu, wait, factor_of_others);
        }
        (*ring).has_throttled = 0;
        let rest = here.wrapping_sub(quota).wrapping_sub(counted);
        if rest != 0 {
            add(stats, UNATTRIBUTED, rest);
        }
    }
}

/// Who had a CPU from its last switch until a task arrived whose arrival was not seen is nobody's to know. The wait before
/// that ([`Stretches::waited`]), where it is not 0, was all on this CPU; gives 1 where it is to be split, which this does not
/// do itself: the stack is shared with what a function calls. A global function, out of the way of the others.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn arrived_unseen(cpu: u32, now: u64) -> u32 {
    let Some(ring) = STRETCHES.get_ptr_mut(cpu) else {
        return 0;
    };
    // SAFETY: the pointers come from the maps, and only this CPU writes these elements.
    unsafe {
        let Waited {
            victim,
            now: arrived,
            whole,
            last,
            ..
        } = (*ring).waited;
        if arrived > (*ring).last && arrived < now {
            let clocks = [arrived, (*ring).last_task_clock + (arrived - (*ring).last)];
            append(ring, cpu, last, clocks, false);
            return u32::from(whole != 0);
        }
        if let Some(stats) = SCHED.get_ptr_mut(cpu * layout!(slots) + victim) {
            add(stats, UNATTRIBUTED, whole);
        }
    }
    0
}

/// Charges what is older than the last slice.
#[inline(always)]
unsafe fn walk_all(ring: *mut Stretches, cpu: u32, wait: &Waited, factor_of_others: u64) -> u64 {
    let Waited { victim, queued, .. } = *wait;
    let whose = u64::from(cpu) << 32 | u64::from(victim);
    let mut counted = walk_recent(whose, queued, factor_of_others);
    // SAFETY: by the caller.
    unsafe {
        if (*ring).walked_to > queued {
            counted += walk_stretches(whose, queued, factor_of_others);
        }
        if (*ring).walked_to > queued {
            counted += walk_older(whose, queued, factor_of_others);
        }
    }
    counted
}

/// Adds to a cause.
#[inline(always)]
pub(super) fn add(stats: *mut SchedSlot, cause: usize, ns: u64) {
    let mut index = cause as u64;
    // SAFETY: one register operation, which keeps the index within the causes in the verifier's eyes, too; `stats` points
    // into the map, and only this CPU writes this element.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) index, const CAUSES - 1, options(pure, nomem, nostack));
        let sum = (&raw mut (*stats).causes_ns)
            .cast::<u64>()
            .add(index as usize);
        *sum = (*sum).wrapping_add(ns);
    }
}

/// Charges a part of a wait, and what of it was not throttled, to who had the CPU; returns what is charged of it.
#[inline(always)]
fn charge(
    stats: *mut SchedSlot,
    cpu: u32,
    victim: u32,
    occupant: u64,
    [ns, left]: [u64; 2],
    factor_of_others: u64,
) -> u64 {
    let culprit = ledger::occupant_slot(occupant);
    if culprit == u64::from(victim) {
        add(stats, SELF, ns);
        return ns;
    }
    let cause = cause_for(occupant, u64::from(victim));
    let part = scaled(left, factor_of_others);
    add(stats, cause as usize, part);
    if is_pair(cause, culprit) != 0 && part != 0 {
        let key = pair_key(u64::from(victim), culprit);
        let place = cpu * PAIRS_OF_CPU + pair_place(cpu, u64::from(victim), culprit);
        // SAFETY: the pointers come from the map, and only this CPU writes these elements.
        unsafe {
            if let Some(pair) = PAIRS.get_ptr_mut(place)
                && !(*pair).take(key, part)
                && let Some(pair) = PAIRS.get_ptr_mut(beside(place))
                && !(*pair).take(key, part)
            {
                (*pair).lost_ns = (*pair).lost_ns.wrapping_add(part);
            }
        }
    }
    part
}

/// Adds a slice that ends now to those of its CPU.
#[inline(always)]
pub(super) fn append(
    ring: *mut Stretches,
    cpu: u32,
    occupant: u64,
    [now, task_clock]: [u64; 2],
    is_preempted: bool,
) {
    // SAFETY: the pointer comes from the map, and only this CPU writes this element.
    unsafe {
        ledger::append(ring, occupant, now, task_clock, is_preempted, || {
            fold_stretch(cpu);
        });
    }
}

/// A stretch of a CPU has ended. A global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fold_stretch(cpu: u32) -> u32 {
    if let Some(ring) = STRETCHES.get_ptr_mut(cpu) {
        // SAFETY: as above.
        unsafe {
            ledger::fold(ring, |occupant, ns| {
                put_part(cpu, occupant, ns);
            });
        }
    }
    0
}

/// Adds what an occupant had to the open span. A global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn put_part(cpu: u32, occupant: u64, ns: u64) -> u32 {
    if let Some(ring) = STRETCHES.get_ptr_mut(cpu) {
        // SAFETY: as above.
        unsafe { ledger::put_in_span(ring, occupant, ns) };
    }
    0
}

/// Charges what is in slices before the last one; with [`ONLY_OWN`] in place of a factor it only sums the victim's own. A
/// global function, which the kernel proves by itself, and so is what it calls for each part: inlined, an old one does
/// not come to an end.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_recent(whose: u64, queued: u64, factor_of_others: u64) -> u64 {
    let Some(ring) = STRETCHES.get_ptr_mut((whose >> 32) as u32) else {
        return 0;
    };
    // SAFETY: the pointer comes from the map, and only this CPU writes this element.
    unsafe {
        ledger::walk_slices(ring, queued, KERNEL_OCCUPANT, |occupant, ns, left| {
            charge_one(whose, occupant, ns, left, factor_of_others)
        })
    }
}

/// Charges what is in stretches.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_stretches(whose: u64, queued: u64, factor_of_others: u64) -> u64 {
    let Some(ring) = STRETCHES.get_ptr_mut((whose >> 32) as u32) else {
        return 0;
    };
    // SAFETY: as above.
    unsafe {
        ledger::walk(ring, queued, |number, shares| {
            charge_stretch(whose, number, shares.share, shares.left, factor_of_others)
        })
    }
}

/// Charges a share of a stretch.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn charge_stretch(
    whose: u64,
    number: u64,
    share: u64,
    left: u64,
    factor_of_others: u64,
) -> u64 {
    let Some(ring) = STRETCHES.get_ptr_mut((whose >> 32) as u32) else {
        return 0;
    };
    // SAFETY: as above.
    unsafe {
        let shares = Shares { share, left };
        ledger::parts_of_stretch(
            ring,
            number,
            shares,
            KERNEL_OCCUPANT,
            |occupant, ns, left| charge_one(whose, occupant, ns, left, factor_of_others),
        )
    }
}

/// Charges what is in spans.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_older(whose: u64, queued: u64, factor_of_others: u64) -> u64 {
    let Some(ring) = STRETCHES.get_ptr_mut((whose >> 32) as u32) else {
        return 0;
    };
    // SAFETY: as above.
    unsafe {
        ledger::walk_spans(ring, queued, |number, shares| {
            charge_span(whose, number, shares.share, shares.left, factor_of_others)
        })
    }
}

/// Charges a share of a span.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn charge_span(
    whose: u64,
    number: u64,
    share: u64,
    left: u64,
    factor_of_others: u64,
) -> u64 {
    let Some(ring) = STRETCHES.get_ptr_mut((whose >> 32) as u32) else {
        return 0;
    };
    // SAFETY: as above.
    unsafe {
        let shares = Shares { share, left };
        ledger::parts_of_span(
            ring,
            number,
            shares,
            KERNEL_OCCUPANT,
            |occupant, ns, left| charge_one(whose, occupant, ns, left, factor_of_others),
        )
    }
}

/// Charges a part of a wait, and what of it was not throttled, to who had the CPU; returns what is charged of it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn charge_one(
    whose: u64,
    occupant: u64,
    ns: u64,
    left: u64,
    factor_of_others: u64,
) -> u64 {
    let (cpu, victim) = ((whose >> 32) as u32, whose as u32);
    let culprit = ledger::occupant_slot(occupant);
    if factor_of_others == ONLY_OWN {
        let is_own = ledger::is_equal(culprit, u64::from(victim));
        if let Some(ring) = STRETCHES.get_ptr_mut(cpu) {
            // SAFETY: the pointer comes from the map, and only this CPU writes this element.
            unsafe {
                let others = (*ring).others_ns;
                (*ring).others_ns = others.wrapping_add(left * (1 - is_own));
            }
        }
        return ns * is_own;
    }
    if ns == 0 {
        return 0;
    }
    let Some(stats) = SCHED.get_ptr_mut(cpu * layout!(slots) + victim) else {
        return 0;
    };
    charge(stats, cpu, victim, occupant, [ns, left], factor_of_others)
}
