//! Containers that share a name become one series.
//!
//! A restarted container and its predecessor, which stays for the retention, have the same namespace,
//! pod and name, and Prometheus refuses a scrape that carries one series twice. Their counters are
//! summed here, and nowhere else. Gauges describe what exists: they come from the living alone.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use super::text::escape_label;
use crate::snapshot::{Container, Histogram, Identity, Snapshot};

/// One set of series: a container, or the sum of those that share its name.
pub(crate) struct Series<'a> {
    /// Its numbers.
    pub(crate) container: Cow<'a, Container>,
    /// Its label pairs, escaped, without braces.
    pub(crate) labels: String,
}

type Key = (String, String, String);

/// What tells two entries of one name apart: container id, cgroup, first sight.
type Entry = (String, String, u64);

/// Keeps a sum from falling when one of its parts goes.
///
/// When an exited container leaves the snapshot while another of its name is still there, its last
/// numbers stay in their sum: otherwise the sum would go backwards, Prometheus would take that for a
/// restart, and add all that the other one ever counted a second time.
///
/// It holds the exited containers of the last snapshot and one sum a name that had several, about
/// 5 KB each; a name that leaves the snapshot leaves the ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    exited: HashMap<Key, Vec<(Entry, Container)>>,
    gone: HashMap<Key, Container>,
}

impl Ledger {
    fn update(&mut self, snapshot: &Snapshot) {
        let mut present: HashSet<Entry> = HashSet::new();
        let mut keys: HashSet<Key> = HashSet::new();
        for container in &snapshot.containers {
            present.insert(entry(container));
            keys.insert(key(&container.identity));
        }
        for (key, members) in std::mem::take(&mut self.exited) {
            for (entry, container) in members {
                if keys.contains(&key) && !present.contains(&entry) {
                    let sum = self.gone.entry(key.clone()).or_default();
                    add_counters(sum, &container);
                }
            }
        }
        self.gone.retain(|key, _| keys.contains(key));
        for container in &snapshot.containers {
            if container.exited_at_unix_ms.is_some() {
                let members = self.exited.entry(key(&container.identity)).or_default();
                members.push((entry(container), container.clone()));
            }
        }
    }
}

/// Groups the containers of a snapshot into series, in the order of the snapshot.
pub(crate) fn series<'a>(snapshot: &'a Snapshot, ledger: &mut Ledger) -> Vec<Series<'a>> {
    ledger.update(snapshot);
    let mut places: HashMap<(&str, &str, &str), usize> = HashMap::new();
    let mut all: Vec<Series<'a>> = Vec::with_capacity(snapshot.containers.len());
    for container in &snapshot.containers {
        let identity = &container.identity;
        let name = (
            identity.namespace.as_str(),
            identity.pod.as_str(),
            identity.container.as_str(),
        );
        let place = *places.entry(name).or_insert(all.len());
        if let Some(series) = all.get_mut(place) {
            merge(series.container.to_mut(), container);
        } else {
            let mut container = Cow::Borrowed(container);
            if container.exited_at_unix_ms.is_some() {
                clear_gauges(container.to_mut());
            }
            all.push(Series {
                container,
                labels: labels(identity),
            });
        }
    }
    for (key, sum) in &ledger.gone {
        let name = (key.0.as_str(), key.1.as_str(), key.2.as_str());
        if let Some(series) = places.get(&name).and_then(|&place| all.get_mut(place)) {
            add_counters(series.container.to_mut(), sum);
        }
    }
    all
}

/// The label pairs of a container, escaped, without braces.
pub(crate) fn labels(identity: &Identity) -> String {
    let mut out = String::with_capacity(96);
    for (opening, value) in [
        ("namespace=\"", identity.namespace.as_str()),
        ("\",pod=\"", &identity.pod),
        ("\",container=\"", &identity.container),
    ] {
        out.push_str(opening);
        escape_label(value, &mut out);
    }
    out.push('"');
    out
}

fn key(identity: &Identity) -> Key {
    (
        identity.namespace.clone(),
        identity.pod.clone(),
        identity.container.clone(),
    )
}

fn entry(container: &Container) -> Entry {
    (
        container.identity.container_id.clone(),
        container.identity.cgroup.clone(),
        container.first_seen_unix_ms,
    )
}

