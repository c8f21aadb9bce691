//! Scheduler: one program on `sched_switch`, without a wakeup probe, a clock read or a hash.
//!
//! `trace_sched_switch` runs before the scheduler updates `sched_info` for the switch, in every
//! kernel from 5.4 to 7.x (`__schedule` and `prepare_task_switch`, `kernel/sched/core.c`). So at
//! this point `next->sched_info.last_queued` is still when it began to wait, and `run_delay` what
//! it had waited before. A waiting task that the load balancer moves is dequeued and queued again,
//! which moves what it waited so far from the clock difference into `run_delay`; the difference of
//! the two totals has all of it.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_smp_processor_id, bpf_probe_read_kernel},
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use ctrscope_ebpf::{
    counter, histogram,
    ledger::{self as causes, Stretches, Waited},
    sched::{
        BUCKET_MASK, BY_CONTAINER, BY_KERNEL, BY_QUOTA, BY_SELF, BY_SYSTEM, CpuState, DEPARTED_IO,
        DEPARTED_NOT, DEPARTED_PREEMPTED, DEPARTED_SLEEP, DEPARTED_UNINTERRUPTIBLE, LONG_WAIT_NS,
        MOVED, SchedSlot, begin_lost, blocked, departed, departure, is_preempted, since,
        since_at_least,
    },
    slot,
};

use super::ledger;
use crate::{
    kernel::{self, Kernel, layout, load},
    maps::{CPU_SLOTS, CPUS, SCHED, STRETCHES, TASKS, count},
};

/// `TASK_UNINTERRUPTIBLE` and `TASK_NOLOAD`, `include/linux/sched.h`: the second marks kernel
/// threads that wait for work uninterruptibly, which is sleep.
const TASK_UNINTERRUPTIBLE: u32 = 0x2;
const TASK_NOLOAD: u32 = 0x400;

/// `SIGNAL_GROUP_EXIT` and `SIGNAL_GROUP_COREDUMP`, `include/linux/sched/signal.h`: all threads end.
const SIGNAL_GROUP_ENDS: u32 = 0x4 | 0x8;

/// Keeps a bucket index inside the value, in a way that LLVM cannot see through: it knows that the
/// index is small, drops an ordinary mask, and the verifier, which does not know, then reports
/// "invalid access to map value".
#[inline(always)]
pub fn bounded(bucket: usize) -> usize {
    let mut index = bucket as u64;
    // SAFETY: one register operation.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) index, const BUCKET_MASK, options(pure, nomem, nostack));
    }
    index as usize
}

/// Adds one to a 32-bit counter of a slot.
macro_rules! add_one {
    ($slot:expr, $field:ident) => {{
        // SAFETY: `$slot` points into the map, and only this CPU writes this element.
        unsafe { (*$slot).$field = (*$slot).$field.wrapping_add(1) }
    }};
}

/// Adds to a 64-bit sum of a slot.
macro_rules! add {
    ($slot:expr, $field:ident, $value:expr) => {{
        // SAFETY: as above.
        unsafe { (*$slot).$field = (*$slot).$field.wrapping_add($value) }
    }};
}

/// A container's counters on the CPU whose slots begin at `first`.
#[inline(always)]
fn sched_slot(first: u32, owner: u32) -> Option<*mut SchedSlot> {
    SCHED.get_ptr_mut(first + slot::slot(owner))
}

/// Who took the CPU: [`BY_SELF`] and so on.
#[inline(always)]
fn preempted_by(prev_owner: u32, next: Kernel, next_pid: u32, next_owner: u32) -> usize {
    if next_pid == 0 || kernel::is_kernel_thread(next) {
        BY_KERNEL
    } else if slot::slot(next_owner) == slot::slot(prev_owner) {
        BY_SELF
    } else if slot::kind(next_owner) == slot::KIND_CONTAINER {
        BY_CONTAINER
    } else {
        BY_SYSTEM
    }
}

#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let _ = try_sched_switch(&ctx);
    0
}

