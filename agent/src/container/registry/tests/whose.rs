//! Whose name it is: ids and names that somebody used again.

use super::*;
use crate::{runtime::Metadata, snapshot::WorkloadKind};

const MANAGER: &str = "/user.slice/user-1000.slice/user@1000.service";

fn described(name: &str, user: Option<u32>) -> Arc<Metadata> {
    Arc::new(Metadata {
        id: ID.to_owned(),
        runtime: "docker",
        name: name.to_owned(),
        user,
        ..Metadata::default()
    })
}

fn tell(registry: &mut Registry, metadata: &Arc<Metadata>) {
    registry.described(metadata, at(2), |_| Counters::default());
}

fn sorted_names(registry: &Registry) -> Vec<String> {
    let mut names: Vec<String> = names(registry).into_iter().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn an_id_in_a_users_tree_is_another_container_whoever_comes_first() {
    let system = format!("/system.slice/docker-{ID}.scope");
    let users = format!("{MANAGER}/user.slice/docker-{ID}.scope");
    for paths in [[&system, &users], [&users, &system]] {
        let mut registry = registry(10, 10);
        for (index, path) in (1..).zip(paths) {
            registry.cgroup_made(cpu(index), path, true, &[], at(1));
        }
        let users_entity = |registry: &Registry| {
            let mut all = registry.entities();
            let one = all.find(|one| one.owner_path == users);
            one.map(|one| {
                (
                    one.identity.container.clone(),
                    one.identity.workload.clone(),
                )
            })
        };
        assert_eq!(
            sorted_names(&registry),
            ["0123456789ab", "user@1000.service/0123456789ab"]
        );
        // The user's runtime is not even asked, for it could answer first.
        assert_eq!(registry.user_of(ID), None);
        tell(&mut registry, &described("web", None));
        registry.ended(ID, None, Some(7));
        assert_eq!(
            sorted_names(&registry),
            ["user@1000.service/0123456789ab", "web"]
        );
        tell(&mut registry, &described("web", Some(1_000)));
        assert_eq!(sorted_names(&registry), ["user@1000.service/web", "web"]);
        let workload = "user@1000.service/web".to_owned();
        assert_eq!(users_entity(&registry), Some((workload.clone(), workload)));
        let codes: Vec<_> = registry
            .entities()
            .filter(|one| one.exit_code.is_some())
            .map(|one| one.owner_path.as_str())
            .collect();
        assert_eq!(codes, [system.as_str()]);
        // The system's ends though the user's lives on.
        let ended = (1..).zip(paths).find(|(_, path)| **path == system).unwrap();
        registry.cgroup_removed(cpu(ended.0), at(3));
        let alive: Vec<_> = registry
            .entities()
            .filter(|one| one.exited.is_none())
            .map(|one| one.identity.container.as_str())
            .collect();
        assert_eq!(alive, ["user@1000.service/web"]);
    }
}

#[test]
fn a_users_own_container_is_named_by_the_users_runtime_and_bears_the_user() {
    let mut registry = registry(10, 10);
    let path = format!("{MANAGER}/user.slice/docker-{ID}.scope");
    registry.cgroup_made(cpu(1), &path, true, &[], at(1));
    assert_eq!(registry.user_of(ID), Some(1_000));
    assert_eq!(registry.take_asks(), [ID]);
    tell(&mut registry, &described("web", Some(1_001)));
    assert_eq!(names(&registry), ["user@1000.service/0123456789ab"]);
    tell(&mut registry, &described("_other", Some(1_000)));
    assert_eq!(names(&registry), ["user@1000.service/_other"]);
}

/// A cgroup of user 1000 whose path does not show that.
fn of_user(path: &str) -> Origin<'_> {
    Origin {
        path,
        user: Some(1_000),
    }
}

