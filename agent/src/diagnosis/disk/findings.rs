//! What the answers of the disk tree mean, and what to do.

use super::{bytes_of, limit_parts, main_device, operations, own_dirty_threshold, slow_from};
use crate::diagnosis::{
    facts::IoLimitFacts,
    neighbours::{self, Blame},
    remedy::{self, Setting},
    tree::Draft,
    verdict::{Evidence, Party, Unit},
    view::{View, ratio},
    words::{bytes, percent, seconds, speed},
};

/// Siblings below a shared limit that are named, at most.
const MAX_SIBLINGS: usize = 5;

/// The part of the window that it lost to I/O.
fn severity(view: &View<'_>) -> f64 {
    let disk = &view.container.disk;
    let blocked = || {
        let blocked = view.container.cpu.io_wait_seconds?;
        view.per_second(blocked)
    };
    disk.pressure_ratio.or_else(blocked).unwrap_or(0.0)
}

fn waited_words(view: &View<'_>) -> String {
    match view.container.disk.pressure_ratio {
        Some(pressure) => format!(
            "some task of it waited for I/O in {} of the window",
            percent(pressure)
        ),
        None => format!(
            "its tasks were blocked for I/O for {} a second",
            seconds(severity(view))
        ),
    }
}

/// Mean latency of its requests, and the queue's part of it.
fn latency_words(view: &View<'_>) -> String {
    let disk = &view.container.disk;
    let (Some(latency), Some(requests)) = (disk.latency_seconds, disk.requests) else {
        return String::new();
    };
    if requests == 0 {
        return String::new();
    }
    let mean = latency / requests as f64;
    let queued = disk
        .queue_seconds
        .and_then(|queued| ratio(queued, latency))
        .map_or_else(String::new, |part| {
            format!(", {} of it before the device had them", percent(part))
        });
    format!(
        "; its {requests} requests took {} on average{queued}",
        seconds(mean)
    )
}

pub(super) fn unbound(view: &View<'_>) -> Draft {
    Draft::of(format!("{}{}", waited_words(view), latency_words(view)))
}

/// A limit is reached.
pub(super) fn io_limited(view: &View<'_>) -> Draft {
    let limits = view.container.disk.limits.iter();
    let worst = limits
        .flat_map(|limit| {
            limit_parts(view, limit)
                .into_iter()
                .map(move |part| (limit, part))
        })
        .max_by(|(_, a), (_, b)| {
            let ratio = |part: &super::LimitPart| part.ratio.unwrap_or(0.0);
            ratio(a).total_cmp(&ratio(b))
        });
    let mut draft = Draft {
        severity: severity(view),
        ..Draft::default()
    };
    let Some((limit, part)) = worst else {
        return draft;
    };
    let shown = |value: f64| {
        if part.is_bytes {
            speed(value)
        } else {
            format!("{value:.0}/s")
        }
    };
    draft.summary = format!(
        "{}; its {} at {} is at {}, the limit of {} is {}",
        waited_words(view),
        part.what,
        limit.device,
        shown(part.used.unwrap_or(0.0)),
        limit.cgroup,
        shown(part.limit)
    );
    draft.remedies.push(format!(
        "raise the limit: {}",
        remedy::of_cgroup(view, Setting::IoLimit, &limit.cgroup, limit.is_own)
    ));
    draft.remedies.push(if part.is_bytes {
        "or move less: compress, cache, or write less often".to_owned()
    } else {
        "or make fewer and larger requests: the limit counts them, not their bytes".to_owned()
    });
    if !limit.is_own {
        draft.others = siblings(view, limit);
    }
    draft
}

/// Who used what a shared limit allows.
fn siblings(view: &View<'_>, limit: &IoLimitFacts) -> Vec<Party> {
    let mut all: Vec<(f64, String)> = view
        .members(&limit.cgroup)
        .filter_map(|one| {
            let used = one.disk.devices.get(&limit.device)?;
            Some((
                view.per_second_of(one, bytes_of(used) as f64)?,
                one.identity.label(),
            ))
        })
        .collect();
    let sum: f64 = all.iter().map(|(used, _)| used).sum();
    all.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    all.into_iter()
        .take(MAX_SIBLINGS)
        .map(|(used, name)| Party {
            name,
            share: ratio(used, sum).unwrap_or(0.0),
            evidence: vec![
                Evidence::new("device_bytes_per_second", Unit::BytesPerSecond, used)
                    .of(limit.device.clone()),
            ],
        })
        .collect()
}

/// The device answers slower than it normally does.
pub(super) fn device_slow(view: &View<'_>) -> Draft {
    let mut draft = Draft {
        severity: severity(view),
        ..Draft::default()
    };
    let Some((device, facts)) = main_device(view) else {
        return draft;
    };
    draft.summary = format!(
        "{}; {device} takes {} for a request, normal is {}, with {:.1} requests at it{}",
        waited_words(view),
        seconds(facts.mean_latency_seconds.unwrap_or(0.0)),
        seconds(facts.normal_latency_seconds.unwrap_or(0.0)),
        facts.mean_in_flight,
        slow_from(view, facts).map_or_else(String::new, |from| {
            format!(" (slow from {} for each)", seconds(from))
        })
    );
    draft.remedies = vec![
        format!(
            "look at the device itself: the kernel's log for errors and resets of {device}, SMART, a RAID that \
             rebuilds, a volume whose burst credits are used up or whose provider limits it"
        ),
        "no container causes it: the device is slow with few requests in its queue".to_owned(),
    ];
    draft
}

