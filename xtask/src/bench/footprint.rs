//! Memory and CPU time of the agent, and the time of a scrape, by the number of cgroups.

use std::{
    fmt, fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ctrscope_tests::{Agent, Metrics, wait_until};
use serde_json::Value;

use super::{
    Effort,
    cgroups::Cgroups,
    load::{self, Process},
    programs,
    report::{Section, Table, Target, median, number},
};
use crate::{interrupt, step};

/// A number of cgroups, and what is in them.
#[derive(Clone, Copy, PartialEq)]
enum Case {
    /// A task ran once in each; nothing does any more.
    Left(usize),
    /// A process sleeps in each, and some more work a fiftieth of the time.
    Inhabited { idle: usize, busy: usize },
}

impl Case {
    fn cgroups(self) -> usize {
        match self {
            Self::Left(count) => count,
            Self::Inhabited { idle, busy } => idle + busy,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left(count) => write!(f, "{count}"),
            Self::Inhabited { idle, busy } => write!(f, "{idle} idle, {busy} busy"),
        }
    }
}

const CASES: [Case; 5] = [
    Case::Left(0),
    Case::Left(100),
    Case::Inhabited {
        idle: 150,
        busy: 50,
    },
    Case::Left(1_000),
    Case::Inhabited {
        idle: 1_000,
        busy: 20,
    },
];
/// What a busy one does: 2 ms of each 100.
const BUSY: &str = "sleep-burn --burn-ms 2 --sleep-ms 98";
/// `--max-containers`: room for the host's own beside the thousand.
const LIMIT: &str = "1100";
/// As Prometheus scrapes by default in many a set-up.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);
/// Between two scrapes that shall both collect. A snapshot is shared while it is young.
const COLLECTING_INTERVAL: Duration = Duration::from_secs(1);
/// Oldest numbers of cgroup files that a scrape may have, seconds.
const OLDEST_FILES: f64 = 15.0;
/// For the agent to find all cgroups.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(60);
/// After that: what is new is read a few times before it is known to be quiet.
const SETTLING: Duration = Duration::from_secs(30);
const MB: f64 = 1e6;

/// What was measured with one number of cgroups.
struct Footprint {
    case: Case,
    containers: u64,
    memory: Memory,
    map_bytes: f64,
    cpu_ms_a_minute: f64,
    /// Of the scrapes in the window in which CPU time was measured.
    spaced_ms: Vec<f64>,
    collecting_ms: Vec<f64>,
    cached_ms: Vec<f64>,
    /// Age of the oldest numbers of cgroup files in any of the scrapes, seconds.
    oldest_files: f64,
    bytes: usize,
    series: usize,
    switch_ns: f64,
}

/// Of `/proc/<pid>/status`, bytes.
pub(super) struct Memory {
    pub(super) resident: f64,
    anonymous: f64,
    file: f64,
    shared: f64,
    pub(super) peak: f64,
}

pub(super) fn measure(effort: &Effort, workload: &Path) -> Result<Vec<Section>> {
    let mut footprints = Vec::new();
    for case in CASES {
        let what = format!("agent with {case} cgroups: memory, CPU, scrapes");
        footprints.push(step::timed(&what, || measure_with(effort, workload, case))?);
    }
    Ok(vec![
        memory_section(effort, &footprints),
        scrape_section(&footprints),
    ])
}

/// Lets processes live in the cgroups of a case.
fn inhabit(workload: &Path, cgroups: &Cgroups, case: Case) -> Result<Vec<Process>> {
    let Case::Inhabited { idle, .. } = case else {
        return Ok(Vec::new());
    };
    let (idle, busy) = cgroups.made().split_at(idle);
    let mut processes = vec![load::sleepers(idle)?];
    for cgroup in busy {
        processes.push(load::workload(workload, cgroup, BUSY)?);
    }
    Ok(processes)
}

fn measure_with(effort: &Effort, workload: &Path, case: Case) -> Result<Footprint> {
    let mut cgroups = Cgroups::new()?;
    let agent = Agent::start(&["--max-containers", LIMIT])?;
    // The agent meets them one by one, as in life.
    cgroups.grow_to(case.cgroups())?;
    let processes = inhabit(workload, &cgroups, case)?;
    let prefix = format!("{}/", cgroups.path());
    wait_until(DISCOVERY_PATIENCE, "discovery of all cgroups", || {
        interrupt::check()?;
        let snapshot = agent.snapshot_json()?;
        let found = snapshot["containers"].as_array().map_or(0, |list| {
            list.iter()
                .filter_map(|entry| entry["identity"]["cgroup"].as_str())
                .filter(|cgroup| cgroup.starts_with(&prefix))
                .count()
        });
        Ok((found >= cgroups.len()).then_some(()))
    })?;
    interrupt::pause(SETTLING)?;

    let (cpu_ms_a_minute, spaced_ms) = cpu_ms_a_minute(effort, &agent)?;
    let (mut collecting_ms, mut cached_ms) = (Vec::new(), Vec::new());
    let (mut bytes, mut series) = (0, 0);
    let mut oldest_files: f64 = 0.0;
    let scrapes = match case {
        Case::Left(_) => effort.scrapes,
        Case::Inhabited { .. } => effort.inhabited_scrapes,
    };
    for _ in 0..scrapes {
        interrupt::pause(COLLECTING_INTERVAL)?;
        let (ms, text) = scrape(&agent)?;
        collecting_ms.push(ms);
        let age = Metrics::parse(&text).value("ctrscope_cgroup_files_age_seconds", &[]);
        oldest_files = oldest_files.max(age.unwrap_or(0.0));
        bytes = text.len();
        series = text.lines().filter(|line| !line.starts_with('#')).count();
        cached_ms.push(scrape(&agent)?.0);
    }
    let memory = memory_of(agent.pid())?;
    let status = status(&agent)?;
    let map_bytes = map_bytes(&status);
    // The ping-pong has the CPU for itself.
    drop(processes);
    let (first, second) = (cgroups.make("first")?, cgroups.make("second")?);
    let switch_ns = programs::switch_beyond_ns(effort, agent.pid(), &first, &second)?;
    Ok(Footprint {
        case,
        containers: status["containers"].as_u64().unwrap_or(0),
        memory,
        map_bytes,
        cpu_ms_a_minute,
        spaced_ms,
        collecting_ms,
        cached_ms,
        oldest_files,
        bytes,
        series,
        switch_ns,
    })
}

/// `/status`.
pub(super) fn status(agent: &Agent) -> Result<Value> {
    let answer = agent.get("/status")?;
    if answer.status != 200 {
        bail!("/status: {} {}", answer.status, answer.text());
    }
    Ok(serde_json::from_slice(&answer.body)?)
}

/// Kernel memory of all maps, bytes.
pub(super) fn map_bytes(status: &Value) -> f64 {
    let maps = status["agent"]["maps"].as_array().into_iter().flatten();
    let bytes: u64 = maps.filter_map(|map| map["bytes"].as_u64()).sum();
    bytes as f64
}

fn scrape(agent: &Agent) -> Result<(f64, String)> {
    let start = Instant::now();
    let answer = agent.get("/metrics")?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    if answer.status != 200 {
        bail!("/metrics: {} {}", answer.status, answer.text());
    }
    Ok((ms, answer.text()))
}

/// CPU time that the agent needs a minute, scraped each 15 s, and how long each scrape took.
fn cpu_ms_a_minute(effort: &Effort, agent: &Agent) -> Result<(f64, Vec<f64>)> {
    let start = Instant::now();
    let before = cpu_time(agent.pid())?;
    let mut next = SCRAPE_INTERVAL;
    let mut spaced_ms = Vec::new();
    while next <= effort.cpu_window {
        interrupt::pause(next.saturating_sub(start.elapsed()))?;
        spaced_ms.push(scrape(agent)?.0);
        next += SCRAPE_INTERVAL;
    }
    let used = cpu_time(agent.pid())?.saturating_sub(before);
    let ms = used.as_secs_f64() * 1e3 * 60.0 / start.elapsed().as_secs_f64();
    Ok((ms, spaced_ms))
}

/// CPU time of a process, its ended threads included, to the nanosecond.
fn cpu_time(pid: u32) -> Result<Duration> {
    let mut clock = 0;
    // SAFETY: a valid pointer to write to.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if error != 0 {
        return Err(std::io::Error::from_raw_os_error(error)).context("no CPU clock of the agent");
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: as above.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot read the agent's CPU clock");
    }
    Ok(Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec)?,
    ))
}

