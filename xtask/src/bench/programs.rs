//! Nanoseconds of each program for each event.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use ctrscope_tests::{Agent, wait_until};
use tempfile::TempDir;

use super::{
    Effort, Quiet,
    bpf::{self, Empty, Program, Runs, Statistics},
    cgroups::{Cgroup, Cgroups},
    footprint, load,
    report::{Section, Table, Target, median, number},
};
use crate::{interrupt, step};

/// Context switches: nanoseconds beyond an empty program. Without the wait ledger they were 43 and 44, in one cgroup and
/// across two; it may add 30.
const SWITCH_TARGET_NS: f64 = 74.0;
/// Issue and completion of a block request together, beyond empty programs.
const BLOCK_TARGET_NS: f64 = 500.0;
/// The same as a share of what libbpf-tools' biolatency needs for one histogram of the host.
const BLOCK_TARGET_SHARE: f64 = 0.6;
/// Samples of whole stacks, % of a busy CPU.
const PROFILE_TARGET: f64 = 0.3;
/// Time for a load to reach its pace.
const SETTLE: Duration = Duration::from_millis(300);

/// An agent's programs, each beside an empty one on the same tracepoint.
struct Bench {
    agent: Agent,
    pairs: Vec<(Program, Empty)>,
    _statistics: Statistics,
}

/// What one program and the empty one beside it did in a window.
struct Window {
    program: Runs,
    empty: Runs,
}

/// The windows of one program under one load.
#[derive(Default)]
struct Measured {
    events: u64,
    program_ns: Vec<f64>,
    empty_ns: Vec<f64>,
    beyond_ns: Vec<f64>,
}

impl Measured {
    fn add(&mut self, window: &Window) {
        if let (Some(program), Some(empty)) = (window.program.mean_ns(), window.empty.mean_ns()) {
            self.events += window.program.count;
            self.program_ns.push(program);
            self.empty_ns.push(empty);
            self.beyond_ns.push(program - empty);
        }
    }

    fn beyond(&self) -> f64 {
        median(&self.beyond_ns)
    }

    fn row(&self, load: &str, program: &str) -> Vec<String> {
        vec![
            format!("{load}: `{program}`"),
            self.events.to_string(),
            number(median(&self.program_ns)),
            number(median(&self.empty_ns)),
            number(self.beyond()),
        ]
    }
}