#[test]
fn what_is_in_a_service_that_is_delegated_to_a_user_is_nobody_elses() {
    let mut registry = registry(10, 10);
    let service = "/system.slice/app.service";
    registry.cgroup_made(
        cpu(1),
        &format!("/system.slice/docker-{ID}.scope"),
        true,
        &[],
        at(1),
    );
    registry.cgroup_made(cpu(2), "/system.slice/sshd.service", true, &[], at(1));
    tell(&mut registry, &described("web", None));
    for (id, name) in (3..).zip([
        &format!("docker-{ID}.scope"),
        "lxc/web",
        "garden/sshd.service",
    ]) {
        let path = format!("{service}/{name}");
        registry.cgroup_made(cpu(id), of_user(&path), true, &[], at(2));
    }
    tell(&mut registry, &described("web", None));
    let expected = [
        "sshd.service",
        "system.slice/app.service/0123456789ab",
        "system.slice/app.service/garden/sshd.service",
        "system.slice/app.service/lxc/web",
        "web",
    ];
    assert_eq!(sorted_names(&registry), expected);
    let workloads = registry.entities().map(|one| one.identity.workload.clone());
    assert_eq!(workloads.filter(|name| name == "web").count(), 1);
    // The user's own runtime may name it.
    tell(&mut registry, &described("own", Some(1_000)));
    assert!(names(&registry).contains(&"system.slice/app.service/own"));
}

#[test]
fn no_users_container_is_in_a_namespace_or_a_pod() {
    let mut registry = registry(10, 10);
    let path = format!("{MANAGER}/user.slice/docker-{ID}.scope");
    registry.cgroup_made(cpu(1), &path, true, &[], at(1));
    let mut metadata = described("coredns", Some(1_000));
    let labels = Arc::make_mut(&mut metadata);
    labels.namespace = "kube-system".to_owned();
    labels.pod = "coredns-0".to_owned();
    labels.pod_uid = "u".to_owned();
    tell(&mut registry, &metadata);
    let found = &registry.entities().next().unwrap().identity;
    assert_eq!(found.label(), "user@1000.service/coredns");
    assert_eq!(found.pod_uid, "");
    assert_eq!(found.workload, "user@1000.service/coredns");
}

#[test]
fn a_user_takes_no_place_from_the_system() {
    let mut registry = registry(8, 20);
    let users = |index: u64| format!("{MANAGER}/x{index}.service");
    for index in 0..8 {
        registry.cgroup_made(cpu(index), &users(index), true, &[], at(1));
    }
    let count = |registry: &Registry| {
        let all = registry.entities().filter(|one| one.exited.is_none());
        let of_users = all.filter(|one| one.is_users()).count();
        (registry.entities().count(), of_users)
    };
    assert_eq!(count(&registry), (8, 8));
    // More than their share, as long as nobody else wants it.
    for index in 8..16 {
        let path = format!("/system.slice/s{index}.service");
        registry.cgroup_made(cpu(index), &path, true, &[], at(2));
    }
    assert_eq!(count(&registry), (8, 2));
    // What ended of the system stays in sight whatever users start.
    registry.cgroup_removed(cpu(8), at(3));
    for index in 16..20 {
        registry.cgroup_made(cpu(index), &users(index), true, &[], at(4));
    }
    let has = |registry: &Registry, name: &str| names(registry).contains(&name);
    assert!(has(&registry, "s8.service"));
    assert_eq!(count(&registry), (8, 2));
    // What a user made and never ran anything in is the first to go.
    registry.cgroup_removed(cpu(9), at(5));
    registry.cgroup_made(cpu(20), "/system.slice/s20.service", true, &[], at(5));
    assert!(has(&registry, "s20.service"));
}

#[test]
fn users_cannot_make_the_registry_forget_new_cgroups() {
    let limits = RegistryLimits {
        entities: 10,
        slots: 10,
        cgroups: 40,
        retention_ns: 0,
    };
    let mut registry = Registry::new(limits, CPU, Selection::default());
    for index in 0..100 {
        let path = format!("{MANAGER}/x{index}.slice");
        registry.cgroup_made(cpu(index), &path, false, &[], at(1));
    }
    assert_eq!((registry.cgroups.len(), registry.unremembered()), (10, 90));
    registry.cgroup_removed(cpu(0), at(2));
    registry.cgroup_made(cpu(100), &format!("{MANAGER}/y.slice"), false, &[], at(2));
    registry.cgroup_made(cpu(101), "/docker/x", false, &[], at(2));
    assert_eq!((registry.cgroups.len(), registry.unremembered()), (11, 90));
}

