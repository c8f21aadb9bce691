//! Many short-lived containers: the agent's memory, its slots, and what becomes of their numbers.

mod served;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use ctrscope_tests::{
    Agent, Container, ContainerSpec, Group, binaries, cgroup, measure::measured, metrics::Metrics,
    wait_until,
};

use crate::{
    churn::{brief, wait_exited},
    observe::{group, wait_seen},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Cgroups made and removed in a round.
const CHURN: usize = 200;
/// Rounds in which memory may grow before it stays: what leaks grows in every one of them, what an
/// allocator or a cache keeps only in some.
const ROUNDS: usize = 6;
/// What it may grow by in a round and still count as staying: below 9 KB for each cgroup.
const GROWTH: f64 = 0.05;
const GROWTH_BYTES: f64 = 1e6;

/// The default of `--max-containers`, and some more.
const EMPTY: usize = 1_100;

/// A host may have more cgroups in which nothing runs than the agent has places.
#[test]
fn empty_cgroups_take_no_place_from_a_container() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    for index in 0..EMPTY {
        let directory = group.directory("cpu", &format!("{}/empty{index}", group.path()));
        fs::create_dir_all(directory.unwrap()).unwrap();
    }
    let container = Container::start(&group, &ContainerSpec::new("real", &["burn"])).unwrap();
    let seen = wait_seen(&agent, &container);
    assert!(seen.counters.sched.unwrap().on_cpu_ns > 0);
    let refused = [("reason", "limit")];
    let metrics = agent.metrics().unwrap();
    assert_eq!(
        metrics.value("ctrscope_containers_in_other_total", &refused),
        Some(0.0)
    );
    // The same where they were there first.
    drop(agent);
    let agent = Agent::start(&[]).unwrap();
    wait_seen(&agent, &container);
}

/// Starts the workload for ten milliseconds in a cgroup, by its directories. Without runc, which takes longer
/// than that to start.
fn start_blink(directories: &[PathBuf]) -> Child {
    let files: Vec<PathBuf> = directories.iter().map(|d| d.join("cgroup.procs")).collect();
    let mut command = Command::new(binaries::workload().unwrap());
    command
        .args(["burn", "--seconds", "0.01"])
        .stdout(Stdio::null());
    // SAFETY: only writes to files between fork and exec; their paths are short enough to be opened without an
    // allocation.
    unsafe {
        command.pre_exec(move || files.iter().try_for_each(|file| fs::write(file, "0")));
    }
    command.spawn().unwrap()
}

/// Runs the workload for ten milliseconds in a cgroup of its own, in every hierarchy that has
/// controllers the agent looks at.
fn blink(group: &Group, name: &str) {
    let path = format!("{}/{name}", group.path());
    let mut directories: Vec<PathBuf> = ["cpu", "cpuacct", "blkio", "memory"]
        .into_iter()
        .filter_map(|controller| group.directory(controller, &path))
        .collect();
    directories.sort();
    directories.dedup();
    assert!(!directories.is_empty());
    for directory in &directories {
        fs::create_dir_all(directory).unwrap();
    }
    assert!(start_blink(&directories).wait().unwrap().success());
    for directory in &directories {
        cgroup::remove(directory).unwrap();
    }
}

fn gauge(metrics: &Metrics, name: &str) -> f64 {
    metrics.value(name, &[]).expect(name)
}

/// Resident anonymous memory of the agent, bytes. The rest are its file and the kernel's maps, of which
/// a page more is resident with each slot that is used for the first time.
fn own_memory(agent: &Agent) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB"))
        .and_then(|value| value.trim().parse::<f64>().ok());
    kib.expect("RssAnon of the agent") * 1024.0
}

#[test]
fn churn_leaves_no_memory_and_no_slot_behind() {
    let agent = Agent::start(&["--retention", "1s"]).unwrap();
    let group = group();
    let slots_before = gauge(&agent.metrics().unwrap(), "ctrscope_slots_used");
    let settled = || {
        wait_until(PATIENCE, "slots are given back", || {
            let metrics = agent.metrics()?;
            let used = gauge(&metrics, "ctrscope_slots_used");
            let listed = metrics.samples.iter().any(|sample| {
                sample.name == "ctrscope_container_cpu_seconds_total"
                    && sample.labels["container"].contains("/blink")
            });
            // The group's parent and what else came up on the host meanwhile may have one.
            Ok((used <= slots_before + 2.0 && !listed).then_some(metrics))
        })
        .unwrap()
    };
    let mut readings: Vec<f64> = Vec::new();
    let after = loop {
        for index in 0..CHURN {
            blink(&group, &format!("blink{}-{index}", readings.len()));
        }
        let after = settled();
        let bytes = own_memory(&agent);
        println!("own memory: {:.1} MB", bytes / 1e6);
        let highest = readings.iter().copied().reduce(f64::max);
        if highest.is_some_and(|highest| bytes <= highest * (1.0 + GROWTH) + GROWTH_BYTES) {
            break after;
        }
        readings.push(bytes);
        assert!(readings.len() < ROUNDS, "it grows and grows: {readings:?}");
    };
    let refused = [("reason", "limit")];
    assert_eq!(
        after.value("ctrscope_containers_in_other_total", &refused),
        Some(0.0)
    );
}

/// Of the cgroup's account: a part, and what an ended thread's last slice or runc's first may differ by.
const TOLERANCE: f64 = 0.01;
const TOLERANCE_NS: f64 = 5e6;
/// What its own threads may say more than the agent.
const UNSEEN_NS: f64 = 3e6;

#[test]
fn a_container_that_lived_a_fifth_of_a_second_is_counted() {
    measured(|trial| {
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let watch = trial.watch(agent.pid(), &group);
        let container = Container::start(&group, &brief()).unwrap();
        let report = container.wait_report(PATIENCE).unwrap();
        container.wait_end().unwrap();
        watch.end();
        let own_ns: u64 = report["threads"]
            .as_array()
            .unwrap()
            .iter()
            .map(|thread| thread["on_cpu_ns"].as_u64().unwrap())
            .sum();
        // runc's part of it, before it became the workload, included.
        let usage_ns = container.cpu_usage_ns().unwrap() as f64;
        let path = container.cgroup().to_owned();
        drop(container);

        let (seen, metrics) = wait_exited(&agent, &path, PATIENCE);
        let labels = [("container", seen.identity.container.as_str())];
        let seconds = metrics.value("ctrscope_container_cpu_seconds_total", &labels);
        let ns = seconds.expect("it is in /metrics") * 1e9;
        trial.at_most(
            "ns of its own account unseen",
            own_ns as f64 - ns,
            UNSEEN_NS,
        );
        let allowed = usage_ns * TOLERANCE + TOLERANCE_NS;
        trial.near("on-CPU ns against the cgroup", ns, usage_ns, allowed);
        let exited = metrics.value("ctrscope_container_exited_timestamp_seconds", &labels);
        assert!(exited.is_some());
    });
}
