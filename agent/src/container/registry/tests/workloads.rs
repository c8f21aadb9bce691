//! What containers count is in their workloads, whatever becomes of them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    runtime::Metadata,
    snapshot::{Container, Throttling, Total, Totals, WorkloadIdentity, WorkloadKind},
};

/// A registry with what the engine has around it: counters of slots, and cgroup files.
struct Host {
    registry: Registry,
    /// What each slot of the kernel side has counted since it was given.
    slots: BTreeMap<u32, u64>,
    /// Time throttled that the file of each container's cgroup says.
    files: BTreeMap<String, u64>,
    /// What was read of all slots.
    read: u64,
    now: Now,
}

fn id_of(index: u64) -> String {
    format!("{index:012x}{index:052x}")
}

fn path_of(index: u64) -> String {
    format!("/docker/{}", id_of(index))
}

fn metadata(index: u64, pod: &str) -> Arc<Metadata> {
    let hash = ("pod-template-hash".to_owned(), "5d4c9b8f6".to_owned());
    Arc::new(Metadata {
        id: id_of(index),
        runtime: "containerd",
        namespace: "shop".to_owned(),
        pod: pod.to_owned(),
        name: "app".to_owned(),
        labels: Arc::new([hash].into()),
        ..Metadata::default()
    })
}

fn deployment(name: &str) -> WorkloadIdentity {
    WorkloadIdentity {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        kind: WorkloadKind::Deployment,
    }
}

fn throttled(ns: u64) -> Option<Throttling> {
    Some(Throttling {
        throttled_ns: ns,
        ..Throttling::default()
    })
}

impl Host {
    fn new(entities: usize, slots: u32, retention_s: u64, selection: Selection) -> Self {
        let limits = RegistryLimits {
            entities,
            slots,
            cgroups: 1_000,
            retention_ns: retention_s * 1_000_000_000,
        };
        Self {
            registry: Registry::new(limits, CPU, selection),
            slots: BTreeMap::new(),
            files: BTreeMap::new(),
            read: 0,
            now: at(1),
        }
    }

    fn start(&mut self, index: u64) {
        let path = path_of(index);
        let css = [(Subsystem::Cpu, css(u32::try_from(index).unwrap(), index))];
        self.registry
            .cgroup_made(cpu(index), &path, true, &css, self.now);
    }

    fn end(&mut self, index: u64) {
        self.registry.cgroup_removed(cpu(index), self.now);
    }

    fn name(&mut self, index: u64, pod: &str) {
        let files = &self.files;
        let metadata = metadata(index, pod);
        self.registry
            .described(&metadata, self.now, |entity| Counters {
                cpu: throttled(files.get(&entity.owner_path).copied().unwrap_or(0)),
                ..Counters::default()
            });
        self.bury();
    }

    /// Gives what lost its slot or its place its last reading, as the engine does after each event.
    fn bury(&mut self) {
        self.registry.take_writes();
        let Self { slots, read, .. } = self;
        self.registry.read_released(|slot, _, stats| {
            if let Some(stats) = stats {
                stats.update_sched(ran(counted(slots, read, slot)));
            }
        });
        let files = &self.files;
        self.registry.bury_departed(|entity| Counters {
            cpu: throttled(files.get(&entity.owner_path).copied().unwrap_or(0)),
            ..Counters::default()
        });
    }

    /// A collection, as the engine does it.
    fn collect(&mut self) {
        self.registry.judge_unnamed(self.now);
        self.bury();
        let now = self.now;
        let Self {
            slots, read, files, ..
        } = self;
        let answer = self.registry.runtimes_answer;
        let (entities, workloads) = self.registry.entities_and_workloads();
        for entity in entities {
            if let Some(slot) = entity.slot {
                let counted = counted(slots, read, slot);
                entity.stats.update_sched(ran(counted));
            }
            entity.note_activity(false, now);
            if !entity.is_shown(now, answer) {
                continue;
            }
            let file = files.entry(entity.owner_path.clone()).or_default();
            if entity.exited.is_none() {
                *file += 3;
            }
            let row = Container {
                counters: Counters {
                    sched: Some(entity.stats.sched(0)),
                    cpu: throttled(*file),
                    ..Counters::default()
                },
                ..Container::default()
            };
            entity.settle(workloads, &row, now);
        }
        let others = counted(slots, read, slot::OTHER);
        let other = self.registry.other_mut();
        other.update_sched(ran(others));
        let row = Container {
            counters: Counters {
                sched: Some(other.sched(0)),
                ..Counters::default()
            },
            ..Container::default()
        };
        self.registry.settle_other(&row);
        self.registry.expire(now);
        self.bury();
        while let Some(slot) = self.registry.slot_to_clear(now) {
            self.slots.remove(&slot);
            self.registry.slot_cleared(slot);
        }
        self.registry.admit_waiting(now);
        self.registry.fill_slots(now);
        self.bury();
    }

