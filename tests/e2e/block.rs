//! Block I/O against the kernel's account of the cgroup.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use ctrscope::snapshot::{BlockOperation, BlockStats, Operation};
use ctrscope_tests::{
    Agent, Container, ContainerSpec, accounts::BlockAccounts, bpf, skip, wait_until,
};
use tempfile::TempDir;

use crate::observe::{group, snapshot, wait_seen};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// From the end of the work until both have counted all of it. Where completions are not traced it may
/// never come to that, and the verdict is another.
pub(crate) const SETTLED_PATIENCE: Duration = Duration::from_secs(5);
/// One block of the file system, which lies in one piece: a larger one may lie in two that touch, which
/// are two bios, as the kernel counts, but one request, as the agent does.
const BLOCK: u64 = 4096;

/// A directory on a disk: not under /tmp, which is memory on many hosts.
pub(crate) fn data() -> TempDir {
    TempDir::new_in("/var/tmp").unwrap()
}

/// Makes requests on the account of the test: a completion that no tracepoint showed is counted when the
/// memory of its request is used again.
pub(crate) struct Nudge(PathBuf);

impl Nudge {
    /// One that writes a file of its own in that directory.
    pub(crate) fn new(data: &Path) -> Self {
        Self(data.join("nudge"))
    }

    /// Writes a block to the disk.
    pub(crate) fn write(&self) -> Result<()> {
        let mut file = File::options().append(true).create(true).open(&self.0)?;
        file.write_all(&[2; 4096])?;
        Ok(file.sync_all()?)
    }
}

/// Bytes and requests of an operation.
pub(crate) fn of(stats: &BlockStats, operation: Operation) -> (u64, u64) {
    let found = &stats.operations[operation as usize];
    (found.bytes, found.count)
}

/// Requests of the whole host whose completion no tracepoint showed; they have no latency.
fn unseen_completions(agent: &Agent) -> u64 {
    let losses = snapshot(agent).agent.losses;
    let mut unseen = losses
        .iter()
        .filter(|loss| loss.reason == "block_completion_unseen");
    unseen.next().expect("the loss is exported").count
}

/// Requests that the agent still holds as issued, of the whole host. One whose completion no
/// tracepoint showed is counted when its memory is used again, and until then it is among these.
fn requests_held(agent: &Agent) -> u64 {
    let dumped = bpf::dump(agent.pid(), "REQUESTS").unwrap();
    let entries = dumped.as_array().expect("an array of entries");
    assert!(!entries.is_empty());
    // The number of a request is the first field; it is 0 where there is none.
    let is_held = |entry: &&serde_json::Value| {
        let value = entry["value"].as_array().expect("the bytes of an entry");
        value.iter().take(8).any(|byte| byte != "0x00")
    };
    entries.iter().filter(is_held).count() as u64
}

/// Both views of a container, once neither moves: what it reads of its program at its start is over.
fn settled(agent: &Agent, container: &Container) -> (BlockStats, BlockAccounts) {
    let seen = || {
        wait_seen(agent, container)
            .counters
            .block
            .expect("block collector")
    };
    wait_until(PATIENCE, "no I/O of the container", || {
        let (account, earlier) = (container.block_accounts()?, seen());
        let stats = seen();
        let is_settled = stats == earlier && container.block_accounts()? == account;
        Ok(is_settled.then_some((stats, account)))
    })
    .unwrap()
}

/// Has a container write and read so many bytes at random, a block at a time, and compares each direction
/// with the kernel's account.
pub(crate) fn assert_direct_io_agrees(size: u64) {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let data = data();
    let mut file = File::create(data.path().join("file")).unwrap();
    file.write_all(&vec![1; usize::try_from(size).unwrap()])
        .unwrap();
    // What stayed dirty in the cache would be written on the account of the first direct read.
    file.sync_all().unwrap();
    let (bytes, block) = (size.to_string(), BLOCK.to_string());
    let mut work = vec!["read-write-direct", "--file", "/data/file", "--random"];
    work.extend(["--size", &bytes, "--bytes", &bytes, "--block", &block]);
    let spec = ContainerSpec::new("direct", &work)
        .data(data.path())
        .gated()
        .held();
    let container = Container::start(&group, &spec).unwrap();
    let unseen_before = unseen_completions(&agent);
    let (before, account_before) = settled(&agent, &container);
    container.open_gate().unwrap();
    container.wait_report(PATIENCE).unwrap();
    let account = container.block_accounts().unwrap();
    if account.read_bytes == account_before.read_bytes {
        skip("this kernel counts no block I/O for the cgroup");
        return;
    }
    let kernel = [
        (
            Operation::Read,
            account.read_bytes - account_before.read_bytes,
            account.reads - account_before.reads,
        ),
        (
            Operation::Write,
            account.write_bytes - account_before.write_bytes,
            account.writes - account_before.writes,
        ),
    ];
    let added = |stats: &BlockStats, operation| {
        let (new, old) = (of(stats, operation), of(&before, operation));
        (new.0 - old.0, new.1 - old.1)
    };
    // A request that is missing from a snapshot was held before it: the other way round it may have been
    // used again, and so been counted, in between.
    let read = || {
        let held = requests_held(&agent);
        (held, wait_seen(&agent, &container).counters.block.unwrap())
    };
    let nudge = Nudge::new(data.path());
    let (held, after) = wait_until(SETTLED_PATIENCE, "the last request is counted", || {
        let (held, after) = read();
        let equal = |&(operation, bytes, count)| added(&after, operation) == (bytes, count);
        if kernel.iter().all(equal) {
            return Ok(Some((held, after)));
        }
        nudge.write()?;
        Ok(None)
    })
    .unwrap_or_else(|_| read());
    let unseen = unseen_completions(&agent) - unseen_before;
    // None where every completion is traced.
    println!("on the whole host: {unseen} completions unseen, {held} requests held");
    let mut missing = 0;
    for (operation, bytes, count) in kernel {
        let (agent_bytes, agent_count) = added(&after, operation);
        println!(
            "{operation:?}: agent {agent_bytes} B in {agent_count}, kernel {bytes} B in {count}"
        );
        assert!(agent_count <= count, "{operation:?}");
        let lacking = count - agent_count;
        missing += lacking;
        assert_eq!(agent_bytes + lacking * BLOCK, bytes, "{operation:?}");
    }
    assert!(missing <= held, "{missing} requests are missing");
    let latency = after.latency().since(&before.latency());
    let operations = kernel[0].2 + kernel[1].2;
    assert!(latency.count() <= operations && latency.count() + unseen + held >= operations);
    assert!(latency.sum_ns() > 0);
}

