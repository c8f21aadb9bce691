//! What the trees ask: numbers of one window, of a container and of its host.
//!
//! Facts are differences of cumulative numbers between two readings, or the state at the second one.
//! `None` is what was not measured, and never zero: a question that lacks a fact is answered "unknown".
//! Times are seconds; those of tasks are summed over tasks and those of CPUs over CPUs, so either may
//! exceed the window.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::snapshot::Identity;

/// Everything of one window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowFacts {
    /// Length of the window.
    pub seconds: f64,
    /// When it ended, milliseconds since the epoch.
    pub ended_at_unix_ms: u64,
    /// The machine.
    pub host: HostFacts,
    /// Containers that were there at its end, or ended within it; the facts of one that began within it are
    /// of its life from the first reading of it.
    pub containers: Vec<ContainerFacts>,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Time that these facts are of: the window, or less for one that began within it.
    #[serde(default)]
    pub seconds: f64,
    /// When it ended, milliseconds since the epoch; `None` while it lives.
    #[serde(default)]
    pub exited_at_unix_ms: Option<u64>,
    /// CPU.
    pub cpu: CpuFacts,
    /// Memory.
    pub memory: MemoryFacts,
    /// Block I/O.
    pub disk: DiskFacts,
    /// Its network namespace; `None` where none of its processes could be looked at.
    pub network: Option<NetworkFacts>,
}

/// CPU of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuFacts {
    /// Time on CPUs.
    pub used_seconds: Option<f64>,
    /// Run queue latency.
    pub waited_seconds: Option<f64>,
    /// Waits that it is the sum of.
    pub waits: Option<u64>,
    /// Blocked, interruptible.
    pub sleep_seconds: Option<f64>,
    /// Blocked for I/O.
    pub io_wait_seconds: Option<f64>,
    /// Blocked, uninterruptible for another reason.
    pub blocked_seconds: Option<f64>,
    /// Context switches that left the CPU blocked.
    pub voluntary: Option<u64>,
    /// Context switches that left the CPU still runnable.
    pub involuntary: Option<u64>,
    /// Share of the window in which a task of it waited for a CPU (PSI `some`), 0 to 1.
    pub pressure_ratio: Option<f64>,
    /// Bandwidth control of its own cgroup and of each ancestor, innermost first; only those with a quota.
    pub quotas: Vec<QuotaFacts>,
    /// What its weight entitles it to; `None` without the cpu controller.
    pub entitlement: Option<Entitlement>,
    /// CPUs that it may run on (`cpuset.cpus.effective`), where those are fewer than are online; `None`
    /// where it may run on all.
    pub cpuset: Option<Vec<u32>>,
    /// Whether that was not so when the window began, or is not known of then.
    #[serde(default)]
    pub is_cpuset_new: bool,
    /// The CPUs that it ran on; `None` where it did not run, or that is not measured.
    #[serde(default)]
    pub ran_on: Option<RanOn>,
    /// Who had the CPUs while it waited.
    pub waited_for: Option<WaitedFor>,
    /// Time on CPUs in each of the last windows, oldest first, this one excluded: cores. Windows as
    /// long as this one and adjacent to it; those before the container was there are left out.
    pub former_cores: Vec<f64>,
}

/// What the CPUs that a container ran on did: means of the [`CpuTimeFacts`] of each, weighted by its time
/// there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RanOn {
    /// Idle.
    pub idle_ratio: f64,
    /// Hardware interrupts.
    pub irq_ratio: f64,
    /// Software interrupts.
    pub softirq_ratio: f64,
    /// Taken by the hypervisor.
    pub steal_ratio: f64,
}

/// A quota and what it did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaFacts {
    /// Path of the cgroup that has it.
    pub cgroup: String,
    /// Whether that is the container's own cgroup; else it is an ancestor.
    pub is_own: bool,
    /// The quota, cores.
    pub quota_cores: f64,
    /// What may be saved up for bursts (`cpu.max.burst`), as seconds of CPU time; 0 where nothing.
    pub burst_seconds: f64,
    /// Enforcement periods that elapsed.
    pub periods: u64,
    /// Periods in which it was throttled.
    pub throttled_periods: u64,
    /// Time throttled, summed over CPUs.
    pub throttled_seconds: f64,
}

