mod any_path;
mod units;

use super::*;

const ID: &str = "4ae5a5c0eeeb1e7b6c5f9a7d0c3b8e2f1d6a9b8c7d6e5f4a3b2c1d0e9f8a7b6c";
const INNER: &str = "b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6";
const UID: &str = "0f7b6a3e-2c1d-4e5f-8a9b-0c1d2e3f4a5b";
const STATIC_UID: &str = "d6f0e5c4b3a29180f7e6d5c4b3a29180";

/// `ID`, `INNER`, `UID`, `U_I_D` (with underscores) and `STATIC` stand for themselves.
fn expand(template: &str) -> String {
    template
        .replace("U_I_D", &UID.replace('-', "_"))
        .replace("UID", UID)
        .replace("STATIC", STATIC_UID)
        .replace("INNER", INNER)
        .replace("ID", ID)
}

/// Path, length of the owner's own path in components, runtime, pod uid.
#[test]
fn containers_are_recognised_in_the_layout_of_each_runtime() {
    let cases = [
        // Docker 17 to 28, cgroupfs driver, also with `--cgroup-parent`.
        ("/docker/ID", 2, "docker", None),
        ("/docker/ID/init.scope", 2, "docker", None),
        ("/batch/night/ID", 3, "docker", None),
        ("/actions_job/ID", 2, "docker", None),
        // Docker 20.10 and later on cgroup v2: systemd driver; rootless; custom slice.
        ("/system.slice/docker-ID.scope", 2, "docker", None),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
            5,
            "docker",
            None,
        ),
        (
            "/shop.slice/shop-web.slice/docker-ID.scope",
            3,
            "docker",
            None,
        ),
        // dockershim or cri-dockerd with the systemd driver.
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/docker-ID.scope",
            4,
            "docker",
            Some(UID),
        ),
        // containerd 1.x and 2.x through CRI, cgroupfs and systemd drivers; guaranteed pods; static pods.
        ("/kubepods/burstable/podUID/ID", 4, "containerd", Some(UID)),
        ("/kubepods/podUID/ID", 3, "containerd", Some(UID)),
        (
            "/kubepods/burstable/podSTATIC/ID",
            4,
            "containerd",
            Some(STATIC_UID),
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/cri-containerd-ID.scope",
            4,
            "containerd",
            Some(UID),
        ),
        (
            "/kubepods.slice/kubepods-podSTATIC.slice/cri-containerd-ID.scope/app",
            3,
            "containerd",
            Some(STATIC_UID),
        ),
        // kubelet on the systemd driver, containerd without `SystemdCgroup = true`.
        (
            "/system.slice/containerd.service/kubepods-burstable-podU_I_D.slice:cri-containerd:ID",
            3,
            "containerd",
            Some(UID),
        ),
        (
            "/kubepods-podU_I_D.slice:cri-containerd:ID",
            1,
            "containerd",
            Some(UID),
        ),
        // ctr and nerdctl.
        ("/default/ID", 2, "containerd", None),
        ("/k8s.io/ID", 2, "containerd", None),
        ("/system.slice/nerdctl-ID.scope", 2, "containerd", None),
        // CRI-O 1.x.
        (
            "/kubepods.slice/kubepods-podU_I_D.slice/crio-ID.scope/container",
            3,
            "crio",
            Some(UID),
        ),
        ("/kubepods/besteffort/podUID/crio-ID", 4, "crio", Some(UID)),
        // podman 2 to 5: systemd manager, crun's child cgroup, rootless, `--cgroups=split`, pods, cgroupfs.
        ("/machine.slice/libpod-ID.scope", 2, "podman", None),
        (
            "/machine.slice/libpod-ID.scope/container",
            2,
            "podman",
            None,
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            5,
            "podman",
            None,
        ),
        (
            "/system.slice/web.service/libpod-payload-ID",
            3,
            "podman",
            None,
        ),
        (
            "/machine.slice/machine-libpod_pod_INNER.slice/libpod-ID.scope/container",
            3,
            "podman",
            None,
        ),
        ("/libpod_parent/libpod-ID", 2, "podman", None),
        ("/libpod_parent/INNER/libpod-ID", 3, "podman", None),
        // Amazon ECS on EC2, both drivers.
        (
            "/ecs/5d0c9a1e-37e5-4f5e-8b7c-0a1b2c3d4e5f/ID",
            3,
            "docker",
            None,
        ),
        (
            "/ecs/shop/d6f0e5c4b3a29180f7e6d5c4b3a29180/ID",
            4,
            "docker",
            None,
        ),
        (
            "/ecstasks.slice/ecstasks-d6f0e5c4b3a29180f7e6d5c4b3a29180.slice/docker-ID.scope",
            3,
            "docker",
            None,
        ),
        // Kata 1 and 2: its word before the name that the engine asked for, and the host's part of a pod.
        (
            "/kubepods/besteffort/podUID/kata_ID",
            4,
            "containerd",
            Some(UID),
        ),
        ("/docker/kata_ID", 2, "docker", None),
        ("/vc/docker/kata_ID", 3, "docker", None),
        (
            "/kata_kubepods-podU_I_D.slice:cri-containerd:ID",
            1,
            "containerd",
            Some(UID),
        ),
        ("/kata_overhead/ID", 2, "docker", None),
        // A prefix of an engine that is not known.
        ("/system.slice/engine-ID.scope", 2, "", None),
        // Docker in Docker; kind (a node is a Docker container); systemd inside a container.
        ("/docker/INNER/docker/ID", 4, "docker", None),
        (
            "/docker/INNER/kubelet/kubepods/burstable/podUID/ID",
            7,
            "containerd",
            Some(UID),
        ),
        (
            "/system.slice/docker-INNER.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podU_I_D.slice/cri-containerd-ID.scope",
            7,
            "containerd",
            Some(UID),
        ),
        (
            "/docker/ID/system.slice/containerd.service",
            2,
            "docker",
            None,
        ),
        (
            "/docker/ID/kubelet/kubepods/burstable/podUID",
            2,
            "docker",
            None,
        ),
        (
            "/kubepods/burstable/podUID/INNER/docker/ID",
            6,
            "docker",
            Some(UID),
        ),
    ];
    for (template, own, runtime, pod_uid) in cases {
        let path = expand(template);
        let owner_path: String = path
            .split('/')
            .skip(1)
            .take(own)
            .map(|component| format!("/{component}"))
            .collect();
        let found = identify(&path);
        assert_eq!(found.qos.is_some(), pod_uid.is_some(), "{path}");
        let expected = PathIdentity {
            qos: found.qos,
            kind: Kind::Container,
            runtime,
            container_id: Some(ID.to_owned()),
            pod_uid: pod_uid.map(str::to_owned),
            name: match path.contains("user@1000.service") {
                true => "user@1000.service/4ae5a5c0eeeb".to_owned(),
                false => "4ae5a5c0eeeb".to_owned(),
            },
            prefix: path
                .contains("user@1000.service")
                .then(|| "user@1000.service".to_owned()),
            // `INNER` is a pod of podman in the first two.
            enclosing: path
                .split_once(INNER)
                .filter(|(before, _)| !before.contains("libpod_"))
                .map(|(before, after)| match after.strip_prefix(".scope") {
                    Some(_) => format!("{before}{INNER}.scope"),
                    None => format!("{before}{INNER}"),
                }),
            owner_path,
            entity_key: ID.to_owned(),
            groups_others: false,
        };
        assert_eq!(found, expected, "{path}");
    }
}

