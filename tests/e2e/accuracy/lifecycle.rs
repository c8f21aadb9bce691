//! Containers come and go: for how long they are remembered, and that nothing of them is then.

use std::time::Duration;

use ctrscope_tests::{Agent, Container, ContainerSpec, measure::measured, wait_until};

use crate::observe::{entry, group, snapshot, wait_seen};

/// Retention, the scrape interval and a busy machine.
const GONE_PATIENCE: Duration = Duration::from_secs(15);

/// What it computed and the agent did not see.
const UNSEEN: f64 = 0.05;

#[test]
fn an_exited_container_stays_for_the_retention_and_goes_then() {
    measured(|trial| {
        let agent = Agent::start(&["--retention", "3s"]).unwrap();
        let group = group();
        let spec = ContainerSpec::new("brief", &["burn", "--seconds", "1"]);
        let watch = trial.watch(agent.pid(), &group);
        let container = Container::start(&group, &spec).unwrap();
        wait_seen(&agent, &container);
        container.wait_end().unwrap();
        watch.end();
        let report = container.wait_report(GONE_PATIENCE).unwrap();
        let cgroup = container.cgroup().to_owned();
        drop(container);

        let exited = wait_until(GONE_PATIENCE, "exit seen", || {
            let snapshot = snapshot(&agent);
            let seen = entry(&snapshot, &cgroup).expect("it went before its retention was over");
            Ok(seen.exited_at_unix_ms.is_some().then(|| seen.clone()))
        })
        .unwrap();
        // All of its time on the CPU was counted, though nobody asked while it lived: at least what its
        // thread read from its own clock.
        let burned: u64 = report["workers"][0]["hot_ns"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(serde_json::Value::as_u64)
            .sum();
        let seen = exited.counters.sched.unwrap().on_cpu_ns;
        println!("it burned {burned} ns, the agent saw {seen} ns");
        assert!(burned > 0);
        let unseen = 1.0 - seen as f64 / burned as f64;
        trial.at_most("part of its own CPU time unseen", unseen, UNSEEN);
        let name = exited.identity.container.clone();
        let series = [("container", name.as_str())];
        let seconds = || {
            let metrics = agent.metrics().unwrap();
            metrics.value("ctrscope_container_cpu_seconds_total", &series)
        };
        assert!(seconds().is_some());

        wait_until(GONE_PATIENCE, "the entry is gone", || {
            Ok(entry(&snapshot(&agent), &cgroup).is_none().then_some(()))
        })
        .unwrap();
        assert_eq!(seconds(), None);
    });
}

#[test]
fn a_name_used_again_is_a_new_container() {
    let agent = Agent::start(&["--retention", "1s"]).unwrap();
    let group = group();
    let spec = ContainerSpec::new("again", &["burn", "--seconds", "2"]).held();
    let first = Container::start(&group, &spec).unwrap();
    first.wait_report(GONE_PATIENCE).unwrap();
    let old = wait_seen(&agent, &first).counters.sched.unwrap().on_cpu_ns;
    let cgroup = first.cgroup().to_owned();
    drop(first);
    wait_until(GONE_PATIENCE, "the entry is gone", || {
        Ok(entry(&snapshot(&agent), &cgroup).is_none().then_some(()))
    })
    .unwrap();
    let idle = ContainerSpec::new(
        "again",
        &["sleep-burn", "--burn-ms", "1", "--sleep-ms", "100"],
    );
    let second = Container::start(&group, &idle).unwrap();
    let new = wait_seen(&agent, &second).counters.sched.unwrap().on_cpu_ns;
    // Its start alone takes seconds on a slow machine: the kernel's account, read later, says how much.
    let own = second.cpu_usage_ns().unwrap();
    assert!(
        new < own + old / 2,
        "the second, which took {own} ns, begins with the {old} ns of the first: {new} ns"
    );
}