#[inline(always)]
fn try_sched_switch(ctx: &BtfTracePointContext) -> Option<()> {
    let prev: Kernel = ctx.arg(1);
    let next: Kernel = ctx.arg(2);
    // The idle task too has a `cfs_rq` of its CPU (`init_idle` → `set_task_rq`).
    let cfs_rq: Kernel = load(next, layout!(task_cfs_rq));
    let rq: Kernel = load(cfs_rq, layout!(cfs_rq_rq));
    let now: u64 = load(rq, layout!(rq_clock));
    // The clock that `update_curr` charges CPU time with: less what interrupts and the hypervisor
    // took, where the kernel accounts for those.
    let on_cpu_now: u64 = load(rq, layout!(rq_clock_task));
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let state = CPUS.get_ptr_mut(cpu)?;
    let first_slot = cpu * layout!(slots);

    let prev_pid = kernel::task_pid(prev);
    let next_pid = kernel::task_pid(next);
    // SAFETY: `state` points into the map, and only this CPU writes this element.
    let (running, on_cpu_since, sum_exec_ns, seen_pid, seen_group) = unsafe {
        (
            (*state).running,
            (*state).on_cpu_since,
            (*state).sum_exec_ns,
            (*state).pid,
            (*state).group,
        )
    };
    let switches = ((running >> 32) as u32).wrapping_add(1);
    let mut prev_owner = running as u32;
    let next_owner = if next_pid != 0 {
        kernel::owner(slot::SUBSYSTEM_CPU, kernel::task_css(next), switches)
    } else {
        slot::owner(slot::IDLE, slot::KIND_SYSTEM)
    };
    // SAFETY: as above.
    unsafe {
        (*state).running = u64::from(switches) << 32 | u64::from(next_owner);
        (*state).on_cpu_since = since(on_cpu_now, switches);
        (*state).sum_exec_ns = load(next, layout!(task_sum_exec));
        (*state).pid = next_pid;
        (*state).rq = rq as u64;
        (*state).group = load(next, layout!(task_sched_task_group));
    }

    let mut was_preempted = false;
    // A wait that ended unseen, nanoseconds, and the departure that it began with.
    let (mut missed_wait, mut missed_departure) = (0, DEPARTED_NOT);
    let ring: *mut Stretches = STRETCHES.get_ptr_mut(cpu)?;
    // The slice that was running when the programs were attached has no known start: skip it.
    if prev_pid != 0 && on_cpu_since != 0 {
        // Kernels have been met that do not trace every switch. What the state says is then another
        // task's: its owner must not be charged, nor this one for its time.
        let is_seen = seen_pid == prev_pid;
        if !is_seen {
            count(counter::SWITCH_UNSEEN);
        }
        // It may have been moved to another cgroup while it ran, which no switch shows
        // (`sched_move_task`, `kernel/sched/core.c`).
        let is_moved = is_seen && load::<u64>(prev, layout!(task_sched_task_group)) != seen_group;
        let dispatched_owner = prev_owner;
        // Or it may have been dispatched before its cgroup was known.
        if !is_seen || is_moved || slot::kind(prev_owner) == slot::KIND_UNKNOWN {
            prev_owner = kernel::owner(
                slot::SUBSYSTEM_CPU,
                kernel::task_css(prev),
                // The count that its slice ran under, so that no correction meets the next one's.
                switches.wrapping_sub(1),
            );
        }
        let state: u32 = if layout!(switch_has_prev_state) != 0 {
            ctx.arg::<u64>(3) as u32
        } else {
            load(prev, layout!(task_state))
        };
        let stats = sched_slot(first_slot, prev_owner)?;
        // What the scheduler charged it with, which is what `cpuacct.usage` adds up. The clock may
        // have gone on since: a CPU that is about to go idle first looks for work elsewhere
        // (`sched_balance_newidle`), in nobody's time. So the clock is only the bound.
        let mut on_cpu = if is_seen {
            let elapsed = on_cpu_now.saturating_sub(since_at_least(on_cpu_since));
            let charged = load::<u64>(prev, layout!(task_sum_exec)).wrapping_sub(sum_exec_ns);
            charged.min(elapsed)
        } else {
            now.saturating_sub(load(prev, layout!(task_last_arrival)))
        };
        if is_moved {
            // What it had run by then, the kernel notes when it makes it the one that runs again
            // (`set_next_entity`, `kernel/sched/fair.c`).
            let before = load::<u64>(prev, layout!(task_prev_sum_exec)).wrapping_sub(sum_exec_ns);
            if before <= on_cpu {
                on_cpu -= before;
                let former = sched_slot(first_slot, dispatched_owner)?;
                add!(former, on_cpu_ns, before);
            }
        }
        add!(stats, on_cpu_ns, on_cpu);
        // Argument 0 is `preempt`: the kernel counts such a switch as involuntary whatever the
        // state says (`switch_count`, `__schedule`). `TASK_REPORT_MAX`, which the text event shows
        // for it, is not in this argument: there the same bit is `TASK_WAKEKILL`.
        let preempt: u64 = ctx.arg(0);
        let queue: Kernel = load(prev, layout!(task_cfs_rq));
        // SAFETY: as above.
        let is_watched = unsafe { (*stats).throttled } != 0;
        let whose = u64::from(cpu) << 32 | u64::from(slot::slot(prev_owner));
        let mut throttled_ns = 0;
        let how = if state == 0 || preempt as u8 != 0 {
            was_preempted = true;
            let is_throttled = ledger::is_throttled(queue);
            // Whatever takes it off, its queue can be throttled by another's task while it waits there.
            throttled_ns = ledger::left(whose, queue, now, is_throttled);
            let by = if is_throttled {
                BY_QUOTA
            } else {
                preempted_by(prev_owner, next, next_pid, next_owner)
            };
            add_one!(stats, involuntary);
            // SAFETY: `by` is one of five constants.
            unsafe {
                let counter = (&raw mut (*stats).preemptions).cast::<u32>().add(by & 7);
                *counter = (*counter).wrapping_add(1);
            }
            DEPARTED_PREEMPTED + by as u32
        } else {
            add_one!(stats, voluntary);
            if is_watched {
                throttled_ns = ledger::left(whose, queue, now, false);
            }
            // As the kernel's own accounts of waiting for I/O take it, whatever the state
            // (`try_to_block_task`, `kernel/sched/core.c`; `psi_task_switch`, `kernel/sched/psi.c`).
            if is_in_iowait(prev) {
                DEPARTED_IO
            } else if state & TASK_UNINTERRUPTIBLE != 0 && state & TASK_NOLOAD == 0 {
                DEPARTED_UNINTERRUPTIBLE
            } else {
                DEPARTED_SLEEP
            }
        };
        let departure = departure(how, throttled_ns);
        let task = TASKS.get_ptr_mut(prev_pid & layout!(task_mask))?;
        // SAFETY: the pointer comes from the map. A colliding task on another CPU may write at the
        // same time; the checks at dispatch then reject what does not fit.
        unsafe {
            if (*task).pid == prev_pid {
                let (left_at, left) = ((*task).departed_at, (*task).departure);
                (*task).departed_at = now;
                (*task).departure = departure;
                // Its arrival was not seen, so neither was the wait before it; its total has it.
                if !is_seen {
                    let total: u64 = load(prev, layout!(task_run_delay));
                    let missed = total.wrapping_sub((*task).run_delay_ns);
                    if blocked(departed(left)).1 {
                        count(counter::WAIT_BEGIN_LOST);
                    } else if missed <= now.saturating_sub((*task).noted_at) {
                        count_wait(stats, missed);
                        if is_preempted(departed(left)) {
                            add_preempted_wait(stats, departed(left), missed);
                        }
                        let arrived: u64 = load(prev, layout!(task_last_arrival));
                        // All of it was here if it is as long as the absence: one that is moved is on no queue for a
                        // moment.
                        if is_preempted(departed(left)) && left_at + missed == arrived {
                            (missed_wait, missed_departure) = (missed, left);
                        } else {
                            ledger::add(stats, causes::UNATTRIBUTED, missed);
                        }
                    }
                    (*task).run_delay_ns = total;
                    (*task).noted_at = now;
                }
            }
        }
    }

    let last = ledger::occupant(prev, prev_pid, prev_owner);
    if prev_pid != 0 && prev_pid != seen_pid {
        // Who ran until it came is not known.
        let arrived: u64 = load(prev, layout!(task_last_arrival));
        let queue: Kernel = load(prev, layout!(task_cfs_rq));
        // SAFETY: the pointer comes from the map, and only this CPU writes this element.
        unsafe {
            (*ring).waited = Waited {
                queued: arrived.wrapping_sub(missed_wait),
                now: arrived,
                whole: missed_wait,
                last: causes::occupant(slot::ANY, causes::UNATTRIBUTED),
                queue: kernel::number(queue),
                throttled_ns: ledger::throttled_ns(queue, now),
                victim: slot::slot(prev_owner),
                elsewhere: causes::UNATTRIBUTED as u32,
                left_with: missed_departure,
                reserved: 0,
            };
        }
        if ledger::arrived_unseen(cpu, now) != 0 {
            ledger::split_watched(cpu);
        }
    }
    ledger::append(ring, cpu, last, [now, on_cpu_now], was_preempted);
    if next_pid != 0 {
        dispatch(cpu, ring, next, next_pid, next_owner, [now, last])?;
    }
    Some(())
}

