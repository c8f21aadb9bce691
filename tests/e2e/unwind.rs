//! Stacks of programs without frame pointers.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use ctrscope_tests::{Agent, Container, ContainerSpec};
use tempfile::TempDir;

use crate::{
    observe::group,
    profile::{record, record_until, share, stacks},
};

/// Functions of `frames.c` that stand between `all` and `leaf`, whose callers are found by rules of different kinds.
pub(crate) const KINDS: [&str; 6] = [
    "deep",
    "realigned",
    "variable",
    "large",
    "compare",
    "on_signal",
];
/// Calls of `deep` in itself, the first included.
const DEPTH: usize = 61;

/// Where a machine without a compiler has it.
const BUILT: &str = "/usr/bin/ctrscope-frames";

/// `frames.c`, built as a distribution builds programs but for the libraries, which a container without files has
/// not.
fn frames() -> (Option<TempDir>, PathBuf) {
    if Path::new(BUILT).exists() {
        return (None, BUILT.into());
    }
    let directory = TempDir::new().unwrap();
    let program = build_frames(directory.path(), &["-static"]);
    (Some(directory), program)
}

/// Builds `frames.c` without frame pointers.
pub(crate) fn build_frames(directory: &Path, options: &[&str]) -> PathBuf {
    let program = directory.join("frames");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/frames.c");
    let compiler = Command::new("cc")
        .args(["-O2", "-fomit-frame-pointer"])
        .args(options)
        .arg("-o")
        .arg(&program)
        .arg(source)
        .status()
        .unwrap();
    assert!(compiler.success());
    program
}

/// Whether a stack leads from the start of the program to `leaf`, as the source has it.
fn is_whole(stack: &str) -> bool {
    let frames: Vec<&str> = stack.split(';').collect();
    let at = |name: &str| frames.iter().position(|frame| *frame == name);
    let Some(leaf) = at("leaf") else {
        return false;
    };
    let (Some(start), Some(main), Some(all)) = (at("_start"), at("main"), at("all")) else {
        return false;
    };
    let depth = frames.iter().filter(|frame| **frame == "deep").count();
    let direct = [at("realigned"), at("variable"), at("large")];
    // The container and the process stand before it.
    start == 2
        && start < main
        && main + 1 == all
        && (depth == 0 || depth == DEPTH)
        && (depth > 0 || at("compare").is_some() || direct.contains(&Some(leaf - 1)))
}

#[test]
fn a_program_without_frame_pointers_has_whole_stacks() {
    let (_directory, program) = frames();
    let agent = Agent::start(&[]).unwrap();
    let spec = ContainerSpec::new("frames", &[]).binary(&program);
    let container = Container::start(&group(), &spec).unwrap();
    // The first recording reads its table.
    let folded = record_until(&agent, &container, "folded", |folded| {
        let whole = |kind| {
            let mut stacks = stacks(folded);
            stacks.any(|(stack, _)| is_whole(stack) && stack.contains(kind))
        };
        KINDS.into_iter().all(whole)
    });
    assert!(!folded.contains("frames+0x"), "{folded}");
    let folded = record(&agent, &container, "folded", 2);
    let broken = share(&folded, |frame| frame == "[broken stack]");
    // The first samples of it may come before it is looked at, which a busy machine takes a while for.
    assert!(broken < 0.5, "{broken}: {folded}");
    for (stack, _) in stacks(&folded) {
        // A signal may come anywhere.
        let is_odd = stack.contains("[broken stack]") || stack.contains("on_signal");
        let is_in_work = stack.ends_with(";leaf") && !is_odd;
        assert!(!is_in_work || is_whole(stack), "{stack}");
    }
}