#[test]
fn no_runtime_names_what_is_inside_of_a_foreign_container() {
    let outer = "f".repeat(64);
    let inside = format!("/docker/{outer}/docker/{ID}");
    let mut registry = registry(10, 10);
    registry.cgroup_made(cpu(1), &format!("/docker/{outer}"), true, &[], at(1));
    registry.cgroup_made(cpu(2), &inside, true, &[], at(1));
    assert_eq!(registry.take_asks(), [outer.as_str()]);
    tell(&mut registry, &described("web", None));
    assert_eq!(names(&registry), ["ffffffffffff", "0123456789ab"]);
    // The one whose id it is.
    registry.cgroup_made(cpu(3), &format!("/docker/{ID}"), true, &[], at(2));
    assert_eq!(registry.take_asks(), [ID]);
    tell(&mut registry, &described("web", None));
    assert_eq!(names(&registry), ["ffffffffffff", "0123456789ab", "web"]);
}

#[test]
fn runtimes_name_what_is_in_the_container_that_the_agent_is_in() {
    let node = format!("/docker/{}", "f".repeat(64));
    let agent = format!("{node}/kubelet/kubepods/burstable/{}", "a".repeat(64));
    for home in [agent, node.clone()] {
        let mut registry = registry(10, 10);
        registry.at_home_in(&home);
        let path = format!("{node}/kubelet/kubepods/besteffort/{ID}");
        registry.cgroup_made(cpu(2), &path, true, &[], at(1));
        assert_eq!(registry.take_asks(), [ID], "{home}");
        tell(&mut registry, &described("web", None));
        assert_eq!(names(&registry), ["web"]);
    }
}

#[test]
fn what_would_be_called_as_another_one_that_lives_is_called_by_its_path() {
    let twin = format!("{}{}", &ID[..12], "9".repeat(52));
    let mut registry = registry(10, 10);
    for (index, path) in (1..).zip([
        format!("/docker/{ID}"),
        format!("/docker/{twin}"),
        "/lxc/web".to_owned(),
        "/lxc.payload.web".to_owned(),
        "/a.slice/cron.service".to_owned(),
    ]) {
        registry.cgroup_made(cpu(index), &path, true, &[], at(1));
    }
    assert_eq!(
        names(&registry),
        [
            "0123456789ab",
            &format!("docker/{twin}"),
            "web",
            "lxc.payload.web",
            "cron.service"
        ]
    );
    // One that came back elsewhere goes on in the series of its name.
    registry.cgroup_removed(cpu(5), at(2));
    registry.cgroup_made(cpu(6), "/b.slice/cron.service", true, &[], at(3));
    assert_eq!(names(&registry).last(), Some(&"cron.service"));
}

#[test]
fn units_of_one_name_have_names_of_their_own() {
    let mut registry = registry(10, 10);
    let other = MANAGER.replace("1000", "1001");
    for (index, path) in (1..).zip([
        "/system.slice/dbus.service".to_owned(),
        format!("{MANAGER}/app.slice/dbus.service"),
        format!("{other}/app.slice/dbus.service"),
    ]) {
        registry.cgroup_made(cpu(index), &path, true, &[], at(1));
    }
    let told: Vec<_> = registry
        .entities()
        .map(|one| (one.identity.workload.as_str(), one.identity.workload_kind))
        .collect();
    let names = names(&registry);
    assert_eq!(
        names,
        [
            "dbus.service",
            "user@1000.service/dbus.service",
            "user@1001.service/dbus.service"
        ]
    );
    for (name, (workload, kind)) in names.into_iter().zip(told) {
        assert_eq!((workload, kind), (name, WorkloadKind::Service));
    }
}

#[test]
fn one_container_may_have_another_path_in_another_hierarchy() {
    let mut registry = registry(10, 10);
    let blkio = |id| CgroupKey {
        hierarchy: BLKIO,
        id,
    };
    registry.cgroup_made(cpu(1), &format!("/docker/{ID}"), true, &[], at(1));
    registry.cgroup_made(
        blkio(2),
        &format!("/system.slice/docker-{ID}.scope"),
        true,
        &[],
        at(1),
    );
    assert_eq!(names(&registry).len(), 1);
    // Not one that a user made, nor a second one there.
    registry.cgroup_made(
        blkio(3),
        &format!("{MANAGER}/docker-{ID}.scope"),
        true,
        &[],
        at(1),
    );
    registry.cgroup_made(blkio(4), &format!("/batch/{ID}"), true, &[], at(1));
    assert_eq!(
        names(&registry),
        [
            "0123456789ab",
            "user@1000.service/0123456789ab",
            &format!("batch/{ID}")
        ]
    );
}
