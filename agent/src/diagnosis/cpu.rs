//! The CPU tree: what keeps a container off the CPU.
//!
//! Waiting is run queue latency less what is no contention: the wake-up of idle CPUs, and, once a quota
//! is known to throttle, the time in which it did. Where it cannot be told how much that was, the
//! questions after the throttling have no answer: a throttled task's wait looks like a neighbour's fault.

mod bursting;
mod findings;
mod quota;

use self::findings::{
    cpuset_limited, interrupted, not_cpu_bound, not_throttled, physical_cpu, share_limited, steal,
};
pub(super) use bursting::{bursting, squeezed};
use quota::cap_throttled;

use super::{
    facts::{QuotaFacts, WaitedFor},
    neighbours::waited_for_others,
    tree::{Draft, Tree},
    verdict::{Asked, Evidence, Relation, Resource, ResourceDiagnosis, Unit, Verdict},
    view::{View, mean, ratio},
};

/// Walks the tree.
pub(super) fn diagnose(view: &View<'_>) -> ResourceDiagnosis {
    let mut tree = Tree::new(Resource::Cpu, view);
    if tree.yes(is_idle) {
        let draft = Draft::of("it neither ran nor waited for a CPU");
        return tree.finish(Verdict::Idle, &["idle"], draft);
    }

    let by_own = tree.yes(is_throttled_by_own_quota);
    let by_ancestor = tree.yes(is_throttled_by_ancestor);
    let mut throttled_by: Vec<&QuotaFacts> = Vec::new();
    throttled_by.extend(worst_quota(view, true).filter(|_| by_own));
    throttled_by.extend(worst_quota(view, false).filter(|_| by_ancestor));
    throttled_by.sort_by(|a, b| throttled_ratio(b).total_cmp(&throttled_ratio(a)));
    for quota in throttled_by {
        let name = if quota.is_own {
            OWN_QUOTA
        } else {
            ANCESTOR_QUOTA
        };
        tree.found(Verdict::CapThrottled, &[name], cap_throttled(view, quota));
    }
    let is_throttled = tree.found_any();

    let is_preempted = tree.yes(is_preempted);
    let waits = tree.yes(|view| waits_for_cpus(view, is_preempted));
    let is_stolen_from = tree.yes(is_stolen_from);
    if !waits && !is_throttled && tree.yes(has_interrupted_cpus) {
        let rests_on = &["interrupts"];
        tree.found(Verdict::NotThrottled, rests_on, interrupted(view, false));
    }
    if !waits && !is_stolen_from {
        let rests_on = &["preempted", "waits", "stolen"];
        return tree.finish(Verdict::NotCpuBound, rests_on, not_cpu_bound(view));
    }

    let is_cpuset_full = waits && tree.yes(is_cpuset_full);
    if is_cpuset_full {
        tree.found(
            Verdict::CpusetLimited,
            &["waits", "cpuset_full"],
            cpuset_limited(view),
        );
    }
    if is_stolen_from {
        tree.found(Verdict::Steal, &["stolen"], steal(view));
    }
    if !waits {
        return tree.finish(Verdict::NotCpuBound, &[], not_cpu_bound(view));
    }

    if !is_throttled && tree.yes(is_interrupted) {
        let rests_on = &["waits", "interrupted"];
        tree.found(Verdict::NotThrottled, rests_on, interrupted(view, true));
    } else if !is_throttled && tree.yes(has_idle_cpus) {
        let rests_on = &["waits", "idle_cpus"];
        tree.found(Verdict::NotThrottled, rests_on, not_throttled(view));
    } else if !is_throttled && !is_cpuset_full && tree.yes(is_alone) {
        let rests_on = &["waits", "idle_cpus", "alone"];
        tree.found(Verdict::PhysicalCpu, rests_on, physical_cpu(view));
    } else if tree.yes(|view| waits_for_others(view, is_throttled)) {
        let rests_on = &["waits", "idle_cpus", "waits_for_others"];
        tree.found(Verdict::ShareLimited, rests_on, share_limited(view));
    } else if !tree.found_any() && tree.yes(waits_for_itself) {
        // Others have other CPUs; on its own it is alone.
        let rests_on = &["waits", "alone", "waits_for_itself"];
        tree.found(Verdict::PhysicalCpu, rests_on, physical_cpu(view));
    }
    let rests_on = &["waits", "idle_cpus", "waits_for_others"];
    let draft = Draft::of("it waits for CPUs, and who has them is not measured here");
    tree.finish(Verdict::Unknown, rests_on, draft)
}