#[test]
fn the_class_of_a_pod_is_where_the_kubelet_puts_it() {
    use Qos::{BestEffort, Burstable, Guaranteed};
    let cases = [
        ("/kubepods/podUID/ID", Some(Guaranteed)),
        ("/kubepods/burstable/podUID/ID", Some(Burstable)),
        ("/kubepods/besteffort/podUID/ID", Some(BestEffort)),
        (
            "/kubepods.slice/kubepods-podU_I_D.slice/crio-ID.scope",
            Some(Guaranteed),
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/crio-ID.scope",
            Some(Burstable),
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/crio-ID.scope",
            Some(BestEffort),
        ),
        // kind: the kubelet has a root of its own.
        (
            "/docker/INNER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podU_I_D.slice/cri-containerd-ID.scope",
            Some(Burstable),
        ),
        (
            "/docker/INNER/kubelet/kubepods/besteffort/podUID/ID",
            Some(BestEffort),
        ),
        (
            "/kubepods-podU_I_D.slice:cri-containerd:ID",
            Some(Guaranteed),
        ),
        // Not the kubelet's.
        ("/burstable/podUID/ID", None),
        ("/pods/podUID/ID", None),
        ("/mykubepods-podU_I_D.slice/crio-ID.scope", None),
        ("/kubepods-odd-podU_I_D.slice/crio-ID.scope", None),
        ("/kubepods/burstable/ID", None),
        ("/docker/ID", None),
    ];
    for (template, qos) in cases {
        let path = expand(template);
        assert_eq!(identify(&path).qos, qos, "{path}");
    }
}

