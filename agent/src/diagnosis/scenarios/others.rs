//! Memory, network, and the two perspectives.

use Answer::{No, Unknown, Yes};
use Verdict::{
    HostMemory, ListenQueueFull, MemoryLimited, NetworkDrops, OomKilled, Retransmits, Unbound,
};

use super::{
    super::{
        facts::{ContainerFacts, NetworkFacts, WindowFacts},
        fixture::{GIB, MIB, SECONDS, device, limit, quota, reading, running, window},
        report::diagnose,
        thresholds::Thresholds,
        verdict::{Answer, Level, Resource, Verdict},
    },
    Expected, bottleneck, check, of,
};

fn expected<'a>(
    resource: Resource,
    verdicts: &'a [Verdict],
    asked: &'a [(&'a str, Answer)],
) -> Expected<'a> {
    Expected {
        resource,
        verdicts,
        asked,
        culprits: &[],
        exonerated: &[],
    }
}

fn memory<'a>(verdicts: &'a [Verdict], asked: &'a [(&'a str, Answer)]) -> Expected<'a> {
    expected(Resource::Memory, verdicts, asked)
}

/// A container whose working set is larger than its limit: it reads the same pages over and over.
fn thrashing() -> WindowFacts {
    let mut app = reading("app", 0.7, 40 * MIB, 2_500, 0.0002);
    app.memory.limits = vec![limit("/app", 256 * MIB, 255 * MIB, 900)];
    app.memory.refaults = Some(10_000 * SECONDS as u64);
    app.memory.pressure_ratio = Some(0.6);
    app.memory.working_set_bytes = Some(200 * MIB);
    let mut facts = window(4, 0.8, vec![app]);
    device(&mut facts, 0.6, 0.6, 0.0002);
    facts
}

#[test]
fn thrashing_at_its_memory_limit_comes_before_the_reads_that_it_causes() {
    let mut facts = thrashing();
    let asked: &[_] = &[("hurts", Yes), ("at_limit", Yes), ("killed", No)];
    let diagnosis = check(&facts, "app", &memory(&[MemoryLimited], asked));
    assert_eq!(
        bottleneck(&diagnosis),
        Some((Resource::Memory, MemoryLimited))
    );
    let finding = &diagnosis.resources[1].findings[0];
    assert!(
        finding.remedies[0].starts_with("raise the limit of /app from 256MiB to about 512MiB"),
        "{finding:#?}"
    );
    assert!(finding.remedies[0].contains("/sys/fs/cgroup/app/memory.max"));

    // Where no pressure is kept the refaults say it, and that pressure lacks lowers the confidence.
    facts.containers[0].memory.pressure_ratio = None;
    let diagnosis = check(&facts, "app", &memory(&[MemoryLimited], asked));
    let confidence = &diagnosis.resources[1].findings[0].confidence;
    assert!(confidence.ratio < 1.0, "{confidence:?}");
}

#[test]
fn a_limit_full_of_pages_that_nobody_needs_again_is_no_bottleneck() {
    let mut facts = thrashing();
    facts.containers[0].memory.refaults = Some(60);
    facts.containers[0].memory.pressure_ratio = Some(0.001);
    let asked: &[_] = &[("hurts", No), ("at_limit", Yes)];
    check(&facts, "app", &memory(&[Unbound], asked));
}

#[test]
fn hits_of_a_sibling_at_its_own_limit_do_not_reach_the_pods() {
    let mut facts = thrashing();
    let memory_facts = &mut facts.containers[0].memory;
    let mut pod = limit("/pod", 4 * GIB, GIB, 900);
    pod.is_own = false;
    memory_facts.limits = vec![pod];
    let asked: &[_] = &[("hurts", Yes), ("at_limit", No), ("host_short", No)];
    check(&facts, "app", &memory(&[Verdict::Unknown], asked));
}

#[test]
fn slowed_down_above_memory_high() {
    let mut facts = thrashing();
    let limit = &mut facts.containers[0].memory.limits[0];
    limit.limit_bytes = None;
    limit.high_bytes = Some(200 * MIB);
    limit.high_hits = Some(50);
    let diagnosis = check(
        &facts,
        "app",
        &memory(&[MemoryLimited], &[("slowed_by_high", Yes)]),
    );
    let finding = &diagnosis.resources[1].findings[0];
    assert!(
        finding.summary.contains("memory.high of 200MiB"),
        "{finding:#?}"
    );
}

#[test]
fn killed_for_want_of_memory() {
    let mut facts = thrashing();
    facts.containers[0].memory.oom_kills = Some(1);
    facts.containers[0].memory.refaults = Some(0);
    facts.containers[0].memory.pressure_ratio = Some(0.0);
    let diagnosis = check(&facts, "app", &memory(&[OomKilled], &[("killed", Yes)]));
    assert_eq!(bottleneck(&diagnosis), Some((Resource::Memory, OomKilled)));
    let finding = &diagnosis.resources[1].findings[0];
    assert!(
        finding
            .summary
            .contains("1 task of it killed for want of memory, at the limit of 256MiB of /app")
    );
    assert_eq!(finding.confidence.level, Level::High);

    // With no limit of its own it was the host that ran out.
    facts.containers[0].memory.limits.clear();
    facts.host.memory.oom_kills = Some(1);
    let diagnosis = check(&facts, "app", &memory(&[OomKilled], &[]));
    let finding = &diagnosis.resources[1].findings[0];
    assert!(finding.summary.contains("the host ran out of memory"));
}