/// What weights give a container, by the rule of the fair scheduler: at each level of the hierarchy the
/// busy siblings share what their parent gets in proportion to their weights, and what one of them does
/// not use is shared by the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entitlement {
    /// Weight of its own cgroup on the scale of v2.
    pub weight: u64,
    /// What it gets if everybody beside it wants all: cores.
    pub guaranteed_cores: f64,
    /// What it gets beside those that were busy in this window, each of them with what it used: cores.
    pub fair_cores: f64,
    /// What it had: cores.
    pub obtained_cores: f64,
    /// The weight of its own cgroup, on the same scale, that would have given it all but a twentieth of what it wanted:
    /// what it had, and what it waited for others. `None` where it did not wait, or where no weight gives that much.
    #[serde(default)]
    pub needed_weight: Option<u64>,
}

/// Who had the CPU that a container waited for: seconds of its tasks' run queue latency. Their sum is
/// [`CpuFacts::waited_seconds`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WaitedFor {
    /// Its own tasks.
    pub own_seconds: f64,
    /// Nobody: the CPU was idle and being woken.
    pub idle_seconds: f64,
    /// Kernel threads.
    pub kernel_seconds: f64,
    /// System services, sessions, and what has no entry of its own.
    pub system_seconds: f64,
    /// Those of them that have a name, the one that was waited for most first; bounded.
    #[serde(default)]
    pub services: Vec<Neighbour>,
    /// Other containers, the one that was waited for most first. Bounded; the rest is
    /// [`other_containers_seconds`](Self::other_containers_seconds).
    pub containers: Vec<Neighbour>,
    /// Containers beyond those.
    pub other_containers_seconds: f64,
    /// Time in which its own cgroup or an ancestor was throttled; 0 where the kernel side cannot tell.
    pub throttled_seconds: f64,
    /// Waited on another CPU before it was moved to the one that it ran on.
    pub migrated_seconds: f64,
    /// Longer ago than the kernel side remembers, or missed by it.
    pub unattributed_seconds: f64,
}

/// Another container, and what was waited for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its name: namespace, pod and container, as far as it has them, joined by `/`.
    pub name: String,
    /// Seconds.
    pub seconds: f64,
}

/// Memory of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryFacts {
    /// Usage less inactive file pages, bytes, at the end.
    pub working_set_bytes: Option<u64>,
    /// Limits of its own cgroup and of each ancestor, innermost first; only those with one.
    pub limits: Vec<MemoryLimitFacts>,
    /// Pages that had been reclaimed and were needed again, file and anonymous.
    pub refaults: Option<u64>,
    /// Major page faults.
    pub major_faults: Option<u64>,
    /// Pages that were reclaimed from it by tasks that needed them before they could go on, its own for the
    /// most part; `None` where the kernel does not tell those from what it reclaimed beforehand.
    pub direct_reclaim_pages: Option<u64>,
    /// Time that its tasks spent in that; `None` where it is not measured.
    pub direct_reclaim_seconds: Option<f64>,
    /// Tasks killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Share of the window in which a task of it waited for memory (PSI `some`), 0 to 1.
    pub pressure_ratio: Option<f64>,
    /// Share in which all of them waited (PSI `full`), 0 to 1.
    pub stalled_ratio: Option<f64>,
    /// Swap used, bytes, at the end.
    pub swap_bytes: Option<u64>,
}

/// A memory limit and what it did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryLimitFacts {
    /// Path of the cgroup that has it.
    pub cgroup: String,
    /// Whether that is the container's own cgroup; else it is an ancestor.
    pub is_own: bool,
    /// `memory.max` or `memory.limit_in_bytes`, bytes.
    pub limit_bytes: Option<u64>,
    /// `memory.high`, bytes; above it tasks are slowed down.
    pub high_bytes: Option<u64>,
    /// Usage at the end, bytes.
    pub usage_bytes: Option<u64>,
    /// Times that the limit was hit and reclaim began.
    pub limit_hits: Option<u64>,
    /// Times that tasks were slowed down for being above `memory.high`.
    pub high_hits: Option<u64>,
}

