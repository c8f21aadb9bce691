//! CPU.

use Answer::{No, Yes};
use Verdict::{CpusetLimited, Idle, NotCpuBound, NotThrottled, PhysicalCpu, ShareLimited, Steal};

use super::{
    super::{
        facts::{ControllerMount, Entitlement, WaitedFor, WindowFacts},
        fixture::{container, held, reading, running, waiting, window},
        verdict::{Answer, Level, Resource, Verdict},
    },
    Expected, bottleneck, check, of,
};

pub(super) fn expected<'a>(
    verdicts: &'a [Verdict],
    asked: &'a [(&'a str, Answer)],
    culprits: &'a [&'a str],
    exonerated: &'a [&'a str],
) -> Expected<'a> {
    Expected {
        resource: Resource::Cpu,
        verdicts,
        asked,
        culprits,
        exonerated,
    }
}

/// Somebody with one thread and a bully with many on two CPUs.
pub(super) fn bullied() -> WindowFacts {
    let victim = waiting(
        "victim",
        0.6,
        WaitedFor {
            containers: vec![held("bully", 80.0), held("quiet", 1.0)],
            system_seconds: 2.0,
            kernel_seconds: 0.5,
            own_seconds: 3.0,
            idle_seconds: 0.5,
            migrated_seconds: 1.0,
            ..WaitedFor::default()
        },
    );
    window(
        2,
        0.01,
        vec![victim, running("bully", 1.2), running("quiet", 0.1)],
    )
}

#[test]
fn share_limited_by_one_bully() {
    let diagnosis = check(
        &bullied(),
        "victim",
        &expected(
            &[ShareLimited],
            &[
                ("throttled_by_own_quota", No),
                ("preempted", Yes),
                ("waits", Yes),
                ("cpuset_full", No),
                ("stolen", No),
                ("idle_cpus", No),
                ("alone", No),
                ("waits_for_others", Yes),
            ],
            &["bully"],
            &["quiet"],
        ),
    );
    let finding = &diagnosis.resources[0].findings[0];
    let share = finding.culprits[0].share;
    assert!((share - 80.0 / 84.5).abs() < 1e-9, "{share}");
    let innocent = &finding.exonerated[0];
    assert!(innocent.evidence.iter().any(|one| one.name == "used_cores"));
    assert!(
        finding
            .remedies
            .iter()
            .any(|one| one.contains("move bully"))
    );
    assert_eq!(finding.confidence.level, Level::High, "{finding:#?}");
}

#[test]
fn share_limited_by_twenty_small_neighbours_names_none_of_them() {
    let names: Vec<String> = (0..20).map(|index| format!("small-{index}")).collect();
    let victim = waiting(
        "victim",
        0.3,
        WaitedFor {
            containers: names.iter().take(10).map(|name| held(name, 4.0)).collect(),
            other_containers_seconds: 40.0,
            ..WaitedFor::default()
        },
    );
    let mut containers = vec![victim];
    containers.extend(names.iter().map(|name| running(name, 0.085)));
    let diagnosis = check(
        &window(2, 0.0, containers),
        "victim",
        &expected(&[ShareLimited], &[("waits_for_others", Yes)], &[], &[]),
    );
    let finding = &diagnosis.resources[0].findings[0];
    assert!(finding.exonerated.is_empty(), "{finding:#?}");
    assert!(
        finding.summary.contains("no neighbour alone"),
        "{finding:#?}"
    );
}

#[test]
fn what_cannot_be_attributed_counts_against_naming_somebody() {
    let mut facts = bullied();
    let waited = facts.containers[0]
        .cpu
        .waited_for
        .as_mut()
        .expect("it waits");
    waited.unattributed_seconds = 90.0;
    let cpu = &mut facts.containers[0].cpu;
    cpu.waited_seconds = cpu.waited_seconds.map(|waited| waited + 90.0);
    let diagnosis = check(&facts, "victim", &expected(&[ShareLimited], &[], &[], &[]));
    let finding = &diagnosis.resources[0].findings[0];
    assert!(finding.exonerated.is_empty());
    assert!(finding.confidence.ratio < 0.8, "{finding:#?}");
}

#[test]
fn without_blame_a_shared_machine_has_no_culprit() {
    let mut facts = bullied();
    facts.containers[0].cpu.waited_for = None;
    let diagnosis = check(&facts, "victim", &expected(&[ShareLimited], &[], &[], &[]));
    let finding = &diagnosis.resources[0].findings[0];
    assert_eq!(finding.others[0].name, "bully");
    assert!(finding.confidence.ratio < 0.9);
}

