//! Networks of containers: two namespaces and a cable between them.

use std::{fs, time::Duration};

use ctrscope_tests::{Agent, Cable, Container, ContainerSpec, skip, wait_until};

use crate::{facts::facts_of, observe::group};

const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes received and sent, and packets dropped, by the kernel's file of a process's namespace.
fn account(container: &Container) -> [u64; 3] {
    let file = format!("/proc/{}/net/dev", container.pid());
    let text = fs::read_to_string(file).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"));
    let counts: Vec<u64> = line
        .expect("the end of the cable")
        .split_whitespace()
        .map(|count| count.parse().unwrap())
        .collect();
    [counts[0], counts[8], counts[3] + counts[11]]
}

fn buffer_errors(container: &Container) -> u64 {
    let file = format!("/proc/{}/net/snmp", container.pid());
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let names = lines.next().unwrap().split(' ');
    let place = names.into_iter().position(|name| name == "RcvbufErrors");
    let value = lines.next().unwrap().split(' ').nth(place.unwrap());
    value.unwrap().parse().unwrap()
}

#[test]
fn a_network_of_its_own_has_its_bytes_drops_and_full_buffers() {
    let cable = match Cable::new() {
        Ok(cable) => cable,
        Err(error) => {
            skip(&format!(
                "no network namespaces can be connected here: {error:#}"
            ));
            return;
        }
    };
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let address = format!("{}:9000", cable.address(1));
    let sink = ["sink", "--at", &address, "--pause-ms", "50"];
    let flood = ["flood", "--to", &address];
    // Two of one pod share the network; a third is on the host's.
    let spec = |name: &str, arguments: &[&str], end| {
        ContainerSpec::new(name, arguments).network(&cable.namespace(end))
    };
    let sink = Container::start(&group, &spec("sink", &sink, 1)).unwrap();
    let side = ["sleep-burn", "--burn-ms", "1", "--sleep-ms", "100"];
    let side = Container::start(&group, &spec("side", &side, 1)).unwrap();
    let host = ["sleep-burn", "--burn-ms", "1", "--sleep-ms", "100"];
    let host = Container::start(&group, &ContainerSpec::new("host", &host)).unwrap();
    let flood = Container::start(&group, &spec("flood", &flood, 0).gated()).unwrap();
    let at_first = account(&sink);
    for container in [&sink, &side, &host, &flood] {
        facts_of(&agent, container);
    }
    let before = (account(&sink), buffer_errors(&sink));

    flood.open_gate().unwrap();
    wait_until(PATIENCE, "a full buffer", || {
        Ok((buffer_errors(&sink) > before.1 + 1_000).then_some(()))
    })
    .unwrap();
    flood.stop().unwrap();
    // What is longer than an end takes is dropped there.
    cable.set_mtu(1, 500).unwrap();
    for _ in 0..3 {
        cable
            .shell(0, "printf %1000s > /dev/udp/198.18.0.2/9")
            .unwrap();
    }
    // The kernel talks there by itself (ARP, IPv6), so each reading lies between two looks.
    let least = account(&sink);
    let (facts, _) = facts_of(&agent, &sink);
    let network = facts.network.expect("its network is known");
    let most = account(&sink);
    println!("{network:?}; kernel {before:?} to {least:?}, {most:?}");
    assert!(!network.is_host);
    let found = [
        network.received_bytes,
        network.sent_bytes,
        network.dropped_packets,
    ];
    for (kind, found) in found.into_iter().enumerate() {
        assert!(found >= least[kind] - before.0[kind], "{kind}");
        assert!(found <= most[kind] - at_first[kind], "{kind}");
    }
    assert!(network.received_bytes > 100_000 && network.dropped_packets >= 3);
    let errors = buffer_errors(&sink) - before.1;
    assert_eq!(network.udp_receive_errors, Some(errors));

    // The other of the pod has the same.
    let (beside, _) = facts_of(&agent, &side);
    let beside = beside.network.expect("its network is known");
    assert_eq!(beside.udp_receive_errors, network.udp_receive_errors);
    let (on_host, _) = facts_of(&agent, &host);
    assert!(on_host.network.expect("it is the host's").is_host);
}
