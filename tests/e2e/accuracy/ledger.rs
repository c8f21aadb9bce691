//! The wait ledger against a trace of every switch and wake-up of the same work, and against the kernel's own account of
//! throttling.

use std::{collections::HashMap, fs, process::Command, sync::Arc, time::Duration};

use ctrscope::diagnosis::facts::{ContainerFacts, Neighbour, WaitedFor};
use ctrscope_ebpf::ledger::{CONTAINER, QUOTA, WAKE_UP};
use ctrscope_tests::{
    Agent, Container, ContainerSpec, Group,
    measure::{Trial, measured},
    trace::{Recording, Waited, split_waits},
};
use tempfile::TempDir;

use crate::{
    degrade::kernel_version,
    facts::{facts_of, number},
    observe::{Reading, group},
};

/// Points of a share that agent and trace may differ by.
const POINTS: f64 = 3.0;
/// Part of a container's wait that may be nobody's, in points: at most what its shares may differ by.
const UNKNOWN: f64 = 3.0;
/// The same where slices last a few microseconds.
const UNKNOWN_OF_SHORT: f64 = 2.0;
/// Pairs of which another one has the place: of eleven containers on a CPU, two in a hundred are to be expected
/// (`ctrscope_ebpf::ledger::PAIRS`).
const UNNAMED: f64 = 6.0;
/// What the two ends of a wait may differ by: the scheduler reads its clock before it chooses a task, and not at all
/// where it has just read it for a wake-up (`rq_clock_skip_update`); the events come after that, and each takes time.
const ENDS_NS: u64 = 500;
/// Part of the quota's time that agent and account may differ by.
const QUOTA_TOLERANCE: f64 = 0.03;
/// Tasks that sleep.
const THREADS: &str = "3";
/// Of a kernel that was built with `CONFIG_HZ=250`; of most it is not longer.
const LONGEST_TICK_NS: u64 = 4_000_000;
/// Of less than this, a share is of single slices.
const ENOUGH_NS: u64 = 50_000_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// On the first CPU.
fn spec(name: &str, work: &[&str], seconds: &str) -> ContainerSpec {
    let work = [work, &["--seconds", seconds, "--cpu", "0"]].concat();
    ContainerSpec::new(name, &work).gated().held()
}

fn burn(name: &str, shares: u64) -> ContainerSpec {
    spec(name, &["burn"], "4").shares(shares)
}

/// Lets containers work to their ends, and gives what a trace has of that. `None` where there is none.
fn trace(
    trial: &Trial,
    agent: &Agent,
    group: &Group,
    containers: &[Container],
) -> Option<HashMap<String, Waited>> {
    let recording = match Recording::start() {
        Ok(recording) => recording,
        Err(error) => {
            trial.skip(&format!("{error:#}"));
            return None;
        }
    };
    let watch = trial.watch(agent.pid(), group);
    for container in containers {
        container.open_gate().unwrap();
    }
    for container in containers {
        container.wait_report(PATIENCE).unwrap();
    }
    watch.end();
    let tids = containers
        .iter()
        .map(|one| (one.name().to_owned(), one.tids().unwrap()));
    let tids = tids.collect();
    let Some(events) = recording.stop().unwrap() else {
        trial.skip("perf lost events");
        return None;
    };
    // They did nothing before and do nothing after.
    Some(split_waits(&events, &(0..u64::MAX), &tids))
}

fn start(group: &Arc<Group>, specs: &[ContainerSpec]) -> Vec<Container> {
    let start = |spec| Container::start(group, spec).unwrap();
    specs.iter().map(start).collect()
}

