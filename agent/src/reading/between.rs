//! The facts of a container from two readings.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Reading,
    types::{ContainerReading, GroupReading, RanOnReading, RequestReading, TaskReading},
};
use crate::{
    cgroup::{DeviceNumber, IoLimit, Pressure, PressureTimes},
    diagnosis::facts::{
        ContainerFacts, CpuFacts, DeviceUse, DiskFacts, IoLimitFacts, MemoryFacts,
        MemoryLimitFacts, NetworkFacts, QuotaFacts, RanOn,
    },
    host::NetworkSample,
};

/// A container in two readings.
pub(super) struct Pair<'a> {
    pub(super) earlier: &'a Reading,
    pub(super) later: &'a Reading,
    pub(super) old: &'a ContainerReading,
    pub(super) new: &'a ContainerReading,
}

impl Pair<'_> {
    /// What the container did between the two. A counter that went backwards is another's by now, and
    /// gives `None`.
    pub(super) fn facts(&self) -> ContainerFacts {
        let (old, new) = (self.old, self.new);
        let seconds = seconds_of(self.later.at_ns.saturating_sub(self.earlier.at_ns));
        let pressure = |of: fn(&Pressure) -> Option<PressureTimes>,
                        part: fn(PressureTimes) -> u64| {
            let old = part(of(old.pressure.as_ref()?)?);
            let new = part(of(new.pressure.as_ref()?)?);
            share_of(increase(old, new)?, seconds)
        };
        let waiting = |times: PressureTimes| times.waiting_usec;
        let stalled = |times: PressureTimes| times.stalled_usec;
        ContainerFacts {
            identity: Arc::clone(&new.identity),
            seconds,
            exited_at_unix_ms: new.exited_at_unix_ms,
            cpu: CpuFacts {
                pressure_ratio: pressure(|of| of.cpu, waiting),
                ..self.cpu()
            },
            memory: MemoryFacts {
                pressure_ratio: pressure(|of| of.memory, waiting),
                stalled_ratio: pressure(|of| of.memory, stalled),
                ..self.memory()
            },
            disk: DiskFacts {
                pressure_ratio: pressure(|of| of.io, waiting),
                stalled_ratio: pressure(|of| of.io, stalled),
                ..self.disk()
            },
            network: self.network(),
        }
    }

    /// The container's own cgroup and those above it, innermost first, as they were in both readings.
    fn groups(&self) -> Vec<(&GroupReading, &GroupReading)> {
        let mut groups = vec![(&self.old.own, &self.new.own)];
        for new in self.later.above(self.new) {
            if let Some(old) = self.earlier.above.get(&new.path) {
                groups.push((old, new));
            }
        }
        groups
    }

    fn is_own(&self, group: &GroupReading) -> bool {
        group.path == self.new.own.path
    }

    fn cpu(&self) -> CpuFacts {
        let (old, new) = (self.old, self.new);
        // Two accounts begin at different times: a difference is of one of them.
        let is_one_account = old.tasks.is_some() == new.tasks.is_some();
        let used_ns = increase_of(old.on_cpu_ns, new.on_cpu_ns).filter(|_| is_one_account);
        let tasks = old.tasks.as_ref().zip(new.tasks.as_ref());
        let task =
            |of: fn(&TaskReading) -> u64| tasks.and_then(|(old, new)| increase(of(old), of(new)));
        // What may run on every CPU has no set to speak of.
        let online = &self.later.host.cpus;
        let cpuset = new.cpus.as_ref().filter(|cpus| {
            let of_online = online
                .iter()
                .filter(|one| cpus.binary_search(&one.cpu).is_ok());
            online.is_empty() || of_online.count() < online.len()
        });
        let quotas = self.groups().into_iter();
        CpuFacts {
            used_seconds: used_ns.map(seconds_of),
            waited_seconds: task(|of| of.waited_ns).map(seconds_of),
            waits: task(|of| of.waits),
            sleep_seconds: task(|of| of.sleep_ns).map(seconds_of),
            io_wait_seconds: task(|of| of.io_wait_ns).map(seconds_of),
            blocked_seconds: task(|of| of.blocked_ns).map(seconds_of),
            voluntary: task(|of| of.voluntary),
            involuntary: task(|of| of.involuntary),
            quotas: quotas
                .filter_map(|(old, new)| self.quota(old, new))
                .collect(),
            cpuset: cpuset.map(|cpus| cpus.to_vec()),
            ran_on: old
                .ran_on
                .as_ref()
                .zip(new.ran_on.as_ref())
                .and_then(|(old, new)| ran_on(old, new)),
            ..CpuFacts::default()
        }
    }

    fn quota(&self, old: &GroupReading, new: &GroupReading) -> Option<QuotaFacts> {
        let quota = new.cpu.as_ref()?.quota?;
        // One that was set within the window counted from its cgroup's beginning on.
        let before = old
            .cpu
            .as_ref()
            .and_then(|cpu| cpu.quota)
            .unwrap_or_default();
        Some(QuotaFacts {
            cgroup: new.path.to_string(),
            is_own: self.is_own(new),
            quota_cores: quota.cores,
            burst_seconds: seconds_of(quota.burst_ns),
            periods: increase(before.periods, quota.periods)?,
            throttled_periods: increase(before.throttled_periods, quota.throttled_periods)?,
            throttled_seconds: seconds_of(increase(before.throttled_ns, quota.throttled_ns)?),
        })
    }

    fn memory(&self) -> MemoryFacts {
        let (before, now) = (&self.old.memory, &self.new.memory);
        let limits = self.groups().into_iter();
        MemoryFacts {
            working_set_bytes: now.working_set_bytes,
            limits: limits
                .filter_map(|(old, new)| self.memory_limit(old, new))
                .collect(),
            refaults: increase_of(before.stat.refaults, now.stat.refaults),
            major_faults: increase_of(before.stat.major_faults, now.stat.major_faults),
            direct_reclaim_pages: increase_of(
                before.stat.direct_reclaim_pages,
                now.stat.direct_reclaim_pages,
            ),
            oom_kills: increase_of(before.oom_kills, now.oom_kills),
            swap_bytes: now.stat.swap_bytes,
            ..MemoryFacts::default()
        }
    }

    fn memory_limit(&self, old: &GroupReading, new: &GroupReading) -> Option<MemoryLimitFacts> {
        let (before, now) = (&old.memory, &new.memory);
        if now.limit_bytes.is_none() && now.high_bytes.is_none() {
            return None;
        }
        Some(MemoryLimitFacts {
            cgroup: new.path.to_string(),
            is_own: self.is_own(new),
            limit_bytes: now.limit_bytes,
            high_bytes: now.high_bytes,
            usage_bytes: now.usage_bytes,
            limit_hits: increase_of(before.limit_hits, now.limit_hits),
            high_hits: increase_of(before.high_hits, now.high_hits),
        })
    }

    fn disk(&self) -> DiskFacts {
        let (old, new) = (self.old, self.new);
        let requests = old.requests.as_ref().zip(new.requests.as_ref());
        let request = |of: fn(&RequestReading) -> u64| {
            requests.and_then(|(old, new)| increase(of(old), of(new)))
        };
        let devices = new.own.io.iter().filter_map(|(device, used)| {
            let used = device_increase(use_of(&old.own, *device), *used)?;
            Some((self.later.device_name(*device), used))
        });
        let mut limits = Vec::new();
        for (old, new) in self.groups() {
            for (device, limit) in &new.io_limits {
                limits.extend(self.io_limit(old, new, *device, limit));
            }
        }
        DiskFacts {
            requests: request(|of| of.count),
            bytes: request(|of| of.bytes),
            latency_seconds: request(|of| of.latency_ns).map(seconds_of),
            queue_seconds: request(|of| of.queue_ns).map(seconds_of),
            errors: request(|of| of.errors),
            devices: devices
                .filter(|(_, used)| *used != DeviceUse::default())
                .collect::<BTreeMap<_, _>>(),
            limits,
            dirty_bytes: new.memory.stat.dirty_bytes,
            ..DiskFacts::default()
        }
    }

    fn io_limit(
        &self,
        old: &GroupReading,
        new: &GroupReading,
        device: DeviceNumber,
        limit: &IoLimit,
    ) -> Option<IoLimitFacts> {
        // What a cgroup above did is read only while it has a limit.
        if !self.is_own(new) && !old.io_limits.contains_key(&device) {
            return None;
        }
        Some(IoLimitFacts {
            cgroup: new.path.to_string(),
            is_own: self.is_own(new),
            device: self.later.device_name(device),
            read_bytes_per_second: limit.read_bytes,
            write_bytes_per_second: limit.write_bytes,
            reads_per_second: limit.reads,
            writes_per_second: limit.writes,
            used: device_increase(use_of(old, device), use_of(new, device))?,
        })
    }

    fn network(&self) -> Option<NetworkFacts> {
        let id = self.new.network?;
        let (old, new) = (
            self.earlier.networks.get(&id)?,
            self.later.networks.get(&id)?,
        );
        let is_host = self.later.host.network? == id;
        network_facts(old, new, is_host)
    }
}