#[test]
fn a_users_cgroups_are_below_the_users_slice() {
    for (path, user) in [
        (
            "/user.slice/user-1000.slice/user@1000.service/x",
            Some(1_000),
        ),
        ("/user.slice/user-0.slice/session-1.scope", Some(0)),
        ("/user.slice/user-4294967295.slice/a", Some(u32::MAX)),
        ("/user.slice/user-4294967296.slice/a", None),
        ("/user.slice/user-1000.slice", None),
        ("/user.slice/user-01000.slice/a", None),
        ("/user.slice/user-+1.slice/a", None),
        ("/user.slice/user-.slice/a", None),
        ("/user.slice/user-10-00.slice/a", None),
        // Whoever is root in a container can make such a path there.
        ("/docker/x/user.slice/user-1000.slice/a", None),
        ("user.slice/user-1000.slice/a", None),
        ("", None),
    ] {
        assert_eq!(user_of(path), user, "{path}");
    }
}

#[test]
fn containers_without_a_hex_id_are_known_by_their_own_ids_and_names() {
    let cases = [
        // Path, runtime, id, name, own path.
        // Fargate platform 1.4.
        (
            "/ecs/shop/d6f0e5c4/cd189a933e5849daa93386466019ab50-2495160603",
            "containerd",
            Some("cd189a933e5849daa93386466019ab50-2495160603"),
            "cd189a933e58",
            "/ecs/shop/d6f0e5c4/cd189a933e5849daa93386466019ab50-2495160603",
        ),
        // BuildKit inside dockerd 23, both drivers.
        (
            "/docker/buildkit/q5y3v9rkk0u0b9ux0c0w8fvhx",
            "buildkit",
            Some("q5y3v9rkk0u0b9ux0c0w8fvhx"),
            "q5y3v9rkk0u0",
            "/docker/buildkit/q5y3v9rkk0u0b9ux0c0w8fvhx",
        ),
        (
            "/system.slice/docker-q5y3v9rkk0u0b9ux0c0w8fvhx.scope",
            "buildkit",
            Some("q5y3v9rkk0u0b9ux0c0w8fvhx"),
            "q5y3v9rkk0u0",
            "/system.slice/docker-q5y3v9rkk0u0b9ux0c0w8fvhx.scope",
        ),
        // LXC 2, 3.1, 4; a unit inside.
        ("/lxc/web-1", "lxc", None, "web-1", "/lxc/web-1"),
        (
            "/lxc.payload/web-1",
            "lxc",
            None,
            "web-1",
            "/lxc.payload/web-1",
        ),
        (
            "/lxc.payload.web-1/system.slice/cron.service",
            "lxc",
            None,
            "web-1",
            "/lxc.payload.web-1",
        ),
        // Incus and LXD name a container after its project, too.
        (
            "/lxc.payload.shop_web-1/init.scope",
            "lxc",
            None,
            "shop_web-1",
            "/lxc.payload.shop_web-1",
        ),
        // Nomad 1.7 and later on cgroup v2, before that, and on v1.
        (
            "/nomad.slice/share.slice/0f7b6a3e-2c1d-4e5f-8a9b-0c1d2e3f4a5b.web.scope",
            "nomad",
            None,
            "web-0f7b6a3e-2c1d-4e5f-8a9b-0c1d2e3f4a5b",
            "/nomad.slice/share.slice/0f7b6a3e-2c1d-4e5f-8a9b-0c1d2e3f4a5b.web.scope",
        ),
        (
            "/nomad.slice/0f7b6a3e-2c1d-4e5f-8a9b-0c1d2e3f4a5b.we.b.scope/child",
            "nomad",
            None,
            "we.b-0f7b6a3e-2c1d-4e5f-8a9b-0c1d2e3f4a5b",
            "/nomad.slice/0f7b6a3e-2c1d-4e5f-8a9b-0c1d2e3f4a5b.we.b.scope",
        ),
        (
            "/nomad/share/0f7b6a3e-2c1d-4e5f-8a9b-0c1d2e3f4a5b.web",
            "nomad",
            None,
            "web-0f7b6a3e-2c1d-4e5f-8a9b-0c1d2e3f4a5b",
            "/nomad/share/0f7b6a3e-2c1d-4e5f-8a9b-0c1d2e3f4a5b.web",
        ),
        // Garden of Cloud Foundry, without and with its throttling.
        (
            "/system.slice/garden.service/garden/3f1c9a52-7d0e-4a57-6b1f-2c9d",
            "garden",
            None,
            "3f1c9a52-7d0e-4a57-6b1f-2c9d",
            "/system.slice/garden.service/garden/3f1c9a52-7d0e-4a57-6b1f-2c9d",
        ),
        (
            "/garden/good/3f1c9a52-7d0e-4a57-6b1f-2c9d/init",
            "garden",
            None,
            "3f1c9a52-7d0e-4a57-6b1f-2c9d",
            "/garden/good/3f1c9a52-7d0e-4a57-6b1f-2c9d",
        ),
        // systemd 255: machined, `systemd-nspawn@.service`, libvirt.
        (
            "/machine.slice/machine-build\\x2dbox.scope/payload/init.scope",
            "systemd-nspawn",
            None,
            "build-box",
            "/machine.slice/machine-build\\x2dbox.scope",
        ),
        (
            "/machine.slice/systemd-nspawn@build\\x2dbox.service/payload",
            "systemd-nspawn",
            None,
            "build-box",
            "/machine.slice/systemd-nspawn@build\\x2dbox.service",
        ),
        (
            "/machine.slice/machine-qemu\\x2d3\\x2ddb.scope/libvirt/vcpu0",
            "libvirt",
            None,
            "qemu-3-db",
            "/machine.slice/machine-qemu\\x2d3\\x2ddb.scope",
        ),
    ];
    for (path, runtime, id, name, owner_path) in cases {
        let found = identify(path);
        assert_eq!(found.kind, Kind::Container, "{path}");
        assert_eq!(found.runtime, runtime, "{path}");
        assert_eq!(found.container_id.as_deref(), id, "{path}");
        assert_eq!(found.name, name, "{path}");
        assert_eq!(found.owner_path, owner_path, "{path}");
        assert_eq!(found.entity_key, id.unwrap_or(owner_path), "{path}");
        assert!(!found.groups_others, "{path}");
    }
}

