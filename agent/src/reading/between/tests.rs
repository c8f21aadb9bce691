use std::sync::Arc;

use super::*;
use crate::{
    cgroup::{Bandwidth, IoLimits, MemoryLimits, MemoryStat, MemoryUse, Quota},
    host::{CpuTicks, DiskSample},
    reading::{DiskReading, HostReading},
    snapshot::Identity,
};

const DEVICE: DeviceNumber = DeviceNumber {
    major: 254,
    minor: 0,
};

fn group(path: &str, throttled_ns: u64, limit_hits: u64) -> GroupReading {
    GroupReading {
        path: Arc::from(path),
        cpu: Some(Bandwidth {
            quota: Some(Quota {
                cores: 0.5,
                burst_ns: 20_000_000,
                periods: throttled_ns / 1_000,
                throttled_periods: throttled_ns / 2_000,
                throttled_ns,
            }),
            weight: Some(100),
            usage_ns: None,
        }),
        memory: MemoryLimits {
            limit_bytes: Some(1 << 20),
            usage_bytes: Some(1 << 19),
            limit_hits: Some(limit_hits),
            ..MemoryLimits::default()
        },
        ..GroupReading::default()
    }
}

fn device_use(bytes: u64) -> DeviceUse {
    DeviceUse {
        read_bytes: bytes,
        reads: bytes / 4096,
        ..DeviceUse::default()
    }
}

/// A container in a pod, with a quota and a limit of each, at a time.
fn reading(at_seconds: u64) -> (Reading, ContainerReading) {
    let done = at_seconds * 1_000_000;
    let times = |share: u64| PressureTimes {
        waiting_usec: done / share,
        stalled_usec: done / share / 2,
    };
    let mut own = group("/pod/web", done, at_seconds * 3);
    own.io_limits = IoLimits::from([(
        DEVICE,
        IoLimit {
            read_bytes: Some(1 << 20),
            ..IoLimit::default()
        },
    )]);
    own.io = vec![(DEVICE, device_use(at_seconds * 4096))];
    let container = ContainerReading {
        identity: Arc::new(Identity {
            cgroup: "/pod/web".into(),
            ..Identity::default()
        }),
        on_cpu_ns: Some(done * 100),
        tasks: Some(TaskReading {
            waited_ns: done * 10,
            waits: at_seconds * 7,
            ..TaskReading::default()
        }),
        requests: Some(RequestReading {
            count: at_seconds,
            latency_ns: done,
            ..RequestReading::default()
        }),
        ran_on: Some(RanOnReading {
            weight: at_seconds as f64,
            softirq: at_seconds as f64 / 4.0,
            ..RanOnReading::default()
        }),
        own,
        memory: MemoryUse {
            working_set_bytes: Some(1 << 18),
            stat: MemoryStat {
                refaults: Some(at_seconds * 11),
                dirty_bytes: Some(8192),
                ..MemoryStat::default()
            },
            oom_kills: Some(at_seconds / 5),
        },
        pressure: Some(Pressure {
            cpu: Some(times(2)),
            memory: Some(times(4)),
            io: None,
        }),
        cpus: Some(Arc::from([0u32, 1].as_slice())),
        network: Some(7),
        ..ContainerReading::default()
    };
    let cpu = |cpu| CpuTicks {
        cpu,
        ..CpuTicks::default()
    };
    let reading = Reading {
        at_ns: at_seconds * 1_000_000_000,
        host: HostReading {
            cpus: vec![cpu(0), cpu(1), cpu(2)],
            disks: vec![DiskReading {
                sample: DiskSample {
                    name: "vda".into(),
                    device: DEVICE,
                    ..DiskSample::default()
                },
                errors: None,
            }],
            network: Some(9),
            ..HostReading::default()
        },
        above: [(
            Arc::from("/pod"),
            Arc::new(group("/pod", done * 2, at_seconds)),
        )]
        .into(),
        networks: [(
            7,
            NetworkSample {
                sent_bytes: at_seconds * 1_000,
                retransmitted_segments: Some(at_seconds),
                ..NetworkSample::default()
            },
        )]
        .into(),
        ..Reading::default()
    };
    (reading, container)
}

