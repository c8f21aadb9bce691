//! CPU quotas.

use std::sync::Arc;

use Answer::{No, Unknown, Yes};
use Verdict::{CapThrottled, NotCpuBound, ShareLimited};

use super::{
    super::{
        facts::{WaitedFor, WindowFacts},
        fixture::{SECONDS, held, quota, running, waiting, window},
        verdict::{Answer, Level, Resource, Verdict},
    },
    bottleneck, check,
    cpu::{bullied, expected},
};

/// A container at its own quota of half a core that would use three.
fn capped() -> WindowFacts {
    let mut capped = waiting(
        "capped",
        0.5,
        WaitedFor {
            throttled_seconds: 2.5 * SECONDS,
            idle_seconds: 0.1,
            ..WaitedFor::default()
        },
    );
    capped.cpu.quotas = vec![quota("/capped", true, 0.5, 0.97)];
    capped.cpu.pressure_ratio = Some(0.97);
    window(4, 0.4, vec![capped, running("busy", 1.9)])
}

#[test]
fn capped_by_its_own_quota() {
    let diagnosis = check(
        &capped(),
        "capped",
        &expected(
            &[CapThrottled],
            &[("throttled_by_own_quota", Yes), ("waits", No)],
            &[],
            &[],
        ),
    );
    assert_eq!(bottleneck(&diagnosis), Some((Resource::Cpu, CapThrottled)));
    let finding = &diagnosis.resources[0].findings[0];
    assert_eq!(finding.confidence.level, Level::High, "{finding:#?}");
    assert_eq!(
        finding.summary,
        "its own quota of 0.50 cores throttled it in 97.0% of the periods: it used 0.50 cores and would \
         have used about 3.00 cores"
    );
    assert_eq!(
        finding.remedies[0],
        "raise the quota of /capped from 0.50 cores to 3.00 cores or more: `docker update --cpus` of capped \
         (/sys/fs/cgroup/capped/cpu.max)"
    );
}

#[test]
fn pressure_of_its_own_throttling_is_no_noisy_neighbour() {
    let mut facts = capped();
    // A kernel side that does not know throttling gives the wait to whoever ran meanwhile.
    facts.containers[0].cpu.waited_for = Some(WaitedFor {
        containers: vec![held("busy", 2.5 * SECONDS)],
        ..WaitedFor::default()
    });
    let diagnosis = check(
        &facts,
        "capped",
        &expected(&[CapThrottled], &[("waits", Unknown)], &[], &[]),
    );
    let finding = &diagnosis.resources[0].findings[0];
    assert!(finding.others.is_empty(), "{finding:#?}");
    // Without the scheduler's numbers pressure is all there is, and it has the throttling in it.
    facts.containers[0].cpu.waited_for = None;
    facts.containers[0].cpu.waited_seconds = None;
    check(
        &facts,
        "capped",
        &expected(&[CapThrottled], &[("waits", Unknown)], &[], &[]),
    );
}

#[test]
fn capped_by_the_quota_of_its_pod() {
    let mut app = waiting(
        "app",
        0.1,
        WaitedFor {
            throttled_seconds: 40.0,
            ..WaitedFor::default()
        },
    );
    let mut sidecar = running("sidecar", 0.9);
    for one in [&mut app, &mut sidecar] {
        let identity = Arc::make_mut(&mut one.identity);
        identity.namespace = "shop".to_owned();
        identity.pod = "checkout-1".to_owned();
        identity.pod_uid = "6f1c2d3e-0000-4000-8000-000000000001".to_owned();
        identity.runtime = "containerd".to_owned();
        let pod = "/kubepods/pod6f1c2d3e-0000-4000-8000-000000000001";
        identity.cgroup = format!("{pod}/{}", identity.container);
        one.cpu.quotas = vec![quota(pod, false, 1.0, 0.8)];
    }
    let facts = window(4, 0.7, vec![app, sidecar]);
    let diagnosis = check(
        &facts,
        "shop/checkout-1/app",
        &expected(
            &[CapThrottled],
            &[
                ("throttled_by_own_quota", No),
                ("throttled_by_ancestor", Yes),
            ],
            &[],
            &[],
        ),
    );
    let finding = &diagnosis.resources[0].findings[0];
    assert_eq!(finding.others[0].name, "shop/checkout-1/sidecar");
    assert!(
        finding.remedies[0].contains("resources.limits.cpu of the containers of pod checkout-1"),
        "{finding:#?}"
    );
    assert!(finding.summary.contains("the quota of /kubepods/pod6f1c"));
    assert!(
        finding
            .remedies
            .iter()
            .any(|one| one.contains("limit shop/checkout-1/sidecar"))
    );
}