#[test]
fn levels_that_only_hold_others_get_no_entry() {
    let cases = [
        "/system.slice",
        "/user.slice",
        "/user.slice/user-1000.slice",
        "/machine.slice",
        "/docker",
        "/docker/buildkit",
        "/ecs",
        "/ecs/TASK",
        "/ecs/shop/TASK",
        "/nomad.slice/share.slice",
        "/nomad",
        "/nomad/reserve",
        "/garden",
        "/garden/bad",
        "/vc",
        "/kata_overhead",
        "/lxc",
        "/lxc.payload",
        "/kubepods",
        "/kubepods/burstable",
        "/kubepods/besteffort",
        "/default",
        "/k8s.io",
        "/libpod_parent",
        "/libpod_parent/ID",
        "/kubepods.slice/kubepods-burstable.slice",
        "/shop.slice",
    ];
    for template in cases {
        let found = identify(&expand(template));
        assert_eq!(found.kind, Kind::Cgroup, "{template}");
        assert!(found.groups_others, "{template}");
        assert_eq!(found.container_id, None, "{template}");
    }
}

#[test]
fn a_pod_level_groups_its_containers_and_knows_its_uid() {
    for template in [
        "/kubepods/burstable/podUID",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice",
    ] {
        let found = identify(&expand(template));
        assert_eq!(found.kind, Kind::Cgroup, "{template}");
        assert_eq!(found.pod_uid.as_deref(), Some(UID), "{template}");
        assert!(found.groups_others, "{template}");
    }
}

