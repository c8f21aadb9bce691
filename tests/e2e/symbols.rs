//! Names of frames: code of a JIT, mangled names, and what a stripped binary leaves.

use std::{path::PathBuf, process::Command};

use ctrscope_tests::{
    Agent, Container, ContainerSpec, binaries, skip,
    workload::{
        jit::JIT_FUNCTION,
        mangled::{CPP_FUNCTION, RUST_FUNCTION},
    },
};
use tempfile::TempDir;

use crate::{
    observe::group,
    profile::{has_frame, record_until},
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
