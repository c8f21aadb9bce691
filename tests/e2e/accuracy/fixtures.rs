//! Call trees that are known, built here in the ways in which programs are built: their stacks come out whole, and
//! their functions with the parts that they have.

mod trees;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use ctrscope_tests::{
    Agent, Container, ContainerSpec, Group, Overlay, binaries,
    measure::{Trial, measured},
    picture::{Quality, lacks_something},
};

pub(super) use self::trees::{Build, OF_CPP, OF_RUST, SHARED, STATIC_PIE};
use self::trees::{C, GO, PROGRAM, Tree, has};
use super::flamegraphs::{INCOMPLETE, NO_PROGRAMS, record_both};
use crate::{
    observe::{group, wait_seen},
    profile::stacks,
};

/// More samples than usual, for shares.
const HERTZ: u32 = 499;
const SECONDS: u32 = 5;
/// Difference of a share. Of 2,500 samples the standard error of two thirds is below one point.
const TOLERANCE: f64 = 0.03;
/// `two` takes twice as long as `one`.
const TWO: f64 = 2.0 / 3.0;

/// Frames of a stack; container and process stand before them.
fn frames(stack: &str) -> Vec<&str> {
    stack.split(';').skip(2).collect()
}

/// Files of one directory to the same places below another.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// A fixture in a container, and an agent. In the order in which they end.
pub(super) struct Running {
    pub(super) container: Container,
    pub(super) group: Arc<Group>,
    pub(super) agent: Agent,
    _root: Overlay,
}

impl Running {
    /// Builds a fixture, and starts it with the files of Debian; `None` where these are not there.
    pub(super) fn start(fixture: &Build) -> Option<Self> {
        let lower = binaries::programs()?;
        let built = fixture.run();
        let root = Overlay::over(&lower).unwrap();
        copy(built.path(), &root.path());
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let spec = ContainerSpec::new("calls", &[&format!("/{PROGRAM}")]).root(&root.path());
        let container = Container::start(&group, &spec).unwrap();
        wait_seen(&agent, &container);
        Some(Self {
            container,
            group,
            agent,
            _root: root,
        })
    }
}

fn judge(fixture: &Build) {
    measured(|trial| match Running::start(fixture) {
        Some(running) => record_fixture(trial, &fixture.tree, &running),
        None => trial.skip(NO_PROGRAMS),
    });
}

fn record_fixture(trial: &Trial, tree: &Tree, running: &Running) {
    let watch = trial.watch(running.agent.pid(), &running.group);
    let (svg, folded) = record_both(&running.agent, &running.container, SECONDS, HERTZ);
    watch.end();

    let quality = Quality::of(&svg).unwrap_or_else(|| panic!("no account in {svg}"));
    println!("{quality:?}");
    let (mut all, mut odd, mut two) = (0, 0, 0);
    let mut kinds = vec![0; tree.kinds.len()];
    for (stack, count) in stacks(&folded) {
        if lacks_something(stack) {
            println!("lacks something, {count} times: {stack}");
        }
        let frames = frames(stack);
        let user = frames.iter().rposition(|frame| !frame.ends_with("_[k]"));
        let frames = &frames[..user.map_or(0, |last| last + 1)];
        if !frames.last().is_some_and(|last| has(&[last], tree.spin)) {
            continue;
        }
        all += count;
        if !tree.is_whole(frames) {
            odd += count;
            println!("not as it was called, {count} times: {stack}");
        }
        if has(frames, tree.two) {
            two += count;
        }
        for (kind, sum) in tree.kinds.iter().zip(&mut kinds) {
            if has(frames, kind[0]) {
                *sum += count;
            }
        }
    }
    assert!(all > 0, "nothing is in {}:\n{folded}", tree.spin);
    let part = |count: u64| count as f64 / all as f64;
    let incomplete = quality.incomplete() as f64 / quality.samples as f64;
    trial.at_most("user stacks that lack something", incomplete, INCOMPLETE);
    trial.at_most("stacks that are not as was called", part(odd), INCOMPLETE);
    trial.near("share of what takes two thirds", part(two), TWO, TOLERANCE);
    // Each is called once with each work, but for comparisons of C++, Rust and Go, of which there may be more.
    if *tree == C {
        for (kind, sum) in tree.kinds.iter().zip(kinds) {
            trial.near(kind[0], part(sum), 1.0 / tree.kinds.len() as f64, TOLERANCE);
        }
    }
}

#[test]
fn calls_of_a_static_program_without_frame_pointers_are_whole() {
    judge(&Build {
        tree: C,
        script: "gcc -O2 -fomit-frame-pointer -static -pthread -o opt/app/calls $0/*.c $0/*.S",
    });
}

#[test]
fn calls_of_a_static_program_with_frame_pointers_are_whole() {
    judge(&Build {
        tree: C,
        script: "gcc -O2 -fno-omit-frame-pointer -static -pthread -o opt/app/calls $0/*.c $0/*.S",
    });
}

#[test]
fn calls_of_a_static_program_at_any_address_are_whole() {
    judge(&STATIC_PIE);
}

#[test]
fn calls_through_a_shared_library_are_whole() {
    judge(&SHARED);
}

/// Its names come from a debug file inside of the container.
#[test]
fn calls_of_a_stripped_program_with_a_debug_file_are_whole() {
    judge(&Build {
        tree: C,
        script: "gcc -O2 -g -Wl,--build-id -pthread -o opt/app/calls $0/*.c $0/*.S; \
                 id=$(readelf -n opt/app/calls | sed -n 's/.*Build ID: //p'); \
                 debug=usr/lib/debug/.build-id/${id:0:2}; mkdir -p $debug; \
                 objcopy --only-keep-debug opt/app/calls $debug/${id:2}.debug; cp opt/app/calls unstripped; strip opt/app/calls",
    });
}

#[test]
fn calls_of_cpp_are_whole() {
    judge(&OF_CPP);
}

#[test]
fn calls_of_rust_are_whole() {
    judge(&OF_RUST);
}

/// The first function of a goroutine has no caller: there is none to return to.
#[test]
fn calls_of_go_are_whole() {
    judge(&Build {
        tree: GO,
        script: "GOCACHE=$PWD/cache go build -o opt/app/calls $0/calls.go; rm -r cache",
    });
}
