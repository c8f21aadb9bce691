//! The facts of a container from two readings.

use std::{collections::BTreeMap, sync::Arc};

use ctrscope_ebpf::ledger::CAUSES;

use super::{
    Reading,
    types::{
        ContainerReading, GroupReading, PairReading, RanOnReading, RequestReading, TaskReading,
    },
};
use crate::{
    cgroup::{DeviceNumber, IoLimit, Pressure, PressureTimes},
    diagnosis::facts::{
        ContainerFacts, CpuFacts, DeviceUse, DiskFacts, IoLimitFacts, MemoryFacts,
        MemoryLimitFacts, Neighbour, NetworkFacts, QuotaFacts, RanOn, WaitedFor, WaitedForDisk,
    },
    host::NetworkSample,
    snapshot::{Identity, Kind},
};

/// Neighbours that facts name, containers and services each.
const MOST_NEIGHBOURS: usize = 20;

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
            is_cpuset_new: old.cpus != new.cpus,
            waited_for: tasks.and_then(|(before, now)| self.waited_for(before, now)),
            ran_on: old
                .ran_on
                .as_ref()
                .zip(new.ran_on.as_ref())
                .and_then(|(old, new)| ran_on(old, new)),
            ..CpuFacts::default()
        }
    }

    /// Who had the CPUs while it waited.
    fn waited_for(&self, before: &TaskReading, now: &TaskReading) -> Option<WaitedFor> {
        let mut causes = [0.0; CAUSES];
        let both = before.causes_ns.iter().zip(&now.causes_ns);
        for (cause, (&before, &now)) in causes.iter_mut().zip(both) {
            *cause = seconds_of(increase(before, now)?);
        }
        let [
            throttled_seconds,
            own_seconds,
            of_containers,
            system_seconds,
            kernel_seconds,
            idle_seconds,
            migrated_seconds,
            unattributed_seconds,
        ] = causes;
        // A pair is read a moment later than the sums.
        let (old, new) = (&self.old.waited_for, &self.new.waited_for);
        let pairs = |is_service, most| neighbours(old, new, is_service, most);
        let containers = pairs(false, of_containers);
        let named: f64 = containers.iter().map(|one| one.seconds).sum();
        Some(WaitedFor {
            own_seconds,
            idle_seconds,
            kernel_seconds,
            system_seconds,
            services: pairs(true, system_seconds),
            containers,
            other_containers_seconds: (of_containers - named).max(0.0),
            throttled_seconds,
            migrated_seconds,
            unattributed_seconds,
        })
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
            waited_for: requests.and_then(|(before, now)| self.waited_for_disk(before, now)),
            ..DiskFacts::default()
        }
    }

    /// Whose requests its own waited for: the sum is their latency.
    fn waited_for_disk(
        &self,
        before: &RequestReading,
        now: &RequestReading,
    ) -> Option<WaitedForDisk> {
        let added = |of: fn(&RequestReading) -> u64| increase(of(before), of(now));
        let latency_ns = added(|of| of.latency_ns)?;
        // A request that completed while they were read may be in one of them only.
        let others_ns = added(|of| of.others_ns)?.min(latency_ns);
        let unknown_ns = added(|of| of.unknown_ns)?.min(latency_ns - others_ns);
        let others_seconds = seconds_of(others_ns);
        let (old, new) = (&self.old.waited_for_disk, &self.new.waited_for_disk);
        let containers = neighbours(old, new, false, others_seconds);
        let named: f64 = containers.iter().map(|one| one.seconds).sum();
        Some(WaitedForDisk {
            own_seconds: seconds_of(latency_ns - others_ns - unknown_ns),
            containers,
            other_seconds: (others_seconds - named).max(0.0),
            unknown_seconds: seconds_of(unknown_ns),
        })
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

/// Those that were waited for most, of services or of others; together no more than was waited for all of them.
fn neighbours(
    old: &[PairReading],
    new: &[PairReading],
    is_service: bool,
    most: f64,
) -> Vec<Neighbour> {
    let before = |now: &PairReading| {
        let place = old.binary_search_by_key(&now.slot, |one| one.slot);
        let same = |one: &&PairReading| one.culprit.cgroup == now.culprit.cgroup;
        let found = place.ok().and_then(|place| old.get(place)).filter(same);
        found.map_or(0, |one| one.ns)
    };
    let mut found: Vec<(u64, &Identity)> = Vec::new();
    for one in new {
        if (one.culprit.kind == Kind::Service) != is_service {
            continue;
        }
        // Less than before: another one of that name has come, or it is told again after a while.
        let earlier = before(one);
        let ns = one.ns.checked_sub(earlier).unwrap_or(one.ns);
        if ns > 0 {
            found.push((ns, &one.culprit));
        }
    }
    found.sort_by_key(|(ns, _)| std::cmp::Reverse(*ns));
    let mut left = most;
    let named = found.into_iter().take(MOST_NEIGHBOURS);
    let named = named.map(|(ns, culprit)| {
        let seconds = seconds_of(ns).min(left);
        left -= seconds;
        Neighbour {
            name: culprit.label(),
            seconds,
        }
    });
    named.collect()
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
mod tests;