impl Bench {
    fn start() -> Result<Self> {
        let agent = Agent::start(&[])?;
        let status = footprint::status(&agent)?;
        let hooks: Vec<&str> = status["agent"]["programs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|program| program["hook"].as_str()?.strip_prefix("tp_btf/"))
            .collect();
        let mut pairs = Vec::new();
        for mut program in bpf::programs_of(agent.pid())? {
            // The kernel keeps 15 characters of a name. What has no tracepoint runs on demand.
            let Some(hook) = hooks.iter().find(|hook| hook.starts_with(&program.name)) else {
                continue;
            };
            program.name = (*hook).to_owned();
            let empty = Empty::attach(hook)?;
            pairs.push((program, empty));
        }
        if pairs.is_empty() {
            bail!("the agent holds no program");
        }
        Ok(Self {
            agent,
            pairs,
            _statistics: Statistics::on()?,
        })
    }

    fn read(&self) -> Result<Vec<(Runs, Runs)>> {
        self.pairs
            .iter()
            .map(|(program, empty)| Ok((program.runs()?, empty.runs()?)))
            .collect()
    }

    /// What ran during `action`, of the programs named.
    fn window<const N: usize>(
        &self,
        names: [&str; N],
        mut action: impl FnMut() -> Result<()>,
    ) -> Result<[Window; N]> {
        let before = self.read()?;
        action()?;
        let after = self.read()?;
        let mut windows = names.map(|_| Window {
            program: Runs::default(),
            empty: Runs::default(),
        });
        for (window, name) in windows.iter_mut().zip(names) {
            let index = self
                .pairs
                .iter()
                .position(|(program, _)| program.name == name)
                .with_context(|| format!("the agent holds no program {name}"))?;
            window.program = after[index].0.since(before[index].0);
            window.empty = after[index].1.since(before[index].1);
        }
        Ok(windows)
    }
}

pub(super) fn measure(effort: &Effort, workload: &Path, quiet: &mut Quiet) -> Result<Section> {
    let mut cgroups = Cgroups::new()?;
    let (first, second) = (cgroups.make("first")?, cgroups.make("second")?);
    let bench = step::timed(
        "start the agent, and empty programs beside its own",
        Bench::start,
    )?;
    let own = [bench.agent.pid()];
    let mut table = Table::new(&["load: program", "events", "ns", "empty ns", "beyond"]);
    let mut targets = Vec::new();

    let mut inside = Measured::default();
    let mut across = Measured::default();
    step::timed("context switches: perf bench sched pipe", || {
        for _ in 0..effort.rounds {
            for (measured, other) in [(&mut inside, &first), (&mut across, &second)] {
                measured.add(&quiet.measure(&own, || switches(effort, &bench, &first, other))?);
            }
        }
        Ok(())
    })?;
    table.row(inside.row("ping-pong in one cgroup", "sched_switch"));
    table.row(across.row("ping-pong across two cgroups", "sched_switch"));
    for (what, measured) in [("inside a cgroup", &inside), ("across cgroups", &across)] {
        let what = format!("program time of a context switch {what}, beyond an empty program");
        targets.push(Target::at_most(
            &what,
            SWITCH_TARGET_NS,
            measured.beyond(),
            "ns",
        ));
    }

    let block = step::timed("block I/O: random O_DIRECT reads and writes", || {
        block(effort, &bench, &first, workload, quiet)
    })?;
    let load = "O_DIRECT, 4 KiB, random";
    table.row(block.issue.row(load, "block_rq_issue"));
    table.row(block.complete.row(load, "block_rq_complete"));
    table.row(block.pair.row(load, "both"));
    table.row(block.biolatency.row(load, "biolatency"));
    targets.push(Target::at_most(
        "the same, as a share of what biolatency needs for one histogram of the host, on the same requests",
        BLOCK_TARGET_SHARE,
        median(&block.shares),
        "",
    ));
    targets.push(Target::at_most(
        "program time of a block request, issue and completion, beyond empty programs",
        BLOCK_TARGET_NS,
        block.pair.beyond(),
        "ns",
    ));

    step::timed("cgroups made and removed, processes that end", || {
        rare(effort, &bench, &mut cgroups, &first, workload, &mut table)
    })?;

    let mut samples = Table::new(&[
        "profile of the host, two busy loops",
        "samples",
        "ns",
        "share of a CPU",
    ]);
    for frequency in [99, 999] {
        let what = format!("profile at {frequency} Hz");
        let runs = step::timed(&what, || {
            profile(effort, &bench, &first, workload, frequency)
        })?;
        let ns = runs.mean_ns().context("the profile took no sample")?;
        samples.row([
            format!("`profile_sample` at {frequency} Hz"),
            runs.count.to_string(),
            number(ns),
            format!("{} %", number(ns * f64::from(frequency) / 1e7)),
        ]);
        if frequency == 99 {
            let what = "program time of a profile at 99 Hz, for each busy CPU";
            let percent = ns * f64::from(frequency) / 1e7;
            targets.push(Target::at_most(what, PROFILE_TARGET, percent, "% of a CPU"));
        }
    }
    Ok(Section {
        title: "Program time for each event",
        method: format!(
            "Counted by the kernel (`BPF_ENABLE_STATS`, on only while this is measured). Statistics cost time \
             themselves, so an empty program (`r0 = 0; exit`) is attached to the same raw tracepoint and sees \
             the same events; *beyond* is what the program needs more. Medians of {} windows of {} s, the two \
             ping-pongs in turn; `perf bench sched pipe` is pinned to one CPU. \
             `sched_switch` does everything in one program: run queue latency and who had the CPU meanwhile, on-CPU and off-CPU time, \
             voluntary and involuntary switches, who preempted, per container. `biolatency` of libbpf-tools is \
             attached beside the agent and sees the same requests: nanoseconds of all its programs for each.",
            effort.rounds,
            number(effort.window.as_secs_f64()),
        ),
        tables: vec![table, samples],
        targets,
    })
}

fn switches(effort: &Effort, bench: &Bench, first: &Cgroup, second: &Cgroup) -> Result<Window> {
    let mut pipe = load::pipe_between(first, second)?;
    interrupt::pause(SETTLE)?;
    let [window] = bench.window(["sched_switch"], || interrupt::pause(effort.window))?;
    pipe.expect_alive()?;
    Ok(window)
}

/// Nanoseconds of a context switch beyond an empty program, with an agent that is running already.
pub(super) fn switch_beyond_ns(
    effort: &Effort,
    pid: u32,
    first: &Cgroup,
    second: &Cgroup,
) -> Result<f64> {
    let program = bpf::programs_of(pid)?
        .into_iter()
        .find(|program| program.name == "sched_switch")
        .context("the agent holds no program sched_switch")?;
    let empty = Empty::attach("sched_switch")?;
    let _statistics = Statistics::on()?;
    let mut beyond = Vec::new();
    for _ in 0..effort.rounds {
        let mut pipe = load::pipe_between(first, second)?;
        interrupt::pause(SETTLE)?;
        let before = (program.runs()?, empty.runs()?);
        interrupt::pause(effort.window)?;
        let mut measured = Measured::default();
        measured.add(&Window {
            program: program.runs()?.since(before.0),
            empty: empty.runs()?.since(before.1),
        });
        pipe.expect_alive()?;
        beyond.push(measured.beyond());
    }
    Ok(median(&beyond))
}

/// Block requests, seen by the agent and by `biolatency` at once.
#[derive(Default)]
struct Block {
    issue: Measured,
    complete: Measured,
    pair: Measured,
    biolatency: Measured,
    /// What the pair needs beyond empty programs, as a share of what `biolatency` does, by window.
    shares: Vec<f64>,
}

impl Block {
    fn add(&mut self, [issue, complete]: &[Window; 2], tool: &[Runs]) {
        self.issue.add(issue);
        self.complete.add(complete);
        let requests = complete.program.count;
        let of_request = |runs: &[Runs]| {
            let ns: u64 = runs.iter().map(|runs| runs.ns).sum();
            Runs {
                count: requests,
                ns,
            }
        };
        let pair = Window {
            program: of_request(&[issue.program, complete.program]),
            empty: of_request(&[issue.empty, complete.empty]),
        };
        // Its programs run on more events than ours, and each run costs what an empty one does.
        let runs: u64 = tool.iter().map(|runs| runs.count).sum();
        let empty_ns = complete.empty.mean_ns().unwrap_or(0.0);
        let tool = Window {
            program: of_request(tool),
            empty: Runs {
                count: requests,
                ns: (runs as f64 * empty_ns) as u64,
            },
        };
        let beyond = |window: &Window| {
            Some(window.program.mean_ns()? - window.empty.mean_ns()?).filter(|ns| *ns > 0.0)
        };
        if let (Some(ours), Some(theirs)) = (beyond(&pair), beyond(&tool)) {
            self.shares.push(ours / theirs);
        }
        self.pair.add(&pair);
        self.biolatency.add(&tool);
    }
}

fn block(
    effort: &Effort,
    bench: &Bench,
    cgroup: &Cgroup,
    workload: &Path,
    quiet: &mut Quiet,
) -> Result<Block> {
    let mut measured = Block::default();
    let mut tool = load::biolatency()?;
    let programs = bpf::programs_of(tool.pid())?;
    let read = || {
        programs
            .iter()
            .map(Program::runs)
            .collect::<Result<Vec<_>>>()
    };
    // Next to the build, not in /tmp: that is memory on many hosts.
    let directory = TempDir::with_prefix_in("bench-", step::target_directory())?;
    let file = directory.path().join("file");
    let arguments = format!(
        "read-write-direct --file {} --size 33554432 --block 4096 --random",
        file.display()
    );
    for _ in 0..effort.rounds {
        let (windows, runs) = quiet.measure(&[bench.agent.pid(), tool.pid()], || {
            let mut process = load::workload(workload, cgroup, &arguments)?;
            interrupt::pause(SETTLE)?;
            let before = read()?;
            let windows = bench.window(["block_rq_issue", "block_rq_complete"], || {
                interrupt::pause(effort.window)
            })?;
            let runs = read()?.into_iter().zip(before);
            let runs: Vec<Runs> = runs.map(|(now, before)| now.since(before)).collect();
            process.expect_alive()?;
            Ok((windows, runs))
        })?;
        measured.add(&windows, &runs);
    }
    tool.expect_alive()?;
    if measured.issue.events == 0 {
        bail!(
            "no block request was seen: is {} on a file system of a disk?",
            directory.path().display()
        );
    }
    Ok(measured)
}

/// Events that are rare by nature.
fn rare(
    effort: &Effort,
    bench: &Bench,
    cgroups: &mut Cgroups,
    first: &Cgroup,
    workload: &Path,
    table: &mut Table,
) -> Result<()> {
    let (mut made, mut removed) = (Measured::default(), Measured::default());
    let (mut emptied, mut ended) = (Measured::default(), Measured::default());
    for _ in 0..effort.rounds {
        let [mkdir, rmdir] =
            bench.window(["cgroup_mkdir", "cgroup_rmdir"], || cgroups.churn(100))?;
        made.add(&mkdir);
        removed.add(&rmdir);
        let [populated] = bench.window(["cgroup_notify_populated"], || {
            for _ in 0..10 {
                drop(load::workload(workload, first, "burn")?);
            }
            Ok(())
        })?;
        emptied.add(&populated);
        let mut process = load::workload(workload, first, "spawn --pause-ms 0")?;
        let [exit] = bench.window(["sched_process_exit"], || interrupt::pause(effort.window))?;
        process.expect_alive()?;
        ended.add(&exit);
    }
    table.row(made.row("cgroups made and removed", "cgroup_mkdir"));
    table.row(removed.row("cgroups made and removed", "cgroup_rmdir"));
    table.row(emptied.row(
        "processes that come to a cgroup and leave it",
        "cgroup_notify_populated",
    ));
    table.row(ended.row("children that live 2 ms", "sched_process_exit"));
    Ok(())
}

fn profile(
    effort: &Effort,
    bench: &Bench,
    cgroup: &Cgroup,
    workload: &Path,
    frequency: u32,
) -> Result<Runs> {
    let mut process = load::workload(workload, cgroup, "burn --threads 2")?;
    let seconds = effort.profile_seconds;
    let path =
        format!("/api/v1/profile?type=cpu&seconds={seconds}&frequency={frequency}&format=folded");
    let agent = &bench.agent;
    let patience = Duration::from_secs(seconds + 30);
    thread::scope(|scope| {
        let request = scope.spawn(|| agent.get_slow(&path, patience));
        // Held from here on, the program can be asked after the profile has ended.
        let program = wait_until(Duration::from_secs(10), "program of the profile", || {
            Ok(bpf::programs_of(agent.pid())?
                .into_iter()
                .find(|program| program.name == "profile_sample"))
        });
        let answer = match request.join() {
            Ok(answer) => answer?,
            Err(_) => bail!("the request for a profile panicked"),
        };
        if answer.status != 200 {
            bail!("{path}: {} {}", answer.status, answer.text());
        }
        process.expect_alive()?;
        program?.runs()
    })
}
