//! `test`: the gate. What it judges does not depend on how fast or how quiet the machine is; what does
//! is measured by `accuracy`.

use std::{
    fs,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Profile},
    e2e::{Outcomes, Selection, Suite},
    interrupt, setup, step,
};

/// Longest that an end-to-end test of the gate may take, its patience included.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// What a test of properties takes its seed from; one that is set already is kept.
const SEED_VARIABLE: &str = "PROPTEST_RNG_SEED";
/// The same for every run of the gate, so that it judges the change and not its luck. `repeat` takes others.
const SEED: u64 = 1;

/// Set up, build, lint, and run the tests: unit tests, then those on real containers (root).
///
/// Installs what is missing. A test on containers that fails is run again, twice at most, and named as
/// flaky if it passes then. Measurements with strict tolerances are `cargo xtask accuracy`, other kernels
/// `cargo xtask vm`. Where the environment says CI (CI=true), a test that skips itself for a reason that
/// is not expected fails. The last line is `N passed, N failed`.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Run only the end-to-end tests whose name contains FILTER, those of `accuracy` among them; no unit
    /// tests, no lints
    #[arg(long, value_name = "FILTER")]
    pub(crate) only: Option<String>,
    /// No formatting, no lints
    #[arg(long)]
    pub(crate) tests_only: bool,
    /// Run nothing again, and nothing after the first test that failed
    #[arg(long)]
    pub(crate) fail_fast: bool,
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
    interrupt::catch();
    let start = Instant::now();
    let mut counted = Counted::default();
    let result = stages(arguments, expected_skips, &mut counted);
    if let Err(error) = &result {
        eprintln!("error: {error:#}");
    }
    println!("all steps took {:.0} s", start.elapsed().as_secs_f64());
    // A stage that ended early is a failure of its own.
    let failed = counted.failed.max(usize::from(result.is_err()));
    println!("{} passed, {failed} failed", counted.passed);
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How many tests came to which end.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

fn stages(
    arguments: &Arguments,
    expected_skips: Option<&[&str]>,
    counted: &mut Counted,
) -> Result<()> {
    setup::run(&setup::Arguments {
        test: true,
        ..setup::Arguments::default()
    })?;
    let is_whole = arguments.only.is_none();
    let is_linted = is_whole && !arguments.tests_only;
    if is_linted {
        step::run(
            "formatting (cargo fmt)",
            "fmt",
            step::cargo().args(["fmt", "--all", "--check"]),
        )?;
    }
    let target = build::Target::host()?;
    let tests = build::build_tests(&target, Profile::Quick)?;
    if is_whole {
        units(&target, SEED, counted)?;
    }
    if is_linted {
        step::run(
            "lints (cargo clippy)",
            "clippy",
            target
                .cargo("clippy", Profile::Quick)
                .args(["--workspace", "--all-targets"])
                .args(["--", "-D", "warnings"]),
        )?;
    }

    println!("end-to-end tests on real containers");
    let mut suite = Suite::new(&tests, "e2e")
        .limited(LIMIT)
        .shown(arguments.show_output)
        .expecting(expected_skips);
    suite = if arguments.fail_fast {
        suite.until_failure()
    } else {
        suite.retried()
    };
    let selection = arguments
        .only
        .as_deref()
        .map_or(Selection::Gate, Selection::Containing);
    let start = Instant::now();
    let outcomes = suite.run(&suite.list(selection)?)?;
    conclude(&outcomes, start.elapsed());
    counted.passed += outcomes.passed();
    counted.failed += outcomes.failed();
    Ok(())
}

/// Runs the unit tests that `build_tests` has built, those of properties with the seed.
pub(crate) fn units(target: &build::Target, seed: u64, counted: &mut Counted) -> Result<()> {
    let mut command = target.cargo("test", Profile::Quick);
    command.args(["--workspace", "--lib", "--bins", "--no-fail-fast"]);
    let seed = std::env::var(SEED_VARIABLE).unwrap_or_else(|_| seed.to_string());
    command.env(SEED_VARIABLE, &seed);
    let units = step::run("unit tests", "unit-tests", &mut command);
    let text = fs::read(step::log("unit-tests")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let (passed, failed) = parse_results(&text);
    // The end of the output may be another binary's.
    for line in failures(&text) {
        println!("    {line}");
    }
    println!("    {passed} passed, {failed} failed");
    counted.passed += passed;
    counted.failed += failed;
    units.with_context(|| format!("with {SEED_VARIABLE}={seed}"))
}

/// Names what did not simply pass, and how long it took.
fn conclude(outcomes: &Outcomes, took: Duration) {
    println!(
        "end-to-end tests: {} passed, {} failed, {} flaky in {:.1} s",
        outcomes.passed(),
        outcomes.failed(),
        outcomes.flaky(),
        took.as_secs_f64()
    );
    outcomes.print();
}

/// What each failed test says first, and which it is.
fn failures(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let panics = lines
        .windows(2)
        .filter(|pair| pair[0].starts_with("thread '") && pair[0].contains("panicked at"));
    let said = panics.flatten().copied();
    let names = lines
        .iter()
        .copied()
        .filter(|line| line.starts_with("test ") && line.ends_with("... FAILED"));
    said.chain(names).collect()
}

/// `test result: ok. 12 passed; 0 failed; ...`
fn parse_results(text: &str) -> (usize, usize) {
    let number = |line: &str, what: &str| -> usize {
        line.split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
            .unwrap_or(0)
    };
    text.lines()
        .filter(|line| line.starts_with("test result:"))
        .fold((0, 0), |(passed, failed), line| {
            (
                passed + number(line, "passed"),
                failed + number(line, "failed"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_named_with_its_first_words() {
        let text = "test a::fits ... ok\n\
             test b::fits ... FAILED\n\
             ---- b::fits stdout ----\n\
             thread 'b::fits' (12) panicked at agent/src/b.rs:7:1:\n\
             they do not fit\n\
             note: run with backtrace\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        let expected = [
            "thread 'b::fits' (12) panicked at agent/src/b.rs:7:1:",
            "they do not fit",
            "test b::fits ... FAILED",
        ];
        assert_eq!(failures(text), expected);
    }

    #[test]
    fn results_of_all_test_binaries_are_summed() {
        let text = "test a ... ok\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
             test result: FAILED. 10 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.50s\n";
        assert_eq!(parse_results(text), (12, 1));
        assert!(failures(text).is_empty());
        assert_eq!(parse_results(""), (0, 0));
    }
}
