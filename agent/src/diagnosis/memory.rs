//! The memory tree: whether a container has to give up memory that it needs.
//!
//! A container that reads files fills its limit with their pages and reclaims them without harm, so a limit
//! that is reached is no verdict by itself: something must hurt as well.

use super::{
    facts::{ContainerFacts, MemoryLimitFacts},
    remedy::{self, Setting},
    tree::{Draft, Tree},
    verdict::{
        Answer, Asked, Evidence, Party, Relation, Resource, ResourceDiagnosis, Unit, Verdict,
    },
    view::{View, ratio},
    words::{bytes, percent},
};

/// A page, as the kernel counts refaults: the smallest size of the architectures that are supported.
const PAGE_BYTES: f64 = 4096.0;
/// Users of memory that are named, at most.
const MAX_USERS: usize = 5;

/// Walks the tree.
pub(super) fn diagnose(view: &View<'_>) -> ResourceDiagnosis {
    let mut tree = Tree::new(Resource::Memory, view);
    if tree.yes(was_killed) {
        tree.found(Verdict::OomKilled, &["killed"], oom_killed(view));
    }
    let hurts = tree.ask(is_hurt);
    let at_limit = tree.ask(is_at_limit);
    let is_slowed = tree.yes(is_slowed_by_high);
    if hurts == Answer::Yes && (at_limit == Answer::Yes || is_slowed) {
        let rests_on: &[&str] = if at_limit == Answer::Yes {
            &["hurts", "at_limit"]
        } else {
            &["hurts", "slowed_by_high"]
        };
        tree.found(
            Verdict::MemoryLimited,
            rests_on,
            memory_limited(view, is_slowed),
        );
    } else if hurts == Answer::Yes && tree.yes(is_host_short) {
        let rests_on = &["hurts", "at_limit", "host_short"];
        tree.found(Verdict::HostMemory, rests_on, host_memory(view));
    } else if hurts == Answer::Yes {
        let draft = Draft::of(format!(
            "{}; neither a limit nor the host's memory explains it",
            hurt_words(view)
        ));
        return tree.finish(
            Verdict::Unknown,
            &["hurts", "at_limit", "host_short"],
            draft,
        );
    }
    tree.finish(Verdict::Unbound, &["killed", "hurts"], unbound(view))
}

/// Was a task of it killed for want of memory?
fn was_killed(view: &View<'_>) -> Asked {
    let kills = view.container.memory.oom_kills.map(|kills| kills as f64);
    Asked::all(
        "killed",
        "Was a task of it killed for want of memory?",
        vec![Evidence::new("oom_kills", Unit::Count, kills).is(Relation::Above, ("", 0.0))],
    )
}

/// Does giving up memory hurt it?
fn is_hurt(view: &View<'_>) -> Asked {
    let memory = &view.container.memory;
    let thresholds = view.thresholds;
    let per_second = |count: Option<u64>| view.per_second(count? as f64);
    let reclaim = memory
        .direct_reclaim_seconds
        .and_then(|s| view.per_second(s));
    let refaults = Evidence::new(
        "refaults_per_second",
        Unit::PerSecond,
        per_second(memory.refaults),
    );
    let pressure = Evidence::new("memory_pressure_ratio", Unit::Ratio, memory.pressure_ratio);
    // Either alone answers, the other then lacks; without both there is no answer.
    let is_either = memory.refaults.is_some() || memory.pressure_ratio.is_some();
    let compare = |one: Evidence, threshold| {
        if one.value.is_some() || !is_either {
            one.is(Relation::AtLeast, threshold)
        } else {
            one
        }
    };
    let mut evidence = vec![
        compare(refaults, thresholds.refaults_per_second()),
        compare(pressure, thresholds.memory_pressure_ratio()),
    ];
    // Not measured on most hosts, where pressure has it: no lack worth naming.
    if reclaim.is_some() {
        evidence.push(
            Evidence::new("direct_reclaim_ratio", Unit::Ratio, reclaim)
                .is(Relation::AtLeast, thresholds.memory_pressure_ratio()),
        );
    }
    evidence.extend([
        Evidence::new("memory_stalled_ratio", Unit::Ratio, memory.stalled_ratio),
        Evidence::new(
            "major_faults_per_second",
            Unit::PerSecond,
            per_second(memory.major_faults),
        ),
        Evidence::new(
            "direct_reclaim_pages_per_second",
            Unit::PerSecond,
            per_second(memory.direct_reclaim_pages),
        ),
    ]);
    Asked::any("hurts", "Does giving up memory hurt it?", evidence)
}

