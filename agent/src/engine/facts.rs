//! Collector of the readings that the diagnosis rests on.
//!
//! Each reading takes the containers' own counters from a snapshot and reads what the kernel's files say
//! besides: of the machine each time, of containers and of the cgroups above them only where a container
//! ran, waited or moved data since the last reading or the one before, and once in five minutes else. What was not read anew stands
//! as it was. They are taken on a thread of their own, which may be busy for a while with many containers.

mod groups;
mod machine;
mod networks;
mod ran_on;
#[cfg(test)]
mod tests;
mod thread;

pub(super) use self::{
    ran_on::OnCpus,
    thread::{FactThread, Reply},
};

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{machine::MachineReader, networks::NetworkReader, ran_on::RanOnCounter};
use crate::{
    cgroup::{
        FileReader, Hierarchies, MemoryUse, Mount, Version, path_of_parent, read_cpuset,
        read_memory_use, read_pressure,
    },
    diagnosis::facts::{ControllerMount, ControllerMounts, WindowFacts},
    reading::{
        ContainerReading, GroupReading, History, PairReading, Reading, RequestReading, TaskReading,
    },
    snapshot::{Container, Identity, Kind, Snapshot},
};

/// How long the files of a container that does nothing stand at most: what they say of it holds nobody back. From
/// half of that on they are read in their turn, a few at each reading.
const IDLE_INTERVAL: Duration = Duration::from_secs(300);

/// Takes readings, and keeps those of the last minute.
#[derive(Debug)]
pub(super) struct FactCollector {
    history: History,
    reader: FileReader,
    hierarchies: Hierarchies,
    has_pressure: bool,
    machine: MachineReader,
    networks: NetworkReader,
    ran_on: RanOnCounter,
    /// What is known of each container of the last reading, by path.
    known: HashMap<Arc<str>, Known>,
    /// When the last reading began.
    last_began: Option<Instant>,
    /// So many that do nothing may be read in this one before they must be.
    idle_turns: usize,
    /// Sets of CPUs, each once.
    cpu_sets: HashSet<Arc<[u32]>>,
    /// Files that could not be read though they are there.
    failures: u64,
    /// The last answer, and the window that was asked for: several ask for the same.
    answered: Option<(Duration, u64, Arc<WindowFacts>)>,
}

/// A container of the last reading.
#[derive(Debug)]
struct Known {
    reading: Arc<ContainerReading>,
    /// When its files were read.
    read_at: Instant,
    /// Whether it had come to rest by then: what it did last may show only a moment later.
    is_settled: bool,
}

/// What a reading is made of besides the files.
pub(super) struct Sources<'a> {
    /// Taken just now.
    pub(super) snapshot: &'a Snapshot,
    /// What the programs tell of each of its containers besides; nothing where none runs.
    pub(super) told: &'a [Option<FromKernel>],
}

/// What the programs tell of a container that is in no snapshot.
#[derive(Debug)]
pub(super) struct FromKernel {
    /// Where it ran.
    pub(super) on_cpus: OnCpus,
    /// Whom it waited for.
    pub(super) waited_for: Vec<PairReading>,
    /// Whose requests its own waited for.
    pub(super) waited_for_disk: Vec<PairReading>,
}

impl FactCollector {
    pub(super) fn new(hierarchies: Hierarchies, has_pressure: bool, proc_root: PathBuf) -> Self {
        Self {
            history: History::default(),
            reader: FileReader::new(),
            machine: MachineReader::new(proc_root.clone(), "/sys".into()),
            networks: NetworkReader::new(proc_root, process_mount(&hierarchies)),
            hierarchies,
            has_pressure,
            ran_on: RanOnCounter::default(),
            known: HashMap::new(),
            last_began: None,
            idle_turns: 0,
            cpu_sets: HashSet::new(),
            failures: 0,
            answered: None,
        }
    }

    /// Files that could not be read though they are there.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// Why a part of the facts is missing; empty where none is that another collector does not tell of.
    pub(super) fn lacks(&self) -> String {
        let lacks = [self.machine.lack(), self.networks.lack()];
        let lacks: Vec<&str> = lacks.into_iter().flatten().collect();
        lacks.join("; ")
    }

