//! What is counted of a container. Each counter is declared here once: sums, differences and JSON follow.
//!
//! Numbers that go up and down are no part of it, see [`Gauges`](super::Gauges).

use serde::{Deserialize, Serialize};

use super::Histogram;

/// Who took the CPU from a preempted task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PreemptedBy {
    /// A task of the same container.
    Myself,
    /// A task of another container.
    Container,
    /// A task of a system service, a session, or the root cgroup.
    System,
    /// A kernel thread, or the scheduler itself (migration).
    Kernel,
    /// The quota of its own cgroup or of one above.
    Quota,
}

impl PreemptedBy {
    /// All of them, in the order of the arrays they index.
    pub const ALL: [Self; 5] = [
        Self::Myself,
        Self::Container,
        Self::System,
        Self::Kernel,
        Self::Quota,
    ];

    /// The label value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Myself => "self",
            Self::Container => "container",
            Self::System => "system",
            Self::Kernel => "kernel",
            Self::Quota => "quota",
        }
    }
}

/// A block operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Cache flush.
    Flush,
    /// Discard, secure erase.
    Discard,
}

impl Operation {
    /// All of them, in the order of the arrays they index.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Flush, Self::Discard];

    /// The label value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
        }
    }
}

counters! {
    /// Scheduler counters of a container.
    pub struct SchedStats {
        /// Run queue latency: runnable (woken or preempted) until running.
        pub run_queue: Histogram,
        /// Time on CPUs, the slices still running included, nanoseconds.
        pub on_cpu_ns: u64,
        /// Time blocked, interruptible, nanoseconds.
        pub off_cpu_sleep_ns: u64,
        /// Time blocked for I/O, by the kernel's own word, nanoseconds.
        pub off_cpu_io_ns: u64,
        /// Time blocked, uninterruptible for another reason (locks, `vfork`), nanoseconds.
        pub off_cpu_uninterruptible_ns: u64,
        /// Context switches that left the CPU blocked.
        pub voluntary: u64,
        /// Context switches that left the CPU still runnable.
        pub involuntary: u64,
        /// Preemptions by [`PreemptedBy`].
        pub preemptions: [u64; 5],
        /// Run queue latency after preemptions by [`PreemptedBy`], nanoseconds.
        pub preempted_wait_ns: [u64; 5],
        /// The run queue latency by who had the CPU, [`ctrscope_ebpf::ledger::NAMES`], nanoseconds; in sum that of
        /// [`run_queue`](Self::run_queue).
        pub causes_ns: [u64; 8],
        /// Processes whose main thread ended.
        pub process_exits: u64,
    }
}

counters! {
    /// Block I/O counters of one operation.
    pub struct BlockOperation {
        /// Latency from the start of the request (queued) to its completion.
        pub latency: Histogram,
        /// The part of it before the request was issued to the device, nanoseconds.
        pub queue_ns: u64,
        /// The part of it that was waited for requests of others, before it was issued included, nanoseconds.
        pub others_ns: u64,
        /// Latency of requests of which that is not known, nanoseconds.
        pub unknown_ns: u64,
        /// Bytes completed.
        pub bytes: u64,
        /// Requests completed.
        pub count: u64,
        /// Requests completed in error.
        pub errors: u64,
    }
}

counters! {
    /// Block I/O counters of a container.
    pub struct BlockStats {
        /// By [`Operation`].
        pub operations: [BlockOperation; 4],
    }
}

impl BlockStats {
    /// All operations in one histogram.
    #[must_use]
    pub fn latency(&self) -> Histogram {
        let mut sum = Histogram::default();
        for operation in &self.operations {
            sum.add(&operation.latency);
        }
        sum
    }

    /// Bytes of all operations.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.operations.iter().map(|one| one.bytes).sum()
    }

    /// Requests of all operations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.operations.iter().map(|one| one.count).sum()
    }
}

counters! {
    /// CPU bandwidth control of a container's own cgroup.
    pub struct Throttling {
        /// Enforcement periods that elapsed.
        pub periods: u64,
        /// Periods in which it was throttled.
        pub throttled_periods: u64,
        /// Time throttled, summed over CPUs, nanoseconds.
        pub throttled_ns: u64,
    }
}

