//! inferno's commands, which `bench` draws perf's stacks with.

use std::path::PathBuf;

use anyhow::Result;

use crate::step;

/// The release that the agent draws with.
const VERSION: &str = "0.12.8";

/// Where a command of it is.
pub(crate) fn path(command: &str) -> PathBuf {
    root().join("bin").join(command)
}

fn root() -> PathBuf {
    step::target_directory().join("inferno")
}

/// Builds it where it is missing.
pub(super) fn install() -> Result<bool> {
    if path("inferno-flamegraph").exists() && path("inferno-collapse-perf").exists() {
        return Ok(false);
    }
    let mut command = step::cargo();
    command
        .args([
            "install",
            "inferno",
            "--locked",
            "--version",
            VERSION,
            "--root",
        ])
        .arg(root());
    // Its commands run here, whatever the caller builds for.
    command.env_remove("CARGO_BUILD_TARGET");
    step::run(
        &format!("build inferno {VERSION} (cargo install)"),
        "inferno",
        &mut command,
    )?;
    Ok(true)
}
