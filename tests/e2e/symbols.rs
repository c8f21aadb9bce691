//! Names of frames: code of a JIT, mangled names, what a stripped binary leaves, and functions that were inlined.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use ctrscope_tests::{
    Agent, Container, ContainerSpec, binaries, bpf,
    container::WORKLOAD_PATH,
    skip, wait_until,
    workload::{
        hot::HOT_FUNCTIONS,
        jit::JIT_FUNCTION,
        mangled::{CPP_FUNCTION, RUST_FUNCTION},
    },
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    observe::group,
    profile::{PATIENCE, has_frame, query, record_until},
};

/// Why [`stripped`] may give nothing.
pub(crate) const NO_STRIP: &str = "strip (binutils) is not installed";

/// The workload without symbols, in a directory that holds nothing else.
pub(crate) fn stripped() -> Option<(TempDir, PathBuf)> {
    let directory = TempDir::new().unwrap();
    let stripped = directory.path().join("workload");
    let strip = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(binaries::workload().unwrap())
        .status();
    strip
        .is_ok_and(|status| status.success())
        .then_some((directory, stripped))
}

/// Whether a frame is code of the JIT, by the name in its map file.
pub(crate) fn is_jitted(frame: &str) -> bool {
    frame.starts_with(JIT_FUNCTION)
}

/// Whether a frame is an offset in the workload's binary.
pub(crate) fn is_offset(frame: &str) -> bool {
    frame.split_once("+0x").is_some_and(|(module, offset)| {
        module.ends_with("workload") && u64::from_str_radix(offset, 16).is_ok()
    })
}

/// Asserts that no name is as a compiler wrote it.
pub(crate) fn assert_demangled(folded: &str) {
    assert!(
        !folded.contains("_ZN") && !folded.contains("_RN"),
        "{folded}"
    );
}

/// The map file has the pid that the process knows itself by, 1 in its own pid namespace, and lies in
/// the container's /tmp.
#[test]
fn code_of_a_jit_is_named_by_its_map_file() {
    let agent = Agent::start(&[]).unwrap();
    let spec = ContainerSpec::new("jit", &["jit"]);
    let container = Container::start(&group(), &spec).unwrap();
    record_until(&agent, &container, "folded", |folded| {
        has_frame(folded, is_jitted)
    });
}

#[test]
fn mangled_names_are_shown_as_they_were_written() {
    let agent = Agent::start(&[]).unwrap();
    let spec = ContainerSpec::new("mangled", &["mangled"]);
    let container = Container::start(&group(), &spec).unwrap();
    record_until(&agent, &container, "folded", |folded| {
        let has = |function| has_frame(folded, |frame| frame == function);
        assert_demangled(folded);
        has(CPP_FUNCTION) && has(RUST_FUNCTION)
    });
}

#[test]
fn a_stripped_binary_gives_offsets_in_its_module() {
    let agent = Agent::start(&[]).unwrap();
    let Some((_directory, binary)) = stripped() else {
        skip(NO_STRIP);
        return;
    };
    let spec = ContainerSpec::new("stripped", &["burn"]).binary(&binary);
    let container = Container::start(&group(), &spec).unwrap();
    record_until(&agent, &container, "folded", |folded| {
        has_frame(folded, is_offset)
    });
}

/// The program of a container, as the container has it.
fn program_of(container: &Container) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", container.pid()));
    root.join(WORKLOAD_PATH.trim_start_matches('/'))
}

/// Whether all functions that the workload is busy in are there by their names.
fn is_named(folded: &str) -> bool {
    let mut functions = HOT_FUNCTIONS.iter();
    functions.all(|(function, _)| has_frame(folded, |frame| frame == *function))
}

#[test]
fn a_program_that_was_deleted_while_it_runs_keeps_its_names() {
    let agent = Agent::start(&[]).unwrap();
    let container = Container::start(&group(), &ContainerSpec::new("deleted", &["burn"])).unwrap();
    fs::remove_file(program_of(&container)).unwrap();
    record_until(&agent, &container, "folded", is_named);
}

