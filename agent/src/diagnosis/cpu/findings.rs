//! What the answers of the CPU tree mean, and what to do.

use super::{
    bursting::squeezed, contended_seconds, interrupt_ratios, others_cores, own_share, stolen_ratio,
    waited_for,
};
use crate::diagnosis::{
    facts::{ContainerFacts, CpuTimeFacts},
    neighbours::{self, Blame},
    remedy::{self, Setting},
    tree::Draft,
    verdict::{Evidence, Party, Unit},
    view::{View, mean, ratio},
    words::{cores, list, percent, seconds},
};

/// Siblings that are named, at most.
const MAX_SIBLINGS: usize = 5;

/// It runs whenever it wants; where its time goes is told.
pub(super) fn not_cpu_bound(view: &View<'_>) -> Draft {
    let cpu = &view.container.cpu;
    let mut summary = "it gets the CPU when it wants it".to_owned();
    // No time passed in an empty window.
    if let Some(used) = view.used_cores() {
        summary.push_str(&format!(" and used {}", cores(used)));
    }
    let parts = [
        ("running", cpu.used_seconds),
        ("waiting for CPUs", cpu.waited_seconds),
        ("sleeping", cpu.sleep_seconds),
        ("blocked for I/O", cpu.io_wait_seconds),
        ("blocked uninterruptibly", cpu.blocked_seconds),
    ]
    .map(|(what, seconds)| (what, seconds.unwrap_or(0.0).max(0.0)));
    let all: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
    let mut shares: Vec<(f64, &str)> = parts
        .iter()
        .filter_map(|(what, seconds)| Some((ratio(*seconds, all)?, *what)))
        .filter(|(share, _)| *share >= 0.01)
        .collect();
    shares.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let shares: Vec<String> = shares
        .iter()
        .map(|(share, what)| format!("{} {what}", percent(*share)))
        .collect();
    if !shares.is_empty() {
        summary.push_str(&format!(
            "; its tasks' time that ended in the window went: {}",
            list(&shares)
        ));
    }
    let mut remedies = Vec::new();
    if cpu.io_wait_seconds.unwrap_or(0.0) > cpu.used_seconds.unwrap_or(0.0) {
        remedies
            .push("more CPU does not help: the disk's verdict says what it waits for".to_owned());
    }
    Draft {
        summary,
        remedies,
        ..Draft::default()
    }
}

/// The part of the time that it wanted a CPU that it waited for somebody.
fn wait_severity(view: &View<'_>) -> f64 {
    let cpu = &view.container.cpu;
    let lost = contended_seconds(view)
        .and_then(|wait| ratio(wait, cpu.used_seconds.unwrap_or(0.0) + wait));
    lost.or(cpu.pressure_ratio).unwrap_or(0.0)
}

/// How much it waited, for a summary.
fn waited_words(view: &View<'_>) -> String {
    let cpu = &view.container.cpu;
    match (contended_seconds(view), view.used_cores()) {
        (Some(wait), Some(used)) => format!(
            "it ran {} and waited for a CPU in {} of the time that it wanted one",
            cores(used),
            percent(ratio(wait, cpu.used_seconds.unwrap_or(0.0) + wait).unwrap_or(0.0))
        ),
        _ => format!(
            "some task of it waited for a CPU in {} of the window",
            percent(cpu.pressure_ratio.unwrap_or(0.0))
        ),
    }
}