#[test]
fn direct_io_is_charged_to_the_byte() {
    assert_direct_io_agrees(1 << 20);
}

/// One that is on a CPU while the other's requests are made and completed. What it has to read of its own
/// program again is its own, as the kernel says.
#[test]
fn a_neighbour_without_io_is_charged_nothing() {
    /// What the other writes.
    const BYTES: u64 = 4 << 20;
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let data = data();
    // On v1 a kernel counts nothing for a cgroup without a limit, which comes with the data.
    let spec = ContainerSpec::new("quiet", &["burn"]).data(data.path());
    let quiet = Container::start(&group, &spec).unwrap();
    let bytes = BYTES.to_string();
    let mut work = vec!["write-direct", "--file", "/data/file"];
    work.extend(["--size", "1048576", "--bytes", &bytes]);
    let spec = ContainerSpec::new("writer", &work)
        .data(data.path())
        .gated()
        .held();
    let writer = Container::start(&group, &spec).unwrap();
    let (before, account_before) = settled(&agent, &quiet);
    let (writer_before, _) = settled(&agent, &writer);
    writer.open_gate().unwrap();
    writer.wait_report(PATIENCE).unwrap();
    let nudge = Nudge::new(data.path());
    wait_until(PATIENCE, "the writer's bytes are its own", || {
        let now = wait_seen(&agent, &writer).counters.block.unwrap();
        let written = of(&now, Operation::Write).0 - of(&writer_before, Operation::Write).0;
        if written < BYTES {
            nudge.write()?;
            return Ok(None);
        }
        Ok(Some(()))
    })
    .unwrap();
    let mut said = ((0, 0), (0, 0));
    wait_until(PATIENCE, "nothing of it is the neighbour's", || {
        let account = quiet.block_accounts()?;
        let now = wait_seen(&agent, &quiet).counters.block.unwrap();
        let added = |operation| of(&now, operation).0 - of(&before, operation).0;
        said = (
            (added(Operation::Read), added(Operation::Write)),
            (
                account.read_bytes - account_before.read_bytes,
                account.write_bytes - account_before.write_bytes,
            ),
        );
        Ok((said.0 == said.1).then_some(()))
    })
    .unwrap_or_else(|_| panic!("read and written: agent {:?}, kernel {:?}", said.0, said.1));
}

/// Whether the disk of a directory has a cache that wants flushes; `None` where the kernel does not say.
fn has_cache(directory: &Path) -> Option<bool> {
    let device = directory.metadata().unwrap().dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // A partition's queue is that of its disk.
    let queue = [device.as_path(), device.parent()?].map(|disk| disk.join("queue/write_cache"));
    let cache = queue
        .iter()
        .find_map(|file| fs::read_to_string(file).ok())?;
    Some(cache.trim() == "write back")
}

/// A flush that an `fsync` waits for is charged to whoever called it, with the time until the device had
/// flushed. Of blocks that a file has already, a `fdatasync` writes no metadata, and so no journal flushes in its
/// stead (`ext4_sync_file`, `fs/ext4/fsync.c`).
#[test]
fn a_flush_is_charged_to_who_waits_for_it() {
    const SYNCS: u64 = 50;
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let data = data();
    if has_cache(data.path()) != Some(true) {
        skip("the disk has no cache that it would flush");
        return;
    }
    let bytes = SYNCS * BLOCK;
    let mut file = File::create(data.path().join("file")).unwrap();
    file.write_all(&vec![1; usize::try_from(bytes).unwrap()])
        .unwrap();
    file.sync_all().unwrap();
    let (bytes, block) = (bytes.to_string(), BLOCK.to_string());
    let mut work = vec!["write-buffered", "--file", "/data/file", "--size", &bytes];
    work.extend(["--bytes", &bytes, "--block", &block]);
    work.extend(["--fsync-every", "1", "--datasync"]);
    let spec = ContainerSpec::new("syncer", &work)
        .data(data.path())
        .gated()
        .held();
    let container = Container::start(&group, &spec).unwrap();
    let flushes = |stats: BlockStats| stats.operations[Operation::Flush as usize].clone();
    let before = flushes(settled(&agent, &container).0);
    container.open_gate().unwrap();
    container.wait_report(PATIENCE).unwrap();
    let seen = || wait_seen(&agent, &container).counters.block.map(flushes);
    let mut last = None;
    let after = wait_until(PATIENCE, "all flushes are counted", || {
        last = seen();
        let all = |one: &BlockOperation| one.count >= before.count + SYNCS;
        Ok(last.clone().filter(all))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    let counted = after.count - before.count;
    println!("{counted} flushes of {SYNCS} syncs");
    assert!(counted <= SYNCS + 5);
    assert_eq!((after.bytes, after.errors), (0, 0));
    assert_eq!(after.latency.count(), after.count);
    assert!(after.latency.sum_ns() > before.latency.sum_ns());
}