/// As a deployment in place does: another build is moved to where the one that runs was. Its names at the same
/// places would be others.
#[test]
fn a_program_that_was_replaced_while_it_runs_keeps_its_names() {
    let agent = Agent::start(&[]).unwrap();
    let container = Container::start(&group(), &ContainerSpec::new("replaced", &["burn"])).unwrap();
    let program = program_of(&container);
    let next = program.with_extension("next");
    let mut bytes = fs::read(&program).unwrap();
    // The functions of this one have other names.
    let (from, to) = (b"hot_fifty", b"new_fifty");
    for at in 0..bytes.len().saturating_sub(from.len()) {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    fs::write(&next, bytes).unwrap();
    fs::rename(&next, &program).unwrap();
    let folded = record_until(&agent, &container, "folded", is_named);
    assert!(!folded.contains("new_fifty"), "{folded}");
}

/// It begins and ends within the recording of the host.
#[test]
fn a_container_that_has_gone_is_in_the_graph_with_its_names() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let path = "/api/v1/profile?type=cpu&format=folded&seconds=6";
    let folded = thread::scope(|scope| {
        let recording = scope.spawn(|| agent.get_slow(path, PATIENCE).unwrap());
        wait_until(PATIENCE, "the sampler", || {
            let (held, _) = bpf::held(agent.pid())?;
            let is_it = |program: &Value| {
                let id = program["id"].as_u64();
                program["name"] == "profile_sample" && id.is_some_and(|id| held.contains(&id))
            };
            Ok(bpf::alive("prog")?.iter().any(is_it).then_some(()))
        })
        .unwrap();
        let spec = ContainerSpec::new("brief", &["burn", "--seconds", "2"]);
        let container = Container::start(&group, &spec).unwrap();
        container.wait_end().unwrap();
        drop(container);
        let answer = recording.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    });
    let of_it: Vec<&str> = folded
        .lines()
        .filter(|line| {
            line.split(';')
                .next()
                .is_some_and(|root| root.ends_with("brief"))
        })
        .collect();
    assert!(is_named(&of_it.join("\n")), "{folded}");
}

/// Where a machine without a compiler has `inlined.c`.
const INLINED: &str = "/usr/bin/ctrscope-inlined";

/// `inlined.c` with debug information.
fn inlined() -> (Option<TempDir>, PathBuf) {
    if Path::new(INLINED).exists() {
        return (None, INLINED.into());
    }
    let directory = TempDir::new().unwrap();
    let program = directory.path().join("inlined");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/inlined.c");
    let compiler = Command::new("cc")
        .args(["-O2", "-g", "-static", "-o"])
        .arg(&program)
        .arg(source)
        .status()
        .unwrap();
    assert!(compiler.success());
    (Some(directory), program)
}

#[test]
fn inlined_functions_are_shown_where_they_are_asked_for() {
    let (_directory, program) = inlined();
    let agent = Agent::start(&[]).unwrap();
    let spec = ContainerSpec::new("inlined", &[]).binary(&program);
    let container = Container::start(&group(), &spec).unwrap();
    let is_outer = |frame: &str| frame == "outer";
    let folded = record_until(&agent, &container, "folded", |folded| {
        has_frame(folded, is_outer)
    });
    assert!(!folded.contains("_[i]"), "{folded}");

    let query = query(&agent, &container, 2);
    let get = |path: &str| {
        let answer = agent.get_slow(path, PATIENCE).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    };
    let path = format!("/api/v1/profile?inlined=true&{query}");
    let mut folded = String::new();
    wait_until(PATIENCE, "samples of the innermost function", || {
        folded = get(&format!("{path}&format=folded"));
        Ok(folded.contains(";outer;middle_[i];leaf_[i] ").then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}:\n{folded}"));
    let svg = get(&path);
    assert!(svg.contains("leaf (") && !svg.contains("left out"), "{svg}");
}