fn facts(
    earlier: &(Reading, ContainerReading),
    later: &(Reading, ContainerReading),
) -> ContainerFacts {
    Pair {
        earlier: &earlier.0,
        later: &later.0,
        old: &earlier.1,
        new: &later.1,
    }
    .facts()
}

#[test]
fn quotas_and_limits_are_those_of_all_levels_innermost_first() {
    let facts = facts(&reading(10), &reading(20));
    let quotas: Vec<_> = facts
        .cpu
        .quotas
        .iter()
        .map(|quota| (quota.cgroup.as_str(), quota.is_own, quota.periods))
        .collect();
    assert_eq!(
        quotas,
        [("/pod/web", true, 10_000), ("/pod", false, 20_000)]
    );
    let own = &facts.cpu.quotas[0];
    assert_eq!((own.quota_cores, own.burst_seconds), (0.5, 0.02));
    assert_eq!(
        (own.throttled_periods, own.throttled_seconds),
        (5_000, 0.01)
    );
    let limits: Vec<_> = facts
        .memory
        .limits
        .iter()
        .map(|limit| (limit.cgroup.as_str(), limit.is_own, limit.limit_hits))
        .collect();
    assert_eq!(
        limits,
        [("/pod/web", true, Some(30)), ("/pod", false, Some(10))]
    );
}

#[test]
fn counters_become_differences_and_shares() {
    let facts = facts(&reading(10), &reading(20));
    assert_eq!(facts.seconds, 10.0);
    assert_eq!(facts.cpu.used_seconds, Some(1.0));
    assert_eq!(facts.cpu.waited_seconds, Some(0.1));
    assert_eq!(facts.cpu.waits, Some(70));
    assert_eq!(facts.cpu.pressure_ratio, Some(0.5));
    assert_eq!(facts.cpu.ran_on.map(|on| on.softirq_ratio), Some(0.25));
    assert_eq!(facts.cpu.cpuset, Some(vec![0, 1]));
    assert_eq!(facts.memory.refaults, Some(110));
    assert_eq!(facts.memory.oom_kills, Some(2));
    assert_eq!(facts.memory.stalled_ratio, Some(0.125));
    assert_eq!(facts.disk.requests, Some(10));
    assert_eq!(facts.disk.dirty_bytes, Some(8192));
    assert_eq!(facts.disk.pressure_ratio, None);
    assert_eq!(facts.disk.devices["vda"], device_use(40_960));
    let limit = &facts.disk.limits[0];
    assert_eq!((limit.device.as_str(), limit.is_own), ("vda", true));
    assert_eq!(limit.read_bytes_per_second, Some(1 << 20));
    assert_eq!(limit.used, device_use(40_960));
    let network = facts.network.unwrap();
    assert!(!network.is_host);
    assert_eq!(network.sent_bytes, 10_000);
    assert_eq!(network.retransmitted_segments, Some(10));
    assert_eq!(network.sent_segments, None);
}

#[test]
fn what_went_backwards_is_absent_and_the_rest_stays() {
    let facts = facts(&reading(20), &{
        let (mut later, container) = reading(10);
        later.at_ns = 30_000_000_000;
        (later, container)
    });
    assert_eq!(facts.cpu.used_seconds, None);
    assert!(facts.cpu.quotas.is_empty());
    assert_eq!(facts.cpu.pressure_ratio, None);
    assert_eq!(facts.memory.refaults, None);
    assert_eq!(facts.memory.limits[0].limit_hits, None);
    assert_eq!(facts.memory.limits[0].limit_bytes, Some(1 << 20));
    assert!(facts.disk.devices.is_empty());
    assert_eq!(facts.network, None);
    assert_eq!(facts.memory.working_set_bytes, Some(1 << 18));
}