/// Whether a task blocks for I/O; `false` where the kernel does not say.
#[inline(always)]
fn is_in_iowait(task: Kernel) -> bool {
    let mask = layout!(task_in_iowait_mask);
    mask != 0 && u32::from(load::<u8>(task, layout!(task_in_iowait))) & mask != 0
}

/// Counts the wait and the absence of a task that gets the CPU.
#[inline(always)]
fn dispatch(
    cpu: u32,
    ring: *mut Stretches,
    next: Kernel,
    pid: u32,
    owner: u32,
    [now, last]: [u64; 2],
) -> Option<()> {
    let last_queued: u64 = load(next, layout!(task_last_queued));
    if last_queued == 0 {
        return Some(());
    }
    if now < last_queued {
        count(counter::RUN_QUEUE_NEGATIVE);
        return Some(());
    }
    let since_queued = now - last_queued;
    let last_arrival: u64 = load(next, layout!(task_last_arrival));
    // 0 for a task that has never run: its absence began with its birth, and is none.
    let absence = now.wrapping_sub(last_arrival);
    let total = load::<u64>(next, layout!(task_run_delay)).wrapping_add(since_queued);
    let mut wait = since_queued;

    let stats = sched_slot(cpu * layout!(slots), owner)?;
    let task = TASKS.get_ptr_mut(pid & layout!(task_mask))?;
    let mut left_with = DEPARTED_NOT;
    let mut elsewhere = causes::MIGRATED;
    let mut is_lost = false;
    // SAFETY: as where the departure is written.
    unsafe {
        if (*task).pid == pid && last_arrival != 0 {
            // All that was added to its total since that was last noted, if it fits between the
            // clock difference and the time since then; else the entry was another task's. The
            // absence would be too narrow: a slice of which neither end was traced lies in it, and
            // the wait before that slice is in the total alone.
            let added = total.wrapping_sub((*task).run_delay_ns);
            if added >= since_queued && added <= now.saturating_sub((*task).noted_at) {
                wait = added;
            }
            let left = (*task).departure;
            let departure;
            (departure, is_lost) = blocked(departed(left));
            if is_lost {
                // How much of its absence it waited is not known: all of that is sleep.
                wait = 0;
            }
            let away = now.wrapping_sub((*task).departed_at);
            if departure >= DEPARTED_PREEMPTED {
                add_preempted_wait(stats, departure, wait);
                if (*task).departed_at == last_queued {
                    left_with = left;
                } else if departure == DEPARTED_PREEMPTED + BY_QUOTA as u32 {
                    // It was moved meanwhile, and until shortly before that it was throttled: none is moved from a queue
                    // that is (`can_migrate_task`, `kernel/sched/fair.c`).
                    elsewhere = causes::QUOTA;
                }
            } else if departure != DEPARTED_NOT {
                if away >= wait && away <= absence {
                    let sum = if departure == DEPARTED_IO {
                        &raw mut (*stats).off_cpu_io_ns
                    } else if departure == DEPARTED_UNINTERRUPTIBLE {
                        &raw mut (*stats).off_cpu_uninterruptible_ns
                    } else {
                        &raw mut (*stats).off_cpu_sleep_ns
                    };
                    *sum = (*sum).wrapping_add(away - wait);
                } else {
                    count(counter::OFF_CPU_NEGATIVE);
                }
            }
        } else {
            if (*task).pid != 0 && (*task).pid != pid {
                count(counter::TASK_COLLISION);
            }
            (*task).pid = pid;
        }
        (*task).departure = DEPARTED_NOT;
        (*task).run_delay_ns = total;
        (*task).noted_at = now;
    }
    if is_lost {
        count(counter::WAIT_BEGIN_LOST);
        return Some(());
    }
    count_wait(stats, wait);
    let wait = Waited {
        queued: last_queued,
        now,
        whole: wait,
        last,
        queue: 0,
        throttled_ns: 0,
        victim: slot::slot(owner),
        elsewhere: elsewhere as u32,
        left_with,
        reserved: 0,
    };
    // SAFETY: the pointers come from the maps, and only this CPU writes these elements.
    unsafe {
        if since_queued < LONG_WAIT_NS && (*stats).throttled == 0 {
            ledger::split(stats, ring, cpu, &wait);
        } else {
            let queue: Kernel = load(next, layout!(task_cfs_rq));
            (*ring).waited = Waited {
                queue: kernel::number(queue),
                throttled_ns: ledger::throttled_ns(queue, now),
                ..wait
            };
            ledger::split_watched(cpu);
        }
    }
    Some(())
}

