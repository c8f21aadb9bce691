//! Stacks beside those of another unwinder: `perf record --call-graph dwarf`, which copies the user stack with each
//! sample and unwinds it afterwards with libunwind.
//!
//! What it cannot unwind, and what is therefore not compared; `perf` is 6.1 of Debian:
//! - What it has not copied. It copies 64 KiB from the stack pointer on, so that `large`, whose frame has 3 MiB, is the
//!   last function that it sees, with an `[unknown]` above it. Of a handler on a stack of its own it copies that stack
//!   alone, and its stacks end with the function that the signal interrupted.
//! - Static programs without `.eh_frame_hdr`, which `gcc -static` does not make, while `gcc -static-pie` does: each of
//!   their stacks is the innermost function alone. With `-Wl,--eh-frame-hdr` they are whole.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use ctrscope_tests::{
    Agent, Container, Group,
    measure::{Trial, measured},
};
use tempfile::TempDir;

use super::{
    fixtures::{Build, OF_CPP, OF_RUST, Running, SHARED, STATIC_PIE},
    flamegraphs::NO_PROGRAMS,
};
use crate::{
    observe::group,
    profile::{beside, record, record_until, stacks},
    unwind::{KINDS, build_frames},
};

/// Part of perf's samples whose stack is none of ours.
const DISAGREEMENT: f64 = 0.03;
const SECONDS: u32 = 8;
/// The most that perf copies of a stack, bytes (`PERF_SAMPLE_MAX_SIZE`, `include/linux/perf_event.h`, less 8).
const STACK_BYTES: &str = "dwarf,65528";
/// Samples that a judgement rests on.
const FEWEST: u64 = 200;
/// A stack as long as this may be cut: `perf script` keeps 127 frames.
const DEPTH_LIMIT: usize = 120;
/// Functions whose callers are not in what perf copies.
const CUT: [&str; 2] = ["large", "interrupted_aside"];
/// Stands for a function of a library. These have several names, of which each tool takes one.
const OTHER: &str = "*";

/// Functions of a program by the names that each has for both tools.
#[derive(Clone, Copy)]
struct Functions<'a> {
    /// The name of a frame; `None` is a function of a library.
    name: &'a dyn Fn(&str) -> Option<&'static str>,
    /// All that are to be seen.
    all: &'a [&'static str],
}

impl Functions<'_> {
    fn known(&self, frame: &str) -> &'static str {
        (self.name)(frame).unwrap_or(OTHER)
    }
}

