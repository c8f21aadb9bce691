//! Names, restarts, and what stays of those that go.

use std::collections::BTreeMap;

use super::*;
use crate::{runtime::Metadata, snapshot::SeenContainers};

fn id_of(index: u64) -> String {
    format!("{index:012x}{index:052x}")
}

fn described(id: &str, pod: &str, name: &str) -> Arc<Metadata> {
    Arc::new(Metadata {
        id: id.to_owned(),
        runtime: "containerd",
        namespace: "prod".to_owned(),
        pod: pod.to_owned(),
        name: name.to_owned(),
        image: "web:1".to_owned(),
        ..Metadata::default()
    })
}

fn no_files(_: &Entity) -> Counters {
    Counters::default()
}

/// Time on CPUs of each name that is shown, as the exposition sums it.
fn sums(registry: &mut Registry, now: Now) -> BTreeMap<String, u64> {
    let answer = registry.runtimes_answer;
    let mut sums = BTreeMap::new();
    for entity in registry.entities_mut() {
        if !entity.is_shown(now, answer) {
            continue;
        }
        let identity = &entity.identity;
        let name = format!(
            "{}/{}/{}",
            identity.namespace, identity.pod, identity.container
        );
        let former = entity.former.as_ref().and_then(|sum| sum.sched.as_ref());
        let former = former.map_or(0, |sched| sched.on_cpu_ns);
        *sums.entry(name).or_default() += entity.stats.sched(0).on_cpu_ns + former;
    }
    sums
}

#[test]
fn a_container_is_asked_for_when_it_appears_and_bears_the_runtimes_names() {
    let mut registry = registry(10, 10);
    let id = id_of(1);
    registry.cgroup_made(cpu(1), &format!("/docker/{id}"), false, &[], at(1));
    registry.cgroup_made(cpu(2), "/system.slice/cron.service", false, &[], at(1));
    assert_eq!(registry.take_asks(), [id.as_str()]);
    registry.described(&described(&id, "web-1", "web"), at(1), no_files);
    let entity = registry.entities().next().unwrap();
    let identity = &entity.identity;
    assert_eq!(
        (
            identity.namespace.as_str(),
            identity.pod.as_str(),
            identity.container.as_str(),
            identity.image.as_str(),
            identity.runtime.as_str(),
        ),
        ("prod", "web-1", "web", "web:1", "containerd")
    );
    registry.ended(&id, None, Some(137));
    assert_eq!(registry.seen(), SeenContainers { all: 1, named: 1 });
    assert_eq!(registry.entities().next().unwrap().exit_code, Some(137));
    // The cgroups of one container ask once, and one that is not there is nobody's.
    registry.cgroup_made(
        cpu(3),
        &format!("/docker/{id}/init.scope"),
        false,
        &[],
        at(1),
    );
    registry.described(&described(&id_of(9), "x", "y"), at(1), no_files);
    registry.ended(&id_of(9), None, Some(0));
    registry.unknown(&id_of(9), at(1));
    assert_eq!(registry.take_asks(), [""; 0]);
    assert_eq!(registry.entities().count(), 2);
}

#[test]
fn the_name_of_a_container_that_has_exited_comes_late_and_is_taken() {
    let mut registry = registry(10, 10);
    let id = id_of(1);
    registry.cgroup_made(cpu(1), &format!("/docker/{id}"), true, &[], at(1));
    registry.cgroup_removed(cpu(1), at(1));
    registry.described(&described(&id, "", "job"), at(2), no_files);
    assert_eq!(names(&registry), ["job"]);
}

#[test]
fn a_container_without_a_name_is_not_shown_for_a_second_while_a_runtime_answers() {
    let mut registry = registry(10, 10);
    let id = id_of(1);
    let shown = |registry: &Registry, now| {
        let entity = registry.entities().next().unwrap();
        entity.is_shown(now, registry.runtimes_answer)
    };
    registry.cgroup_made(cpu(1), &format!("/docker/{id}"), true, &[], at(1));
    assert!(shown(&registry, at(1)), "nobody could answer");
    registry.runtimes_answer(true, false);
    assert!(!shown(&registry, at(1)));
    assert!(shown(&registry, at(2)));
    registry.unknown(&id, at(1));
    assert!(shown(&registry, at(1)), "no runtime knows it");
}

