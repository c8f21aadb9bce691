//! `test`: everything that is checked, and the end-to-end tests last, so that their summary stands
//! at the end of the output.

use std::{
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{build, setup, step};

/// Names the skips that are accepted; see `ctrscope_tests::skip`.
pub(crate) const EXPECTED_SKIPS: &str = "CTRSCOPE_EXPECTED_SKIPS";

/// Set up, build, lint, and run all tests: unit tests, then those on real containers (root).
///
/// Installs what is missing. Where the environment says CI (CI=true), a test that skips itself for
/// a reason that is not expected fails.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Run only the end-to-end tests whose name contains FILTER; no unit tests, no lints
    #[arg(long, value_name = "FILTER")]
    pub(crate) only: Option<String>,
    /// Show what the end-to-end tests measured
    #[arg(long)]
    pub(crate) show_output: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let ci = std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false");
    test(arguments, ci.then_some(crate::ci::EXPECTED_SKIPS))
}

/// Tests; with a list of expected skips, any other skip fails.
pub(crate) fn test(arguments: &Arguments, expected_skips: Option<&[&str]>) -> Result<ExitCode> {
    setup::run(&setup::Arguments {
        test: true,
        ..Default::default()
    })?;
    let built = build::build()?;
    if arguments.only.is_none() {
        step::run(
            "unit tests",
            "unit-tests",
            step::cargo().args(["test", "--workspace", "--lib", "--bins"]),
        )?;
        step::run(
            "formatting (cargo fmt)",
            "fmt",
            step::cargo().args(["fmt", "--all", "--check"]),
        )?;
        step::run(
            "lints (cargo clippy)",
            "clippy",
            step::cargo()
                .args(["clippy", "--workspace", "--all-targets"])
                .args(["--", "-D", "warnings"]),
        )?;
    }
    let binary = step::timed("build the end-to-end tests", build_e2e)?;

    println!("end-to-end tests on real containers");
    // Run directly rather than by `cargo test`, which on failure writes after the summary.
    let mut command = if step::is_root() {
        Command::new(&binary)
    } else {
        let mut command = Command::new("sudo");
        command.arg("-E").arg(&binary);
        command
    };
    command
        .current_dir(step::repository())
        .arg("--test-threads=1")
        .args(&arguments.only)
        .env("CTRSCOPE_BIN", &built.agent)
        .env("CTRSCOPE_WORKLOAD", &built.workload);
    if arguments.show_output {
        command.arg("--show-output");
    }
    if let Some(expected) = expected_skips {
        command.env(EXPECTED_SKIPS, expected.join(";"));
    }
    let status = command
        .status()
        .context("cannot run the end-to-end tests")?;
    // Their own summary is the last word, in failure too.
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds the test binary and finds out where cargo put it.
fn build_e2e() -> Result<PathBuf> {
    build_e2e_with(step::cargo().arg("test"))
}

/// The same, static, for a machine that has nothing else.
pub(crate) fn build_static_e2e() -> Result<PathBuf> {
    let triple = build::host_triple()?;
    let mut command = step::cargo();
    build::link_statically(&mut command, &triple);
    command.args(["test", "--release", "--target", &triple]);
    build_e2e_with(&mut command)
}

fn build_e2e_with(command: &mut Command) -> Result<PathBuf> {
    let output = command
        .args(["--package", "ctrscope-tests", "--test", "e2e"])
        .args(["--no-run", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::piped())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("the end-to-end tests do not build");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "e2e")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo did not say where it put the end-to-end tests")
}
