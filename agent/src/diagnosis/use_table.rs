//! The USE table: utilisation, saturation and errors of every resource, of the host and of a container.

use super::{
    facts::{ContainerFacts, HostFacts, WindowFacts},
    verdict::{Evidence, Unit, UseRow},
    view::{View, mean, ratio},
};

/// Devices and interfaces that are listed, at most; the busiest first.
const MAX_ROWS: usize = 16;

fn row(
    resource: impl Into<String>,
    utilisation: Vec<Evidence>,
    saturation: Vec<Evidence>,
    errors: Vec<Evidence>,
) -> UseRow {
    let measured = |all: Vec<Evidence>| all.into_iter().filter(|one| one.value.is_some()).collect();
    UseRow {
        resource: resource.into(),
        utilisation: measured(utilisation),
        saturation: measured(saturation),
        errors: measured(errors),
    }
}

fn share(name: &'static str, value: Option<f64>) -> Evidence {
    Evidence::new(name, Unit::Ratio, value)
}

fn count(name: &'static str, value: Option<u64>) -> Evidence {
    Evidence::new(name, Unit::Count, value.map(|value| value as f64))
}

fn part(part: Option<u64>, whole: Option<u64>) -> Option<f64> {
    ratio(part? as f64, whole? as f64)
}

/// The table of the machine.
pub(super) fn of_host(window: &WindowFacts) -> Vec<UseRow> {
    let host = &window.host;
    let mut rows = vec![host_cpu(host), host_memory(host)];
    rows.extend(host_disks(host));
    rows.extend(host_interfaces(window));
    rows
}

fn host_cpu(host: &HostFacts) -> UseRow {
    let all = |of: fn(&super::facts::CpuTimeFacts) -> f64| mean(host.cpus.iter(), of);
    let cpus = host.cpus.len() as f64;
    let load = host.load.map(|[one, ..]| one);
    row(
        "cpu",
        vec![
            share("busy_ratio", all(|cpu| (1.0 - cpu.idle_ratio).max(0.0))),
            share(
                "interrupt_ratio",
                all(|cpu| cpu.irq_ratio + cpu.softirq_ratio),
            ),
        ],
        vec![
            share("pressure_ratio", host.pressure.cpu_waiting),
            Evidence::new(
                "load_for_each_cpu",
                Unit::Count,
                load.map(|load| load / cpus),
            ),
            share("steal_ratio", all(|cpu| cpu.steal_ratio)),
        ],
        // Machine checks are in no file that is read.
        Vec::new(),
    )
}

fn host_memory(host: &HostFacts) -> UseRow {
    let memory = &host.memory;
    let available = part(memory.available_bytes, memory.total_bytes);
    let swap_free = part(memory.swap_free_bytes, memory.swap_total_bytes);
    row(
        "memory",
        vec![
            share("used_ratio", available.map(|part| 1.0 - part)),
            share("swap_used_ratio", swap_free.map(|part| 1.0 - part)),
            share(
                "dirty_ratio",
                part(memory.dirty_bytes, memory.dirty_threshold_bytes),
            ),
        ],
        vec![
            share("pressure_ratio", host.pressure.memory_waiting),
            count("direct_reclaim_pages", memory.direct_reclaim_pages),
        ],
        vec![
            count("oom_kills", memory.oom_kills),
            Evidence::new(
                "corrupted_bytes",
                Unit::Bytes,
                memory.corrupted_bytes.map(|bytes| bytes as f64),
            ),
        ],
    )
}

fn host_disks(host: &HostFacts) -> Vec<UseRow> {
    let mut disks: Vec<_> = host.disks.iter().collect();
    disks.sort_by(|(_, a), (_, b)| b.busy_ratio.total_cmp(&a.busy_ratio));
    disks
        .into_iter()
        .take(MAX_ROWS)
        .map(|(name, disk)| {
            row(
                format!("disk {name}"),
                vec![share("busy_ratio", Some(disk.busy_ratio))],
                vec![
                    Evidence::new("mean_in_flight", Unit::Count, disk.mean_in_flight),
                    Evidence::new(
                        "mean_latency_seconds",
                        Unit::Seconds,
                        disk.mean_latency_seconds,
                    ),
                    Evidence::new(
                        "normal_latency_seconds",
                        Unit::Seconds,
                        disk.normal_latency_seconds,
                    ),
                ],
                // Few drivers count them; those of a container's requests are in its own table.
                vec![count("failed_requests", disk.errors)],
            )
        })
        .collect()
}

