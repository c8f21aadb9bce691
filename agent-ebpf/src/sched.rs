//! Keys and values of the scheduler subject.

use crate::{histogram::BUCKETS, ledger::CAUSES};

/// Who took the CPU from a preempted task: a task of the same container.
pub const BY_SELF: usize = 0;
/// A task of another container.
pub const BY_CONTAINER: usize = 1;
/// A task of a system service, a session or the root cgroup.
pub const BY_SYSTEM: usize = 2;
/// A kernel thread, or nobody: the CPU went idle because the scheduler took the task off it (migration).
pub const BY_KERNEL: usize = 3;
/// The quota of its own cgroup or of one above was used up, whoever came next.
pub const BY_QUOTA: usize = 4;
/// Number of the above.
pub const BY_COUNT: usize = 5;

shared_counters! {
    /// What one container did on one CPU, in the array `SCHED` at `cpu * slots + slot`.
    ///
    /// Written by `sched_switch` on that CPU alone, so without locks or atomics. 32-bit counters
    /// wrap; user space adds up their differences. Times are in nanoseconds of the scheduler's clock. What most switches
    /// write is in one line of the cache and that of a bucket.
    pub struct SchedSlot [576] {
        /// Run queue latency of each dispatch.
        pub run_queue_buckets: [u32; BUCKETS],
        /// Context switches in which the task left the CPU blocked.
        pub voluntary: u32,
        /// Not 0 once a quota, its own or one above, was seen to keep its tasks from this CPU: until then a task that blocks, and
        /// one that waited for less than [`LONG_WAIT_NS`], look up nothing that only the quota's part of a wait needs.
        pub throttled: u32,
        /// Sum of the run queue latencies.
        pub run_queue_ns: u64,
        /// Time on the CPU, as the scheduler itself charged it to the tasks.
        pub on_cpu_ns: u64,
        /// Time switched out and not runnable, interruptible.
        pub off_cpu_sleep_ns: u64,
        /// The run queue latencies by who had the CPU, [`crate::ledger`]: their sum is [`run_queue_ns`](Self::run_queue_ns).
        pub causes_ns: [u64; CAUSES],
        /// Time switched out and not runnable, as the kernel says for I/O (`task_struct.in_iowait`).
        pub off_cpu_io_ns: u64,
        /// Time switched out and not runnable, uninterruptible for another reason.
        pub off_cpu_uninterruptible_ns: u64,
        /// Run queue latency that followed a preemption, by who preempted.
        pub preempted_wait_ns: [u64; BY_COUNT],
        /// Processes that ended.
        pub process_exits: u32,
        /// Context switches in which the task was still runnable.
        pub involuntary: u32,
        /// Preemptions, by who preempted.
        pub preemptions: [u32; BY_COUNT],
        /// Room for what is to come; zero.
        pub reserved: u32,
    }
}

/// Mask that keeps a bucket index inside [`SchedSlot`] whatever it is: the verifier needs a bound,
/// and 128 words are inside of the value.
pub const BUCKET_MASK: usize = 127;

shared! {
    /// Per-CPU state of the scheduler programs, in the array `CPUS`.
    pub struct CpuState [64] {
        /// What runs: its owner ([`crate::slot::owner`]; slot [`crate::slot::IDLE`] while idle) in
        /// the low half, the number of switches in the high half, in one word so that user space
        /// can replace an owner by compare-and-exchange without meeting the next task.
        pub running: u64,
        /// `rq->clock_task` when the running task was dispatched ([`since`]); 0 before the first switch
        /// seen.
        pub on_cpu_since: u64,
        /// Address of this CPU's `struct rq`, for [`clock`](Self::clock)'s reader.
        pub rq: u64,
        /// `rq->clock_task` as the program `read_clock` last saw it.
        pub clock: u64,
        /// `se.sum_exec_runtime` of the running task when it was dispatched.
        pub sum_exec_ns: u64,
        /// The kernel's pid of the running task; 0 is the idle task.
        pub pid: u32,
        /// Owner of the running task's cgroup with [`MOVED`], where `read_clock` found it moved since its
        /// dispatch; 0 otherwise.
        pub moved_to: u32,
        /// Address of the `task_group` of the running task when it was dispatched.
        pub group: u64,
        /// With `moved_to`: what the task had run of its slice when it was moved, nanoseconds; more than the
        /// slice can be where the scheduler's class does not note that.
        pub moved_after_ns: u64,
    }
}