    fn wait(&mut self, seconds: u64) {
        self.now = at(self.now.unix_ms / 1_000 + seconds);
    }

    fn totals(&self) -> BTreeMap<WorkloadIdentity, Totals> {
        self.registry
            .workloads()
            .all()
            .map(|one| ((*one.identity).clone(), one.totals))
            .collect()
    }

    fn of(&self, identity: &WorkloadIdentity) -> Totals {
        self.totals().get(identity).copied().unwrap_or_default()
    }

    fn alive(&self, identity: &WorkloadIdentity) -> Option<u64> {
        let mut all = self.registry.workloads().all();
        all.find(|one| *one.identity == *identity)
            .and_then(|one| one.containers)
    }

    /// Time on CPUs of all workloads, those that have no place any more among them.
    fn sum(&self) -> u64 {
        let mut sum = self.registry.workloads().evicted().totals;
        for totals in self.totals().values() {
            sum.add(totals);
        }
        sum.get(Total::CPU).unwrap_or(0)
    }
}

/// What a slot has counted by now, a little more each time.
fn counted(slots: &mut BTreeMap<u32, u64>, read: &mut u64, slot: u32) -> u64 {
    let counted = slots.entry(slot).or_default();
    *counted += 10;
    *read += 10;
    *counted
}

#[test]
fn a_workload_keeps_what_its_containers_counted_that_are_gone() {
    let mut host = Host::new(10, 10, 5, Selection::default());
    host.registry.runtimes_answer(true, false);
    for (index, random) in [(1, "x2z4f"), (2, "7xkqp"), (3, "9bpsw"), (4, "k8z2x")] {
        host.start(index);
        host.name(index, &format!("web-5d4c9b8f6-{random}"));
        host.collect();
        host.end(index);
        host.wait(20);
        host.collect();
    }
    let web = deployment("web");
    // Each was read once while it lived, and once when it ended, and at its last.
    assert_eq!(host.registry.entities().count(), 0);
    let totals = host.of(&web);
    assert_eq!(totals.get(Total::STARTED), Some(4));
    assert_eq!(totals.get(Total::EXITED), Some(4));
    assert_eq!(totals.get(Total::THROTTLED), Some(4 * 3));
    let others = host.slots[&slot::OTHER];
    assert_eq!(totals.get(Total::CPU), Some(host.read - others));
    assert_eq!(host.alive(&web), Some(0));
}

#[test]
fn one_that_comes_back_under_its_id_has_started_again() {
    let mut host = Host::new(10, 10, 300, Selection::default());
    host.start(1);
    host.name(1, "web-5d4c9b8f6-x2z4f");
    host.collect();
    host.end(1);
    host.collect();
    host.registry
        .cgroup_made(cpu(2), &path_of(1), true, &[], host.now);
    host.collect();
    let totals = host.of(&deployment("web"));
    assert_eq!(totals.get(Total::STARTED), Some(2));
    assert_eq!(totals.get(Total::EXITED), Some(1));
    assert_eq!(host.alive(&deployment("web")), Some(1));
}

#[test]
fn numbers_wait_for_the_name_and_go_to_those_without_one_if_it_does_not_come() {
    let unnamed = WorkloadIdentity {
        namespace: String::new(),
        name: "_unnamed".to_owned(),
        kind: WorkloadKind::Container,
    };
    let mut host = Host::new(10, 10, 300, Selection::default());
    host.start(1);
    host.start(2);
    host.wait(3);
    host.collect();
    assert_eq!(host.totals().len(), 1, "that of all others");
    host.name(1, "web-5d4c9b8f6-x2z4f");
    host.collect();
    assert_eq!(host.of(&deployment("web")).get(Total::CPU), Some(20));
    assert_eq!(host.of(&unnamed).get(Total::CPU), None);
    host.wait(3);
    host.collect();
    assert_eq!(host.of(&unnamed).get(Total::CPU), Some(30));
    // What comes later is another one's, and what was counted stays.
    host.name(2, "db-5d4c9b8f6-x2z4f");
    host.collect();
    assert_eq!(host.of(&unnamed).get(Total::CPU), Some(30));
    assert_eq!(host.alive(&unnamed), Some(0));
    assert_eq!(host.of(&deployment("db")).get(Total::CPU), Some(10));
    assert_eq!(host.alive(&deployment("db")), Some(1));
}

