//! The harness itself: what it starts is real, can be measured, and is gone afterwards.

use std::{io::Write as _, sync::Arc, time::Duration};

use ctrscope_tests::{
    Container, ContainerSpec, Group, accounts::ThreadAccounts, wait_until,
    workload::hot::HOT_FUNCTIONS,
};
use tempfile::TempDir;

use crate::observe::group;

/// Starting a container and a short piece of work on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Two threads that compute for a second and stay.
pub(crate) fn held() -> ContainerSpec {
    let burn = ["burn", "--threads", "2", "--seconds", "1"];
    ContainerSpec::new("held", &burn).gated().held()
}

/// Two threads that wake each other for a second; gives how often, and what the kernel says.
pub(crate) fn play(group: &Arc<Group>) -> (u64, ThreadAccounts) {
    let spec = ContainerSpec::new("pingpong", &["pingpong", "--seconds", "1", "--cpu", "0"])
        .gated()
        .held();
    let container = Container::start(group, &spec).unwrap();
    container.open_gate().unwrap();
    let report = container.wait_report(PATIENCE).unwrap();
    let loops = report["workers"][0]["loops"]
        .as_u64()
        .or(report["workers"][1]["loops"].as_u64());
    (loops.unwrap(), container.thread_accounts().unwrap())
}

/// A process that starts children for a second; gives how many.
pub(crate) fn spawn(group: &Arc<Group>) -> u64 {
    let spec = ContainerSpec::new("spawn", &["spawn", "--seconds", "1"]).held();
    let container = Container::start(group, &spec).unwrap();
    let report = container.wait_report(PATIENCE).unwrap();
    let children = &report["workers"][0]["children"];
    children.as_u64().unwrap()
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
fn all_threads_of_a_held_container_are_still_there() {
    let group = group();
    let container = Container::start(&group, &held()).unwrap();
    container.open_gate().unwrap();
    let report = container.wait_report(PATIENCE).unwrap();
    let threads = container.thread_accounts().unwrap();

    // The main thread and two workers.
    assert_eq!(threads.threads, 3);
    assert_eq!(container.tids().unwrap().len(), 3);
    assert_eq!(report["threads"].as_array().unwrap().len(), 3);
    assert!(threads.dispatches > 0 && threads.voluntary > 0);
    for worker in report["workers"].as_array().unwrap() {
        let spent = worker["hot_ns"].as_array().unwrap();
        assert_eq!(spent.len(), HOT_FUNCTIONS.len(), "{report}");
    }
    container.stop().unwrap();
}

#[test]
fn a_quota_throttles() {
    let group = group();
    // So little of a period that it has more than that beside any load.
    let spec = ContainerSpec::new("capped", &["burn"]).quota(10_000, 100_000);
    let container = Container::start(&group, &spec).unwrap();
    wait_until(PATIENCE, "throttled periods", || {
        Ok((container.throttled_periods()? >= 3).then_some(()))
    })
    .unwrap();
}

#[test]
fn two_threads_of_a_pingpong_only_switch_voluntarily() {
    let (loops, threads) = play(&group());
    assert!(loops > 0);
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
    assert!(spawn(&group()) > 0);
}

#[test]
fn a_workload_that_fails_says_why() {
    let group = group();
    let spec = ContainerSpec::new("broken", &["read-direct", "--file", "/no/such/file"]);
    let container = Container::start(&group, &spec).unwrap();
    let error = container.wait_report(PATIENCE).unwrap_err();
    assert!(format!("{error:#}").contains("/no/such/file"), "{error:#}");
}
