//! Disks.

use std::sync::Arc;

use Answer::{No, Unknown, Yes};
use Verdict::{
    DeviceBusy, DeviceSlow, DirtyThrottled, DiskBound, Idle, IoLimited, IoNeighbour, Unbound,
};

use super::{
    super::{
        facts::{DeviceUse, IoLimitFacts, WaitedForDisk, WindowFacts},
        fixture::{GIB, MIB, SECONDS, container, device, held, reading, running, window},
        verdict::{Answer, Resource, Verdict},
    },
    Expected, bottleneck, check, of,
};

fn expected<'a>(
    verdicts: &'a [Verdict],
    asked: &'a [(&'a str, Answer)],
    culprits: &'a [&'a str],
    exonerated: &'a [&'a str],
) -> Expected<'a> {
    Expected {
        resource: Resource::Disk,
        verdicts,
        asked,
        culprits,
        exonerated,
    }
}

#[test]
fn capped_by_an_io_limit() {
    let mut capped = reading("capped", 0.95, 10 * MIB, 160, 0.0003);
    capped.disk.limits = vec![IoLimitFacts {
        cgroup: "/capped".to_owned(),
        is_own: true,
        device: "vda".to_owned(),
        read_bytes_per_second: Some(10 * MIB),
        write_bytes_per_second: None,
        reads_per_second: Some(100_000),
        writes_per_second: None,
        used: capped.disk.devices["vda"],
    }];
    let mut facts = window(4, 0.9, vec![capped]);
    device(&mut facts, 0.05, 0.05, 0.0003);
    let diagnosis = check(
        &facts,
        "capped",
        &expected(&[IoLimited], &[("waits", Yes), ("limited", Yes)], &[], &[]),
    );
    assert_eq!(bottleneck(&diagnosis), Some((Resource::Disk, IoLimited)));
    let finding = &diagnosis.resources[2].findings[0];
    assert!(
        finding
            .summary
            .contains("its reading at vda is at 10.0MiB/s, the limit of /capped is 10.0MiB/s"),
        "{finding:#?}"
    );
    assert!(finding.remedies[0].contains("/sys/fs/cgroup/capped/io.max"));
}

/// A container that reads a little and a neighbour that floods the device.
fn starved() -> WindowFacts {
    let mut victim = reading("victim", 0.8, 2 * MIB, 100, 0.008);
    victim.disk.waited_for = Some(WaitedForDisk {
        own_seconds: 1.0,
        containers: vec![held("flood", 40.0), held("small", 0.5)],
        other_seconds: 1.0,
        unknown_seconds: 0.0,
    });
    let flood = reading("flood", 0.9, 400 * MIB, 3_200, 0.01);
    let small = reading("small", 0.1, 3 * MIB, 50, 0.01);
    let mut facts = window(4, 0.8, vec![victim, flood, small]);
    device(&mut facts, 0.99, 32.0, 0.01);
    facts
}

#[test]
fn starved_by_a_neighbour_on_the_same_device() {
    let mut facts = starved();
    let asked: &[_] = &[("busy", Yes), ("neighbours", Yes), ("slow", No)];
    check(
        &facts,
        "victim",
        &expected(&[IoNeighbour], asked, &["flood"], &["small"]),
    );
    // Who floods the device is not starved by whom it starves.
    let diagnosis = of(&facts, "flood");
    assert_eq!(diagnosis.resources[2].verdict, DeviceBusy, "{diagnosis:#?}");
    // Without exact blame the culprit must have most of the bytes and of the requests.
    facts.containers[0].disk.waited_for = None;
    let diagnosis = check(
        &facts,
        "victim",
        &expected(&[IoNeighbour], asked, &["flood"], &["small"]),
    );
    let finding = &diagnosis.resources[2].findings[0];
    assert!(finding.confidence.ratio < 0.9, "{finding:#?}");
}

#[test]
fn latency_of_which_nobody_knows_whose_it_is_blames_nobody() {
    let mut facts = starved();
    let waited = facts.containers[0].disk.waited_for.as_mut();
    let waited = waited.expect("it is measured");
    waited.unknown_seconds = 100.0;
    let diagnosis = of(&facts, "victim");
    let tree = &diagnosis.resources[2];
    assert!(
        tree.findings.iter().all(|one| one.culprits.is_empty()),
        "{tree:#?}"
    );
    // It is more than half that was waited for others, and the larger part of that is not known.
    let waited = facts.containers[0].disk.waited_for.as_mut();
    waited.expect("it is measured").unknown_seconds = 39.5;
    let diagnosis = of(&facts, "victim");
    let finding = &diagnosis.resources[2].findings[0];
    assert_eq!(finding.verdict, IoNeighbour, "{finding:#?}");
    assert!(finding.culprits.is_empty() && !finding.others.is_empty());
}

#[test]
fn a_device_with_many_small_users_has_no_culprit() {
    let mut victim = reading("victim", 0.8, 2 * MIB, 100, 0.008);
    victim.disk.waited_for = None;
    let mut containers = vec![victim];
    for index in 0..10 {
        containers.push(reading(&format!("small-{index}"), 0.8, 20 * MIB, 300, 0.01));
    }
    let mut facts = window(4, 0.8, containers);
    device(&mut facts, 0.99, 16.0, 0.01);
    check(&facts, "victim", &expected(&[IoNeighbour], &[], &[], &[]));
}