const OWN_QUOTA: &str = "throttled_by_own_quota";
const ANCESTOR_QUOTA: &str = "throttled_by_ancestor";

/// Was it idle?
fn is_idle(view: &View<'_>) -> Asked {
    Asked::all(
        "idle",
        "Was it idle?",
        vec![
            Evidence::new("wanted_cores", Unit::Cores, wanted_cores(view))
                .is(Relation::Below, view.thresholds.idle_cores()),
            Evidence::new("used_cores", Unit::Cores, view.used_cores()),
        ],
    )
}

/// CPU time and waiting for it: cores.
fn wanted_cores(view: &View<'_>) -> Option<f64> {
    let cpu = &view.container.cpu;
    // Without the scheduler's numbers waiting shows in the pressure alone.
    let pressure = || Some(cpu.pressure_ratio? * view.window.seconds);
    let waited = cpu.waited_seconds.or_else(pressure);
    view.per_second(cpu.used_seconds? + waited.unwrap_or(0.0))
}

/// Did its own quota throttle it?
fn is_throttled_by_own_quota(view: &View<'_>) -> Asked {
    const QUESTION: &str = "Does its own quota throttle it?";
    let cpu = &view.container.cpu;
    let mut evidence = Vec::new();
    for quota in cpu.quotas.iter().filter(|quota| quota.is_own) {
        evidence.extend(quota_evidence(view, quota, true));
    }
    // Without the controller it is not known whether there is one.
    if cpu.quotas.is_empty() && cpu.entitlement.is_none() {
        evidence.push(
            Evidence::new("throttled_periods_ratio", Unit::Ratio, None)
                .is(Relation::AtLeast, view.thresholds.throttled_periods_ratio()),
        );
    }
    Asked::any(OWN_QUOTA, QUESTION, evidence)
}

/// Did the quota of a cgroup above it, such as its pod's, throttle it? Others below that may have used it
/// up, and what throttles them holds this one back only if it wants to run meanwhile.
fn is_throttled_by_ancestor(view: &View<'_>) -> Asked {
    const QUESTION: &str = "Does the quota of a cgroup above it throttle it while it wants to run?";
    let Some(worst) = worst_quota(view, false) else {
        return Asked::any(ANCESTOR_QUOTA, QUESTION, Vec::new());
    };
    let mut evidence = quota_evidence(view, worst, true);
    let others = view.container.cpu.quotas.iter();
    for quota in others.filter(|quota| !quota.is_own && !std::ptr::eq(*quota, worst)) {
        evidence.extend(quota_evidence(view, quota, false));
    }
    let cpu = &view.container.cpu;
    let waited = match (cpu.waited_seconds, cpu.used_seconds) {
        (Some(waited), Some(used)) => {
            Evidence::new("wait_ratio", Unit::Ratio, ratio(waited, used + waited))
                .is(Relation::AtLeast, view.thresholds.wait_ratio())
        }
        _ => Evidence::new("cpu_pressure_ratio", Unit::Ratio, cpu.pressure_ratio)
            .is(Relation::AtLeast, view.thresholds.cpu_pressure_ratio()),
    };
    evidence.push(waited);
    Asked::all(ANCESTOR_QUOTA, QUESTION, evidence)
}

