//! `demo`: the agent and real containers that suffer in different ways, for half a minute.
//!
//! Everything that is started is a guard, and signals only set a flag (see [`interrupt`]).

use std::{
    collections::BTreeMap,
    fs,
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ctrscope_ebpf::histogram::{BUCKETS, FIRST_BOUND_LOG2, SCHEMA};
use ctrscope_tests::{Agent, Container, ContainerSpec, Group, cgroup, http};
use serde_json::Value;
use tempfile::TempDir;

use crate::{build, interrupt, setup, step};

/// Container whose flame graph is recorded.
const FLAME_CONTAINER: &str = "bully";
/// Length of its recording.
const FLAME_SECONDS: u64 = 10;

/// Show ctrscope at work: start it and six real containers, and print what each of them suffered.
///
/// The containers are made by runc from a small program of this repository; no image is pulled. One
/// is capped by a quota, a victim and a bully share a CPU, one reads and writes a disk directly, one
/// through the page cache, and one lives two seconds. After half a minute the table is printed and a
/// flame graph is left in target/demo/flame.svg. Everything that was started is ended, on Ctrl-C too.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long the containers run
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(15..=600))]
    seconds: u64,
    /// Use what is installed and built already
    #[arg(long)]
    skip_build: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let built = if arguments.skip_build {
        build::built_already()?
    } else {
        setup::run(&setup::Arguments::default())?;
        build::build()?
    };
    if !step::is_root() {
        println!("containers and eBPF need root: sudo asks for it");
        let status = step::as_root(std::env::current_exe()?)
            .args(["demo", "--skip-build", "--seconds"])
            .arg(arguments.seconds.to_string())
            .status()
            .context("cannot run sudo")?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(ExitCode::from(code.unwrap_or(1)));
    }
    // SAFETY: still single-threaded.
    unsafe { std::env::set_var("CTRSCOPE_BIN", &built.agent) };
    // SAFETY: as above.
    unsafe { std::env::set_var("CTRSCOPE_WORKLOAD", &built.workload) };
    interrupt::catch();
    interrupt::exit_code(show(Duration::from_secs(arguments.seconds)))
}

fn show(duration: Duration) -> Result<()> {
    let output = step::target_directory().join("demo");
    fs::create_dir_all(&output)?;
    // Next to the build, not in /tmp: that is memory on many hosts.
    let data = TempDir::with_prefix_in("data-", &output)?;
    let agent = step::timed("start the agent", || Agent::start(&[]))?;
    println!("    http://{}/metrics", agent.address());
    interrupt::check()?;

    let group = Arc::new(Group::new("ctrscope-demo")?);
    let containers = step::timed("start the containers", || start(&group, data.path()))?;
    for (container, (_, why)) in containers.iter().zip(cast(data.path())) {
        println!("    {:8} {why}", container.name());
    }
    let before = agent.snapshot_json()?;
    let flame = watch(&agent, &group, data.path(), duration)?;
    let after = step::timed("read what was counted", || agent.snapshot_json())?;

    println!();
    print_table(&after, &before, &format!("{}/", group.path()));
    println!();
    let path = output.join("flame.svg");
    fs::write(&path, flame).with_context(|| format!("cannot write {}", path.display()))?;
    println!("flame graph of {FLAME_CONTAINER}: {}", path.display());
    step::timed("end everything that was started", move || {
        drop(containers);
        drop(group);
        agent.stop().map(|_| ())
    })
}