#[test]
fn a_host_that_is_short_of_memory() {
    let mut facts = thrashing();
    facts.containers[0].memory.limits.clear();
    facts.host.memory.available_bytes = Some(GIB);
    facts.host.memory.direct_reclaim_pages = Some(100_000);
    let asked: &[_] = &[("at_limit", No), ("host_short", Yes)];
    check(&facts, "app", &memory(&[HostMemory], asked));
}

#[test]
fn without_the_memory_controller_nothing_is_said() {
    let mut facts = thrashing();
    facts.containers[0].memory = Default::default();
    check(
        &facts,
        "app",
        &memory(&[Verdict::Unknown], &[("hurts", Unknown)]),
    );
}

fn network(change: impl FnOnce(&mut NetworkFacts)) -> WindowFacts {
    let mut app = running("app", 0.5);
    let network = app.network.as_mut().expect("it has one");
    network.received_bytes = 60_000_000;
    network.sent_bytes = 60_000_000;
    network.sent_segments = Some(60_000);
    change(network);
    window(4, 0.8, vec![app])
}

fn of_network(facts: &WindowFacts, verdicts: &[Verdict], asked: &[(&str, Answer)]) -> String {
    let diagnosis = check(facts, "app", &expected(Resource::Network, verdicts, asked));
    diagnosis.resources[3].findings[0].summary.clone()
}

#[test]
fn each_loss_of_the_network_has_its_verdict_and_they_are_told_together() {
    let healthy = network(|_| {});
    of_network(&healthy, &[Unbound], &[("drops", No)]);
    let full = network(|one| one.listen_drops = Some(12));
    of_network(&full, &[ListenQueueFull], &[("listen_queue_full", Yes)]);
    let dropping = network(|one| one.dropped_packets = 6_000);
    of_network(&dropping, &[NetworkDrops], &[("drops", Yes)]);
    let datagrams = network(|one| one.udp_receive_errors = Some(600));
    let summary = of_network(&datagrams, &[NetworkDrops], &[("drops", Yes)]);
    assert!(summary.contains("UDP"), "{summary}");
    let lossy = network(|one| one.retransmitted_segments = Some(3_000));
    let summary = of_network(&lossy, &[Retransmits], &[("retransmits", Yes)]);
    assert!(summary.contains("it is the way or the peer"), "{summary}");
    let all = network(|one| {
        one.listen_drops = Some(1);
        one.dropped_packets = 600;
        one.retransmitted_segments = Some(3_000);
    });
    of_network(&all, &[ListenQueueFull, NetworkDrops, Retransmits], &[]);
}

#[test]
fn losses_of_the_hosts_network_are_less_sure_to_be_the_containers() {
    let confidence = |is_host| {
        let facts = network(|one| {
            one.is_host = is_host;
            one.dropped_packets = 6_000;
        });
        let diagnosis = of(&facts, "app");
        diagnosis.resources[3].findings[0].confidence.ratio
    };
    assert!(confidence(true) < confidence(false));
}

#[test]
fn a_few_segments_sent_again_are_no_loss() {
    let few = network(|one| {
        one.sent_segments = Some(100);
        one.retransmitted_segments = Some(5);
    });
    of_network(&few, &[Unbound], &[("retransmits", No)]);
}

#[test]
fn a_namespace_that_cannot_be_looked_at_is_not_known() {
    let mut facts = network(|_| {});
    facts.containers[0].network = None;
    of_network(&facts, &[Verdict::Unknown], &[("drops", Unknown)]);
}

fn misleading(container: ContainerFacts) -> Vec<String> {
    let mut facts = window(64, 0.7, vec![container]);
    facts.host.load = Some([25.0, 20.0, 20.0]);
    let diagnosis = of(&facts, "app");
    let names = diagnosis.misleading.iter().map(|one| one.name.to_string());
    names.collect()
}

#[test]
fn what_is_seen_inside_and_misleads_is_told_with_both_numbers() {
    let mut app = running("app", 0.5);
    app.cpu.quotas = vec![quota("/app", true, 0.5, 0.9)];
    app.memory.limits = vec![limit("/app", GIB, 900 * MIB, 0)];
    app.memory.working_set_bytes = Some(800 * MIB);
    let names = misleading(app.clone());
    assert_eq!(
        names,
        [
            "cpu_count",
            "idle_cpus",
            "load_average",
            "total_memory",
            "available_memory"
        ]
    );
    let diagnosis = of(&window(64, 0.7, vec![app]), "app");
    let count = &diagnosis.misleading[0];
    assert_eq!(
        (count.inside.value, count.actual.value),
        (Some(64.0), Some(0.5))
    );
    assert!(
        count
            .summary
            .contains("it sees 64 CPUs and may use 0.50 cores (its quota)")
    );

    assert_eq!(misleading(running("app", 24.0)), Vec::<String>::new());
}

#[test]
fn tables_have_a_row_for_each_resource_and_no_number_that_is_not_there() {
    let facts = network(|one| one.dropped_packets = 7);
    let diagnosis = diagnose(&facts, &Thresholds::default());
    let rows = |rows: &[super::super::verdict::UseRow]| -> Vec<String> {
        rows.iter().map(|row| row.resource.clone()).collect()
    };
    assert_eq!(
        rows(&diagnosis.host.use_table),
        ["cpu", "memory", "disk vda", "network eth0"]
    );
    let table = &diagnosis.containers[0].use_table;
    assert_eq!(rows(table), ["cpu", "memory", "disk", "network"]);
    let cells = table
        .iter()
        .flat_map(|row| [&row.utilisation, &row.saturation, &row.errors])
        .flatten();
    assert!(cells.clone().all(|one| one.value.is_some()));
    assert!(
        cells
            .clone()
            .any(|one| one.name == "dropped_packets" && one.value == Some(7.0))
    );
}
