//! The engine itself: owned by one thread, without locks.

mod collect;
mod health;
mod kernel;
mod names;
mod pairs;
mod sandbox;

use std::{
    collections::HashMap,
    fs,
    io::PipeWriter,
    os::fd::BorrowedFd,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ctrscope_ebpf::slot;
use tokio::sync::watch;

pub(super) use kernel::ProfileParts;

use self::{health::Measured, names::Names, sandbox::Sandboxes};
use super::{
    EngineError, EngineOptions,
    facts::{FactCollector, FactThread, FromKernel, OnCpus, Reply},
    files::FileThread,
    profile_totals::ProfileTotals,
    tree::Tree,
};
use crate::{
    bpf::{
        FirstRun, KernelEvent, KernelSide, Sizes, Subsystem,
        features::{HostFeatures, Psi, Roots},
    },
    cgroup::{DiscoverOptions, Hierarchies, HierarchyIds, parse_memberships},
    container::{
        BlockCharges, Now, PairSeries, Registry, RegistryLimits, Report, SlotWrite, WaitPairs,
    },
    profile::Owner,
    reading::TICK,
    snapshot::{CollectorState, Host, Identity, KernelProgram, Snapshot},
};

/// Snapshots younger than this are not taken anew.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Events that are taken in at once: some eight times what the ring holds.
const MOST_EVENTS: usize = 8_192;

/// A snapshot, and when it was taken.
#[derive(Clone, Debug)]
pub(super) struct Published {
    taken: Instant,
    snapshot: Arc<Snapshot>,
}

impl Published {
    /// The snapshot, if it is young. How young depends on what a collection costs here: asked without
    /// pause, it takes at most a twentieth of a CPU.
    pub(super) fn if_young(&self) -> Option<&Arc<Snapshot>> {
        let cost = Duration::from_nanos(self.snapshot.agent.collection_ns);
        (self.taken.elapsed() < SHORTEST_INTERVAL.max(cost * 20)).then_some(&self.snapshot)
    }
}

/// Kernel side, registry and files.
pub(super) struct Engine {
    /// `None` where this host has no kernel side: cgroup files alone are collected then.
    kernel: Option<KernelSide>,
    /// The programs as they were when they were loaded.
    programs: Vec<KernelProgram>,
    block_has_blkcg: bool,
    profile: Result<ProfileParts, String>,
    features: HostFeatures,
    registry: Registry,
    block_charges: BlockCharges,
    pairs: WaitPairs,
    /// The same for block requests.
    block_pairs: WaitPairs,
    pair_series: PairSeries,
    tree: Tree,
    names: Names,
    files: FileThread,
    facts: FactThread,
    sandboxes: Sandboxes,
    measured: Measured,
    options: EngineOptions,
    profile_totals: Arc<ProfileTotals>,
    host: Host,
    online_cpus: Vec<u32>,
    started: Instant,
    first_seen_other: Now,
    lost_events: u64,
    published: watch::Sender<Option<Published>>,
    /// Slot of each container of the last snapshot.
    last_slots: Vec<Option<u32>>,
    /// States of the collectors as they were last logged.
    logged_states: HashMap<String, CollectorState>,
}

impl Engine {
    /// Loads and attaches the programs and finds the containers that are there.
    /// What runtimes say wakes the thread through `wake`.
    /// Each snapshot is published to who watches.
    pub(super) fn start(
        options: EngineOptions,
        wake: PipeWriter,
        published: watch::Sender<Option<Published>>,
    ) -> Result<Self, EngineError> {
        let features = HostFeatures::probe(&Roots {
            proc: options.proc_root.clone(),
            ..Roots::default()
        });
        for warning in &features.warnings {
            tracing::warn!(kernel = features.kernel_release, "{warning}");
        }
        // Without the list nothing is known of how many there can be: then no program is loaded.
        let possible = features.cpus_possible.as_deref().unwrap_or_default();
        let online = features
            .cpus_online
            .clone()
            .unwrap_or_else(|| possible.to_vec());
        // Room for slots that rest, so that churn at the limit still finds one.
        let spare = (options.max_containers / 8).max(128);
        let sizes = Sizes {
            slots: (options.max_containers + spare + 1).min(slot::MAX_SLOTS),
            cpus: possible.iter().max().map_or(0, |highest| highest + 1),
        };
        let sampled_cpu = online.first().copied().unwrap_or(0);
        let mountinfo = options.proc_root.join("self/mountinfo");
        let discover = DiscoverOptions {
            cgroup_root: options.cgroup_root.clone(),
        };
        let hierarchies = Hierarchies::discover(&mountinfo, &discover);
        let loaded = kernel::load(&options, &features, sizes, sampled_cpu)?;
        let hierarchies = hierarchies?;
        let ids = fs::read_to_string(options.proc_root.join("self/cgroup")).unwrap_or_default();
        let ids = HierarchyIds::parse(&ids);
        let Some(tree) = Tree::new(&hierarchies, &ids) else {
            return Err(EngineError::Cgroup(crate::cgroup::CgroupError::NoMount {
                mountinfo,
            }));
        };
        if loaded.side.is_none() {
            tracing::warn!("no program runs: only what cgroup files say is collected");
        }
        let limits = RegistryLimits {
            entities: options.max_containers as usize,
            slots: sizes.slots,
            cgroups: 65_536,
            retention_ns: u64::try_from(options.retention.as_nanos()).unwrap_or(u64::MAX),
        };
        let registry = Registry::new(limits, tree.primary(), options.selection.clone());
        let names = Names::start(options.runtimes.clone(), wake);
        let started = Instant::now();
        let tells_each = tree.tells_cpu()
            && loaded
                .programs
                .iter()
                .any(|program| program.name == "sched_switch" && program.attached);
        let has_pressure = !matches!(features.psi, Psi::Absent | Psi::Disabled);
        let mut engine = Self {
            kernel: loaded.side,
            programs: loaded.programs,
            block_has_blkcg: loaded.block_has_blkcg,
            profile: loaded.profile,
            registry,
            block_charges: BlockCharges::default(),
            pairs: WaitPairs::default(),
            block_pairs: WaitPairs::default(),
            pair_series: PairSeries::default(),
            tree,
            names,
            facts: FactThread::start(
                FactCollector::new(hierarchies.clone(), has_pressure, options.proc_root.clone()),
                options.interval.max(TICK),
            )
            .map_err(EngineError::Thread)?,
            files: FileThread::start(hierarchies, has_pressure, !tells_each, started)
                .map_err(EngineError::Thread)?,
            sandboxes: Sandboxes::default(),
            measured: Measured::default(),
            host: Host {
                name: read_trimmed(&options, "sys/kernel/hostname"),
                kernel: features.kernel_release.clone().unwrap_or_default(),
                cpus: u32::try_from(online.len()).unwrap_or(u32::MAX),
            },
            features,
            options,
            profile_totals: Arc::default(),
            online_cpus: online,
            started,
            first_seen_other: Now::default(),
            lost_events: 0,
            published,
            last_slots: Vec::new(),
            logged_states: HashMap::new(),
        };
        engine.first_seen_other = engine.now();
        engine.registry.on_node(&engine.host.name);
        if let Some(own) = own_cgroup(&engine.options) {
            engine.registry.at_home_in(&own);
        }
        engine.pump();
        engine.await_first_names();
        Ok(engine)
    }

    /// Becomes readable when the kernel side has an event; `None` without one.
    pub(super) fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        self.kernel.as_ref().map(KernelSide::events_fd)
    }

    /// What a profile session needs, or why there can be none.
    pub(super) fn profile(&self) -> &Result<ProfileParts, String> {
        &self.profile
    }

    /// Where recordings add what they lost.
    pub(super) fn profile_totals(&self) -> &Arc<ProfileTotals> {
        &self.profile_totals
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

    /// Takes in the events that are there, and walks the tree if it must. Where they come faster than they are taken
    /// in, the rest waits for the next time.
    pub(super) fn pump(&mut self) {
        for _ in 0..MOST_EVENTS {
            let Some(event) = self.kernel.as_mut().and_then(KernelSide::next_event) else {
                break;
            };
            let now = self.now();
            if let Some((key, path)) = self.tree.emptied(&event) {
                let owner = self.registry.owner_of(key, path);
                if let Some(entity) = owner.filter(|owner| owner.has_files()) {
                    self.files.ended(&entity.owner_path, entity.is_users());
                }
                continue;
            }
            let owner = self.tree.handle(&event, &mut self.registry, now);
            self.apply_writes();
            self.ask_names();
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
        self.take_names();
    }

    /// Whether all that it needs to go on is there.
    pub(super) fn is_whole(&self) -> bool {
        self.files.is_running() && self.facts.is_running()
    }

    /// How long the thread may sleep at most.
    pub(super) fn wake_in(&self) -> Duration {
        let due_in = |since| self.options.interval.saturating_sub(since);
        let tick = self.since_last().map_or(Duration::ZERO, due_in);
        let tick = tick.min(self.facts.due_in());
        self.tree.walk_due_in().map_or(tick, |walk| walk.min(tick))
    }

    /// Gives the slice that was under way when its cgroup was first seen to its owner. If the CPU
    /// has switched since, the slice has ended: under its owner if nothing was known of it, for then
    /// the kernel side looked again, and under its parent's if that was known.
    fn correct_running(&self, first_run: &FirstRun, owner: u32) {
        let cpus = self.kernel.as_ref().map(KernelSide::cpus);
        let Some(running) = cpus.and_then(|cpus| cpus.word(first_run.cpu as usize, 0)) else {
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
        let kernel = self.kernel.as_ref();
        self.registry.read_released(|slot, kind, stats| {
            let Some(kernel) = kernel else {
                return;
            };
            let bytes = match stats {
                Some(stats) => collect::read_slot(kernel, slot, stats),
                None => collect::block_bytes(kernel, slot),
            };
            self.block_charges.update(slot, kind, bytes);
        });
        self.bury_departed();
    }

    /// Writes an entry, unless the kernel side has already met a younger css under the same id.
    fn write_slot(&self, write: &SlotWrite) {
        let Some(kernel) = &self.kernel else {
            return;
        };
        let table = match write.subsystem {
            Subsystem::Cpu => kernel.cpu_slots().as_ref(),
            Subsystem::Block => kernel.block_slots(),
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
                    if write.report == Report::Again || (write.report == Report::First && !ran) {
                        slot::reported_when_seen(entry)
                    } else {
                        entry
                    }
                }),
                None => (slot::entry_serial(current) == serial).then_some(0),
            },
        );
    }

    /// The last snapshot if it is young, else a new one.
    pub(super) fn snapshot(&mut self) -> Arc<Snapshot> {
        let young = |published: &Published| published.if_young().cloned();
        let last = self.published.borrow().as_ref().and_then(young);
        last.unwrap_or_else(|| self.collect())
    }

    /// Time since the last snapshot was taken; `None` before the first.
    fn since_last(&self) -> Option<Duration> {
        let published = self.published.borrow();
        published.as_ref().map(|last| last.taken.elapsed())
    }

    /// Has the facts told of a window that ends now, or with the last reading if one more would cost too much; none
    /// before there is a window.
    pub(super) fn window_facts(&mut self, window: Duration, reply: Reply) {
        if self.facts.may_read() {
            self.read_facts();
        }
        self.facts.answer(window, reply);
    }

    fn read_facts(&mut self) {
        let snapshot = self.snapshot();
        let culprits = self.culprits();
        let told = |slot: &Option<u32>| {
            let kernel = self.kernel.as_ref()?;
            Some(FromKernel {
                on_cpus: OnCpus::of(kernel, (*slot)?),
                waited_for: pairs::waited_for(&mut self.pairs, (*slot)?, &culprits),
                waited_for_disk: pairs::waited_for(&mut self.block_pairs, (*slot)?, &culprits),
            })
        };
        let told = self.last_slots.iter().map(told).collect();
        self.facts.read(snapshot, told);
    }

    /// Collects if the interval is over.
    pub(super) fn tick(&mut self) {
        if self.facts.due_in() == Duration::ZERO {
            self.read_facts();
        }
        let is_due = |since| since >= self.options.interval;
        if self.since_last().is_none_or(is_due) {
            self.collect();
        }
    }

    /// Slot and label of the container at an index of the last snapshot.
    pub(super) fn slot_of(&self, index: usize) -> Option<u32> {
        self.last_slots.get(index).copied().flatten()
    }

    /// Names by slot, for profiles.
    pub(super) fn names_by_slot(&self) -> HashMap<u32, Arc<Owner>> {
        self.registry
            .entities()
            .filter_map(|entity| Some((entity.slot?, Arc::new(owner(&entity.identity)))))
            .collect()
    }

    fn is_attached(&self, program: &str) -> bool {
        self.programs
            .iter()
            .any(|one| one.name == program && one.attached)
    }

    /// Whether each cgroup's beginning, first run and end are told by events. If not, the trees are
    /// walked with each collection.
    fn events_tell_all(&self) -> bool {
        self.tree.tells_cpu()
            && ["cgroup_mkdir", "cgroup_rmdir", "sched_switch"]
                .iter()
                .all(|program| self.is_attached(program))
    }
}

/// How a container is called in a profile.
pub(super) fn owner(identity: &Identity) -> Owner {
    Owner {
        namespace: identity.namespace.clone(),
        pod: identity.pod.clone(),
        container: identity.container.clone(),
    }
}

/// The cgroup that this process is in, where containers are told by.
fn own_cgroup(options: &EngineOptions) -> Option<String> {
    let path = options.proc_root.join("self/cgroup");
    let text = fs::read_to_string(path).ok()?;
    let memberships = parse_memberships(&text);
    let cpu = memberships.iter().find(|one| one.has_v1_controller("cpu"));
    let unified = || memberships.iter().find(|one| one.hierarchy == 0);
    cpu.or_else(unified).map(|one| one.path.clone())
}

fn read_trimmed(options: &EngineOptions, path: &str) -> String {
    fs::read_to_string(options.proc_root.join(path))
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
