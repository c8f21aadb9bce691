//! A made-up snapshot of any size, to measure what rendering costs and to test it.

use std::{collections::BTreeMap, sync::Arc};

use crate::snapshot::{
    AgentHealth, AsOf, BlockStats, ChargedBytes, CollectorStatus, Container, Counters,
    EvictedWorkloads, Gauges, Histogram, Host, Identity, InOther, KernelMap, KernelProgram, Kind,
    Labels, LossCounter, MemoryEvents, NeighbourWait, NeighbourWaits, Pressure, PressureTimes, Qos,
    Resources, RuntimeHealth, SchedStats, SeenContainers, Snapshot, Throttling, Total, Totals,
    Workload, WorkloadIdentity, WorkloadKind,
};

/// Makes a snapshot with `count` containers, in which everything is measured and every number
/// differs from the next; the same `count` gives the same snapshot.
#[must_use]
pub fn synthetic_snapshot(count: usize) -> Snapshot {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let containers: Vec<Container> = (0..count)
        .map(|index| container(index, &mut random))
        .collect();
    Snapshot {
        taken_at_unix_ms: 1_700_000_000_000,
        taken_at_ns: 1_000_000_000,
        host: Host {
            name: "node-1".to_owned(),
            kernel: "6.18.0".to_owned(),
            cpus: 64,
        },
        workloads: workloads(&containers),
        evicted_workloads: EvictedWorkloads::default(),
        neighbours: Some(neighbours(&containers)),
        containers,
        agent: agent(u32::try_from(count).unwrap_or(u32::MAX)),
    }
}

/// Each of the first hundred waits for the next one.
fn neighbours(containers: &[Container]) -> NeighbourWaits {
    let pairs = containers.windows(2).take(100).zip(1..);
    let pairs = pairs.filter_map(|(pair, number): (_, u64)| {
        let [victim, culprit] = pair else {
            return None;
        };
        Some(NeighbourWait {
            victim: Arc::clone(&victim.identity),
            culprit: Arc::clone(&culprit.identity),
            ns: number * 1_234_567,
        })
    });
    NeighbourWaits {
        pairs: pairs.collect(),
        other_ns: 7_654_321,
    }
}

/// The same of containers that did nothing since they started: they have limits, and neither used a disk nor
/// were preempted.
#[must_use]
pub fn idle_snapshot(count: usize) -> Snapshot {
    let mut snapshot = synthetic_snapshot(count);
    for container in &mut snapshot.containers {
        let counters = &mut container.counters;
        counters.block = Some(BlockStats::default());
        if let Some(sched) = &mut counters.sched {
            sched.preemptions = [0; 5];
            sched.preempted_wait_ns = [0; 5];
            sched.causes_ns = [0; 8];
            sched.off_cpu_io_ns = 0;
        }
        counters.pressure = Some(Pressure {
            cpu: Some(PressureTimes::default()),
            memory: Some(PressureTimes::default()),
            io: Some(PressureTimes::default()),
        });
    }
    snapshot
}

/// Xorshift: repeatable, and enough to make numbers differ.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn several<const N: usize>(&mut self, limit: u64) -> [u64; N] {
        std::array::from_fn(|_| self.below(limit))
    }

    fn histogram(&mut self) -> Histogram {
        let mut histogram = Histogram::default();
        for bucket in 0..histogram.buckets().len() {
            let count = self.below(100_000);
            histogram.add_to_bucket(bucket, count);
        }
        histogram.add_to_sum(self.below(10_000_000_000_000));
        histogram
    }

    fn pressure(&mut self) -> Option<PressureTimes> {
        Some(PressureTimes {
            waiting_usec: self.below(10_000_000_000),
            stalled_usec: self.below(1_000_000_000),
        })
    }
}

