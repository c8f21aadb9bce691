//! Workloads: what is summed over all containers that are one thing to their owner, those that are gone
//! among them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Container, Counters, Operation};

/// What a workload is to whoever made it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// A Deployment of Kubernetes, or what names its pods as one does.
    Deployment,
    /// A ReplicaSet or ReplicationController of no Deployment, or pods with generated names.
    ReplicaSet,
    /// A StatefulSet.
    StatefulSet,
    /// A DaemonSet.
    DaemonSet,
    /// A Job of no CronJob.
    Job,
    /// A CronJob, all of its Jobs.
    CronJob,
    /// A pod whose owner is not known.
    Pod,
    /// A service of a Compose project.
    Compose,
    /// A service of a Docker Swarm.
    Swarm,
    /// A container by itself.
    Container,
    /// A systemd unit, or all instances of a template.
    Service,
    /// A plain cgroup.
    #[default]
    Cgroup,
    /// All that has no entry of its own.
    Other,
}

impl WorkloadKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Deployment,
        Self::ReplicaSet,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::Job,
        Self::CronJob,
        Self::Pod,
        Self::Compose,
        Self::Swarm,
        Self::Container,
        Self::Service,
        Self::Cgroup,
        Self::Other,
    ];

    /// The label value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::ReplicaSet => "replicaset",
            Self::StatefulSet => "statefulset",
            Self::DaemonSet => "daemonset",
            Self::Job => "job",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Compose => "compose",
            Self::Swarm => "swarm",
            Self::Container => "container",
            Self::Service => "service",
            Self::Cgroup => "cgroup",
            Self::Other => "other",
        }
    }
}

/// Who a workload is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadIdentity {
    /// Kubernetes namespace; empty outside Kubernetes.
    pub namespace: String,
    /// Its name; `_other` for [`WorkloadKind::Other`].
    pub name: String,
    /// What it is.
    pub kind: WorkloadKind,
}

/// A workload.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    /// Who it is.
    pub identity: Arc<WorkloadIdentity>,
    /// Containers that live, without the sandboxes of pods; `None` for the one of all others.
    pub containers: Option<u64>,
    /// What its containers have counted since the agent started, all of them.
    pub totals: Totals,
}

/// Workloads that gave their places to others.
#[derive(Clone, Debug, Default)]
pub struct EvictedWorkloads {
    /// How many.
    pub count: u64,
    /// What they had counted.
    pub totals: Totals,
}

/// A number of [`Totals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total(usize);

/// Numbers that are no block operation's.
const SINGLE: usize = 14;
/// Numbers of each block operation.
const PER_OPERATION: usize = 3;
/// Numbers of [`Totals`].
const COUNT: usize = SINGLE + Operation::ALL.len() * PER_OPERATION;

/// Their names in JSON.
const NAMES: [&str; COUNT] = [
    "started",
    "exited",
    "cpu_ns",
    "run_queue_ns",
    "off_cpu_sleep_ns",
    "off_cpu_io_ns",
    "off_cpu_uninterruptible_ns",
    "voluntary",
    "involuntary",
    "throttled_ns",
    "oom_kills",
    "cpu_waiting_usec",
    "memory_waiting_usec",
    "io_waiting_usec",
    "block_read_bytes",
    "block_read_operations",
    "block_read_latency_ns",
    "block_write_bytes",
    "block_write_operations",
    "block_write_latency_ns",
    "block_flush_bytes",
    "block_flush_operations",
    "block_flush_latency_ns",
    "block_discard_bytes",
    "block_discard_operations",
    "block_discard_latency_ns",
];

/// Numbers of cgroup files, beside CPU time where no program counts that.
const OF_FILES: u32 = Total::THROTTLED.bit()
    | Total::OOM_KILLS.bit()
    | Total::CPU_WAITING.bit()
    | Total::MEMORY_WAITING.bit()
    | Total::IO_WAITING.bit();
/// Numbers of containers' lives.
const OF_LIFE: u32 = Total::STARTED.bit() | Total::EXITED.bit();

