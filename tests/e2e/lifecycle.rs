//! Containers come and go.

use std::time::Duration;

use ctrscope_tests::{Agent, Container, ContainerSpec, wait_until};

use crate::observe::{entry, group, snapshot, wait_seen};

const PATIENCE: Duration = Duration::from_secs(60);

/// How long entries stay is judged where time is measured; here it is longer than any test.
#[test]
fn an_exited_container_stays_with_its_exit_time() {
    let agent = Agent::start(&["--retention", "600s"]).unwrap();
    let group = group();
    let spec = ContainerSpec::new("brief", &["burn", "--seconds", "1"]).held();
    let container = Container::start(&group, &spec).unwrap();
    container.wait_report(PATIENCE).unwrap();
    // It idles, so nothing of this is yet to be told.
    let account = container.cpu_usage_ns().unwrap();
    let lived = wait_seen(&agent, &container);
    assert_eq!(lived.exited_at_unix_ms, None);
    container.stop().unwrap();
    let cgroup = container.cgroup().to_owned();
    drop(container);

    let exited = wait_until(PATIENCE, "exit seen", || {
        let snapshot = snapshot(&agent);
        let seen = entry(&snapshot, &cgroup).expect("it went before its retention was over");
        Ok(seen.exited_at_unix_ms.is_some().then(|| seen.clone()))
    })
    .unwrap();
    assert_eq!(exited.identity, lived.identity);
    let (seen, before) = (
        exited.counters.sched.unwrap().on_cpu_ns,
        lived.counters.sched.unwrap().on_cpu_ns,
    );
    println!("the kernel {account} ns, the agent {before} ns, after the end {seen} ns");
    assert!(seen >= before, "its end took some of it: {before} {seen}");
    // Nothing of note is missing; how near the numbers are is measured elsewhere.
    assert!(account > 0 && seen >= account - account / 10);
    let name = exited.identity.container.clone();
    let series = [("container", name.as_str())];
    let metrics = agent.metrics().unwrap();
    for metric in [
        "ctrscope_container_cpu_seconds_total",
        "ctrscope_container_exited_timestamp_seconds",
    ] {
        assert!(metrics.value(metric, &series) > Some(0.0), "{metric}");
    }
}

#[test]
fn a_container_that_was_there_first_is_seen() {
    let group = group();
    let container = Container::start(&group, &ContainerSpec::new("early", &["burn"])).unwrap();
    let agent = Agent::start(&[]).unwrap();
    let seen = wait_seen(&agent, &container);
    assert_eq!(seen.exited_at_unix_ms, None);
    assert!(seen.counters.sched.is_some() && seen.gauges.cpu_weight.is_some());
}
