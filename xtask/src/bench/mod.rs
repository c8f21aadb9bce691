//! `bench`: what ctrscope costs, in numbers, and next to what others cost for less.
//!
//! All is measured in one run on one machine, because no number here means anything on another one:
//! the ratios do. Everything that is started is a guard, and signals only set a flag.

mod bpf;
mod cgroups;
mod flame;
mod footprint;
mod load;
mod machine;
mod programs;
mod report;
mod slowdown;
mod start;

use std::{
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{build, interrupt, setup, step};
use report::Section;

/// Where the results go, from the root of the repository.
const DOCUMENT: &str = "docs/benchmarks.md";

/// Measure what ctrscope costs: ns per event, slow-down, memory, CPU, scrapes, start.
///
/// Compares with libbpf-tools' runqlat and biolatency, bpftrace, and perf with inferno, which are installed if they
/// are missing.
/// Prints tables and writes docs/benchmarks.md; takes about a quarter of an hour, best on an idle machine. Needs
/// root. Everything that was started or changed is ended and put back, on Ctrl-C too.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Shorter and fewer measurements, about three minutes; printed, not written
    #[arg(long)]
    quick: bool,
    /// Measure only this; printed, not written
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<Part>,
    /// Use what is installed and built already
    #[arg(long)]
    skip_build: bool,
}

/// A part of the benchmarks.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Nanoseconds of each eBPF program for each event
    Programs,
    /// Slow-down of context switches, also by runqlat and bpftrace
    Slowdown,
    /// Memory, CPU time and scrapes with up to 1,020 cgroups
    Footprint,
    /// Time to start the daemon and a profile
    Start,
    /// Flame graphs beside perf's and inferno's, and what they hold
    Flame,
}

/// How long and how often is measured.
struct Effort {
    rounds: usize,
    window: Duration,
    profile_seconds: u64,
    slowdown_rounds: usize,
    loops: u64,
    cpu_window: Duration,
    scrapes: usize,
    /// The same with the most cgroups.
    inhabited_scrapes: usize,
    starts: usize,
    /// How long to wait, in all, for other people's programs to go.
    patience: Duration,
}

const FULL: Effort = Effort {
    rounds: 7,
    window: Duration::from_secs(2),
    profile_seconds: 10,
    slowdown_rounds: 9,
    loops: 300_000,
    cpu_window: Duration::from_secs(60),
    scrapes: 21,
    inhabited_scrapes: 100,
    starts: 7,
    patience: Duration::from_secs(600),
};

const QUICK: Effort = Effort {
    rounds: 3,
    window: Duration::from_secs(1),
    profile_seconds: 3,
    slowdown_rounds: 3,
    loops: 100_000,
    cpu_window: Duration::from_secs(15),
    scrapes: 5,
    inhabited_scrapes: 20,
    starts: 3,
    patience: Duration::from_secs(30),
};

/// Measures when nobody else has tracing programs loaded and the CPUs are idle, and again if somebody
/// had programs at the end.
struct Quiet {
    left: Duration,
    /// Busy share of the CPUs just before each measurement.
    busy: Vec<f64>,
    measured: u32,
    repeated: u32,
    disturbed: u32,
}

impl Quiet {
    fn new(patience: Duration) -> Self {
        Self {
            left: patience,
            busy: Vec::new(),
            measured: 0,
            repeated: 0,
            disturbed: 0,
        }
    }

    /// Runs `action` in quiet, if that can be had. `own` are the processes whose programs belong.
    fn measure<T>(&mut self, own: &[u32], mut action: impl FnMut() -> Result<T>) -> Result<T> {
        const ATTEMPTS: u32 = 4;
        self.measured += 1;
        for attempt in 1.. {
            let quiet_before = self.wait(own)?;
            let result = action()?;
            if quiet_before && bpf::foreign(own)?.is_empty() {
                return Ok(result);
            }
            if attempt == ATTEMPTS || self.left.is_zero() {
                self.disturbed += 1;
                return Ok(result);
            }
            self.repeated += 1;
        }
        unreachable!("the last attempt returns");
    }

