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
