//! Stacks beside those of another unwinder: `perf record --call-graph dwarf`, which copies the user stack with each
//! sample and unwinds it afterwards with libdw or libunwind.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use ctrscope_tests::{Agent, measure::measured};
use tempfile::TempDir;

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

/// User stacks by perf, the outermost function first, with their numbers of samples.
fn by_perf(directory: &Path, pid: u32) -> HashMap<Vec<String>, u64> {
    let data = directory.join("perf.data");
    let perf = |arguments: &[&str]| {
        let output = Command::new("perf")
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
    let mut found: HashMap<Vec<String>, u64> = HashMap::new();
    for sample in text
        .split("\n\n")
        .filter(|sample| !sample.trim().is_empty())
    {
        let mut functions: Vec<String> = sample
            .lines()
            .filter_map(|line| Some(known(line.trim().split_once(' ')?.1.trim())))
            .collect();
        functions.reverse();
        *found.entry(functions).or_default() += 1;
    }
    found
}

/// A function of the program by its name. The library's have several, of which each tool takes one.
fn known(function: &str) -> String {
    let is_own = KINDS.contains(&function) || ["leaf", "all", "main", "_start"].contains(&function);
    if is_own { function } else { "*" }.to_owned()
}

/// Of each stack the functions of the program alone: neither where it is nor the kernel's.
fn ours(folded: &str) -> HashSet<Vec<String>> {
    let functions = |stack: &str| {
        let frames = stack.split(';').skip(2);
        let frames = frames.filter(|frame| !frame.ends_with("_[k]"));
        frames.map(known).collect()
    };
    stacks(folded).map(|(stack, _)| functions(stack)).collect()
}

#[test]
fn stacks_are_those_that_perf_unwinds_from_copies() {
    measured(|trial| {
        let directory = TempDir::new().unwrap();
        // perf does not unwind static programs, nor what is in another mount namespace.
        let program = build_frames(directory.path(), &[]);
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let (container, program) = beside(&group, &mut Command::new(program));
        record_until(&agent, &container, "folded", |folded| {
            folded.contains("leaf")
        });
        let (perf, folded) = thread::scope(|scope| {
            // Longer than perf's, since what is rare must be in it as well.
            let recording = scope.spawn(|| record(&agent, &container, "folded", 2 * SECONDS));
            let perf = by_perf(directory.path(), program.pid());
            let watch = trial.watch(agent.pid(), &group);
            let folded = recording.join().unwrap();
            watch.end();
            (perf, folded)
        });
        let ours = ours(&folded);
        let (mut all, mut others) = (0, 0);
        // What perf has cut: too many frames, or one that is larger than what it copies.
        let is_cut = |stack: &[String]| {
            stack.len() >= DEPTH_LIMIT || stack.iter().any(|function| function == "large")
        };
        for (stack, count) in perf.iter().filter(|(stack, _)| !is_cut(stack)) {
            all += count;
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
        let part = others as f64 / all as f64;
        trial.at_most("stacks of perf that are none of ours", part, DISAGREEMENT);
    });
}