#[test]
fn a_set_that_was_another_one_at_the_begin_is_new() {
    let (mut earlier, later) = (reading(10), reading(20));
    assert!(!facts(&earlier, &later).cpu.is_cpuset_new);
    earlier.1.cpus = Some(Arc::from([1u32, 2].as_slice()));
    assert!(facts(&earlier, &later).cpu.is_cpuset_new);
    earlier.1.cpus = None;
    assert!(facts(&earlier, &later).cpu.is_cpuset_new);
}

#[test]
fn a_set_of_all_cpus_is_none() {
    let (earlier, mut later) = (reading(10), reading(20));
    later.0.host.cpus.truncate(2);
    assert_eq!(facts(&earlier, &later).cpu.cpuset, None);
    later.1.cpus = None;
    assert_eq!(facts(&earlier, &later).cpu.cpuset, None);
}

#[test]
fn the_hosts_network_is_told_as_such_and_an_unknown_one_is_none() {
    let (earlier, mut later) = (reading(10), reading(20));
    later.0.host.network = Some(7);
    assert!(facts(&earlier, &later).network.unwrap().is_host);
    later.0.host.network = None;
    assert_eq!(facts(&earlier, &later).network, None);
    later = reading(20);
    later.1.network = None;
    assert_eq!(facts(&earlier, &later).network, None);
}

#[test]
fn what_a_cgroup_above_did_before_it_had_a_limit_is_not_its_use() {
    let (mut earlier, mut later) = (reading(10), reading(20));
    let mut pod = group("/pod", 0, 0);
    pod.io_limits = later.1.own.io_limits.clone();
    pod.io = vec![(DEVICE, device_use(1 << 30))];
    later
        .0
        .above
        .insert(Arc::from("/pod"), Arc::new(pod.clone()));
    assert_eq!(facts(&earlier, &later).disk.limits.len(), 1);
    pod.io = vec![(DEVICE, device_use(1 << 29))];
    earlier.0.above.insert(Arc::from("/pod"), Arc::new(pod));
    let limits = facts(&earlier, &later).disk.limits;
    assert_eq!(limits.len(), 2);
    assert_eq!(limits[1].used, device_use(1 << 29));
}

#[test]
fn a_device_that_no_disk_is_goes_by_its_number() {
    let (earlier, mut later) = (reading(10), reading(20));
    later.0.host.disks.clear();
    assert!(facts(&earlier, &later).disk.devices.contains_key("254:0"));
}

/// Waits by cause and by whom they were for, in nanoseconds.
fn waiting(
    mut at: (Reading, ContainerReading),
    causes: [u64; CAUSES],
    pairs: &[(&str, Kind, u64)],
) -> (Reading, ContainerReading) {
    at.1.tasks = Some(TaskReading {
        causes_ns: causes,
        ..TaskReading::default()
    });
    at.1.waited_for = told(pairs);
    at
}

/// Whom it waited for, in nanoseconds.
fn told(pairs: &[(&str, Kind, u64)]) -> Vec<PairReading> {
    let pair = |(slot, &(name, kind, ns)): (u32, &(&str, Kind, u64))| PairReading {
        slot,
        culprit: Arc::new(Identity {
            container: name.into(),
            cgroup: format!("/{name}"),
            kind,
            ..Identity::default()
        }),
        ns,
    };
    (1..).zip(pairs).map(pair).collect()
}

#[test]
fn who_was_waited_for_is_named_the_most_first_and_the_rest_is_a_sum() {
    const S: u64 = 1_000_000_000;
    let containers = |a, b| {
        [
            ("a", Kind::Container, a),
            ("b", Kind::Cgroup, b),
            ("cron", Kind::Service, a),
        ]
    };
    let earlier = waiting(reading(10), [S; CAUSES], &containers(S, 2 * S));
    let causes = [2 * S, 3 * S, 11 * S, 6 * S, 7 * S, 8 * S, 9 * S, 10 * S];
    let later = waiting(reading(20), causes, &containers(3 * S, 7 * S));
    let waited = facts(&earlier, &later).cpu.waited_for.unwrap();
    let named = |all: &[Neighbour]| -> Vec<(String, f64)> {
        all.iter()
            .map(|one| (one.name.clone(), one.seconds))
            .collect()
    };
    assert_eq!(
        named(&waited.containers),
        [("b".into(), 5.0), ("a".into(), 2.0)]
    );
    assert_eq!(named(&waited.services), [("cron".into(), 2.0)]);
    assert_eq!(
        (waited.other_containers_seconds, waited.system_seconds),
        (3.0, 5.0)
    );
    assert_eq!((waited.throttled_seconds, waited.own_seconds), (1.0, 2.0));
    assert_eq!((waited.kernel_seconds, waited.idle_seconds), (6.0, 7.0));
    assert_eq!(
        (waited.migrated_seconds, waited.unattributed_seconds),
        (8.0, 9.0)
    );
}

