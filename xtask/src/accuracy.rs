//! `accuracy`: the long run. All end-to-end tests, with the strict tolerances, each measurement repeated.

use std::{fmt::Write as _, fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    build::{self, Profile},
    document,
    e2e::{Outcome, Outcomes, Selection, Suite, Verdict},
    flamegraphs, interrupt, scenes, setup, step,
};

/// Where the results go, from the root of the repository.
const DOCUMENT: &str = "docs/accuracy.md";
/// How often each measurement is to succeed; see `ctrscope_tests::measure`.
const TRIES: &str = "CTRSCOPE_TRIES";
/// Where the tests leave what they measured, a JSON object a line.
const RESULTS: &str = "CTRSCOPE_RESULTS";
/// Longest that a test may take, all of its tries included.
const LIMIT: Duration = Duration::from_secs(1800);

/// Measure how true the numbers are: all end-to-end tests on real containers, with the strict tolerances.
///
/// Each measurement is repeated and judged by its median. A try while the hypervisor stole or others used
/// too much of the CPUs is inconclusive: it is made again, and never counts as passed. Nothing that fails
/// is run again. Builds what users get, prints what was found and writes docs/accuracy.md; takes about
/// 40 minutes, best on an idle machine. Writes docs/flamegraphs.md, and the scenes in docs/diagnosis.md, too
/// where all of their tests passed. Needs root.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only tests whose name contains FILTER; printed, not written (but for docs/flamegraphs.md and docs/diagnosis.md)
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// How often each measurement is to succeed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    tries: u32,
    /// Show what the tests said
    #[arg(long)]
    show_output: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    interrupt::catch();
    interrupt::exit_code(measure(arguments))
}

fn measure(arguments: &Arguments) -> Result<()> {
    let commit = document::commit();
    setup::run(&setup::Arguments {
        test: true,
        accuracy: true,
        ..setup::Arguments::default()
    })?;
    let tests = build::build_tests(&build::Target::host()?, Profile::Release)?;
    let results = step::target_directory().join("xtask/accuracy.jsonl");
    let results = std::path::absolute(results)?;
    let _ = fs::remove_file(&results);
    let pictures = flamegraphs::directory()?;
    let scenes = scenes::file()?;
    let suite = Suite::new(&tests, "accuracy")
        .limited(LIMIT)
        .shown(arguments.show_output)
        .expecting(Some(crate::ci::EXPECTED_SKIPS))
        .with(TRIES, arguments.tries.to_string())
        .with(RESULTS, results.as_os_str())
        .with(flamegraphs::VARIABLE, pictures.as_os_str())
        .with(scenes::VARIABLE, scenes.as_os_str());
    let selection = arguments
        .only
        .as_deref()
        .map_or(Selection::All, Selection::Containing);
    let names = suite.list(selection)?;
    let outcomes = suite.run(&names)?;
    outcomes.print();
    let measurements = read(&results)?;
    let text = render(arguments, &outcomes, &measurements, commit.as_deref());
    if arguments.only.is_none() {
        document::write(&step::repository().join(DOCUMENT), &text)?;
        println!("wrote {DOCUMENT}");
    } else {
        print!("{text}");
    }
    let passed_of = |group: &str| {
        let passed = |outcome: &&Outcome| {
            let last = outcome.last();
            outcome.name.contains(group) && last.is_some_and(|last| last.verdict == Verdict::Passed)
        };
        outcomes.0.iter().filter(passed).count()
    };
    for group in [flamegraphs::TESTS, scenes::TESTS] {
        if !names.iter().any(|name| name.contains(group)) {
            continue;
        }
        let (passed, tests) = (
            passed_of(group),
            suite.list(Selection::Containing(group))?.len(),
        );
        if group == flamegraphs::TESTS {
            flamegraphs::write(&pictures, passed, tests, commit.as_deref())?;
        } else {
            scenes::write(&scenes, passed, tests, commit.as_deref())?;
        }
    }
    let (passed, failed) = (outcomes.passed(), outcomes.failed());
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("not green: {failed} tests failed");
    }
    Ok(())
}

/// What a test measured of one thing, over all of its tries.
struct Measurement {
    test: String,
    what: String,
    seen: f64,
    /// `None` where there is only a bound, which is `allowed`.
    account: Option<f64>,
    allowed: f64,
    /// Median over the tries of the difference as a part of what is allowed.
    ratio: f64,
    tries: u64,
    inconclusive: u64,
    /// Highest part of the CPUs' time in a try that counts.
    steal: f64,
    others: f64,
}

