mod naming;
mod whose;
mod workloads;

use super::*;
use crate::snapshot::Counters;

const CPU: u32 = 1;
const BLKIO: u32 = 7;
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn registry(entities: usize, slots: u32) -> Registry {
    let limits = RegistryLimits {
        entities,
        slots,
        cgroups: 1_000,
        retention_ns: 300_000_000_000,
    };
    Registry::new(limits, CPU, Selection::default())
}

fn at(seconds: u64) -> Now {
    Now {
        unix_ms: seconds * 1_000,
        ns: seconds * 1_000_000_000,
    }
}

fn cpu(id: u64) -> CgroupKey {
    CgroupKey { hierarchy: CPU, id }
}

fn css(id: u32, serial: u64) -> CssId {
    CssId { id, serial }
}

fn names(registry: &Registry) -> Vec<&str> {
    registry
        .entities()
        .map(|entity| entity.identity.container.as_str())
        .collect()
}

#[test]
fn the_cgroups_of_one_container_in_several_hierarchies_are_one_entity() {
    let mut registry = registry(10, 10);
    let path = format!("/docker/{ID}");
    registry.cgroup_made(cpu(5), &path, false, &[(Subsystem::Cpu, css(3, 30))], at(0));
    let blkio = CgroupKey {
        hierarchy: BLKIO,
        id: 5,
    };
    registry.cgroup_made(
        blkio,
        &path,
        false,
        &[(Subsystem::Block, css(4, 40))],
        at(0),
    );
    assert_eq!(names(&registry), ["0123456789ab"]);
    let writes = registry.take_writes();
    assert_eq!(writes.len(), 2);
    assert_eq!(writes[0].owner, writes[1].owner);
    assert_eq!(writes[0].owner, Some(slot::owner(1, slot::KIND_CONTAINER)));
}

#[test]
fn a_child_cgroup_counts_as_its_container() {
    let mut registry = registry(10, 10);
    registry.cgroup_made(cpu(5), &format!("/docker/{ID}"), false, &[], at(0));
    let child = [(Subsystem::Cpu, css(9, 90))];
    registry.cgroup_made(
        cpu(6),
        &format!("/docker/{ID}/init.scope"),
        false,
        &child,
        at(0),
    );
    assert_eq!(names(&registry).len(), 1);
    assert_eq!(
        registry.take_writes()[0].owner,
        Some(slot::owner(1, slot::KIND_CONTAINER))
    );
}

#[test]
fn a_plain_cgroup_that_runs_tasks_claims_its_children_and_an_empty_one_does_not() {
    let mut registry = registry(10, 10);
    registry.cgroup_made(cpu(1), "/mine", false, &[], at(0));
    registry.cgroup_made(cpu(2), "/mine/a", true, &[], at(0));
    registry.cgroup_made(cpu(3), "/mine/a/child", true, &[], at(0));
    registry.cgroup_made(cpu(4), "/mine/b", true, &[], at(0));
    let visible: Vec<_> = registry
        .entities()
        .filter(|entity| entity.is_visible())
        .map(|entity| entity.identity.container.as_str())
        .collect();
    assert_eq!(visible, ["mine/a", "mine/b"]);
}

#[test]
fn a_container_exits_with_its_last_cgroup_and_goes_after_its_retention() {
    let mut registry = registry(10, 10);
    let path = format!("/docker/{ID}");
    registry.cgroup_made(cpu(5), &path, true, &[(Subsystem::Cpu, css(3, 30))], at(0));
    registry.cgroup_removed(cpu(5), at(10));
    assert_eq!(
        registry
            .entities()
            .next()
            .and_then(|entity| entity.exited)
            .unwrap()
            .ns,
        at(10).ns
    );
    registry.expire(at(309));
    assert_eq!(names(&registry).len(), 1);
    registry.take_writes();
    registry.expire(at(310));
    assert!(names(&registry).is_empty());
    // The css is forgotten, and the slot rests before it is used again.
    let forgotten = SlotWrite {
        subsystem: Subsystem::Cpu,
        css: css(3, 30),
        owner: None,
        report: Report::No,
    };
    assert_eq!(registry.take_writes(), [forgotten]);
    assert_eq!(registry.slot_to_clear(at(311)), None);
    assert_eq!(registry.slot_to_clear(at(312)), Some(1));
}

