//! The wait ledger: who had the CPU while a container waited for it.

use std::{sync::Arc, time::Duration};

use ctrscope::snapshot::{PreemptedBy, SchedStats};
use ctrscope_ebpf::ledger::{NAMES, QUOTA};
use ctrscope_tests::{Agent, Container, ContainerSpec, Group};

use crate::{
    facts::facts_of,
    observe::{Reading, group, wait_seen},
};

const RUN_QUEUE: &str = "ctrscope_container_run_queue_seconds_total";
const CAUSES: &str = "ctrscope_container_run_queue_cause_seconds_total";
const PREEMPTIONS: &str = "ctrscope_container_preemptions_total";
/// Work of some seconds, on a CPU that others use too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Busy loops on the first CPU.
fn burn(name: &str, threads: &str) -> ContainerSpec {
    let work = ["burn", "--threads", threads, "--seconds", "2", "--cpu", "0"];
    ContainerSpec::new(name, &work).gated().held()
}

fn start(group: &Arc<Group>, specs: &[ContainerSpec]) -> Vec<Container> {
    let start = |spec| Container::start(group, spec).unwrap();
    specs.iter().map(start).collect()
}

fn work(containers: &[Container]) {
    for container in containers {
        container.open_gate().unwrap();
    }
    for container in containers {
        container.wait_report(PATIENCE).unwrap();
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

/// Three containers that share a CPU, one of which may have a twentieth of it.
#[test]
fn every_nanosecond_of_a_wait_has_one_cause_and_a_quota_is_one_of_who_has_one() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let capped = burn("capped", "2").quota(5_000, 100_000);
    let specs = [burn("one", "1"), burn("two", "2"), capped];
    let containers = start(&group, &specs);
    work(&containers);
    for container in &containers {
        let name = container.name();
        // Of the moment when all of it sleeps: what a switch adds is not read in the middle.
        let reading = Reading::take(&agent, container);
        let sched: &SchedStats = reading.sched();
        let waited_ns = sched.run_queue.sum_ns();
        println!(
            "{name}: waited {waited_ns} ns, {NAMES:?} {:?}",
            sched.causes_ns
        );
        assert!(waited_ns > 0, "{name} never waited");
        assert_eq!(sched.causes_ns.iter().sum::<u64>(), waited_ns, "{name}");
        let quota_ns = sched.causes_ns[QUOTA];
        let by_quota = sched.preemptions[PreemptedBy::Quota as usize];
        if name == "capped" {
            assert!(quota_ns > 0 && by_quota > 0, "{sched:?}");
        } else {
            assert_eq!((quota_ns, by_quota), (0, 0), "{name} has no quota");
        }

        let metrics = agent.metrics().unwrap();
        let seen = wait_seen(&agent, container).identity.container.clone();
        let labels = [("container", seen.as_str())];
        for (cause, expected) in NAMES.into_iter().zip(sched.causes_ns) {
            // What never was has no series.
            let value = metrics.value(CAUSES, &[labels[0], ("cause", cause)]);
            assert_eq!(value.map_or(0, nanoseconds), expected, "{name}: {cause}");
        }
        let sum = nanoseconds(metrics.sum(CAUSES, &labels));
        let exported = metrics.value(RUN_QUEUE, &labels).map(nanoseconds);
        assert_eq!(exported, Some(sum), "{name}");
        let by = metrics.sum(PREEMPTIONS, &[labels[0], ("by", "quota")]);
        assert_eq!(by, by_quota as f64, "{name}");
    }
}

/// One task that waits for those of another container; two containers that do nothing are beside them.
#[test]
fn a_busy_neighbour_is_who_a_container_waited_for_most() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let specs = ["victim", "culprit", "idle"].map(|name| burn(name, "1"));
    let containers = start(&group, &specs);
    let [victim, _, idle] = &containers[..] else {
        unreachable!("as many as there are specs");
    };
    for container in &containers {
        facts_of(&agent, container);
    }
    work(&containers[..2]);
    let (facts, _) = facts_of(&agent, victim);
    let waited = facts.cpu.waited_for.expect("who it waited for");
    println!("{waited:?}");
    let most = waited
        .containers
        .first()
        .expect("a container that it waited for");
    assert!(most.name.ends_with("culprit"), "{waited:?}");
    assert!(most.seconds > waited.own_seconds, "{waited:?}");
    let is_idle = |name: &str| name.ends_with(idle.name());
    let by_idle = waited.containers.iter().find(|one| is_idle(&one.name));
    assert!(
        by_idle.is_none_or(|one| one.seconds < most.seconds / 10.0),
        "{waited:?}"
    );
}
