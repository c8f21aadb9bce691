//! How much of a profile has the names that it should have.

use ctrscope_tests::{
    Agent, Container, ContainerSpec,
    measure::{Trial, measured},
    workload::mangled::{CPP_FUNCTION, RUST_FUNCTION},
};

use crate::{
    observe::{group, wait_seen},
    profile::{record, share},
    symbols::{NO_STRIP, assert_demangled, is_jitted, is_offset, stripped},
};

/// Part of the samples that may lack it: those of the loop around the function, and of the program's start.
const WITHOUT: f64 = 0.1;
/// Difference of a share of one half. In 3 s and 99 Hz on a thread the standard error is 3 points.
const TOLERANCE: f64 = 0.1;

/// Records a container for three seconds.
fn folded(trial: &Trial, spec: &ContainerSpec) -> String {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let container = Container::start(&group, spec).unwrap();
    wait_seen(&agent, &container);
    let watch = trial.watch(agent.pid(), &group);
    let folded = record(&agent, &container, "folded", 3);
    watch.end();
    folded
}

#[test]
fn nearly_all_samples_of_a_jit_have_its_name() {
    measured(|trial| {
        let folded = folded(trial, &ContainerSpec::new("jit", &["jit"]));
        let without = 1.0 - share(&folded, is_jitted);
        trial.at_most("samples without the name", without, WITHOUT);
    });
}

#[test]
fn two_functions_with_mangled_names_have_half_each() {
    measured(|trial| {
        let folded = folded(trial, &ContainerSpec::new("mangled", &["mangled"]));
        for function in [CPP_FUNCTION, RUST_FUNCTION] {
            let share = share(&folded, |frame| frame == function);
            trial.near(function, share, 0.5, TOLERANCE);
        }
        assert_demangled(&folded);
    });
}

#[test]
fn nearly_all_samples_of_a_stripped_binary_are_offsets_in_it() {
    measured(|trial| {
        let Some((_directory, binary)) = stripped() else {
            trial.skip(NO_STRIP);
            return;
        };
        let spec = ContainerSpec::new("stripped", &["burn"]).binary(&binary);
        let without = 1.0 - share(&folded(trial, &spec), is_offset);
        trial.at_most("samples without an offset", without, WITHOUT);
    });
}