counters! {
    /// What happened to a container for want of memory.
    pub struct MemoryEvents {
        /// Tasks killed.
        pub oom_kills: Option<u64>,
        /// Times the limit was hit and reclaim began; `None` as long as it has had no limit.
        pub limit_hits: Option<u64>,
    }
}

counters! {
    /// Time lost to one resource.
    #[derive(Copy, Eq)]
    pub struct PressureTimes {
        /// At least one task waited (`some`), microseconds.
        pub waiting_usec: u64,
        /// All non-idle tasks waited (`full`), microseconds.
        pub stalled_usec: u64,
    }
}

counters! {
    /// Pressure stall information of a container.
    pub struct Pressure {
        /// CPU.
        pub cpu: Option<PressureTimes>,
        /// Memory.
        pub memory: Option<PressureTimes>,
        /// I/O.
        pub io: Option<PressureTimes>,
    }
}

counters! {
    /// All that is counted of a container. It only goes up; what is `None` was not measured.
    pub struct Counters {
        /// Scheduler; `None` where that collector does not run, or cannot tell containers apart.
        pub sched: Option<SchedStats>,
        /// Block I/O; `None` where that collector does not run, or cannot tell containers apart.
        pub block: Option<BlockStats>,
        /// Time on CPUs since its cgroup was made, by the kernel's own account, nanoseconds; read only
        /// where [`sched`](Self::sched) is `None`.
        pub cpu_usage_ns: Option<u64>,
        /// CPU bandwidth control; `None` without the cpu controller, and as long as it has had no quota.
        pub cpu: Option<Throttling>,
        /// Memory events; `None` without the memory controller.
        pub memory: Option<MemoryEvents>,
        /// Pressure; `None` where the kernel keeps none for cgroups.
        pub pressure: Option<Pressure>,
    }
}

impl Counters {
    /// Time on CPUs, nanoseconds: the scheduler collector's, else the kernel's own account. One of the two
    /// for as long as an agent runs, so that it only goes up.
    #[must_use]
    pub fn on_cpu_ns(&self) -> Option<u64> {
        self.sched
            .as_ref()
            .map(|sched| sched.on_cpu_ns)
            .or(self.cpu_usage_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Counted as _;

    fn counted(usage: u64, kills: Option<u64>) -> Counters {
        Counters {
            cpu_usage_ns: Some(usage),
            memory: Some(MemoryEvents {
                oom_kills: kills,
                limit_hits: None,
            }),
            ..Counters::default()
        }
    }

    #[test]
    fn what_either_has_measured_is_in_the_sum_and_the_rest_stays_absent() {
        let mut sum = counted(5, None);
        sum.add(&counted(6, Some(2)));
        sum.add(&Counters::default());
        assert_eq!(sum, counted(11, Some(2)));
    }

    #[test]
    fn a_difference_has_what_was_measured_both_times() {
        let earlier = counted(5, None);
        let later = Counters {
            sched: Some(SchedStats::default()),
            ..counted(9, Some(3))
        };
        assert_eq!(later.since(&earlier), Some(counted(4, None)));
    }

    #[test]
    fn what_is_held_neither_falls_nor_goes() {
        let mut now = counted(4, None);
        now.hold(&Counters {
            sched: Some(SchedStats::default()),
            ..counted(5, Some(3))
        });
        assert_eq!(
            now,
            Counters {
                sched: Some(SchedStats::default()),
                ..counted(5, Some(3))
            }
        );
        now.hold(&counted(1, Some(1)));
        assert_eq!(
            (now.cpu_usage_ns, now.memory),
            (Some(5), counted(0, Some(3)).memory)
        );
    }

    #[test]
    fn a_subject_that_went_backwards_is_absent_alone() {
        let stats = |voluntary, waits: u64| {
            let mut stats = SchedStats {
                voluntary,
                ..SchedStats::default()
            };
            for _ in 0..waits {
                stats.run_queue.record(1_000);
            }
            stats
        };
        let with = |sched| Counters {
            sched: Some(sched),
            ..counted(1, None)
        };
        for (earlier, later) in [(stats(2, 0), stats(1, 5)), (stats(1, 2), stats(9, 1))] {
            let added = with(later).since(&with(earlier)).unwrap();
            assert_eq!((added.sched, added.cpu_usage_ns), (None, Some(0)));
        }
        let added = with(stats(9, 3)).since(&with(stats(1, 1))).unwrap();
        assert_eq!(added.sched, Some(stats(8, 2)));
    }
}