/// In [`CpuState::moved_to`].
pub const MOVED: u32 = 1 << 31;

/// Longest slice that is believed, nanoseconds: what is longer is a difference that wrapped.
pub const LONGEST_SLICE_NS: u64 = 1 << 60;

/// Bits of [`CpuState::on_cpu_since`] that are not of the clock.
const TAG: u64 = 0xff;

/// The clock, to 256 ns below, tagged with the number of the switch. The reader cannot take two words at
/// once: by the tag it knows that this one and [`CpuState::running`] are of the same switch, in whatever
/// order they were stored.
#[inline(always)]
pub const fn since(clock: u64, switches: u32) -> u64 {
    (clock & !TAG) | (switches as u64 & TAG)
}

/// The clock in [`since`]: at most 256 ns early.
#[inline(always)]
pub const fn since_at_least(since: u64) -> u64 {
    since & !TAG
}

/// The clock in [`since`]: at most 256 ns late.
#[inline(always)]
pub const fn since_at_most(since: u64) -> u64 {
    since | TAG
}

/// Whether [`CpuState::running`] is of the switch that [`since`] was stored at.
#[inline(always)]
pub const fn is_same_switch(since: u64, running: u64) -> bool {
    (running >> 32) & TAG == since & TAG
}

/// A departure that says nothing: never seen, or spent.
pub const DEPARTED_NOT: u32 = 0;
/// The task left blocked, interruptible.
pub const DEPARTED_SLEEP: u32 = 1;
/// The task left blocked, uninterruptible.
pub const DEPARTED_UNINTERRUPTIBLE: u32 = 2;
/// The task left blocked for I/O.
pub const DEPARTED_IO: u32 = 3;
/// The task left runnable; `BY_*` is added.
pub const DEPARTED_PREEMPTED: u32 = 4;
/// How it left is one of the first four, which is added, and when it begins to wait the kernel will not know
/// ([`begin_lost`]).
pub const DEPARTED_LOST: u32 = DEPARTED_PREEMPTED + BY_COUNT as u32;

const _: () = assert!(DEPARTED_LOST + DEPARTED_IO < 1 << DEPARTURE_BITS);

const DEPARTURE_BITS: u32 = 4;
/// Nanoseconds of the unit in which a departure tells of throttling, as a power of two: 4 µs, so that 28 bits hold
/// 18 minutes.
const THROTTLED_UNIT: u32 = 12;

/// How a task left (`DEPARTED_*`), and what the queue that it left had been throttled in sum by then, modulo 18 minutes
/// ([`crate::ledger::Throttles`]).
#[inline(always)]
#[must_use]
pub const fn departure(how: u32, throttled_ns: u64) -> u32 {
    how | ((throttled_ns >> THROTTLED_UNIT) as u32) << DEPARTURE_BITS
}

/// The departure of a task that blocked and is moved to another CPU before the scheduler has taken it off its queue
/// (`sched_delayed`, 6.12 and later). On the new queue `enqueue_task` notes it as waiting (`sched_info_enqueue`,
/// `kernel/sched/core.c`), although it sleeps on; when it wakes, that time stands, and in `run_delay` its sleep is a wait.
#[inline(always)]
#[must_use]
pub const fn begin_lost(departure: u32) -> u32 {
    // Its last switch may not have been traced.
    if departed(departure) < DEPARTED_PREEMPTED {
        departure + DEPARTED_LOST
    } else {
        departure
    }
}

/// Whether a task left runnable.
#[inline(always)]
#[must_use]
pub const fn is_preempted(departed: u32) -> bool {
    departed >= DEPARTED_PREEMPTED && departed < DEPARTED_LOST
}

/// How a task left, and whether it is not known since when it waited ([`begin_lost`]).
#[inline(always)]
#[must_use]
pub const fn blocked(departed: u32) -> (u32, bool) {
    if departed >= DEPARTED_LOST {
        (departed - DEPARTED_LOST, true)
    } else {
        (departed, false)
    }
}