#[test]
fn cpuset_full_while_the_host_idles() {
    let mut pinned = waiting(
        "pinned",
        1.0,
        WaitedFor {
            own_seconds: 170.0,
            ..WaitedFor::default()
        },
    );
    pinned.cpu.cpuset = Some(vec![0]);
    let mut facts = window(4, 0.9, vec![pinned]);
    facts.host.cpus[0].idle_ratio = 0.0;
    facts.host.cpus[0].task_ratio = 1.0;
    let diagnosis = check(
        &facts,
        "pinned",
        &expected(&[CpusetLimited], &[("cpuset_full", Yes)], &[], &[]),
    );
    let finding = &diagnosis.resources[0].findings[0];
    assert!(finding.remedies[0].ends_with("(/sys/fs/cgroup/pinned/cpuset.cpus)"));
    assert!(
        finding.summary.contains("CPU 0, which is busy"),
        "{finding:#?}"
    );

    // With the other CPUs full too it is no question of the cpuset.
    for cpu in &mut facts.host.cpus {
        cpu.idle_ratio = 0.02;
        cpu.task_ratio = 0.98;
    }
    check(
        &facts,
        "pinned",
        &expected(&[PhysicalCpu], &[("cpuset_full", No)], &[], &[]),
    );
}

#[test]
fn a_bully_on_the_only_cpu_that_it_may_use_is_told_beside_the_cpuset() {
    let mut facts = bullied();
    facts.containers[0].cpu.cpuset = Some(vec![0]);
    facts.host.cpus[1].idle_ratio = 0.6;
    check(
        &facts,
        "victim",
        &expected(&[CpusetLimited, ShareLimited], &[], &["bully"], &["quiet"]),
    );
}

#[test]
fn alone_on_a_full_machine() {
    let alone = waiting(
        "alone",
        1.95,
        WaitedFor {
            own_seconds: 350.0,
            system_seconds: 9.0,
            kernel_seconds: 2.0,
            ..WaitedFor::default()
        },
    );
    check(
        &window(2, 0.0, vec![alone, running("small", 0.02)]),
        "alone",
        &expected(
            &[PhysicalCpu],
            &[("idle_cpus", No), ("alone", Yes)],
            &[],
            &[],
        ),
    );
}

#[test]
fn alone_on_cpus_of_its_choice_beside_busy_others_is_nobodys_fault() {
    // An affinity that no fact has: its CPUs are its own, the others' are full as well.
    let alone = waiting(
        "alone",
        1.0,
        WaitedFor {
            own_seconds: 200.0,
            ..WaitedFor::default()
        },
    );
    check(
        &window(2, 0.0, vec![alone, running("other", 1.0)]),
        "alone",
        &expected(&[PhysicalCpu], &[("waits_for_others", No)], &[], &[]),
    );
}

#[test]
fn a_sleeper_is_not_cpu_bound() {
    let mut sleeper = running("sleeper", 0.05);
    sleeper.cpu.sleep_seconds = Some(55.0);
    sleeper.cpu.waited_seconds = Some(0.05);
    let diagnosis = check(
        &window(4, 0.5, vec![sleeper, running("busy", 2.0)]),
        "sleeper",
        &expected(&[NotCpuBound], &[("waits", No)], &[], &[]),
    );
    assert_eq!(bottleneck(&diagnosis), None);
    assert!(!diagnosis.is_idle);
    let summary = &diagnosis.resources[0].findings[0].summary;
    assert!(summary.contains("sleeping"), "{summary}");
}

#[test]
fn an_empty_window_has_words_too() {
    let mut facts = window(2, 0.9, vec![container("c")]);
    facts.seconds = 0.0;
    for one in &mut facts.containers {
        one.seconds = 0.0;
        one.cpu.used_seconds = Some(1.0);
        one.cpu.io_wait_seconds = Some(-2.0);
    }
    let diagnosis = of(&facts, "c");
    let cpu = diagnosis.resource(Resource::Cpu).expect("a tree");
    assert!(!cpu.findings[0].summary.is_empty(), "{cpu:#?}");
}

