//! Block I/O against the kernel's account of the cgroup.

mod coverage;
mod writeback;

use std::{fs::File, io::Write as _, time::Duration};

use ctrscope::snapshot::{BlockStats, Operation};
use ctrscope_tests::{Agent, Container, ContainerSpec, bpf, skip, wait_until};
use serde_json::Value;
use tempfile::TempDir;

use crate::observe::{group, snapshot, wait_seen};

const PATIENCE: Duration = Duration::from_secs(60);
/// From the end of the work until both have counted all of it.
const SETTLED_PATIENCE: Duration = Duration::from_secs(5);
/// Size of the file and bytes moved each way.
const BYTES: u64 = 64 << 20;
/// One block of the file system, which lies in one piece: a larger one may lie in two that touch, which
/// are two bios, as the kernel counts, but one request, as the agent does.
const BLOCK: u64 = 4096;

fn of(stats: &BlockStats, operation: Operation) -> (u64, u64) {
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
    fn keys(value: &Value) -> u64 {
        match value {
            Value::Array(list) => list.iter().map(keys).sum(),
            Value::Object(entry) if entry.contains_key("key") => 1,
            Value::Object(entry) => entry.values().map(keys).sum(),
            _ => 0,
        }
    }
    keys(&bpf::dump(agent.pid(), "REQUESTS").unwrap())
}

#[test]
fn direct_io_is_charged_to_the_byte() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    // Not under /tmp, which is memory on many hosts.
    let data = TempDir::new_in("/var/tmp").unwrap();
    let mut file = File::create(data.path().join("file")).unwrap();
    file.write_all(&vec![1; usize::try_from(BYTES).unwrap()])
        .unwrap();
    // What stayed dirty in the cache would be written on the account of the first direct read.
    file.sync_all().unwrap();
    let (bytes, block) = (BYTES.to_string(), BLOCK.to_string());
    let work = [
        "read-write-direct",
        "--file",
        "/data/file",
        "--random",
        "--size",
        &bytes,
        "--bytes",
        &bytes,
        "--block",
        &block,
    ];
    let spec = ContainerSpec::new("direct", &work)
        .data(data.path())
        .gated()
        .held();
    let container = Container::start(&group, &spec).unwrap();
    let before = wait_seen(&agent, &container)
        .block
        .expect("block collector");
    let unseen_before = unseen_completions(&agent);
    let account_before = container.block_accounts().unwrap();
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
    // A completion that no tracepoint showed counts when its request is used again.
    let after = wait_until(SETTLED_PATIENCE, "the last request is counted", || {
        let after = wait_seen(&agent, &container).block.unwrap();
        let equal = |&(operation, bytes, count)| added(&after, operation) == (bytes, count);
        if !kernel.iter().all(equal) {
            file.write_all(&[2; 4096])?;
            file.sync_all()?;
            return Ok(None);
        }
        Ok(Some(after))
    })
    .unwrap_or_else(|_| wait_seen(&agent, &container).block.unwrap());
    let unseen = unseen_completions(&agent) - unseen_before;
    // None where every completion is traced.
    let held = requests_held(&agent);
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
fn a_neighbour_without_io_is_charged_nothing() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let data = TempDir::new_in("/var/tmp").unwrap();
    let quiet = Container::start(&group, &ContainerSpec::new("quiet", &["burn"])).unwrap();
    let work = [
        "write-direct",
        "--file",
        "/data/file",
        "--size",
        "1048576",
        "--bytes",
        "16777216",
    ];
    let spec = ContainerSpec::new("writer", &work)
        .data(data.path())
        .gated()
        .held();
    let writer = Container::start(&group, &spec).unwrap();
    let before = wait_seen(&agent, &quiet).block.unwrap();
    writer.open_gate().unwrap();
    writer.wait_report(PATIENCE).unwrap();
    assert!(wait_seen(&agent, &writer).block.unwrap().bytes() >= 16 << 20);
    assert_eq!(
        wait_seen(&agent, &quiet).block.unwrap().bytes(),
        before.bytes()
    );
}