/// A wait as long as this is looked at for a quota's part even where none was seen yet, nanoseconds: a task that wakes
/// while it is throttled waits for the next period. Before the first is seen, the quota's part of a shorter one, which
/// begins just before a period ends, goes to whoever had the CPU.
pub const LONG_WAIT_NS: u64 = 1 << 17;

/// How a task left.
#[inline(always)]
#[must_use]
pub const fn departed(departure: u32) -> u32 {
    departure & ((1 << DEPARTURE_BITS) - 1)
}

/// What a queue was throttled since a task left it, to 4 µs.
#[inline(always)]
#[must_use]
pub const fn since_departure(departure: u32, throttled_ns: u64) -> u64 {
    let now = ((throttled_ns >> THROTTLED_UNIT) as u32) << DEPARTURE_BITS;
    let units = now.wrapping_sub(departure & !((1 << DEPARTURE_BITS) - 1)) >> DEPARTURE_BITS;
    (units as u64) << THROTTLED_UNIT
}

shared! {
    /// What is remembered of a task between two dispatches, in the direct-mapped array `TASKS` at
    /// `pid & mask`. A task that finds another's entry takes it over.
    pub struct TaskState [32] {
        /// `sched_info.run_delay` as it stood, this wait included, at the last dispatch.
        pub run_delay_ns: u64,
        /// Scheduler clock when the task last left a CPU.
        pub departed_at: u64,
        /// The kernel's pid of the owner; 0 is nobody.
        pub pid: u32,
        /// How it left: [`departure`].
        pub departure: u32,
        /// Scheduler clock when `run_delay_ns` was noted.
        pub noted_at: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_departure_holds_both_its_parts() {
        for before in [0, 5_000_000_000, (1 << 40) - 1, u64::MAX - 10_000_000_000] {
            let word = departure(DEPARTED_PREEMPTED + BY_QUOTA as u32, before);
            assert_eq!(departed(word), DEPARTED_PREEMPTED + BY_QUOTA as u32);
            for added in [0, 100_000_000, 900_000_000_000] {
                let since = since_departure(word, before.wrapping_add(added));
                assert!(since.abs_diff(added) <= 4_096, "{since} for {added}");
            }
        }
        assert_eq!(departed(departure(DEPARTED_IO, 1 << 50)), DEPARTED_IO);
    }

    #[test]
    fn who_is_moved_while_blocked_is_told_by_itself_and_keeps_its_state() {
        for how in [
            DEPARTED_NOT,
            DEPARTED_SLEEP,
            DEPARTED_UNINTERRUPTIBLE,
            DEPARTED_IO,
        ] {
            let word = departure(how, 5_000_000);
            let moved = begin_lost(word);
            assert_eq!(blocked(departed(word)), (how, false));
            assert_eq!(blocked(departed(moved)), (how, true));
            assert_eq!(begin_lost(moved), moved, "moved twice");
            assert!(!is_preempted(departed(moved)) && !is_preempted(how));
            let since = |word| since_departure(word, 9_000_000);
            assert_eq!(since(moved), since(word));
        }
        for by in 0..BY_COUNT {
            let preempted = departure(DEPARTED_PREEMPTED + by as u32, 0);
            assert_eq!(begin_lost(preempted), preempted);
            assert!(!blocked(departed(preempted)).1 && is_preempted(departed(preempted)));
        }
    }

    #[test]
    fn what_most_switches_write_is_in_one_line() {
        use core::mem::offset_of;

        const LINE: usize = 64;
        let first = offset_of!(SchedSlot, voluntary);
        let last = offset_of!(SchedSlot, causes_ns) + 8 * crate::ledger::CONTAINER;
        assert_eq!(first / LINE, last / LINE);
        assert!(size_of::<SchedSlot>().is_multiple_of(LINE));
    }

    #[test]
    fn the_start_of_a_slice_is_told_from_that_of_another() {
        let clock = 0x1234_5678_9abc;
        for switches in [0, 1, 0xff, 0x100, u32::MAX] {
            let word = since(clock, switches);
            assert!(since_at_least(word) <= clock && since_at_most(word) >= clock);
            assert!(since_at_most(word) - since_at_least(word) < 256);
            let running = u64::from(switches) << 32 | 7;
            assert!(is_same_switch(word, running));
            assert!(!is_same_switch(word, running.wrapping_add(1 << 32)));
        }
    }
}
