//! The disk tree: what a container waits for when it waits for block I/O.

mod findings;

use self::findings::{
    device_busy, device_slow, dirty_throttled, disk_bound, io_limited, io_neighbour, unbound,
};
use super::{
    facts::{DeviceUse, DiskDeviceFacts, IoLimitFacts},
    tree::{Draft, Tree},
    verdict::{Asked, Evidence, Relation, Resource, ResourceDiagnosis, Unit, Verdict},
    view::{View, ratio},
};

/// Walks the tree.
pub(super) fn diagnose(view: &View<'_>) -> ResourceDiagnosis {
    let mut tree = Tree::new(Resource::Disk, view);
    if tree.yes(is_idle) {
        let draft = Draft::of("it made no request and waited for none");
        return tree.finish(Verdict::Idle, &["idle"], draft);
    }
    if !tree.yes(waits_for_io) {
        return tree.finish(Verdict::Unbound, &["waits"], unbound(view));
    }

    if tree.yes(is_limited) {
        tree.found(Verdict::IoLimited, &["waits", "limited"], io_limited(view));
    }
    let is_slow = tree.yes(is_device_slow);
    if is_slow {
        tree.found(Verdict::DeviceSlow, &["waits", "slow"], device_slow(view));
    }
    let is_dirty = tree.yes(is_writing_dirty);
    if is_dirty {
        tree.found(
            Verdict::DirtyThrottled,
            &["waits", "dirty"],
            dirty_throttled(view),
        );
    }
    if tree.yes(is_device_busy) {
        if tree.yes(is_filled_by_neighbours) {
            let rests_on = &["waits", "busy", "neighbours"];
            tree.found(Verdict::IoNeighbour, rests_on, io_neighbour(view));
        } else if !is_dirty && !is_slow && tree.yes(is_filled_by_itself) {
            let rests_on = &["waits", "busy", "itself"];
            tree.found(Verdict::DeviceBusy, rests_on, device_busy(view));
        }
    }
    if !tree.found_any() && tree.yes(waits_for_own_requests) {
        let rests_on = &["waits", "own_requests", "busy"];
        tree.found(Verdict::DiskBound, rests_on, disk_bound(view));
    }
    let draft = Draft::of("it waits for I/O, and neither its own requests nor a limit explain it");
    let rests_on = &["limited", "slow", "busy", "own_requests"];
    tree.finish(Verdict::Unknown, rests_on, draft)
}

/// Did it neither ask for anything nor wait for it?
fn is_idle(view: &View<'_>) -> Asked {
    let disk = &view.container.disk;
    // A request of a file system's thread can be charged to it later, so devices count as well.
    let used: u64 = disk.devices.values().map(operations).sum();
    let requests = disk
        .requests
        .or((!disk.devices.is_empty()).then_some(0))
        .map(|requests| requests.saturating_add(used) as f64);
    let mut evidence =
        vec![Evidence::new("requests", Unit::Count, requests).is(Relation::AtMost, ("", 0.0))];
    let pressure = Evidence::new("io_pressure_ratio", Unit::Ratio, disk.pressure_ratio);
    evidence.push(match disk.pressure_ratio {
        Some(_) => pressure.is(Relation::Below, view.thresholds.io_pressure_ratio()),
        None => pressure,
    });
    Asked::all(
        "idle",
        "Did it neither ask for I/O nor wait for it?",
        evidence,
    )
}

/// Does it wait for I/O?
fn waits_for_io(view: &View<'_>) -> Asked {
    let disk = &view.container.disk;
    let threshold = view.thresholds.io_pressure_ratio();
    let per_second = |seconds: Option<f64>| view.per_second(seconds?);
    let blocked = per_second(view.container.cpu.io_wait_seconds);
    let latency = per_second(disk.latency_seconds);
    let pressure = Evidence::new("io_pressure_ratio", Unit::Ratio, disk.pressure_ratio);
    let blocked = Evidence::new("blocked_tasks", Unit::Count, blocked);
    let in_flight = Evidence::new("requests_in_flight", Unit::Count, latency);
    let stalled = Evidence::new("io_stalled_ratio", Unit::Ratio, disk.stalled_ratio);
    // Without pressure, time blocked for I/O stands for it.
    let evidence = if disk.pressure_ratio.is_some() {
        vec![
            pressure.is(Relation::AtLeast, threshold),
            blocked,
            in_flight,
            stalled,
        ]
    } else {
        vec![
            pressure,
            blocked.is(Relation::AtLeast, threshold),
            in_flight,
        ]
    };
    Asked::all("waits", "Does it wait for I/O?", evidence)
}

