//! What holds for any facts.

use std::sync::Arc;

use proptest::{collection::vec, option, prelude::*};

use super::{
    facts::{
        ContainerFacts, CpuTimeFacts, DeviceUse, DiskDeviceFacts, Entitlement, IoLimitFacts,
        MemoryLimitFacts, Neighbour, NetworkFacts, QuotaFacts, RanOn, WaitedFor, WaitedForDisk,
        WindowFacts,
    },
    fixture,
    history::History,
    report::{ContainerDiagnosis, Diagnosis, diagnose, judge},
    thresholds::Thresholds,
    verdict::{Answer, Resource, Verdict},
};

/// Any number that a fact may hold by mistake, and mostly one that makes sense.
fn real() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => 0.0..200.0_f64,
        4 => 0.0..1.0_f64,
        2 => Just(0.0),
        1 => any::<f64>(),
    ]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..100_000_u64, 2 => Just(0), 1 => any::<u64>()]
}

fn maybe_real() -> impl Strategy<Value = Option<f64>> {
    option::weighted(0.8, real())
}

fn maybe_count() -> impl Strategy<Value = Option<u64>> {
    option::weighted(0.8, count())
}

fn neighbours() -> impl Strategy<Value = Vec<Neighbour>> {
    let one = (0..6_usize, real()).prop_map(|(index, seconds)| Neighbour {
        name: format!("c{index}"),
        seconds,
    });
    vec(one, 0..5)
}

fn waited_for() -> impl Strategy<Value = WaitedFor> {
    let parts = (neighbours(), neighbours(), vec(real(), 8));
    parts.prop_map(|(containers, services, parts)| WaitedFor {
        containers,
        services,
        own_seconds: parts[0],
        idle_seconds: parts[1],
        kernel_seconds: parts[2],
        system_seconds: parts[3],
        other_containers_seconds: parts[4],
        throttled_seconds: parts[5],
        migrated_seconds: parts[6],
        unattributed_seconds: parts[7],
    })
}

fn quotas() -> impl Strategy<Value = Vec<QuotaFacts>> {
    let one = (any::<bool>(), vec(real(), 3), count(), count()).prop_map(
        |(is_own, parts, periods, throttled_periods)| QuotaFacts {
            cgroup: if is_own { "/c0" } else { "/" }.to_owned(),
            is_own,
            quota_cores: parts[0],
            burst_seconds: parts[1],
            throttled_seconds: parts[2],
            periods,
            throttled_periods,
        },
    );
    vec(one, 0..3)
}

fn device_use() -> impl Strategy<Value = DeviceUse> {
    (count(), count(), count(), count()).prop_map(|(read_bytes, write_bytes, reads, writes)| {
        DeviceUse {
            read_bytes,
            write_bytes,
            reads,
            writes,
        }
    })
}

fn io_limits() -> impl Strategy<Value = Vec<IoLimitFacts>> {
    let one =
        (any::<bool>(), vec(maybe_count(), 4), device_use()).prop_map(|(is_own, parts, used)| {
            IoLimitFacts {
                cgroup: "/c0".to_owned(),
                is_own,
                device: "vda".to_owned(),
                read_bytes_per_second: parts[0],
                write_bytes_per_second: parts[1],
                reads_per_second: parts[2],
                writes_per_second: parts[3],
                used,
            }
        });
    vec(one, 0..3)
}

fn memory_limits() -> impl Strategy<Value = Vec<MemoryLimitFacts>> {
    let one = (any::<bool>(), vec(maybe_count(), 5)).prop_map(|(is_own, parts)| MemoryLimitFacts {
        cgroup: "/c0".to_owned(),
        is_own,
        limit_bytes: parts[0],
        high_bytes: parts[1],
        usage_bytes: parts[2],
        limit_hits: parts[3],
        high_hits: parts[4],
    });
    vec(one, 0..3)
}

fn cpu_and_waits() -> impl Strategy<Value = ContainerFacts> {
    let entitlement = option::of((count(), real(), real(), real()).prop_map(
        |(weight, guaranteed_cores, fair_cores, obtained_cores)| Entitlement {
            weight,
            guaranteed_cores,
            fair_cores,
            obtained_cores,
            needed_weight: (weight > 7).then_some(weight),
        },
    ));
    (
        vec(maybe_real(), 5),
        vec(maybe_count(), 3),
        quotas(),
        entitlement,
        option::of(vec(0..6_u32, 0..4)),
        option::of(waited_for()),
        vec(real(), 0..6),
        option::of((0.0..1.0_f64, 0.0..1.0_f64, 0.0..1.0_f64)),
    )
        .prop_map(
            |(reals, counts, quotas, entitlement, cpuset, waited_for, former_cores, ran_on)| {
                let mut container = ContainerFacts::default();
                let cpu = &mut container.cpu;
                cpu.used_seconds = reals[0];
                cpu.waited_seconds = reals[1];
                cpu.sleep_seconds = reals[2];
                cpu.io_wait_seconds = reals[3];
                cpu.pressure_ratio = reals[4];
                cpu.waits = counts[0];
                cpu.voluntary = counts[1];
                cpu.involuntary = counts[2];
                cpu.quotas = quotas;
                cpu.entitlement = entitlement;
                cpu.cpuset = cpuset;
                cpu.waited_for = waited_for;
                cpu.former_cores = former_cores;
                cpu.ran_on = ran_on.map(|(softirq_ratio, irq_ratio, steal_ratio)| RanOn {
                    softirq_ratio,
                    irq_ratio,
                    steal_ratio,
                    ..RanOn::default()
                });
                container
            },
        )
}