/// Its cpuset is too small while the host has room.
pub(super) fn cpuset_limited(view: &View<'_>) -> Draft {
    let own: Vec<u32> = view.own_cpus().map(|cpu| cpu.cpu).collect();
    let outside = mean(view.foreign_cpus(), |cpu| cpu.idle_ratio).unwrap_or(0.0);
    let foreign = view.foreign_cpus().count();
    let blame = waited_for(view).and_then(|_| neighbours::on_cpus(view));
    let mut summary = format!(
        "{}; its cpuset allows it {} {}, which {} busy, while the other {foreign} idle in {} of the time",
        waited_words(view),
        if own.len() == 1 { "CPU" } else { "CPUs" },
        cpu_list(&own),
        if own.len() == 1 { "is" } else { "are" },
        percent(outside)
    );
    let place = remedy::own(view, Setting::Cpuset);
    let mut remedies = vec![format!("give it more CPUs: {place}")];
    if !view.container.identity.pod.is_empty() {
        remedies.push(
            "with the kubelet's static CPU manager a cpuset is as large as requests.cpu of a Guaranteed pod: \
             raise that by whole CPUs"
                .to_owned(),
        );
    }
    let mut draft = Draft::default();
    if let Some(share) = waited_for(view).and_then(own_share) {
        summary.push_str(&format!(
            "; in {} of its waiting its own tasks had them",
            percent(share)
        ));
    }
    // Whoever shares its CPUs is told with the share that they have; here the remedy is the cpuset.
    if let Some(blame) = blame {
        draft.others = [blame.culprits, blame.others].concat();
    }
    draft.summary = summary;
    draft.remedies = remedies;
    draft.severity = wait_severity(view);
    draft
}

/// CPU numbers as the kernel writes them: `0-2,5`.
fn cpu_list(cpus: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let words: Vec<String> = ranges
        .iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    words.join(",")
}

/// The hypervisor has the CPUs.
pub(super) fn steal(view: &View<'_>) -> Draft {
    let stolen = stolen_ratio(view).unwrap_or(0.0);
    Draft {
        summary: format!(
            "the hypervisor took {} of the time of the CPUs that it runs on",
            percent(stolen)
        ),
        severity: stolen,
        remedies: vec![
            "nothing inside this host can mend it: other virtual machines, or a CPU limit of this one (credits \
             of a burstable instance), have the physical CPUs; use dedicated ones, a larger instance or \
             another host"
                .to_owned(),
        ],
        ..Draft::default()
    }
}

/// Interrupts have its CPUs, while it waits or while it runs.
pub(super) fn interrupted(view: &View<'_>, waits: bool) -> Draft {
    let worst = worst_interrupts(view).unwrap_or_default();
    let (summary, severity) = if waits {
        let words = waited_words(view);
        let summary = format!(
            "{words}; no limit and no neighbour holds it back, interrupts take its CPUs: {worst}"
        );
        (summary, wait_severity(view))
    } else {
        let used = view.used_cores().map_or_else(String::new, |used| {
            format!(", also in the {} that it is charged with", cores(used))
        });
        let summary =
            format!("it hardly waits, and interrupts take the CPUs while it runs{used}: {worst}");
        (summary, interrupt_ratios(view).0.unwrap_or(0.0))
    };
    let mut draft = Draft {
        summary,
        severity,
        ..Draft::default()
    };
    draft.remedies.push(spread_interrupts(view));
    draft
}

fn interrupts(cpu: &CpuTimeFacts) -> f64 {
    cpu.irq_ratio + cpu.softirq_ratio
}

/// The CPU of its with the most interrupts, in words.
fn worst_interrupts(view: &View<'_>) -> Option<String> {
    let worst = view
        .own_cpus()
        .max_by(|a, b| interrupts(a).total_cmp(&interrupts(b)))?;
    Some(format!(
        "CPU {} spent {} of its time in software interrupts and {} in hardware interrupts",
        worst.cpu,
        percent(worst.softirq_ratio),
        percent(worst.irq_ratio)
    ))
}

fn spread_interrupts(view: &View<'_>) -> String {
    let cpus: Vec<u32> = view
        .own_cpus()
        .filter(|cpu| interrupts(cpu) >= view.thresholds.interrupt_ratio)
        .map(|cpu| cpu.cpu)
        .collect();
    format!(
        "spread the interrupts of CPU {} (/proc/softirqs and /proc/interrupts say which): \
         /proc/irq/*/smp_affinity, more receive queues (`ethtool -L`), or receive packet steering \
         (rps_cpus); or keep the container off those CPUs: {}",
        cpu_list(&cpus),
        remedy::own(view, Setting::Cpuset)
    )
}