fn quota_evidence(view: &View<'_>, quota: &QuotaFacts, is_compared: bool) -> Vec<Evidence> {
    let ratio = Evidence::new(
        "throttled_periods_ratio",
        Unit::Ratio,
        throttled_ratio(quota),
    );
    let mut evidence = vec![
        if is_compared {
            let threshold = view.thresholds.throttled_periods_ratio();
            // A threshold of 0 still asks for one throttled period.
            let relation = if threshold.1 > 0.0 {
                Relation::AtLeast
            } else {
                Relation::Above
            };
            ratio.is(relation, threshold)
        } else {
            ratio
        },
        Evidence::new("quota_cores", Unit::Cores, quota.quota_cores),
        Evidence::new(
            "throttled_time_seconds",
            Unit::Seconds,
            quota.throttled_seconds,
        ),
    ];
    if quota.burst_seconds > 0.0 {
        evidence.push(Evidence::new(
            "burst_seconds",
            Unit::Seconds,
            quota.burst_seconds,
        ));
    }
    evidence
        .into_iter()
        .map(|one| one.of(quota.cgroup.clone()))
        .collect()
}

/// Share of a quota's periods in which it throttled.
fn throttled_ratio(quota: &QuotaFacts) -> f64 {
    ratio(quota.throttled_periods as f64, quota.periods as f64).unwrap_or(0.0)
}

/// The quota that throttled most, of its own cgroup or of those above.
fn worst_quota<'a>(view: &View<'a>, is_own: bool) -> Option<&'a QuotaFacts> {
    let quotas = view.container.cpu.quotas.iter();
    quotas
        .filter(|quota| quota.is_own == is_own)
        .max_by(|a, b| throttled_ratio(a).total_cmp(&throttled_ratio(b)))
}

/// Whether any quota, its own or one above, throttled at all.
fn was_throttled(view: &View<'_>) -> bool {
    let mut quotas = view.container.cpu.quotas.iter();
    quotas.any(|quota| throttled_ratio(quota) >= view.thresholds.throttled_periods_ratio)
}

/// Do involuntary switches rise?
fn is_preempted(view: &View<'_>) -> Asked {
    let cpu = &view.container.cpu;
    let rate = match (cpu.involuntary, cpu.used_seconds) {
        // Who did not run at all was not preempted either.
        (Some(0), _) => Some(0.0),
        (Some(involuntary), Some(used)) if used > 0.0 => Some(involuntary as f64 / used),
        _ => None,
    };
    Asked::all(
        "preempted",
        "Do involuntary switches rise?",
        vec![
            Evidence::new("involuntary_per_cpu_second", Unit::PerSecond, rate)
                .is(Relation::AtLeast, view.thresholds.involuntary_per_second()),
        ],
    )
}

/// Does it wait for CPUs, quotas left aside?
fn waits_for_cpus(view: &View<'_>, is_preempted: bool) -> Asked {
    const QUESTION: &str = "Does it wait for CPUs, apart from quotas?";
    let cpu = &view.container.cpu;
    let thresholds = view.thresholds;
    let pressure = Evidence::new("cpu_pressure_ratio", Unit::Ratio, cpu.pressure_ratio);
    let Some(waited) = cpu.waited_seconds else {
        let (key, least) = thresholds.cpu_pressure_ratio();
        let mut pressure = pressure;
        // Pressure counts throttling as waiting, so beside it only little says something.
        if was_throttled(view) {
            pressure.value = pressure.value.filter(|&value| value < least);
        }
        let evidence = vec![pressure.is(Relation::AtLeast, (key, least))];
        return Asked::all("waits", QUESTION, evidence);
    };
    let (key, least) = thresholds.wait_ratio();
    let least = if is_preempted { least / 2.0 } else { least };
    let ratio_of = |wait: f64| ratio(wait, cpu.used_seconds? + wait);
    let (wanted, waiting) = match contended_seconds(view) {
        Some(contended) => (ratio_of(contended), view.per_second(contended)),
        // All waiting is more than that for somebody, so it can only say no.
        None => (
            ratio_of(waited).filter(|&value| value < least),
            view.per_second(waited)
                .filter(|&value| value < thresholds.waiting_tasks),
        ),
    };
    let mean_wait = cpu
        .waits
        .filter(|&waits| waits > 0)
        .map(|waits| waited / waits as f64);
    Asked::all(
        "waits",
        QUESTION,
        vec![
            Evidence::new("wait_ratio", Unit::Ratio, wanted).is(Relation::AtLeast, (key, least)),
            Evidence::new("waiting_tasks", Unit::Count, waiting)
                .is(Relation::AtLeast, thresholds.waiting_tasks()),
            Evidence::new("waited_seconds", Unit::Seconds, waited),
            Evidence::new("mean_wait_seconds", Unit::Seconds, mean_wait),
            pressure,
        ],
    )
}