impl Total {
    /// Containers that were seen to start, or were there when the agent started; no sandboxes.
    pub const STARTED: Self = Self(0);
    /// Times that one of those ended.
    pub const EXITED: Self = Self(1);
    /// Time on CPUs, nanoseconds.
    pub const CPU: Self = Self(2);
    /// Run queue latency, nanoseconds.
    pub const RUN_QUEUE: Self = Self(3);
    /// Time blocked, interruptible, nanoseconds.
    pub const OFF_CPU_SLEEP: Self = Self(4);
    /// Time blocked for I/O, nanoseconds.
    pub const OFF_CPU_IO: Self = Self(5);
    /// Time blocked, uninterruptible for another reason, nanoseconds.
    pub const OFF_CPU_UNINTERRUPTIBLE: Self = Self(6);
    /// Context switches that left the CPU blocked.
    pub const VOLUNTARY: Self = Self(7);
    /// Context switches that left the CPU still runnable.
    pub const INVOLUNTARY: Self = Self(8);
    /// Time throttled, nanoseconds.
    pub const THROTTLED: Self = Self(9);
    /// Tasks killed for want of memory.
    pub const OOM_KILLS: Self = Self(10);
    /// Time in which at least one task of a container waited for a CPU, microseconds.
    pub const CPU_WAITING: Self = Self(11);
    /// The same for memory.
    pub const MEMORY_WAITING: Self = Self(12);
    /// The same for I/O.
    pub const IO_WAITING: Self = Self(13);

    const fn bit(self) -> u32 {
        1 << self.0
    }

    /// Bytes of block requests.
    #[must_use]
    pub const fn block_bytes(operation: Operation) -> Self {
        Self(SINGLE + operation as usize * PER_OPERATION)
    }

    /// Block requests.
    #[must_use]
    pub const fn block_operations(operation: Operation) -> Self {
        Self(SINGLE + operation as usize * PER_OPERATION + 1)
    }

    /// Latency of block requests, nanoseconds.
    #[must_use]
    pub const fn block_latency(operation: Operation) -> Self {
        Self(SINGLE + operation as usize * PER_OPERATION + 2)
    }
}

/// Cumulative numbers of many containers, or what one of them has counted; absent where not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// One bit for each number that is known.
    known: u32,
    values: [u64; COUNT],
}

impl Totals {
    /// A number; `None` where it was not measured.
    #[must_use]
    pub fn get(&self, total: Total) -> Option<u64> {
        (self.known & total.bit() != 0).then(|| self.values[total.0])
    }

    /// The numbers that were measured, with their names.
    pub fn known(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES
            .into_iter()
            .enumerate()
            .filter_map(|(index, name)| Some((name, self.get(Total(index))?)))
    }

    /// Sets a number.
    pub fn set(&mut self, total: Total, value: u64) {
        self.known |= total.bit();
        self.values[total.0] = value;
    }

    /// What a container has counted, without those of its name that are gone.
    #[must_use]
    pub fn of_container(container: &Container) -> Self {
        Self::of(&container.counters, container.on_cpu_ns())
    }

    /// What a container had counted that is gone.
    #[must_use]
    pub fn of_counters(counters: &Counters) -> Self {
        Self::of(counters, counters.on_cpu_ns())
    }

    fn of(counters: &Counters, on_cpu_ns: Option<u64>) -> Self {
        let mut totals = Self::default();
        totals.put(Total::CPU, on_cpu_ns);
        if let Some(sched) = &counters.sched {
            totals.set(Total::RUN_QUEUE, sched.run_queue.sum_ns());
            totals.set(Total::OFF_CPU_SLEEP, sched.off_cpu_sleep_ns);
            totals.set(Total::OFF_CPU_IO, sched.off_cpu_io_ns);
            totals.set(
                Total::OFF_CPU_UNINTERRUPTIBLE,
                sched.off_cpu_uninterruptible_ns,
            );
            totals.set(Total::VOLUNTARY, sched.voluntary);
            totals.set(Total::INVOLUNTARY, sched.involuntary);
        }
        if let Some(block) = &counters.block {
            for (operation, counted) in Operation::ALL.into_iter().zip(&block.operations) {
                totals.set(Total::block_bytes(operation), counted.bytes);
                totals.set(Total::block_operations(operation), counted.count);
                totals.set(Total::block_latency(operation), counted.latency.sum_ns());
            }
        }
        let cpu = counters.cpu.as_ref();
        totals.put(Total::THROTTLED, cpu.map(|cpu| cpu.throttled_ns));
        let memory = counters.memory.as_ref();
        totals.put(Total::OOM_KILLS, memory.and_then(|memory| memory.oom_kills));
        if let Some(pressure) = &counters.pressure {
            for (total, times) in [
                (Total::CPU_WAITING, pressure.cpu),
                (Total::MEMORY_WAITING, pressure.memory),
                (Total::IO_WAITING, pressure.io),
            ] {
                totals.put(total, times.map(|times| times.waiting_usec));
            }
        }
        totals
    }