fn host_interfaces(window: &WindowFacts) -> Vec<UseRow> {
    let rate = |bytes: u64| (window.seconds > 0.0).then(|| bytes as f64 / window.seconds);
    let mut links: Vec<_> = window.host.interfaces.iter().collect();
    links.sort_by_key(|(_, link)| {
        std::cmp::Reverse(link.received_bytes.saturating_add(link.sent_bytes))
    });
    links
        .into_iter()
        .take(MAX_ROWS)
        .map(|(name, link)| {
            let most = rate(link.received_bytes.max(link.sent_bytes));
            let of_link = || ratio(most?, link.bytes_per_second? as f64);
            row(
                format!("network {name}"),
                vec![
                    share("link_ratio", of_link()),
                    Evidence::new(
                        "received_bytes_per_second",
                        Unit::BytesPerSecond,
                        rate(link.received_bytes),
                    ),
                    Evidence::new(
                        "sent_bytes_per_second",
                        Unit::BytesPerSecond,
                        rate(link.sent_bytes),
                    ),
                ],
                vec![count("dropped_packets", Some(link.dropped_packets))],
                vec![count("error_packets", Some(link.error_packets))],
            )
        })
        .collect()
}

/// The table of a container.
pub(super) fn of_container(view: &View<'_>) -> Vec<UseRow> {
    let container = view.container;
    let mut rows = vec![cpu(view), memory(container), disk(view)];
    rows.extend(network(view));
    rows
}

fn cpu(view: &View<'_>) -> UseRow {
    let cpu = &view.container.cpu;
    let used = view.used_cores();
    let quotas = || cpu.quotas.iter();
    let quota = quotas().map(|quota| quota.quota_cores).reduce(f64::min);
    let throttled = quotas()
        .filter_map(|quota| ratio(quota.throttled_periods as f64, quota.periods as f64))
        .reduce(f64::max);
    let waiting = cpu
        .waited_seconds
        .and_then(|waited| view.per_second(waited));
    row(
        "cpu",
        vec![
            Evidence::new("used_cores", Unit::Cores, used),
            share(
                "quota_used_ratio",
                used.and_then(|used| ratio(used, quota?)),
            ),
        ],
        vec![
            Evidence::new("waiting_tasks", Unit::Count, waiting),
            share("throttled_periods_ratio", throttled),
            share("pressure_ratio", cpu.pressure_ratio),
        ],
        Vec::new(),
    )
}

fn memory(container: &ContainerFacts) -> UseRow {
    let memory = &container.memory;
    let used = memory.working_set_bytes;
    let limit = memory.limits.iter().filter_map(|one| one.limit_bytes).min();
    row(
        "memory",
        vec![
            Evidence::new(
                "working_set_bytes",
                Unit::Bytes,
                used.map(|bytes| bytes as f64),
            ),
            share("limit_used_ratio", part(used, limit)),
        ],
        vec![
            share("pressure_ratio", memory.pressure_ratio),
            count("refaults", memory.refaults),
        ],
        vec![count("oom_kills", memory.oom_kills)],
    )
}

fn disk(view: &View<'_>) -> UseRow {
    let disk = &view.container.disk;
    let rate = |amount: Option<u64>| view.per_second(amount? as f64);
    let waiting = disk
        .queue_seconds
        .and_then(|queued| view.per_second(queued));
    row(
        "disk",
        vec![
            Evidence::new("bytes_per_second", Unit::BytesPerSecond, rate(disk.bytes)),
            Evidence::new("requests_per_second", Unit::PerSecond, rate(disk.requests)),
        ],
        vec![
            share("pressure_ratio", disk.pressure_ratio),
            Evidence::new("queued_requests", Unit::Count, waiting),
        ],
        vec![count("failed_requests", disk.errors)],
    )
}

fn network(view: &View<'_>) -> Option<UseRow> {
    let network = view.container.network.as_ref()?;
    let rate = |amount: u64| view.per_second(amount as f64);
    let speed = |name, bytes| Evidence::new(name, Unit::BytesPerSecond, rate(bytes));
    Some(row(
        if network.is_host {
            "network (the host's)"
        } else {
            "network"
        },
        vec![
            speed("received_bytes_per_second", network.received_bytes),
            speed("sent_bytes_per_second", network.sent_bytes),
        ],
        vec![
            count("dropped_packets", Some(network.dropped_packets)),
            count("listen_drops", network.listen_drops),
            count("udp_buffer_full", network.udp_receive_errors),
        ],
        vec![
            count("retransmitted_segments", network.retransmitted_segments),
            count("error_packets", Some(network.error_packets)),
        ],
    ))
}