/// It waits although its CPUs have idle time.
pub(super) fn not_throttled(view: &View<'_>) -> Draft {
    let idle = mean(view.own_cpus(), |cpu| cpu.idle_ratio).unwrap_or(0.0);
    let mut draft = Draft {
        summary: format!(
            "{}, although the CPUs that it may run on are idle in {} of the time: no limit holds it back, \
             its tasks are where the idle CPUs are not",
            waited_words(view),
            percent(idle)
        ),
        severity: wait_severity(view),
        ..Draft::default()
    };
    let has_interrupts = view
        .own_cpus()
        .any(|cpu| interrupts(cpu) >= view.thresholds.interrupt_ratio);
    if has_interrupts {
        if let Some(words) = worst_interrupts(view) {
            draft.summary.push_str(&format!("; {words}"));
        }
        draft.remedies.push(spread_interrupts(view));
    }
    draft.remedies.push(
        "look for an affinity that the program sets itself (`taskset -cp PID`): it keeps tasks on CPUs that \
         are busy"
            .to_owned(),
    );
    draft.remedies.push(
        "many short tasks that are woken at once, or bursts shorter than the window, wait on a host that is \
         idle on average: `ctrscope runqlat -c` shows whether it is a few long waits"
            .to_owned(),
    );
    // They had the CPU, and would not have to if its tasks were elsewhere.
    if let Some(blame) = waited_for(view).and_then(|_| neighbours::on_cpus(view)) {
        draft.others = [blame.culprits, blame.others].concat();
    }
    draft
}

/// It alone fills its CPUs.
pub(super) fn physical_cpu(view: &View<'_>) -> Draft {
    let cpus = view.own_cpus().count();
    let mut summary = format!(
        "{}: it fills the {cpus} CPUs that it may run on by itself",
        waited_words(view)
    );
    if let Some(others) = others_cores(view) {
        summary.push_str(&format!("; all others used {}", cores(others)));
    }
    if let Some(share) = waited_for(view).and_then(own_share) {
        summary.push_str(&format!(
            "; in {} of its waiting its own tasks had the CPUs",
            percent(share)
        ));
    }
    let mut draft = Draft {
        summary,
        severity: wait_severity(view),
        remedies: vec![format!(
            "make it need less (`ctrscope flame -c {}` says what spends the time), run fewer threads than \
                 it has now, or give it a larger machine or a second one",
            view.container.identity.label()
        )],
        ..Draft::default()
    };
    if let Some(blame) = waited_for(view).and_then(|_| neighbours::on_cpus(view)) {
        draft.exonerated = blame.exonerated;
    }
    draft
}

/// To what its weight is to be raised, and where.
fn raised_weight(view: &View<'_>) -> String {
    let place = remedy::own(view, Setting::CpuWeight);
    let entitled = view.container.cpu.entitlement.as_ref();
    let (Some(entitled), Some(_)) = (entitled, waited_for(view)) else {
        return format!(": {place}");
    };
    let weight = entitled.weight;
    let Some(needed) = entitled.needed_weight else {
        return format!(
            ": {place}; no weight of its own is known to give it what it waited for: the cgroup above it may have no more"
        );
    };
    if needed <= weight {
        return format!(": {place}");
    }
    let controllers = &view.window.host.controllers;
    let is_v2 = controllers.cpu.as_ref().is_none_or(|mount| mount.is_v2);
    // The same on the scale of v1, where 1,024 is the default.
    let on_its_scale = |weight: u64| {
        if is_v2 {
            weight
        } else {
            weight.saturating_mul(1024) / 100
        }
    };
    format!(
        " from {} to {}, {:.1} times as much, with which it would have waited for others less than a twentieth of the time: {place}",
        on_its_scale(weight),
        on_its_scale(needed),
        needed as f64 / weight.max(1) as f64
    )
}

