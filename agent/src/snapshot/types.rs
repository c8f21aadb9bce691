//! The types of a snapshot. They are also the JSON of `/api/v1/containers`.

use serde::{Deserialize, Serialize};

use super::{
    Counters, EvictedWorkloads, Histogram, Labels, Qos, Resources, Workload, WorkloadKind,
};

/// Everything known at one instant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken, milliseconds since the epoch.
    pub taken_at_unix_ms: u64,
    /// When it was taken, monotonic nanoseconds.
    pub taken_at_ns: u64,
    /// The machine.
    pub host: Host,
    /// One entry for each container, live and recently exited, ordered by name; the entry of kind
    /// [`Kind::Other`] sums what has no entry of its own.
    pub containers: Vec<Container>,
    /// Sums over containers, those that are gone among them, ordered by identity; the one of
    /// [`WorkloadKind::Other`] has what is in the entry of kind [`Kind::Other`]. No part of the JSON of
    /// the containers: `/api/v1/workloads` has them.
    #[serde(skip)]
    pub workloads: Vec<Workload>,
    /// What workloads had counted that are no longer among them.
    #[serde(skip)]
    pub evicted_workloads: EvictedWorkloads,
    /// The agent's account of itself.
    pub agent: AgentHealth,
}

/// The machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Host {
    /// Host name.
    pub name: String,
    /// Kernel release.
    pub kernel: String,
    /// CPUs online.
    pub cpus: u32,
}

/// Name of the entry that sums what has no entry of its own. No container has it, whatever it is called.
pub const OTHER_NAME: &str = "_other";

/// What a cgroup is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A container of a known runtime.
    Container,
    /// The sandbox ("pause") container of a Kubernetes pod.
    Sandbox,
    /// A systemd unit.
    Service,
    /// A cgroup that no known runtime laid out; counted as a container of its own.
    #[default]
    Cgroup,
    /// The sum of everything without an entry of its own.
    Other,
}

/// Who a container is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Kubernetes namespace; empty outside Kubernetes.
    pub namespace: String,
    /// Kubernetes pod; empty outside Kubernetes.
    pub pod: String,
    /// Name: the runtime's, the systemd unit, the cgroup path without its leading slash, or the first
    /// 12 digits of the id; `_other` for [`Kind::Other`].
    pub container: String,
    /// The runtime's id; empty where there is none.
    pub container_id: String,
    /// Kubernetes pod uid; empty outside Kubernetes.
    pub pod_uid: String,
    /// Class of the pod; `None` outside Kubernetes, and where the kubelet did not lay out the cgroups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<Qos>,
    /// Image; empty where unknown.
    pub image: String,
    /// Runtime: `containerd`, `docker`, `crio`, `podman`, `systemd`, ...; empty where unknown.
    pub runtime: String,
    /// What it is.
    pub kind: Kind,
    /// Path of its cgroup from the root of the hierarchy of the cpu controller.
    pub cgroup: String,
    /// The workload that it is counted in.
    #[serde(default)]
    pub workload: String,
    /// What that is.
    #[serde(default)]
    pub workload_kind: WorkloadKind,
}

impl Identity {
    /// How it is called in a sentence: all of its names that it has, joined by `/`.
    #[must_use]
    pub fn label(&self) -> String {
        [&self.namespace, &self.pod, &self.container]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("/")
    }
}

/// One container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Container {
    /// Who it is.
    pub identity: Identity,
    /// Requests and limits that its runtime was given; `None` where no runtime says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// What it is labelled with, as its runtime says. Of all containers that would be too much for one
    /// answer: only that of one container has it.
    #[serde(skip)]
    pub labels: Labels,
    /// When the agent first saw it, milliseconds since the epoch.
    pub first_seen_unix_ms: u64,
    /// When its cgroup was removed, milliseconds since the epoch; `None` while it lives.
    pub exited_at_unix_ms: Option<u64>,
    /// Exit code of its first process when it last ended, as the runtime says: 128 and a signal's number
    /// where that killed it; `None` while it never ended, and where no runtime says.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// What containers of the same namespace, pod and name had counted before it that are gone. The
    /// series of that name are the sum of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Box<Counters>>,
    /// Scheduler; `None` where that collector does not run, or cannot tell containers apart.
    pub sched: Option<SchedStats>,
    /// Block I/O; `None` where that collector does not run, or cannot tell containers apart.
    pub block: Option<BlockStats>,
    /// Time on CPUs since its cgroup was made, by the kernel's own account, nanoseconds; read only
    /// where [`sched`](Self::sched) is `None`.
    #[serde(default)]
    pub cpu_usage_ns: Option<u64>,
    /// Whether [`sched`](Self::sched) has time on CPUs that other entries show as their
    /// [`cpu_usage_ns`](Self::cpu_usage_ns): in the one of all others, where the collector cannot tell
    /// containers apart.
    #[serde(default)]
    pub is_counted_elsewhere: bool,
    /// CPU bandwidth control and weight; `None` without the cpu controller.
    pub cpu: Option<CpuControl>,
    /// Memory; `None` without the memory controller.
    pub memory: Option<Memory>,
    /// Pressure stall information; `None` where the kernel keeps none for cgroups.
    pub pressure: Option<Pressure>,
}