#[test]
fn a_container_that_comes_back_goes_on_with_its_counters() {
    let mut registry = registry(10, 10);
    let path = format!("/docker/{ID}");
    registry.cgroup_made(cpu(5), &path, true, &[], at(0));
    let mut raw = ctrscope_ebpf::sched::SchedSlot::ZERO;
    raw.on_cpu_ns = 77;
    let mut reading = super::super::RawSched::default();
    reading.add(&raw);
    registry
        .entities_mut()
        .next()
        .unwrap()
        .stats
        .update_sched(reading);
    registry.cgroup_removed(cpu(5), at(10));
    registry.cgroup_made(cpu(6), &path, true, &[], at(20));
    assert_eq!(registry.entities().count(), 1);
    let entity = registry.entities_mut().next().unwrap();
    assert!(entity.exited.is_none());
    assert_eq!(entity.stats.sched(0).on_cpu_ns, 77);
    registry.cgroup_removed(cpu(6), at(30));
    assert!(registry.entities().next().unwrap().exited.is_some());
}

#[test]
fn over_the_limit_the_longest_gone_makes_room_and_the_living_do_not() {
    let mut registry = registry(2, 10);
    registry.cgroup_made(cpu(1), "/a", true, &[], at(0));
    registry.cgroup_made(cpu(2), "/b", true, &[], at(0));
    registry.cgroup_made(cpu(3), "/c", true, &[(Subsystem::Cpu, css(3, 3))], at(1));
    assert_eq!(names(&registry), ["a", "b"]);
    assert_eq!(registry.refused(), 1);
    let other = Some(slot::owner(slot::OTHER, slot::KIND_CONTAINER));
    assert_eq!(registry.take_writes().last().unwrap().owner, other);
    registry.cgroup_removed(cpu(1), at(2));
    registry.cgroup_made(cpu(4), "/d", true, &[], at(3));
    assert_eq!(names(&registry), ["b", "d"]);
}

#[test]
fn without_a_free_slot_an_exited_container_gives_its_own() {
    let mut registry = registry(10, 2);
    registry.cgroup_made(cpu(1), "/a", true, &[], at(0));
    registry.cgroup_removed(cpu(1), at(1));
    registry.cgroup_made(cpu(2), "/b", true, &[(Subsystem::Cpu, css(2, 2))], at(2));
    assert!(registry.entities().all(|entity| entity.slot.is_none()));
    let slot = registry.slot_to_clear(at(5)).unwrap();
    registry.slot_cleared(slot);
    registry.take_writes();
    registry.fill_slots(at(5));
    let owner = registry
        .entities()
        .find(|entity| entity.slot == Some(slot))
        .unwrap();
    assert_eq!(owner.identity.container, "b");
    let owner = Some(slot::owner(slot, slot::KIND_CONTAINER));
    assert_eq!(registry.take_writes()[0].owner, owner);
}

fn ran(on_cpu_ns: u64) -> super::super::RawSched {
    let mut slot = ctrscope_ebpf::sched::SchedSlot::ZERO;
    slot.on_cpu_ns = on_cpu_ns;
    let mut reading = super::super::RawSched::default();
    reading.add(&slot);
    reading
}

#[test]
fn a_slot_that_is_taken_away_is_read_a_last_time() {
    let mut registry = registry(10, 2);
    registry.cgroup_made(cpu(1), "/a", true, &[], at(0));
    registry.cgroup_removed(cpu(1), at(1));
    registry.cgroup_made(cpu(2), "/b", true, &[], at(1));
    registry.read_released(|slot, kind, stats| {
        assert_eq!((slot, kind), (1, Kind::Cgroup));
        stats.expect("the container is kept").update_sched(ran(55));
    });
    let entity = registry.entities_mut().next().unwrap();
    assert_eq!(entity.identity.container, "a");
    assert_eq!(entity.stats.sched(0).on_cpu_ns, 55);
}

