//! Names of frames: code of a JIT, mangled names, and what a stripped binary leaves.

use std::{process::Command, time::Duration};

use ctrscope_tests::{
    Agent, Container, ContainerSpec, binaries, skip,
    workload::{
        jit::JIT_FUNCTION,
        mangled::{CPP_FUNCTION, RUST_FUNCTION},
    },
};
use tempfile::TempDir;

use crate::observe::{group, wait_seen};

const PATIENCE: Duration = Duration::from_secs(30);

/// Records a container for three seconds.
fn folded(agent: &Agent, container: &Container) -> String {
    let name = wait_seen(agent, container).identity.container;
    let query = name.replace('/', "%2F");
    let path = format!("/api/v1/profile?container={query}&type=cpu&seconds=3&format=folded");
    let answer = agent.get_slow(&path, PATIENCE).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// Part of the samples that have a frame for which `is` holds.
fn share(folded: &str, is: impl Fn(&str) -> bool) -> f64 {
    let (mut with, mut all) = (0, 0);
    for line in folded.lines() {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        let count: u64 = count.parse().unwrap();
        all += count;
        if stack.split(';').any(&is) {
            with += count;
        }
    }
    with as f64 / all.max(1) as f64
}

/// The map file has the pid that the process knows itself by, 1 in its own pid namespace, and lies in
/// the container's /tmp.
#[test]
fn code_of_a_jit_is_named_by_its_map_file() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let container = Container::start(&group, &ContainerSpec::new("jit", &["jit"])).unwrap();
    let folded = folded(&agent, &container);
    let share = share(&folded, |frame| frame.starts_with(JIT_FUNCTION));
    println!("{JIT_FUNCTION}: {share:.3}");
    assert!(share > 0.9, "{folded}");
}

#[test]
fn mangled_names_are_shown_as_they_were_written() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let container = Container::start(&group, &ContainerSpec::new("mangled", &["mangled"])).unwrap();
    let folded = folded(&agent, &container);
    for function in [CPP_FUNCTION, RUST_FUNCTION] {
        let share = share(&folded, |frame| frame == function);
        println!("{function}: {share:.3}");
        assert!((0.4..0.6).contains(&share), "{function}: {share}\n{folded}");
    }
    assert!(
        !folded.contains("_ZN") && !folded.contains("_RN"),
        "{folded}"
    );
}

#[test]
fn a_stripped_binary_gives_offsets_in_its_module() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let directory = TempDir::new().unwrap();
    let stripped = directory.path().join("workload");
    let strip = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(binaries::workload().unwrap())
        .status();
    if !strip.is_ok_and(|status| status.success()) {
        skip("strip (binutils) is not installed");
        return;
    }
    let spec = ContainerSpec::new("stripped", &["burn"]).binary(&stripped);
    let container = Container::start(&group, &spec).unwrap();
    let folded = folded(&agent, &container);
    let share = share(&folded, |frame| {
        frame.split_once("+0x").is_some_and(|(module, offset)| {
            module.ends_with("workload") && u64::from_str_radix(offset, 16).is_ok()
        })
    });
    println!("workload+0x…: {share:.3}");
    assert!(share > 0.9, "{folded}");
}