/// Block I/O of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// Requests completed.
    pub requests: Option<u64>,
    /// Bytes of them.
    pub bytes: Option<u64>,
    /// Latency of them, summed.
    pub latency_seconds: Option<f64>,
    /// The part of it before they were issued to the device.
    pub queue_seconds: Option<f64>,
    /// Requests that failed.
    pub errors: Option<u64>,
    /// What it did to each device by the kernel's own account (`io.stat`, `blkio.throttle.*`), by the
    /// device's name as in [`HostFacts::disks`].
    pub devices: BTreeMap<String, DeviceUse>,
    /// Limits of its own cgroup and of each ancestor, innermost first.
    pub limits: Vec<IoLimitFacts>,
    /// Share of the window in which a task of it waited for I/O (PSI `some`), 0 to 1.
    pub pressure_ratio: Option<f64>,
    /// Share in which all of them waited (PSI `full`), 0 to 1.
    pub stalled_ratio: Option<f64>,
    /// Dirty pages and those under writeback, bytes, at the end.
    pub dirty_bytes: Option<u64>,
    /// Whose requests were at the device before its own: seconds of its requests' latency; `None` where
    /// it is not measured.
    pub waited_for: Option<WaitedForDisk>,
}

/// Whose requests a container's requests had in front of them. Their sum is [`DiskFacts::latency_seconds`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WaitedForDisk {
    /// Its own.
    pub own_seconds: f64,
    /// Other containers', the most first; bounded.
    pub containers: Vec<Neighbour>,
    /// Containers beyond those, services, and what is nobody's.
    pub other_seconds: f64,
    /// Latency of requests of which it is not known.
    #[serde(default)]
    pub unknown_seconds: f64,
}

/// Bytes and operations on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceUse {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// A limit on block I/O (`io.max`, `blkio.throttle.*_device`): `None` where that direction has none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IoLimitFacts {
    /// Path of the cgroup that has it.
    pub cgroup: String,
    /// Whether that is the container's own cgroup; else it is an ancestor.
    pub is_own: bool,
    /// Name of the device.
    pub device: String,
    /// Bytes read per second.
    pub read_bytes_per_second: Option<u64>,
    /// Bytes written per second.
    pub write_bytes_per_second: Option<u64>,
    /// Reads per second.
    pub reads_per_second: Option<u64>,
    /// Writes per second.
    pub writes_per_second: Option<u64>,
    /// What that cgroup did to the device in the window.
    pub used: DeviceUse,
}

/// The network namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkFacts {
    /// Whether it is the host's, so that the numbers are those of many.
    pub is_host: bool,
    /// Bytes received, loopback left out.
    pub received_bytes: u64,
    /// Bytes sent, loopback left out.
    pub sent_bytes: u64,
    /// Packets dropped by its interfaces, both directions.
    pub dropped_packets: u64,
    /// Packets in error, both directions.
    pub error_packets: u64,
    /// TCP segments sent.
    pub sent_segments: Option<u64>,
    /// TCP segments sent again.
    pub retransmitted_segments: Option<u64>,
    /// Connections that a listener refused, for the most part because its queue was full (`ListenDrops`,
    /// which has `ListenOverflows` in it).
    pub listen_drops: Option<u64>,
    /// UDP datagrams dropped because the receiver's buffer was full.
    pub udp_receive_errors: Option<u64>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// CPUs online at the end, ordered by number.
    pub cpus: Vec<CpuTimeFacts>,
    /// Load averages over 1, 5 and 15 minutes, at the end.
    pub load: Option<[f64; 3]>,
    /// Memory.
    pub memory: HostMemoryFacts,
    /// Disks by name.
    pub disks: BTreeMap<String, DiskDeviceFacts>,
    /// Network interfaces by name, loopback left out.
    pub interfaces: BTreeMap<String, InterfaceFacts>,
    /// Shares of the window in which some and all tasks waited for CPU, memory, I/O.
    pub pressure: HostPressure,
    /// Where the limits of cgroups are set, so that a remedy can name the file.
    #[serde(default)]
    pub controllers: ControllerMounts,
}

