//! What the trees answer: questions with their evidence, and findings.
//!
//! These types are also the JSON of `/api/v1/diagnosis`.

mod evidence;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use evidence::{Answer, Asked, Compared, Evidence, Logic, Relation, Unit};

/// A resource, each with a tree of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// CPU.
    Cpu,
    /// Memory.
    Memory,
    /// Block I/O.
    Disk,
    /// Network.
    Network,
}

impl Resource {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Disk, Self::Network];

    /// The label value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Network => "network",
        }
    }
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $name:ident $label:literal $bottleneck:literal $title:literal;)*) => {
        /// What holds a container back, or does not. Closed: it is a label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Verdict {
            $($(#[$doc])* #[serde(rename = $label)] $name,)*
        }

        impl Verdict {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The label value.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// Whether it says that the container is held back.
            #[must_use]
            pub fn is_bottleneck(self) -> bool {
                match self {
                    $(Self::$name => $bottleneck,)*
                }
            }

            /// The verdict in a few words.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self {
                    $(Self::$name => $title,)*
                }
            }
        }
    };
}

verdicts! {
    /// It did nothing in the window.
    Idle "idle" false "idle";
    /// What would answer is not measured here.
    Unknown "unknown" false "not known";
    /// It does not wait for CPUs.
    NotCpuBound "not_cpu_bound" false "not CPU-bound";
    /// It does not wait for this resource (memory, disk, network).
    Unbound "unbound" false "not held back";

    /// Its own quota or an ancestor's keeps it off the CPU.
    CapThrottled "cap_throttled" true "throttled by a CPU quota";
    /// It waits for CPUs of its cpuset while others idle.
    CpusetLimited "cpuset_limited" true "its cpuset is full";
    /// The hypervisor took the CPU.
    Steal "steal" true "the hypervisor takes the CPU";
    /// It waits although the CPUs that it may use have idle time.
    NotThrottled "not_throttled" true "waits although CPUs are idle";
    /// It alone fills the machine.
    PhysicalCpu "physical_cpu" true "it alone fills the CPUs";
    /// Others have the CPU by right of their weights.
    ShareLimited "share_limited" true "others have the CPU";

    /// A task of it was killed for want of memory.
    OomKilled "oom_killed" true "killed for want of memory";
    /// It needs again what its memory limit made it give up.
    MemoryLimited "memory_limited" true "its memory limit is too small";
    /// The host runs out of memory, and reclaims from everybody.
    HostMemory "host_memory" true "the host is short of memory";

    /// A limit on I/O holds it back.
    IoLimited "io_limited" true "held back by an I/O limit";
    /// The device answers slower than it normally does.
    DeviceSlow "device_slow" true "the device is slower than normal";
    /// It writes faster than dirty pages are written back.
    DirtyThrottled "dirty_throttled" true "writes faster than is written back";
    /// Others fill the device.
    IoNeighbour "io_neighbour" true "others fill the device";
    /// It fills the device by itself.
    DeviceBusy "device_busy" true "it fills the device";
    /// It waits for its own requests, at a device that has room for more.
    DiskBound "disk_bound" true "waits for its own requests";

    /// Its listeners' queues are full.
    ListenQueueFull "listen_queue_full" true "its listen queue is full";
    /// Packets are dropped.
    NetworkDrops "network_drops" true "packets are dropped";
    /// Packets are sent again.
    Retransmits "retransmits" true "packets are lost on the way";
}

/// Somebody who has to do with a finding: a neighbour, a sibling, a device's user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Party {
    /// Its name: namespace, pod and container, as far as it has them, joined by `/`; or what it is.
    pub name: String,
    /// Its part of what the container waited for, 0 to 1.
    pub share: f64,
    /// The numbers.
    pub evidence: Vec<Evidence>,
}

/// How sure a finding is, by the rule in `confidence.rs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Confidence {
    /// 0 to 1.
    pub ratio: f64,
    /// The same in a word.
    pub level: Level,
    /// What lowers it; empty where nothing does.
    pub lowered_by: Vec<String>,
}

/// How sure, in a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Below a half.
    #[default]
    Low,
    /// From a half.
    Medium,
    /// From four fifths.
    High,
}