#[test]
fn writeback_that_is_nobodys_names_nobody() {
    let mut victim = reading("victim", 0.8, 2 * MIB, 100, 0.008);
    victim.disk.waited_for = None;
    let mut facts = window(
        4,
        0.8,
        vec![victim, reading("other", 0.2, 3 * MIB, 150, 0.01)],
    );
    device(&mut facts, 0.99, 16.0, 0.01);
    let disk = facts.host.disks.get_mut("vda").expect("a disk");
    disk.bytes += 400 * MIB * SECONDS as u64;
    disk.requests += 800 * SECONDS as u64;
    let diagnosis = of(&facts, "victim");
    let tree = &diagnosis.resources[2];
    assert!(
        tree.findings.iter().all(|one| one.culprits.is_empty()),
        "{tree:#?}"
    );
}

#[test]
fn a_device_that_is_slower_than_it_was() {
    let reader = reading("reader", 0.97, 80 << 10, 20, 0.05);
    let mut facts = window(4, 0.95, vec![reader]);
    device(&mut facts, 1.0, 1.0, 0.05);
    let diagnosis = check(
        &facts,
        "reader",
        &expected(&[DeviceSlow], &[("slow", Yes)], &[], &[]),
    );
    let finding = &diagnosis.resources[2].findings[0];
    assert!(
        finding
            .summary
            .contains("vda takes 50.0ms for a request, normal is 200us")
    );

    // In the first windows there is no normal to compare with.
    facts
        .host
        .disks
        .get_mut("vda")
        .expect("a disk")
        .normal_latency_seconds = None;
    check(
        &facts,
        "reader",
        &expected(&[DiskBound], &[("slow", Unknown)], &[], &[]),
    );
}

#[test]
fn a_full_queue_or_large_requests_make_no_device_slow() {
    // 64 in the queue, half a millisecond each.
    let mut facts = window(4, 0.9, vec![reading("deep", 0.97, 500 * MIB, 2_000, 0.032)]);
    device(&mut facts, 1.0, 64.0, 0.032);
    check(
        &facts,
        "deep",
        &expected(&[DeviceBusy], &[("slow", No)], &[], &[]),
    );
    // One request of a megabyte after the other.
    let mut facts = window(4, 0.9, vec![reading("large", 0.97, 400 * MIB, 400, 0.0025)]);
    device(&mut facts, 0.98, 1.0, 0.0025);
    check(
        &facts,
        "large",
        &expected(&[DiskBound], &[("slow", No)], &[], &[]),
    );
}

#[test]
fn a_writer_that_fills_the_page_cache() {
    let mut writer = running("writer", 0.5);
    writer.cpu.io_wait_seconds = Some(40.0);
    writer.disk.pressure_ratio = Some(0.7);
    writer.disk.dirty_bytes = Some(3 * GIB);
    let mut facts = window(4, 0.8, vec![writer]);
    facts.host.memory.dirty_bytes = Some(3 * GIB + 200 * MIB);
    device(&mut facts, 1.0, 30.0, 0.06);
    check(
        &facts,
        "writer",
        &expected(&[DirtyThrottled], &[("dirty", Yes)], &[], &[]),
    );

    // One beside it that writes nothing is not slowed down for it.
    let mut reader = reading("reader", 0.5, MIB, 50, 0.01);
    reader.disk.dirty_bytes = Some(4096);
    facts.containers.push(reader);
    let verdict = of(&facts, "reader").resources[2].verdict;
    assert_ne!(verdict, DirtyThrottled);
}

#[test]
fn a_reader_that_waits_for_one_request_after_the_other() {
    let mut facts = window(
        4,
        0.9,
        vec![reading("reader", 0.9, 20 * MIB, 5_000, 0.00018)],
    );
    device(&mut facts, 0.9, 0.9, 0.00018);
    check(
        &facts,
        "reader",
        &expected(
            &[DiskBound],
            &[("busy", No), ("own_requests", Yes)],
            &[],
            &[],
        ),
    );
}

#[test]
fn who_does_not_wait_is_not_held_back_by_a_full_device() {
    let mut facts = starved();
    facts.containers[0].disk.pressure_ratio = Some(0.02);
    check(
        &facts,
        "victim",
        &expected(&[Unbound], &[("waits", No)], &[], &[]),
    );
    facts.containers.push(container("none"));
    check(&facts, "none", &expected(&[Idle], &[], &[], &[]));
}

#[test]
fn a_limit_above_it_names_who_uses_it_up() {
    let mut app = reading("app", 0.9, MIB, 50, 0.0003);
    let mut batch = reading("batch", 0.9, 19 * MIB, 300, 0.0003);
    let used = DeviceUse {
        read_bytes: 20 * MIB * SECONDS as u64,
        reads: 350 * SECONDS as u64,
        ..DeviceUse::default()
    };
    for one in [&mut app, &mut batch] {
        let identity = Arc::make_mut(&mut one.identity);
        identity.cgroup = format!("/jobs.slice/{}", identity.container);
        one.disk.limits = vec![IoLimitFacts {
            cgroup: "/jobs.slice".to_owned(),
            device: "vda".to_owned(),
            read_bytes_per_second: Some(20 * MIB),
            used,
            ..IoLimitFacts::default()
        }];
    }
    let facts = window(4, 0.9, vec![app, batch]);
    let diagnosis = check(&facts, "app", &expected(&[IoLimited], &[], &[], &[]));
    let finding = &diagnosis.resources[2].findings[0];
    assert_eq!(finding.others[0].name, "batch");
    assert!(finding.remedies[0].contains("of jobs.slice (/sys/fs/cgroup/jobs.slice/io.max)"));
}
