//! What is known at one instant. All numbers are cumulative unless said otherwise; `None` is what is not
//! measured here.

use std::{collections::HashMap, sync::Arc};

use ctrscope_ebpf::ledger::CAUSES;

use crate::{
    cgroup::{Bandwidth, DeviceNumber, IoLimits, MemoryLimits, MemoryUse, Pressure},
    diagnosis::facts::DeviceUse,
    host::{CpuTicks, DiskSample, InterfaceSample, MeminfoSample, NetworkSample, VmstatSample},
    snapshot::{Container, Identity},
};

/// Everything that is known at one instant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// When, monotonic nanoseconds.
    pub(crate) at_ns: u64,
    /// When, milliseconds since the epoch.
    pub(crate) unix_ms: u64,
    /// The machine.
    pub(crate) host: HostReading,
    /// Containers, in the order of their names.
    pub(crate) containers: Vec<Arc<ContainerReading>>,
    /// Cgroups above them, by path.
    pub(crate) above: HashMap<Arc<str>, Arc<GroupReading>>,
    /// Network namespaces of containers, by their id.
    pub(crate) networks: HashMap<u64, NetworkSample>,
}

/// The machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostReading {
    pub(crate) cpus: Vec<CpuTicks>,
    /// A gauge.
    pub(crate) load: Option<[f64; 3]>,
    pub(crate) meminfo: MeminfoSample,
    pub(crate) vmstat: VmstatSample,
    pub(crate) disks: Vec<DiskReading>,
    pub(crate) interfaces: Vec<InterfaceReading>,
    pub(crate) pressure: Option<Pressure>,
    /// Id of its network namespace.
    pub(crate) network: Option<u64>,
    /// Bytes of a page.
    pub(crate) page_bytes: u64,
}

/// A disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskReading {
    pub(crate) sample: DiskSample,
    pub(crate) errors: Option<u64>,
}

/// An interface of the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct InterfaceReading {
    pub(crate) sample: InterfaceSample,
    /// A gauge.
    pub(crate) bytes_per_second: Option<u64>,
}

/// One container.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerReading {
    /// Who it is.
    pub(crate) identity: Arc<Identity>,
    /// When the agent first saw it: two of one path with different ones are two containers.
    pub(crate) first_seen_unix_ms: u64,
    /// When it ended.
    pub(crate) exited_at_unix_ms: Option<u64>,
    /// Time on CPUs, nanoseconds.
    pub(crate) on_cpu_ns: Option<u64>,
    /// What its tasks did, by the scheduler's programs.
    pub(crate) tasks: Option<TaskReading>,
    /// Block requests.
    pub(crate) requests: Option<RequestReading>,
    /// What the CPUs that it ran on did.
    pub(crate) ran_on: Option<RanOnReading>,
    /// Whom its tasks waited for most of late, those that have a name.
    pub(crate) waited_for: Vec<PairReading>,
    /// Whose requests its own waited for most of late, those that have a name.
    pub(crate) waited_for_disk: Vec<PairReading>,
    /// Its own cgroup.
    pub(crate) own: GroupReading,
    /// Memory of it.
    pub(crate) memory: MemoryUse,
    /// Pressure.
    pub(crate) pressure: Option<Pressure>,
    /// CPUs that it may run on, ascending (a gauge).
    pub(crate) cpus: Option<Arc<[u32]>>,
    /// Its network namespace.
    pub(crate) network: Option<u64>,
}

/// What the tasks of a container did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct TaskReading {
    pub(crate) waited_ns: u64,
    pub(crate) waits: u64,
    pub(crate) sleep_ns: u64,
    pub(crate) io_wait_ns: u64,
    pub(crate) blocked_ns: u64,
    pub(crate) voluntary: u64,
    pub(crate) involuntary: u64,
    /// What was waited by [`ctrscope_ebpf::ledger`]'s causes.
    pub(crate) causes_ns: [u64; CAUSES],
}