/// Adds one container to a sum: its counters, and its gauges if it lives.
fn merge(sum: &mut Container, other: &Container) {
    add_counters(sum, other);
    match (sum.exited_at_unix_ms, other.exited_at_unix_ms) {
        (Some(_), None) => {
            sum.exited_at_unix_ms = None;
            add_gauges(sum, other);
        }
        (None, None) => add_gauges(sum, other),
        (Some(mine), Some(theirs)) => sum.exited_at_unix_ms = Some(mine.max(theirs)),
        (None, Some(_)) => {}
    }
}

fn clear_gauges(sum: &mut Container) {
    if let Some(cpu) = &mut sum.cpu {
        cpu.quota_cores = None;
        cpu.weight = None;
    }
    if let Some(memory) = &mut sum.memory {
        memory.working_set_bytes = None;
        memory.limit_bytes = None;
    }
}

fn add_gauges(sum: &mut Container, other: &Container) {
    if let (Some(mine), Some(theirs)) = (&mut sum.cpu, &other.cpu) {
        mine.quota_cores = both(mine.quota_cores, theirs.quota_cores, |a, b| a + b);
        mine.weight = both(mine.weight, theirs.weight, u64::max);
    }
    if let (Some(mine), Some(theirs)) = (&mut sum.memory, &other.memory) {
        mine.working_set_bytes = plus(mine.working_set_bytes, theirs.working_set_bytes);
        mine.limit_bytes = plus(mine.limit_bytes, theirs.limit_bytes);
    }
}

fn add_counters(sum: &mut Container, other: &Container) {
    if let Some(theirs) = &other.sched {
        let mine = sum.sched.get_or_insert_default();
        mine.run_queue.add(&theirs.run_queue);
        mine.on_cpu_ns += theirs.on_cpu_ns;
        mine.off_cpu_sleep_ns += theirs.off_cpu_sleep_ns;
        mine.off_cpu_disk_ns += theirs.off_cpu_disk_ns;
        mine.voluntary += theirs.voluntary;
        mine.involuntary += theirs.involuntary;
        add_each(&mut mine.preemptions, &theirs.preemptions);
        add_each(&mut mine.preempted_wait_ns, &theirs.preempted_wait_ns);
        mine.process_exits += theirs.process_exits;
    }
    if let Some(theirs) = other.cpu_usage_ns {
        *sum.cpu_usage_ns.get_or_insert_default() += theirs;
    }
    if let Some(theirs) = &other.block {
        let mine = sum.block.get_or_insert_default();
        for (mine, theirs) in mine.operations.iter_mut().zip(&theirs.operations) {
            let latency: &mut Histogram = &mut mine.latency;
            latency.add(&theirs.latency);
            mine.queue_ns += theirs.queue_ns;
            mine.bytes += theirs.bytes;
            mine.count += theirs.count;
            mine.errors += theirs.errors;
        }
    }
    if let Some(theirs) = &other.cpu {
        let mine = sum.cpu.get_or_insert_default();
        mine.periods += theirs.periods;
        mine.throttled_periods += theirs.throttled_periods;
        mine.throttled_ns += theirs.throttled_ns;
    }
    if let Some(theirs) = &other.memory {
        let mine = sum.memory.get_or_insert_default();
        mine.oom_kills = plus(mine.oom_kills, theirs.oom_kills);
        mine.limit_hits = plus(mine.limit_hits, theirs.limit_hits);
    }
    if let Some(theirs) = &other.pressure {
        let mine = sum.pressure.get_or_insert_default();
        for (mine, theirs) in [
            (&mut mine.cpu, &theirs.cpu),
            (&mut mine.memory, &theirs.memory),
            (&mut mine.io, &theirs.io),
        ] {
            if let Some(theirs) = theirs {
                let mine = mine.get_or_insert_default();
                mine.waiting_usec += theirs.waiting_usec;
                mine.stalled_usec += theirs.stalled_usec;
            }
        }
    }
}

fn add_each(mine: &mut [u64; 4], theirs: &[u64; 4]) {
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine += theirs;
    }
}

fn plus(mine: Option<u64>, theirs: Option<u64>) -> Option<u64> {
    both(mine, theirs, |a, b| a + b)
}

/// `None` where neither is known.
fn both<T>(mine: Option<T>, theirs: Option<T>, join: impl FnOnce(T, T) -> T) -> Option<T> {
    match (mine, theirs) {
        (Some(mine), Some(theirs)) => Some(join(mine, theirs)),
        (mine, theirs) => mine.or(theirs),
    }
}