    fn wait(&mut self, own: &[u32]) -> Result<bool> {
        const INTERVAL: Duration = Duration::from_millis(250);
        const IDLE: f64 = 0.1;
        let start = Instant::now();
        loop {
            let before = machine::CpuTimes::read()?;
            interrupt::pause(INTERVAL)?;
            let busy = machine::CpuTimes::read()?.busy_since(&before);
            let quiet = busy <= IDLE && bpf::foreign(own)?.is_empty();
            // The look itself is no waiting.
            let waited = start.elapsed().saturating_sub(INTERVAL);
            if quiet || waited >= self.left {
                self.left = self.left.saturating_sub(waited);
                self.busy.push(busy);
                return Ok(quiet);
            }
        }
    }

    /// What came of it, a sentence.
    fn describe(&self) -> String {
        format!(
            "Before each measurement of context switches and block I/O it waits until nobody else has tracing \
             programs loaded and the CPUs are 90 % idle, but not for ever: {} of {} began or ended \
             otherwise ({} more were repeated for that). Just before them the CPUs were busy to {} % (median; {} % \
             at most).",
            self.disturbed,
            self.measured,
            self.repeated,
            report::number(report::median(&self.busy) * 100.0),
            report::number(self.busy.iter().copied().fold(0.0, f64::max) * 100.0),
        )
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let built = if arguments.skip_build {
        build::built_already()?
    } else {
        setup::run(&setup::Arguments {
            bench: true,
            ..setup::Arguments::default()
        })?;
        build::build()?
    };
    if !step::is_root() {
        println!("eBPF and cgroups need root: sudo asks for it");
        let mut command = step::as_root(std::env::current_exe()?);
        command.args(["bench", "--skip-build"]);
        if arguments.quick {
            command.arg("--quick");
        }
        if let Some(value) = arguments
            .only
            .and_then(|part| clap::ValueEnum::to_possible_value(&part))
        {
            command.args(["--only", value.get_name()]);
        }
        let status = command.status().context("cannot run sudo")?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(ExitCode::from(code.unwrap_or(1)));
    }
    // SAFETY: still single-threaded.
    unsafe { std::env::set_var("CTRSCOPE_BIN", &built.agent) };
    interrupt::catch();
    interrupt::exit_code(bench(arguments, &built.workload))
}

fn bench(arguments: &Arguments, workload: &Path) -> Result<()> {
    let start = Instant::now();
    let effort = if arguments.quick { QUICK } else { FULL };
    let wants = |part| arguments.only.is_none_or(|only| only == part);
    let mut quiet = Quiet::new(effort.patience);
    let mut sections: Vec<Section> = Vec::new();
    if wants(Part::Slowdown) {
        sections.push(slowdown::measure(&effort, &mut quiet)?);
    }
    if wants(Part::Programs) {
        sections.push(programs::measure(&effort, workload, &mut quiet)?);
    }
    if wants(Part::Footprint) {
        sections.extend(footprint::measure(&effort, workload)?);
    }
    if wants(Part::Start) {
        sections.push(start::measure(&effort)?);
    }
    if wants(Part::Flame) {
        sections.extend(flame::measure(&effort, workload)?);
    }
    println!("\n{}", report::text(&sections));
    if quiet.measured > 0 {
        println!("{}", quiet.describe());
    }
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    if arguments.quick || arguments.only.is_some() {
        println!("measured in {minutes:.1} minutes; only a whole run is written to {DOCUMENT}");
        return Ok(());
    }
    let preface = format!(
        "Written by `cargo xtask bench`, all in one run of {minutes:.0} minutes. Times are those of this machine; \
         what carries over to another one are the ratios. {}",
        quiet.describe()
    );
    let text = report::document(&preface, &machine::describe(), &sections);
    let path = step::repository().join(DOCUMENT);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("measured in {minutes:.1} minutes; written to {DOCUMENT}");
    Ok(())
}