fn network() -> impl Strategy<Value = NetworkFacts> {
    (any::<bool>(), vec(count(), 4), vec(maybe_count(), 4)).prop_map(|(is_host, counts, maybe)| {
        NetworkFacts {
            is_host,
            received_bytes: counts[0],
            sent_bytes: counts[1],
            dropped_packets: counts[2],
            error_packets: counts[3],
            sent_segments: maybe[0],
            retransmitted_segments: maybe[1],
            listen_drops: maybe[2],
            udp_receive_errors: maybe[3],
        }
    })
}

fn container() -> impl Strategy<Value = ContainerFacts> {
    let disk = (
        vec(maybe_count(), 4),
        vec(maybe_real(), 4),
        option::of(device_use()),
        io_limits(),
        option::of((neighbours(), real(), real())),
    );
    let memory = (vec(maybe_count(), 6), vec(maybe_real(), 3), memory_limits());
    (cpu_and_waits(), disk, memory, option::of(network())).prop_map(
        |(mut container, disk, memory, network)| {
            let (counts, reals, used, limits, waited) = disk;
            let facts = &mut container.disk;
            facts.requests = counts[0];
            facts.bytes = counts[1];
            facts.errors = counts[2];
            facts.dirty_bytes = counts[3];
            facts.latency_seconds = reals[0];
            facts.queue_seconds = reals[1];
            facts.pressure_ratio = reals[2];
            facts.stalled_ratio = reals[3];
            facts
                .devices
                .extend(used.map(|used| ("vda".to_owned(), used)));
            facts.limits = limits;
            facts.waited_for = waited.map(|(containers, own, other)| WaitedForDisk {
                own_seconds: own,
                containers,
                other_seconds: other,
                unknown_seconds: own,
            });
            let (counts, reals, limits) = memory;
            let facts = &mut container.memory;
            facts.working_set_bytes = counts[0];
            facts.refaults = counts[1];
            facts.major_faults = counts[2];
            facts.direct_reclaim_pages = counts[3];
            facts.oom_kills = counts[4];
            facts.swap_bytes = counts[5];
            facts.direct_reclaim_seconds = reals[0];
            facts.pressure_ratio = reals[1];
            facts.stalled_ratio = reals[2];
            facts.limits = limits;
            container.network = network;
            container
        },
    )
}

fn cpu_time() -> impl Strategy<Value = CpuTimeFacts> {
    (0..6_u32, vec(0.0..1.0_f64, 5)).prop_map(|(cpu, parts)| CpuTimeFacts {
        cpu,
        idle_ratio: parts[0],
        task_ratio: parts[1],
        irq_ratio: parts[2],
        softirq_ratio: parts[3],
        steal_ratio: parts[4],
    })
}

fn disk() -> impl Strategy<Value = DiskDeviceFacts> {
    (count(), count(), real(), real(), maybe_real(), maybe_real()).prop_map(
        |(requests, bytes, busy_ratio, mean_in_flight, mean, normal)| DiskDeviceFacts {
            number: (254, 0),
            requests,
            bytes,
            busy_ratio,
            mean_in_flight,
            mean_latency_seconds: mean,
            normal_latency_seconds: normal,
            errors: None,
        },
    )
}

fn facts() -> impl Strategy<Value = WindowFacts> {
    (
        real(),
        count(),
        vec(container(), 0..5),
        vec(cpu_time(), 0..5),
        option::of(disk()),
        vec(maybe_count(), 9),
    )
        .prop_map(|(seconds, ended, mut containers, cpus, disk, memory)| {
            for (index, one) in containers.iter_mut().enumerate() {
                let identity = Arc::make_mut(&mut one.identity);
                identity.container = format!("c{index}");
                identity.cgroup = format!("/c{index}");
            }
            let mut facts = WindowFacts {
                seconds,
                ended_at_unix_ms: ended,
                containers,
                ..WindowFacts::default()
            };
            facts.host.cpus = cpus;
            facts
                .host
                .disks
                .extend(disk.map(|disk| ("vda".to_owned(), disk)));
            let host = &mut facts.host.memory;
            host.total_bytes = memory[0];
            host.available_bytes = memory[1];
            host.swap_total_bytes = memory[2];
            host.swap_free_bytes = memory[3];
            host.direct_reclaim_pages = memory[4];
            host.oom_kills = memory[5];
            host.dirty_bytes = memory[6];
            host.dirty_threshold_bytes = memory[7];
            host.corrupted_bytes = memory[8];
            facts
        })
}

