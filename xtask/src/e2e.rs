//! The end-to-end tests, each in a process of its own: one that hangs is ended and named, with all that
//! it started, and what each said is in a file of its own.

mod process;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{build, interrupt, step};

/// Names the skips that are accepted; see `ctrscope_tests::skip`.
const EXPECTED_SKIPS: &str = "CTRSCOPE_EXPECTED_SKIPS";
/// How often one is run before it counts as failed.
const ATTEMPTS: usize = 3;
/// Modules that only the long run has (`cargo xtask accuracy`).
const LONG_RUN: &str = "accuracy::";

/// Which tests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection<'a> {
    /// Those whose verdict does not depend on how fast or how quiet the machine is.
    Gate,
    /// All.
    All,
    /// Those whose name has this in it.
    Containing(&'a str),
}

/// How one run of a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    /// With the reason.
    Skipped(String),
    Failed,
    /// It was ended because it took too long.
    Ended,
}

impl Verdict {
    pub(crate) fn is_ok(&self) -> bool {
        matches!(self, Self::Passed | Self::Skipped(_))
    }

    fn text(&self) -> String {
        match self {
            Self::Passed => "ok".to_owned(),
            Self::Skipped(reason) => format!("skipped: {reason}"),
            Self::Failed => "FAILED".to_owned(),
            Self::Ended => "FAILED: ended, it took too long".to_owned(),
        }
    }
}

/// One run of a test.
pub(crate) struct Attempt {
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f64,
    /// What it said.
    pub(crate) log: PathBuf,
}

/// What became of a test.
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// The last one counts.
    pub(crate) attempts: Vec<Attempt>,
}

impl Outcome {
    pub(crate) fn last(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// A test that failed and skips itself when run again has not passed.
    pub(crate) fn is_ok(&self) -> bool {
        self.last().is_some_and(|last| match last.verdict {
            Verdict::Skipped(_) => self.attempts.len() == 1,
            ref verdict => verdict.is_ok(),
        })
    }

    /// Failed first and passed then.
    pub(crate) fn is_flaky(&self) -> bool {
        self.is_ok() && self.attempts.len() > 1
    }

    fn logs(&self) -> String {
        let logs: Vec<_> = self
            .attempts
            .iter()
            .map(|attempt| attempt.log.display().to_string())
            .collect();
        logs.join(", ")
    }
}

/// What became of all.
#[derive(Default)]
pub(crate) struct Outcomes(pub(crate) Vec<Outcome>);

impl Outcomes {
    /// Skipped ones are neither passed nor failed.
    pub(crate) fn passed(&self) -> usize {
        let is_passed = |outcome: &&Outcome| {
            outcome
                .last()
                .is_some_and(|last| last.verdict == Verdict::Passed)
        };
        self.0.iter().filter(is_passed).count()
    }

    pub(crate) fn failed(&self) -> usize {
        self.0.iter().filter(|outcome| !outcome.is_ok()).count()
    }

    pub(crate) fn flaky(&self) -> usize {
        self.0.iter().filter(|outcome| outcome.is_flaky()).count()
    }

    /// Names what did not simply pass.
    pub(crate) fn print(&self) {
        for outcome in &self.0 {
            let logs = outcome.logs();
            if !outcome.is_ok() {
                println!("failed: {} ({logs})", outcome.name);
            } else if outcome.is_flaky() {
                println!("flaky: {} ({logs})", outcome.name);
            } else if let Some(Verdict::Skipped(reason)) = outcome.last().map(|last| &last.verdict)
            {
                println!("skipped: {}: {reason}", outcome.name);
            }
        }
    }
}

/// The end-to-end tests of a build, and how they are run.
pub(crate) struct Suite {
    binary: PathBuf,
    environment: BTreeMap<&'static str, OsString>,
    logs: PathBuf,
    /// Longest that a test may take.
    limit: Duration,
    /// How often one is run before it counts as failed.
    attempts: usize,
    /// Whether the first failure is the end.
    until_failure: bool,
    show_output: bool,
}

impl Suite {
    /// `name` is the directory of their outputs, below `target/xtask/`.
    pub(crate) fn new(tests: &build::Tests, name: &str) -> Self {
        let environment = BTreeMap::from([
            ("CTRSCOPE_BIN", tests.built.agent.clone().into_os_string()),
            (
                "CTRSCOPE_WORKLOAD",
                tests.built.workload.clone().into_os_string(),
            ),
            ("RUST_BACKTRACE", "1".into()),
        ]);
        Self {
            binary: tests.e2e.clone(),
            environment,
            logs: step::target_directory().join("xtask").join(name),
            limit: Duration::from_secs(300),
            attempts: 1,
            until_failure: false,
            show_output: false,
        }
    }