#[test]
fn the_slot_of_a_container_that_is_gone_is_read_a_last_time() {
    let mut registry = registry(10, 10);
    registry.cgroup_made(cpu(1), "/system.slice/cron.service", true, &[], at(0));
    registry.cgroup_removed(cpu(1), at(1));
    registry.expire(at(10_000));
    assert!(names(&registry).is_empty());
    let mut read = Vec::new();
    registry.read_released(|slot, kind, stats| {
        stats
            .expect("whoever has its name may inherit")
            .update_sched(ran(5));
        read.push((slot, kind));
    });
    assert_eq!(read, [(1, Kind::Service)]);
    registry.read_released(|slot, _, _| panic!("slot {slot} is read twice"));
}

/// Its css is claimed when it is made, so nothing but its counters tells that it ran.
#[test]
fn a_plain_cgroup_that_came_and_went_between_two_readings_keeps_what_it_did() {
    let mut registry = registry(10, 10);
    registry.cgroup_made(cpu(1), "/job", false, &[(Subsystem::Cpu, css(3, 3))], at(0));
    registry.cgroup_made(cpu(2), "/empty", false, &[], at(0));
    registry.cgroup_removed(cpu(1), at(1));
    registry.cgroup_removed(cpu(2), at(1));
    for entity in registry.entities_mut() {
        let on_cpu_ns = u64::from(entity.identity.container == "job") * 9;
        entity.stats.update_sched(ran(on_cpu_ns));
    }
    registry.expire(at(2));
    assert_eq!(names(&registry), ["job"]);
    let job = registry.entities_mut().next().unwrap();
    assert_eq!((job.is_visible(), job.stats.sched(0).on_cpu_ns), (true, 9));
}

#[test]
fn a_container_over_the_limit_is_taken_in_when_there_is_room() {
    let mut registry = registry(1, 10);
    let path = format!("/docker/{ID}");
    let child = format!("/docker/{ID}/init.scope");
    registry.cgroup_made(cpu(1), "/a", true, &[], at(0));
    registry.cgroup_made(cpu(2), &path, true, &[(Subsystem::Cpu, css(2, 2))], at(0));
    registry.cgroup_made(cpu(3), &child, true, &[], at(0));
    registry.css_seen(cpu(3), Subsystem::Cpu, css(3, 3));
    registry.admit_waiting(at(1));
    assert_eq!(names(&registry), ["a"]);
    registry.cgroup_removed(cpu(1), at(1));
    registry.take_writes();
    registry.admit_waiting(at(400));
    assert_eq!(names(&registry), ["0123456789ab"]);
    let owner = Some(slot::owner(2, slot::KIND_CONTAINER));
    let written: Vec<_> = registry
        .take_writes()
        .into_iter()
        .map(|write| (write.css.id, write.owner))
        .collect();
    assert_eq!(written, [(2, owner), (3, owner)]);
    registry.cgroup_removed(cpu(2), at(401));
    assert!(registry.entities().next().unwrap().exited.is_none());
    registry.cgroup_removed(cpu(3), at(402));
    assert!(registry.entities().next().unwrap().exited.is_some());
}

#[test]
fn slices_and_the_root_have_no_entry_of_their_own() {
    let mut registry = registry(10, 10);
    registry.cgroup_made(cpu(1), "/", true, &[(Subsystem::Cpu, css(1, 1))], at(0));
    registry.cgroup_made(cpu(2), "/system.slice", true, &[], at(0));
    registry.cgroup_made(cpu(3), "/system.slice/cron.service", true, &[], at(0));
    assert_eq!(names(&registry), ["cron.service"]);
    let system = Some(slot::owner(slot::OTHER, slot::KIND_SYSTEM));
    assert_eq!(registry.take_writes()[0].owner, system);
}

