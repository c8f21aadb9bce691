//! The harness itself: accounts and shares of what it starts, and how much a workload does.

use ctrscope_tests::{Container, measure::measured, workload::hot::HOT_FUNCTIONS};

use crate::{
    container::{PATIENCE, held, play, spawn},
    observe::group,
};

/// Of CPU time, between the kernel's accounts of threads and of their cgroup.
const TOLERANCE: f64 = 0.01;
/// Of a thread's CPU time, in each hot function: half of the last call, and readings of the clock.
const TOLERANCE_OF_SHARES: f64 = 0.02;

#[test]
fn accounts_of_a_held_container_agree_with_each_other() {
    measured(|trial| {
        let group = group();
        let container = Container::start(&group, &held()).unwrap();
        let (threads, usage) = (
            container.thread_accounts().unwrap(),
            container.cpu_usage_ns().unwrap(),
        );
        // There is no agent; what the test itself uses counts once more, which is nearly nothing.
        let watch = trial.watch(std::process::id(), &group);
        container.open_gate().unwrap();
        let report = container.wait_report(PATIENCE).unwrap();
        watch.end();
        let threads = container.thread_accounts().unwrap().since(&threads);
        let usage = (container.cpu_usage_ns().unwrap() - usage) as f64;
        trial.near(
            "on-CPU ns of threads against the cgroup",
            threads.on_cpu_ns as f64,
            usage,
            usage * TOLERANCE,
        );
        for worker in report["workers"].as_array().unwrap() {
            let spent: Vec<f64> = worker["hot_ns"]
                .as_array()
                .unwrap()
                .iter()
                .map(|ns| ns.as_f64().unwrap())
                .collect();
            let total: f64 = spent.iter().sum();
            for (spent, (name, share)) in spent.iter().zip(HOT_FUNCTIONS) {
                trial.near(name, spent / total, share, TOLERANCE_OF_SHARES);
            }
        }
        container.stop().unwrap();
    });
}

#[test]
fn a_pingpong_is_a_thousand_times_a_second() {
    let (loops, threads) = play(&group());
    assert!(loops > 1_000);
    assert!(threads.voluntary >= loops, "{threads:?}, {loops} loops");
}

#[test]
fn children_live_a_few_milliseconds() {
    assert!(spawn(&group()) > 3);
}