/// The same facts with numbers that cannot add up to infinity.
fn tamed(facts: &WindowFacts) -> WindowFacts {
    fn tame(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Number(number) if number.is_f64() => {
                let number = number.as_f64().unwrap_or(0.0);
                *value = number.clamp(0.0, 1e12).into();
            }
            serde_json::Value::Array(values) => values.iter_mut().for_each(tame),
            serde_json::Value::Object(values) => values.values_mut().for_each(tame),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(facts).expect("facts are JSON");
    tame(&mut value);
    serde_json::from_value(value).expect("JSON is facts")
}

fn diagnosed(facts: &WindowFacts) -> Diagnosis {
    diagnose(facts, &Thresholds::default())
}

fn verdicts(diagnosis: &Diagnosis, name: &str) -> Vec<(Resource, Vec<Verdict>)> {
    let one = diagnosis.containers.iter().find(|one| one.name == name);
    one.map(|one| {
        let trees = one.resources.iter();
        trees
            .map(|tree| {
                let verdicts = tree.findings.iter().map(|one| one.verdict).collect();
                (tree.resource, verdicts)
            })
            .collect()
    })
    .unwrap_or_default()
}

fn cpu_verdicts(facts: &WindowFacts) -> Vec<Verdict> {
    let diagnosis = diagnosed(facts);
    verdicts(&diagnosis, "c0")
        .into_iter()
        .find(|(resource, _)| *resource == Resource::Cpu)
        .map(|(_, verdicts)| verdicts)
        .unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    /// No panic; every tree has an answer; what is said is consistent; and it is whole after JSON.
    #[test]
    fn any_facts_have_a_consistent_diagnosis(facts in facts()) {
        let diagnosis = diagnosed(&facts);
        prop_assert_eq!(diagnosis.containers.len(), facts.containers.len());
        for container in &diagnosis.containers {
            prop_assert_eq!(container.resources.len(), Resource::ALL.len());
            for tree in &container.resources {
                prop_assert!(!tree.findings.is_empty());
                prop_assert_eq!(tree.verdict, tree.findings[0].verdict);
                for finding in &tree.findings {
                    prop_assert!((0.0..=1.0).contains(&finding.severity));
                    prop_assert!((0.0..=1.0).contains(&finding.confidence.ratio));
                    prop_assert!(!finding.summary.is_empty(), "{finding:?}");
                    prop_assert!(!finding.verdict.is_bottleneck() || !finding.remedies.is_empty());
                    // At most one can hold most of it.
                    prop_assert!(finding.culprits.len() <= 1, "{:?}", finding.culprits);
                    for culprit in &finding.culprits {
                        prop_assert!(culprit.share > 0.5);
                        prop_assert!(finding.exonerated.iter().all(|one| one.name != culprit.name));
                    }
                }
            }
            let worst = container.bottleneck;
            prop_assert!(worst.is_none_or(|worst| worst.verdict.is_bottleneck()));
            prop_assert!(!(container.is_idle && worst.is_some()));
        }
        let mut history = History::default();
        history.update(&diagnosis);
        prop_assert!(history.standing().len() <= facts.containers.len());
    }

    /// Those that are remembered are those that are shown.
    #[test]
    fn verdicts_without_tables_are_the_same(facts in facts()) {
        let verdicts = |diagnosis: &Diagnosis| {
            let text = |one: &ContainerDiagnosis| {
                format!("{} {:?} {} {:?}", one.name, one.bottleneck, one.is_idle, one.resources)
            };
            let mut verdicts: Vec<String> = diagnosis.containers.iter().map(text).collect();
            verdicts.sort();
            (verdicts, diagnosis.ended_at_unix_ms)
        };
        let judged = judge(&facts, &Thresholds::default());
        prop_assert_eq!(verdicts(&judged), verdicts(&diagnosed(&facts)));
    }

    /// Numbers of a size that a machine has come back whole from JSON.
    #[test]
    fn a_diagnosis_is_whole_after_json(facts in facts()) {
        let diagnosis = diagnosed(&tamed(&facts));
        let text = serde_json::to_string(&diagnosis).expect("it is written");
        let back: Diagnosis = serde_json::from_str(&text).expect("it is read");
        // Reading a number may change its last digit.
        let words = |one: &Diagnosis| -> Vec<_> {
            let trees = one.containers.iter().flat_map(|one| one.resources.clone());
            trees
                .map(|tree| {
                    let asked: Vec<_> = tree.asked.iter().map(|one| (one.name.clone(), one.answer)).collect();
                    let found: Vec<_> = tree.findings.iter().map(|one| (one.verdict, one.summary.clone())).collect();
                    (tree.resource, tree.verdict, asked, found)
                })
                .collect()
        };
        prop_assert_eq!(words(&back), words(&diagnosis));
    }

    /// Whoever has no number of a resource has no bottleneck there.
    #[test]
    fn what_is_not_measured_is_no_verdict(facts in facts(), which in 0..4_usize) {
        let mut facts = facts;
        let Some(container) = facts.containers.first_mut() else { return Ok(()) };
        match which {
            0 => container.cpu = Default::default(),
            1 => container.memory = Default::default(),
            2 => {
                container.disk = Default::default();
                container.cpu.io_wait_seconds = None;
            }
            _ => container.network = None,
        }
        let resource = Resource::ALL[which];
        let diagnosis = diagnosed(&facts);
        let found = verdicts(&diagnosis, "c0");
        let (_, verdicts) = found.iter().find(|(one, _)| *one == resource).expect("a tree");
        prop_assert_eq!(verdicts.as_slice(), &[Verdict::Unknown]);
    }

    /// A question that answers yes has every number that it was compared by, or one of them.
    #[test]
    fn no_yes_rests_on_what_is_absent(facts in facts()) {
        for container in diagnosed(&facts).containers {
            for asked in container.resources.iter().flat_map(|tree| &tree.asked) {
                if asked.answer == Answer::Yes {
                    let mut decides = asked.evidence.iter().filter(|one| one.holds() == Some(true));
                    prop_assert!(decides.all(|one| one.value.is_some()));
                    prop_assert!(asked.evidence.iter().any(|one| one.holds() == Some(true)));
                }
            }
        }
    }

    /// More throttling never takes the verdict back.
    #[test]
    fn more_throttling_stays_throttling(facts in facts(), more in 0..100_000_u64) {
        let mut facts = facts;
        let before = cpu_verdicts(&facts);
        if !before.contains(&Verdict::CapThrottled) {
            return Ok(());
        }
        for quota in &mut facts.containers[0].cpu.quotas {
            quota.throttled_periods = quota.throttled_periods.saturating_add(more).min(quota.periods);
        }
        // A wrapped pair is no more throttling.
        prop_assume!(facts.containers[0].cpu.quotas.iter().all(|one| one.throttled_periods <= one.periods));
        prop_assert!(cpu_verdicts(&facts).contains(&Verdict::CapThrottled));
    }

    /// A neighbour that is waited for more does not become innocent, and none becomes the culprit
    /// because more is waited for somebody else.
    #[test]
    fn blame_follows_the_waiting(bully in 1.0..200.0_f64, other in 0.0..200.0_f64, more in 0.0..100.0_f64) {
        let window = |bully: f64, other: f64| {
            let waited = WaitedFor {
                containers: vec![fixture::held("bully", bully), fixture::held("other", other)],
                ..WaitedFor::default()
            };
            fixture::window(2, 0.0, vec![
                fixture::waiting("victim", 0.5, waited),
                fixture::running("bully", 0.9),
                fixture::running("other", 0.6),
            ])
        };
        let culprits = |facts: &WindowFacts| -> Vec<String> {
            let diagnosis = diagnosed(facts);
            let victim = diagnosis.containers.iter().find(|one| one.name == "victim").expect("there");
            let findings = victim.resources.iter().flat_map(|tree| &tree.findings);
            findings.flat_map(|one| &one.culprits).map(|one| one.name.clone()).collect()
        };
        let before = culprits(&window(bully, other));
        let after = culprits(&window(bully + more, other));
        if before == ["bully"] {
            prop_assert_eq!(&after, &["bully"]);
        }
        if before != ["other"] {
            prop_assert_ne!(&after, &["other"]);
        }
    }

    /// More waiting never makes it not CPU-bound.
    #[test]
    fn more_waiting_stays_waiting(wait in 0.0..300.0_f64, more in 0.0..100.0_f64) {
        let window = |wait: f64| {
            let waited = WaitedFor {
                containers: vec![fixture::held("bully", wait)],
                ..WaitedFor::default()
            };
            let mut facts = fixture::window(2, 0.0, vec![
                fixture::waiting("c0", 0.5, waited),
                fixture::running("bully", 1.4),
            ]);
            Arc::make_mut(&mut facts.containers[0].identity).container = "c0".to_owned();
            facts
        };
        if cpu_verdicts(&window(wait)) != [Verdict::NotCpuBound] {
            prop_assert_ne!(cpu_verdicts(&window(wait + more)), [Verdict::NotCpuBound]);
        }
    }
}
