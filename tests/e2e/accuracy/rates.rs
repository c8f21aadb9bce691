//! Rates of a steady workload: looks a second apart show what scrapes fifteen seconds apart do, however many cgroups
//! are beside it. Cgroup files of many are read less often than a look is taken.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use ctrscope::snapshot::Snapshot;
use ctrscope_tests::{
    Agent, Container, ContainerSpec, Group,
    measure::{Trial, measured},
    wait_until,
};
use serde_json::Value;

use crate::{
    cli::Source,
    observe::{entry, group, snapshot, wait_seen},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Part of a rate that the two may differ by.
const TOLERANCE: f64 = 0.02;
/// Part of the mean by which a single look may differ from it: ten periods of the quota are in one, and the ends of a
/// look need not be those of a period.
const OF_A_LOOK: f64 = 0.25;

#[test]
fn looks_and_scrapes_agree_beside_10_cgroups() {
    measured(|trial| compare(trial, 10));
}

#[test]
fn looks_and_scrapes_agree_beside_100_cgroups() {
    measured(|trial| compare(trial, 100));
}

#[test]
fn looks_and_scrapes_agree_beside_1000_cgroups() {
    measured(|trial| compare(trial, 1_000));
}

/// Processes that sleep, each in a cgroup of its own. They go with their handle.
struct Sleepers(Vec<Child>);

impl Sleepers {
    fn new(group: &Group, count: usize) -> Self {
        let mut sleepers = Self(Vec::new());
        for number in 0..count {
            let directories = group.make(&format!("idle-{number}")).unwrap();
            let sleeper = Command::new("sleep")
                .arg("infinity")
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            for directory in directories {
                fs::write(directory.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
            }
            sleepers.0.push(sleeper);
        }
        sleepers
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for sleeper in &mut self.0 {
            let _ = sleeper.kill();
            let _ = sleeper.wait();
        }
    }
}

fn compare(trial: &Trial, cgroups: usize) {
    let agent = Agent::start(&["--max-containers", "2000"]).unwrap();
    let group = group();
    let _sleepers = Sleepers::new(&group, cgroups);
    // Throttled in each period, and steady.
    let capped = ["burn", "--threads", "2"];
    let spec = ContainerSpec::new("capped", &capped).quota(30_000, 100_000);
    let container = Container::start(&group, &spec).unwrap();
    let seen = wait_seen(&agent, &container);
    let name = seen.identity.container.as_str();
    // All are new, so the first rounds read all of them, which is long, and so is the time between them.
    let mut in_a_row = 0;
    wait_until(PATIENCE, "rounds in quick succession", || {
        thread::sleep(Duration::from_secs(1));
        let age = agent
            .metrics()?
            .value("ctrscope_cgroup_files_age_seconds", &[]);
        in_a_row = if age < Some(1.5) { in_a_row + 1 } else { 0 };
        Ok((in_a_row == 4).then_some(()))
    })
    .unwrap();
    let watch = trial.watch(agent.pid(), &group);
    // What a scrape has, with its own time.
    let before = snapshot(&agent);
    let mut top = vec!["top", "--json", "--interval", "1s", "--count", "16"];
    top.extend(["--filter", name]);
    let looks = Source::Daemon(&agent).stdout(&top);
    let after = snapshot(&agent);
    watch.end();

    let looks: Vec<Value> = looks
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|rows| {
            let rows = rows.as_array()?;
            rows.iter().find(|row| row["name"] == name).cloned()
        })
        .collect();
    let of_looks = |field: &str| -> Vec<f64> {
        looks
            .iter()
            .filter_map(|look| look[field].as_f64())
            .collect()
    };
    let counters = |snapshot: &Snapshot| {
        let seen = entry(snapshot, container.cgroup()).expect("the container");
        let control = seen.counters.cpu.as_ref().expect("it has a quota");
        (
            seen.on_cpu_ns().expect("its CPU time"),
            control.periods,
            control.throttled_periods,
        )
    };
    let (new, old) = (counters(&after), counters(&before));
    let cores = (new.0 - old.0) as f64 / (after.taken_at_ns - before.taken_at_ns) as f64;
    let throttled = (new.2 - old.2) as f64 / (new.1 - old.1) as f64;
    for (what, looks, rate) in [
        ("cores", of_looks("cpu_cores"), cores),
        ("throttled ratio", of_looks("throttled_ratio"), throttled),
    ] {
        assert!(looks.len() >= 14, "{what}: {looks:?}");
        let mean = looks.iter().sum::<f64>() / looks.len() as f64;
        let what = format!("{what} beside {cgroups}");
        trial.near(&what, mean, rate, TOLERANCE * rate);
        let far = |look: &&f64| (**look - mean).abs();
        let farthest = looks
            .iter()
            .max_by(|a, b| far(a).total_cmp(&far(b)))
            .expect("there are some");
        let what = format!("{what}, the look farthest from the mean");
        trial.near(&what, *farthest, mean, OF_A_LOOK * mean);
    }
}