impl Level {
    /// The word.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// One thing that holds a container back, or the answer that nothing does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The verdict.
    pub verdict: Verdict,
    /// It in a sentence, with the numbers that matter most.
    pub summary: String,
    /// How much it costs, 0 to 1: the part of its time that the container loses to it, or as good an
    /// estimate as there is. What is first among resources is decided by it.
    pub severity: f64,
    /// How sure it is.
    pub confidence: Confidence,
    /// What to do, the best first; each a sentence with names and numbers.
    pub remedies: Vec<String>,
    /// Who is to blame: only somebody who holds most of what was waited for.
    pub culprits: Vec<Party>,
    /// Who else had what the container waited for.
    pub others: Vec<Party>,
    /// Neighbours that were busy and are not to blame.
    pub exonerated: Vec<Party>,
}

/// The answer of one tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceDiagnosis {
    /// Of which resource.
    pub resource: Resource,
    /// The first finding's verdict.
    pub verdict: Verdict,
    /// What was found, in the order of the tree; never empty.
    pub findings: Vec<Finding>,
    /// Every question that was asked, in the order in which it was.
    pub asked: Vec<Asked>,
}

impl ResourceDiagnosis {
    /// How much the worst of its findings costs, 0 to 1.
    #[must_use]
    pub fn severity(&self) -> f64 {
        let held_back = self
            .findings
            .iter()
            .filter(|one| one.verdict.is_bottleneck());
        held_back.map(|one| one.severity).fold(0.0, f64::max)
    }

    /// The finding of a verdict.
    #[must_use]
    pub fn finding(&self, verdict: Verdict) -> Option<&Finding> {
        self.findings.iter().find(|one| one.verdict == verdict)
    }
}

/// What its tasks did with their time; absent is what was not measured. Seconds, summed over tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeUse {
    /// On CPUs.
    pub on_cpu_seconds: Option<f64>,
    /// Runnable, waiting for a CPU; the time in which a quota kept it off is in it.
    pub run_queue_seconds: Option<f64>,
    /// Blocked for I/O.
    pub io_wait_seconds: Option<f64>,
    /// Blocked, uninterruptible for another reason: locks of the kernel, `vfork`.
    pub blocked_seconds: Option<f64>,
    /// Blocked, interruptible: timers, locks, network, nothing to do.
    pub sleep_seconds: Option<f64>,
}

/// More CPU than is guaranteed, on what others do not use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bursting {
    /// What it has if everybody beside it wants all: cores.
    pub guaranteed_cores: f64,
    /// What it had in this window: cores.
    pub obtained_cores: f64,
    /// Since when it is above its guarantee, milliseconds since the epoch, to the length of a window.
    pub since_unix_ms: u64,
    /// Whether it may have begun earlier: all windows that are remembered were above.
    pub may_be_longer: bool,
    /// What that means for whoever relies on it.
    pub summary: String,
}

/// A container that had more than its guarantee and lost it to somebody who came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Squeezed {
    /// What it had before: cores.
    pub former_cores: f64,
    /// What it has now: cores.
    pub now_cores: f64,
    /// What is guaranteed: cores.
    pub guaranteed_cores: f64,
    /// Since when it has less, milliseconds since the epoch, to the length of a window.
    pub since_unix_ms: u64,
    /// Who came then and has what it waits for; empty where nobody alone does.
    pub newcomer: String,
    /// It in a sentence.
    pub summary: String,
}

/// A number that is seen inside the container and misleads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Misleading {
    /// Which: `cpu_count`, `load_average`, ...
    pub name: Cow<'static, str>,
    /// Where it is read inside.
    pub source: Cow<'static, str>,
    /// What is seen inside.
    pub inside: Evidence,
    /// What holds for the container.
    pub actual: Evidence,
    /// What goes wrong for whoever believes it.
    pub summary: String,
}

/// A line of the USE table: utilisation, saturation, errors. Each is empty where nothing of it is measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UseRow {
    /// `cpu`, `memory`, `disk vda`, `network eth0`.
    pub resource: String,
    /// How much of it is in use.
    pub utilisation: Vec<Evidence>,
    /// How much waits for it.
    pub saturation: Vec<Evidence>,
    /// What goes wrong with it.
    pub errors: Vec<Evidence>,
}