#[test]
fn a_short_lived_container_is_kept_until_it_can_be_shown() {
    let mut registry = registry(10, 10);
    registry.limits.retention_ns = 0;
    registry.runtimes_answer(true, false);
    let path = format!("/docker/{}", id_of(1));
    registry.cgroup_made(cpu(1), &path, true, &[], at(1));
    registry.cgroup_removed(cpu(1), at(1));
    registry.expire(at(1));
    assert_eq!(registry.entities().count(), 1);
    registry.expire(at(2));
    assert_eq!(registry.entities().count(), 0);
}

#[test]
fn what_has_no_name_is_asked_for_again_when_a_runtime_begins_to_answer() {
    let mut registry = registry(10, 10);
    for index in [1, 2] {
        let path = format!("/docker/{}", id_of(index));
        registry.cgroup_made(cpu(index), &path, true, &[], at(1));
    }
    registry.take_asks();
    registry.unknown(&id_of(1), at(1));
    registry.described(&described(&id_of(2), "", "named"), at(1), no_files);
    registry.runtimes_answer(true, true);
    assert_eq!(registry.take_asks(), [id_of(1)]);
}

#[test]
fn what_was_removed_before_it_was_read_is_read_and_stays_with_its_name() {
    let mut registry = registry(2, 10);
    for index in [1, 2] {
        let path = format!("/docker/{}", id_of(index));
        registry.cgroup_made(cpu(index), &path, true, &[], at(index));
        registry.described(&described(&id_of(index), "web-1", "web"), at(1), no_files);
    }
    registry.cgroup_removed(cpu(1), at(3));
    // The limit takes it away before any reading.
    registry.cgroup_made(cpu(3), "/c", true, &[], at(4));
    registry.read_released(|_, _, stats| stats.expect("it is kept").update_sched(ran(70)));
    registry.bury_departed(|_| Counters {
        cpu_usage_ns: Some(4),
        ..Counters::default()
    });
    assert_eq!(sums(&mut registry, at(5))["prod/web-1/web"], 70);
    let heir = registry.entities().next().unwrap();
    assert_eq!(heir.former.as_ref().unwrap().cpu_usage_ns, Some(4));
}

#[test]
fn excluded_containers_give_their_slots_back_and_what_they_counted_is_the_others() {
    let selection = Selection {
        exclude: vec!["namespace=prod".parse().unwrap()],
        ..Selection::default()
    };
    let limits = RegistryLimits {
        entities: 1,
        slots: 10,
        cgroups: 100,
        retention_ns: 300_000_000_000,
    };
    let mut registry = Registry::new(limits, CPU, selection);
    let id = id_of(1);
    let css = [(Subsystem::Cpu, css(3, 30))];
    registry.cgroup_made(cpu(1), &format!("/docker/{id}"), true, &css, at(1));
    assert_eq!(registry.slots_used(), 1);
    registry.take_writes();
    registry.described(&described(&id, "web-1", "web"), at(2), no_files);
    assert_eq!(registry.slots_used(), 0);
    assert_eq!(registry.take_writes()[0].owner, None);
    registry.read_released(|_, _, stats| stats.unwrap().update_sched(ran(9)));
    assert_eq!(registry.other_mut().sched(0).on_cpu_ns, 9);
    let owner = registry.css_seen(cpu(1), Subsystem::Cpu, css[0].1);
    assert_eq!(
        owner,
        Some(slot::owner(slot::OTHER, slot::KIND_CONTAINER)),
        "from now on it counts there"
    );
    registry.fill_slots(at(3));
    assert_eq!(registry.slots_used(), 0);
    assert_eq!(sums(&mut registry, at(3)), BTreeMap::new());
    // It takes no place, and goes at once when it ends.
    registry.cgroup_made(cpu(2), "/docker/other", true, &[], at(3));
    assert_eq!((registry.refused(), registry.excluded()), (0, 1));
    registry.cgroup_removed(cpu(1), at(4));
    registry.expire(at(4));
    assert_eq!(registry.entities().count(), 1);
    assert_eq!(registry.excluded, 0);
}

#[test]
fn an_include_waits_for_the_name_and_takes_in_what_gets_it_late() {
    let selection = Selection {
        include: vec!["namespace=prod".parse().unwrap()],
        ..Selection::default()
    };
    let limits = RegistryLimits {
        entities: 10,
        slots: 10,
        cgroups: 100,
        retention_ns: 0,
    };
    let mut registry = Registry::new(limits, CPU, selection);
    registry.runtimes_answer(true, false);
    let id = id_of(1);
    registry.cgroup_made(cpu(1), &format!("/docker/{id}"), true, &[], at(1));
    registry.cgroup_made(cpu(2), "/system.slice/cron.service", true, &[], at(1));
    registry.judge_unnamed(at(1));
    assert_eq!(registry.slots_used(), 1, "only the container may fit yet");
    registry.judge_unnamed(at(3));
    assert_eq!((registry.slots_used(), registry.excluded()), (0, 2));
    registry.described(&described(&id, "web-1", "web"), at(4), no_files);
    assert_eq!(registry.slots_used(), 1);
    assert_eq!(sums(&mut registry, at(4)).len(), 1);
}

