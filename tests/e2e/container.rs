//! The harness itself: what it starts is real, can be measured, and is gone afterwards.

use std::{io::Write as _, sync::Arc, time::Duration};

use ctrscope_tests::{Container, ContainerSpec, Group, wait_until, workload::hot::HOT_FUNCTIONS};
use tempfile::TempDir;

/// Starting a container and a short piece of work on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn group() -> Arc<Group> {
    Arc::new(Group::new("ctrscope-test").unwrap())
}

#[test]
fn a_container_runs_in_its_own_cgroup_and_is_gone_after_drop() {
    let group = group();
    let spec = ContainerSpec::new("plain", &["burn", "--seconds", "60"]);
    let container = Container::start(&group, &spec).unwrap();
    let pid = container.pid();
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroups.contains(container.cgroup()), "{cgroups}");
    assert!(!group.directories().is_empty());
    assert!(container.is_alive());
    // A pid namespace of its own: it is process 1 there.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(
        status
            .lines()
            .any(|line| line == format!("NSpid:\t{pid}\t1")),
        "{status}"
    );

    drop(container);
    assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
    let parents = group.directories();
    for parent in &parents {
        assert!(!parent.join("plain").exists());
    }
    drop(group);
    for parent in parents {
        assert!(!parent.exists(), "{} is left", parent.display());
    }
}

#[test]
fn accounts_of_a_held_container_agree_with_each_other() {
    let group = group();
    let spec = ContainerSpec::new("held", &["burn", "--threads", "2", "--seconds", "1"])
        .gated()
        .held();
    let container = Container::start(&group, &spec).unwrap();
    let (threads, usage) = (
        container.thread_accounts().unwrap(),
        container.cpu_usage_ns().unwrap(),
    );
    container.open_gate().unwrap();
    let report = container.wait_report(PATIENCE).unwrap();
    let threads = container.thread_accounts().unwrap().since(&threads);
    let usage = container.cpu_usage_ns().unwrap() - usage;

    // The main thread and two workers, all still there.
    assert_eq!(threads.threads, 3);
    assert_eq!(container.tids().unwrap().len(), 3);
    assert_eq!(report["threads"].as_array().unwrap().len(), 3);
    let difference = threads.on_cpu_ns.abs_diff(usage) as f64 / usage as f64;
    assert!(difference < 0.01, "threads {threads:?}, cgroup {usage} ns");
    assert!(threads.dispatches > 0 && threads.voluntary > 0);

    for worker in report["workers"].as_array().unwrap() {
        let spent: Vec<f64> = worker["hot_ns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ns| ns.as_f64().unwrap())
            .collect();
        let total: f64 = spent.iter().sum();
        for (spent, (name, share)) in spent.iter().zip(HOT_FUNCTIONS) {
            assert!((spent / total - share).abs() < 0.02, "{name} of {report}");
        }
    }
    container.stop().unwrap();
}

#[test]
fn a_quota_throttles() {
    let group = group();
    let spec = ContainerSpec::new("capped", &["burn"]).quota(20_000, 100_000);
    let container = Container::start(&group, &spec).unwrap();
    wait_until(PATIENCE, "throttled periods", || {
        Ok((container.throttled_periods()? >= 3).then_some(()))
    })
    .unwrap();
}

#[test]
fn two_threads_of_a_pingpong_only_switch_voluntarily() {
    let group = group();
    let spec = ContainerSpec::new("pingpong", &["pingpong", "--seconds", "1", "--cpu", "0"])
        .gated()
        .held();
    let container = Container::start(&group, &spec).unwrap();
    container.open_gate().unwrap();
    let report = container.wait_report(PATIENCE).unwrap();
    let loops = report["workers"][0]["loops"]
        .as_u64()
        .or(report["workers"][1]["loops"].as_u64());
    let loops = loops.unwrap();
    let threads = container.thread_accounts().unwrap();
    assert!(loops > 1_000, "{report}");
    assert!(threads.voluntary >= loops, "{threads:?}, {loops} loops");
}

#[test]
fn direct_io_is_accounted_to_the_byte() {
    const BYTES: u64 = 8 << 20;
    let group = group();
    // Not under /tmp, which is memory on many hosts and refuses O_DIRECT there.
    let data = TempDir::new_in("/var/tmp").unwrap();
    let bytes = BYTES.to_string();
    let file = "/data/file";
    let spec = ContainerSpec::new(
        "direct",
        &[
            "read-write-direct",
            "--file",
            file,
            "--size",
            &bytes,
            "--bytes",
            &bytes,
        ],
    )
    .data(data.path())
    .gated()
    .held();
    // Dirty pages left in the cache would be written for the first direct read of them, on its account.
    let mut content = std::fs::File::create(data.path().join("file")).unwrap();
    content
        .write_all(&vec![1; usize::try_from(BYTES).unwrap()])
        .unwrap();
    content.sync_all().unwrap();
    let container = Container::start(&group, &spec).unwrap();
    let before = container.block_accounts().unwrap();
    container.open_gate().unwrap();
    let report = container.wait_report(PATIENCE).unwrap();
    let after = container.block_accounts().unwrap();
    assert_eq!(report["workers"][0]["bytes_read"], BYTES);
    // The file system may add a few blocks of its own (metadata), but no byte is missing.
    let (read, written) = (
        after.read_bytes - before.read_bytes,
        after.write_bytes - before.write_bytes,
    );
    assert!((BYTES..BYTES + (1 << 20)).contains(&read), "read {read}");
    assert!(
        (BYTES..BYTES + (1 << 20)).contains(&written),
        "written {written}"
    );
}

#[test]
fn short_lived_children_run_in_the_container() {
    let group = group();
    let spec = ContainerSpec::new("spawn", &["spawn", "--seconds", "1"]).held();
    let container = Container::start(&group, &spec).unwrap();
    let report = container.wait_report(PATIENCE).unwrap();
    assert!(
        report["workers"][0]["children"].as_u64().unwrap() > 3,
        "{report}"
    );
}

#[test]
fn a_workload_that_fails_says_why() {
    let group = group();
    let spec = ContainerSpec::new("broken", &["read-direct", "--file", "/no/such/file"]);
    let container = Container::start(&group, &spec).unwrap();
    let error = container.wait_report(PATIENCE).unwrap_err();
    assert!(format!("{error:#}").contains("/no/such/file"), "{error:#}");
}
