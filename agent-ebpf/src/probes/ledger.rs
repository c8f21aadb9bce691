//! The wait ledger of `sched_switch`: what is decided is in [`ctrscope_ebpf::ledger`], here is where it stands.

use ctrscope_ebpf::{
    ledger::{
        self, CAUSES, KERNEL, MIGRATED, ONLY_OWN, PAIRS as PAIRS_OF_CPU, QUOTA, SELF, Stretches,
        THROTTLED_QUEUES, Throttles, UNATTRIBUTED, WAKE_UP, WHOLE, beside, cause_for, factor,
        is_pair, pair_key, pair_place, scaled,
    },
    sched::{SchedSlot, since_departure},
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

#[inline(always)]
fn throttles(cpu: u32, slot: u32) -> Option<*mut Throttles> {
    THROTTLES.get_ptr_mut(cpu * THROTTLED_QUEUES + (slot & (THROTTLED_QUEUES - 1)))
}

/// Notes that a task of a queue that is or was throttled leaves the CPU.
#[inline(always)]
pub(super) fn left(
    cpu: u32,
    slot: u32,
    queue: Kernel,
    total_ns: u64,
    now: u64,
    is_throttled: bool,
) {
    if let Some(kept) = throttles(cpu, slot) {
        // SAFETY: the pointer comes from the map, and only this CPU writes this element.
        unsafe { (*kept).left(queue as u64, total_ns, now, is_throttled) }
    }
}

/// The quota's part of a wait that ends now on a queue that was throttled: exactly what the queue was throttled since the
/// task left it, where it was never off it (`left_with`), else by when it was.
#[inline(always)]
pub(super) fn quota_part(
    cpu: u32,
    slot: u32,
    queue: Kernel,
    total_ns: u64,
    [queued, now]: [u64; 2],
    left_with: Option<u32>,
) -> u64 {
    let mut part = 0;
    if let Some(kept) = throttles(cpu, slot) {
        // SAFETY: as above.
        if unsafe { (*kept).queue } == queue as u64 {
            part = throttled_part(cpu, slot, total_ns, queued, now);
        }
    }
    match left_with {
        Some(departure) => since_departure(departure, total_ns),
        None => part,
    }
}

/// What the times of throttling that are kept have of a wait. A global function, which the kernel proves by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn throttled_part(cpu: u32, slot: u32, total_ns: u64, queued: u64, now: u64) -> u64 {
    let Some(kept) = throttles(cpu, slot) else {
        return 0;
    };
    // SAFETY: the pointer comes from the map, and only this CPU writes this element.
    unsafe {
        let counts_empty = layout!(cfs_rq_throttled_since) == 0;
        (*kept).got(total_ns, queued, now, counts_empty);
        (*kept).part_of(queued, now)
    }
}

/// A wait that ends now.
pub(super) struct Wait {
    pub(super) cpu: u32,
    /// Slot of the container that waited.
    pub(super) victim: u32,
    /// Since when it waited on this CPU.
    pub(super) queued: u64,
    pub(super) now: u64,
    /// All of it, on other CPUs as well, nanoseconds.
    pub(super) whole: u64,
    /// What its quota had of it at most.
    pub(super) quota: u64,
    /// Who had the CPU last.
    pub(super) last: u64,
}