/// Time that its tasks waited for CPUs that somebody had; `None` where that is not known.
fn contended_seconds(view: &View<'_>) -> Option<f64> {
    let cpu = &view.container.cpu;
    let waited = cpu.waited_seconds?;
    if was_throttled(view) {
        // A kernel side that cannot tell gives what was waited while throttled to whoever ran.
        let parts = cpu
            .waited_for
            .as_ref()
            .filter(|_| throttling_is_told(view))?;
        return Some((waited - parts.idle_seconds - parts.throttled_seconds).max(0.0));
    }
    let Some(parts) = &cpu.waited_for else {
        return Some(waited);
    };
    Some((waited - parts.idle_seconds - parts.throttled_seconds).max(0.0))
}

/// Whether the time in which it was throttled is kept apart from what it waited for others.
fn throttling_is_told(view: &View<'_>) -> bool {
    let waited = view.container.cpu.waited_for.as_ref();
    waited.is_some_and(|waited| waited.throttled_seconds > 0.0) || !was_throttled(view)
}

/// Who had the CPUs, where throttling cannot be in it.
fn waited_for<'a>(view: &View<'a>) -> Option<&'a WaitedFor> {
    let waited = view.container.cpu.waited_for.as_ref();
    waited.filter(|_| throttling_is_told(view))
}

/// Does the hypervisor take its CPUs while it wants to run?
fn is_stolen_from(view: &View<'_>) -> Asked {
    Asked::all(
        "stolen",
        "Does the hypervisor take its CPUs while it wants to run?",
        vec![
            Evidence::new("steal_ratio", Unit::Ratio, stolen_ratio(view))
                .is(Relation::AtLeast, view.thresholds.steal_ratio()),
            Evidence::new("wanted_cores", Unit::Cores, wanted_cores(view))
                .is(Relation::AtLeast, view.thresholds.waiting_tasks()),
        ],
    )
}

/// What the hypervisor took of the CPUs that it ran on, or may run on where that is not measured.
fn stolen_ratio(view: &View<'_>) -> Option<f64> {
    let ran_on = view.container.cpu.ran_on.map(|cpus| cpus.steal_ratio);
    ran_on.or_else(|| mean(view.own_cpus(), |cpu| cpu.steal_ratio))
}

/// What interrupts took of the CPUs that it ran on, or may run on where that is not measured; and of that
/// the software interrupts.
pub(super) fn interrupt_ratios(view: &View<'_>) -> (Option<f64>, Option<f64>) {
    match view.container.cpu.ran_on {
        Some(cpus) => (
            Some(cpus.irq_ratio + cpus.softirq_ratio),
            Some(cpus.softirq_ratio),
        ),
        None => (
            mean(view.own_cpus(), |cpu| cpu.irq_ratio + cpu.softirq_ratio),
            mean(view.own_cpus(), |cpu| cpu.softirq_ratio),
        ),
    }
}