#[test]
fn a_busy_container_over_the_limit_takes_the_place_of_an_idle_one() {
    let mut registry = registry(1, 10);
    let path = |index| format!("/docker/{}", id_of(index));
    let refused = css(2, 20);
    registry.cgroup_made(cpu(1), &path(1), true, &[], at(1));
    registry.cgroup_made(cpu(2), &path(2), true, &[(Subsystem::Cpu, refused)], at(1));
    let blkio = CgroupKey {
        hierarchy: BLKIO,
        id: 2,
    };
    registry.cgroup_made(blkio, &path(2), true, &[], at(1));
    registry.cgroup_made(cpu(3), &format!("{}/init.scope", path(2)), true, &[], at(1));
    assert_eq!((names(&registry).len(), registry.refused()), (1, 1));
    let mut now = 1;
    let mut collect = |registry: &mut Registry, runs: bool| {
        now += 6;
        if runs {
            registry.css_seen(cpu(2), Subsystem::Cpu, refused);
        }
        for entity in registry.entities_mut() {
            entity.note_activity(false, at(now));
        }
        registry.take_writes();
        registry.admit_waiting(at(now));
        let writes = registry.take_writes();
        writes.iter().any(|write| write.report == Report::Again)
    };
    // Not before the one that has the place is idle.
    for _ in 0..5 {
        assert!(!collect(&mut registry, true));
    }
    // One that runs once and again takes no place.
    assert!(collect(&mut registry, true));
    assert!(!collect(&mut registry, false));
    assert_eq!(names(&registry), ["000000000001"]);
    assert!(registry.cgroups[&cpu(2)] == Member::Refused);
    for _ in 0..2 {
        assert!(collect(&mut registry, true));
    }
    collect(&mut registry, true);
    assert!(registry.cgroups[&cpu(1)] == Member::Refused);
    assert!(matches!(registry.cgroups[&cpu(2)], Member::Entity(_)));
    assert_eq!((names(&registry).len(), registry.refused()), (1, 2));
}

#[test]
fn excluded_containers_and_labels_are_remembered_in_bounds() {
    let selection = Selection {
        exclude: vec!["container=*".parse().unwrap()],
        ..Selection::default()
    };
    let limits = RegistryLimits {
        entities: 1,
        slots: 10,
        cgroups: 10_000,
        retention_ns: 0,
    };
    let mut registry = Registry::new(limits, CPU, selection);
    for index in 0..5_000 {
        let path = format!("/system.slice/s{index}.service");
        registry.cgroup_made(cpu(index), &path, true, &[], at(1));
        registry.take_writes();
        registry.read_released(|_, _, _| ());
        registry.bury_departed(no_files);
    }
    assert_eq!(
        (registry.entities().count(), registry.excluded()),
        (4_096, 5_000)
    );
    assert_eq!((registry.cgroups.len(), registry.slots_used()), (5_000, 0));
}

/// A user can put a socket where that user's runtime would have it, and answer anything there.
#[test]
fn a_users_runtime_names_what_is_in_that_users_cgroups_only() {
    let mut registry = registry(10, 10);
    let (systems, users) = (id_of(1), id_of(2));
    registry.cgroup_made(cpu(1), &format!("/docker/{systems}"), true, &[], at(1));
    let path =
        format!("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{users}.scope");
    registry.cgroup_made(cpu(2), &path, true, &[], at(1));
    assert_eq!(registry.user_of(&systems), None);
    assert_eq!(registry.user_of(&users), Some(1_000));
    assert_eq!(registry.user_of("no such one"), None);
    let name = |registry: &Registry, id: &str| {
        let mut all = registry.entities();
        let found = all.find(|one| one.identity.container_id == id).unwrap();
        (found.identity.container.clone(), found.exit_code)
    };
    let by = |id: &str, name: &str, user| {
        let mut metadata = described(id, "", name);
        Arc::make_mut(&mut metadata).user = user;
        metadata
    };
    for user in [Some(1_000), Some(0)] {
        registry.described(&by(&systems, "forged", user), at(1), no_files);
        registry.ended(&systems, user, Some(1));
    }
    registry.described(&by(&users, "forged", Some(1_001)), at(1), no_files);
    registry.ended(&users, Some(1_001), Some(1));
    assert_eq!(name(&registry, &systems), (systems[..12].to_owned(), None));
    assert_eq!(
        name(&registry, &users),
        (format!("user@1000.service/{}", &users[..12]), None)
    );
    registry.described(&by(&users, "own", Some(1_000)), at(1), no_files);
    registry.ended(&users, Some(1_000), Some(3));
    assert_eq!(
        name(&registry, &users),
        ("user@1000.service/own".to_owned(), Some(3))
    );
    // A user can give a cgroup the id of a container of the system that has ended.
    registry.described(&by(&users, "by the system", None), at(1), no_files);
    registry.ended(&users, None, Some(4));
    assert_eq!(
        name(&registry, &users),
        ("user@1000.service/own".to_owned(), Some(3))
    );
}

