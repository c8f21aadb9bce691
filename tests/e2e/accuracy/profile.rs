//! Shares of a flame graph's functions.

use ctrscope_tests::{Agent, measure::measured, workload::hot::HOT_FUNCTIONS};

use crate::{
    observe::group,
    profile::{assert_rooted, hot, name, record, share, stacks},
};

/// Difference of a share, in parts of one. At 99 Hz and 10 s on two threads
/// the statistical error of a share of one half is below 1.2 points.
const TOLERANCE: f64 = 0.05;

#[test]
fn hot_functions_of_a_container_appear_with_their_shares() {
    measured(|trial| {
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let container = hot(&group, 2);
        let name = name(&agent, &container);
        let watch = trial.watch(agent.pid(), &group);
        let folded = record(&agent, &container, "folded", 10);
        watch.end();
        assert_rooted(&folded, &name);
        // Two threads, ten seconds, 99 Hz: 1,980, less what other tenants of the CPUs took.
        let total: u64 = stacks(&folded).map(|(_, count)| count).sum();
        assert!(total > 300, "only {total} samples:\n{folded}");
        for (function, expected) in HOT_FUNCTIONS {
            let measured = share(&folded, |frame| frame == function);
            trial.near(function, measured, expected, TOLERANCE);
        }
    });
}