/// Compares who every container waited for.
fn compare(trial: &Trial, specs: &[ContainerSpec], most_unknown: f64) {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let containers = start(&group, specs);
    // The window begins before they do, and they waited while they started.
    let before = containers.iter().map(|one| facts_of(&agent, one).0);
    let before: Vec<_> = before.collect();
    let Some(traced) = trace(trial, &agent, &group, &containers) else {
        return;
    };
    let names: Vec<&str> = containers.iter().map(Container::name).collect();
    let (mut pairs, mut unnamed) = (0, 0);
    for (container, before) in containers.iter().zip(&before) {
        let (facts, _) = facts_of(&agent, container);
        let facts = [before, &facts];
        let waited = traced.get(container.name()).cloned().unwrap_or_default();
        if waited.ns >= ENOUGH_NS {
            pairs += waited.by.len();
            let name = container.name();
            unnamed += compare_one(trial, (name, &names), facts, &waited, most_unknown);
        }
    }
    let unnamed = 100.0 * unnamed as f64 / pairs as f64;
    trial.at_most("% of pairs that are not told by name", unnamed, UNNAMED);
}

/// Compares whom one of the containers waited for. Returns how many culprits have no name there.
fn compare_one(
    trial: &Trial,
    (name, names): (&str, &[&str]),
    facts: [&ContainerFacts; 2],
    traced: &Waited,
    most_unknown: f64,
) -> usize {
    let waited_for = |facts: &ContainerFacts| facts.cpu.waited_for.clone().unwrap_or_default();
    let [before, seen] = facts.map(waited_for);
    let [earlier, later] = facts.map(|facts| facts.cpu.waited_seconds.unwrap_or(0.0));
    let all_seconds = later - earlier;
    let seen_points = |seconds: f64| 100.0 * seconds / all_seconds;
    let points = |ns: u64| 100.0 * ns as f64 / traced.ns as f64;
    let allowed = POINTS + points(traced.count * ENDS_NS);
    println!("{name}: waited {all_seconds} s, {traced:?}");
    let near = |what: &str, seconds, ns| {
        let what = format!("{name}: % of its wait {what}");
        trial.near(&what, seen_points(seconds), points(ns), allowed);
    };
    let (mut unnamed, mut unnamed_ns) = (0, 0);
    for (who, ns) in &traced.by {
        let of = |waited: &WaitedFor| {
            let is_it = |one: &&Neighbour| one.name.rsplit('/').next() == Some(who.as_str());
            let found = waited.containers.iter().find(is_it);
            found.map(|one| one.seconds)
        };
        if who == name {
            near("for itself", seen.own_seconds - before.own_seconds, *ns);
        } else if let Some(seconds) = of(&seen) {
            near(
                &format!("for {who}"),
                seconds - of(&before).unwrap_or(0.0),
                *ns,
            );
        } else {
            unnamed += 1;
            unnamed_ns += ns;
        }
    }
    let more = seen.other_containers_seconds - before.other_containers_seconds;
    near("for containers without a name", more, unnamed_ns);
    // Whatever else runs here may be a container for the agent.
    let others = |of: &WaitedFor| {
        let is_foreign = |one: &&Neighbour| {
            let name = one.name.rsplit('/').next();
            name.is_some_and(|name| !names.contains(&name))
        };
        let foreign = of.containers.iter().filter(is_foreign);
        let foreign: f64 = foreign.map(|one| one.seconds).sum();
        of.system_seconds + of.kernel_seconds + of.idle_seconds + foreign
    };
    near(
        "for others",
        others(&seen) - others(&before),
        traced.others_ns + traced.idle_ns,
    );
    let unknown = seen_points(seen.unattributed_seconds - before.unattributed_seconds);
    let what = format!("{name}: % of its wait that is nobody's");
    trial.at_most(&what, unknown, most_unknown);
    unnamed
}

#[test]
fn a_wait_beside_one_culprit_is_whose_the_trace_says() {
    measured(|trial| compare(trial, &[burn("victim", 512), burn("heavy", 2048)], UNKNOWN));
}

#[test]
fn a_wait_beside_two_culprits_is_whose_the_trace_says() {
    measured(|trial| {
        let light = spec("light", &["burn", "--threads", "2"], "4").shares(256);
        let specs = [burn("victim", 1024), light, burn("heavy", 2048)];
        compare(trial, &specs, UNKNOWN);
    });
}