/// Is an I/O limit, its own or one above, reached?
fn is_limited(view: &View<'_>) -> Asked {
    let mut evidence = Vec::new();
    for limit in &view.container.disk.limits {
        for part in limit_parts(view, limit) {
            let whose = format!("{} of {}", limit.device, limit.cgroup);
            evidence.push(
                Evidence::new(part.name, Unit::Ratio, part.ratio)
                    .of(whose)
                    .is(Relation::AtLeast, view.thresholds.io_limit_ratio()),
            );
        }
    }
    Asked::any(
        "limited",
        "Is a limit on block I/O, its own or one above, reached?",
        evidence,
    )
}

/// One direction of a limit.
struct LimitPart {
    name: &'static str,
    what: &'static str,
    is_bytes: bool,
    limit: f64,
    used: Option<f64>,
    ratio: Option<f64>,
}

fn limit_parts(view: &View<'_>, limit: &IoLimitFacts) -> Vec<LimitPart> {
    let used = &limit.used;
    [
        (
            "read_bytes_limit_ratio",
            "reading",
            true,
            limit.read_bytes_per_second,
            used.read_bytes,
        ),
        (
            "write_bytes_limit_ratio",
            "writing",
            true,
            limit.write_bytes_per_second,
            used.write_bytes,
        ),
        (
            "reads_limit_ratio",
            "reads",
            false,
            limit.reads_per_second,
            used.reads,
        ),
        (
            "writes_limit_ratio",
            "writes",
            false,
            limit.writes_per_second,
            used.writes,
        ),
    ]
    .into_iter()
    .filter_map(|(name, what, is_bytes, limit, used)| {
        let limit = limit? as f64;
        // Of a cgroup above it is what all below did.
        let used = view.per_second_of_host(used as f64);
        Some(LimitPart {
            name,
            what,
            is_bytes,
            limit,
            used,
            ratio: used.and_then(|used| ratio(used, limit)),
        })
    })
    .collect()
}

/// The device that it uses most, by bytes.
fn main_device<'a>(view: &View<'a>) -> Option<(&'a str, &'a DiskDeviceFacts)> {
    let devices = view.container.disk.devices.iter();
    let (name, _) = devices
        .filter(|(_, used)| operations(used) > 0)
        .max_by_key(|(_, used)| bytes_of(used))?;
    let device = view.window.host.disks.get(name)?;
    Some((name.as_str(), device))
}

fn bytes_of(used: &DeviceUse) -> u64 {
    used.read_bytes.saturating_add(used.write_bytes)
}

fn operations(used: &DeviceUse) -> u64 {
    used.reads.saturating_add(used.writes)
}

/// How long a request took for each place in the device's queue, seconds: what the device needs for one.
fn latency_a_place(device: &DiskDeviceFacts) -> Option<f64> {
    Some(device.mean_latency_seconds? / device.mean_in_flight.max(1.0))
}

/// How long it may take before the device is slow: several times its normal latency, and what the size of
/// the requests explains.
fn slow_from(view: &View<'_>, device: &DiskDeviceFacts) -> Option<f64> {
    let normal = device.normal_latency_seconds?;
    let size = ratio_of(device.bytes, device.requests).unwrap_or(0.0);
    Some(view.thresholds.slow_factor * normal + size / view.thresholds.slow_bytes_per_second)
}