#[test]
fn throttled_and_a_noisy_neighbour_at_once() {
    let mut facts = bullied();
    let victim = &mut facts.containers[0];
    victim.cpu.quotas = vec![quota("/victim", true, 0.6, 0.7)];
    let waited = victim.cpu.waited_for.as_mut().expect("it waits");
    waited.throttled_seconds = 42.0;
    victim.cpu.waited_seconds = victim.cpu.waited_seconds.map(|waited| waited + 42.0);
    let diagnosis = check(
        &facts,
        "victim",
        &expected(
            &[CapThrottled, ShareLimited],
            &[
                ("throttled_by_own_quota", Yes),
                ("waits", Yes),
                ("waits_for_others", Yes),
            ],
            &["bully"],
            &["quiet"],
        ),
    );
    assert_eq!(bottleneck(&diagnosis), Some((Resource::Cpu, CapThrottled)));
}

/// As the scene of the long run: two threads and a tenth of a CPU beside a bully with three, both on CPU 0, while
/// another one has CPU 1: of 2.6 s that it waited for others 0.19 s are nobody's.
fn throttled_on_a_cpu_of_its_own_set() -> WindowFacts {
    let mut victim = waiting(
        "victim",
        0.005,
        WaitedFor {
            containers: vec![held("bully", 2.39)],
            throttled_seconds: 2.55,
            own_seconds: 0.3,
            system_seconds: 0.02,
            kernel_seconds: 0.01,
            unattributed_seconds: 0.19,
            ..WaitedFor::default()
        },
    );
    victim.cpu.quotas = vec![quota("/victim", true, 0.1, 0.97)];
    victim.cpu.cpuset = Some(vec![0]);
    let mut bully = running("bully", 0.9);
    bully.cpu.cpuset = Some(vec![0]);
    let mut innocent = running("innocent", 0.95);
    innocent.cpu.cpuset = Some(vec![1]);
    window(2, 0.02, vec![victim, bully, innocent])
}

#[test]
fn what_is_nobodys_is_not_of_one_that_has_other_cpus() {
    let mut facts = throttled_on_a_cpu_of_its_own_set();
    let verdicts = [CapThrottled, ShareLimited];
    let innocent = expected(&verdicts, &[], &["bully"], &["innocent"]);
    let diagnosis = check(&facts, "victim", &innocent);
    let finding = &diagnosis.resources[0].findings[1];
    let evidence = &finding.exonerated[0].evidence;
    assert!(
        evidence.iter().any(|one| one.name == "cpus_of_both"),
        "{finding:#?}"
    );

    // It may have been there before its set was another one, or beside it on one CPU of its set.
    let suspected = expected(&verdicts, &[], &["bully"], &[]);
    for change in [
        |facts: &mut WindowFacts| facts.containers[2].cpu.is_cpuset_new = true,
        |facts: &mut WindowFacts| facts.containers[0].cpu.is_cpuset_new = true,
        |facts: &mut WindowFacts| facts.containers[2].cpu.cpuset = Some(vec![0, 1]),
        |facts: &mut WindowFacts| facts.containers[2].cpu.cpuset = None,
    ] {
        let mut facts = facts.clone();
        change(&mut facts);
        let diagnosis = check(&facts, "victim", &suspected);
        let finding = &diagnosis.resources[0].findings[1];
        assert!(finding.exonerated.is_empty(), "{finding:#?}");
    }

    // What the ledger tells of it by name counts all the same.
    let waited = facts.containers[0].cpu.waited_for.as_mut();
    let waited = waited.expect("it waits");
    waited.unattributed_seconds = 0.0;
    waited.containers.push(held("innocent", 0.19));
    let diagnosis = check(&facts, "victim", &suspected);
    let finding = &diagnosis.resources[0].findings[1];
    assert!(finding.exonerated.is_empty(), "{finding:#?}");
}

#[test]
fn throttled_beside_busy_neighbours_that_it_does_not_wait_for() {
    let mut facts = capped();
    facts.containers[1] = running("busy", 3.4);
    for cpu in &mut facts.host.cpus {
        cpu.idle_ratio = 0.02;
        cpu.task_ratio = 0.98;
    }
    check(&facts, "capped", &expected(&[CapThrottled], &[], &[], &[]));
}

#[test]
fn an_idle_container_below_a_throttled_ancestor_has_no_verdict_either() {
    let mut idle = running("idle", 0.01);
    idle.cpu.waited_seconds = Some(0.001);
    idle.cpu.quotas = vec![quota("/pod", false, 1.0, 0.9)];
    check(
        &window(4, 0.5, vec![idle]),
        "idle",
        &expected(&[NotCpuBound], &[("throttled_by_ancestor", No)], &[], &[]),
    );
}