#[test]
fn a_wait_beside_ten_culprits_is_whose_the_trace_says() {
    measured(|trial| {
        let mut specs = vec![burn("victim", 512)];
        let culprits = (1..=10).map(|number| burn(&format!("culprit-{number}"), number * 128));
        specs.extend(culprits);
        compare(trial, &specs, UNKNOWN);
    });
}

#[test]
fn a_wait_beside_tasks_that_wake_each_other_is_whose_the_trace_says() {
    measured(|trial| {
        let pair = spec("pair", &["pingpong"], "2");
        let victim = spec("victim", &["burn"], "2").shares(512);
        compare(trial, &[victim, pair], UNKNOWN_OF_SHORT);
    });
}

#[test]
fn a_wait_beside_containers_that_wake_each_other_is_whose_the_trace_says() {
    measured(|trial| {
        let shared = TempDir::new_in("/var/tmp").unwrap();
        let fifos = ["there", "back"].map(|name| shared.path().join(name));
        assert!(
            Command::new("mkfifo")
                .args(&fifos)
                .status()
                .unwrap()
                .success()
        );
        let (there, back) = ("/data/there", "/data/back");
        let caller = ["pass", "--first", "--read", back, "--write", there];
        let caller = spec("caller", &caller, "2").data(shared.path());
        let echo = ["pass", "--read", there, "--write", back];
        let echo = spec("echo", &echo, "2").data(shared.path());
        let victim = spec("victim", &["burn"], "2").shares(512);
        compare(trial, &[victim, caller, echo], UNKNOWN_OF_SHORT);
    });
}

/// Nanoseconds that a container's cgroup, or its parent, was throttled.
fn throttled_ns(container: &Container, is_parents: bool) -> u64 {
    let own = container.cgroup_path("cpu").unwrap();
    let directory = if is_parents {
        own.parent().unwrap()
    } else {
        &own
    };
    let of_v2 = number(directory, "cpu.stat", "throttled_usec") * 1_000;
    of_v2.max(number(directory, "cpu.stat", "throttled_time"))
}

/// Periods in which a container's cgroup, or its parent, was throttled.
fn throttled_periods(container: &Container, is_parents: bool) -> u64 {
    let own = container.cgroup_path("cpu").unwrap();
    let directory = if is_parents {
        own.parent().unwrap()
    } else {
        &own
    };
    number(directory, "cpu.stat", "nr_throttled")
}

/// Limits the cgroup above.
fn limit_parent(container: &Container) {
    let own = container.cgroup_path("cpu").unwrap();
    let pod = own.parent().unwrap();
    if pod.join("cpu.cfs_quota_us").exists() {
        fs::write(pod.join("cpu.cfs_quota_us"), "30000").unwrap();
    } else {
        fs::write(pod.join("cpu.max"), "30000 100000").unwrap();
    }
}

fn capped(work: &[&str], is_parents: bool) -> ContainerSpec {
    let spec = spec("capped", work, "4").pod("pod");
    if is_parents {
        spec
    } else {
        spec.quota(30_000, 100_000)
    }
}

fn quota_since(before: &Reading, after: &Reading) -> f64 {
    (after.sched().causes_ns[QUOTA] - before.sched().causes_ns[QUOTA]) as f64
}

/// Two busy loops on one CPU wait whenever their cgroup is throttled, so each has all of what the kernel counts.
fn preempted(trial: &Trial, is_parents: bool, has_neighbour: bool) {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let spec = capped(&["burn", "--threads", "2"], is_parents);
    let mut containers = vec![Container::start(&group, &spec).unwrap()];
    if has_neighbour {
        containers.push(Container::start(&group, &burn("neighbour", 1024)).unwrap());
    }
    let capped = &containers[0];
    if is_parents {
        limit_parent(capped);
    }
    let before = Reading::take(&agent, capped);
    let throttled = throttled_ns(capped, is_parents);
    let watch = trial.watch(agent.pid(), &group);
    for container in &containers {
        container.open_gate().unwrap();
    }
    for container in &containers {
        container.wait_report(PATIENCE).unwrap();
    }
    watch.end();
    let seen = quota_since(&before, &Reading::take(&agent, capped));
    let account = 2.0 * (throttled_ns(capped, is_parents) - throttled) as f64;
    trial.near(
        "ns waited for the quota",
        seen,
        account,
        QUOTA_TOLERANCE * account,
    );
}