    /// Runs a test that fails again, twice at most.
    pub(crate) fn retried(mut self) -> Self {
        self.attempts = ATTEMPTS;
        self
    }

    /// Runs nothing after the first that fails.
    pub(crate) fn until_failure(mut self) -> Self {
        self.until_failure = true;
        self
    }

    /// Longest that a test may take.
    pub(crate) fn limited(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Shows what each said.
    pub(crate) fn shown(mut self, is_shown: bool) -> Self {
        self.show_output = is_shown;
        self
    }

    /// With such a list any other skip fails.
    pub(crate) fn expecting(mut self, skips: Option<&[&str]>) -> Self {
        if let Some(skips) = skips {
            self.environment
                .insert(EXPECTED_SKIPS, skips.join(";").into());
        }
        self
    }

    /// Sets a variable of their environment.
    pub(crate) fn with(mut self, variable: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.insert(variable, value.into());
        self
    }

    /// Names of the tests.
    ///
    /// # Errors
    ///
    /// The binary cannot be run, or no test is selected.
    pub(crate) fn list(&self, selection: Selection<'_>) -> Result<Vec<String>> {
        let mut command = Command::new(&self.binary);
        command.args(["--list", "--format", "terse"]);
        match selection {
            Selection::Gate => {
                command.args(["--skip", LONG_RUN]);
            }
            Selection::All => {}
            Selection::Containing(filter) => {
                command.arg(filter);
            }
        }
        let output = command
            .output()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        if !output.status.success() {
            bail!("{} --list: {}", self.binary.display(), output.status);
        }
        let names: Vec<String> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| Some(line.strip_suffix(": test")?.to_owned()))
            .collect();
        if names.is_empty() {
            bail!("no end-to-end test is selected");
        }
        Ok(names)
    }

    /// Runs one after the other.
    ///
    /// # Errors
    ///
    /// The binary cannot be run; an interruption. A test that fails is an outcome.
    pub(crate) fn run(&self, names: &[String]) -> Result<Outcomes> {
        let _ = fs::remove_dir_all(&self.logs);
        fs::create_dir_all(&self.logs)
            .with_context(|| format!("cannot create {}", self.logs.display()))?;
        let mut outcomes = Outcomes::default();
        for name in names {
            let mut outcome = Outcome {
                name: name.clone(),
                attempts: Vec::new(),
            };
            while outcome.attempts.len() < self.attempts {
                let attempt = self.attempt(name, outcome.attempts.len() + 1)?;
                println!(
                    "test {name} ... {} ({:.1} s)",
                    attempt.verdict.text(),
                    attempt.seconds
                );
                if self.show_output || !attempt.verdict.is_ok() {
                    step::print_file(&attempt.log);
                }
                outcome.attempts.push(attempt);
                if outcome.is_ok() {
                    break;
                }
            }
            if outcome.is_flaky() {
                println!("flaky: {name}");
            }
            let is_ok = outcome.is_ok();
            outcomes.0.push(outcome);
            if self.until_failure && !is_ok {
                break;
            }
        }
        Ok(outcomes)
    }

