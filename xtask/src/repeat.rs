//! `repeat`: the tests of the gate again and again, those on containers beside a load and without it.

use std::{
    fmt::Write as _,
    fs,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{
    build::{self, Profile},
    document::{self, Section},
    e2e::{Outcomes, Selection, Suite},
    interrupt, setup, step,
};

/// What runs beside them: more busy threads than there are CPUs, and two that keep syncing.
const LOAD: [&str; 4] = ["--cpu", "4", "--io", "2"];
const SECTION: Section = Section {
    document: "docs/testing.md",
    name: "repeat",
};

/// Run the tests of the gate again and again, and write the table of docs/testing.md.
///
/// First the unit tests, those of properties with a new seed each time. Then those on containers, first with `stress-ng --cpu 4 --io 2` beside them, then without. A test that fails is not run again
/// here. Takes some twenty minutes; needs root.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Runs of each kind
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    times: u32,
    /// Only tests whose name contains FILTER; printed, not written
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    interrupt::catch();
    interrupt::exit_code(repeat(arguments))
}

struct Run {
    is_loaded: bool,
    outcomes: Outcomes,
    seconds: f64,
}

fn repeat(arguments: &Arguments) -> Result<()> {
    let commit = document::commit();
    setup::run(&setup::Arguments {
        test: true,
        load: true,
        ..setup::Arguments::default()
    })?;
    let tests = build::build_tests(&build::Target::host()?, Profile::Quick)?;
    if arguments.only.is_none() {
        units(arguments.times)?;
    }
    let mut runs = Vec::new();
    for is_loaded in [true, false] {
        let mut load = is_loaded.then(Load::start).transpose()?;
        for time in 1..=arguments.times {
            let beside = if is_loaded { "beside a load" } else { "alone" };
            println!("run {time} of {}, {beside}", arguments.times);
            let suite = Suite::new(&tests, &format!("repeat-{is_loaded}-{time}"))
                .limited(crate::test::LIMIT)
                .expecting(Some(crate::ci::EXPECTED_SKIPS));
            let selection = arguments
                .only
                .as_deref()
                .map_or(Selection::Gate, Selection::Containing);
            let start = Instant::now();
            let outcomes = suite.run(&suite.list(selection)?)?;
            let seconds = start.elapsed().as_secs_f64();
            if let Some(load) = &mut load {
                load.expect_alive()?;
            }
            outcomes.print();
            runs.push(Run {
                is_loaded,
                outcomes,
                seconds,
            });
        }
    }
    let text = render(&runs, commit.as_deref());
    print!("{text}");
    if arguments.only.is_none() {
        SECTION.write(&text)?;
        println!("wrote {}", SECTION.document);
    }
    let failed: usize = runs.iter().map(|run| run.outcomes.failed()).sum();
    if failed > 0 {
        bail!("{failed} failures in {} runs", runs.len());
    }
    Ok(())
}

/// Tests of properties, each time with values that the gate has never seen.
fn units(times: u32) -> Result<()> {
    let target = build::Target::host()?;
    let start = SystemTime::now().duration_since(UNIX_EPOCH);
    let start = start.map_or(0, |since| since.as_secs());
    for time in 0..times {
        interrupt::check()?;
        let mut counted = crate::test::Counted::default();
        crate::test::units(&target, start + u64::from(time), &mut counted)?;
    }
    Ok(())
}

fn render(runs: &[Run], commit: Option<&str>) -> String {
    let mut text = format!(
        "Written by `cargo xtask repeat` at {}, on {}.\n",
        commit.unwrap_or("an unknown commit"),
        document::machine()
    );
    for (is_loaded, title) in [
        (true, format!("Beside `stress-ng {}`:", LOAD.join(" "))),
        (false, "Alone:".to_owned()),
    ] {
        let _ = write!(
            text,
            "\n{title}\n\n| run | passed | failed | skipped | slowest test | all |\n\
             | ---: | ---: | ---: | ---: | --- | ---: |\n"
        );
        let of_kind = runs.iter().filter(|run| run.is_loaded == is_loaded);
        for (index, run) in of_kind.enumerate() {
            let outcomes = &run.outcomes;
            let (passed, failed) = (outcomes.passed(), outcomes.failed());
            let slowest = outcomes
                .0
                .iter()
                .filter_map(|outcome| Some((outcome.last()?.seconds, outcome.name.as_str())))
                .max_by(|one, other| one.0.total_cmp(&other.0))
                .map_or(String::new(), |(seconds, name)| {
                    format!("`{name}` {seconds:.1} s")
                });
            let _ = writeln!(
                text,
                "| {} | {passed} | {failed} | {} | {slowest} | {:.0} s |",
                index + 1,
                outcomes.0.len() - passed - failed,
                run.seconds
            );
        }
    }
    for run in runs {
        for outcome in run.outcomes.0.iter().filter(|outcome| !outcome.is_ok()) {
            let beside = if run.is_loaded {
                "beside the load"
            } else {
                "alone"
            };
            let _ = write!(text, "\n- **failed** {beside}: `{}`", outcome.name);
        }
    }
    text
}

/// Other people's work; ended on drop.
struct Load {
    child: Child,
    _directory: TempDir,
}

impl Load {
    /// Its files go where disks are: `/tmp` is memory on many hosts.
    fn start() -> Result<Self> {
        let directory = TempDir::with_prefix_in("ctrscope-load-", "/var/tmp")?;
        let log = step::log("stress-ng");
        let log =
            fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new("stress-ng")
            .args(LOAD)
            .arg("--temp-path")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot run stress-ng: `cargo xtask setup --load` installs it")?;
        Ok(Self {
            child,
            _directory: directory,
        })
    }

    fn expect_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot wait for stress-ng")? {
            Some(status) => bail!(
                "stress-ng ended by itself, {status}: see {}",
                step::log("stress-ng").display()
            ),
            None => Ok(()),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let Ok(group) = i32::try_from(self.child.id()) else {
            return;
        };
        // It ends its workers on SIGTERM.
        // SAFETY: the group of a child that has not been waited for.
        unsafe { libc::kill(-group, libc::SIGTERM) };
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // SAFETY: as above.
                unsafe { libc::kill(-group, libc::SIGKILL) };
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