#[test]
fn a_sandbox_counts_with_its_pod_and_is_no_container() {
    let mut host = Host::new(10, 10, 300, Selection::default());
    host.start(1);
    let mut sandbox = metadata(1, "web-5d4c9b8f6-x2z4f");
    Arc::make_mut(&mut sandbox).is_sandbox = true;
    host.registry
        .described(&sandbox, host.now, |_| Counters::default());
    host.collect();
    let totals = host.of(&deployment("web"));
    assert_eq!(totals.get(Total::CPU), Some(10));
    assert_eq!(totals.get(Total::STARTED), None);
    assert_eq!(host.alive(&deployment("web")), Some(0));
}

#[test]
fn beyond_the_limit_the_workload_that_has_had_no_container_for_the_longest_goes() {
    let mut host = Host::new(3, 10, 1, Selection::default());
    host.registry.runtimes_answer(true, false);
    let run = |host: &mut Host, index: u64, name: &str, ends: bool| {
        host.start(index);
        host.name(index, &format!("{name}-5d4c9b8f6-x2z4f"));
        host.collect();
        if ends {
            host.end(index);
            host.wait(5);
            host.collect();
        }
    };
    run(&mut host, 1, "steady", false);
    run(&mut host, 2, "first", true);
    run(&mut host, 3, "second", true);
    // It has a container again, so it is not the one of the longest ago.
    run(&mut host, 4, "first", true);
    run(&mut host, 5, "third", true);
    let names: Vec<String> = host.totals().into_keys().map(|one| one.name).collect();
    assert_eq!(names, ["_other", "first", "steady", "third"]);
    let evicted = host.registry.workloads().evicted();
    assert_eq!(evicted.count, 1);
    assert_eq!(evicted.totals.get(Total::STARTED), Some(1));
    assert_eq!(host.sum(), host.read);
    // One that comes back begins at zero, and the next in the order gives its place.
    run(&mut host, 6, "second", true);
    let totals = host.of(&deployment("second"));
    assert_eq!(totals.get(Total::STARTED), Some(1));
    assert_eq!(host.of(&deployment("first")), Totals::default());
    assert_eq!(host.sum(), host.read);
}

#[test]
fn what_is_left_out_goes_on_in_the_workload_of_all_others_and_is_counted_once() {
    let selection = Selection {
        exclude: vec!["pod=noise-*".parse().unwrap()],
        ..Selection::default()
    };
    let other = WorkloadIdentity {
        namespace: String::new(),
        name: "_other".to_owned(),
        kind: WorkloadKind::Other,
    };
    let mut host = Host::new(10, 10, 300, selection);
    host.start(1);
    host.start(2);
    host.name(1, "web-5d4c9b8f6-x2z4f");
    host.name(2, "web-5d4c9b8f6-7xkqp");
    host.collect();
    let web = deployment("web");
    let before = host.of(&web).get(Total::CPU).unwrap();
    // Its labels are read later, or it is renamed.
    host.name(2, "noise-5d4c9b8f6-7xkqp");
    host.collect();
    assert_eq!(host.alive(&web), Some(1));
    assert_eq!(host.of(&web).get(Total::CPU), Some(before + 10));
    assert_eq!(host.sum(), host.read);
    assert!(host.of(&other).get(Total::CPU) > Some(10));
}

