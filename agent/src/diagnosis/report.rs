//! The whole diagnosis of a window: every container's trees, and the host's table.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    cpu, disk,
    facts::{ContainerFacts, WindowFacts},
    history::Change,
    memory, network, perspective,
    thresholds::Thresholds,
    use_table,
    verdict::{
        Bursting, Misleading, Resource, ResourceDiagnosis, Squeezed, TimeUse, UseRow, Verdict,
    },
    view::{Context, View},
};
use crate::snapshot::{Identity, Kind};

/// The diagnosis of a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Length of the window.
    pub seconds: f64,
    /// When it ended, milliseconds since the epoch.
    pub ended_at_unix_ms: u64,
    /// The machine.
    pub host: HostDiagnosis,
    /// The containers, those that are held back most first.
    pub containers: Vec<ContainerDiagnosis>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostDiagnosis {
    /// CPUs online.
    pub cpus: u32,
    /// Utilisation, saturation and errors of its resources.
    pub use_table: Vec<UseRow>,
}

/// What holds a container back most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bottleneck {
    /// Of which resource.
    pub resource: Resource,
    /// The verdict.
    pub verdict: Verdict,
    /// How much it costs, 0 to 1.
    pub severity: f64,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerDiagnosis {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// How it is called: namespace, pod and container, as far as it has them, joined by `/`.
    pub name: String,
    /// What holds it back most; `None` where nothing does.
    pub bottleneck: Option<Bottleneck>,
    /// Whether it did nothing, so that there is no verdict.
    pub is_idle: bool,
    /// The answer of each tree, in the order of [`Resource::ALL`].
    pub resources: Vec<ResourceDiagnosis>,
    /// Where its tasks' time went.
    pub time: TimeUse,
    /// Set while it runs above its guarantee.
    pub bursting: Option<Bursting>,
    /// Set while it has less than it had, for somebody came.
    pub squeezed: Option<Squeezed>,
    /// What is seen inside it and misleads.
    pub misleading: Vec<Misleading>,
    /// Utilisation, saturation and errors of what it uses.
    pub use_table: Vec<UseRow>,
    /// Changes of its verdicts in the last hour, the oldest first; only a daemon remembers them.
    #[serde(default)]
    pub history: Vec<Change>,
}

impl ContainerDiagnosis {
    /// The answer of a tree.
    #[must_use]
    pub fn resource(&self, resource: Resource) -> Option<&ResourceDiagnosis> {
        self.resources.iter().find(|one| one.resource == resource)
    }
}

/// How much is said of a container.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// Its verdicts.
    Verdicts,
    /// All.
    Full,
}

/// The verdicts on a window: what [`diagnose`] says, without the tables of containers and the host, and in no order.
#[must_use]
pub(crate) fn judge(window: &WindowFacts, thresholds: &Thresholds) -> Diagnosis {
    let context = Context::new(window, thresholds);
    Diagnosis {
        seconds: window.seconds,
        ended_at_unix_ms: window.ended_at_unix_ms,
        containers: containers(&context, window, Detail::Verdicts),
        ..Diagnosis::default()
    }
}

fn containers(
    context: &Context<'_>,
    window: &WindowFacts,
    detail: Detail,
) -> Vec<ContainerDiagnosis> {
    window
        .containers
        .iter()
        // The sum of all others is nobody that could be held back.
        .filter(|one| one.identity.kind != Kind::Other)
        .map(|one| container(context, one, detail))
        .collect()
}

/// Diagnoses everything of a window.
#[must_use]
pub fn diagnose(window: &WindowFacts, thresholds: &Thresholds) -> Diagnosis {
    let context = Context::new(window, thresholds);
    let mut containers = containers(&context, window, Detail::Full);
    containers.sort_by(|a, b| {
        let rank = |one: &ContainerDiagnosis| one.bottleneck.map_or(-1.0, |worst| worst.severity);
        rank(b)
            .total_cmp(&rank(a))
            .then(a.is_idle.cmp(&b.is_idle))
            .then_with(|| a.name.cmp(&b.name))
    });
    Diagnosis {
        seconds: window.seconds,
        ended_at_unix_ms: window.ended_at_unix_ms,
        host: HostDiagnosis {
            cpus: u32::try_from(window.host.cpus.len()).unwrap_or(u32::MAX),
            use_table: use_table::of_host(window),
        },
        containers,
    }
}

fn container(context: &Context<'_>, facts: &ContainerFacts, detail: Detail) -> ContainerDiagnosis {
    let view = View::new(context, facts);
    let resources = vec![
        cpu::diagnose(&view),
        memory::diagnose(&view),
        disk::diagnose(&view),
        network::diagnose(&view),
    ];
    let is_idle = is_idle(&resources);
    let cpu = &facts.cpu;
    let culprits = resources
        .first()
        .and_then(|cpu| cpu.finding(Verdict::ShareLimited))
        .map(|finding| finding.culprits.as_slice());
    ContainerDiagnosis {
        name: facts.identity.label(),
        identity: Arc::clone(&facts.identity),
        bottleneck: worst(&resources),
        is_idle,
        squeezed: culprits.and_then(|culprits| cpu::squeezed(&view, culprits)),
        bursting: cpu::bursting(&view),
        time: TimeUse {
            on_cpu_seconds: cpu.used_seconds,
            run_queue_seconds: cpu.waited_seconds,
            io_wait_seconds: cpu.io_wait_seconds,
            blocked_seconds: cpu.blocked_seconds,
            sleep_seconds: cpu.sleep_seconds,
        },
        // Nobody looks from inside what does nothing.
        misleading: if is_idle || detail == Detail::Verdicts {
            Vec::new()
        } else {
            perspective::misleading(&view)
        },
        use_table: match detail {
            Detail::Verdicts => Vec::new(),
            Detail::Full => use_table::of_container(&view),
        },
        resources,
        history: Vec::new(),
    }
}

/// Whether nothing holds it back and it does nothing: its CPU and its disk idle.
fn is_idle(resources: &[ResourceDiagnosis]) -> bool {
    let held_back = resources.iter().any(|one| one.verdict.is_bottleneck());
    let idles = |wanted| {
        let mut of = resources.iter().filter(|one| one.resource == wanted);
        of.any(|one| matches!(one.verdict, Verdict::Idle | Verdict::Unknown))
    };
    let cpu_idles = resources
        .iter()
        .any(|one| one.resource == Resource::Cpu && one.verdict == Verdict::Idle);
    !held_back && cpu_idles && idles(Resource::Disk)
}

/// What holds back most.
fn worst(resources: &[ResourceDiagnosis]) -> Option<Bottleneck> {
    let verdicts: Vec<Bottleneck> = resources
        .iter()
        .map(|one| Bottleneck {
            resource: one.resource,
            verdict: one.verdict,
            severity: one.severity(),
        })
        .collect();
    worst_of(&verdicts)
}

/// The verdict that costs most of those that hold back; of equal ones the first. What thrashes waits for
/// the disk because of it, so then the disk is not asked.
pub(super) fn worst_of(verdicts: &[Bottleneck]) -> Option<Bottleneck> {
    let held_back = || {
        let all = verdicts.iter().copied();
        all.filter(|one| one.verdict.is_bottleneck())
    };
    let thrashes =
        held_back().any(|one| matches!(one.verdict, Verdict::MemoryLimited | Verdict::HostMemory));
    held_back()
        .filter(|one| !(thrashes && one.resource == Resource::Disk))
        .reduce(|worst, one| {
            if one.severity > worst.severity {
                one
            } else {
                worst
            }
        })
}