/// Another container or a system service, and how long a container's tasks waited while it had the CPU, or its requests for
/// those of that one, since it is among those that are told.
#[derive(Clone, Debug)]
pub(crate) struct PairReading {
    /// The kernel side's number of it, by which they are sorted.
    pub(crate) slot: u32,
    pub(crate) culprit: Arc<Identity>,
    pub(crate) ns: u64,
}

/// Block requests of a container, all operations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RequestReading {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) latency_ns: u64,
    pub(crate) queue_ns: u64,
    /// The part of the latency that was waited for others.
    pub(crate) others_ns: u64,
    /// Latency of which that is not known.
    pub(crate) unknown_ns: u64,
    pub(crate) errors: u64,
}

/// What CPUs did, each weighted with the seconds that a container was on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RanOnReading {
    /// The seconds.
    pub(crate) weight: f64,
    pub(crate) idle: f64,
    pub(crate) irq: f64,
    pub(crate) softirq: f64,
    pub(crate) steal: f64,
}

/// One cgroup: a container's own or one above it.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupReading {
    /// Its path.
    pub(crate) path: Arc<str>,
    /// CPU control; `None` where it is in no hierarchy of the cpu controller.
    pub(crate) cpu: Option<Bandwidth>,
    /// Limits on memory.
    pub(crate) memory: MemoryLimits,
    /// Limits on block I/O (a gauge).
    pub(crate) io_limits: IoLimits,
    /// What it did to each device by the kernel's own account; of a cgroup above only where it has a
    /// limit.
    pub(crate) io: Vec<(DeviceNumber, DeviceUse)>,
}

impl TaskReading {
    /// Of a snapshot's container; `None` where the programs do not tell.
    pub(crate) fn of(container: &Container) -> Option<Self> {
        container.counters.sched.as_ref().map(|sched| Self {
            waited_ns: sched.run_queue.sum_ns(),
            waits: sched.run_queue.count(),
            sleep_ns: sched.off_cpu_sleep_ns,
            io_wait_ns: sched.off_cpu_io_ns,
            blocked_ns: sched.off_cpu_uninterruptible_ns,
            voluntary: sched.voluntary,
            involuntary: sched.involuntary,
            causes_ns: sched.causes_ns,
        })
    }
}

impl RequestReading {
    /// Of a snapshot's container; `None` where the programs do not tell.
    pub(crate) fn of(container: &Container) -> Option<Self> {
        container.counters.block.as_ref().map(|block| {
            let mut sum = Self::default();
            for operation in &block.operations {
                sum.count += operation.count;
                sum.bytes += operation.bytes;
                sum.latency_ns += operation.latency.sum_ns();
                sum.queue_ns += operation.queue_ns;
                sum.others_ns += operation.others_ns;
                sum.unknown_ns += operation.unknown_ns;
                sum.errors += operation.errors;
            }
            sum
        })
    }
}

impl ContainerReading {
    /// Whether two readings are of one container.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.first_seen_unix_ms == other.first_seen_unix_ms
            && (Arc::ptr_eq(&self.identity, &other.identity)
                || (self.identity.cgroup == other.identity.cgroup
                    && self.identity.container_id == other.identity.container_id))
    }

    /// What it is found by: its path and its beginning.
    pub(crate) fn key(&self) -> (Arc<str>, u64) {
        (Arc::clone(&self.own.path), self.first_seen_unix_ms)
    }
}

impl Reading {
    /// The cgroups above a container, innermost first.
    pub(crate) fn above(&self, container: &ContainerReading) -> Vec<&GroupReading> {
        let mut groups = Vec::new();
        let mut path = &*container.own.path;
        while let Some(parent) = crate::cgroup::path_of_parent(path) {
            groups.extend(self.above.get(parent).map(Arc::as_ref));
            path = parent;
        }
        groups
    }

    /// The name of a device, as the disks are called; its number where no disk has it.
    pub(crate) fn device_name(&self, device: DeviceNumber) -> String {
        let mut disks = self.host.disks.iter();
        match disks.find(|disk| disk.sample.device == device) {
            Some(disk) => disk.sample.name.clone(),
            None => format!("{}:{}", device.major, device.minor),
        }
    }
}
