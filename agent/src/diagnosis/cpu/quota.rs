//! A quota that holds a container back: how much would have been used without it, and who used it.

use super::throttled_ratio;
use crate::diagnosis::{
    facts::{ContainerFacts, QuotaFacts},
    remedy::{self, Setting},
    tree::Draft,
    verdict::{Evidence, Party, Unit},
    view::{View, ratio},
    words::{cores, percent},
};

/// Siblings that are named, at most.
const MAX_SIBLINGS: usize = 5;
/// Share of throttled periods up to which an own quota that is not used up is hit by bursts.
const RARELY_THROTTLED: f64 = 0.5;

/// A quota, its own or one above, holds it back.
pub(super) fn cap_throttled(view: &View<'_>, quota: &QuotaFacts) -> Draft {
    let throttled = throttled_ratio(quota);
    let wanted = cores_without_quota(view, quota);
    let used = used_within(view, quota);
    let whose = if quota.is_own {
        "its own quota".to_owned()
    } else {
        format!("the quota of {} above it", quota.cgroup)
    };
    let mut summary = format!(
        "{whose} of {} throttled it in {} of the periods",
        cores(quota.quota_cores),
        percent(throttled)
    );
    if let (Some(used), Some(wanted)) = (used, wanted) {
        let who = if quota.is_own { "it" } else { "what is below" };
        summary.push_str(&format!(
            ": {who} used {} and would have used about {}",
            cores(used),
            cores(wanted)
        ));
    }

    let place = remedy::of_cgroup(view, Setting::CpuQuota, &quota.cgroup, quota.is_own);
    let enough = wanted.unwrap_or(0.0).max(quota.quota_cores * 1.1);
    let mut remedies = vec![format!(
        "raise the quota of {} from {} to {} or more: {place}",
        quota.cgroup,
        cores(quota.quota_cores),
        cores(enough)
    )];
    let is_used_up = used.is_none_or(|used| used > 0.8 * quota.quota_cores);
    if quota.burst_seconds == 0.0 && !is_used_up && throttled < RARELY_THROTTLED {
        remedies.push(format!(
            "it uses less than its quota on average and is throttled in bursts: let it save up what it \
             does not use (cpu.max.burst, v1 cpu.cfs_burst_us, from Linux 5.14), or run fewer threads \
             at once than {}",
            cores(quota.quota_cores)
        ));
    } else if quota.is_own {
        remedies.push(format!(
            "or make it need less: a CPU profile (`ctrscope flame -c {}`) says what spends the quota{}",
            view.container.identity.label(),
            match view.window.host.cpus.len() {
                0 | 1 => String::new(),
                cpus => format!(
                    "; a runtime that starts a thread for each of the host's {cpus} CPUs spends it faster than \
                     it works"
                ),
            }
        ));
    }

    let mut draft = Draft {
        summary,
        severity: throttle_severity(view, quota),
        remedies,
        ..Draft::default()
    };
    if !quota.is_own {
        draft.others = siblings(view, quota);
        if let Some(most) = draft.others.first()
            && most.name != view.container.identity.label()
        {
            draft.remedies.push(format!(
                "or limit {}, which used {} of what the quota gives",
                most.name,
                percent(most.share)
            ));
        }
    }
    draft
}

/// The part of its time that it lost to a quota.
fn throttle_severity(view: &View<'_>, quota: &QuotaFacts) -> f64 {
    let cpu = &view.container.cpu;
    let told = cpu
        .waited_for
        .as_ref()
        .map(|waited| waited.throttled_seconds);
    let lost = match told.filter(|seconds| *seconds > 0.0) {
        Some(seconds) => cpu
            .used_seconds
            .and_then(|used| ratio(seconds, used + seconds)),
        None => None,
    };
    lost.unwrap_or_else(|| throttled_ratio(quota))
}

/// What would have been used below a quota without it: what was used, and the time in which CPUs had
/// something to run and might not. Not more than there are CPUs.
fn cores_without_quota(view: &View<'_>, quota: &QuotaFacts) -> Option<f64> {
    let waited = view.container.cpu.waited_for.as_ref();
    let tasks = waited.map_or(0.0, |waited| waited.throttled_seconds);
    // The kernel's sum is of CPUs, the other of tasks; with one task a CPU they are the same.
    let throttled = view.per_second(if quota.is_own {
        quota.throttled_seconds.max(tasks)
    } else {
        quota.throttled_seconds
    })?;
    let cpus = view.own_cpus().count();
    let most = if cpus > 0 { cpus as f64 } else { f64::MAX };
    Some((used_within(view, quota)? + throttled).min(most))
}

/// CPU time of what is below a quota: cores.
fn used_within(view: &View<'_>, quota: &QuotaFacts) -> Option<f64> {
    if quota.is_own {
        return view.used_cores();
    }
    let members = members(view, quota);
    (!members.is_empty()).then(|| members.iter().map(|(_, used)| used).sum())
}

/// What is below the cgroup of a quota, with its CPU time.
fn members<'a>(view: &View<'a>, quota: &QuotaFacts) -> Vec<(&'a ContainerFacts, f64)> {
    view.members(&quota.cgroup)
        .filter_map(|one| Some((one, view.cores_of(one)?)))
        .collect()
}

/// Who used what the quota of an ancestor gives, this container among them.
fn siblings(view: &View<'_>, quota: &QuotaFacts) -> Vec<Party> {
    let mut all = members(view, quota);
    let sum: f64 = all.iter().map(|(_, used)| used).sum();
    all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    all.iter()
        .take(MAX_SIBLINGS)
        .map(|(one, used)| Party {
            name: one.identity.label(),
            share: ratio(*used, sum).unwrap_or(0.0),
            evidence: vec![Evidence::new("used_cores", Unit::Cores, *used)],
        })
        .collect()
}
