//! What a context switch costs its workload, with and without somebody watching.

use std::time::Duration;

use anyhow::Result;
use ctrscope_tests::Agent;

use super::{
    Effort, Quiet,
    bpf::Statistics,
    load,
    report::{Section, Table, Target, median, number},
};
use crate::{interrupt, step};

/// Share of `runqlat`'s slow-down.
const TARGET_RATIO: f64 = 0.25;
/// Between the start of a tool and the measurement.
const SETTLE: Duration = Duration::from_millis(500);

/// Who watches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watcher {
    Nobody,
    Ctrscope,
    Runqlat,
    Bpftrace,
}

const ALL: [Watcher; 4] = [
    Watcher::Nobody,
    Watcher::Ctrscope,
    Watcher::Runqlat,
    Watcher::Bpftrace,
];

impl Watcher {
    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nothing",
            Self::Ctrscope => "ctrscope, everything per container",
            Self::Runqlat => "libbpf-tools runqlat, one histogram",
            Self::Bpftrace => "bpftrace, one histogram",
        }
    }

    fn loop_usec(self, effort: &Effort, quiet: &mut Quiet) -> Result<f64> {
        let agent = (self == Self::Ctrscope)
            .then(|| Agent::start(&[]))
            .transpose()?;
        let tool = match self {
            Self::Runqlat => Some(load::runqlat()?),
            Self::Bpftrace => Some(load::bpftrace()?),
            Self::Nobody | Self::Ctrscope => None,
        };
        let own: Vec<u32> = agent
            .iter()
            .map(Agent::pid)
            .chain(tool.iter().map(load::Process::pid))
            .collect();
        interrupt::pause(SETTLE)?;
        let usec = quiet.measure(&own, || load::pipe_usec(effort.loops))?;
        if let Some(mut tool) = tool {
            tool.expect_alive()?;
        }
        Ok(usec)
    }
}

pub(super) fn measure(effort: &Effort, quiet: &mut Quiet) -> Result<Section> {
    if Statistics::forced_on() {
        println!("note: kernel.bpf_stats_enabled is 1, which slows every program down");
    }
    let mut usec = [const { Vec::new() }; 4];
    let rounds = effort.slowdown_rounds;
    for round in 0..rounds {
        let what = format!(
            "slow-down of perf bench sched pipe, round {} of {rounds}",
            round + 1
        );
        step::timed(&what, || {
            // Another order each time, so that a drift of the machine hits all alike.
            for offset in 0..ALL.len() {
                let index = (round + offset) % ALL.len();
                usec[index].push(ALL[index].loop_usec(effort, quiet)?);
            }
            Ok(())
        })?;
    }
    let differences: Vec<f64> = usec
        .iter()
        .map(|values| {
            let added: Vec<f64> = values
                .iter()
                .zip(&usec[0])
                .map(|(with, bare)| with - bare)
                .collect();
            median(&added)
        })
        .collect();
    let runqlat = differences[2];
    let mut table = Table::new(&[
        "watching",
        "µs a loop",
        "least",
        "most",
        "added µs",
        "of runqlat's",
    ]);
    for ((watcher, values), &added) in ALL.iter().zip(&usec).zip(&differences) {
        let bare = *watcher == Watcher::Nobody;
        let or_dash = |text: String| if bare { "-".to_owned() } else { text };
        table.row([
            watcher.name().to_owned(),
            number(median(values)),
            number(values.iter().copied().fold(f64::INFINITY, f64::min)),
            number(values.iter().copied().fold(0.0, f64::max)),
            or_dash(number(added)),
            or_dash(number(added / runqlat)),
        ]);
    }
    Ok(Section {
        title: "Slow-down of context switches",
        method: format!(
            "`perf bench sched pipe -l {}`, two processes on one CPU (two context switches a loop), statistics \
             off. {rounds} rounds, in each of which all take their turn, in another order each time; *added* is the \
             median over the rounds of the difference to the bare loop of the same round. bpftrace runs this \
             program:\n\n```\n{}\n```",
            effort.loops,
            load::BPFTRACE_PROGRAM.replace("} tracepoint", "}\ntracepoint"),
        ),
        tables: vec![table],
        targets: vec![Target::at_most(
            "slow-down of `perf bench sched pipe`, as a share of runqlat's",
            TARGET_RATIO,
            differences[1] / runqlat,
            "of it",
        )],
    })
}