    /// Takes a reading.
    pub(super) fn read(&mut self, sources: &Sources<'_>) {
        let began = Instant::now();
        let snapshot = sources.snapshot;
        // A snapshot may be given out twice.
        if self.history.last_at_ns() >= Some(snapshot.taken_at_ns) {
            return;
        }
        let host = self.machine.read(&mut self.reader, &mut self.failures);
        self.ran_on.begin(&host.cpus);
        self.networks.begin(host.network);
        let mut containers = Vec::with_capacity(snapshot.containers.len());
        let mut former = std::mem::take(&mut self.known);
        self.idle_turns = idle_turns(former.len(), self.last_began, began);
        self.last_began = Some(began);
        let mut above = Above::default();
        let told = sources.told.iter().map(Option::as_ref);
        let told = told.chain(std::iter::repeat(None));
        for (container, told) in snapshot.containers.iter().zip(told) {
            if container.identity.kind == Kind::Other {
                continue;
            }
            let known = former
                .remove(container.identity.cgroup.as_str())
                .filter(|known| is_of(&known.reading, container));
            let known = self.container(container, told, known.as_ref(), began);
            above.add(&known.reading.own.path, known.read_at == began);
            containers.push(Arc::clone(&known.reading));
            self.known
                .insert(Arc::clone(&known.reading.own.path), known);
        }
        self.ran_on.finish();
        let above = self.above(above);
        let networks = self.networks.finish(&mut self.reader, &mut self.failures);
        let used = self.known.values();
        let used: HashSet<_> = used
            .filter_map(|known| known.reading.cpus.clone())
            .collect();
        self.cpu_sets = used;
        self.history.add(Reading {
            at_ns: snapshot.taken_at_ns,
            unix_ms: snapshot.taken_at_unix_ms,
            host,
            containers,
            above,
            networks,
        });
    }

    /// The reading of a container: a new one where it did something, else the last.
    fn container(
        &mut self,
        container: &Container,
        told: Option<&FromKernel>,
        known: Option<&Known>,
        now: Instant,
    ) -> Known {
        let tasks = TaskReading::of(container);
        let requests = RequestReading::of(container);
        let on_cpu_ns = container.on_cpu_ns();
        let ran_on = told.map(|told| {
            let last = known.and_then(|known| known.reading.ran_on);
            self.ran_on.add(&told.on_cpus, last.unwrap_or_default())
        });
        let is_idle = known.is_some_and(|known| {
            let last = &known.reading;
            last.tasks == tasks && last.requests == requests && last.on_cpu_ns == on_cpu_ns
        });
        if let Some(known) = known.filter(|known| is_idle && known.is_settled) {
            let reading = &known.reading;
            let is_same = reading.identity == container.identity
                && reading.exited_at_unix_ms == container.exited_at_unix_ms;
            let has_ended = container.exited_at_unix_ms.is_some();
            if is_same && (has_ended || !self.is_its_turn(now.duration_since(known.read_at))) {
                self.networks.keep(&reading.own.path, reading.network);
                return Known {
                    reading: Arc::clone(reading),
                    read_at: known.read_at,
                    is_settled: true,
                };
            }
        }
        let last = known.map(|known| &known.reading);
        let identity = Arc::clone(&container.identity);
        let path = last.map_or_else(
            || Arc::from(identity.cgroup.as_str()),
            |last| Arc::clone(&last.own.path),
        );
        let mut reading = ContainerReading {
            first_seen_unix_ms: container.first_seen_unix_ms,
            exited_at_unix_ms: container.exited_at_unix_ms,
            on_cpu_ns,
            tasks,
            requests,
            ran_on,
            waited_for: told.map(|told| told.waited_for.clone()).unwrap_or_default(),
            waited_for_disk: told
                .map(|told| told.waited_for_disk.clone())
                .unwrap_or_default(),
            ..ContainerReading::default()
        };
        if container.exited_at_unix_ms.is_none() {
            self.read_files(&path, &identity, &mut reading);
        }
        if let Some(last) = last {
            keep_what_is_gone(&mut reading, last);
        }
        reading.own.path = path;
        reading.identity = identity;
        self.networks.keep(&reading.own.path, reading.network);
        Known {
            reading: Arc::new(reading),
            read_at: now,
            is_settled: is_idle,
        }
    }

    /// Whether one that does nothing is read, whose files are so old.
    fn is_its_turn(&mut self, age: Duration) -> bool {
        if age < IDLE_INTERVAL / 2 {
            return false;
        }
        let has_turn = self.idle_turns > 0;
        self.idle_turns = self.idle_turns.saturating_sub(1);
        has_turn || age >= IDLE_INTERVAL
    }

    fn read_files(&mut self, path: &Arc<str>, identity: &Identity, reading: &mut ContainerReading) {
        let cgroup = identity.cgroup.as_str();
        reading.own = groups::read(
            &mut self.reader,
            &self.hierarchies,
            cgroup,
            groups::Whose::Container,
            &mut self.failures,
        );
        let memory = read_memory_use(&mut self.reader, &self.hierarchies, cgroup);
        reading.memory = kept(memory, &mut self.failures).unwrap_or_default();
        if self.has_pressure {
            let pressure = read_pressure(&mut self.reader, &self.hierarchies, cgroup);
            reading.pressure = kept(pressure, &mut self.failures);
        }
        let cpus = read_cpuset(&mut self.reader, &self.hierarchies, cgroup);
        reading.cpus = kept(cpus, &mut self.failures).map(|cpus| self.shared(&cpus));
        reading.network = self.networks.of_container(&mut self.reader, path);
    }

    /// One set of CPUs is kept once.
    fn shared(&mut self, cpus: &[u32]) -> Arc<[u32]> {
        if let Some(known) = self.cpu_sets.get(cpus) {
            return Arc::clone(known);
        }
        let cpus: Arc<[u32]> = Arc::from(cpus);
        self.cpu_sets.insert(Arc::clone(&cpus));
        cpus
    }

