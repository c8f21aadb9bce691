//! Writes through the page cache: charged to whom the kernel charges them, whoever issues them.

use std::{fs::File, io::Write as _, path::Path};

use ctrscope::snapshot::{Kind, Operation};
use ctrscope_tests::{
    Agent, Container, ContainerSpec,
    accounts::BlockAccounts,
    filesystem::{has_cgroup_writeback, sync_filesystem},
    issuers::IssueTrace,
    skip, wait_until,
};
use tempfile::TempDir;

use super::{BYTES, PATIENCE, SETTLED_PATIENCE, of};
use crate::observe::{group, leniency, snapshot, wait_seen};

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
}

/// What agent and kernel have counted so far.
#[derive(Clone, Copy, Debug)]
struct Counted {
    /// Written by the container, as the agent says.
    agent: u64,
    /// The same in requests.
    agent_requests: u64,
    /// Written by what has no entry of its own, as the agent says.
    other: u64,
    /// The container's, as the kernel says.
    kernel: BlockAccounts,
}

impl Counted {
    fn now(agent: &Agent, container: &Container) -> Self {
        let written = wait_seen(agent, container).block.expect("block collector");
        let (bytes, requests) = of(&written, Operation::Write);
        let snapshot = snapshot(agent);
        let mut containers = snapshot.containers.iter();
        let other = containers.find(|one| one.identity.kind == Kind::Other);
        let other = other.and_then(|one| one.block.as_ref());
        Self {
            agent: bytes,
            agent_requests: requests,
            other: of(
                other.expect("the others have block numbers"),
                Operation::Write,
            )
            .0,
            kernel: container.block_accounts().unwrap(),
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            agent: self.agent - earlier.agent,
            agent_requests: self.agent_requests - earlier.agent_requests,
            other: self.other - earlier.other,
            kernel: BlockAccounts {
                write_bytes: self.kernel.write_bytes - earlier.kernel.write_bytes,
                writes: self.kernel.writes - earlier.kernel.writes,
                ..self.kernel
            },
        }
    }
}

/// Waits until `is_settled` says yes to what was counted since `before`, or the patience is over.
/// A completion that no tracepoint showed counts when its request is used again, so requests are
/// made, on the account of the test.
fn settle(
    agent: &Agent,
    container: &Container,
    data: &Path,
    before: &Counted,
    is_settled: impl Fn(&Counted) -> bool,
) -> Counted {
    let mut file = File::create(data.join("settle")).unwrap();
    wait_until(SETTLED_PATIENCE, "all is counted", || {
        let counted = Counted::now(agent, container).since(before);
        if is_settled(&counted) {
            return Ok(Some(counted));
        }
        file.write_all(&[2; 4096])?;
        file.sync_all()?;
        Ok(None)
    })
    .unwrap_or_else(|_| Counted::now(agent, container).since(before))
}

fn assert_near(what: &str, one: u64, other: u64) {
    let allowed = leniency() * TOLERANCE_BYTES;
    let difference = one.abs_diff(other);
    println!("{what}: {one} B and {other} B, difference {difference} of {allowed}");
    assert!(
        difference <= allowed,
        "{what}: {one} B and {other} B; a difference of {allowed} is allowed"
    );
}

/// A container that writes [`BYTES`] through the page cache when its gate is opened.
fn writer(name: &str, data: &Path, more: &[&str]) -> ContainerSpec {
    let bytes = BYTES.to_string();
    let mut work = vec!["write-buffered", "--file", "/data/file"];
    work.extend(["--size", &bytes, "--bytes", &bytes]);
    work.extend(more);
    ContainerSpec::new(name, &work).data(data).gated().held()
}

#[test]
fn writeback_is_charged_to_whom_the_kernel_charges_it() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let data = TempDir::new_in("/var/tmp").unwrap();
    let container = Container::start(&group, &writer("writeback", data.path(), &[])).unwrap();
    let Some(owner) = WritebackOwner::of(&container, data.path()) else {
        skip("there is no io controller, of v1 or v2");
        return;
    };
    let before = Counted::now(&agent, &container);
    let trace = IssueTrace::start().unwrap();
    container.open_gate().unwrap();
    container.wait_report(PATIENCE).unwrap();
    // The writer has not asked for it and only waits from here on; the flusher writes.
    sync_filesystem(data.path()).unwrap();
    let counted = settle(
        &agent,
        &container,
        data.path(),
        &before,
        |counted| match owner {
            WritebackOwner::Container => counted.agent == counted.kernel.write_bytes,
            WritebackOwner::Root => counted.other >= BYTES,
        },
    );
    println!("{owner:?}: {counted:?}");
    assert_near(
        "agent and kernel",
        counted.agent,
        counted.kernel.write_bytes,
    );
    match owner {
        WritebackOwner::Container => {
            assert_near("kernel and the file", counted.kernel.write_bytes, BYTES);
        }
        WritebackOwner::Root => {
            assert_near("kernel and nothing", counted.kernel.write_bytes, 0);
            assert!(counted.other + leniency() * TOLERANCE_BYTES >= BYTES);
        }
    }

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
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let data = TempDir::new_in("/var/tmp").unwrap();
    // 16 blocks of 64 KiB: an fsync each MiB.
    let spec = writer("fsync", data.path(), &["--fsync-every", "16"]);
    let container = Container::start(&group, &spec).unwrap();
    if WritebackOwner::of(&container, data.path()).is_none() {
        skip("there is no io controller, of v1 or v2");
        return;
    }
    let before = Counted::now(&agent, &container);
    container.open_gate().unwrap();
    container.wait_report(PATIENCE).unwrap();
    let counted = settle(&agent, &container, data.path(), &before, |counted| {
        counted.agent == counted.kernel.write_bytes
    });
    println!("{counted:?}");
    assert_near(
        "agent and kernel",
        counted.agent,
        counted.kernel.write_bytes,
    );
    assert_near("kernel and the file", counted.kernel.write_bytes, BYTES);
}