impl Container {
    /// Time on CPUs, nanoseconds: the scheduler collector's, else the kernel's own account. One of the
    /// two for as long as an agent runs, so that it only goes up. Each nanosecond is one entry's, so that
    /// entries can be added up.
    #[must_use]
    pub fn on_cpu_ns(&self) -> Option<u64> {
        self.sched
            .as_ref()
            .filter(|_| !self.is_counted_elsewhere)
            .map(|sched| sched.on_cpu_ns)
            .or(self.cpu_usage_ns)
    }
}

/// Who took the CPU from a preempted task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PreemptedBy {
    /// A task of the same container.
    Myself,
    /// A task of another container.
    Container,
    /// A task of a system service, a session, or the root cgroup.
    System,
    /// A kernel thread, or the scheduler itself (bandwidth limit, migration).
    Kernel,
}

impl PreemptedBy {
    /// All of them, in the order of the arrays they index.
    pub const ALL: [Self; 4] = [Self::Myself, Self::Container, Self::System, Self::Kernel];

    /// The label value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Myself => "self",
            Self::Container => "container",
            Self::System => "system",
            Self::Kernel => "kernel",
        }
    }
}

/// Scheduler counters of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SchedStats {
    /// Run queue latency: runnable (woken or preempted) until running.
    pub run_queue: Histogram,
    /// Time on CPUs, the slices still running included, nanoseconds.
    pub on_cpu_ns: u64,
    /// Time blocked, interruptible, nanoseconds.
    pub off_cpu_sleep_ns: u64,
    /// Time blocked, uninterruptible, nanoseconds.
    pub off_cpu_disk_ns: u64,
    /// Context switches that left the CPU blocked.
    pub voluntary: u64,
    /// Context switches that left the CPU still runnable.
    pub involuntary: u64,
    /// Preemptions by [`PreemptedBy`].
    pub preemptions: [u64; 4],
    /// Run queue latency after preemptions by [`PreemptedBy`], nanoseconds.
    pub preempted_wait_ns: [u64; 4],
    /// Processes whose main thread ended.
    pub process_exits: u64,
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

/// Block I/O counters of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockStats {
    /// By [`Operation`].
    pub operations: [BlockOperation; 4],
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
        self.operations
            .iter()
            .map(|operation| operation.bytes)
            .sum()
    }
}

/// Block I/O counters of one operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockOperation {
    /// Latency from the start of the request (queued) to its completion.
    pub latency: Histogram,
    /// The part of it before the request was issued to the device, nanoseconds.
    pub queue_ns: u64,
    /// Bytes completed.
    pub bytes: u64,
    /// Requests completed.
    pub count: u64,
    /// Requests completed in error.
    pub errors: u64,
}

/// Bytes of all completed block requests of the host since the agent started, by whom they are charged
/// to and by [`Operation`]. Containers that are gone stay in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargedBytes {
    /// Containers, sandboxes and plain cgroups.
    pub container: [u64; 4],
    /// Systemd units.
    pub service: [u64; 4],
    /// The root and cgroups that only hold others, what has no entry of its own, and what the kernel
    /// charges to nobody.
    pub other: [u64; 4],
}

/// CPU bandwidth control and weight of a container's own cgroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuControl {
    /// Enforcement periods that elapsed.
    pub periods: u64,
    /// Periods in which it was throttled.
    pub throttled_periods: u64,
    /// Time throttled, nanoseconds.
    pub throttled_ns: u64,
    /// Quota in cores; `None` where it has none.
    pub quota_cores: Option<f64>,
    /// Weight on the v2 scale (100 is the default); v1 shares are converted.
    pub weight: Option<u64>,
}