/// The hierarchies that carry the controllers; `None` where none does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerMounts {
    /// Quota and weight.
    pub cpu: Option<ControllerMount>,
    /// The CPUs that a cgroup may use.
    pub cpuset: Option<ControllerMount>,
    /// Memory limits.
    pub memory: Option<ControllerMount>,
    /// Limits on block I/O.
    pub io: Option<ControllerMount>,
}

/// Where a hierarchy is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerMount {
    /// Directory of its root cgroup, as the agent opens it.
    pub path: String,
    /// Whether it is the unified hierarchy, whose files have other names.
    pub is_v2: bool,
}

/// Shares of the window by PSI, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostPressure {
    /// Some task waited for a CPU.
    pub cpu_waiting: Option<f64>,
    /// Some task waited for memory.
    pub memory_waiting: Option<f64>,
    /// All tasks waited for memory.
    pub memory_stalled: Option<f64>,
    /// Some task waited for I/O.
    pub io_waiting: Option<f64>,
    /// All tasks waited for I/O.
    pub io_stalled: Option<f64>,
}

/// Time of one CPU (`/proc/stat`), as shares of the window, 0 to 1. The kernel counts in ticks of 10 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuTimeFacts {
    /// Its number.
    pub cpu: u32,
    /// Idle, waiting for I/O included.
    pub idle_ratio: f64,
    /// Tasks, user and kernel.
    pub task_ratio: f64,
    /// Hardware interrupts.
    pub irq_ratio: f64,
    /// Software interrupts.
    pub softirq_ratio: f64,
    /// Taken by the hypervisor.
    pub steal_ratio: f64,
}

/// Memory of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostMemoryFacts {
    /// All of it, bytes.
    pub total_bytes: Option<u64>,
    /// What could be had without swapping, bytes, at the end.
    pub available_bytes: Option<u64>,
    /// Swap, bytes.
    pub swap_total_bytes: Option<u64>,
    /// Swap free, bytes, at the end.
    pub swap_free_bytes: Option<u64>,
    /// Pages reclaimed by tasks that needed memory at once, of the whole machine.
    pub direct_reclaim_pages: Option<u64>,
    /// Tasks killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Dirty pages and those under writeback, bytes, at the end.
    pub dirty_bytes: Option<u64>,
    /// Where the kernel begins to slow writers down, bytes.
    pub dirty_threshold_bytes: Option<u64>,
    /// Memory that failed (`HardwareCorrupted`), bytes.
    pub corrupted_bytes: Option<u64>,
}

/// One disk (`/proc/diskstats`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskDeviceFacts {
    /// Major and minor number.
    pub number: (u32, u32),
    /// Reads and writes completed, discards and flushes left out.
    pub requests: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Share of the window in which a request was at it, 0 to 1.
    pub busy_ratio: f64,
    /// Mean of the requests in flight.
    pub mean_in_flight: f64,
    /// Mean latency of a read or write, queue included; `None` where there was none.
    pub mean_latency_seconds: Option<f64>,
    /// What is normal for it: the median of that over the last hour before the window; `None` while less
    /// than a minute of it is known.
    pub normal_latency_seconds: Option<f64>,
    /// Requests that failed, as the device's driver counts them (`ioerr_cnt`, SCSI only).
    #[serde(default)]
    pub errors: Option<u64>,
}

/// One network interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InterfaceFacts {
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets dropped, both directions.
    pub dropped_packets: u64,
    /// Packets in error, both directions.
    pub error_packets: u64,
    /// Speed of the link, bytes per second; `None` where it has none (virtual interfaces).
    pub bytes_per_second: Option<u64>,
}