fn network_facts(old: &NetworkSample, new: &NetworkSample, is_host: bool) -> Option<NetworkFacts> {
    Some(NetworkFacts {
        is_host,
        received_bytes: increase(old.received_bytes, new.received_bytes)?,
        sent_bytes: increase(old.sent_bytes, new.sent_bytes)?,
        dropped_packets: increase(old.dropped_packets, new.dropped_packets)?,
        error_packets: increase(old.error_packets, new.error_packets)?,
        sent_segments: increase_of(old.sent_segments, new.sent_segments),
        retransmitted_segments: increase_of(old.retransmitted_segments, new.retransmitted_segments),
        listen_drops: increase_of(old.listen_drops, new.listen_drops),
        udp_receive_errors: increase_of(old.udp_receive_errors, new.udp_receive_errors),
    })
}

fn ran_on(old: &RanOnReading, new: &RanOnReading) -> Option<RanOn> {
    let weight = new.weight - old.weight;
    // Of less than a tick of all it did nothing is known.
    if weight < 1e-3 {
        return None;
    }
    let mean = |old: f64, new: f64| ((new - old) / weight).clamp(0.0, 1.0);
    Some(RanOn {
        idle_ratio: mean(old.idle, new.idle),
        irq_ratio: mean(old.irq, new.irq),
        softirq_ratio: mean(old.softirq, new.softirq),
        steal_ratio: mean(old.steal, new.steal),
    })
}

/// What a cgroup did to a device; nothing where the kernel does not name it.
fn use_of(group: &GroupReading, device: DeviceNumber) -> DeviceUse {
    let found = group.io.iter().find(|(number, _)| *number == device);
    found.map(|(_, used)| *used).unwrap_or_default()
}

fn device_increase(old: DeviceUse, new: DeviceUse) -> Option<DeviceUse> {
    Some(DeviceUse {
        read_bytes: increase(old.read_bytes, new.read_bytes)?,
        write_bytes: increase(old.write_bytes, new.write_bytes)?,
        reads: increase(old.reads, new.reads)?,
        writes: increase(old.writes, new.writes)?,
    })
}

pub(super) fn increase(old: u64, new: u64) -> Option<u64> {
    new.checked_sub(old)
}

pub(super) fn increase_of(old: Option<u64>, new: Option<u64>) -> Option<u64> {
    increase(old?, new?)
}

pub(super) fn seconds_of(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Microseconds as a share of a window.
pub(super) fn share_of(usec: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| (usec as f64 / 1e6 / seconds).min(1.0))
}

#[cfg(test)]
mod tests {
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
}
