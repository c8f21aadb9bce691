//! What a flame graph takes, beside the same one by `perf` and inferno, and what it holds where many files are mapped.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ctrscope_tests::Agent;
use tempfile::TempDir;

use super::{
    Effort, footprint,
    load::Process,
    report::{Section, Table, Target, median, number},
};
use crate::{interrupt, setup::inferno, step};

/// Length of each recording, seconds: 1,188 samples on two CPUs.
const SECONDS: u64 = 6;
/// Different files with code that a program has mapped.
const FILES: usize = 50;
/// Bytes of the largest of them at least, where there is one.
const LARGE: u64 = 100_000_000;
/// Where Debian and others keep programs and libraries.
const LIBRARIES: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/bin"];
/// Recordings until all tables are made, of 3 s.
const RECORDINGS: usize = 8;

const PYTHON: &str = "/usr/bin/python3";
const BUSY: &str = "import json\nwhile True: json.dumps([{'a': [1, 2, 'x']}] * 50)";
/// Maps what holds code of the files that it is given, as a loader would, and is busy.
const MAPS: &str = "\
import mmap, struct, sys
kept = []
for path in sys.argv[1:]:
    with open(path, 'rb') as file:
        head = file.read(64)
        table, = struct.unpack_from('<Q', head, 32)
        size, count = struct.unpack_from('<HH', head, 54)
        file.seek(table)
        entries = file.read(size * count)
        for index in range(count):
            kind, flags, offset, _, _, length = struct.unpack_from('<IIQQQQ', entries, index * size)
            if kind == 1 and flags & 1 and length:
                low = offset & ~4095
                kept.append(mmap.mmap(file.fileno(), offset + length - low, flags=mmap.MAP_PRIVATE,
                                      prot=mmap.PROT_READ | mmap.PROT_EXEC, offset=low))
while True:
    sum(range(10000))
";

pub(super) fn measure(effort: &Effort, workload: &Path) -> Result<Vec<Section>> {
    Ok(vec![beside_perf(effort, workload)?, many_files()?])
}

fn beside_perf(effort: &Effort, workload: &Path) -> Result<Section> {
    let agent = Agent::start(&[])?;
    let _busy = Process::start(
        "a busy loop",
        Command::new(workload).args(["burn", "--threads", "1"]),
    )?;
    let _python = Process::start("Python", Command::new(PYTHON).args(["-c", BUSY]))?;
    let directory = TempDir::new()?;
    let (mut ours, mut theirs, mut samples) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = effort.rounds.min(5);
    step::timed(
        &format!("flame graphs of {SECONDS} s, beside perf and inferno, {rounds} times"),
        || {
            // The first one reads the symbols of the kernel and the tables of what runs.
            record(&agent, 1)?;
            for _ in 0..rounds {
                interrupt::check()?;
                let (took, count) = record(&agent, SECONDS)?;
                ours.push(beyond(took));
                samples.push(count);
                theirs.push(beyond(by_perf(directory.path())?));
            }
            Ok(())
        },
    )?;
    let mut table = Table::new(&["after the window", "median ms", "least", "most"]);
    for (what, values) in [
        ("ctrscope flame, until the SVG is there", &ours),
        (
            "perf record -a -g, perf script, inferno-collapse-perf, inferno-flamegraph",
            &theirs,
        ),
    ] {
        table.row([
            what.to_owned(),
            number(median(values)),
            number(values.iter().copied().fold(f64::INFINITY, f64::min)),
            number(values.iter().copied().fold(0.0, f64::max)),
        ]);
    }
    let ratio = median(&theirs) / median(&ours);
    let count = median(&samples);
    Ok(Section {
        title: "Flame graphs",
        method: format!(
            "{rounds} times {SECONDS} s at 99 Hz of the whole host, in turns, beside a busy loop and a busy Python; \
             {} samples (median). perf walks by frame pointers, ctrscope by unwind tables. What is measured is the \
             time beyond the window.",
            number(count)
        ),
        tables: vec![table],
        targets: vec![
            Target::at_least(
                "perf's time after the window, in ours",
                10.0,
                ratio,
                "times",
            ),
            Target::at_most(
                "time after the window for each 1,000 samples",
                200.0,
                median(&ours) / count * 1_000.0,
                "ms",
            ),
        ],
    })
}

/// Milliseconds beyond the window.
fn beyond(took: Duration) -> f64 {
    took.saturating_sub(Duration::from_secs(SECONDS))
        .as_secs_f64()
        * 1e3
}

