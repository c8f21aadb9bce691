//! The engine itself: owned by one thread, without locks.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ctrscope_ebpf::{block::OPERATIONS, counter, slot};

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
    cgroup::{DiscoverOptions, Hierarchies, HierarchyIds, is_pause, processes},
    container::{Accumulated, Now, RawSched, Registry, RegistryLimits, SlotWrite},
    snapshot::{
        AgentHealth, CollectorState, CollectorStatus, Container, Host, Identity, Kind, Snapshot,
    },
};

/// Name of the entry that sums everything without one of its own.
const OTHER_NAME: &str = "_other";

/// Snapshots younger than this are not taken anew.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// How often a pod's container is looked at to see whether it is the sandbox.
const SANDBOX_LOOKS: u8 = 3;

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

    fn collect(&mut self) -> Arc<Snapshot> {
        let began = Instant::now();
        self.pump();
        let losses = self.kernel.losses();
        let lost_events = losses
            .get(counter::EVENT_RING_FULL as usize)
            .map_or(0, |counter| counter.count);
        if lost_events > self.lost_events {
            self.lost_events = lost_events;
            self.tree.want_walk();
            self.pump();
        }
        let now = self.now();
        for entity in self.registry.entities_mut() {
            if let Some(slot) = entity.slot {
                read_slot(&self.kernel, slot, &mut entity.stats);
            }
        }
        read_slot(&self.kernel, slot::OTHER, self.registry.other_mut());
        // After the counters: a slice that ends between the two readings is then missing until the
        // next snapshot. The other way round it would be counted twice, for ever.
        let running = self.running_slices();
        let sched_runs = self.is_attached("sched_switch");
        let block_runs =
            self.is_attached("block_rq_issue") && self.is_attached("block_rq_complete");
        let read_files = self.files.is_due();

        let mut rows: Vec<(Container, Option<u32>)> = Vec::new();
        let mut kept_files = HashMap::with_capacity(self.file_samples.len());
        for entity in self.registry.entities_mut() {
            if !entity.is_visible() {
                continue;
            }
            let mut files = self
                .file_samples
                .remove(&entity.owner_path)
                .unwrap_or_default();
            if read_files && entity.exited.is_none() {
                self.files.read(&entity.owner_path, &mut files);
                look_for_sandbox(
                    &mut self.files,
                    &self.options,
                    &mut self.sandbox_looks,
                    &mut entity.identity,
                );
            }
            let running_ns = entity
                .slot
                .and_then(|slot| running.get(&slot))
                .copied()
                .unwrap_or(0);
            // Without a slot it is counted elsewhere, and nothing is known of it that is not old.
            let counted = entity.slot.is_some() || entity.stats.was_active();
            rows.push((
                Container {
                    identity: entity.identity.clone(),
                    first_seen_unix_ms: entity.first_seen.unix_ms,
                    exited_at_unix_ms: entity.exited.map(|exited| exited.unix_ms),
                    sched: (sched_runs && counted).then(|| entity.stats.sched(running_ns)),
                    block: (block_runs && counted).then(|| entity.stats.block().clone()),
                    cpu: files.cpu.clone(),
                    memory: files.memory.clone(),
                    pressure: files.pressure.clone(),
                },
                entity.slot,
            ));
            kept_files.insert(entity.owner_path.clone(), files);
        }
        self.file_samples = kept_files;
        let live: std::collections::HashSet<&str> = rows
            .iter()
            .map(|(row, _)| row.identity.cgroup.as_str())
            .collect();
        self.sandbox_looks
            .retain(|cgroup, _| live.contains(cgroup.as_str()));
        if read_files {
            self.files.finish_round(began);
        }
        let running_other = running.get(&slot::OTHER).copied().unwrap_or(0);
        let first_seen_other = self.first_seen_other;
        let other = self.registry.other_mut();
        rows.push((
            Container {
                identity: Identity {
                    container: OTHER_NAME.into(),
                    kind: Kind::Other,
                    ..Identity::default()
                },
                first_seen_unix_ms: first_seen_other.unix_ms,
                sched: sched_runs.then(|| other.sched(running_other)),
                block: block_runs.then(|| other.block().clone()),
                ..Container::default()
            },
            Some(slot::OTHER),
        ));
        rows.sort_by(|(a, _), (b, _)| name_key(&a.identity).cmp(&name_key(&b.identity)));
        self.recycle(now);

        let (containers, slots) = rows.into_iter().unzip();
        self.last_slots = slots;
        let snapshot = Arc::new(Snapshot {
            taken_at_unix_ms: now.unix_ms,
            taken_at_ns: now.ns,
            host: self.host.clone(),
            containers,
            agent: self.health(losses, began),
        });
        self.last = Some((began, Arc::clone(&snapshot)));
        snapshot
    }

    /// Ends what is due: retention, resting slots.
    fn recycle(&mut self, now: Now) {
        self.registry.expire(now);
        while let Some(slot) = self.registry.slot_to_clear(now) {
            let sizes = self.kernel.sizes();
            for cpu in 0..sizes.cpus {
                self.kernel
                    .sched()
                    .zero((cpu * sizes.slots + slot) as usize);
            }
            for operation in 0..OPERATIONS {
                self.kernel
                    .block()
                    .zero(slot as usize * OPERATIONS + operation);
            }
            self.registry.slot_cleared(slot);
        }
        self.registry.fill_slots(now);
        self.apply_writes();
    }

    /// Nanoseconds that the slices now running have lasted, by slot.
    fn running_slices(&self) -> HashMap<u32, u64> {
        let mut running = HashMap::new();
        if !self.kernel.clock_readable() {
            return running;
        }
        if let Err(error) = self.kernel.read_clocks() {
            tracing::debug!(%error, "clocks not read");
            return running;
        }
        let cpus = self.kernel.cpus();
        for cpu in 0..cpus.len() {
            let Some(state) = cpus.read(cpu) else {
                continue;
            };
            let switched = cpus.word(cpu, 0).map(|word| word.load(Ordering::Relaxed));
            let slot = slot::slot(state.running as u32);
            // A switch between the two readings has ended the slice; it is in the counters then.
            if switched != Some(state.running) || slot == slot::IDLE || state.on_cpu_since == 0 {
                continue;
            }
            *running.entry(slot).or_default() += state.clock.saturating_sub(state.on_cpu_since);
        }
        running
    }

    fn is_attached(&self, program: &str) -> bool {
        self.kernel.is_attached(program)
    }

    fn health(&self, losses: Vec<crate::snapshot::LossCounter>, began: Instant) -> AgentHealth {
        let programs = self.kernel.programs();
        let mut collectors = Vec::new();
        for name in ["sched", "block", "cgroup"] {
            let lacking: Vec<_> = programs
                .iter()
                .filter(|program| program.collector == name && !program.attached)
                .map(|program| format!("{}: {}", program.name, program.reason))
                .collect();
            let any = programs.iter().any(|p| p.collector == name && p.attached);
            collectors.push(CollectorStatus {
                name: name.into(),
                state: match (lacking.is_empty(), any) {
                    (true, _) => CollectorState::Active,
                    (false, true) => CollectorState::Degraded,
                    (false, false) => CollectorState::Unsupported,
                },
                reason: lacking.join("; "),
            });
        }
        let hierarchies = self.files.hierarchies();
        for (name, offered, lack) in [
            (
                "cpu",
                hierarchies.cpu.is_some(),
                "no cpu controller is mounted",
            ),
            (
                "memory",
                hierarchies.memory.is_some(),
                "no memory controller is mounted",
            ),
            (
                "pressure",
                hierarchies.unified.is_some(),
                "no cgroup v2 mount, which pressure files need",
            ),
        ] {
            collectors.push(CollectorStatus {
                name: name.into(),
                state: if offered {
                    CollectorState::Active
                } else {
                    CollectorState::Unsupported
                },
                reason: if offered { String::new() } else { lack.into() },
            });
        }
        let profile = self.resolved.verdict("profile");
        collectors.push(CollectorStatus {
            name: "profile".into(),
            state: if profile.is_ok() {
                CollectorState::Active
            } else {
                CollectorState::Unsupported
            },
            reason: profile.err().unwrap_or_default(),
        });
        let mut losses = losses;
        // Sessions count on their own; these are the sums of those that have ended.
        for (loss, ended) in losses.iter_mut().zip(self.profile_losses.iter()) {
            loss.count += ended.load(Ordering::Relaxed);
        }
        losses.retain(|loss| loss.kind != "taken");
        for (kind, reason, count) in [
            ("lost", "container_limit", self.registry.refused()),
            (
                "lost",
                "cgroup_not_remembered",
                self.registry.unremembered(),
            ),
            ("lost", "cgroup_file_unreadable", self.files.failures()),
            (
                "lost",
                "cgroup_tree_truncated",
                u64::from(self.tree.is_truncated()),
            ),
        ] {
            losses.push(crate::snapshot::LossCounter {
                kind: kind.into(),
                reason: reason.into(),
                count,
            });
        }
        let sizes = self.kernel.sizes();
        AgentHealth {
            collectors,
            programs,
            maps: self.kernel.maps(),
            losses,
            slots_used: self.registry.slots_used(),
            slots: sizes.slots - 1,
            collection_ns: u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
        }
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

fn name_key(identity: &Identity) -> (bool, &str, &str, &str, &str) {
    (
        identity.kind == Kind::Other,
        &identity.namespace,
        &identity.pod,
        &identity.container,
        &identity.container_id,
    )
}

fn read_slot(kernel: &KernelSide, slot: u32, stats: &mut Accumulated) {
    let sizes = kernel.sizes();
    let mut sum = RawSched::default();
    for cpu in 0..sizes.cpus {
        if let Some(counted) = kernel.sched().read((cpu * sizes.slots + slot) as usize) {
            sum.add(&counted);
        }
    }
    stats.update_sched(sum);
    for operation in 0..OPERATIONS {
        if let Some(counted) = kernel.block().read(slot as usize * OPERATIONS + operation) {
            stats.update_block(operation, &counted);
        }
    }
}

/// A pod's sandbox runs nothing but `pause`. A container is looked at a few times after it appeared:
/// at first its only process may still be the runtime's.
fn look_for_sandbox(
    files: &mut FileCollector,
    options: &EngineOptions,
    looks: &mut HashMap<String, u8>,
    identity: &mut Identity,
) {
    if identity.kind != Kind::Container || identity.pod_uid.is_empty() {
        return;
    }
    let taken = looks.entry(identity.cgroup.clone()).or_default();
    if *taken >= SANDBOX_LOOKS {
        return;
    }
    *taken += 1;
    let mount = files
        .hierarchies()
        .cpu
        .clone()
        .or_else(|| files.hierarchies().unified.clone());
    let Some(directory) = mount.and_then(|mount| mount.directory(&identity.cgroup)) else {
        return;
    };
    let pids = processes(files.reader(), &directory, 2).unwrap_or_default();
    if is_pause(files.reader(), &options.proc_root, &pids) {
        identity.kind = Kind::Sandbox;
    }
}

fn read_trimmed(options: &EngineOptions, path: &str) -> String {
    fs::read_to_string(options.proc_root.join(path))
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
