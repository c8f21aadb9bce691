//! Call trees that are known, built here in the ways in which programs are built: their stacks come out whole, and
//! their functions with the parts that they have.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ctrscope_tests::{
    Agent, Container, ContainerSpec, Overlay, binaries,
    measure::{Trial, measured},
    picture::{Quality, lacks_something},
};
use tempfile::TempDir;

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
/// Calls of `deep` in itself, the first included.
const DEPTH: usize = 61;

/// Names in a stack, from its beginning on; one with a path, or a module, may be a part of the name.
struct Tree {
    /// Either stands at the beginning: of the first thread, and of others.
    begins: [&'static str; 2],
    all: &'static str,
    kinds: &'static [&'static str],
    two: &'static str,
    one: &'static str,
    spin: &'static str,
}

const C: Tree = Tree {
    begins: ["main", "run"],
    all: "all",
    kinds: &["deep", "variable", "passed_on", "assembled", "compared"],
    two: "two",
    one: "one",
    spin: "spin",
};

const CPP: Tree = Tree {
    begins: ["main", "main"],
    all: "calls::all(",
    kinds: &["calls::called(", "calls::compared(", "calls::caught("],
    two: "calls::Two::act(",
    one: "calls::One::act(",
    spin: "calls::spin(",
};

const RUST: Tree = Tree {
    begins: ["calls::main", "calls::main"],
    all: "calls::all",
    kinds: &["calls::closed", "calls::compared", "calls::guarded"],
    two: "calls::Two as calls::Work",
    one: "calls::One as calls::Work",
    spin: "calls::spin",
};

const GO: Tree = Tree {
    begins: ["main.main", "main.run"],
    all: "main.all",
    kinds: &["main.closed", "main.compared"],
    two: "main.two.act",
    one: "main.one.act",
    spin: "main.spin",
};

/// Frames of a stack; container and process stand before them.
fn frames(stack: &str) -> Vec<&str> {
    stack.split(';').skip(2).collect()
}

fn is(frame: &str, name: &str) -> bool {
    let is_part = name.contains([':', '.']) && frame.contains(name);
    // A compiler names variants of a function `name.constprop.0`, or `name.localalias`.
    let (without, _) = frame.split_once('.').unwrap_or((frame, ""));
    is_part || without == name
}

fn at(frames: &[&str], name: &str) -> Option<usize> {
    frames.iter().position(|frame| is(frame, name))
}

impl Tree {
    /// Whether a stack that ends in the work leads to it by way of all that was called.
    fn is_whole(&self, frames: &[&str]) -> bool {
        let at = |name: &str| at(frames, name);
        let kind = self.kinds.iter().find_map(|kind| at(kind));
        let begins = self.begins.iter().find_map(|begin| at(begin));
        let work = at(self.two).or_else(|| at(self.one));
        let way = [begins, at(self.all), kind, work, at(self.spin)];
        let deep = frames.iter().filter(|frame| is(frame, "deep")).count();
        way.iter().all(Option::is_some) && way.is_sorted() && (deep == 0 || deep == DEPTH)
    }
}

/// Builds something below a directory, which becomes the root of a container, as a command of the shell in which `$0`
/// is the directory of the sources and the current directory is that root.
struct Build {
    tree: Tree,
    script: &'static str,
}

