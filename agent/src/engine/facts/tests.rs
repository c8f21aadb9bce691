//! The collector over a tree of plain files.

use std::{fs, sync::Arc};

use super::*;
use crate::{
    cgroup::fake::Tree,
    diagnosis::facts::ContainerFacts,
    snapshot::{Counters, Host, SchedStats},
};

/// A host of plain files with one container in a pod, and what its tasks did.
struct Fake {
    tree: Tree,
    proc: tempfile::TempDir,
    collector: FactCollector,
    at_seconds: u64,
}

impl Fake {
    fn new() -> Self {
        let tree = Tree::v2();
        for cgroup in ["pod", "pod/web"] {
            tree.write(
                &format!("{cgroup}/cpu.stat"),
                "usage_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
            );
            tree.write(&format!("{cgroup}/cpu.weight"), "100\n");
            tree.write(&format!("{cgroup}/cpu.max"), "50000 100000\n");
            tree.write(&format!("{cgroup}/memory.current"), "4096\n");
            tree.write(&format!("{cgroup}/memory.max"), "8192\n");
        }
        let proc = tempfile::tempdir().unwrap();
        let collector = FactCollector::new(tree.hierarchies.clone(), true, proc.path().to_owned());
        Self {
            tree,
            proc,
            collector,
            at_seconds: 0,
        }
    }

    /// Takes a reading 5 s after the last, at which the container has used so many seconds.
    fn read(&mut self, used: u64) {
        self.read_container(used, None);
    }

    fn read_container(&mut self, used: u64, exited_at_unix_ms: Option<u64>) {
        self.at_seconds += 5;
        let container = |path: &str, kind, on_cpu_ns| Container {
            identity: Arc::new(Identity {
                cgroup: path.to_owned(),
                container: path.to_owned(),
                kind,
                ..Identity::default()
            }),
            exited_at_unix_ms,
            counters: Counters {
                sched: Some(SchedStats {
                    on_cpu_ns,
                    ..SchedStats::default()
                }),
                ..Counters::default()
            },
            ..Container::default()
        };
        let snapshot = Snapshot {
            taken_at_ns: self.at_seconds * 1_000_000_000,
            taken_at_unix_ms: self.at_seconds * 1_000,
            host: Host::default(),
            containers: vec![
                container("/pod/web", Kind::Container, used * 1_000_000_000),
                container("", Kind::Other, 7),
            ],
            ..Snapshot::default()
        };
        self.collector.read(&Sources {
            snapshot: &snapshot,
            told: &[],
        });
    }

    fn throttle(&self, cgroup: &str, periods: u64) {
        let text = format!(
            "usage_usec 0\nnr_periods {periods}\nnr_throttled {periods}\nthrottled_usec {periods}\n"
        );
        self.tree.write(&format!("{cgroup}/cpu.stat"), &text);
    }

    fn facts(&mut self) -> Vec<ContainerFacts> {
        let facts = self.collector.facts(Duration::from_secs(60)).unwrap();
        facts.containers.clone()
    }

    fn periods(&mut self) -> Vec<u64> {
        let facts = self.facts();
        facts[0]
            .cpu
            .quotas
            .iter()
            .map(|quota| quota.periods)
            .collect()
    }
}

#[test]
fn a_container_has_facts_of_its_own_cgroup_and_of_those_above() {
    let mut host = Fake::new();
    host.read(0);
    assert!(host.collector.facts(Duration::from_secs(60)).is_none());
    host.throttle("pod/web", 10);
    host.throttle("pod", 20);
    host.read(1);
    let facts = host.facts();
    assert_eq!(facts.len(), 1, "the sum of all others is no container");
    assert_eq!(host.periods(), [10, 20]);
    assert_eq!(facts[0].cpu.used_seconds, Some(1.0));
    let limits: Vec<_> = facts[0]
        .memory
        .limits
        .iter()
        .map(|limit| limit.is_own)
        .collect();
    assert_eq!(limits, [true, false]);
    assert_eq!(facts[0].network, None);
}

#[test]
fn files_of_one_that_did_nothing_are_not_read_again() {
    let mut host = Fake::new();
    host.read(1);
    // What it did last may show only now.
    host.throttle("pod/web", 5);
    host.read(1);
    assert_eq!(host.periods(), [5, 0]);
    host.throttle("pod/web", 10);
    host.throttle("pod", 20);
    host.read(1);
    assert_eq!(host.periods(), [5, 0]);
    let readings: Vec<_> = host
        .collector
        .known
        .values()
        .map(|one| &one.reading)
        .collect();
    assert_eq!(Arc::strong_count(readings[0]), 3, "two readings share it");
    host.read(2);
    assert_eq!(host.periods(), [10, 20]);
}

#[test]
fn after_five_minutes_they_are_read_all_the_same() {
    let mut host = Fake::new();
    host.read(1);
    host.read(1);
    host.throttle("pod/web", 10);
    for known in host.collector.known.values_mut() {
        known.read_at -= IDLE_INTERVAL;
    }
    host.read(1);
    assert_eq!(host.periods(), [10, 0]);
}

#[test]
fn those_that_do_nothing_have_their_turns_before_they_must() {
    let now = Instant::now();
    let turns = |seconds| idle_turns(1_000, Some(now), now + Duration::from_secs(seconds));
    assert_eq!([turns(0), turns(5), turns(150)], [0, 34, 1_000]);
    assert_eq!(idle_turns(1_000, None, now), 0);

    let mut collector = Fake::new().collector;
    collector.idle_turns = 2;
    let half = IDLE_INTERVAL / 2;
    let young = half - Duration::from_secs(1);
    let ages = [young, half, half, half, IDLE_INTERVAL];
    let read = ages.map(|age| collector.is_its_turn(age));
    assert_eq!(read, [false, true, true, false, true]);
}

#[test]
fn one_that_has_ended_keeps_what_its_files_last_said() {
    let mut host = Fake::new();
    host.read(0);
    host.throttle("pod/web", 10);
    host.read(1);
    fs::remove_dir_all(host.tree.path("pod/web")).unwrap();
    host.read_container(2, Some(14_000));
    let facts = host.facts();
    assert_eq!(facts[0].exited_at_unix_ms, Some(14_000));
    assert_eq!(host.periods(), [10, 0]);
    assert_eq!(facts[0].memory.working_set_bytes, None);
    assert_eq!(facts[0].cpu.used_seconds, Some(2.0));
}

#[test]
fn a_host_without_its_files_is_a_lack_and_no_error() {
    let mut host = Fake::new();
    host.read(0);
    let lacks = host.collector.lacks();
    assert!(lacks.contains("/proc/stat"), "{lacks}");
    assert!(lacks.contains("first process"), "{lacks}");
    assert_eq!(host.collector.failures(), 0);
    let net = host.proc.path().join("1/net");
    fs::create_dir_all(&net).unwrap();
    fs::write(net.join("dev"), "").unwrap();
    fs::write(
        host.proc.path().join("stat"),
        "cpu0 1 1 1 1 1 1 1 1\ncpu1 1 1 1 1 1 1 1 1\n",
    )
    .unwrap();
    host.read(1);
    assert_eq!(host.collector.lacks(), "");
}

#[test]
fn several_that_ask_for_one_window_get_one_answer() {
    let mut host = Fake::new();
    host.read(0);
    host.read(1);
    let mut ask = |seconds| host.collector.facts(Duration::from_secs(seconds)).unwrap();
    assert!(Arc::ptr_eq(&ask(10), &ask(10)));
    assert!(!Arc::ptr_eq(&ask(10), &ask(20)));
}
