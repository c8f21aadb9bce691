//! The facts of the machine from two readings.

use std::collections::BTreeMap;

use super::{
    between::{increase, increase_of, share_of},
    types::{DiskReading, HostReading, InterfaceReading},
};
use crate::{
    cgroup::{Pressure, PressureTimes},
    diagnosis::facts::{
        CpuTimeFacts, DiskDeviceFacts, HostFacts, HostMemoryFacts, HostPressure, InterfaceFacts,
    },
    host::CpuTicks,
};

/// What the machine did between two readings that lie `seconds` apart. What is normal for a disk and
/// where the controllers are is added by others.
pub(super) fn host_facts(old: &HostReading, new: &HostReading, seconds: f64) -> HostFacts {
    let pressure = |of: fn(&Pressure) -> Option<PressureTimes>, part: fn(PressureTimes) -> u64| {
        let old = part(of(old.pressure.as_ref()?)?);
        let new = part(of(new.pressure.as_ref()?)?);
        share_of(increase(old, new)?, seconds)
    };
    let waiting = |times: PressureTimes| times.waiting_usec;
    let stalled = |times: PressureTimes| times.stalled_usec;
    HostFacts {
        cpus: cpu_times(&old.cpus, &new.cpus),
        load: new.load,
        memory: memory_facts(old, new),
        disks: disks(&old.disks, &new.disks, seconds),
        interfaces: interfaces(&old.interfaces, &new.interfaces),
        pressure: HostPressure {
            cpu_waiting: pressure(|of| of.cpu, waiting),
            memory_waiting: pressure(|of| of.memory, waiting),
            memory_stalled: pressure(|of| of.memory, stalled),
            io_waiting: pressure(|of| of.io, waiting),
            io_stalled: pressure(|of| of.io, stalled),
        },
        ..HostFacts::default()
    }
}

/// What each CPU did that was online at both ends; one that counted no tick is left out.
pub(crate) fn cpu_times(old: &[CpuTicks], new: &[CpuTicks]) -> Vec<CpuTimeFacts> {
    let mut old = old.iter().peekable();
    let mut times = Vec::with_capacity(new.len());
    for new in new {
        while old.peek().is_some_and(|old| old.cpu < new.cpu) {
            old.next();
        }
        if let Some(old) = old.peek().filter(|old| old.cpu == new.cpu) {
            times.extend(cpu_time(old, new));
        }
    }
    times
}

fn cpu_time(old: &CpuTicks, new: &CpuTicks) -> Option<CpuTimeFacts> {
    // The time idle may go back by some ticks, and all begin anew where a CPU was offline meanwhile.
    let idle = new.idle.saturating_sub(old.idle);
    let task = increase(old.task, new.task)?;
    let irq = increase(old.irq, new.irq)?;
    let softirq = increase(old.softirq, new.softirq)?;
    let steal = increase(old.steal, new.steal)?;
    let sum = [idle, task, irq, softirq, steal]
        .iter()
        .fold(0u64, |sum, ticks| sum.saturating_add(*ticks));
    if sum == 0 {
        return None;
    }
    let ratio = |ticks: u64| ticks as f64 / sum as f64;
    Some(CpuTimeFacts {
        cpu: new.cpu,
        idle_ratio: ratio(idle),
        task_ratio: ratio(task),
        irq_ratio: ratio(irq),
        softirq_ratio: ratio(softirq),
        steal_ratio: ratio(steal),
    })
}

fn memory_facts(old: &HostReading, new: &HostReading) -> HostMemoryFacts {
    let (meminfo, vmstat) = (&new.meminfo, &new.vmstat);
    HostMemoryFacts {
        total_bytes: meminfo.total_bytes,
        available_bytes: meminfo.available_bytes,
        swap_total_bytes: meminfo.swap_total_bytes,
        swap_free_bytes: meminfo.swap_free_bytes,
        direct_reclaim_pages: increase_of(
            old.vmstat.direct_reclaim_pages,
            vmstat.direct_reclaim_pages,
        ),
        oom_kills: increase_of(old.vmstat.oom_kills, vmstat.oom_kills),
        dirty_bytes: meminfo.dirty_bytes,
        dirty_threshold_bytes: vmstat.slowdown_bytes(new.page_bytes),
        corrupted_bytes: meminfo.corrupted_bytes,
    }
}

fn disks(
    old: &[DiskReading],
    new: &[DiskReading],
    seconds: f64,
) -> BTreeMap<String, DiskDeviceFacts> {
    // What never had a request is no disk to speak of: a loop device that is not set up.
    let used = new.iter().filter(|disk| disk.sample.requests > 0);
    used.filter_map(|new| {
        let sample = &new.sample;
        let old = old
            .iter()
            .find(|old| (&old.sample.name, old.sample.device) == (&sample.name, sample.device))?;
        Some((sample.name.clone(), disk(old, new, seconds)?))
    })
    .collect()
}

fn disk(old: &DiskReading, new: &DiskReading, seconds: f64) -> Option<DiskDeviceFacts> {
    let (before, now) = (&old.sample, &new.sample);
    let busy_ms = increase(before.busy_ms, now.busy_ms)?;
    let in_flight_ms = increase(before.in_flight_ms, now.in_flight_ms)?;
    if seconds <= 0.0 {
        return None;
    }
    Some(DiskDeviceFacts {
        number: (now.device.major, now.device.minor),
        requests: increase(before.requests, now.requests)?,
        bytes: increase(before.bytes, now.bytes)?,
        busy_ratio: (busy_ms as f64 / 1e3 / seconds).min(1.0),
        mean_in_flight: in_flight_ms as f64 / 1e3 / seconds,
        mean_latency_seconds: mean_latency(old, new),
        normal_latency_seconds: None,
        errors: increase_of(old.errors, new.errors),
    })
}