/// Has the agent draw; gives how long it took, and the samples.
fn record(agent: &Agent, seconds: u64) -> Result<(Duration, f64)> {
    let path = format!("/api/v1/profile?type=cpu&seconds={seconds}&format=svg");
    let start = Instant::now();
    let answer = agent.get_slow(&path, Duration::from_secs(60))?;
    let took = start.elapsed();
    if answer.status != 200 {
        bail!("profile: {} {}", answer.status, answer.text());
    }
    let text = answer.text();
    let before = text.find(" samples, ").context("no number of samples")?;
    let digits: String = text
        .get(..before)
        .unwrap_or_default()
        .chars()
        .rev()
        .take_while(|c| c.is_ascii_digit() || *c == ',')
        .filter(char::is_ascii_digit)
        .collect();
    let count: String = digits.chars().rev().collect();
    Ok((took, count.parse().context("no number of samples")?))
}

/// The same by perf and inferno.
fn by_perf(directory: &Path) -> Result<Duration> {
    let data = directory.join("perf.data");
    let start = Instant::now();
    let seconds = SECONDS.to_string();
    let recorded = Command::new("perf")
        .args(["record", "-q", "-a", "-g", "-F", "99", "-o"])
        .arg(&data)
        .args(["--", "sleep", &seconds])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot run perf")?;
    if !recorded.success() {
        bail!("perf record: {recorded}");
    }
    let graph = fs::File::create(directory.join("perf.svg"))?;
    let mut script = Command::new("perf")
        .args(["script", "-i"])
        .arg(&data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut collapse = Command::new(inferno::path("inferno-collapse-perf"))
        .stdin(script.stdout.take().context("perf script has no output")?)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run inferno-collapse-perf")?;
    let drawn = Command::new(inferno::path("inferno-flamegraph"))
        .stdin(collapse.stdout.take().context("no collapsed stacks")?)
        .stdout(graph)
        .stderr(Stdio::null())
        .status()
        .context("cannot run inferno-flamegraph")?;
    let (script, collapse) = (script.wait()?, collapse.wait()?);
    if !(drawn.success() && script.success() && collapse.success()) {
        bail!("perf script: {script}, inferno: {collapse}, {drawn}");
    }
    Ok(start.elapsed())
}

fn many_files() -> Result<Section> {
    let files = files_with_code()?;
    let bytes: u64 = files.iter().map(|(bytes, _)| bytes).sum();
    let largest = files.first().map_or(0, |(bytes, _)| *bytes);
    let agent = Agent::start(&[])?;
    let before = footprint::memory_of(agent.pid())?;
    let mut command = Command::new(PYTHON);
    command.args(["-c", MAPS]);
    command.args(files.iter().map(|(_, path)| path));
    let mut program = Process::start("a program that maps files", &mut command)?;
    step::timed(
        &format!("profiles of a program with {} files mapped", files.len()),
        || {
            for _ in 0..RECORDINGS {
                interrupt::check()?;
                program.expect_alive()?;
                record(&agent, 3)?;
            }
            Ok(())
        },
    )?;
    let after = footprint::memory_of(agent.pid())?;
    let status = footprint::status(&agent)?;
    let maps = footprint::map_bytes(&status);
    let mut table = Table::new(&["agent", "RSS MB", "peak RSS MB", "kernel maps MB"]);
    table.row([
        "before".to_owned(),
        number(before.resident / 1e6),
        number(before.peak / 1e6),
        String::new(),
    ]);
    table.row([
        "after".to_owned(),
        number(after.resident / 1e6),
        number(after.peak / 1e6),
        number(maps / 1e6),
    ]);
    let mut targets = vec![
        Target::at_most(
            "RSS with 50 files mapped",
            150.0,
            after.resident / 1e6,
            "MB",
        ),
        Target::at_most("kernel maps with 50 files mapped", 150.0, maps / 1e6, "MB"),
    ];
    targets.push(Target::at_least(
        "files mapped",
        FILES as f64,
        files.len() as f64,
        "files",
    ));
    targets.push(Target::at_least(
        "the largest of them",
        LARGE as f64 / 1e6,
        largest as f64 / 1e6,
        "MB",
    ));
    Ok(Section {
        title: "Unwind tables",
        method: format!(
            "{RECORDINGS} profiles of 3 s of a host where a program has the code of {} different files mapped, \
             {} MB of files together.",
            files.len(),
            number(bytes as f64 / 1e6)
        ),
        tables: vec![table],
        targets,
    })
}

/// The largest files of 64 bits that hold code, and a library of the compiler's, which has more than 100 MB.
fn files_with_code() -> Result<Vec<(u64, PathBuf)>> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot = sysroot.context("cannot run rustc")?.stdout;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    let mut folders: Vec<PathBuf> = LIBRARIES.iter().map(PathBuf::from).collect();
    folders.push(sysroot.join("lib"));
    let mut found = Vec::new();
    for folder in folders {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_file() && is_elf(&entry.path()) {
                found.push((metadata.len(), entry.path()));
            }
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    found.truncate(FILES);
    Ok(found)
}

fn is_elf(path: &Path) -> bool {
    let mut head = [0; 5];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head == *b"\x7fELF\x02"
}