pub(super) fn memory_of(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent has gone")?;
    let bytes = |name: &str| -> Result<f64> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .with_context(|| format!("no {name} in /proc/<pid>/status"))?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024.0)
    };
    Ok(Memory {
        resident: bytes("VmRSS")?,
        anonymous: bytes("RssAnon")?,
        file: bytes("RssFile")?,
        shared: bytes("RssShmem")?,
        peak: bytes("VmHWM")?,
    })
}

fn memory_section(effort: &Effort, footprints: &[Footprint]) -> Section {
    let mut table = Table::new(&[
        "cgroups made",
        "containers seen",
        "RSS MB",
        "anonymous",
        "file",
        "shared",
        "peak RSS",
        "kernel maps MB",
        "CPU ms a minute",
        "% of a CPU",
        "ns a switch",
    ]);
    let mut targets = Vec::new();
    for footprint in footprints {
        let memory = &footprint.memory;
        table.row([
            footprint.case.to_string(),
            footprint.containers.to_string(),
            number(memory.resident / MB),
            number(memory.anonymous / MB),
            number(memory.file / MB),
            number(memory.shared / MB),
            number(memory.peak / MB),
            number(footprint.map_bytes / MB),
            number(footprint.cpu_ms_a_minute),
            number(footprint.cpu_ms_a_minute / 600.0),
            number(footprint.switch_ns),
        ]);
        let case = footprint.case;
        let (limit, most_percent) = match case {
            Case::Left(100) => (40.0, None),
            Case::Left(1_000) => (60.0, None),
            Case::Left(_) => continue,
            Case::Inhabited { idle: 1_000, .. } => (60.0, Some(0.5)),
            Case::Inhabited { .. } => (40.0, Some(1.0)),
        };
        let what = format!("RSS with {case} cgroups");
        targets.push(Target::at_most(&what, limit, memory.resident / MB, "MB"));
        if let Some(most) = most_percent {
            let what = format!("CPU time of the agent with {case} cgroups, a scrape each 15 s");
            let percent = footprint.cpu_ms_a_minute / 600.0;
            targets.push(Target::at_most(&what, most, percent, "% of a CPU"));
        }
    }
    Section {
        title: "Memory and CPU time of the agent",
        method: format!(
            "`--max-containers {LIMIT}` in all of them, so that a thousand cgroups fit beside the host's own; all \
             else at its default. The cgroups are plain ones, made while the agent runs, in each hierarchy that it \
             reads, and each has run a task. In idle ones a process sleeps, in busy ones the workload does \
             `{BUSY}`. CPU time over {} s, from {} s after the last of them was found, with a scrape each 15 s (and the agent's own \
             collections each 5 s); RSS after it and after the scrapes below. Maps that the agent maps into its memory \
             count in *file* or *shared* as well as in *kernel maps*, which is what the kernel holds for all of \
             them. *ns a switch*: `sched_switch` beyond an empty program, across two of the cgroups.",
            effort.cpu_window.as_secs(),
            SETTLING.as_secs(),
        ),
        tables: vec![table],
        targets,
    }
}