/// Mean latency of the requests between two readings of a disk; `None` where there was none.
pub(super) fn mean_latency(old: &DiskReading, new: &DiskReading) -> Option<f64> {
    let requests = increase(old.sample.requests, new.sample.requests)?;
    let latency_ms = increase(old.sample.latency_ms, new.sample.latency_ms)?;
    (requests > 0).then(|| latency_ms as f64 / 1e3 / requests as f64)
}

fn interfaces(
    old: &[InterfaceReading],
    new: &[InterfaceReading],
) -> BTreeMap<String, InterfaceFacts> {
    let facts = new.iter().filter_map(|new| {
        let now = &new.sample;
        let before = &old.iter().find(|old| old.sample.name == now.name)?.sample;
        let facts = InterfaceFacts {
            received_bytes: increase(before.received_bytes, now.received_bytes)?,
            sent_bytes: increase(before.sent_bytes, now.sent_bytes)?,
            dropped_packets: increase(before.dropped_packets, now.dropped_packets)?,
            error_packets: increase(before.error_packets, now.error_packets)?,
            bytes_per_second: new.bytes_per_second,
        };
        Some((now.name.clone(), facts))
    });
    facts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cgroup::DeviceNumber,
        host::{DiskSample, InterfaceSample},
    };

    fn ticks(cpu: u32, idle: u64, task: u64, softirq: u64) -> CpuTicks {
        CpuTicks {
            cpu,
            idle,
            task,
            softirq,
            ..CpuTicks::default()
        }
    }

    #[test]
    fn times_of_a_cpu_are_shares_of_its_ticks() {
        let old = [ticks(0, 100, 100, 100), ticks(2, 0, 0, 0)];
        let new = [
            ticks(0, 150, 125, 125),
            ticks(1, 9, 9, 9),
            ticks(2, 0, 0, 0),
        ];
        let times = cpu_times(&old, &new);
        // One that came meanwhile, and one that counted nothing, are left out.
        assert_eq!(times.len(), 1);
        let time = times[0];
        assert_eq!((time.cpu, time.idle_ratio), (0, 0.5));
        assert_eq!((time.task_ratio, time.softirq_ratio), (0.25, 0.25));
    }

    #[test]
    fn idle_time_that_goes_back_is_none_and_a_cpu_that_began_anew_is_left_out() {
        let times = cpu_times(&[ticks(0, 100, 0, 0)], &[ticks(0, 98, 10, 0)]);
        assert_eq!((times[0].idle_ratio, times[0].task_ratio), (0.0, 1.0));
        assert!(cpu_times(&[ticks(0, 100, 50, 0)], &[ticks(0, 0, 10, 0)]).is_empty());
    }

    fn disk_reading(requests: u64, latency_ms: u64, busy_ms: u64) -> DiskReading {
        DiskReading {
            sample: DiskSample {
                name: "vda".into(),
                device: DeviceNumber {
                    major: 254,
                    minor: 0,
                },
                requests,
                bytes: requests * 4096,
                latency_ms,
                busy_ms,
                in_flight_ms: latency_ms,
            },
            errors: Some(requests / 100),
        }
    }

    #[test]
    fn a_disk_has_its_latency_and_how_busy_it_was() {
        let old = [disk_reading(1_000, 5_000, 900)];
        let new = [disk_reading(3_000, 9_000, 2_900)];
        let found = disks(&old, &new, 4.0);
        let expected = DiskDeviceFacts {
            number: (254, 0),
            requests: 2_000,
            bytes: 2_000 * 4096,
            busy_ratio: 0.5,
            mean_in_flight: 1.0,
            mean_latency_seconds: Some(0.002),
            normal_latency_seconds: None,
            errors: Some(20),
        };
        assert_eq!(found["vda"], expected);
        // Idle: no latency. Plugged out and in: not known.
        assert_eq!(disks(&new, &new, 4.0)["vda"].mean_latency_seconds, None);
        assert!(disks(&new, &old, 4.0).is_empty());
        assert!(disks(&[], &new, 4.0).is_empty());
        let unused = [disk_reading(0, 0, 0)];
        assert!(disks(&unused, &unused, 4.0).is_empty());
    }

    #[test]
    fn interfaces_are_told_apart_by_name() {
        let reading = |name: &str, bytes| InterfaceReading {
            sample: InterfaceSample {
                name: name.into(),
                received_bytes: bytes,
                dropped_packets: bytes / 10,
                ..InterfaceSample::default()
            },
            bytes_per_second: Some(125_000_000),
        };
        let found = interfaces(
            &[reading("eth0", 100), reading("old", 7)],
            &[reading("eth0", 150), reading("new", 7)],
        );
        assert_eq!(found.len(), 1);
        let eth0 = found["eth0"];
        assert_eq!((eth0.received_bytes, eth0.dropped_packets), (50, 5));
        assert_eq!(eth0.bytes_per_second, Some(125_000_000));
    }

    #[test]
    fn where_writers_slow_down_is_in_bytes() {
        let reading = |oom_kills: u64| HostReading {
            vmstat: crate::host::parse_vmstat(&format!(
                "nr_dirty_threshold 300\nnr_dirty_background_threshold 100\noom_kill {oom_kills}\n"
            )),
            page_bytes: 4096,
            ..HostReading::default()
        };
        let facts = host_facts(&reading(3), &reading(5), 1.0).memory;
        assert_eq!(facts.dirty_threshold_bytes, Some(200 * 4096));
        assert_eq!(facts.oom_kills, Some(2));
        assert_eq!(facts.direct_reclaim_pages, None);
    }
}