fn build(script: &str) -> TempDir {
    let directory = TempDir::with_prefix("ctrscope-fixture-").unwrap();
    fs::create_dir_all(directory.path().join("opt/app")).unwrap();
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/accuracy/fixtures");
    let output = Command::new("bash")
        .args(["-ec", script, sources])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    directory
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

fn judge(fixture: &Build) {
    measured(|trial| {
        let Some(lower) = binaries::programs() else {
            trial.skip(NO_PROGRAMS);
            return;
        };
        record_fixture(trial, fixture, &lower);
    });
}

fn record_fixture(trial: &Trial, fixture: &Build, lower: &Path) {
    let built = build(fixture.script);
    let root = Overlay::over(lower).unwrap();
    copy(built.path(), &root.path());
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let spec = ContainerSpec::new("calls", &["/opt/app/calls"]).root(&root.path());
    let container = Container::start(&group, &spec).unwrap();
    wait_seen(&agent, &container);
    let watch = trial.watch(agent.pid(), &group);
    let (svg, folded) = record_both(&agent, &container, SECONDS, HERTZ);
    watch.end();

    let quality = Quality::of(&svg).unwrap_or_else(|| panic!("no account in {svg}"));
    println!("{quality:?}");
    let tree = &fixture.tree;
    let (mut all, mut odd, mut two) = (0, 0, 0);
    let mut kinds = vec![0; tree.kinds.len()];
    for (stack, count) in stacks(&folded) {
        if lacks_something(stack) {
            println!("lacks something, {count} times: {stack}");
        }
        let frames = frames(stack);
        let user = frames.iter().rfind(|frame| !frame.ends_with("_[k]"));
        if !user.is_some_and(|frame| is(frame, tree.spin)) {
            continue;
        }
        all += count;
        if !tree.is_whole(&frames) {
            odd += count;
            println!("not as it was called, {count} times: {stack}");
        }
        if at(&frames, tree.two).is_some() {
            two += count;
        }
        for (kind, sum) in tree.kinds.iter().zip(&mut kinds) {
            if at(&frames, kind).is_some() {
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
    if tree.kinds == C.kinds {
        for (kind, sum) in tree.kinds.iter().zip(kinds) {
            trial.near(kind, part(sum), 1.0 / tree.kinds.len() as f64, TOLERANCE);
        }
    }
}

#[test]
fn calls_of_a_static_program_without_frame_pointers_are_whole() {
    judge(&Build {
        tree: C,
        script: "gcc -O2 -fomit-frame-pointer -static -pthread -o opt/app/calls $0/main.c $0/calls.c",
    });
}

#[test]
fn calls_of_a_static_program_with_frame_pointers_are_whole() {
    judge(&Build {
        tree: C,
        script: "gcc -O2 -fno-omit-frame-pointer -static -pthread -o opt/app/calls $0/main.c $0/calls.c",
    });
}

#[test]
fn calls_of_a_static_program_at_any_address_are_whole() {
    judge(&Build {
        tree: C,
        script: "gcc -O2 -fPIE -static-pie -pthread -o opt/app/calls $0/main.c $0/calls.c",
    });
}

#[test]
fn calls_through_a_shared_library_are_whole() {
    judge(&Build {
        tree: C,
        script: "mkdir -p usr/lib; gcc -O2 -fPIC -shared -o usr/lib/libcalls.so $0/calls.c; \
                 gcc -O2 -fPIE -pie -pthread -o opt/app/calls $0/main.c -Lusr/lib -lcalls",
    });
}

/// Its names come from a debug file inside of the container.
#[test]
fn calls_of_a_stripped_program_with_a_debug_file_are_whole() {
    judge(&Build {
        tree: C,
        script: "gcc -O2 -g -Wl,--build-id -pthread -o opt/app/calls $0/main.c $0/calls.c; \
                 id=$(readelf -n opt/app/calls | sed -n 's/.*Build ID: //p'); \
                 debug=usr/lib/debug/.build-id/${id:0:2}; mkdir -p $debug; \
                 objcopy --only-keep-debug opt/app/calls $debug/${id:2}.debug; strip opt/app/calls",
    });
}

#[test]
fn calls_of_cpp_are_whole() {
    judge(&Build {
        tree: CPP,
        script: "g++ -O2 -o opt/app/calls $0/calls.cc",
    });
}

#[test]
fn calls_of_rust_are_whole() {
    judge(&Build {
        tree: RUST,
        script: "rustc -O --edition 2021 --crate-name calls -o opt/app/calls $0/calls.rs",
    });
}

/// The first function of a goroutine has no caller: there is none to return to.
#[test]
fn calls_of_go_are_whole() {
    judge(&Build {
        tree: GO,
        script: "GOCACHE=$PWD/cache go build -o opt/app/calls $0/calls.go; rm -r cache",
    });
}
