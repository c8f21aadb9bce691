//! Scheduler numbers against `schedstat`, `status` and the cgroup's CPU account, over ten seconds of work.

use std::time::Duration;

use ctrscope::snapshot::Snapshot;
use ctrscope_tests::{Agent, Container, ContainerSpec, measure::measured};

use crate::{
    observe::{group, record_sched, snapshot, wait_seen},
    sched::SideBySide,
};

/// Runs containers side by side and compares each with its own accounts.
fn compare(specs: &[ContainerSpec]) {
    measured(|trial| {
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let run = SideBySide::start(&agent, &group, specs);
        let watch = trial.watch(agent.pid(), &group);
        run.work();
        watch.end();
        run.compare(&agent, |name, before, after| {
            record_sched(trial, name, before, after);
        });
    });
}

#[test]
fn one_container_with_contention_agrees_with_the_kernel() {
    let burn = ["burn", "--threads", "3", "--seconds", "10", "--cpu", "0"];
    compare(&[ContainerSpec::new("burn", &burn)]);
}

#[test]
fn frequent_switches_agree_with_the_kernel() {
    let pingpong = ["pingpong", "--seconds", "10", "--cpu", "0"];
    compare(&[ContainerSpec::new("pingpong", &pingpong)]);
}

/// Threads that sleep after each byte, free to use all CPUs: a CPU often goes idle after one of them,
/// and the time in which it first looks for work elsewhere is nobody's.
#[test]
fn a_container_that_sleeps_often_agrees_with_the_kernel() {
    compare(&[ContainerSpec::new(
        "sleepy",
        &["pingpong", "--seconds", "10"],
    )]);
}

/// More threads than CPUs, unpinned: the load balancer moves waiting tasks.
#[test]
fn migrated_waiters_lose_none_of_their_wait() {
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = (cpus * 3 + 1).to_string();
    let burn = ["burn", "--threads", &threads, "--seconds", "10"];
    compare(&[ContainerSpec::new("burn", &burn)]);
}

#[test]
fn containers_side_by_side_keep_their_own_accounts() {
    let bully = ["burn", "--threads", "3", "--seconds", "10", "--cpu", "0"];
    let victim = [
        "sleep-burn",
        "--burn-ms",
        "2",
        "--sleep-ms",
        "5",
        "--seconds",
        "10",
        "--cpu",
        "0",
    ];
    let bystander = [
        "sleep-burn",
        "--burn-ms",
        "1",
        "--sleep-ms",
        "20",
        "--seconds",
        "10",
    ];
    compare(&[
        ContainerSpec::new("bully", &bully),
        ContainerSpec::new("victim", &victim),
        ContainerSpec::new("bystander", &bystander),
    ]);
}

#[test]
fn a_capped_container_agrees_with_the_kernel() {
    let burn = ["burn", "--threads", "2", "--seconds", "10"];
    compare(&[ContainerSpec::new("capped", &burn).quota(30_000, 100_000)]);
}

/// A real-time task alone would never switch; a burner on its own CPU hardly does. Its time must
/// show at each scrape, not only when it leaves the CPU.
#[test]
fn a_running_slice_shows_at_each_scrape() {
    /// CPU time that a scrape may be behind the cgroup's own account.
    const BEHIND_NS: f64 = 50e6;
    measured(|trial| {
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let last_cpu = std::thread::available_parallelism()
            .map_or(0, |n| n.get() - 1)
            .to_string();
        let burn = ["burn", "--cpu", &last_cpu];
        let container = Container::start(&group, &ContainerSpec::new("burn", &burn)).unwrap();
        wait_seen(&agent, &container);
        // The agent counts from its first sight of the container: compare what is added.
        let read = || {
            let earliest = container.cpu_usage_ns().unwrap();
            let seen = wait_seen(&agent, &container)
                .counters
                .sched
                .unwrap()
                .on_cpu_ns;
            (earliest, seen, container.cpu_usage_ns().unwrap())
        };
        let _watch = trial.watch(agent.pid(), &group);
        let first = read();
        for second in 1..=5 {
            std::thread::sleep(Duration::from_secs(1));
            let next = read();
            let seen = next.1 - first.1;
            // The scrape lies between the two readings of the account around it.
            let (least, most) = (next.0 - first.2, next.2 - first.0);
            println!("seen {seen} ns, account between {least} and {most} ns");
            trial.near(
                &format!("on-CPU ns after {second} s"),
                seen as f64,
                seen.clamp(least, most) as f64,
                BEHIND_NS,
            );
        }
    });
}

#[test]
fn the_idle_task_is_never_counted() {
    /// Part of all CPU time that the two accounts may differ by: `/proc/stat` counts in ticks, and
    /// is not read at the same instant as the snapshot.
    const TOLERANCE: f64 = 0.05;
    measured(|trial| {
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let watch = trial.watch(agent.pid(), &group);
        // The idle time is that of a part of the time between the snapshots, however long they take.
        let (before, idle_before) = (snapshot(&agent), idle_ns());
        std::thread::sleep(Duration::from_secs(4));
        let (idle_after, after) = (idle_ns(), snapshot(&agent));
        watch.end();
        let total = |snapshot: &Snapshot| -> u64 {
            snapshot
                .containers
                .iter()
                .filter_map(|seen| Some(seen.counters.sched.as_ref()?.on_cpu_ns))
                .sum()
        };
        let all = (after.taken_at_ns - before.taken_at_ns) * u64::from(after.host.cpus);
        let idle = idle_after - idle_before;
        if (idle as f64) < all as f64 * 2.0 * TOLERANCE {
            trial.skip("no CPU was idle, so the idle task cannot be told from others");
            return;
        }
        let busy = total(&after).saturating_sub(total(&before));
        println!("busy {busy} ns, idle {idle} ns of {all} ns");
        trial.at_most(
            "busy and idle ns",
            (busy + idle) as f64,
            all as f64 * (1.0 + TOLERANCE),
        );
    });
}

/// Time that all CPUs were idle since boot, waiting for disks included.
fn idle_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks: u64 = stat
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .skip(4)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    // USER_HZ is 100 on every architecture that Rust knows.
    ticks * 10_000_000
}
