//! Writes through the page cache: charged to whom the kernel charges them, whoever issues them.

use std::{fs, path::Path};

use ctrscope::snapshot::{Container as Seen, Kind, Operation};
use ctrscope_tests::{
    Agent, Container, ContainerSpec,
    accounts::BlockAccounts,
    filesystem::{has_cgroup_writeback, sync_filesystem},
    issuers::IssueTrace,
    measure::{Trial, measured},
    wait_until,
};

use super::BYTES;
use crate::{
    block::{Nudge, PATIENCE, SETTLED_PATIENCE, data, of},
    observe::{entry, group, leniency, snapshot, wait_seen},
};

/// Why there is nothing to compare with.
const NO_CONTROLLER: &str = "there is no io controller, of v1 or v2";

/// Agreement that is asked for, of the bytes written: 5 %. What differs is metadata, and requests
/// whose completion no tracepoint showed and whose memory was not used again.
const TOLERANCE_BYTES: u64 = BYTES / 20;

/// Whom the kernel charges what its flusher writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WritebackOwner {
    /// The cgroup that the inode belongs to.
    Container,
    /// The root.
    Root,
}

impl WritebackOwner {
    /// The cgroup where memory and io are both controllers of v2 and the file system takes part
    /// (`inode_cgwb_enabled`, `include/linux/backing-dev.h`). `None` where nothing is charged at all.
    fn of(container: &Container, data: &Path) -> Option<Self> {
        let on_v2 = |controller: &str| {
            let directory = container.cgroup_path(controller).ok()?;
            Some(directory.join("cgroup.controllers").exists())
        };
        let io = on_v2("blkio").or_else(|| on_v2("io"))?;
        let is_tracked = io && on_v2("memory") == Some(true) && has_cgroup_writeback(data).unwrap();
        Some(if is_tracked {
            Self::Container
        } else {
            Self::Root
        })
    }

    /// Whether [`BYTES`] of writeback are counted to the last byte.
    fn is_settled(self, counted: &Counted) -> bool {
        match self {
            Self::Container => counted.agent == counted.kernel,
            Self::Root => counted.other >= BYTES,
        }
    }

    /// Records whether agent and kernel agree, and whether the kernel does what is expected of it.
    fn record(self, trial: &Trial, counted: &Counted) {
        record(trial, "agent and kernel", counted.agent, counted.kernel);
        match self {
            Self::Container => record(trial, "kernel and the file", counted.kernel, BYTES),
            Self::Root => {
                record(trial, "kernel and nothing", counted.kernel, 0);
                assert!(counted.other + leniency() * TOLERANCE_BYTES >= BYTES);
            }
        }
    }
}

/// Bytes written that agent and kernel have counted so far.
#[derive(Clone, Copy, Debug)]
struct Counted {
    /// The container's, as the agent says.
    agent: u64,
    /// Those of what has no entry of its own, as the agent says.
    other: u64,
    /// The container's, as the kernel says.
    kernel: u64,
}

impl Counted {
    fn now(agent: &Agent, container: &Container) -> Self {
        let (seen, other) = written(agent, container.cgroup());
        Self {
            agent: seen,
            other,
            kernel: container.block_accounts().unwrap().write_bytes,
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            agent: self.agent - earlier.agent,
            other: self.other - earlier.other,
            kernel: self.kernel - earlier.kernel,
        }
    }
}

/// Written by an entry, live or exited, and by what has none, as the agent says.
fn written(agent: &Agent, cgroup: &str) -> (u64, u64) {
    let snapshot = snapshot(agent);
    let of_row = |row: Option<&Seen>| {
        let block = row.and_then(|row| row.counters.block.as_ref());
        of(block.expect("block numbers"), Operation::Write).0
    };
    let mut rows = snapshot.containers.iter();
    let other = rows.find(|row| row.identity.kind == Kind::Other);
    (of_row(entry(&snapshot, cgroup)), of_row(other))
}

/// Waits until `is_settled` says yes to what is counted, or the patience is over.
fn settle(
    data: &Path,
    counted: impl Fn() -> Counted,
    is_settled: impl Fn(&Counted) -> bool,
) -> Counted {
    let nudge = Nudge::new(data);
    let settled = wait_until(SETTLED_PATIENCE, "all is counted", || {
        let counted = counted();
        if is_settled(&counted) {
            return Ok(Some(counted));
        }
        nudge.write()?;
        Ok(None)
    });
    let counted = settled.unwrap_or_else(|_| counted());
    println!("{counted:?}");
    counted
}

/// Records two numbers of bytes written that are to be the same.
fn record(trial: &Trial, what: &str, one: u64, other: u64) {
    trial.near(
        &format!("bytes written, {what}"),
        one as f64,
        other as f64,
        TOLERANCE_BYTES as f64,
    );
}

/// A container that writes [`BYTES`] through the page cache when its gate is opened, and ends.
fn writer(name: &str, data: &Path, more: &[&str]) -> ContainerSpec {
    let bytes = BYTES.to_string();
    let mut work = vec!["write-buffered", "--file", "/data/file"];
    work.extend(["--size", &bytes, "--bytes", &bytes]);
    work.extend(more);
    ContainerSpec::new(name, &work).data(data).gated()
}