/// Who plays, and what happens to them. The short-lived one comes later.
fn cast(data: &Path) -> [(ContainerSpec, &'static str); 5] {
    let direct = "--file /data/direct --size 33554432 --block 65536 --random --pause-ms 2";
    let buffered = "--file /data/buffered --size 67108864 --fsync-every 64 --pause-ms 5";
    let spec = |name: &str, work: &str| {
        let arguments: Vec<&str> = work.split(' ').collect();
        ContainerSpec::new(name, &arguments)
    };
    [
        (
            spec("capped", "burn --threads 2").quota(30_000, 100_000),
            "wants two CPUs, is capped at 0.3",
        ),
        (
            spec("victim", "sleep-burn --cpu 0 --burn-ms 5 --sleep-ms 10"),
            "works a third of the time, on CPU 0",
        ),
        (
            spec("bully", "burn --threads 3 --cpu 0"),
            "three busy threads, on CPU 0 too",
        ),
        (
            spec("direct", &format!("read-write-direct {direct}")).data(data),
            "reads and writes the disk directly",
        ),
        (
            spec("buffered", &format!("write-buffered {buffered}")).data(data),
            "writes through the page cache, with fsync",
        ),
    ]
}

fn start(group: &Arc<Group>, data: &Path) -> Result<Vec<Container>> {
    cast(data)
        .iter()
        .map(|(spec, _)| {
            interrupt::check()?;
            Container::start(group, spec)
        })
        .collect()
}

/// Lets them run; one more lives for two seconds meanwhile, and a flame graph is recorded.
fn watch(agent: &Agent, group: &Arc<Group>, data: &Path, duration: Duration) -> Result<Vec<u8>> {
    let start = Instant::now();
    let short = ContainerSpec::new("short", &["burn", "--seconds", "2"]).data(data);
    let mut short = Some(Container::start(group, &short)?);
    println!("    short    lives two seconds");
    // Not joined when interrupted: it ends with the agent, which closes the connection.
    let (address, cgroup) = (
        agent.address(),
        format!("{}/{FLAME_CONTAINER}", group.path()),
    );
    let recording = thread::spawn(move || record(address, &cgroup));
    let mut progress = Progress::new(duration);
    while start.elapsed() < duration || !recording.is_finished() {
        interrupt::check()?;
        if short.as_ref().is_some_and(|short| !short.is_alive()) {
            short = None;
        }
        progress.show(start.elapsed());
        thread::sleep(Duration::from_millis(200));
    }
    progress.end();
    match recording.join() {
        Ok(flame) => flame,
        Err(_) => bail!("the recording of the flame graph panicked"),
    }
}

/// Says how far the demo is: on a terminal each second on one line, else a line now and then.
struct Progress {
    duration: Duration,
    terminal: bool,
    next: Duration,
}

impl Progress {
    fn new(duration: Duration) -> Self {
        Self {
            duration,
            terminal: std::io::stdout().is_terminal(),
            next: Duration::ZERO,
        }
    }

    fn show(&mut self, elapsed: Duration) {
        if elapsed < self.next {
            return;
        }
        let (done, all) = (elapsed.as_secs(), self.duration.as_secs());
        if self.terminal {
            print!("\rwatch them ... {done} of {all} s ");
            // A progress line that cannot be written is not worth failing for.
            let _ = std::io::stdout().flush();
        } else {
            println!("watch them ... {done} of {all} s");
        }
        self.next = elapsed + Duration::from_secs(if self.terminal { 1 } else { 10 });
    }

    fn end(&self) {
        if self.terminal {
            println!();
        }
    }
}

fn record(agent: SocketAddr, cgroup: &str) -> Result<Vec<u8>> {
    let container = cgroup.replace('/', "%2F");
    let path = format!(
        "/api/v1/profile?container={container}&type=cpu&seconds={FLAME_SECONDS}&format=svg"
    );
    let answer = http::get(agent, &path, Duration::from_secs(FLAME_SECONDS + 20))?;
    if answer.status != 200 {
        bail!("{path}: {} {}", answer.status, answer.text());
    }
    Ok(answer.body)
}

/// Names that the cgroup of the demo's containers ends in, in the order of the table.
const ORDER: [&str; 6] = ["capped", "bully", "victim", "direct", "buffered", "short"];

/// What was added to a container's numbers since the demo began.
struct Suffered<'a> {
    entry: &'a Value,
    earlier: &'a Value,
}

impl<'a> Suffered<'a> {
    fn find(after: &'a Value, before: &'a Value, cgroup: &str) -> Option<Self> {
        let entry = list(after)
            .iter()
            .find(|entry| self::cgroup(entry) == cgroup)?;
        let earlier = list(before)
            .iter()
            .find(|old| old["identity"] == entry["identity"]);
        Some(Self {
            entry,
            earlier: earlier.unwrap_or(&Value::Null),
        })
    }

    fn sum(&self, path: &str) -> u64 {
        number(self.entry, path).saturating_sub(number(self.earlier, path))
    }

    fn seconds(&self, path: &str) -> f64 {
        self.sum(path) as f64 / 1e9
    }

    fn over_operations(&self, field: &str) -> u64 {
        (0..OPERATIONS)
            .map(|operation| self.sum(&format!("/block/operations/{operation}/{field}")))
            .sum()
    }

    fn disk_bytes(&self) -> u64 {
        self.over_operations("bytes")
    }

    fn has_exited(&self) -> bool {
        self.entry["exited_at_unix_ms"].is_u64()
    }

    fn run_queue_p99(&self) -> String {
        self.p99(&["/sched/run_queue/buckets".to_owned()])
    }

    fn io_p99(&self) -> String {
        let path = |operation| format!("/block/operations/{operation}/latency/buckets");
        self.p99(&(0..OPERATIONS).map(path).collect::<Vec<_>>())
    }

    /// Upper bound of the bucket of the 99th percentile of some histograms together.
    fn p99(&self, paths: &[String]) -> String {
        let mut counts = BTreeMap::<u64, u64>::new();
        for path in paths {
            let old = buckets(self.earlier, path);
            for (index, count) in buckets(self.entry, path) {
                let before = old.get(&index).copied().unwrap_or(0);
                *counts.entry(index).or_default() += count.saturating_sub(before);
            }
        }
        let total: u64 = counts.values().sum();
        let mut seen = 0;
        for (index, count) in counts {
            seen += count;
            if total > 0 && seen * 100 >= total * 99 {
                return duration(upper_bound_ns(index));
            }
        }
        "-".to_owned()
    }
}

