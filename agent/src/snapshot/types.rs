//! The types of a snapshot. They are also the JSON of `/api/v1/containers`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Counters, EvictedWorkloads, Labels, Qos, Resources, Workload, WorkloadKind};

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
    /// Who made whom wait for CPUs; `None` where it is not measured.
    #[serde(skip)]
    pub neighbours: Option<NeighbourWaits>,
    /// The agent's account of itself.
    pub agent: AgentHealth,
}

/// Who made whom wait for CPUs, as far as it is told apart: the pairs of names that waited longest of late.
#[derive(Clone, Debug, Default)]
pub struct NeighbourWaits {
    /// Those pairs, by name. Each number only goes up while its pair is among them.
    pub pairs: Vec<NeighbourWait>,
    /// What all pairs together waited that were not among them meanwhile: nanoseconds.
    pub other_ns: u64,
}

/// What the containers of one name waited for those of another.
#[derive(Clone, Debug, Default)]
pub struct NeighbourWait {
    /// Who waited.
    pub victim: Arc<Identity>,
    /// Who had the CPU.
    pub culprit: Arc<Identity>,
    /// Nanoseconds, summed over tasks.
    pub ns: u64,
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
    pub identity: Arc<Identity>,
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
    /// What it has counted itself.
    #[serde(flatten)]
    pub counters: Counters,
    /// What it has and uses now.
    #[serde(default)]
    pub gauges: Gauges,
    /// As of when its numbers are true that are not counted by the kernel side.
    #[serde(default)]
    pub as_of: AsOf,
    /// Whether the scheduler's numbers have time on CPUs that other entries show as their
    /// [`cpu_usage_ns`](Counters::cpu_usage_ns): in the one of all others, where the collector cannot tell
    /// containers apart.
    #[serde(default)]
    pub is_counted_elsewhere: bool,
}

/// When what a container's cgroup files say was read, nanoseconds on the clock of
/// [`Snapshot::taken_at_ns`]. What the kernel side counts is as of that time itself.
///
/// Files cost some microseconds each, so those of all containers are not read at each snapshot, and a
/// difference of two numbers is divided by the time between their own readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsOf {
    /// Bandwidth control, memory and pressure: when they were read, or the time of the snapshot where the
    /// container has done nothing since they stood still; `None` before the first reading.
    pub files_ns: Option<u64>,
    /// [`cpu_usage_ns`](Counters::cpu_usage_ns); `None` where that is.
    pub cpu_usage_ns: Option<u64>,
}

/// What a container has and uses now. What is `None` it has not, or nothing tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gauges {
    /// CPU quota of its own cgroup, cores.
    pub cpu_quota_cores: Option<f64>,
    /// CPU weight on the v2 scale (100 is the default); v1 shares are converted.
    pub cpu_weight: Option<u64>,
    /// Memory in use less inactive file pages, bytes.
    pub memory_working_set_bytes: Option<u64>,
    /// Memory limit, bytes.
    pub memory_limit_bytes: Option<u64>,
}

impl Gauges {
    /// Adds what another container has; of two weights the higher one.
    pub fn add(&mut self, other: &Self) {
        fn both<T>(mine: &mut Option<T>, theirs: Option<T>, join: impl FnOnce(T, T) -> T) {
            *mine = match (mine.take(), theirs) {
                (Some(mine), Some(theirs)) => Some(join(mine, theirs)),
                (mine, theirs) => mine.or(theirs),
            };
        }
        both(&mut self.cpu_quota_cores, other.cpu_quota_cores, |a, b| {
            a + b
        });
        both(&mut self.cpu_weight, other.cpu_weight, u64::max);
        both(
            &mut self.memory_working_set_bytes,
            other.memory_working_set_bytes,
            u64::saturating_add,
        );
        both(
            &mut self.memory_limit_bytes,
            other.memory_limit_bytes,
            u64::saturating_add,
        );
    }
}

impl Container {
    /// Time on CPUs, nanoseconds: the scheduler collector's, else the kernel's own account. One of the
    /// two for as long as an agent runs, so that it only goes up. Each nanosecond is one entry's, so that
    /// entries can be added up.
    #[must_use]
    pub fn on_cpu_ns(&self) -> Option<u64> {
        if self.is_counted_elsewhere {
            self.counters.cpu_usage_ns
        } else {
            self.counters.on_cpu_ns()
        }
    }
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
    /// CPU time that collecting this snapshot took, nanoseconds.
    pub collection_ns: u64,
    /// Age of the oldest numbers of cgroup files in this snapshot, nanoseconds; those of a container that did
    /// nothing since they were read are of now. `None` where no container has files.
    #[serde(default)]
    pub oldest_files_ns: Option<u64>,
    /// Files that were opened for the numbers of containers since the start: most of what collecting them
    /// costs.
    #[serde(default)]
    pub files_read: u64,
    /// Distinct addresses of all profiles that have ended: those that got a name, and those that did not.
    #[serde(default)]
    pub profile_addresses: [u64; 2],
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