    fn put(&mut self, total: Total, value: Option<u64>) {
        if let Some(value) = value {
            self.set(total, value);
        }
    }

    /// Adds others to these.
    pub fn add(&mut self, other: &Self) {
        self.known |= other.known;
        // What is not known is zero.
        for (mine, theirs) in self.values.iter_mut().zip(other.values) {
            *mine = mine.saturating_add(theirs);
        }
    }

    /// What these have gained beyond `counted`, which is brought up to them: what is taken out in this
    /// way adds up to the highest that each number ever was, whatever order it came in.
    #[must_use]
    pub fn take_gained(&self, counted: &mut Self) -> Self {
        let mut gained = Self {
            known: self.known,
            ..Self::default()
        };
        counted.known |= self.known;
        let pairs = self.values.iter().zip(&mut counted.values);
        for (gained, (now, counted)) in gained.values.iter_mut().zip(pairs) {
            *gained = now.saturating_sub(*counted);
            *counted = (*counted).max(*now);
        }
        gained
    }

    /// Those numbers that are the kernel's own account of a cgroup, and so began with the cgroup and not
    /// with the agent's first sight of it.
    #[must_use]
    pub fn of_files(&self) -> Self {
        let mut files = OF_FILES;
        if self.get(Total::RUN_QUEUE).is_none() {
            files |= Total::CPU.bit();
        }
        self.only(files)
    }

    /// Those numbers that kernel programs count.
    #[must_use]
    pub fn of_programs(&self) -> Self {
        self.only(!(self.of_files().known | OF_LIFE))
    }

    /// These without those that are known of others.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        self.only(!others.known)
    }

    fn only(&self, bits: u32) -> Self {
        let known = self.known & bits;
        Self {
            known,
            values: std::array::from_fn(|index| match known >> index & 1 {
                1 => self.values[index],
                _ => 0,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::snapshot::{
        BlockStats, MemoryEvents, Pressure, PressureTimes, SchedStats, Throttling,
    };

    fn everything() -> Totals {
        let waited = Some(PressureTimes::default());
        let mut totals = Totals::of_counters(&Counters {
            sched: Some(SchedStats::default()),
            block: Some(BlockStats::default()),
            cpu: Some(Throttling::default()),
            memory: Some(MemoryEvents {
                oom_kills: Some(2),
                ..MemoryEvents::default()
            }),
            pressure: Some(Pressure {
                cpu: waited,
                memory: waited,
                io: waited,
            }),
            ..Counters::default()
        });
        totals.set(Total::STARTED, 1);
        totals.set(Total::EXITED, 0);
        totals
    }

    #[test]
    fn every_number_has_a_place_and_a_name_of_its_own() {
        let totals = everything();
        let names: BTreeSet<&str> = totals.known().map(|(name, _)| name).collect();
        assert_eq!((names.len(), totals.known().count()), (COUNT, COUNT));
        assert_eq!(totals.get(Total::OOM_KILLS), Some(2));
        let latency = Total::block_latency(Operation::Discard);
        assert_eq!(NAMES[latency.0], "block_discard_latency_ns");
    }

    #[test]
    fn each_number_is_of_programs_or_of_files_or_of_lives() {
        let totals = everything();
        let (programs, files) = (totals.of_programs(), totals.of_files());
        assert_eq!(programs.known & files.known, 0);
        assert_eq!(programs.known | files.known | OF_LIFE, totals.known);
        assert!(programs.get(Total::CPU).is_some());
        // Without programs the CPU time is a file's.
        let counters = Counters {
            cpu_usage_ns: Some(7),
            ..Counters::default()
        };
        let totals = Totals::of_counters(&counters);
        assert_eq!(totals.of_files().get(Total::CPU), Some(7));
        assert_eq!(totals.of_programs(), Totals::default());
    }

    #[test]
    fn what_is_taken_adds_up_to_the_highest_that_a_number_was() {
        let (mut counted, mut sum) = (Totals::default(), Totals::default());
        for now in [5, 9, 3, 9, 12] {
            let mut totals = Totals::default();
            totals.set(Total::CPU, now);
            sum.add(&totals.take_gained(&mut counted));
        }
        assert_eq!(sum.get(Total::CPU), Some(12));
        assert_eq!(sum.get(Total::STARTED), None);
    }
}