/// Is a limit, its own or one above, reached?
fn is_at_limit(view: &View<'_>) -> Asked {
    let mut evidence = Vec::new();
    for limit in with_limit(view) {
        let of = |one: Evidence| one.of(limit.cgroup.clone());
        let hits = limit.limit_hits.map(|hits| hits as f64);
        let hits = of(Evidence::new("limit_hits", Unit::Count, hits));
        let full = of(Evidence::new("usage_ratio", Unit::Ratio, fullness(limit)));
        let (hits, full) = if is_told_by_hits(limit) {
            (hits.is(Relation::Above, ("", 0.0)), full)
        } else {
            let threshold = view.thresholds.memory_full_ratio();
            (hits, full.is(Relation::AtLeast, threshold))
        };
        evidence.extend([hits, full]);
        let bytes = limit.limit_bytes.map(|bytes| bytes as f64);
        evidence.push(of(Evidence::new("limit_bytes", Unit::Bytes, bytes)));
    }
    Asked::any(
        "at_limit",
        "Is a memory limit, its own or one above, reached?",
        evidence,
    )
}

/// Is it slowed down for being above `memory.high`?
fn is_slowed_by_high(view: &View<'_>) -> Asked {
    let mut evidence = Vec::new();
    let limits = view.container.memory.limits.iter();
    for limit in limits.filter(|limit| limit.high_bytes.is_some()) {
        let hits = limit.high_hits.map(|hits| hits as f64);
        let high = limit.high_bytes.map(|bytes| bytes as f64);
        evidence.push(
            Evidence::new("high_hits", Unit::Count, hits)
                .of(limit.cgroup.clone())
                .is(Relation::Above, ("", 0.0)),
        );
        evidence.push(Evidence::new("high_bytes", Unit::Bytes, high).of(limit.cgroup.clone()));
    }
    Asked::any(
        "slowed_by_high",
        "Is it slowed down for being above memory.high?",
        evidence,
    )
}

/// Is the host itself short of memory?
fn is_host_short(view: &View<'_>) -> Asked {
    let memory = &view.window.host.memory;
    let available = match (memory.available_bytes, memory.total_bytes) {
        (Some(available), Some(total)) => ratio(available as f64, total as f64),
        _ => None,
    };
    let reclaimed = memory.direct_reclaim_pages.map(|pages| pages as f64);
    Asked::all(
        "host_short",
        "Is the host short of memory?",
        vec![
            Evidence::new("host_available_ratio", Unit::Ratio, available)
                .is(Relation::AtMost, view.thresholds.host_available_ratio()),
            Evidence::new("host_direct_reclaim_pages", Unit::Count, reclaimed)
                .is(Relation::Above, ("", 0.0)),
            Evidence::new(
                "host_memory_pressure_ratio",
                Unit::Ratio,
                view.window.host.pressure.memory_waiting,
            ),
        ],
    )
}

fn with_limit<'a>(view: &View<'a>) -> impl Iterator<Item = &'a MemoryLimitFacts> {
    let limits = view.container.memory.limits.iter();
    limits.filter(|limit| limit.limit_bytes.is_some())
}

/// Whether the hits of a limit say that it is reached. Those of a cgroup above have those of everybody
/// below it, at their own limits, so they can only say that it is not.
fn is_told_by_hits(limit: &MemoryLimitFacts) -> bool {
    match limit.limit_hits {
        None => false,
        Some(0) => true,
        Some(_) => limit.is_own,
    }
}