/// Others have the CPUs, by right of their weights.
pub(super) fn share_limited(view: &View<'_>) -> Draft {
    let entitled = view.container.cpu.entitlement.as_ref();
    let mut draft = Draft {
        summary: waited_words(view),
        severity: share_severity(view),
        ..Draft::default()
    };
    if let Some(entitled) = entitled {
        draft.summary.push_str(&format!(
            "; its weight of {} entitles it to {} beside those that were busy, and to {} if all want all",
            entitled.weight,
            cores(entitled.fair_cores),
            cores(entitled.guaranteed_cores)
        ));
    }
    let blame = waited_for(view).and_then(|_| neighbours::on_cpus(view));
    match blame {
        Some(blame) => blamed(view, blame, &mut draft),
        None => {
            let others = others_cores(view).unwrap_or(0.0);
            draft.others = neighbours_by_use(view);
            draft.summary.push_str(&format!(
                "; others used {} of its CPUs, and which of them it waited for is not measured here",
                cores(others)
            ));
            draft.lowered.push((
                0.8,
                "who had the CPU while it waited is not measured".to_owned(),
            ));
        }
    }
    if let Some(squeezed) = squeezed(view, &draft.culprits) {
        draft.summary.push_str(&format!("; {}", squeezed.summary));
        draft.remedies.push(format!(
            "what it had before was never its own: to keep {}, raise its weight{}, or find it a host with that \
             much to spare",
            cores(squeezed.former_cores),
            raised_weight(view)
        ));
    } else {
        draft
            .remedies
            .push(format!("raise its weight{}", raised_weight(view)));
    }
    if let Some(culprit) = draft.culprits.first() {
        draft.remedies.push(format!(
            "or move {}, or give it a quota or a smaller weight: it had the CPU in {} of what was waited for \
             others",
            culprit.name,
            percent(culprit.share)
        ));
    } else {
        draft.remedies.push(
            "or move it to a host with fewer tenants: no neighbour alone makes it wait, so moving one of \
             them does not mend it"
                .to_owned(),
        );
    }
    draft
}

/// What others cost it.
fn share_severity(view: &View<'_>) -> f64 {
    let used = view.container.cpu.used_seconds.unwrap_or(0.0);
    waited_for(view)
        .map(neighbours::waited_for_others)
        .and_then(|others| ratio(others, used + others))
        .unwrap_or_else(|| wait_severity(view))
}

fn blamed(view: &View<'_>, blame: Blame, draft: &mut Draft) {
    let others = waited_for(view).map_or(0.0, neighbours::waited_for_others);
    if let Some(culprit) = blame.culprits.first() {
        draft.summary.push_str(&format!(
            "; {} had the CPU in {} of the {} that it waited for others",
            culprit.name,
            percent(culprit.share),
            seconds(others)
        ));
    } else {
        let named: Vec<String> = blame
            .others
            .iter()
            .map(|one| format!("{} {}", one.name, percent(one.share)))
            .collect();
        draft.summary.push_str(&format!(
            "; no neighbour alone has most of the {} that it waited for others",
            seconds(others)
        ));
        if !named.is_empty() {
            draft
                .summary
                .push_str(&format!(", the largest parts are of {}", list(&named)));
        }
    }
    if blame.unattributed_ratio > view.thresholds.innocent_share {
        draft.lowered.push((
            1.0 - blame.unattributed_ratio / 2.0,
            format!(
                "{} of what it waited for others is nobody's",
                percent(blame.unattributed_ratio)
            ),
        ));
    }
    draft.culprits = blame.culprits;
    draft.others = blame.others;
    draft.exonerated = blame.exonerated;
}

/// The neighbours by CPU time, where waiting is not split over them.
fn neighbours_by_use(view: &View<'_>) -> Vec<Party> {
    let mut all: Vec<(f64, &ContainerFacts)> = view
        .neighbours()
        .filter_map(|one| Some((view.cores_of(one)?, one)))
        .collect();
    let sum: f64 = all.iter().map(|(used, _)| used).sum();
    all.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    all.iter()
        .take(MAX_SIBLINGS)
        .filter(|(used, _)| ratio(*used, sum).unwrap_or(0.0) > view.thresholds.innocent_share)
        .map(|(used, one)| Party {
            name: one.identity.label(),
            share: 0.0,
            evidence: vec![Evidence::new("used_cores", Unit::Cores, *used)],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::cpu_list;

    #[test]
    fn cpus_are_written_as_ranges() {
        assert_eq!(cpu_list(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(cpu_list(&[]), "");
    }
}