/// It writes faster than dirty pages are written back.
pub(super) fn dirty_throttled(view: &View<'_>) -> Draft {
    let host = &view.window.host.memory;
    let own = view.container.disk.dirty_bytes.unwrap_or(0) as f64;
    let threshold = own_dirty_threshold(view)
        .or(host.dirty_threshold_bytes.map(|bytes| bytes as f64))
        .unwrap_or(0.0);
    Draft {
        summary: format!(
            "{}; it has {} of dirty pages, the host {}, and the kernel blocks its writers near {}",
            waited_words(view),
            bytes(own),
            bytes(host.dirty_bytes.unwrap_or(0) as f64),
            bytes(threshold)
        ),
        severity: severity(view),
        remedies: vec![
            "make it write less, or wait where it wants to (fsync in pieces, or direct I/O) instead of where \
             the kernel stops it"
                .to_owned(),
            "or give what it writes to a faster device; larger vm.dirty_ratio or memory limits only put it \
             off"
            .to_owned(),
        ],
        ..Draft::default()
    }
}

fn device_words(view: &View<'_>) -> String {
    let Some((device, facts)) = main_device(view) else {
        return String::new();
    };
    format!(
        "; {device} was busy in {} of the window, with {:.1} requests at it on average",
        percent(facts.busy_ratio),
        facts.mean_in_flight
    )
}

/// Others fill the device.
pub(super) fn io_neighbour(view: &View<'_>) -> Draft {
    let mut draft = Draft {
        severity: severity(view),
        summary: format!(
            "{}{}{}",
            waited_words(view),
            latency_words(view),
            device_words(view)
        ),
        ..Draft::default()
    };
    let Some((device, _)) = main_device(view) else {
        return draft;
    };
    let blame = match neighbours::at_device(view, device) {
        Some(blame) => blame,
        None => {
            draft.lowered.push((
                0.8,
                "whose requests were in front of its own is not measured, only who used the device"
                    .to_owned(),
            ));
            neighbours::users_of_device(view, device)
        }
    };
    let Blame {
        culprits,
        others,
        exonerated,
        unattributed_ratio,
    } = blame;
    if unattributed_ratio > view.thresholds.innocent_share {
        draft.lowered.push((
            1.0 - unattributed_ratio / 2.0,
            format!(
                "{} of what others did there is nobody's, such as writeback that the kernel charges to the \
                 root",
                percent(unattributed_ratio)
            ),
        ));
    }
    match culprits.first() {
        Some(culprit) => {
            draft.summary.push_str(&format!(
                "; {} has {} of what the others do there",
                culprit.name,
                percent(culprit.share)
            ));
            draft.remedies.push(format!(
                "limit {} at {device} (io.max, v1 blkio.throttle.*), give it a device of its own, or move one \
                 of the two",
                culprit.name
            ));
        }
        None => {
            draft
                .summary
                .push_str("; no neighbour alone has most of what the others do there");
            draft.remedies.push(format!(
                "give it a device of its own, or move it to a host whose {device} has fewer users"
            ));
        }
    }
    draft.remedies.push(format!(
        "or raise its I/O weight, where the device has a scheduler that knows weights (bfq, io.cost): {}",
        remedy::own(view, Setting::IoWeight)
    ));
    draft.culprits = culprits;
    draft.others = others;
    draft.exonerated = exonerated;
    draft
}

/// It fills the device by itself.
pub(super) fn device_busy(view: &View<'_>) -> Draft {
    let mut draft = Draft {
        severity: severity(view),
        summary: format!(
            "{}{}{}",
            waited_words(view),
            latency_words(view),
            device_words(view)
        ),
        remedies: vec![
            "give it a faster device, or several; or make it move less: a cache, compression, fewer syncs"
                .to_owned(),
        ],
        ..Draft::default()
    };
    if let Some((device, _)) = main_device(view) {
        let own = view.container.disk.devices.get(device).copied();
        let own = own.unwrap_or_default();
        draft.summary.push_str(&format!(
            ", and it is itself who fills it: {} in {:.0} requests a second",
            speed(view.per_second(bytes_of(&own) as f64).unwrap_or(0.0)),
            view.per_second(operations(&own) as f64).unwrap_or(0.0)
        ));
        let blame = match neighbours::at_device(view, device) {
            Some(blame) => blame,
            None => neighbours::users_of_device(view, device),
        };
        draft.exonerated = blame.exonerated;
    }
    draft
}

/// It waits for each of its own requests, at a device that has room.
pub(super) fn disk_bound(view: &View<'_>) -> Draft {
    Draft {
        severity: severity(view),
        summary: format!(
            "{}{}{}: it waits for one request after the other, and the device has room for more",
            waited_words(view),
            latency_words(view),
            device_words(view)
        ),
        remedies: vec![
            "ask for more at once (more threads, asynchronous I/O, read-ahead), sync less often, or keep what \
             it reads again in memory"
                .to_owned(),
        ],
        ..Draft::default()
    }
}