/// Puts every nanosecond of a wait under one cause.
#[inline(always)]
pub(super) fn split(stats: *mut SchedSlot, wait: &Wait) {
    let here = wait.now - wait.queued;
    if wait.whole != here {
        add(stats, MIGRATED, wait.whole.wrapping_sub(here));
    }
    let Some(ring) = STRETCHES.get_ptr_mut(wait.cpu) else {
        return;
    };
    // SAFETY: pointers into maps, and only this CPU writes these elements.
    unsafe {
        let begin = (*ring).slice_begin;
        let is_within = begin <= wait.queued;
        let part = if is_within { here } else { wait.now - begin };
        let mut quota = wait.quota;
        let mut factor_of_others = WHOLE;
        if quota != 0 {
            let is_own = ledger::occupant_slot(wait.last) == u64::from(wait.victim);
            let mut own = if is_own { part } else { 0 };
            if !is_within {
                own += walk_all(ring, wait, ONLY_OWN);
            }
            quota = quota.min(here.saturating_sub(own));
            factor_of_others = factor(here, own, quota);
            add(stats, QUOTA, quota);
        }
        let mut counted = 0;
        let mut interrupts = (*ring).slice_interrupts_ns;
        if interrupts != 0 {
            let length = wait.now.wrapping_sub(begin);
            if is_within {
                interrupts = interrupts * (part >> 8) / ((length >> 8) + 1);
            }
            // Nobody's in particular.
            let part = scaled(interrupts, KERNEL as u64, factor_of_others);
            add(stats, KERNEL, part);
            counted += part;
        }
        counted += charge(
            stats,
            wait.cpu,
            wait.victim,
            wait.last,
            part - interrupts,
            factor_of_others,
        );
        if !is_within {
            counted += walk_all(ring, wait, factor_of_others);
        }
        let rest = here.wrapping_sub(quota).wrapping_sub(counted);
        if rest != 0 {
            add(stats, UNATTRIBUTED, rest);
        }
    }
}

/// Charges what is older than the last slice.
#[inline(always)]
unsafe fn walk_all(ring: *mut Stretches, wait: &Wait, factor_of_others: u64) -> u64 {
    let Wait {
        cpu,
        victim,
        queued,
        ..
    } = *wait;
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

/// Charges a part of a wait to who had the CPU; returns what is charged of it.
#[inline(always)]
fn charge(
    stats: *mut SchedSlot,
    cpu: u32,
    victim: u32,
    occupant: u64,
    ns: u64,
    factor_of_others: u64,
) -> u64 {
    let culprit = ledger::occupant_slot(occupant);
    if culprit == u64::from(victim) {
        add(stats, SELF, ns);
        return ns;
    }
    let cause = cause_for(occupant, u64::from(victim));
    let part = scaled(ns, cause, factor_of_others);
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
        ledger::walk_slices(ring, queued, KERNEL_OCCUPANT, |occupant, ns| {
            charge_one(whose, occupant, ns, factor_of_others)
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
        ledger::walk(ring, queued, |number, share| {
            charge_stretch(whose, number, share, factor_of_others)
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
    factor_of_others: u64,
) -> u64 {
    let Some(ring) = STRETCHES.get_ptr_mut((whose >> 32) as u32) else {
        return 0;
    };
    // SAFETY: as above.
    unsafe {
        ledger::parts_of_stretch(ring, number, share, KERNEL_OCCUPANT, |occupant, ns| {
            charge_one(whose, occupant, ns, factor_of_others)
        })
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
        ledger::walk_spans(ring, queued, |number, share| {
            charge_span(whose, number, share, factor_of_others)
        })
    }
}

/// Charges a share of a span.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn charge_span(whose: u64, number: u64, share: u64, factor_of_others: u64) -> u64 {
    let Some(ring) = STRETCHES.get_ptr_mut((whose >> 32) as u32) else {
        return 0;
    };
    // SAFETY: as above.
    unsafe {
        ledger::parts_of_span(ring, number, share, KERNEL_OCCUPANT, |occupant, ns| {
            charge_one(whose, occupant, ns, factor_of_others)
        })
    }
}

/// Charges a part of a wait to who had the CPU; returns what is charged of it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn charge_one(whose: u64, occupant: u64, ns: u64, factor_of_others: u64) -> u64 {
    let (cpu, victim) = ((whose >> 32) as u32, whose as u32);
    let culprit = ledger::occupant_slot(occupant);
    if factor_of_others == ONLY_OWN {
        return ns * ledger::is_equal(culprit, u64::from(victim));
    }
    if ns == 0 {
        return 0;
    }
    let Some(stats) = SCHED.get_ptr_mut(cpu * layout!(slots) + victim) else {
        return 0;
    };
    charge(stats, cpu, victim, occupant, ns, factor_of_others)
}