    /// The cgroups above containers: read anew where a container below was, else as they were.
    fn above(&mut self, wanted: Above) -> HashMap<Arc<str>, Arc<GroupReading>> {
        let last = self.history.later().map(Arc::clone);
        let mut groups = HashMap::with_capacity(wanted.0.len());
        for (path, is_due) in wanted.0 {
            let known = last
                .as_ref()
                .and_then(|last| last.above.get_key_value(&*path));
            let (path, group) = match known {
                Some((path, group)) if !is_due => (Arc::clone(path), Arc::clone(group)),
                _ => {
                    let mut group = groups::read(
                        &mut self.reader,
                        &self.hierarchies,
                        &path,
                        groups::Whose::Above,
                        &mut self.failures,
                    );
                    let path = known.map_or_else(|| Arc::from(path), |(path, _)| Arc::clone(path));
                    group.path = Arc::clone(&path);
                    (path, Arc::new(group))
                }
            };
            groups.insert(path, group);
        }
        groups
    }

    /// The facts of a window that ends with the last reading; `None` before there are two.
    pub(super) fn facts(&mut self, window: Duration) -> Option<Arc<WindowFacts>> {
        let at_ns = self.history.last_at_ns()?;
        if let Some((of, when, facts)) = &self.answered
            && (*of, *when) == (window, at_ns)
        {
            return Some(Arc::clone(facts));
        }
        let mut facts = self.history.facts(window)?;
        facts.host.controllers = controllers(&self.hierarchies);
        let facts = Arc::new(facts);
        self.answered = Some((window, at_ns, Arc::clone(&facts)));
        Some(facts)
    }
}

/// How many of those that do nothing have their turn in a reading, so that all have had it when they must.
fn idle_turns(containers: usize, last_began: Option<Instant>, now: Instant) -> usize {
    let since = last_began.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
    let share = since.as_secs_f64() / (IDLE_INTERVAL / 2).as_secs_f64();
    (share * containers as f64).ceil() as usize
}

/// Cgroups above containers, and whether they are to be read.
#[derive(Default)]
struct Above(HashMap<String, bool>);

impl Above {
    fn add(&mut self, path: &str, is_due: bool) {
        let mut path = path;
        // The root has no limits.
        while let Some(parent) = path_of_parent(path).filter(|parent| *parent != "/") {
            match self.0.get_mut(parent) {
                // What is above it is there as well.
                Some(known) if *known || !is_due => return,
                Some(known) => *known = true,
                None => {
                    self.0.insert(parent.to_owned(), is_due);
                }
            }
            path = parent;
        }
    }
}

/// Whether a reading is of a container: another one may have come to its path.
fn is_of(reading: &ContainerReading, container: &Container) -> bool {
    reading.first_seen_unix_ms == container.first_seen_unix_ms
        && reading.identity.container_id == container.identity.container_id
}

/// A cgroup that went while it was read, or has ended, keeps what it last said.
fn keep_what_is_gone(reading: &mut ContainerReading, last: &ContainerReading) {
    if reading.own.cpu.is_none() && last.own.cpu.is_some() {
        reading.own = last.own.clone();
    }
    if reading.memory == MemoryUse::default() {
        reading.memory = last.memory;
    }
    if reading.pressure.is_none() {
        reading.pressure.clone_from(&last.pressure);
    }
    if reading.cpus.is_none() {
        reading.cpus.clone_from(&last.cpus);
    }
    reading.network = reading.network.or(last.network);
    reading.ran_on = reading.ran_on.or(last.ran_on);
    if reading.waited_for.is_empty() {
        reading.waited_for.clone_from(&last.waited_for);
    }
    if reading.waited_for_disk.is_empty() {
        reading.waited_for_disk.clone_from(&last.waited_for_disk);
    }
}

/// What was read; what could not be is counted and absent.
fn kept<T>(read: Result<Option<T>, crate::cgroup::CgroupError>, failures: &mut u64) -> Option<T> {
    read.unwrap_or_else(|error| {
        *failures += 1;
        tracing::debug!(%error, "not read for the facts");
        None
    })
}

/// The hierarchy in which a container's processes are looked up.
fn process_mount(hierarchies: &Hierarchies) -> Option<Mount> {
    let mounts = [
        &hierarchies.cpu,
        &hierarchies.unified,
        &hierarchies.memory,
        &hierarchies.cpuacct,
    ];
    mounts.into_iter().flatten().next().cloned()
}

fn controllers(hierarchies: &Hierarchies) -> ControllerMounts {
    let mount = |mount: &Option<Mount>| {
        mount.as_ref().map(|mount| ControllerMount {
            path: mount.mount_point.display().to_string(),
            is_v2: mount.version == Version::V2,
        })
    };
    ControllerMounts {
        cpu: mount(&hierarchies.cpu),
        cpuset: mount(&hierarchies.cpuset),
        memory: mount(&hierarchies.memory),
        io: mount(&hierarchies.blkio),
    }
}
