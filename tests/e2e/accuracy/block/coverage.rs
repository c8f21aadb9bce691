//! Whom the bytes of all disks are charged to, against the disks' own account.

use ctrscope::snapshot::ChargedBytes;
use ctrscope_tests::{
    Agent, Container, ContainerSpec, Metrics,
    accounts::DiskAccounts,
    measure::{Trial, measured},
    wait_until,
};

use super::BYTES;
use crate::{
    block::{PATIENCE, SETTLED_PATIENCE, data},
    observe::{entry, group, leniency, snapshot, wait_seen},
};

/// What agent and disks may differ in, of the bytes that were moved: 5 %. The two are read one after
/// the other, others use the disks meanwhile, and a completion that no tracepoint showed is counted
/// when its request is used again.
const TOLERANCE: f64 = 0.05;

fn charged(agent: &Agent) -> ChargedBytes {
    let found = snapshot(agent).agent.charged_bytes;
    found.expect("block collector")
}

fn all(charged: &ChargedBytes) -> u64 {
    let parts = [charged.container, charged.service, charged.other];
    parts.iter().flatten().sum()
}

/// The series of containers that the text has, all operations.
fn exported(metrics: &Metrics) -> u64 {
    let labels = [("charged", "container")];
    metrics.sum("ctrscope_block_io_bytes_total", &labels) as u64
}

#[test]
fn bytes_by_whom_they_are_charged_to_sum_up_to_those_of_the_disks() {
    measured(sum_up);
}

fn sum_up(trial: &Trial) {
    let agent = Agent::start(&["--retention", "1s"]).unwrap();
    let group = group();
    let data = data();
    let bytes = BYTES.to_string();
    let mut work = vec!["read-write-direct", "--file", "/data/file"];
    work.extend(["--size", &bytes, "--bytes", &bytes]);
    let spec = ContainerSpec::new("covered", &work)
        .data(data.path())
        .gated()
        .held();
    let container = Container::start(&group, &spec).unwrap();
    wait_seen(&agent, &container);
    let watch = trial.watch(agent.pid(), &group);
    let (disks_before, before) = (DiskAccounts::read().unwrap(), charged(&agent));
    container.open_gate().unwrap();
    container.wait_report(PATIENCE).unwrap();

    // Where they never agree, the last numbers are judged.
    let mut said = (0, 0);
    let _ = wait_until(SETTLED_PATIENCE, "agent and disks agree", || {
        let (disks, now) = (DiskAccounts::read().unwrap(), charged(&agent));
        said = (
            all(&now) - all(&before),
            disks.bytes() - disks_before.bytes(),
        );
        let allowed = leniency() as f64 * TOLERANCE * said.1 as f64;
        Ok((said.0.abs_diff(said.1) as f64 <= allowed).then_some(()))
    });
    watch.end();
    let (seen, account) = (said.0 as f64, said.1 as f64);
    trial.near("bytes of all disks", seen, account, TOLERANCE * account);
    let now = charged(&agent);
    let of_containers = |now: &ChargedBytes| {
        let sum = |charged: &ChargedBytes| charged.container.iter().sum::<u64>();
        sum(now) - sum(&before)
    };
    println!(
        "agent {} B, disks {} B, of these containers {} B",
        said.0,
        said.1,
        of_containers(&now)
    );
    // It filled its file, and wrote and read it.
    let moved = (2.0 - TOLERANCE * leniency() as f64) * BYTES as f64;
    assert!(of_containers(&now) as f64 >= moved);

    let cgroup = container.cgroup().to_owned();
    drop(container);
    wait_until(PATIENCE, "the entry is gone", || {
        Ok(entry(&snapshot(&agent), &cgroup).is_none().then_some(()))
    })
    .unwrap();
    let after = charged(&agent);
    for (after, now) in [
        (after.container, now.container),
        (after.service, now.service),
        (after.other, now.other),
    ] {
        for (after, now) in after.iter().zip(now) {
            assert!(*after >= now, "{now} B went back to {after} B");
        }
    }
    let metrics = agent.metrics().unwrap();
    assert!(exported(&metrics) >= now.container.iter().sum());
    let status = agent.get("/status").unwrap().text();
    assert!(
        status.contains("\"charged_bytes\":{\"container\":["),
        "{status}"
    );
}