/// Memory of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Usage less inactive file pages, bytes.
    pub working_set_bytes: Option<u64>,
    /// Limit, bytes; `None` where it has none.
    pub limit_bytes: Option<u64>,
    /// Tasks killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Times the limit was hit and reclaim began.
    pub limit_hits: Option<u64>,
}

/// Pressure stall information of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// CPU.
    pub cpu: Option<PressureTimes>,
    /// Memory.
    pub memory: Option<PressureTimes>,
    /// I/O.
    pub io: Option<PressureTimes>,
}

/// Time lost to one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PressureTimes {
    /// At least one task waited (`some`), microseconds.
    pub waiting_usec: u64,
    /// All non-idle tasks waited (`full`), microseconds.
    pub stalled_usec: u64,
}

/// The agent's account of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AgentHealth {
    /// Collectors and their states.
    pub collectors: Vec<CollectorStatus>,
    /// Programs loaded into the kernel.
    pub programs: Vec<KernelProgram>,
    /// Maps held in the kernel.
    pub maps: Vec<KernelMap>,
    /// What was lost, discarded or evicted, by reason.
    pub losses: Vec<LossCounter>,
    /// Containers that have a slot of their own.
    pub slots_used: u32,
    /// Slots there are.
    pub slots: u32,
    /// Sockets of container runtimes that were found.
    #[serde(default)]
    pub runtimes: Vec<RuntimeHealth>,
    /// Containers of runtimes that were seen.
    #[serde(default)]
    pub seen: SeenContainers,
    /// Containers that got no series of their own.
    #[serde(default)]
    pub in_other: InOther,
    /// Bytes of all block requests; `None` where the block collector does not run.
    #[serde(default)]
    pub charged_bytes: Option<ChargedBytes>,
    /// How long this snapshot took to collect, nanoseconds.
    pub collection_ns: u64,
    /// Files that were opened for the numbers of containers since the start: most of what collecting them
    /// costs.
    #[serde(default)]
    pub files_read: u64,
}

/// How it stands with the socket of a container runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeHealth {
    /// `containerd`, `crio`, `docker` or `podman`.
    pub runtime: String,
    /// Path of its socket.
    pub socket: String,
    /// Whether it answers.
    pub connected: bool,
    /// Why it does not, or what of it is not used; else empty.
    pub reason: String,
    /// Times that it was connected.
    pub connections: u64,
    /// Questions that it did not answer, or wrongly.
    pub failures: u64,
}

/// Containers of runtimes since the start, those with an id; one over the limit counts when it is taken
/// in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenContainers {
    /// All of them.
    pub all: u64,
    /// Those that a runtime has named.
    pub named: u64,
}

/// How often a container got no series of its own, and is in those of all others, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InOther {
    /// There was no place for it, or it gave its place to a busier one.
    pub limit: u64,
    /// The selection leaves it out.
    pub excluded: u64,
}

/// State of a collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectorState {
    /// It runs and all of it works.
    #[default]
    Active,
    /// It runs, but a part of it is missing; the reason says which.
    Degraded,
    /// The host does not offer what it needs.
    Unsupported,
    /// It should have run and does not.
    Failed,
    /// Configuration switched it off.
    Disabled,
}

/// A collector and its state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CollectorStatus {
    /// Its name: `sched`, `block`, `cpu`, `memory`, `pressure`, `facts`, `cgroup`, `names`,
    /// `profile`.
    pub name: String,
    /// Its state.
    pub state: CollectorState,
    /// Why it is not active; empty if it is.
    pub reason: String,
}

/// A program in the kernel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KernelProgram {
    /// Its name.
    pub name: String,
    /// What it is attached to.
    pub hook: String,
    /// Collector that it belongs to.
    pub collector: String,
    /// Whether it is attached.
    pub attached: bool,
    /// Why it is not; empty if it is.
    pub reason: String,
    /// Runs, counted by the kernel while `kernel.bpf_stats_enabled` is 1.
    pub runs: u64,
    /// Time of those runs, nanoseconds.
    pub run_ns: u64,
}

/// A map in the kernel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KernelMap {
    /// Its name.
    pub name: String,
    /// Entries it has room for.
    pub capacity: u64,
    /// Kernel memory that it holds, bytes (`memlock` of its `fdinfo`).
    pub bytes: u64,
}

/// One reason why something is missing from the numbers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LossCounter {
    /// `lost`, `discarded` or `evicted`.
    pub kind: String,
    /// Why.
    pub reason: String,
    /// How often.
    pub count: u64,
}