#[test]
fn an_unknown_layout_is_a_cgroup_of_its_own() {
    for path in [
        "/batch",
        "/batch/default",
        "/mesos/0f7b6a3e-2c1d-4e5f-8a9b-0c1d2e3f4a5b",
        "/default/redis",
        "/docker/not-an-id",
        "/docker/4AE5A5C0EEEB1E7B6C5F9A7D0C3B8E2F1D6A9B8C7D6E5F4A3B2C1D0E9F8A7B6C",
        "/system.slice/.service",
        "/100%/a%20b\\x2d",
        "/häß\u{fffd}lich",
    ] {
        let found = identify(path);
        assert_eq!(found.kind, Kind::Cgroup, "{path}");
        assert_eq!(found.name, &path[1..], "{path}");
        assert_eq!(found.owner_path, path);
        assert_eq!(found.entity_key, path);
        assert!(!found.groups_others, "{path}");
    }
}

#[test]
fn the_root_is_other() {
    for path in ["/", "", "//"] {
        let found = identify(path);
        assert_eq!(found.kind, Kind::Other);
        assert_eq!(found.owner_path, path);
        assert!(found.groups_others);
    }
}

#[test]
fn nothing_is_read_out_of_a_path_from_another_cgroup_namespace() {
    for template in [
        "/..",
        "/../../x",
        "/../ID",
        "/docker/ID/../x",
        "/../docker-ID.scope",
    ] {
        let path = expand(template);
        let found = identify(&path);
        assert_eq!(found.kind, Kind::Cgroup, "{path}");
        assert_eq!(found.owner_path, path);
        assert!(!found.groups_others);
    }
}

#[test]
fn a_machine_name_with_broken_escapes_stays_as_it_is() {
    for name in ["a\\x2", "a\\xzz", "a\\x0ab", "a\\xff", "a\\x"] {
        let found = identify(&format!("/machine.slice/machine-{name}.scope"));
        assert_eq!(found.kind, Kind::Container);
        assert_eq!(found.name, name);
    }
}

#[test]
fn an_overlong_path_is_cut_at_a_component_and_keeps_its_container() {
    let long = expand("/docker/ID") + &"/child".repeat(20_000);
    assert_eq!(identify(&long).entity_key, ID);
    for hostile in [
        "/".repeat(100_000),
        "ä".repeat(50_000),
        "/a".repeat(50_000),
        "\\x".repeat(50_000),
    ] {
        let found = identify(&hostile);
        assert!(hostile.starts_with(&found.owner_path));
        assert!(found.name.len() <= MAX_PATH_BYTES);
    }
    // A long name whose head looks like an id is not that container.
    let cut = "/".repeat(MAX_PATH_BYTES - 64) + ID + "tail";
    assert_eq!(identify(&cut).container_id, None);
}