#[test]
fn a_reader_of_disks_is_not_cpu_bound() {
    let reader = reading("reader", 0.9, 4 << 20, 1_000, 0.0009);
    let diagnosis = check(
        &window(4, 0.9, vec![reader]),
        "reader",
        &expected(&[NotCpuBound], &[("waits", No)], &[], &[]),
    );
    let finding = &diagnosis.resources[0].findings[0];
    assert!(finding.summary.contains("blocked for I/O"));
    assert!(finding.remedies[0].contains("more CPU does not help"));
    assert_eq!(
        bottleneck(&diagnosis).map(|(resource, _)| resource),
        Some(Resource::Disk)
    );
}

#[test]
fn wake_ups_of_idle_cpus_are_no_waiting() {
    let waker = waiting(
        "waker",
        0.05,
        WaitedFor {
            idle_seconds: 2.0,
            ..WaitedFor::default()
        },
    );
    check(
        &window(4, 0.9, vec![waker]),
        "waker",
        &expected(&[NotCpuBound], &[("waits", No)], &[], &[]),
    );
}

/// A container on a CPU that interrupts have.
fn interrupted() -> WindowFacts {
    let mut victim = waiting(
        "victim",
        0.3,
        WaitedFor {
            kernel_seconds: 25.0,
            own_seconds: 1.0,
            containers: vec![held("busy", 0.2)],
            ..WaitedFor::default()
        },
    );
    victim.cpu.cpuset = Some(vec![1]);
    let mut facts = window(4, 0.8, vec![victim, running("busy", 0.5)]);
    let cpu = &mut facts.host.cpus[1];
    cpu.idle_ratio = 0.0;
    cpu.softirq_ratio = 0.6;
    cpu.task_ratio = 0.4;
    facts
}

/// Who is interrupted does not wait, and is charged with the time.
#[test]
fn a_cpu_full_of_software_interrupts_without_waiting() {
    let mut facts = interrupted();
    facts.containers[0].cpu = running("victim", 0.98).cpu;
    facts.containers[0].cpu.cpuset = Some(vec![1]);
    let question: &[_] = &[("waits", No), ("interrupts", Yes)];
    let diagnosis = check(
        &facts,
        "victim",
        &expected(&[NotThrottled], question, &[], &[]),
    );
    let finding = &diagnosis.resources[0].findings[0];
    assert!(
        finding.summary.contains("it hardly waits")
            && finding.summary.contains("CPU 1 spent 60.0% of its time"),
        "{}",
        finding.summary
    );
    assert!((finding.severity - 0.6).abs() < 1e-9);
    // Who hardly runs there loses nothing to speak of.
    facts.containers[0].cpu = running("victim", 0.005).cpu;
    check(
        &facts,
        "victim",
        &expected(&[NotCpuBound], &[("interrupts", No)], &[], &[]),
    );
}

#[test]
fn a_cpu_full_of_software_interrupts() {
    let mut facts = interrupted();
    let question: &[_] = &[("cpuset_full", No), ("interrupted", Yes)];
    let diagnosis = check(
        &facts,
        "victim",
        &expected(&[NotThrottled], question, &[], &[]),
    );
    let finding = &diagnosis.resources[0].findings[0];
    assert!(
        finding
            .summary
            .contains("CPU 1 spent 60.0% of its time in software interrupts")
    );
    assert!(finding.remedies[0].contains("rps_cpus"));

    // The same where it may run everywhere and the scheduler leaves it there.
    facts.containers[0].cpu.cpuset = None;
    let question: &[_] = &[("interrupted", No), ("idle_cpus", Yes)];
    let diagnosis = check(
        &facts,
        "victim",
        &expected(&[NotThrottled], question, &[], &[]),
    );
    let finding = &diagnosis.resources[0].findings[0];
    assert!(
        finding.summary.contains("CPU 1 spent 60.0%"),
        "{finding:#?}"
    );
}

#[test]
fn steal_is_told_also_while_nothing_waits() {
    let mut facts = window(2, 0.4, vec![running("stolen", 0.8)]);
    for cpu in &mut facts.host.cpus {
        cpu.steal_ratio = 0.2;
        cpu.task_ratio = 0.4;
    }
    check(
        &facts,
        "stolen",
        &expected(&[Steal], &[("stolen", Yes), ("waits", No)], &[], &[]),
    );
    let mut facts = bullied();
    for cpu in &mut facts.host.cpus {
        cpu.steal_ratio = 0.3;
    }
    check(
        &facts,
        "victim",
        &expected(&[Steal, ShareLimited], &[], &["bully"], &[]),
    );
}

