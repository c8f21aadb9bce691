//! Who preempted whom, what that cost, and blocked time, against a trace of every switch and wake-up of the same
//! seconds.

use std::{collections::HashMap, thread, time::Duration};

use ctrscope::snapshot::{SchedStats, Snapshot};
use ctrscope_tests::{
    Agent, Container, ContainerSpec,
    measure::{Trial, measured},
    trace::{Recording, monotonic_ns, sum_up},
};

use crate::observe::{entry, group, snapshot, wait_seen};

/// Part of a number that the two may differ by: they have their times from two clocks.
const TOLERANCE: f64 = 0.02;
/// What they may differ by whatever the number is: the snapshot and the ends of the window are not of the very same
/// moment.
const EDGE: f64 = 10.0;
const EDGE_NS: f64 = 20e6;

/// Two busy loops and one that sleeps often, on one CPU: each takes it from the others. It is never idle, for some
/// virtual machines let `perf` see no switch that ends an idle time.
#[test]
fn preemptions_and_blocked_time_agree_with_a_trace() {
    measured(compare);
}

/// A snapshot, and when it was taken.
fn look(agent: &Agent) -> (u64, Snapshot) {
    // The agent may wait until its last one is not young any more, and takes it then.
    let snapshot = snapshot(agent);
    (monotonic_ns(), snapshot)
}

fn sched<'a>(snapshot: &'a Snapshot, container: &Container) -> &'a SchedStats {
    let seen = entry(snapshot, container.cgroup()).expect("the container");
    seen.counters.sched.as_ref().expect("scheduler numbers")
}

fn compare(trial: &Trial) {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let recording = match Recording::start() {
        Ok(recording) => recording,
        Err(error) => {
            trial.skip(&format!("{error:#}"));
            return;
        }
    };
    let mut sleeper = vec!["sleep-burn", "--threads", "2", "--cpu", "0"];
    sleeper.extend(["--burn-ms", "3", "--sleep-ms", "7"]);
    let work: [(&str, &[&str]); 3] = [
        ("pair", &["burn", "--threads", "2", "--cpu", "0"]),
        ("single", &["burn", "--threads", "1", "--cpu", "0"]),
        ("sleeper", &sleeper),
    ];
    let containers =
        work.map(|(name, work)| Container::start(&group, &ContainerSpec::new(name, work)).unwrap());
    for container in &containers {
        wait_seen(&agent, container);
    }
    let watch = trial.watch(agent.pid(), &group);
    let (begin, before) = look(&agent);
    thread::sleep(Duration::from_secs(5));
    let (end, after) = look(&agent);
    watch.end();
    let tids: HashMap<String, Vec<u32>> = containers
        .iter()
        .map(|one| (one.name().to_owned(), one.tids().unwrap()))
        .collect();
    let Some(events) = recording.stop().unwrap() else {
        trial.skip("perf lost events");
        return;
    };
    let sums = sum_up(&events, &(begin..end), &tids);
    for container in &containers {
        let name = container.name();
        let traced = sums.get(name).copied().unwrap_or_default();
        let (new, old) = (sched(&after, container), sched(&before, container));
        // The system's and the kernel's together: the trace knows neither.
        let by = |of: &[u64; 5]| [of[0], of[1], of[2] + of[3] + of[4]];
        let (now, then) = (by(&new.preemptions), by(&old.preemptions));
        let (wait_now, wait_then) = (by(&new.preempted_wait_ns), by(&old.preempted_wait_ns));
        for (index, who) in ["self", "container", "others"].into_iter().enumerate() {
            let seen = (now[index] - then[index]) as f64;
            let account = traced.preemptions[index] as f64;
            let allowed = TOLERANCE * account + EDGE;
            trial.near(
                &format!("{name}: preemptions by {who}"),
                seen,
                account,
                allowed,
            );
            let seen = (wait_now[index] - wait_then[index]) as f64;
            let account = traced.preempted_wait_ns[index] as f64;
            let allowed = TOLERANCE * account + EDGE_NS;
            let what = format!("{name}: ns of wait after preemptions by {who}");
            trial.near(&what, seen, account, allowed);
        }
        let blocked = |of: &SchedStats| {
            of.off_cpu_sleep_ns + of.off_cpu_io_ns + of.off_cpu_uninterruptible_ns
        };
        let seen = (blocked(new) - blocked(old)) as f64;
        let account = traced.blocked_ns as f64;
        let allowed = TOLERANCE * account + EDGE_NS;
        trial.near(&format!("{name}: ns blocked"), seen, account, allowed);
    }
}