fn ratio_of(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Does the device that it uses most answer slower than it normally does?
fn is_device_slow(view: &View<'_>) -> Asked {
    const QUESTION: &str = "Does its device answer slower than it normally does?";
    let device = main_device(view);
    let facts = device.map(|(_, facts)| facts);
    let of = |one: Evidence| match device {
        Some((name, _)) => one.of(name),
        None => one,
    };
    let slow_from = facts.and_then(|facts| slow_from(view, facts));
    let latency = Evidence::new(
        "latency_for_each_in_queue_seconds",
        Unit::Seconds,
        // Without a normal there is nothing to compare with.
        slow_from.and_then(|_| facts.and_then(latency_a_place)),
    );
    let latency = latency.is(Relation::AtLeast, ("", slow_from.unwrap_or(0.0)));
    Asked::all(
        "slow",
        QUESTION,
        vec![
            of(latency),
            of(Evidence::new(
                "mean_latency_seconds",
                Unit::Seconds,
                facts.and_then(|facts| facts.mean_latency_seconds),
            )),
            of(Evidence::new(
                "normal_latency_seconds",
                Unit::Seconds,
                facts.and_then(|facts| facts.normal_latency_seconds),
            )),
            of(Evidence::new(
                "mean_in_flight",
                Unit::Count,
                facts.map(|facts| facts.mean_in_flight),
            )),
        ],
    )
}

/// Is it blocked because too much that it wrote is not on disk yet?
fn is_writing_dirty(view: &View<'_>) -> Asked {
    let threshold = view.thresholds.dirty_ratio();
    let host = &view.window.host.memory;
    let of_host = match (host.dirty_bytes, host.dirty_threshold_bytes) {
        (Some(dirty), Some(threshold)) => ratio(dirty as f64, threshold as f64),
        _ => None,
    };
    let own = view.container.disk.dirty_bytes;
    // With cgroup writeback each memory cgroup has a threshold of its own, the host's part of its limit.
    let of_own = own_dirty_threshold(view).and_then(|threshold| ratio(own? as f64, threshold));
    let most = [of_host, of_own].into_iter().flatten().reduce(f64::max);
    Asked::all(
        "dirty",
        "Is it blocked because too much of what it wrote is not on disk yet?",
        vec![
            Evidence::new("dirty_ratio", Unit::Ratio, most).is(Relation::AtLeast, threshold),
            Evidence::new(
                "own_dirty_bytes",
                Unit::Bytes,
                own.map(|bytes| bytes as f64),
            )
            .is(Relation::AtLeast, ("", LEAST_DIRTY_BYTES)),
            Evidence::new("host_dirty_ratio", Unit::Ratio, of_host),
            Evidence::new("own_dirty_ratio", Unit::Ratio, of_own),
        ],
    )
}

/// Dirty memory of its own below which a container is no writer.
const LEAST_DIRTY_BYTES: f64 = (8 << 20) as f64;

/// The threshold of dirty pages of its memory cgroup: that part of its limit that the host's threshold is
/// of the host's available memory.
fn own_dirty_threshold(view: &View<'_>) -> Option<f64> {
    let mount = view.window.host.controllers.memory.as_ref()?;
    if !mount.is_v2 {
        return None;
    }
    let host = &view.window.host.memory;
    let available = host.available_bytes? as f64;
    let part = ratio(host.dirty_threshold_bytes? as f64, available)?;
    let limits = view.container.memory.limits.iter();
    let limit = limits.filter_map(|limit| limit.limit_bytes).min()? as f64;
    Some((part * limit).min(host.dirty_threshold_bytes? as f64))
}

/// Are there always requests at its device?
fn is_device_busy(view: &View<'_>) -> Asked {
    let device = main_device(view);
    let of = |one: Evidence| match device {
        Some((name, _)) => one.of(name),
        None => one,
    };
    let facts = device.map(|(_, facts)| facts);
    Asked::all(
        "busy",
        "Is its device always busy, with requests that queue?",
        vec![
            of(Evidence::new(
                "busy_ratio",
                Unit::Ratio,
                facts.map(|facts| facts.busy_ratio),
            )
            .is(Relation::AtLeast, view.thresholds.disk_busy_ratio())),
            of(Evidence::new(
                "mean_in_flight",
                Unit::Count,
                facts.map(|facts| facts.mean_in_flight),
            )
            .is(Relation::AtLeast, view.thresholds.disk_queue_count())),
        ],
    )
}

/// What the neighbours did to a device, summed: bytes and operations.
fn neighbours_at(view: &View<'_>, device: &str) -> (f64, f64) {
    view.neighbours()
        .filter_map(|one| one.disk.devices.get(device))
        .fold((0.0, 0.0), |(bytes, count), used| {
            (
                bytes + bytes_of(used) as f64,
                count + operations(used) as f64,
            )
        })
}

/// Whose requests are in front of its own: the part of its latency that was waited for others. What is not known may be
/// its own.
fn waited_for_others_ratio(view: &View<'_>) -> Option<f64> {
    let waited = view.container.disk.waited_for.as_ref()?;
    let named: f64 = waited.containers.iter().map(|one| one.seconds).sum();
    let others = named + waited.other_seconds;
    let all = others + waited.own_seconds + waited.unknown_seconds.max(0.0);
    Some(ratio(others, all).unwrap_or(0.0))
}

/// Its part of what it and the neighbours did to its device, by bytes and by operations.
fn own_parts(view: &View<'_>) -> (Option<f64>, Option<f64>) {
    let Some((device, _)) = main_device(view) else {
        return (None, None);
    };
    let Some(own) = view.container.disk.devices.get(device) else {
        return (None, None);
    };
    let (bytes, count) = neighbours_at(view, device);
    let (own_bytes, own_count) = (bytes_of(own) as f64, operations(own) as f64);
    (
        ratio(own_bytes, own_bytes + bytes),
        ratio(own_count, own_count + count),
    )
}

/// Do neighbours fill the device?
fn is_filled_by_neighbours(view: &View<'_>) -> Asked {
    const QUESTION: &str = "Do neighbours fill the device?";
    let (bytes, count) = own_parts(view);
    let bytes = Evidence::new("own_share_of_bytes", Unit::Ratio, bytes);
    let count = Evidence::new("own_share_of_requests", Unit::Ratio, count);
    let evidence = match waited_for_others_ratio(view) {
        Some(waited) => vec![
            Evidence::new("waited_for_others_ratio", Unit::Ratio, waited)
                .is(Relation::AtLeast, ("", 0.5)),
            bytes,
            count,
        ],
        // Who moves less than half of both is not who fills it.
        None => vec![
            bytes.is(Relation::Below, ("", 0.5)),
            count.is(Relation::Below, ("", 0.5)),
        ],
    };
    Asked::all("neighbours", QUESTION, evidence)
}

/// Does it fill the device itself?
fn is_filled_by_itself(view: &View<'_>) -> Asked {
    let (bytes, count) = own_parts(view);
    Asked::any(
        "itself",
        "Does it fill the device itself?",
        vec![
            Evidence::new("own_share_of_bytes", Unit::Ratio, bytes)
                .is(Relation::AtLeast, ("", 0.5)),
            Evidence::new("own_share_of_requests", Unit::Ratio, count)
                .is(Relation::AtLeast, ("", 0.5)),
        ],
    )
}

/// Does the latency of its own requests explain that it waits?
fn waits_for_own_requests(view: &View<'_>) -> Asked {
    let disk = &view.container.disk;
    let in_flight = disk.latency_seconds.and_then(|s| view.per_second(s));
    let mean = match (disk.latency_seconds, disk.requests) {
        (Some(latency), Some(requests)) if requests > 0 => Some(latency / requests as f64),
        _ => None,
    };
    // Requests that nobody waits for (writeback, read-ahead) are in it as well, so it is no equality.
    Asked::all(
        "own_requests",
        "Are there requests of its own while it waits?",
        vec![
            Evidence::new("requests_in_flight", Unit::Count, in_flight)
                .is(Relation::AtLeast, view.thresholds.io_pressure_ratio()),
            Evidence::new("mean_latency_seconds", Unit::Seconds, mean),
        ],
    )
}
