//! The whole host against libbpf-tools' `runqlat`, a program of the same purpose by others.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use ctrscope::snapshot::{Histogram, Snapshot};
use ctrscope_tests::{
    Agent, Container, ContainerSpec,
    measure::{Trial, measured},
};

use crate::observe::{group, snapshot, wait_seen};

/// Part of the count, and of the rank of the median, that the two may differ by.
const TOLERANCE: f64 = 0.05;

/// One line of its histogram: `low -> high : count`, microseconds, both inclusive.
fn parse(line: &str) -> Option<(u64, u64, u64)> {
    let (low, rest) = line.split_once("->")?;
    let (high, rest) = rest.split_once(':')?;
    let count = rest.split_whitespace().next()?;
    Some((
        low.trim().parse().ok()?,
        high.trim().parse().ok()?,
        count.parse().ok()?,
    ))
}

fn whole_host(snapshot: &Snapshot) -> Histogram {
    let mut sum = Histogram::default();
    for sched in snapshot
        .containers
        .iter()
        .filter_map(|seen| seen.counters.sched.as_ref())
    {
        sum.add(&sched.run_queue);
    }
    sum
}

#[test]
fn the_whole_host_agrees_with_runqlat() {
    measured(compare);
}

fn compare(trial: &Trial) {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    // Enough switches, at a steady rate, that the edges of the ten seconds do not count; and waits of
    // milliseconds. The one or two microseconds of a wakeup on an idle CPU are no test: there either
    // tool's own time, and where in the switch it reads the clock, is most of what it sees.
    let containers: Vec<Container> = (0..2)
        .map(|cpu| {
            let (name, cpu) = (format!("crowd{cpu}"), cpu.to_string());
            let crowd = ["many-threads", "--threads", "400", "--cpu", &cpu];
            Container::start(&group, &ContainerSpec::new(&name, &crowd)).unwrap()
        })
        .collect();
    for container in &containers {
        wait_seen(&agent, container);
    }
    let watch = trial.watch(agent.pid(), &group);
    let started = Command::new("stdbuf")
        .args(["-oL", "runqlat", "10", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn();
    let Ok(mut runqlat) = started else {
        trial.skip("stdbuf is not installed");
        return;
    };
    let mut lines = BufReader::new(runqlat.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    // Its first line comes when it is attached.
    if !lines.any(|line| line.starts_with("Tracing")) {
        let _ = runqlat.wait();
        trial.skip("runqlat of libbpf-tools does not run here");
        return;
    }
    let before = whole_host(&snapshot(&agent));
    // It prints when its time is over and takes a while to detach: the first line is the end.
    let first = lines.by_ref().find_map(|line| parse(&line));
    let after = whole_host(&snapshot(&agent));
    let rest = lines.filter_map(|line| parse(&line));
    let buckets: Vec<(u64, u64, u64)> = first.into_iter().chain(rest).collect();
    runqlat.wait().unwrap();
    watch.end();

    let ours = after.since(&before);
    let theirs: u64 = buckets.iter().map(|bucket| bucket.2).sum();
    assert!(
        theirs > 10_000,
        "too little happened to compare: {buckets:?}"
    );
    trial.near(
        "waits",
        ours.count() as f64,
        theirs as f64,
        TOLERANCE * theirs as f64,
    );

    let mut seen = 0;
    let median = buckets.iter().find(|bucket| {
        seen += bucket.2;
        seen * 2 >= theirs
    });
    let &(low, high, _) = median.unwrap();
    // Our median lies in their bucket, give or take 5 % of the events: rank, not value, because a
    // median at the edge of a bucket that is twice as wide as its lower bound says nothing finer. And
    // ours may lie anywhere in its own bucket, a fourth of an octave: waits that are all alike fill one.
    let width = 2f64.powf(0.25);
    let early = ours.quantile_seconds(0.5 - TOLERANCE).unwrap() * 1e6;
    let late = ours.quantile_seconds(0.5 + TOLERANCE).unwrap() * 1e6;
    println!("median: runqlat {low}..{high} us, ctrscope's 45..55 % {early:.1}..{late:.1} us");
    // Neither end may lie beyond the other end of theirs.
    let (low, high) = (low as f64, (high + 1) as f64);
    trial.at_most("lower end of the median, us", early / width, high);
    trial.at_most("lower end of runqlat's median, us", low, late * width);
}
