//! The engine itself: owned by one thread, without locks.

mod collect;
mod health;

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ctrscope_ebpf::{counter, slot};

use super::{
    EngineError, EngineOptions,
    files::{FileCollector, FileSample},
    tree::Tree,
};
use crate::{
    bpf::{
        FirstRun, KernelEvent, KernelSide, Sizes, Subsystem,
        btf::Btf,
        features::{HostFeatures, Roots},
        layout::{Resolved, resolve},
    },
    cgroup::{DiscoverOptions, Hierarchies, HierarchyIds},
    container::{Now, Registry, RegistryLimits, SlotWrite},
    snapshot::{Host, Identity, Snapshot},
};

/// Name of the entry that sums everything without one of its own.
const OTHER_NAME: &str = "_other";

/// Snapshots younger than this are not taken anew.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// What ended profile sessions lost, by the index of the kernel side's counters.
pub(super) type ProfileLossTotals = Arc<[AtomicU64]>;

/// Kernel side, registry and files.
pub(super) struct Engine {
    kernel: KernelSide,
    registry: Registry,
    tree: Tree,
    files: FileCollector,
    file_samples: HashMap<String, FileSample>,
    sandbox_looks: HashMap<String, u8>,
    options: EngineOptions,
    resolved: Arc<Resolved>,
    profile_losses: ProfileLossTotals,
    host: Host,
    online_cpus: Vec<u32>,
    started: Instant,
    first_seen_other: Now,
    lost_events: u64,
    last: Option<(Instant, Arc<Snapshot>)>,
    /// Slot of each container of the last snapshot.
    last_slots: Vec<Option<u32>>,
}

impl Engine {
    /// Loads and attaches the programs and finds the containers that are there.
    pub(super) fn start(options: EngineOptions) -> Result<Self, EngineError> {
        let features = HostFeatures::probe(&Roots {
            proc: options.proc_root.clone(),
            ..Roots::default()
        });
        if features
            .capabilities
            .is_some_and(|have| !have.can_load() || !have.can_trace())
        {
            return Err(EngineError::Privilege);
        }
        let btf = Btf::from_file(&options.btf)?;
        let resolved = Arc::new(resolve(&btf));
        drop(btf);
        let mountinfo = options.proc_root.join("self/mountinfo");
        let discover = DiscoverOptions {
            host_root: None,
            cgroup_root: options.cgroup_root.clone(),
        };
        let hierarchies = Hierarchies::discover(&mountinfo, &discover)?;
        let ids = fs::read_to_string(options.proc_root.join("self/cgroup")).unwrap_or_default();
        let ids = HierarchyIds::parse(&ids);
        // Without the cpu controller every task is in the root's group; the tree is still walked.
        let cpu = hierarchies
            .cpu
            .clone()
            .or_else(|| hierarchies.unified.clone());
        let Some(cpu) = cpu else {
            return Err(EngineError::Cgroup(crate::cgroup::CgroupError::NoMount {
                mountinfo,
            }));
        };
        let tree = Tree::new(cpu, hierarchies.blkio.clone(), &ids);

        let possible = features.cpus_possible.clone().unwrap_or_else(|| vec![0]);
        let online = features
            .cpus_online
            .clone()
            .unwrap_or_else(|| possible.clone());
        // Room for slots that rest, so that churn at the limit still finds one.
        let spare = (options.max_containers / 8).max(128);
        let sizes = Sizes {
            slots: (options.max_containers + spare + 1).min(slot::MAX_SLOTS),
            cpus: possible.iter().max().map_or(1, |highest| highest + 1),
        };
        let kernel = KernelSide::load(&options.btf, &resolved, sizes)?;
        let programs = kernel.programs();
        // The reader of clocks measures nothing by itself.
        if programs
            .iter()
            .all(|program| !program.attached || program.name == "read_clock")
        {
            let reasons: Vec<_> = programs
                .iter()
                .map(|p| format!("{}: {}", p.name, p.reason))
                .collect();
            return Err(EngineError::NothingAttached(reasons.join("; ")));
        }
        for program in programs.iter().filter(|program| !program.attached) {
            tracing::warn!(
                program = program.name,
                reason = program.reason,
                "program not attached"
            );
        }
        let limits = RegistryLimits {
            entities: options.max_containers as usize,
            slots: sizes.slots,
            cgroups: 65_536,
            retention_ns: u64::try_from(options.retention.as_nanos()).unwrap_or(u64::MAX),
        };
        let registry = Registry::new(limits, tree.primary());
        let mut engine = Self {
            kernel,
            registry,
            tree,
            files: FileCollector::new(hierarchies),
            file_samples: HashMap::new(),
            sandbox_looks: HashMap::new(),
            host: Host {
                name: read_trimmed(&options, "sys/kernel/hostname"),
                kernel: features.kernel_release.clone().unwrap_or_default(),
                cpus: u32::try_from(online.len()).unwrap_or(u32::MAX),
            },
            options,
            resolved,
            profile_losses: (0..counter::COUNT).map(|_| AtomicU64::new(0)).collect(),
            online_cpus: online,
            started: Instant::now(),
            first_seen_other: Now::default(),
            lost_events: 0,
            last: None,
            last_slots: Vec::new(),
        };
        engine.first_seen_other = engine.now();
        engine.pump();
        Ok(engine)
    }

