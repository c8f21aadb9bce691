//! What the agent says and what the kernel says, over the same stretch of work.

use std::{sync::Arc, time::Duration};

use ctrscope::snapshot::{Container as Seen, SchedStats, Snapshot};
pub(crate) use ctrscope_tests::measure::leniency;
use ctrscope_tests::{Agent, Container, Group, accounts::ThreadAccounts, wait_until};

/// From the making of a cgroup to its entry in a snapshot.
const SEEN_PATIENCE: Duration = Duration::from_secs(10);
/// From the end of the work to the sleep of all threads.
const IDLE_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn group() -> Arc<Group> {
    Arc::new(Group::new("ctrscope-test").unwrap())
}

/// A snapshot taken after this call began.
pub(crate) fn snapshot(agent: &Agent) -> Snapshot {
    let json = agent.snapshot_json().unwrap();
    serde_json::from_value(json).expect("the JSON of /api/v1/containers is a snapshot")
}

/// The entry of a cgroup, live or exited.
pub(crate) fn entry<'a>(snapshot: &'a Snapshot, cgroup: &str) -> Option<&'a Seen> {
    snapshot
        .containers
        .iter()
        .find(|seen| seen.identity.cgroup == cgroup)
}

/// Waits until the agent has an entry for a container.
pub(crate) fn wait_seen(agent: &Agent, container: &Container) -> Seen {
    wait_until(SEEN_PATIENCE, "the container in a snapshot", || {
        Ok(entry(&snapshot(agent), container.cgroup()).cloned())
    })
    .unwrap()
}

/// Both views of a container at one instant.
pub(crate) struct Reading {
    sched: SchedStats,
    threads: ThreadAccounts,
    usage_ns: u64,
}

impl Reading {
    /// Reads both while the workload waits (gated or held): the kernel's account is the same before
    /// and after the snapshot, so the snapshot is of that very state. What it may still have to do,
    /// such as going to sleep after its report, is waited for.
    pub(crate) fn take(agent: &Agent, container: &Container) -> Self {
        wait_until(IDLE_PATIENCE, "an idle workload", || {
            let threads = container.thread_accounts()?;
            let usage_ns = container.cpu_usage_ns()?;
            let sched = wait_seen(agent, container).sched.expect("sched collector");
            let is_idle = container.thread_accounts()? == threads;
            Ok(is_idle.then_some(Self {
                sched,
                threads,
                usage_ns,
            }))
        })
        .unwrap()
    }
}

/// Relative tolerance: what the issue asks for.
const TOLERANCE: f64 = 0.01;
/// Absolute tolerance of times, for sums so small that one percent of them is less than a slice:
/// where switches are not traced, one of which neither end was is in nobody's sum.
const TOLERANCE_NS: u64 = 5_000_000;
/// The same for counts.
const TOLERANCE_COUNT: u64 = 10;

fn assert_near(what: &str, seen: u64, account: u64, floor: u64) {
    let allowed = leniency() * floor.max((account as f64 * TOLERANCE) as u64);
    let difference = seen.abs_diff(account);
    println!("{what}: agent {seen}, kernel {account}, difference {difference} of {allowed}");
    assert!(
        difference <= allowed,
        "{what}: the agent says {seen}, the kernel {account}; allowed is {allowed}"
    );
}

/// Compares what both say was added between two readings.
pub(crate) fn assert_sched_agrees(name: &str, before: &Reading, after: &Reading) {
    let threads = after.threads.since(&before.threads);
    let (new, old) = (&after.sched, &before.sched);
    let run_queue = new.run_queue.since(&old.run_queue);
    let near = |what: &str, seen, account, floor| {
        assert_near(&format!("{name}: {what}"), seen, account, floor);
    };
    near(
        "on-CPU ns against the cgroup",
        new.on_cpu_ns - old.on_cpu_ns,
        after.usage_ns - before.usage_ns,
        TOLERANCE_NS,
    );
    near(
        "run queue ns",
        run_queue.sum_ns(),
        threads.run_delay_ns,
        TOLERANCE_NS,
    );
    near(
        "dispatches",
        run_queue.count(),
        threads.dispatches,
        TOLERANCE_COUNT,
    );
    near(
        "voluntary switches",
        new.voluntary - old.voluntary,
        threads.voluntary,
        TOLERANCE_COUNT,
    );
    near(
        "involuntary switches",
        new.involuntary - old.involuntary,
        threads.involuntary,
        TOLERANCE_COUNT,
    );
}