/// User stacks by perf, the outermost function first, with their numbers of samples.
fn by_perf(
    directory: &Path,
    pid: u32,
    functions: Functions<'_>,
) -> HashMap<Vec<&'static str>, u64> {
    let data = directory.join("perf.data");
    let perf = |arguments: &[&str]| {
        let output = Command::new("perf")
            // What it keeps of files goes with the recording.
            .arg("--buildid-dir")
            .arg(directory.join("files"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (data, pid, seconds) = (data.to_str().unwrap(), pid.to_string(), SECONDS.to_string());
    perf(&[
        "record",
        "-q",
        "-e",
        "cpu-clock:u",
        "-F",
        "99",
        "--call-graph",
        STACK_BYTES,
        "-p",
        &pid,
        "-o",
        data,
        "--",
        "sleep",
        &seconds,
    ]);
    let text = perf(&["script", "-i", data, "-F", "ip,sym", "--no-inline"]);
    let mut found: HashMap<Vec<&'static str>, u64> = HashMap::new();
    for sample in text
        .split("\n\n")
        .filter(|sample| !sample.trim().is_empty())
    {
        let frames = sample.lines().rev();
        let frames = frames.filter_map(|line| Some(line.trim().split_once(' ')?.1.trim()));
        let stack = frames.map(|frame| functions.known(frame)).collect();
        *found.entry(stack).or_default() += 1;
    }
    found
}

/// Of each stack the functions of the program alone: neither where it is nor the kernel's.
fn ours(folded: &str, functions: Functions<'_>) -> HashSet<Vec<&'static str>> {
    let known = |stack: &str| {
        let frames = stack.split(';').skip(2);
        let frames = frames.filter(|frame| !frame.ends_with("_[k]"));
        frames.map(|frame| functions.known(frame)).collect()
    };
    stacks(folded).map(|(stack, _)| known(stack)).collect()
}

/// What is recorded with both.
struct Program<'a> {
    agent: &'a Agent,
    group: &'a Group,
    container: &'a Container,
    pid: u32,
    functions: Functions<'a>,
}

/// Records a program with both, and compares the stacks.
fn compare(trial: &Trial, program: &Program<'_>) {
    let &Program {
        agent,
        group,
        container,
        pid,
        functions,
    } = program;
    let directory = TempDir::new().unwrap();
    // The first recording reads its tables.
    record_until(agent, container, "folded", |folded| {
        let seen: HashSet<_> = ours(folded, functions).into_iter().flatten().collect();
        functions.all.iter().all(|name| seen.contains(name))
    });
    let (perf, folded) = thread::scope(|scope| {
        // Longer than perf's, since what is rare must be in it as well.
        let recording = scope.spawn(|| record(agent, container, "folded", 2 * SECONDS));
        let perf = by_perf(directory.path(), pid, functions);
        let watch = trial.watch(agent.pid(), group);
        let folded = recording.join().unwrap();
        watch.end();
        (perf, folded)
    });
    let ours = ours(&folded, functions);
    let (mut all, mut others) = (0, 0);
    let mut compared: BTreeSet<&str> = BTreeSet::new();
    // What perf has cut: too many frames, or one that is not in what it copies.
    let is_cut = |stack: &[&str]| {
        stack.len() >= DEPTH_LIMIT || stack.iter().any(|function| CUT.contains(function))
    };
    for (stack, count) in perf.iter().filter(|(stack, _)| !is_cut(stack)) {
        all += count;
        compared.extend(stack);
        if !ours.contains(stack) {
            println!("only by perf, {count} times: {}", stack.join(";"));
            others += count;
        }
    }
    println!(
        "{all} samples of perf in {} stacks, {} stacks of ours",
        perf.len(),
        ours.len()
    );
    assert!(all >= FEWEST, "only {all} samples of perf");
    let wanted = functions.all.iter().filter(|name| !CUT.contains(name));
    let missing: Vec<_> = wanted.filter(|name| !compared.contains(*name)).collect();
    assert!(missing.is_empty(), "perf has no stack with {missing:?}");
    let part = others as f64 / all as f64;
    trial.at_most("stacks of perf that are none of ours", part, DISAGREEMENT);
}

/// Compares the stacks of a fixture.
fn judge(fixture: &Build) {
    measured(|trial| {
        let Some(running) = Running::start(fixture) else {
            trial.skip(NO_PROGRAMS);
            return;
        };
        let functions = Functions {
            name: &|frame| fixture.tree.name(frame),
            all: &fixture.tree.names(),
        };
        let program = Program {
            agent: &running.agent,
            group: &running.group,
            container: &running.container,
            pid: running.container.pid(),
            functions,
        };
        compare(trial, &program);
    });
}

/// With the files of the host.
#[test]
fn stacks_are_those_that_perf_unwinds_from_copies() {
    measured(|trial| {
        let directory = TempDir::new().unwrap();
        let program = build_frames(directory.path(), &[]);
        let all = [&KINDS[..], &["leaf", "all", "main", "_start"]].concat();
        let name = |frame: &str| all.iter().copied().find(|name| *name == frame);
        let functions = Functions {
            name: &name,
            all: &all,
        };
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let (container, process) = beside(&group, &mut Command::new(program));
        let program = Program {
            agent: &agent,
            group: &group,
            container: &container,
            pid: process.pid(),
            functions,
        };
        compare(trial, &program);
    });
}

#[test]
fn stacks_of_a_static_program_are_those_of_perf() {
    judge(&STATIC_PIE);
}

#[test]
fn stacks_through_a_shared_library_are_those_of_perf() {
    judge(&SHARED);
}

#[test]
fn stacks_of_cpp_are_those_of_perf() {
    judge(&OF_CPP);
}

#[test]
fn stacks_of_rust_are_those_of_perf() {
    judge(&OF_RUST);
}