/// Usage over the limit.
fn fullness(limit: &MemoryLimitFacts) -> Option<f64> {
    ratio(limit.usage_bytes? as f64, limit.limit_bytes? as f64)
}

/// The limit that is reached, the innermost first.
fn reached<'a>(view: &View<'a>) -> Option<&'a MemoryLimitFacts> {
    with_limit(view).find(|limit| {
        if is_told_by_hits(limit) {
            limit.limit_hits.is_some_and(|hits| hits > 0)
        } else {
            fullness(limit).is_some_and(|full| full >= view.thresholds.memory_full_ratio)
        }
    })
}

fn oom_killed(view: &View<'_>) -> Draft {
    let kills = view.container.memory.oom_kills.unwrap_or(0);
    let tasks = if kills == 1 {
        "1 task"
    } else {
        &format!("{kills} tasks")
    };
    let mut draft = Draft {
        // It is gone or does without a part of itself.
        severity: 1.0,
        ..Draft::default()
    };
    match reached(view) {
        Some(limit) => {
            draft.summary = format!(
                "{tasks} of it killed for want of memory, at the limit of {} of {}",
                size(limit.limit_bytes),
                limit.cgroup
            );
            draft.remedies.push(format!(
                "raise the limit of {} above {}: {}; or find what grows, a killed task says with how much \
                 it died in the kernel's log",
                limit.cgroup,
                size(limit.limit_bytes),
                remedy::of_cgroup(view, Setting::MemoryLimit, &limit.cgroup, limit.is_own)
            ));
            add_members(view, limit, &mut draft);
        }
        None => {
            draft.summary = format!(
                "{tasks} of it killed for want of memory, and no limit above it was reached: the host ran \
                 out of memory"
            );
            draft.remedies.push(
                "give the host more memory or fewer tenants; which task dies is chosen by size and \
                 oom_score_adj, which in Kubernetes follows from requests.memory"
                    .to_owned(),
            );
            draft.others = users(view.neighbours());
            let kills = view.window.host.memory.oom_kills;
            if kills == Some(0) {
                draft.lowered.push((
                    0.5,
                    "the host counted no kill in the window, so it was a limit's after all"
                        .to_owned(),
                ));
            }
        }
    }
    draft
}

/// For a limit that several share: who uses it.
fn add_members(view: &View<'_>, limit: &MemoryLimitFacts, draft: &mut Draft) {
    if !limit.is_own {
        draft.others = users(view.members(&limit.cgroup));
    }
}

/// The largest users of memory. Who uses most is not to blame for that.
fn users<'a>(containers: impl Iterator<Item = &'a ContainerFacts>) -> Vec<Party> {
    let mut all: Vec<(f64, &ContainerFacts)> = containers
        .filter_map(|one| Some((one.memory.working_set_bytes? as f64, one)))
        .collect();
    let sum: f64 = all.iter().map(|(used, _)| used).sum();
    all.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    all.iter()
        .take(MAX_USERS)
        .map(|(used, one)| Party {
            name: one.identity.label(),
            share: ratio(*used, sum).unwrap_or(0.0),
            evidence: vec![Evidence::new("working_set_bytes", Unit::Bytes, *used)],
        })
        .collect()
}

/// How much it hurts.
fn severity(view: &View<'_>) -> f64 {
    let memory = &view.container.memory;
    let reclaim = memory
        .direct_reclaim_seconds
        .and_then(|s| view.per_second(s));
    let waiting = memory.pressure_ratio.or(reclaim);
    // Refaults alone say that it hurts and not how much: a tenth of a millisecond each.
    let refaulting = || Some(view.per_second(memory.refaults? as f64)? * 1e-4);
    waiting.or_else(refaulting).unwrap_or(0.0)
}