#[test]
fn neighbours_that_came_or_are_read_too_late_have_no_more_than_there_was() {
    let earlier = waiting(reading(10), [0; CAUSES], &[("a", Kind::Container, 900)]);
    let mut causes = [0; CAUSES];
    causes[ctrscope_ebpf::ledger::CONTAINER] = 1_000;
    let pairs = [
        // Another one at its path.
        ("a", Kind::Container, 400),
        ("late", Kind::Container, 800),
        ("idle", Kind::Container, 0),
    ];
    let later = waiting(reading(20), causes, &pairs);
    let waited = facts(&earlier, &later).cpu.waited_for.unwrap();
    let seconds: Vec<f64> = waited.containers.iter().map(|one| one.seconds).collect();
    assert_eq!(seconds, [800e-9, 200e-9]);
    assert_eq!(waited.other_containers_seconds, 0.0);
    // Without the programs nothing is known of it.
    let mut without = reading(20);
    without.1.tasks = None;
    assert_eq!(facts(&earlier, &without).cpu.waited_for, None);
}

/// Requests with a latency, of which others had a part and another is not known, in seconds; and whom it waited for.
fn requesting(
    mut at: (Reading, ContainerReading),
    [latency, others, unknown]: [u64; 3],
    pairs: &[(&str, Kind, u64)],
) -> (Reading, ContainerReading) {
    const S: u64 = 1_000_000_000;
    at.1.requests = Some(RequestReading {
        latency_ns: latency * S,
        others_ns: others * S,
        unknown_ns: unknown * S,
        ..RequestReading::default()
    });
    let pairs: Vec<_> = pairs
        .iter()
        .map(|&(name, kind, seconds)| (name, kind, seconds * S))
        .collect();
    at.1.waited_for_disk = told(&pairs);
    at
}

#[test]
fn whose_requests_were_in_front_is_a_sum_that_is_the_latency() {
    let pairs = |a, b, cron| {
        [
            ("a", Kind::Container, a),
            ("b", Kind::Cgroup, b),
            ("cron", Kind::Service, cron),
        ]
    };
    let earlier = requesting(reading(10), [10, 5, 1], &pairs(2, 1, 1));
    let later = requesting(reading(20), [40, 25, 4], &pairs(10, 11, 2));
    let disk = facts(&earlier, &later).disk;
    let waited = disk.waited_for.unwrap();
    let named: Vec<_> = waited
        .containers
        .iter()
        .map(|one| (one.name.as_str(), one.seconds))
        .collect();
    assert_eq!(named, [("b", 10.0), ("a", 8.0)]);
    // A service has no name here.
    assert_eq!((waited.other_seconds, waited.unknown_seconds), (2.0, 3.0));
    assert_eq!(waited.own_seconds, 7.0);
    assert_eq!(disk.latency_seconds, Some(30.0));
    // Pairs are read a moment later than the sums.
    let later = requesting(reading(20), [40, 25, 4], &pairs(30, 11, 2));
    let waited = facts(&earlier, &later).disk.waited_for.unwrap();
    let seconds: Vec<f64> = waited.containers.iter().map(|one| one.seconds).collect();
    assert_eq!((seconds, waited.other_seconds), (vec![20.0, 0.0], 0.0));
    // Without the programs nothing is known of it.
    let mut without = reading(20);
    without.1.requests = None;
    assert_eq!(facts(&earlier, &without).disk.waited_for, None);
}
