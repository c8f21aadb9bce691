//! Scheduler numbers against `schedstat`, `status` and the cgroup's CPU account.

use std::{sync::Arc, time::Duration};

use ctrscope_tests::{Agent, Container, ContainerSpec, Group};
use serde_json::Value;

use crate::observe::{Reading, assert_sched_agrees, group};

/// Work of some seconds, on a CPU that others use too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Containers that run side by side. What one suffers must not show up on another, or a sum is off.
pub(crate) struct SideBySide {
    containers: Vec<Container>,
    before: Vec<Reading>,
}

impl SideBySide {
    /// Starts them, and reads both views while they wait for their gates.
    pub(crate) fn start(agent: &Agent, group: &Arc<Group>, specs: &[ContainerSpec]) -> Self {
        let containers: Vec<Container> = specs
            .iter()
            .map(|spec| Container::start(group, &spec.clone().gated().held()).unwrap())
            .collect();
        let before = containers
            .iter()
            .map(|container| Reading::take(agent, container))
            .collect();
        Self { containers, before }
    }

    /// Lets them work to their ends; gives their reports.
    pub(crate) fn work(&self) -> Vec<Value> {
        for container in &self.containers {
            container.open_gate().unwrap();
        }
        let reports = self.containers.iter();
        reports
            .map(|container| container.wait_report(PATIENCE).unwrap())
            .collect()
    }

    /// Hands over each one's name, what was read before its work, and what is read now.
    pub(crate) fn compare(&self, agent: &Agent, mut compare: impl FnMut(&str, &Reading, &Reading)) {
        for (container, before) in self.containers.iter().zip(&self.before) {
            compare(container.name(), before, &Reading::take(agent, container));
        }
    }
}

/// Three threads that share a CPU run, wait for it and take it from each other.
#[test]
fn a_container_agrees_with_the_kernel() {
    let agent = Agent::start(&[]).unwrap();
    let burn = ["burn", "--threads", "3", "--seconds", "2", "--cpu", "0"];
    let run = SideBySide::start(&agent, &group(), &[ContainerSpec::new("burn", &burn)]);
    run.work();
    run.compare(&agent, assert_sched_agrees);
}

/// Time asleep is at least half of what the threads asked for: one that is preempted on its way to sleep
/// is runnable while its time passes already. Waiting for a disk is what none of them does; it is not
/// nothing where the machine has to read pages of theirs again.
#[test]
fn time_asleep_is_no_time_waiting_for_a_disk() {
    /// Of each sleep, milliseconds.
    const SLEEP_MS: u64 = 20;
    let agent = Agent::start(&[]).unwrap();
    let sleep = SLEEP_MS.to_string();
    let mut work = vec!["sleep-burn", "--threads", "2", "--seconds", "1"];
    work.extend(["--burn-ms", "1", "--sleep-ms", &sleep]);
    let run = SideBySide::start(&agent, &group(), &[ContainerSpec::new("sleeper", &work)]);
    let reports = run.work();
    let workers = reports[0]["workers"].as_array().unwrap();
    let bursts = workers.iter().map(|worker| worker["bursts"].as_u64());
    let asked_ns = bursts.map(Option::unwrap).sum::<u64>() * SLEEP_MS * 1_000_000;
    run.compare(&agent, |name, before, after| {
        assert_sched_agrees(name, before, after);
        let (new, old) = (after.sched(), before.sched());
        let sleep_ns = new.off_cpu_sleep_ns - old.off_cpu_sleep_ns;
        let disk_ns = new.off_cpu_disk_ns - old.off_cpu_disk_ns;
        println!("{name}: asked to sleep {asked_ns} ns, slept {sleep_ns} ns, disk {disk_ns} ns");
        assert!(sleep_ns >= asked_ns / 2 && disk_ns <= sleep_ns);
    });
}