#[test]
fn what_two_busy_tasks_wait_for_a_quota_is_twice_what_the_kernel_throttled() {
    measured(|trial| preempted(trial, false, false));
}

#[test]
fn what_busy_tasks_wait_for_a_quota_beside_a_neighbour_is_what_the_kernel_throttled() {
    measured(|trial| preempted(trial, false, true));
}

#[test]
fn what_busy_tasks_wait_for_the_quota_above_is_what_the_kernel_throttled() {
    measured(|trial| preempted(trial, true, true));
}

/// Whether the kernel's account of throttling has queues in it on which nobody waited: before 6.6
/// (`throttled_clock_self_time`).
fn counts_empty_queues() -> bool {
    kernel_version() < (6, 6)
}

/// Beside a task of so little weight that it has the CPU only while the cgroup is throttled, or asleep, and until the
/// next tick after that: nobody takes the CPU from it when the throttling ends (`unthrottle_cfs_rq`,
/// `kernel/sched/fair.c`), and that tick is no quota's.
fn woken(trial: &Trial, is_parents: bool) {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let mut work = vec!["sleep-burn", "--threads", THREADS];
    work.extend(["--burn-ms", "3", "--sleep-ms", "7"]);
    let specs = [capped(&work, is_parents), burn("filler", 2)];
    let containers = start(&group, &specs);
    let capped = &containers[0];
    if is_parents {
        limit_parent(capped);
    }
    let before = Reading::take(&agent, capped);
    let throttles = throttled_periods(capped, is_parents);
    let Some(traced) = trace(trial, &agent, &group, &containers) else {
        return;
    };
    let after = Reading::take(&agent, capped);
    let throttles = throttled_periods(capped, is_parents) - throttles;
    let waited = &traced["capped"];
    println!("{waited:?}");
    let filler = waited.by.get("filler").copied().unwrap_or(0);
    // On an emulated machine each wait is a tenth longer by the scheduler's clock than from one event to the other.
    let run_queue_ns = |reading: &Reading| reading.sched().run_queue.sum_ns();
    let longer = (run_queue_ns(&after) - run_queue_ns(&before)) as f64 / waited.ns as f64;
    let account = (filler + waited.idle_ns) as f64 * longer;
    let since = |cause: usize| {
        let of = |reading: &Reading| reading.sched().causes_ns[cause];
        (of(&after) - of(&before)) as f64
    };
    let quota = since(QUOTA);
    let what = "ns waited for the quota, the filler and a CPU that is woken";
    let all = quota + since(CONTAINER) + since(WAKE_UP);
    trial.near(what, all, account, QUOTA_TOLERANCE * account);
    // Half of what the ticks can have, give or take as much.
    let threads: u64 = THREADS.parse().unwrap();
    let ticks = (throttles * threads * LONGEST_TICK_NS) as f64 / 2.0;
    let allowed = QUOTA_TOLERANCE * account + ticks;
    if is_parents && counts_empty_queues() {
        // When it began to throttle a queue without tasks is not known there, and then it has no part.
        trial.at_most("ns waited for the quota", quota, account - ticks + allowed);
    } else {
        trial.near("ns waited for the quota", quota, account - ticks, allowed);
    }
}

#[test]
fn what_tasks_that_sleep_wait_for_a_quota_is_what_the_trace_says() {
    measured(|trial| woken(trial, false));
}

#[test]
fn what_tasks_that_sleep_wait_for_the_quota_above_is_what_the_trace_says() {
    measured(|trial| woken(trial, true));
}