fn container(index: usize, random: &mut Random) -> Container {
    let id = format!("{:016x}{:016x}", random.0, index).repeat(2);
    let pod_uid = format!("6f1c2d3e-0000-4000-8000-{index:012x}");
    let mut block = BlockStats::default();
    // Reads and writes, as almost every container.
    for operation in block.operations.iter_mut().take(2) {
        operation.latency = random.histogram();
        operation.count = operation.latency.count();
        operation.queue_ns = random.below(1_000_000_000_000);
        operation.bytes = random.below(1 << 42);
    }
    Container {
        identity: Arc::new(Identity {
            namespace: format!("team-{}", index % 20),
            pod: format!("checkout-7d9f8c6b5-{index:05}"),
            container: "checkout".to_owned(),
            image: "checkout:1.2.3".to_owned(),
            runtime: "containerd".to_owned(),
            kind: Kind::Container,
            cgroup: format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-{id}.scope",
                pod_uid.replace('-', "_")
            ),
            container_id: id,
            pod_uid,
            workload: format!("checkout-{}", index / 100),
            workload_kind: WorkloadKind::Deployment,
            qos: Some(Qos::Burstable),
        }),
        resources: Some(Resources {
            cpu_request_cores: Some(0.25),
            ..Resources::default()
        }),
        labels: Labels::default(),
        first_seen_unix_ms: 1_699_999_000_000,
        exit_code: None,
        former: None,
        exited_at_unix_ms: None,
        counters: Counters {
            sched: Some(SchedStats {
                run_queue: random.histogram(),
                on_cpu_ns: random.below(100_000_000_000_000),
                off_cpu_sleep_ns: random.below(100_000_000_000_000),
                off_cpu_io_ns: random.below(1_000_000_000_000),
                off_cpu_uninterruptible_ns: 0,
                voluntary: random.below(100_000_000),
                involuntary: random.below(10_000_000),
                preemptions: random.several(10_000_000),
                preempted_wait_ns: random.several(1_000_000_000_000),
                causes_ns: random.several(1_000_000_000_000),
                process_exits: random.below(100_000),
            }),
            block: Some(block),
            cpu_usage_ns: None,
            cpu: Some(Throttling {
                periods: random.below(1_000_000),
                throttled_periods: random.below(10_000),
                throttled_ns: random.below(1_000_000_000_000),
            }),
            memory: Some(MemoryEvents {
                oom_kills: Some(random.below(3)),
                limit_hits: Some(random.below(1000)),
            }),
            pressure: Some(Pressure {
                cpu: random.pressure(),
                memory: random.pressure(),
                io: random.pressure(),
            }),
        },
        as_of: AsOf::default(),
        gauges: Gauges {
            cpu_quota_cores: Some(0.25 * (1 + random.below(16)) as f64),
            cpu_weight: Some(1 + random.below(10_000)),
            memory_working_set_bytes: Some(random.below(1 << 34)),
            memory_limit_bytes: Some(1 << 34),
        },
        is_counted_elsewhere: false,
    }
}

/// One for each five containers, as of services with replicas.
fn workloads(containers: &[Container]) -> Vec<Workload> {
    let mut all = BTreeMap::new();
    for container in containers {
        let identity = WorkloadIdentity {
            namespace: container.identity.namespace.clone(),
            name: container.identity.workload.clone(),
            kind: container.identity.workload_kind,
        };
        let workload: &mut Workload = all.entry(identity).or_default();
        let mut totals = Totals::of_container(container);
        totals.set(Total::STARTED, 2);
        totals.set(Total::EXITED, 1);
        workload.totals.add(&totals);
        workload.containers = Some(workload.containers.unwrap_or(0) + 1);
    }
    all.into_iter()
        .map(|(identity, workload)| Workload {
            identity: Arc::new(identity),
            ..workload
        })
        .collect()
}

fn agent(slots_used: u32) -> AgentHealth {
    let collector = |name: &str| CollectorStatus {
        name: name.to_owned(),
        ..CollectorStatus::default()
    };
    AgentHealth {
        runtimes: vec![RuntimeHealth {
            runtime: "containerd".to_owned(),
            socket: "/run/containerd/containerd.sock".to_owned(),
            connected: true,
            connections: 1,
            ..RuntimeHealth::default()
        }],
        seen: SeenContainers { all: 9, named: 8 },
        in_other: InOther {
            limit: 1,
            excluded: 2,
        },
        collectors: ["sched", "block", "cpu", "memory", "pressure"]
            .map(collector)
            .to_vec(),
        programs: vec![KernelProgram {
            name: "sched_switch".to_owned(),
            hook: "tp_btf/sched_switch".to_owned(),
            collector: "sched".to_owned(),
            attached: true,
            reason: String::new(),
            runs: 1_000_000,
            run_ns: 38_000_000,
        }],
        maps: vec![KernelMap {
            name: "SCHED".to_owned(),
            capacity: 4096,
            bytes: 1 << 24,
        }],
        losses: vec![LossCounter {
            kind: "discarded".to_owned(),
            reason: "negative_duration".to_owned(),
            count: 0,
        }],
        slots_used,
        slots: 4096,
        charged_bytes: Some(ChargedBytes {
            container: [1 << 42, 1 << 41, 0, 0],
            service: [1 << 30, 1 << 31, 0, 0],
            other: [1 << 20, 1 << 40, 0, 1 << 33],
        }),
        collection_ns: 20_000_000,
        oldest_files_ns: Some(900_000_000),
        files_read: 120_000,
        profile_addresses: [9_200, 800],
    }
}