/// Kinds of block operations.
const OPERATIONS: usize = 4;

/// One line for each container of the demo, of what was added since `before`.
fn print_table(after: &Value, before: &Value, group: &str) {
    println!(
        "{:10} {:>7} {:>7} {:>9} {:>9} {:>12} {:>13} {:>9} {:>9}",
        "", "", "CPU", "waited", "wait", "throttled", "preempted by", "disk", "I/O",
    );
    println!(
        "{:10} {:>7} {:>7} {:>9} {:>9} {:>12} {:>13} {:>9} {:>9}",
        "container", "state", "s", "s", "p99", "s", "others, times", "MB", "p99",
    );
    let rows = ORDER.map(|name| {
        let found = Suffered::find(after, before, &format!("{group}{name}"));
        (name, found)
    });
    for (name, row) in &rows {
        let Some(row) = row else {
            println!("{name:10} {:>7}", "unseen");
            continue;
        };
        println!(
            "{name:10} {:>7} {:>7.2} {:>9.2} {:>9} {:>12.2} {:>13} {:>9.1} {:>9}",
            if row.has_exited() { "exited" } else { "live" },
            row.seconds("/sched/on_cpu_ns"),
            row.seconds("/sched/run_queue/sum_ns"),
            row.run_queue_p99(),
            row.seconds("/cpu/throttled_ns"),
            row.sum(PREEMPTED_BY_CONTAINER),
            row.disk_bytes() as f64 / 1e6,
            row.io_p99(),
        );
    }
    println!();
    for (name, row) in rows {
        if let Some(story) = row.and_then(|row| story(name, &row)) {
            println!("{name:10}{story}");
        }
    }
}

/// Preemptions by tasks of other containers.
const PREEMPTED_BY_CONTAINER: &str = "/sched/preemptions/1";

/// What the numbers of a container say, in words.
fn story(name: &str, row: &Suffered) -> Option<String> {
    let on_cpu = row.seconds("/sched/on_cpu_ns");
    let waited = row.seconds("/sched/run_queue/sum_ns");
    Some(match name {
        "capped" => format!(
            "was throttled in {} of {} periods: its own quota holds it back (a thread that is \
             throttled counts as waiting)",
            row.sum("/cpu/throttled_periods"),
            row.sum("/cpu/periods"),
        ),
        "bully" => "keeps its CPU busy: three threads that wait for each other, and for the victim"
            .to_owned(),
        "victim" => format!(
            "ran {on_cpu:.1} s and waited {waited:.1} s to do so, of it {:.1} s preempted by other \
             containers",
            row.seconds("/sched/preempted_wait_ns/1"),
        ),
        "direct" => format!(
            "moved {:.0} MB past the page cache; 99 of 100 requests took less than {}",
            row.disk_bytes() as f64 / 1e6,
            row.io_p99(),
        ),
        "buffered" if writeback_is_charged() => format!(
            "wrote through the page cache: its writeback, {:.0} MB, is charged to it (cgroup v2)",
            row.disk_bytes() as f64 / 1e6,
        ),
        "buffered" => format!(
            "wrote {:.0} MB by fsync, on its own account; cgroup v1 charges other writeback to the host",
            row.disk_bytes() as f64 / 1e6,
        ),
        "short" => format!(
            "lived two seconds and ran {on_cpu:.1} of them; it stays listed for five minutes"
        ),
        _ => return None,
    })
}

/// Whether the kernel knows who dirtied a page: where the io controller is on the v2 hierarchy.
fn writeback_is_charged() -> bool {
    cgroup::hierarchies().is_ok_and(|hierarchies| {
        hierarchies.iter().all(|hierarchy| {
            let controllers = hierarchy.controllers.as_deref().unwrap_or_default();
            !controllers.iter().any(|name| name == "blkio")
        })
    })
}

fn buckets(entry: &Value, path: &str) -> BTreeMap<u64, u64> {
    entry
        .pointer(path)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|pair| Some((pair[0].as_u64()?, pair[1].as_u64()?)))
        .collect()
}

fn list(snapshot: &Value) -> &[Value] {
    snapshot["containers"].as_array().map_or(&[], Vec::as_slice)
}

fn cgroup(entry: &Value) -> &str {
    entry["identity"]["cgroup"].as_str().unwrap_or_default()
}

fn number(entry: &Value, path: &str) -> u64 {
    entry.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

/// Upper bound of a bucket; the last has none, its lower bound then.
fn upper_bound_ns(index: u64) -> f64 {
    let index = index.min(BUCKETS as u64 - 2) as f64;
    1e9 * f64::powf(
        2.0,
        f64::from(FIRST_BOUND_LOG2) + index / f64::from(1u32 << SCHEMA),
    )
}

/// A duration with three digits and its unit.
fn duration(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e6 => (ns / 1e3, "us"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}
