//! Systemd units, and whose they are.

use super::*;

#[test]
fn a_unit_outside_containers_is_a_service_and_the_last_one_counts() {
    let cases = [
        ("/init.scope", "init.scope", "/init.scope", "systemd"),
        (
            "/system.slice/sshd.service",
            "sshd.service",
            "/system.slice/sshd.service",
            "systemd",
        ),
        (
            "/system.slice/docker.service/workers",
            "docker.service",
            "/system.slice/docker.service",
            "systemd",
        ),
        (
            "/system.slice/_cgroup.clean.service",
            "cgroup.clean.service",
            "/system.slice/_cgroup.clean.service",
            "systemd",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-term.scope",
            "user@1000.service/app-term.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-term.scope",
            "systemd",
        ),
        (
            "/user.slice/user-0.slice/session-3.scope",
            "session-3.scope",
            "/user.slice/user-0.slice/session-3.scope",
            "systemd",
        ),
        // Docker's mounts carry ids, and so do podman's health checks; neither is a container.
        (
            "/system.slice/var-lib-docker-containers-ID-mounts-shm.mount",
            "var-lib-docker-containers-ID-mounts-shm.mount",
            "/system.slice/var-lib-docker-containers-ID-mounts-shm.mount",
            "systemd",
        ),
        (
            "/system.slice/ID.service",
            "ID.service",
            "/system.slice/ID.service",
            "systemd",
        ),
        // The monitor of a container is a process of the host.
        (
            "/machine.slice/libpod-conmon-ID.scope",
            "libpod-conmon-ID.scope",
            "/machine.slice/libpod-conmon-ID.scope",
            "podman",
        ),
        (
            "/libpod_parent/libpod-conmon-ID",
            "libpod-conmon-ID",
            "/libpod_parent/libpod-conmon-ID",
            "podman",
        ),
        (
            "/system.slice/crio-conmon-ID.scope",
            "crio-conmon-ID.scope",
            "/system.slice/crio-conmon-ID.scope",
            "crio",
        ),
        (
            "/lxc.monitor.web-1",
            "lxc.monitor.web-1",
            "/lxc.monitor.web-1",
            "lxc",
        ),
        ("/lxc.monitor/web-1", "web-1", "/lxc.monitor/web-1", "lxc"),
        // `--cgroups=split`: conmon runs beside the payload.
        (
            "/system.slice/web.service/runtime",
            "web.service",
            "/system.slice/web.service",
            "systemd",
        ),
    ];
    for (template, name, owner_path, runtime) in cases {
        let found = identify(&expand(template));
        assert_eq!(found.kind, Kind::Service, "{template}");
        assert_eq!(found.name, expand(name), "{template}");
        assert_eq!(found.owner_path, expand(owner_path), "{template}");
        assert_eq!(found.entity_key, expand(owner_path), "{template}");
        assert_eq!(found.runtime, runtime, "{template}");
        assert_eq!(found.container_id, None, "{template}");
        assert!(!found.groups_others, "{template}");
    }
}

#[test]
fn a_name_says_which_units_and_which_user_it_is_of() {
    let manager = "/user.slice/user-1000.slice/user@1000.service";
    let cases = [
        ("/system.slice/dbus.service", "dbus.service", None),
        (
            &format!("{manager}/app.slice/dbus.service"),
            "user@1000.service/dbus.service",
            Some("user@1000.service"),
        ),
        (manager, "user@1000.service", None),
        (
            &format!("{manager}/app.slice/shell.service/tab.scope"),
            "user@1000.service/shell.service/tab.scope",
            Some("user@1000.service/shell.service"),
        ),
        // logind's own, where the user cannot make cgroups.
        (
            "/user.slice/user-1000.slice/session-3.scope",
            "session-3.scope",
            None,
        ),
        (
            &format!("{manager}/user.slice/lxc.payload.web/init.scope"),
            "user@1000.service/web",
            Some("user@1000.service"),
        ),
        (
            &format!("{manager}/machine.slice/machine-web.scope"),
            "user@1000.service/web",
            Some("user@1000.service"),
        ),
        // Another one's unit in a unit is no system's.
        (
            "/system.slice/jobs.service/dbus.service",
            "jobs.service/dbus.service",
            Some("jobs.service"),
        ),
        // No manager of a user: nobody makes one of that name there.
        (
            "/user.slice/user-1000.slice/user@1.service/lxc/web",
            "web",
            None,
        ),
        ("/user@1000.service/lxc/web", "web", None),
        (
            "/user.slice/user-1000.slice/user@1000.service/user-1001.slice/user@1001.service/lxc/web",
            "user@1000.service/web",
            Some("user@1000.service"),
        ),
        (
            "/system.slice/app.service/user-1001.slice/user@1001.service/lxc/web",
            "web",
            None,
        ),
    ];
    for (path, name, prefix) in cases {
        let found = identify(path);
        assert_eq!(
            (found.name.as_str(), found.prefix.as_deref()),
            (name, prefix),
            "{path}"
        );
    }
    // What is inside of a container is that one's affair, its users too.
    let inside = identify(&expand(
        "/docker/INNER/user.slice/user-1000.slice/user@1000.service/lxc/web",
    ));
    assert_eq!((inside.name.as_str(), inside.prefix), ("web", None));
    assert_eq!(inside.enclosing, Some(expand("/docker/INNER")));
}