fn entitled(guaranteed: f64, obtained: f64) -> Option<Entitlement> {
    Some(Entitlement {
        weight: 20,
        guaranteed_cores: guaranteed,
        fair_cores: guaranteed,
        obtained_cores: obtained,
        needed_weight: Some(85),
    })
}

#[test]
fn the_remedy_for_a_share_says_which_weight_would_do() {
    let remedy = |needed_weight, is_v2| {
        let mut victim = waiting(
            "victim",
            0.3,
            WaitedFor {
                containers: vec![held("bully", 80.0)],
                ..WaitedFor::default()
            },
        );
        victim.cpu.entitlement = entitled(0.5, 0.3).map(|one| Entitlement {
            needed_weight,
            ..one
        });
        let mut facts = window(2, 0.01, vec![victim, running("bully", 1.7)]);
        facts.host.controllers.cpu = Some(ControllerMount {
            is_v2,
            ..ControllerMount::default()
        });
        let diagnosis = of(&facts, "victim");
        diagnosis.resources[0].findings[0].remedies[0].clone()
    };
    let text = remedy(Some(85), true);
    assert!(text.contains("from 20 to 85, 4.2 times as much"), "{text}");
    let text = remedy(Some(85), false);
    assert!(text.contains("from 204 to 870, 4.2 times"), "{text}");
    assert!(remedy(None, true).contains("no weight of its own"));
    assert!(!remedy(Some(20), true).contains("from 20"));
}

#[test]
fn bursting_is_told_with_its_beginning() {
    let mut burster = running("burster", 1.8);
    burster.cpu.entitlement = entitled(0.5, 1.8);
    burster.cpu.former_cores = vec![0.1, 0.2, 1.7, 1.9];
    let diagnosis = of(&window(4, 0.5, vec![burster]), "burster");
    let bursting = diagnosis.bursting.expect("it bursts");
    assert_eq!(bursting.since_unix_ms, 1_800_000_000_000 - 3 * 60_000);
    assert!(!bursting.may_be_longer);
    assert!(bursting.summary.contains("0.50 cores are guaranteed"));
    assert_eq!(diagnosis.squeezed, None);

    let mut modest = running("modest", 0.5);
    modest.cpu.entitlement = entitled(0.5, 0.5);
    assert_eq!(of(&window(4, 0.5, vec![modest]), "modest").bursting, None);
}

/// Had 1.8 cores until a newcomer came two windows ago.
fn squeezed() -> WindowFacts {
    let mut victim = waiting(
        "victim",
        0.6,
        WaitedFor {
            containers: vec![held("newcomer", 70.0)],
            ..WaitedFor::default()
        },
    );
    victim.cpu.entitlement = entitled(0.5, 0.6);
    victim.cpu.former_cores = vec![1.8, 1.8, 1.7, 0.7];
    let mut newcomer = running("newcomer", 1.4);
    newcomer.cpu.former_cores = vec![1.2];
    window(2, 0.0, vec![victim, newcomer])
}

#[test]
fn bursting_and_then_squeezed_by_a_newcomer() {
    let facts = squeezed();
    let diagnosis = check(
        &facts,
        "victim",
        &expected(&[ShareLimited], &[], &["newcomer"], &[]),
    );
    let squeezed = diagnosis.squeezed.expect("it is squeezed");
    assert_eq!(squeezed.newcomer, "newcomer");
    assert_eq!((squeezed.former_cores, squeezed.now_cores), (1.8, 0.6));
    assert_eq!(squeezed.guaranteed_cores, 0.5);
    assert_eq!(squeezed.since_unix_ms, 1_800_000_000_000 - 2 * 60_000);
    let finding = &diagnosis.resources[0].findings[0];
    assert!(
        finding.summary.contains("newcomer came within the last"),
        "{finding:#?}"
    );
}

#[test]
fn whoever_was_there_before_is_no_newcomer() {
    let mut facts = squeezed();
    facts.containers[1].cpu.former_cores = vec![1.4; 4];
    let diagnosis = of(&facts, "victim");
    assert_eq!(diagnosis.squeezed, None, "it may just want less");
}

#[test]
fn an_idle_container_has_no_verdict() {
    let diagnosis = check(
        &window(4, 0.1, vec![container("idle"), running("busy", 3.6)]),
        "idle",
        &expected(&[Idle], &[("idle", Yes)], &[], &[]),
    );
    assert!(diagnosis.is_idle);
    assert_eq!(bottleneck(&diagnosis), None);
    assert!(diagnosis.misleading.is_empty());
}
