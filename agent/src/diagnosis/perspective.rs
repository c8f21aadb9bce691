//! Two perspectives: where what is seen inside a container misleads.
//!
//! `/proc/cpuinfo`, `/proc/loadavg`, `/proc/meminfo`, `/proc/stat` and `/proc/diskstats` are the host's, also
//! inside a container (LXCFS, where it is mounted over them, is not looked at). Only what differs enough to
//! lead somebody wrong is told.

use std::borrow::Cow;

use super::{
    verdict::{Evidence, Misleading, Unit},
    view::{View, mean, ratio},
    words::{bytes, cores, percent, speed},
};

/// Part of what is seen that the container has at most, for it to mislead.
const MISLEADS_FROM: f64 = 0.9;
/// Load averages and demands that differ by less mean the same: tasks.
const SAME_LOAD: f64 = 1.0;
/// Part of a device's traffic that is the container's at most, for the device's numbers to mislead.
const SMALL_PART: f64 = 0.5;
/// Traffic of others below which a device's numbers are not worth a word, bytes a second.
const LEAST_TRAFFIC: f64 = 1e6;

/// What misleads whoever looks from inside.
pub(super) fn misleading(view: &View<'_>) -> Vec<Misleading> {
    [
        cpu_count(view),
        idle_cpus(view),
        load_average(view),
        total_memory(view),
        available_memory(view),
        disks(view),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The cores that it can use, and what bounds them: the smallest quota, or its cpuset.
fn usable_cores(view: &View<'_>) -> Option<(f64, String)> {
    let quotas = view.container.cpu.quotas.iter();
    let quota = quotas
        .map(|quota| {
            let whose = if quota.is_own {
                "its quota".to_owned()
            } else {
                format!("the quota of {}", quota.cgroup)
            };
            (quota.quota_cores, whose)
        })
        .min_by(|(a, _), (b, _)| a.total_cmp(b));
    let cpuset = view.container.cpu.cpuset.as_ref();
    let cpuset = cpuset.map(|set| (set.len() as f64, "its cpuset".to_owned()));
    [quota, cpuset]
        .into_iter()
        .flatten()
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
}

fn cpu_count(view: &View<'_>) -> Option<Misleading> {
    let seen = view.window.host.cpus.len() as f64;
    let (usable, bound) = usable_cores(view)?;
    (usable < seen * MISLEADS_FROM).then(|| Misleading {
        name: Cow::Borrowed("cpu_count"),
        source: Cow::Borrowed("/proc/cpuinfo, /proc/stat; nproc knows the cpuset and no quota"),
        inside: Evidence::new("cpus", Unit::Count, seen),
        actual: Evidence::new("usable_cores", Unit::Cores, usable),
        summary: format!(
            "it sees {seen} CPUs and may use {} ({bound}): a thread pool that is sized by the count has {:.0} \
             threads for each core that it gets",
            cores(usable),
            seen / usable.max(0.01)
        ),
    })
}

fn idle_cpus(view: &View<'_>) -> Option<Misleading> {
    let idle = mean(view.window.host.cpus.iter(), |cpu| cpu.idle_ratio)?;
    let quotas = view.container.cpu.quotas.iter();
    let throttled = quotas
        .filter_map(|quota| ratio(quota.throttled_periods as f64, quota.periods as f64))
        .fold(0.0, f64::max);
    let is_roomy = idle >= view.thresholds.spare_idle_ratio;
    (is_roomy && throttled >= view.thresholds.throttled_periods_ratio).then(|| Misleading {
        name: Cow::Borrowed("idle_cpus"),
        source: Cow::Borrowed("/proc/stat: top, vmstat, mpstat"),
        inside: Evidence::new("host_idle_ratio", Unit::Ratio, idle),
        actual: Evidence::new("throttled_periods_ratio", Unit::Ratio, throttled),
        summary: format!(
            "it sees CPUs that are idle in {} of the time and may not use them: its quota is used up in {} of \
             the periods",
            percent(idle),
            percent(throttled)
        ),
    })
}

fn load_average(view: &View<'_>) -> Option<Misleading> {
    let [load, ..] = view.window.host.load?;
    let cpu = &view.container.cpu;
    let blocked = cpu.blocked_seconds.unwrap_or(0.0) + cpu.io_wait_seconds.unwrap_or(0.0);
    let demand = view.per_second(cpu.used_seconds? + cpu.waited_seconds? + blocked)?;
    ((load - demand).abs() > SAME_LOAD && (load > 2.0 * demand || demand > 2.0 * load)).then(|| {
        Misleading {
            name: Cow::Borrowed("load_average"),
            source: Cow::Borrowed("/proc/loadavg: uptime, top, w"),
            inside: Evidence::new("load_1m", Unit::Count, load),
            actual: Evidence::new("own_load", Unit::Count, demand),
            summary: format!(
                "the load average of {load:.2} is the whole host's; of its own tasks {demand:.2} ran, waited for \
                 a CPU or were blocked on average"
            ),
        }
    })
}

/// The smallest memory limit, its own or one above, with its cgroup's usage.
fn memory_limit(view: &View<'_>) -> Option<(f64, Option<f64>)> {
    let limits = view.container.memory.limits.iter();
    limits
        .filter_map(|limit| Some((limit.limit_bytes? as f64, limit.usage_bytes)))
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(limit, usage)| (limit, usage.map(|usage| usage as f64)))
}

fn total_memory(view: &View<'_>) -> Option<Misleading> {
    let total = view.window.host.memory.total_bytes? as f64;
    let (limit, _) = memory_limit(view)?;
    (limit < total * MISLEADS_FROM).then(|| Misleading {
        name: Cow::Borrowed("total_memory"),
        source: Cow::Borrowed("/proc/meminfo MemTotal, sysinfo(2)"),
        inside: Evidence::new("total_bytes", Unit::Bytes, total),
        actual: Evidence::new("limit_bytes", Unit::Bytes, limit),
        summary: format!(
            "it sees {} of memory and its limit is {}: a heap or cache of {} of what it sees would be killed",
            bytes(total),
            bytes(limit),
            percent((limit / total).min(1.0))
        ),
    })
}

fn available_memory(view: &View<'_>) -> Option<Misleading> {
    let available = view.window.host.memory.available_bytes? as f64;
    let (limit, usage) = memory_limit(view)?;
    // Pages that can be given up at once are not used up.
    let used = view
        .container
        .memory
        .working_set_bytes
        .map(|used| used as f64);
    let left = (limit - used.or(usage)?).max(0.0);
    (left < available * MISLEADS_FROM).then(|| Misleading {
        name: Cow::Borrowed("available_memory"),
        source: Cow::Borrowed("/proc/meminfo MemAvailable: free, top"),
        inside: Evidence::new("available_bytes", Unit::Bytes, available),
        actual: Evidence::new("left_bytes", Unit::Bytes, left),
        summary: format!(
            "it sees {} available on the host and has {} left to its own limit of {}",
            bytes(available),
            bytes(left),
            bytes(limit)
        ),
    })
}

/// The busiest device whose traffic is mostly of others.
fn disks(view: &View<'_>) -> Option<Misleading> {
    let disks = view.window.host.disks.iter();
    let (name, all, own) = disks
        .filter_map(|(name, disk)| {
            let own = view
                .container
                .disk
                .devices
                .get(name)
                .map_or(0, |used| used.read_bytes.saturating_add(used.write_bytes));
            Some((
                name,
                view.per_second_of_host(disk.bytes as f64)?,
                view.per_second(own as f64)?,
            ))
        })
        .filter(|(_, all, own)| *all - *own >= LEAST_TRAFFIC && *own < *all * SMALL_PART)
        .max_by(|(_, a, _), (_, b, _)| a.total_cmp(b))?;
    Some(Misleading {
        name: Cow::Borrowed("disks"),
        source: Cow::Borrowed("/proc/diskstats: iostat"),
        inside: Evidence::new("device_bytes_per_second", Unit::BytesPerSecond, all)
            .of(name.clone()),
        actual: Evidence::new("own_bytes_per_second", Unit::BytesPerSecond, own).of(name.clone()),
        summary: format!(
            "it sees {} at {name}, of which {} are its own",
            speed(all),
            speed(own)
        ),
    })
}