/// Adds the wait after a preemption.
#[inline(always)]
fn add_preempted_wait(stats: *mut SchedSlot, departed: u32, wait: u64) {
    let by = departed.wrapping_sub(DEPARTED_PREEMPTED) as usize & 7;
    // SAFETY: `stats` points into the map, the eighth of the sums is within it, and only this CPU writes here.
    unsafe {
        let sum = (&raw mut (*stats).preempted_wait_ns).cast::<u64>().add(by);
        *sum = (*sum).wrapping_add(wait);
    }
}

/// Counts one wait.
#[inline(always)]
fn count_wait(stats: *mut SchedSlot, wait: u64) {
    let bucket = bounded(histogram::bucket(wait));
    // SAFETY: `stats` points into the map, the bucket is bounded, and only this CPU writes here.
    unsafe {
        let counter = (&raw mut (*stats).run_queue_buckets)
            .cast::<u32>()
            .add(bucket);
        *counter = (*counter).wrapping_add(1);
    }
    add!(stats, run_queue_ns, wait);
}

/// Notes whose waits will begin at no known time. Only attached where the kernel has tasks that are blocked and still on a
/// run queue.
#[btf_tracepoint(function = "sched_migrate_task")]
pub fn sched_migrate_task(ctx: BtfTracePointContext) -> i32 {
    let task: Kernel = ctx.arg(0);
    if load::<u8>(task, layout!(task_sched_delayed)) != 0 {
        let pid = kernel::task_pid(task);
        if let Some(entry) = TASKS.get_ptr_mut(pid & layout!(task_mask)) {
            // SAFETY: as in `sched_switch`; the lock of the task's run queue is held, so it runs nowhere.
            unsafe {
                if (*entry).pid == pid {
                    (*entry).departure = begin_lost((*entry).departure);
                }
            }
        }
    }
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let _ = try_sched_process_exit(&ctx);
    0
}