/// What the tests left; nothing where none measures.
fn read(path: &Path) -> Result<Vec<Measurement>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .map(|line| parse(line).with_context(|| format!("{}: {line}", path.display())))
        .collect()
}

fn parse(line: &str) -> Result<Measurement> {
    let value: Value = serde_json::from_str(line)?;
    let text = |key: &str| {
        let found = value[key].as_str().map(str::to_owned);
        found.with_context(|| format!("no {key}"))
    };
    let number = |key: &str| value[key].as_f64().with_context(|| format!("no {key}"));
    let count = |key: &str| value[key].as_u64().with_context(|| format!("no {key}"));
    Ok(Measurement {
        test: text("test")?,
        what: text("what")?,
        seen: number("seen")?,
        account: value["account"].as_f64(),
        allowed: number("allowed")?,
        ratio: number("median_ratio")?,
        tries: count("tries")?,
        inconclusive: count("inconclusive")?,
        steal: number("steal")?,
        others: number("others")?,
    })
}

/// A row of the table of tests.
fn line(outcome: &Outcome) -> String {
    let (verdict, seconds) = outcome.last().map_or(("not run", 0.0), |last| {
        let verdict = match &last.verdict {
            Verdict::Passed => "passed",
            Verdict::Skipped(_) => "skipped",
            Verdict::Failed => "**failed**",
            Verdict::Ended => "**failed**, took too long",
        };
        (verdict, last.seconds)
    });
    format!("| `{}` | {verdict} | {seconds:.1} s |", outcome.name)
}

fn render(
    arguments: &Arguments,
    outcomes: &Outcomes,
    measurements: &[Measurement],
    commit: Option<&str>,
) -> String {
    let mut text = format!(
        "# Accuracy\n\n\
         Written by `cargo xtask accuracy` at {}, on {}: {} tests passed, {} failed, {} skipped.\n\n\
         Each measurement was made {} times on an otherwise quiet machine; `tests/src/measure.rs` says \
         which tries are inconclusive and made again. \
         `of allowed` is the median over the tries of the difference, as a part of what is allowed; above 1 \
         fails. Seen, account and allowed are of that try.\n\n\
         | test | what | seen | account | allowed | of allowed | tries | inconclusive | stolen | others |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        commit.unwrap_or("an unknown commit"),
        document::machine(),
        outcomes.passed(),
        outcomes.failed(),
        outcomes.0.len() - outcomes.passed() - outcomes.failed(),
        arguments.tries,
    );
    for measured in measurements {
        let Measurement {
            test,
            what,
            seen,
            account,
            allowed,
            ratio,
            tries,
            inconclusive,
            steal,
            others,
        } = measured;
        let _ = writeln!(
            text,
            "| `{test}` | {what} | {} | {} | {} | {ratio:.3} | {tries} | {inconclusive} | {:.1} % | {:.1} % |",
            short(*seen),
            account.map_or_else(String::new, short),
            short(*allowed),
            steal * 100.0,
            others * 100.0,
        );
    }
    text.push_str("\n| test | verdict | time |\n| --- | --- | ---: |\n");
    for outcome in &outcomes.0 {
        let _ = writeln!(text, "{}", line(outcome));
    }
    for outcome in &outcomes.0 {
        if let Some(Verdict::Skipped(reason)) = outcome.last().map(|last| &last.verdict) {
            let _ = write!(text, "\n- `{}` skipped: {reason}", outcome.name);
        }
    }
    text
}

/// Whole numbers where they are large.
fn short(number: f64) -> String {
    if number.abs() >= 100.0 || number.fract() == 0.0 {
        format!("{number:.0}")
    } else {
        format!("{number:.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_test_left_is_read_and_damaged_lines_are_named() {
        let line = r#"{"test":"accuracy::sched::a","what":"on-CPU ns","seen":10.5,"account":10,
            "allowed":1,"median_ratio":0.5,"tries":3,"inconclusive":1,"steal":0.01,"others":0.1}"#;
        let measured = parse(line).unwrap();
        assert_eq!((measured.tries, measured.inconclusive), (3, 1));
        assert_eq!(measured.ratio, 0.5);
        let error = parse(r#"{"test":"a"}"#).err().unwrap();
        assert!(error.to_string().contains("what"), "{error}");
    }

    #[test]
    fn large_numbers_are_whole() {
        assert_eq!(short(1_234_567.891), "1234568");
        assert_eq!(short(0.25), "0.2500");
        assert_eq!(short(3.0), "3");
    }
}
