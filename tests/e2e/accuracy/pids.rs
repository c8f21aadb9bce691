//! Pids used again, and entries of the task table taken over: neither may invent wait.

use std::time::Duration;

use ctrscope_tests::{
    Agent, Container, ContainerSpec,
    measure::{Trial, measured},
};

use crate::observe::{Reading, group, leniency, record_sched, snapshot, wait_seen};

const PATIENCE: Duration = Duration::from_secs(240);
/// More than the task table has entries (65,536): every entry is taken over, and where
/// `kernel.pid_max` is its default of 32,768 on a small machine every free pid comes up twice.
const FORKS: u64 = 70_000;
/// Main thread, worker and one child at a time, of which the child is the only one that is not
/// there all the time.
const FORKER_TASKS: u64 = 3;

#[test]
fn pids_used_again_invent_no_wait() {
    measured(use_pids_again);
}

fn use_pids_again(trial: &Trial) {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    // Asleep most of the time: the longer a task is away, the more an entry of somebody else's
    // would add. Its threads live on, so that the kernel's account of them can be read.
    let sleepers = ["many-threads", "--threads", "50", "--seconds", "10"];
    let sleepers = ContainerSpec::new("sleepers", &sleepers).gated().held();
    let sleepers = Container::start(&group, &sleepers).unwrap();
    let before = Reading::take(&agent, &sleepers);
    let watch = trial.watch(agent.pid(), &group);
    sleepers.open_gate().unwrap();

    // An emulated machine forks slowly; half of them still bring up every pid of the default.
    let forks = FORKS / leniency();
    let count = forks.to_string();
    let forker = ContainerSpec::new("forker", &["fork", "--count", &count]).held();
    let began = std::time::Instant::now();
    let forker = Container::start(&group, &forker).unwrap();
    let report = forker.wait_report(PATIENCE).unwrap();
    assert_eq!(report["workers"][0]["children"], forks);
    let forked = wait_seen(&agent, &forker).counters.sched.unwrap();
    let lived_ns = u64::try_from(began.elapsed().as_nanos()).unwrap();
    println!("{forks} children in {:.1} s", lived_ns as f64 / 1e9);

    // A task is in one state at a time: all of them together cannot outdo the clock.
    let states = forked.run_queue.sum_ns()
        + forked.on_cpu_ns
        + forked.off_cpu_sleep_ns
        + forked.off_cpu_io_ns
        + forked.off_cpu_uninterruptible_ns;
    println!(
        "forker: {:.1} task-seconds in all states",
        states as f64 / 1e9
    );
    assert!(
        states <= lived_ns * FORKER_TASKS,
        "{forked:?} in {lived_ns} ns"
    );
    let bounded = forked.run_queue.quantile_seconds(1.0).unwrap_or(0.0) * 1e9;
    assert!(bounded <= 2.0 * lived_ns as f64, "a wait of {bounded} ns");

    sleepers.wait_report(PATIENCE).unwrap();
    watch.end();
    let after = Reading::take(&agent, &sleepers);
    record_sched(trial, "sleepers", &before, &after);
    let losses = snapshot(&agent).agent.losses;
    for loss in losses.iter().filter(|loss| loss.count > 0) {
        println!("{} {}: {}", loss.kind, loss.reason, loss.count);
    }
    // What does not fit is discarded, and said.
    for reason in ["run_queue_negative", "off_cpu_negative"] {
        let found = losses.iter().find(|loss| loss.reason == reason);
        assert_eq!(found.expect(reason).kind, "discarded");
    }
}
