//! Shares of functions as Go's pprof reads them.

use ctrscope_tests::{Agent, measure::measured, workload::hot::HOT_FUNCTIONS};

use crate::{
    formats::{NO_GO, pprof, share, url},
    observe::group,
    profile::hot,
};

/// Difference of a share, in parts of one. In 3 s and 99 Hz on a thread the standard error of a share
/// of one half is 3 points.
const TOLERANCE: f64 = 0.1;

#[test]
fn go_reads_the_shares_of_hot_functions() {
    measured(|trial| {
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let container = hot(&group, 1);
        let url = url(&agent, &container, 3);
        let watch = trial.watch(agent.pid(), &group);
        let Some(top) = pprof(&["-top", "-nodecount=50"], &url) else {
            trial.skip(NO_GO);
            return;
        };
        watch.end();
        assert!(top.contains("Type: cpu"), "{top}");
        for (function, expected) in HOT_FUNCTIONS {
            let measured = share(&top, function);
            let measured = measured.unwrap_or_else(|| panic!("no {function} in:\n{top}"));
            trial.near(function, measured, expected, TOLERANCE);
        }
    });
}