#[test]
fn no_container_has_the_name_of_all_others() {
    let mut registry = registry(10, 10);
    let (plain, in_pod) = (id_of(1), id_of(2));
    for (index, path) in [
        format!("/docker/{plain}"),
        format!("/docker/{in_pod}"),
        "/_other".to_owned(),
        "/lxc/_other".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        registry.cgroup_made(cpu(index as u64), path, true, &[], at(1));
    }
    let outside = Metadata {
        id: plain.clone(),
        runtime: "docker",
        name: "_other".to_owned(),
        ..Metadata::default()
    };
    registry.described(&Arc::new(outside), at(1), no_files);
    registry.described(&described(&in_pod, "web", "_other"), at(1), no_files);
    let all = registry.entities();
    let names: Vec<_> = all.map(|one| one.identity.container.as_str()).collect();
    // In a pod it is another series.
    assert_eq!(names, [&plain[..12], "_other", "/_other", "/lxc/_other"]);
}

/// Any order of starts, restarts, ends, expiries, names that come late, changes of names and the limit.
#[test]
fn no_sum_of_a_name_that_is_shown_ever_falls() {
    for seed in 1..200_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % limit
        };
        let mut registry = registry(6, 6);
        registry.limits.retention_ns = 20_000_000_000;
        registry.runtimes_answer(below(2) == 0, false);
        let mut slots = BTreeMap::<u32, u64>::new();
        let mut last = BTreeMap::new();
        let mut made = 0;
        for second in 1..120 {
            let now = at(second);
            match below(6) {
                0 | 1 => {
                    made += 1;
                    let path = format!("/docker/{}", id_of(made));
                    registry.cgroup_made(cpu(made), &path, true, &[], now);
                }
                2 => registry.cgroup_removed(cpu(1 + below(made + 1)), now),
                3 | 4 => {
                    let name = ["web", "db"][usize::from(below(3) == 0)];
                    let id = id_of(1 + below(made + 1));
                    registry.described(&described(&id, "pod", name), now, no_files);
                }
                _ => {
                    let path = format!("/docker/{}", id_of(1 + below(made + 1)));
                    registry.cgroup_made(cpu(1_000 + second), &path, true, &[], now);
                }
            }
            let mut read = |slot: u32, stats: &mut Accumulated| {
                let counted = slots.entry(slot).or_default();
                *counted += 10;
                stats.update_sched(ran(*counted));
            };
            registry.read_released(|slot, _, stats| {
                if let Some(stats) = stats {
                    read(slot, stats);
                }
            });
            registry.bury_departed(no_files);
            for entity in registry.entities_mut() {
                if let Some(slot) = entity.slot {
                    read(slot, &mut entity.stats);
                }
            }
            let sums = sums(&mut registry, now);
            for (name, sum) in &sums {
                let before = last.get(name).copied().unwrap_or(0);
                assert!(
                    *sum >= before,
                    "{name}, seed {seed}, second {second}: {before} then {sum}"
                );
            }
            assert!(registry.entities().count() <= 6);
            last = sums;
            registry.expire(now);
            registry.read_released(|slot, _, stats| {
                if let Some(stats) = stats {
                    read(slot, stats);
                }
            });
            registry.bury_departed(no_files);
            while let Some(slot) = registry.slot_to_clear(now) {
                slots.remove(&slot);
                registry.slot_cleared(slot);
            }
            registry.admit_waiting(now);
            registry.fill_slots(now);
        }
        assert!(registry.by_name.values().all(|ids| !ids.is_empty()));
        let by_name: usize = registry.by_name.values().map(Vec::len).sum();
        assert_eq!(by_name, registry.entities.len());
        let exited = registry.entities().filter(|one| one.exited.is_some());
        assert_eq!(exited.count(), registry.exited.len());
    }
}