#[test]
fn one_that_gives_its_place_and_gets_it_back_has_not_started_again() {
    let mut host = Host::new(1, 10, 300, Selection::default());
    host.start(1);
    host.name(1, "web-5d4c9b8f6-x2z4f");
    host.collect();
    let web = deployment("web");
    host.registry.displace(1, host.now);
    host.bury();
    assert_eq!(host.alive(&web), Some(0));
    host.wait(5);
    host.collect();
    host.name(1, "web-5d4c9b8f6-x2z4f");
    host.collect();
    let totals = host.of(&web);
    assert_eq!(host.alive(&web), Some(1));
    assert_eq!(totals.get(Total::STARTED), Some(1));
    assert_eq!(totals.get(Total::EXITED), Some(0));
    // The file says the 3 of the first time as well.
    assert_eq!(host.files[&path_of(1)], 6);
    assert_eq!(totals.get(Total::THROTTLED), Some(3));
    assert_eq!(host.sum(), host.read);
}

/// What can happen to containers; a number says to which.
#[derive(Clone, Debug)]
enum Step {
    Start,
    End(u64),
    Restart(u64),
    Name(u64, &'static str),
    Unknown(u64),
    Displace(u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..12u64;
    let name = prop::sample::select(vec!["web", "db", "noise", "job"]);
    prop_oneof![
        4 => Just(Step::Start),
        2 => which.clone().prop_map(Step::End),
        1 => which.clone().prop_map(Step::Restart),
        4 => (which.clone(), name).prop_map(|(which, name)| Step::Name(which, name)),
        1 => which.clone().prop_map(Step::Unknown),
        1 => which.prop_map(Step::Displace),
        3 => (1..9u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever comes and goes, is named late or anew, is left out, gives its place or its slot: no total
    /// falls, and all that was counted is in one workload, once.
    #[test]
    fn the_sum_of_all_workloads_is_what_all_containers_ever_counted(
        steps in prop::collection::vec(step(), 1..80),
        entities in 1..8usize,
        slots in 2..10u32,
        excludes in any::<bool>(),
        answers in any::<bool>(),
    ) {
        let mut selection = Selection::default();
        if excludes {
            selection.exclude.push("pod=noise-*".parse().unwrap());
        }
        let mut host = Host::new(entities, slots, 10, selection);
        host.registry.runtimes_answer(answers, false);
        let mut made = 0_u64;
        let mut next_cgroup = 1_000;
        let mut last: BTreeMap<WorkloadIdentity, Totals> = BTreeMap::new();
        for step in steps {
            // Of those made last.
            let newest = made;
            let index = |which: u64| (newest + 1).saturating_sub(which).max(1);
            match step {
                Step::Start => {
                    made += 1;
                    host.start(made);
                }
                Step::End(which) => host.end(index(which)),
                Step::Restart(which) => {
                    next_cgroup += 1;
                    let path = path_of(index(which));
                    host.registry.cgroup_made(cpu(next_cgroup), &path, true, &[], host.now);
                }
                Step::Name(which, name) => {
                    let index = index(which);
                    host.name(index, &format!("{name}-5d4c9b8f6-x2z4f"));
                }
                Step::Unknown(which) => {
                    host.registry.unknown(&id_of(index(which)), host.now);
                }
                Step::Displace(which) => {
                    let id = host.registry.by_key.get(&id_of(index(which)));
                    let id = id.and_then(|ids| ids.first()).copied();
                    let id = id.filter(|id| !host.registry.entities[id].excluded);
                    if let Some(id) = id {
                        host.registry.displace(id, host.now);
                    }
                }
                Step::Wait(seconds) => host.wait(seconds),
            }
            host.bury();
            host.collect();
            let now = host.totals();
            let evicted = host.registry.workloads().evicted().count;
            for (identity, before) in &last {
                match now.get(identity) {
                    Some(totals) => {
                        let known: BTreeMap<_, _> = totals.known().collect();
                        for (name, value) in before.known() {
                            prop_assert!(known[name] >= value, "{identity:?} {name} fell");
                        }
                    }
                    None => prop_assert!(evicted > 0, "{identity:?} went"),
                }
            }
            prop_assert!(now.len() <= entities.max(host.registry.entities.len()) + 1);
            last = now;
        }
        // All end, and none is kept.
        for key in host.registry.known_in(CPU) {
            host.registry.cgroup_removed(key, host.now);
        }
        for _ in 0..4 {
            host.wait(20);
            host.collect();
        }
        prop_assert_eq!(host.registry.entities().count(), 0);
        prop_assert_eq!(host.sum(), host.read);
        for workload in host.registry.workloads().all() {
            prop_assert!(matches!(workload.containers, None | Some(0)), "{workload:?}");
        }
    }
}
