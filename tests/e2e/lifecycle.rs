//! Containers come and go.

use std::{fs, time::Duration};

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

/// Nobody looks while these live: what the kernel counted of them goes with their cgroups, and has to be read
/// between the end of the last task and that.
#[test]
fn what_happens_last_is_in_the_last_numbers() {
    let agent = Agent::start(&["--interval", "60s"]).unwrap();
    let group = group();
    // Two busy threads under a tenth of a CPU are throttled in each period.
    let capped = ["burn", "--threads", "2", "--seconds", "0.5"];
    let capped = ContainerSpec::new("capped", &capped)
        .quota(10_000, 100_000)
        .held();
    let capped = Container::start(&group, &capped).unwrap();
    let greedy = ["overcommit", "--bytes", "134217728", "--pause-ms", "10"];
    let greedy = ContainerSpec::new("greedy", &greedy).memory(32 << 20);
    let greedy = Container::start(&group, &greedy).unwrap();
    wait_until(PATIENCE, "a child of it is killed", || {
        Ok((oom_kills(&greedy) > Some(0)).then_some(()))
    })
    .unwrap();
    capped.wait_report(PATIENCE).unwrap();
    let [capped_cgroup, greedy_cgroup] = [&capped, &greedy].map(|one| one.cgroup().to_owned());
    let throttled = capped.throttled_periods().unwrap();
    assert!(throttled > 0);
    let killed = oom_kills(&greedy).unwrap();
    capped.stop().unwrap();
    greedy.stop().unwrap();
    drop((capped, greedy));

    let last = |cgroup: &str| {
        wait_until(PATIENCE, "exit seen", || {
            let seen = entry(&snapshot(&agent), cgroup).cloned();
            Ok(seen.filter(|seen| seen.exited_at_unix_ms.is_some()))
        })
        .unwrap()
        .counters
    };
    let seen = last(&capped_cgroup).cpu.expect("throttling");
    println!("throttled: kernel {throttled}, agent {seen:?}");
    // It may be throttled once more on its way out.
    assert!((throttled..=throttled + 5).contains(&seen.throttled_periods));
    let seen = last(&greedy_cgroup).memory.expect("memory").oom_kills;
    println!("killed: kernel {killed} and more, agent {seen:?}");
    assert!(seen >= Some(killed));
}

/// Tasks killed for want of memory, by the cgroup's own account; `None` where it has gone.
fn oom_kills(container: &Container) -> Option<u64> {
    let directory = container.cgroup_path("memory").ok()?;
    let files = ["memory.events", "memory.oom_control"];
    let texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(directory.join(file)).ok());
    let text: String = texts.collect();
    let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    kills?.trim().parse().ok()
}