/// Are the CPUs of its cpuset full of tasks while others idle?
fn is_cpuset_full(view: &View<'_>) -> Asked {
    const QUESTION: &str = "Are the CPUs of its cpuset all busy while others idle?";
    let Some(cpuset) = &view.container.cpu.cpuset else {
        let all = Evidence::new("cpus", Unit::Count, view.window.host.cpus.len() as f64);
        return Asked::any("cpuset_full", QUESTION, vec![all]);
    };
    let thresholds = view.thresholds;
    let idlest = view.own_cpus().map(|cpu| cpu.idle_ratio).reduce(f64::max);
    let outside = mean(view.foreign_cpus(), |cpu| cpu.idle_ratio);
    let interrupts = mean(view.own_cpus(), |cpu| cpu.irq_ratio + cpu.softirq_ratio);
    Asked::all(
        "cpuset_full",
        QUESTION,
        vec![
            Evidence::new("idlest_cpu_of_it_ratio", Unit::Ratio, idlest)
                .is(Relation::AtMost, thresholds.busy_idle_ratio()),
            Evidence::new("other_cpus_idle_ratio", Unit::Ratio, outside)
                .is(Relation::AtLeast, thresholds.spare_idle_ratio()),
            Evidence::new("interrupt_ratio", Unit::Ratio, interrupts)
                .is(Relation::Below, thresholds.interrupt_ratio()),
            Evidence::new("cpus_of_it", Unit::Count, cpuset.len() as f64),
        ],
    )
}

/// Do interrupts, and no neighbour, take the CPUs that it runs on?
fn is_interrupted(view: &View<'_>) -> Asked {
    let thresholds = view.thresholds;
    let (interrupts, softirq) = interrupt_ratios(view);
    let mut evidence = vec![
        Evidence::new("interrupt_ratio", Unit::Ratio, interrupts)
            .is(Relation::AtLeast, thresholds.interrupt_ratio()),
        Evidence::new("softirq_ratio", Unit::Ratio, softirq),
    ];
    if let Some(waited) = waited_for(view) {
        let named: f64 = waited.containers.iter().map(|one| one.seconds).sum();
        let containers = named + waited.other_containers_seconds;
        let share =
            contended_seconds(view).map(|contended| ratio(containers, contended).unwrap_or(0.0));
        evidence.push(
            Evidence::new("neighbours_share_of_wait", Unit::Ratio, share)
                .is(Relation::AtMost, thresholds.culprit_share()),
        );
    }
    Asked::all(
        "interrupted",
        "Do interrupts take the CPUs that it runs on, and neighbours not?",
        evidence,
    )
}

/// Do interrupts take the CPUs while it runs on them? Who is interrupted does not wait, and the kernel charges it with
/// the interrupts' time unless it accounts for that (`CONFIG_IRQ_TIME_ACCOUNTING`).
fn has_interrupted_cpus(view: &View<'_>) -> Asked {
    let thresholds = view.thresholds;
    let (interrupts, softirq) = interrupt_ratios(view);
    Asked::all(
        "interrupts",
        "Do interrupts take the CPUs while it runs on them?",
        vec![
            Evidence::new("interrupt_ratio", Unit::Ratio, interrupts)
                .is(Relation::AtLeast, thresholds.interrupt_ratio()),
            Evidence::new("softirq_ratio", Unit::Ratio, softirq),
            Evidence::new("wanted_cores", Unit::Cores, wanted_cores(view))
                .is(Relation::AtLeast, thresholds.waiting_tasks()),
        ],
    )
}

/// Have the CPUs that it may run on idle time?
fn has_idle_cpus(view: &View<'_>) -> Asked {
    let idle = mean(view.own_cpus(), |cpu| cpu.idle_ratio);
    Asked::all(
        "idle_cpus",
        "Have the CPUs that it may run on idle time?",
        vec![
            Evidence::new("idle_ratio", Unit::Ratio, idle)
                .is(Relation::AtLeast, view.thresholds.spare_idle_ratio()),
        ],
    )
}