#[test]
fn writeback_is_charged_to_whom_the_kernel_charges_it() {
    measured(write_back);
}

fn write_back(trial: &Trial) {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let data = data();
    let spec = writer("writeback", data.path(), &[]).held();
    let container = Container::start(&group, &spec).unwrap();
    let Some(owner) = WritebackOwner::of(&container, data.path()) else {
        trial.skip(NO_CONTROLLER);
        return;
    };
    wait_seen(&agent, &container);
    let before = Counted::now(&agent, &container);
    let trace = IssueTrace::start().unwrap();
    let watch = trial.watch(agent.pid(), &group);
    container.open_gate().unwrap();
    container.wait_report(PATIENCE).unwrap();
    // The writer has not asked for it and only waits from here on; the flusher writes.
    sync_filesystem(data.path()).unwrap();
    let counted = settle(
        data.path(),
        || Counted::now(&agent, &container).since(&before),
        |counted| owner.is_settled(counted),
    );
    watch.end();
    owner.record(trial, &counted);

    let Some(trace) = trace else {
        println!("no tracefs: not known which task issued it");
        return;
    };
    let container_tids = container.tids().unwrap();
    let (mut by_workers, mut by_writer) = (0, 0);
    for issue in trace.writes().unwrap() {
        if issue.comm.starts_with("kworker/") {
            by_workers += issue.bytes;
        } else if container_tids.contains(&issue.tid) {
            by_writer += issue.bytes;
        }
    }
    println!("issued by kernel workers {by_workers} B, by the writer {by_writer} B");
    assert!(by_workers + TOLERANCE_BYTES >= BYTES && by_writer <= TOLERANCE_BYTES);
}

#[test]
fn what_a_container_syncs_itself_is_charged_to_it() {
    measured(sync_itself);
}

fn sync_itself(trial: &Trial) {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let data = data();
    // 16 blocks of 64 KiB: an fsync each MiB.
    let spec = writer("fsync", data.path(), &["--fsync-every", "16"]).held();
    let container = Container::start(&group, &spec).unwrap();
    if WritebackOwner::of(&container, data.path()).is_none() {
        trial.skip(NO_CONTROLLER);
        return;
    }
    wait_seen(&agent, &container);
    let before = Counted::now(&agent, &container);
    let watch = trial.watch(agent.pid(), &group);
    container.open_gate().unwrap();
    container.wait_report(PATIENCE).unwrap();
    let counted = settle(
        data.path(),
        || Counted::now(&agent, &container).since(&before),
        |counted| counted.agent == counted.kernel,
    );
    watch.end();
    record(trial, "agent and kernel", counted.agent, counted.kernel);
    record(trial, "kernel and the file", counted.kernel, BYTES);
}

#[test]
fn writeback_after_the_end_of_a_container_is_charged_as_before() {
    measured(write_back_after_the_end);
}

fn write_back_after_the_end(trial: &Trial) {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let data = data();
    // A blkcg that has gone offline is given no blkg for another disk, and its nearest ancestor that
    // has one is charged (`blkg_lookup_create`, `block/blk-cgroup.c`): it has used the disk before.
    let spec = writer("ended", data.path(), &["--fsync-first"]);
    let container = Container::start(&group, &spec).unwrap();
    let Some(owner) = WritebackOwner::of(&container, data.path()) else {
        trial.skip(NO_CONTROLLER);
        return;
    };
    let cgroup = container.cgroup().to_owned();
    wait_seen(&agent, &container);
    // The account of its parent includes it on v2, and stays when it is gone. On v1 it goes with it.
    let now = || {
        let (seen, other) = written(&agent, &cgroup);
        let kernel = match owner {
            WritebackOwner::Container => {
                let parent = group.directory("io", &group.path()).unwrap();
                let text = fs::read_to_string(parent.join("io.stat")).unwrap();
                BlockAccounts::parse_v2(&text).write_bytes
            }
            WritebackOwner::Root => 0,
        };
        Counted {
            agent: seen,
            other,
            kernel,
        }
    };
    let before = now();
    let watch = trial.watch(agent.pid(), &group);
    container.open_gate().unwrap();
    container.wait_report(PATIENCE).unwrap();
    container.wait_end().unwrap();
    drop(container);
    wait_until(SETTLED_PATIENCE, "its end is seen", || {
        let snapshot = snapshot(&agent);
        let exited = entry(&snapshot, &cgroup).and_then(|entry| entry.exited_at_unix_ms);
        Ok(exited.map(drop))
    })
    .unwrap();
    let at_end = now().since(&before);
    println!("at its end: {at_end:?}");
    sync_filesystem(data.path()).unwrap();

    let counted = settle(
        data.path(),
        || now().since(&before),
        |counted| owner.is_settled(counted),
    );
    watch.end();
    owner.record(trial, &counted);
    if owner == WritebackOwner::Container {
        assert!(
            counted.agent > at_end.agent,
            "all was written before its end"
        );
    }
}