#[inline(always)]
fn try_sched_process_exit(ctx: &BtfTracePointContext) -> Option<()> {
    let task: Kernel = ctx.arg(0);
    let pid = kernel::task_pid(task);
    let entry = TASKS.get_ptr_mut(pid & layout!(task_mask))?;
    // A pid used again must find nothing of its former owner.
    // SAFETY: as in `sched_switch`.
    unsafe {
        if (*entry).pid == pid {
            (*entry).pid = 0;
            (*entry).departure = DEPARTED_NOT;
        }
    }
    let tgid: u32 = load(task, layout!(task_tgid));
    if pid != tgid || kernel::is_kernel_thread(task) || is_replaced(task) {
        return Some(());
    }
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let state = CPUS.get_ptr(cpu)?;
    // Its own cgroup, and not what the state says to run here: where a switch was not traced that is another.
    // SAFETY: the pointer comes from the map.
    let switches = unsafe { (*state).running >> 32 } as u32;
    let owner = kernel::owner(slot::SUBSYSTEM_CPU, kernel::task_css(task), switches);
    // Preemption may be on here and another task's switch come between load and store: that can
    // lose one count.
    let stats = sched_slot(cpu * layout!(slots), owner)?;
    add_one!(stats, process_exits);
    Some(())
}

/// Whether a process goes on without its first thread: another one has called `exec`, takes the first
/// one's place and number, and waits until all others have ended (`de_thread`, `fs/exec.c`).
#[inline(always)]
fn is_replaced(task: Kernel) -> bool {
    if layout!(signal_exec_task) == 0 {
        return false;
    }
    let signal: Kernel = load(task, layout!(task_signal));
    // Before 5.17 a process that dumps its core has such a thread as well.
    load::<u64>(signal, layout!(signal_exec_task)) != 0
        && load::<u32>(signal, layout!(signal_flags)) & SIGNAL_GROUP_ENDS == 0
}