/// CPU time that others used on the CPUs that it may run on: cores.
fn others_cores(view: &View<'_>) -> Option<f64> {
    // The CPUs' account is of the whole window.
    let used = view.per_second_of_host(view.container.cpu.used_seconds?)?;
    let busy: f64 = view.own_cpus().map(|cpu| cpu.task_ratio).sum();
    (view.own_cpus().next().is_some()).then(|| (busy - used).max(0.0))
}

fn others_cores_ratio(view: &View<'_>) -> Option<f64> {
    ratio(others_cores(view)?, view.own_cpus().count() as f64)
}

/// The part of its waiting in which its own tasks had the CPU.
fn own_share(waited: &WaitedFor) -> Option<f64> {
    let own = waited.own_seconds;
    ratio(own, own + waited_for_others(waited))
}

/// Is nobody else there?
fn is_alone(view: &View<'_>) -> Asked {
    let mut evidence = vec![
        Evidence::new("others_cores_ratio", Unit::Ratio, others_cores_ratio(view))
            .is(Relation::AtMost, view.thresholds.tenants_ratio()),
        Evidence::new("others_cores", Unit::Cores, others_cores(view)),
    ];
    if let Some(waited) = waited_for(view) {
        evidence.push(
            Evidence::new("own_share_of_wait", Unit::Ratio, own_share(waited))
                .is(Relation::AtLeast, ("", 0.5)),
        );
    }
    Asked::all("alone", "Are the other tenants idle?", evidence)
}

/// Do others have the CPUs that it waits for?
fn waits_for_others(view: &View<'_>, is_throttled: bool) -> Asked {
    const QUESTION: &str = "Do others have the CPUs that it waits for?";
    let thresholds = view.thresholds;
    let mut evidence = Vec::new();
    if let Some(waited) = waited_for(view) {
        let others = waited_for_others(waited);
        let used = view.container.cpu.used_seconds;
        let lost = used.and_then(|used| ratio(others, used + others));
        evidence.push(
            Evidence::new("wait_for_others_ratio", Unit::Ratio, lost)
                .is(Relation::AtLeast, thresholds.wait_ratio()),
        );
        evidence.push(
            Evidence::new(
                "waiting_for_others_tasks",
                Unit::Count,
                view.per_second(others),
            )
            .is(Relation::AtLeast, thresholds.waiting_tasks()),
        );
        let own = own_share(waited);
        evidence.push(Evidence::new("own_share_of_wait", Unit::Ratio, own));
    }
    let cores = Evidence::new("others_cores_ratio", Unit::Ratio, others_cores_ratio(view));
    if evidence.is_empty() {
        // While it is throttled they may have had CPUs that it could not have used.
        let cores = if is_throttled {
            Evidence::new("others_cores_ratio", Unit::Ratio, None)
        } else {
            cores
        };
        evidence.push(cores.is(Relation::Above, thresholds.tenants_ratio()));
    } else {
        evidence.push(cores);
    }
    if let Some(entitled) = &view.container.cpu.entitlement {
        evidence.extend([
            Evidence::new("obtained_cores", Unit::Cores, entitled.obtained_cores),
            Evidence::new("fair_cores", Unit::Cores, entitled.fair_cores),
            Evidence::new("guaranteed_cores", Unit::Cores, entitled.guaranteed_cores),
            Evidence::new("weight", Unit::Count, entitled.weight as f64),
        ]);
    }
    Asked::all("waits_for_others", QUESTION, evidence)
}

/// Do its own tasks have the CPUs that it waits for?
fn waits_for_itself(view: &View<'_>) -> Asked {
    let share = waited_for(view).and_then(own_share);
    Asked::all(
        "waits_for_itself",
        "Do its own tasks have the CPUs that it waits for?",
        vec![Evidence::new("own_share_of_wait", Unit::Ratio, share).is(Relation::Above, ("", 0.5))],
    )
}