fn scrape_section(footprints: &[Footprint]) -> Section {
    let mut table = Table::new(&[
        "cgroups made",
        "1 s apart, ms",
        "least",
        "most",
        "15 s apart, ms",
        "most",
        "young snapshot, ms",
        "oldest files, s",
        "MB",
        "series",
    ]);
    let mut targets = Vec::new();
    for footprint in footprints {
        let collecting = &footprint.collecting_ms;
        table.row([
            footprint.case.to_string(),
            number(median(collecting)),
            number(collecting.iter().copied().fold(f64::INFINITY, f64::min)),
            number(most(collecting)),
            number(median(&footprint.spaced_ms)),
            number(most(&footprint.spaced_ms)),
            number(median(&footprint.cached_ms)),
            number(footprint.oldest_files),
            number(footprint.bytes as f64 / MB),
            footprint.series.to_string(),
        ]);
        if footprint.case == Case::Left(1_000) {
            let what = "scrape with 1000 cgroups, median of those 1 s apart";
            targets.push(Target::at_most(what, 50.0, median(collecting), "ms"));
            let what = "the same, median of those 15 s apart";
            targets.push(Target::at_most(
                what,
                50.0,
                median(&footprint.spaced_ms),
                "ms",
            ));
        }
        if let Case::Inhabited { .. } = footprint.case {
            let case = footprint.case;
            let what = format!(
                "the slowest of {} scrapes with {case} cgroups",
                collecting.len()
            );
            targets.push(Target::at_most(&what, 50.0, most(collecting), "ms"));
            let what = "the oldest numbers of cgroup files in them";
            targets.push(Target::at_most(
                what,
                OLDEST_FILES,
                footprint.oldest_files,
                "s",
            ));
        }
    }
    Section {
        title: "Scrapes",
        method: format!(
            "`GET /metrics` over loopback, from the connection to the last byte. {} scrapes ({} with the most cgroups), \
             {} s apart, so that each collects; right after each another one, which is answered from the snapshot that is \
             still young. Cgroup files are read on a thread of their own, at most for a fiftieth of the time and those of \
             an idle cgroup rarely; a scrape waits 10 ms for them at most, and *oldest files* is the age of the \
             oldest numbers that any of them had. The scrapes 15 s apart are the {} of the section above, and also come up against it.",
            footprints
                .first()
                .map_or(0, |footprint| footprint.collecting_ms.len()),
            footprints
                .last()
                .map_or(0, |footprint| footprint.collecting_ms.len()),
            COLLECTING_INTERVAL.as_secs_f64(),
            footprints
                .first()
                .map_or(0, |footprint| footprint.spaced_ms.len()),
        ),
        tables: vec![table],
        targets,
    }
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
