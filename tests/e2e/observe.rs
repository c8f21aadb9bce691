//! What the agent says and what the kernel says, over the same stretch of work.

use std::{sync::Arc, time::Duration};

use ctrscope::snapshot::{Container as Seen, SchedStats, Snapshot};
pub(crate) use ctrscope_tests::measure::leniency;
use ctrscope_tests::{
    Agent, Container, Group, accounts::ThreadAccounts, measure::Trial, wait_until,
};

/// From the making of a cgroup to its entry in a snapshot, on a machine that has other work as well.
const SEEN_PATIENCE: Duration = Duration::from_secs(60);
/// From the end of the work to the sleep of all threads, there.
const IDLE_PATIENCE: Duration = Duration::from_secs(60);

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
            let sched = wait_seen(agent, container)
                .counters
                .sched
                .expect("sched collector");
            let is_idle = container.thread_accounts()? == threads;
            Ok(is_idle.then_some(Self {
                sched,
                threads,
                usage_ns,
            }))
        })
        .unwrap()
    }

    /// What the agent said.
    pub(crate) fn sched(&self) -> &SchedStats {
        &self.sched
    }

    /// What its threads waited for a CPU by `schedstat` since an earlier reading.
    pub(crate) fn delay_since(&self, earlier: &Self) -> Duration {
        Duration::from_nanos(self.threads.since(&earlier.threads).run_delay_ns)
    }

    /// CPU time by the cgroup's account since an earlier reading, nanoseconds.
    pub(crate) fn usage_since(&self, earlier: &Self) -> u64 {
        self.usage_ns - earlier.usage_ns
    }
}

/// Relative tolerance: the accuracy that the agent promises.
const TOLERANCE: f64 = 0.01;
/// Absolute tolerance of times, for sums so small that one percent of them is less than a slice:
/// where switches are not traced, one of which neither end was is in nobody's sum.
const TOLERANCE_NS: u64 = 5_000_000;
/// The same for counts.
const TOLERANCE_COUNT: u64 = 10;

/// A number that both say was added between two readings.
struct Added {
    what: &'static str,
    seen: u64,
    account: u64,
    /// What they may differ in, however small the account is.
    floor: u64,
}

impl Added {
    fn allowed(&self) -> u64 {
        self.floor.max((self.account as f64 * TOLERANCE) as u64)
    }
}

fn added(before: &Reading, after: &Reading) -> [Added; 5] {
    let threads = after.threads.since(&before.threads);
    let (new, old) = (&after.sched, &before.sched);
    let run_queue = new.run_queue.since(&old.run_queue);
    let number = |what, seen, account, floor| Added {
        what,
        seen,
        account,
        floor,
    };
    [
        number(
            "on-CPU ns against the cgroup",
            new.on_cpu_ns - old.on_cpu_ns,
            after.usage_since(before),
            TOLERANCE_NS,
        ),
        number(
            "run queue ns",
            run_queue.sum_ns(),
            threads.run_delay_ns,
            TOLERANCE_NS,
        ),
        number(
            "dispatches",
            run_queue.count(),
            threads.dispatches,
            TOLERANCE_COUNT,
        ),
        number(
            "voluntary switches",
            new.voluntary - old.voluntary,
            threads.voluntary,
            TOLERANCE_COUNT,
        ),
        number(
            "involuntary switches",
            new.involuntary - old.involuntary,
            threads.involuntary,
            TOLERANCE_COUNT,
        ),
    ]
}

/// Compares what both say was added between two readings.
pub(crate) fn assert_sched_agrees(name: &str, before: &Reading, after: &Reading) {
    for number in added(before, after) {
        let (what, seen, account) = (number.what, number.seen, number.account);
        let allowed = leniency() * number.allowed();
        let difference = seen.abs_diff(account);
        println!(
            "{name}: {what}: agent {seen}, kernel {account}, difference {difference} of {allowed}"
        );
        assert!(
            difference <= allowed,
            "{name}: {what}: the agent says {seen}, the kernel {account}; allowed is {allowed}"
        );
    }
}

/// Records what both say was added between two readings, with the tolerances of [`assert_sched_agrees`].
pub(crate) fn record_sched(trial: &Trial, name: &str, before: &Reading, after: &Reading) {
    for number in added(before, after) {
        trial.near(
            &format!("{name}: {}", number.what),
            number.seen as f64,
            number.account as f64,
            number.allowed() as f64,
        );
    }
}