/// What hurts, in words.
fn hurt_words(view: &View<'_>) -> String {
    let memory = &view.container.memory;
    let mut words = Vec::new();
    if let Some(rate) = memory
        .refaults
        .and_then(|count| view.per_second(count as f64))
    {
        words.push(format!(
            "it read {}/s again that it had to give up",
            bytes(rate * PAGE_BYTES)
        ));
    }
    if let Some(pressure) = memory.pressure_ratio {
        words.push(format!(
            "some task of it waited for memory in {} of the window",
            percent(pressure)
        ));
    }
    words.join("; ")
}

fn memory_limited(view: &View<'_>, is_slowed: bool) -> Draft {
    let mut draft = Draft {
        severity: severity(view),
        ..Draft::default()
    };
    let hurt = hurt_words(view);
    if let Some(limit) = reached(view) {
        let mut summary = format!(
            "the memory limit of {} of {} is reached",
            size(limit.limit_bytes),
            limit.cgroup
        );
        if let Some(hits) = limit.limit_hits {
            summary.push_str(&format!(", {hits} times in the window"));
        }
        draft.summary = format!("{summary}; {hurt}");
        let place = remedy::of_cgroup(view, Setting::MemoryLimit, &limit.cgroup, limit.is_own);
        draft.remedies.push(match limit.limit_bytes {
            Some(now) => {
                // What came back in the window was needed in it: at most that is lacking, and each page
                // that came twice makes it less.
                let refaults = view.container.memory.refaults.unwrap_or(0) as f64;
                let lacking = (refaults * PAGE_BYTES).clamp(now as f64 * 0.1, now as f64);
                format!(
                    "raise the limit of {} from {} to about {}, and look again: {place}",
                    limit.cgroup,
                    size(Some(now)),
                    bytes(now as f64 + lacking)
                )
            }
            None => format!("raise the limit of {}: {place}", limit.cgroup),
        });
        add_members(view, limit, &mut draft);
    } else if is_slowed {
        let slowed = view
            .container
            .memory
            .limits
            .iter()
            .find(|limit| limit.high_hits.is_some_and(|hits| hits > 0));
        if let Some(limit) = slowed {
            draft.summary = format!(
                "it is slowed down for being above memory.high of {}, {} of {}; {hurt}",
                size(limit.high_bytes),
                if limit.is_own { "its own" } else { "that" },
                limit.cgroup
            );
            draft.remedies.push(format!(
                "raise memory.high: {}",
                remedy::of_cgroup(view, Setting::MemoryHigh, &limit.cgroup, limit.is_own)
            ));
            add_members(view, limit, &mut draft);
        }
    }
    draft.remedies.push(
        "or make it need less: caches that are sized by the memory of the host, and heaps that grow until \
         they are told a limit, do not fit one"
            .to_owned(),
    );
    draft
}

fn host_memory(view: &View<'_>) -> Draft {
    let memory = &view.window.host.memory;
    let total = memory.total_bytes.map_or(0.0, |bytes| bytes as f64);
    Draft {
        summary: format!(
            "the host has {} of {} available and reclaims from everybody; {}",
            size(memory.available_bytes),
            bytes(total),
            hurt_words(view)
        ),
        severity: severity(view),
        remedies: vec![
            "give the host more memory or fewer tenants".to_owned(),
            format!(
                "protect what it needs by memory.low (requests.memory with the kubelet's MemoryQoS, MemoryLow= \
                 of systemd): its working set is {}",
                size(view.container.memory.working_set_bytes)
            ),
        ],
        // Reclaim takes from all; who made it necessary cannot be told from who is large.
        others: users(view.neighbours()),
        ..Draft::default()
    }
}

fn unbound(view: &View<'_>) -> Draft {
    let memory = &view.container.memory;
    let limit = with_limit(view).next();
    let mut summary = "it does not wait for memory".to_owned();
    if let Some(used) = memory.working_set_bytes {
        summary.push_str(&format!("; its working set is {}", bytes(used as f64)));
        if let Some(limit) = limit {
            summary.push_str(&format!(" of a limit of {}", size(limit.limit_bytes)));
        }
    }
    Draft::of(summary)
}

fn size(value: Option<u64>) -> String {
    value.map_or_else(|| "an unknown size".to_owned(), |value| bytes(value as f64))
}