    fn attempt(&self, name: &str, number: usize) -> Result<Attempt> {
        let log = self.log(name, number);
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let start = Instant::now();
        let mut command = step::as_root(&self.binary);
        command
            .current_dir(step::repository())
            .args(["--exact", name, "--test-threads=1", "--nocapture"])
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let mut test = process::Test::start(&mut command)
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        let verdict = loop {
            if let Some(status) = test.wait(INTERVAL)? {
                break if status.success() {
                    judge(&log)
                } else {
                    Verdict::Failed
                };
            }
            if start.elapsed() > self.limit {
                break Verdict::Ended;
            }
            // Dropped, it ends what it started.
            interrupt::check()?;
        };
        if !verdict.is_ok() {
            test.end();
        }
        Ok(Attempt {
            verdict,
            seconds: start.elapsed().as_secs_f64(),
            log,
        })
    }

    fn log(&self, name: &str, number: usize) -> PathBuf {
        let name = name.replace("::", ".");
        self.logs.join(match number {
            1 => format!("{name}.log"),
            number => format!("{name}.{number}.log"),
        })
    }
}

/// How often the end of a test is looked for.
const INTERVAL: Duration = Duration::from_millis(20);

/// What a process that ended well has said: that one test passed, or skipped itself.
fn judge(log: &Path) -> Verdict {
    let text = fs::read(log).unwrap_or_default();
    parse_verdict(&String::from_utf8_lossy(&text))
}

/// A process that ran no test ends well too.
fn parse_verdict(text: &str) -> Verdict {
    let is_run = text
        .lines()
        .any(|line| line.contains("test result: ok. 1 passed;"));
    if is_run {
        parse_skip(text).map_or(Verdict::Passed, Verdict::Skipped)
    } else {
        Verdict::Failed
    }
}

/// The runner may have written the name of the test on the same line.
fn parse_skip(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (before, reason) = line.split_once("skipped: ")?;
        let is_alone = before.is_empty() || before.ends_with(" ... ");
        is_alone.then(|| reason.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(verdict: Verdict) -> Attempt {
        Attempt {
            verdict,
            seconds: 1.0,
            log: PathBuf::from("a.log"),
        }
    }

    fn outcome(verdicts: Vec<Verdict>) -> Outcome {
        Outcome {
            name: "a::b".to_owned(),
            attempts: verdicts.into_iter().map(attempt).collect(),
        }
    }

    #[test]
    fn a_skip_is_told_from_what_a_test_prints() {
        let text = "\nrunning 1 test\ntest a::b ... skipped: no disk\nok\n";
        assert_eq!(parse_skip(text).as_deref(), Some("no disk"));
        assert_eq!(parse_skip("skipped: x\nok\n").as_deref(), Some("x"));
        assert_eq!(parse_skip("files skipped: 7\n"), None);
    }

    #[test]
    fn a_process_that_ran_no_test_has_not_passed() {
        let of = |count| format!("\ntest result: ok. {count} passed; 0 failed; 0 ignored\n");
        assert_eq!(parse_verdict(&of(1)), Verdict::Passed);
        assert_eq!(parse_verdict(&of(0)), Verdict::Failed);
        assert_eq!(parse_verdict(""), Verdict::Failed);
        let skipped = parse_verdict(&format!("skipped: no disk\n{}", of(1)));
        assert_eq!(skipped, Verdict::Skipped("no disk".to_owned()));
    }

    #[test]
    fn what_fails_first_and_passes_then_is_flaky_and_what_fails_at_last_is_failed() {
        let outcomes = Outcomes(vec![
            outcome(vec![Verdict::Passed]),
            outcome(vec![Verdict::Failed, Verdict::Passed]),
            outcome(vec![Verdict::Failed, Verdict::Ended, Verdict::Failed]),
            outcome(vec![Verdict::Skipped("why".to_owned())]),
            outcome(vec![Verdict::Failed, Verdict::Skipped("why".to_owned())]),
        ]);
        assert_eq!(outcomes.passed(), 2);
        assert_eq!(outcomes.failed(), 2);
        assert_eq!(outcomes.flaky(), 1);
        assert!(outcomes.0[1].is_flaky() && !outcomes.0[2].is_flaky());
    }
}