    /// The kernel side, to wait for its events.
    pub(super) fn kernel(&self) -> &KernelSide {
        &self.kernel
    }

    /// What the kernel's type information says.
    pub(super) fn resolved(&self) -> &Arc<Resolved> {
        &self.resolved
    }

    /// Where profile sessions add what they lost.
    pub(super) fn profile_losses(&self) -> &ProfileLossTotals {
        &self.profile_losses
    }

    /// CPUs that were online at the start.
    pub(super) fn online_cpus(&self) -> &[u32] {
        &self.online_cpus
    }

    fn now(&self) -> Now {
        let unix_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            });
        let ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Now { unix_ms, ns }
    }

    /// Takes in all events that are there, and walks the tree if it must.
    pub(super) fn pump(&mut self) {
        while let Some(event) = self.kernel.next_event() {
            let now = self.now();
            let owner = self.tree.handle(&event, &mut self.registry, now);
            self.apply_writes();
            if let (
                Some(owner),
                KernelEvent::CssSeen {
                    subsystem: Subsystem::Cpu,
                    first_run,
                    ..
                },
            ) = (owner, &event)
            {
                self.correct_running(first_run, owner);
            }
        }
        let now = self.now();
        self.tree.walk_if_due(&mut self.registry, now);
        self.apply_writes();
    }

    /// How long the thread may sleep at most.
    pub(super) fn wake_in(&self) -> Duration {
        let tick = match &self.last {
            Some((taken, _)) => self.options.interval.saturating_sub(taken.elapsed()),
            None => Duration::ZERO,
        };
        self.tree.walk_due_in().map_or(tick, |walk| walk.min(tick))
    }

    /// Gives the slice that was under way when its cgroup was first seen to its owner. If the CPU
    /// has switched since, the slice has ended: under its owner if nothing was known of it, for then
    /// the kernel side looked again, and under its parent's if that was known.
    fn correct_running(&self, first_run: &FirstRun, owner: u32) {
        let Some(running) = self.kernel.cpus().word(first_run.cpu as usize, 0) else {
            return;
        };
        let half = u64::from(first_run.switches) << 32;
        let _ = running.compare_exchange(
            half | u64::from(first_run.owner),
            half | u64::from(owner),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    fn apply_writes(&mut self) {
        for write in self.registry.take_writes() {
            self.write_slot(&write);
        }
        let kernel = &self.kernel;
        self.registry
            .read_released(|slot, stats| collect::read_slot(kernel, slot, stats));
    }

    /// Writes an entry, unless the kernel side has already met a younger css under the same id.
    fn write_slot(&self, write: &SlotWrite) {
        let table = match write.subsystem {
            Subsystem::Cpu => self.kernel.cpu_slots().as_ref(),
            Subsystem::Block => self.kernel.block_slots(),
        };
        let Some(entry) = table.word(write.css.id as usize, 0) else {
            return;
        };
        let serial = slot::entry_serial(slot::entry(write.css.serial, 0));
        let _ = entry.fetch_update(
            Ordering::Relaxed,
            Ordering::Relaxed,
            |current| match write.owner {
                Some(owner) => (slot::entry_serial(current) <= serial).then(|| {
                    let entry = slot::entry(write.css.serial, owner);
                    // What has run already was reported, or is being reported.
                    let ran = slot::entry_serial(current) == serial;
                    if write.report && !ran {
                        slot::reported_when_seen(entry)
                    } else {
                        entry
                    }
                }),
                None => (slot::entry_serial(current) == serial).then_some(0),
            },
        );
    }

    /// The last snapshot if it is young, else a new one. How young depends on what a collection
    /// costs here: asked without pause, it takes at most a twentieth of a CPU.
    pub(super) fn snapshot(&mut self) -> Arc<Snapshot> {
        if let Some((taken, snapshot)) = &self.last
            && taken.elapsed()
                < SHORTEST_INTERVAL.max(Duration::from_nanos(snapshot.agent.collection_ns) * 20)
        {
            return Arc::clone(snapshot);
        }
        self.collect()
    }

    /// Collects if the interval is over.
    pub(super) fn tick(&mut self) {
        if self
            .last
            .as_ref()
            .is_none_or(|(taken, _)| taken.elapsed() >= self.options.interval)
        {
            self.collect();
        }
    }

    /// Slot and label of the container at an index of the last snapshot.
    pub(super) fn slot_of(&self, index: usize) -> Option<u32> {
        self.last_slots.get(index).copied().flatten()
    }

    /// Names by slot, for profiles.
    pub(super) fn names_by_slot(&self) -> HashMap<u32, Arc<str>> {
        self.registry
            .entities()
            .filter_map(|entity| Some((entity.slot?, Arc::from(label(&entity.identity)))))
            .collect()
    }

    fn is_attached(&self, program: &str) -> bool {
        self.kernel.is_attached(program)
    }
}

/// How a container is called in a profile: all of its names that it has.
pub(super) fn label(identity: &Identity) -> String {
    [&identity.namespace, &identity.pod, &identity.container]
        .into_iter()
        .filter(|part| !part.is_empty())
        .cloned()
        .collect::<Vec<_>>()
        .join("/")
}

fn read_trimmed(options: &EngineOptions, path: &str) -> String {
    fs::read_to_string(options.proc_root.join(path))
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
