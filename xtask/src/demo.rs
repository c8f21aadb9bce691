//! `demo`: the agent and real containers that suffer in different ways, for half a minute.
//!
//! Everything that is started is a guard, and signals only set a flag (see [`interrupt`]).

use std::{
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
use ctrscope_tests::{Agent, Container, ContainerSpec, Group, http};
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

/// One line for each container of the demo, of what was added since `before`.
fn print_table(after: &Value, before: &Value, group: &str) {
    println!(
        "{:10} {:>8} {:>10} {:>10} {:>10} {:>12} {:>9} {:>10} {:>10}",
        "container",
        "CPU s",
        "waited s",
        "wait p99",
        "throttled",
        "preempted",
        "disk MB",
        "I/O mean",
        "blocked s"
    );
    let mut rows: Vec<&Value> = list(after)
        .iter()
        .filter(|entry| cgroup(entry).starts_with(group))
        .collect();
    rows.sort_by_key(|entry| cgroup(entry).to_owned());
    for entry in rows {
        let none = Value::Null;
        let earlier = list(before)
            .iter()
            .find(|old| old["identity"] == entry["identity"])
            .unwrap_or(&none);
        let name = cgroup(entry).rsplit('/').next().unwrap_or_default();
        let sum = |path: &str| number(entry, path).saturating_sub(number(earlier, path));
        let seconds = |path: &str| sum(path) as f64 / 1e9;
        let (bytes, latency_ns, operations) = block(entry, earlier);
        let mean = if operations == 0 {
            "-".to_owned()
        } else {
            duration(latency_ns / operations as f64)
        };
        println!(
            "{name:10} {:>8.2} {:>10.2} {:>10} {:>10.2} {:>12} {:>9.1} {mean:>10} {:>10.2}",
            seconds("/sched/on_cpu_ns"),
            seconds("/sched/run_queue/sum_ns"),
            p99(entry, earlier),
            seconds("/cpu/throttled_ns"),
            sum("/sched/involuntary"),
            bytes as f64 / 1e6,
            seconds("/sched/off_cpu_disk_ns"),
        );
    }
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

/// Bytes, latency and number of all block operations since `earlier`.
fn block(entry: &Value, earlier: &Value) -> (u64, f64, u64) {
    let sum = |field: &str| -> u64 {
        (0..4)
            .map(|operation| {
                let path = format!("/block/operations/{operation}/{field}");
                number(entry, &path).saturating_sub(number(earlier, &path))
            })
            .sum()
    };
    (sum("bytes"), sum("latency/sum_ns") as f64, sum("count"))
}

/// Upper bound of the bucket of the 99th percentile of run queue latency.
fn p99(entry: &Value, earlier: &Value) -> String {
    let buckets = |entry: &Value| -> std::collections::BTreeMap<u64, u64> {
        entry
            .pointer("/sched/run_queue/buckets")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|pair| Some((pair[0].as_u64()?, pair[1].as_u64()?)))
            .collect()
    };
    let (mut counts, old) = (buckets(entry), buckets(earlier));
    for (index, count) in &mut counts {
        *count = count.saturating_sub(old.get(index).copied().unwrap_or(0));
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
