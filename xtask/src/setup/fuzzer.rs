//! What `fuzz` needs: a nightly compiler, which alone takes the flags of the sanitizers, and cargo-fuzz, which
//! knows them.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{on_path, succeeds};
use crate::step;

const CARGO_FUZZ: &str = "0.13.2";

/// The program, in `target/`.
pub(crate) fn cargo_fuzz() -> PathBuf {
    root().join("bin/cargo-fuzz")
}

fn root() -> PathBuf {
    step::target_directory().join("cargo-fuzz")
}

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    if !on_path("c++") {
        bail!("missing: a C++ compiler, which libFuzzer is built with. Install g++ or clang");
    }
    if !on_path("rustup") {
        bail!("missing: rustup, for a nightly compiler. See https://rustup.rs");
    }
    if !succeeds("rustup", &["run", "nightly", "rustc", "--version"]) {
        step::run(
            "install toolchain nightly (rustup)",
            "rustup-nightly",
            Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
            ]),
        )?;
    }
    if cargo_fuzz().exists() {
        return Ok(());
    }
    step::run(
        &format!("build cargo-fuzz {CARGO_FUZZ} (cargo install)"),
        "cargo-fuzz",
        step::cargo()
            .args(["install", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ])
            .arg("--root")
            .arg(root()),
    )
    .context("the fuzz targets are built with it")
}
