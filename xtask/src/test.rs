//! `test`: everything that is checked, and the end-to-end tests last, so that their summary stands
//! at the end of the output.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::{build, setup, step, vm};

/// Names the skips that are accepted; see `ctrscope_tests::skip`.
pub(crate) const EXPECTED_SKIPS: &str = "CTRSCOPE_EXPECTED_SKIPS";

/// Set up, build, lint, and run all tests: unit tests, those of the kernel side on three other kernels
/// (see `cargo xtask vm`), then those on real containers here (root).
///
/// Installs what is missing. Where the environment says CI (CI=true), a test that skips itself for
/// a reason that is not expected fails.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Run only the end-to-end tests whose name contains FILTER, and only here; no unit tests, no
    /// lints
    #[arg(long, value_name = "FILTER")]
    pub(crate) only: Option<String>,
    /// Leave out the other kernels, which take some ten minutes and packages of Debian
    #[arg(long)]
    pub(crate) no_vm: bool,
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
        ..setup::Arguments::default()
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
    let mut kernels = Ok(());
    if arguments.only.is_none() && !arguments.no_vm {
        println!("end-to-end tests on other kernels, emulated");
        kernels = vm::run_ends();
        if let Err(error) = &kernels {
            eprintln!("error: {error:#}");
        }
    }
    let binary = step::timed("build the end-to-end tests", || {
        build::build_e2e(step::cargo().arg("test"))
    })?;

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
    Ok(if status.success() && kernels.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