/// Reads the clock of the CPU whose number is its argument into that CPU's state, and whether what runs
/// there has been moved to another cgroup since it began to.
///
/// User space runs it for each CPU just before it reads the counters, to add the slices that are
/// still running. `rq->clock_task` is brought up to date by each tick, so the slice is short by at
/// most one.
#[raw_tracepoint]
pub fn read_clock(ctx: RawTracePointContext) -> i32 {
    let _ = ctx.as_ptr();
    let cpu: u64 = ctx.arg(0);
    let Some(state) = CPUS.get_ptr_mut(cpu as u32) else {
        return 1;
    };
    // SAFETY: the pointer comes from the map.
    unsafe {
        (*state).moved_to = 0;
        let rq = (*state).rq;
        // The address of that CPU's run queue, which lives as long as the kernel.
        let Some(clock) = read_at::<u64>(rq, layout!(rq_clock_task)) else {
            return 1;
        };
        (*state).clock = clock;
        if layout!(rq_curr) != 0
            && let Some((owner, after_ns)) = moved(&*state)
        {
            (*state).moved_after_ns = after_ns;
            (*state).moved_to = owner;
        }
    }
    0
}

/// The owner of what runs on a CPU, if that was moved since it was dispatched, and how long it had run
/// by then.
#[inline(always)]
fn moved(state: &CpuState) -> Option<(u32, u64)> {
    // The task may go at any time, and its memory be another's. Its number must be the right one still,
    // and the serial that of a cgroup that is known.
    let task: u64 = read_at(state.rq, layout!(rq_curr))?;
    let group: u64 = read_at(task, layout!(task_sched_task_group))?;
    if group == state.group || read_at::<u32>(task, layout!(task_pid))? != state.pid {
        return None;
    }
    let css = group.wrapping_add(u64::from(layout!(task_group_css)));
    let id: u32 = read_at(css, layout!(css_id))?;
    let serial: u64 = read_at(css, layout!(css_serial))?;
    let entry = CPU_SLOTS.get_ptr(id)?;
    // SAFETY: the pointer comes from the map; one aligned word, which both sides replace whole.
    let known = unsafe { core::ptr::read_volatile(entry) };
    let owner = if slot::entry_serial(known) == serial {
        slot::entry_owner(known)
    } else {
        slot::owner(slot::OTHER, slot::KIND_UNKNOWN)
    };
    let run_by_then: u64 = read_at(task, layout!(task_prev_sum_exec))?;
    Some((owner | MOVED, run_by_then.wrapping_sub(state.sum_exec_ns)))
}

/// Reads from an address of the kernel's; none where there is nothing.
#[inline(always)]
fn read_at<T>(base: u64, offset: u32) -> Option<T> {
    if base == 0 {
        return None;
    }
    // SAFETY: the helper refuses what cannot be read.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(u64::from(offset)) as *const T).ok() }
}
