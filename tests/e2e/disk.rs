//! Whose requests a container waited for at a disk it shares.

use std::{fs::File, io::Write as _};

use ctrscope::diagnosis::facts::{ContainerFacts, WaitedForDisk};
use ctrscope_tests::{Agent, Container, ContainerSpec, skip};

use crate::{
    block::{PATIENCE, data},
    facts::facts_of,
    observe::group,
};

/// What the victim reads, a block of 4 KiB after the other.
const READ_BYTES: u64 = 8 << 20;
/// What the neighbour reads over and over, in pieces of 1 MiB: each takes the disk many times as long.
const FLOOD_BYTES: u64 = 32 << 20;
/// Part of a latency that may be unknown: of requests that were issued before the agent was there, or whose issue no
/// tracepoint showed.
const UNKNOWN_RATIO: f64 = 0.05;

fn waited(facts: &ContainerFacts) -> (f64, &WaitedForDisk) {
    let disk = &facts.disk;
    let waited = disk.waited_for.as_ref().expect("it is measured");
    (disk.latency_seconds.expect("it is measured"), waited)
}

/// Own, others and what is not known are the latency, and the last of them is little.
fn assert_whole(facts: &ContainerFacts) {
    let (latency, waited) = waited(facts);
    let named: f64 = waited.containers.iter().map(|one| one.seconds).sum();
    let sum = waited.own_seconds + named + waited.other_seconds + waited.unknown_seconds;
    assert!((sum - latency).abs() < 1e-6, "{sum} s of {latency} s");
    assert!(waited.own_seconds >= 0.0 && waited.other_seconds >= 0.0);
    assert!(
        waited.unknown_seconds <= UNKNOWN_RATIO * latency,
        "{waited:?} of {latency} s"
    );
}

#[test]
fn who_reads_beside_a_flood_waits_for_it_by_name() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let data = data();
    for (name, bytes) in [("small", READ_BYTES), ("large", FLOOD_BYTES)] {
        let mut file = File::create(data.path().join(name)).unwrap();
        let piece = vec![1; 1 << 20];
        for _ in 0..bytes >> 20 {
            file.write_all(&piece).unwrap();
        }
        // What stayed dirty would be written on the account of the first direct read.
        file.sync_all().unwrap();
    }
    let start = |name, work: &[&str]| {
        let spec = ContainerSpec::new(name, work)
            .data(data.path())
            .gated()
            .held();
        Container::start(&group, &spec).unwrap()
    };
    let (read, size) = (READ_BYTES.to_string(), FLOOD_BYTES.to_string());
    let mut work = vec!["read-direct", "--file", "/data/small", "--block", "4096"];
    work.extend(["--size", &read, "--bytes", &read]);
    let victim = start("victim", &work);
    let mut work = vec!["read-direct", "--file", "/data/large", "--block", "1048576"];
    work.extend(["--size", &size]);
    let flood = start("flood", &work);
    // So that a reading is there from before their work.
    facts_of(&agent, &victim);
    facts_of(&agent, &flood);
    flood.open_gate().unwrap();
    victim.open_gate().unwrap();
    victim.wait_report(PATIENCE).unwrap();

    let (facts, window) = facts_of(&agent, &victim);
    if facts.disk.devices.is_empty() {
        skip("the directory for data is on no disk");
        return;
    }
    let (latency, told) = waited(&facts);
    println!("{:?} requests, {latency} s: {told:?}", facts.disk.requests);
    assert_whole(&facts);
    let of_flood = window
        .containers
        .iter()
        .find(|one| one.identity.cgroup == flood.cgroup())
        .expect("the flood has facts");
    let name = of_flood.identity.label();
    let held = told.containers.iter().find(|one| one.name == name);
    let held = held.unwrap_or_else(|| panic!("nobody is {name}"));
    assert!(held.seconds > 0.0 && held.seconds <= latency);
    assert_eq!(told.containers[0].name, name, "it is waited for most");

    let (latency, told) = waited(of_flood);
    println!("the flood, {latency} s: {told:?}");
    assert_whole(of_flood);
}