#[test]
fn a_css_of_an_unknown_cgroup_is_asked_for_again() {
    let mut registry = registry(10, 10);
    assert_eq!(registry.css_seen(cpu(9), Subsystem::Cpu, css(1, 1)), None);
    registry.cgroup_made(cpu(9), "/a", false, &[], at(0));
    assert!(
        registry
            .css_seen(cpu(9), Subsystem::Cpu, css(1, 1))
            .is_some()
    );
}

#[test]
fn a_plain_cgroup_is_reported_when_it_first_runs_and_claims_its_children_from_then_on() {
    let mut registry = registry(10, 10);
    let outer = css(3, 30);
    registry.cgroup_made(cpu(1), "/outer", false, &[(Subsystem::Cpu, outer)], at(0));
    assert_eq!(registry.take_writes()[0].report, Report::First);
    registry.css_seen(cpu(1), Subsystem::Cpu, outer);
    assert_eq!(registry.take_writes()[0].report, Report::No);
    registry.cgroup_made(
        cpu(2),
        "/outer/inner",
        false,
        &[(Subsystem::Cpu, css(4, 40))],
        at(1),
    );
    assert_eq!(names(&registry), ["outer"]);
    assert_eq!(registry.take_writes()[0].report, Report::No);
}

#[test]
fn a_cgroup_that_lived_between_two_readings_is_kept_until_its_slot_was_read() {
    let mut registry = registry(10, 10);
    registry.cgroup_made(cpu(1), "/short", false, &[], at(0));
    registry.cgroup_removed(cpu(1), at(1));
    let mut slot = ctrscope_ebpf::sched::SchedSlot::ZERO;
    slot.on_cpu_ns = 5;
    let mut reading = super::super::RawSched::default();
    reading.add(&slot);
    registry
        .entities_mut()
        .next()
        .unwrap()
        .stats
        .update_sched(reading);
    registry.expire(at(2));
    assert_eq!(names(&registry), ["short"]);
    // One in which nothing ran goes at once.
    registry.cgroup_made(cpu(2), "/empty", false, &[], at(2));
    registry.cgroup_removed(cpu(2), at(3));
    registry.expire(at(3));
    assert_eq!(names(&registry), ["short"]);
}

#[test]
fn an_empty_cgroup_gives_its_place_to_what_runs_and_gets_one_when_it_runs_itself() {
    let mut registry = registry(2, 10);
    registry.cgroup_made(
        cpu(1),
        "/empty1",
        false,
        &[(Subsystem::Cpu, css(1, 1))],
        at(0),
    );
    registry.cgroup_made(
        cpu(2),
        "/empty2",
        false,
        &[(Subsystem::Cpu, css(2, 2))],
        at(0),
    );
    registry.cgroup_made(
        cpu(3),
        "/empty3",
        false,
        &[(Subsystem::Cpu, css(3, 3))],
        at(0),
    );
    assert_eq!((names(&registry).len(), registry.refused()), (2, 0));
    registry.cgroup_made(cpu(4), "/real", true, &[], at(1));
    assert!(names(&registry).contains(&"real"));
    // The one without an entry runs: it takes the place of the other empty one.
    registry.css_seen(cpu(3), Subsystem::Cpu, css(3, 3));
    registry.admit_waiting(at(2));
    let mut now = names(&registry);
    now.sort_unstable();
    assert_eq!(now, ["empty3", "real"]);
    assert_eq!(registry.refused(), 0);
}

#[test]
fn without_events_a_walk_finds_that_a_plain_cgroup_runs_something() {
    let mut registry = registry(10, 10);
    registry.cgroup_made(cpu(5), "/work", false, &[], at(0));
    assert!(registry.may_be_empty(cpu(5)));
    assert!(registry.entities().all(|entity| !entity.is_visible()));
    registry.populated(cpu(5));
    assert!(!registry.may_be_empty(cpu(5)));
    assert!(registry.entities().all(Entity::is_visible));
    assert!(
        !registry.may_be_empty(cpu(6)),
        "an unknown one is not empty"
    );
}
