//! Fuzz targets: paths, names, mount tables and files of cgroups.

use std::path::{Component, Path};

use super::{
    mount::{Mount, MountLine, Version, parse_mountinfo},
    name::{bytes_of, readable, text_of},
    *,
};
use crate::{
    fuzz::{Target, text, texts},
    snapshot::Kind,
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("cgroup_path", path),
    Target::new("cgroup_name", name),
    Target::new("cgroup_directory", directory),
    Target::new("cgroup_mountinfo", mountinfo),
    Target::new("cgroup_memberships", memberships),
    Target::new("cgroup_status", status),
    Target::new("cgroup_cpu", cpu),
    Target::new("cgroup_memory", memory),
    Target::new("cgroup_pressure", pressure),
    Target::new("cgroup_io", io),
    Target::new("cgroup_io_limits", io_limits),
];

/// The owner of a path is a whole prefix of it and its own owner; names are for people.
fn path(bytes: &[u8]) {
    for path in [text_of(bytes), text(bytes)] {
        let found = identify(&path);
        let rest = path.strip_prefix(&*found.owner_path);
        assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
        if found.kind != Kind::Cgroup {
            let own = identify(&found.owner_path);
            assert_eq!(own.entity_key, found.entity_key);
            assert_eq!(own.name, found.name);
            assert!(own.may_be(&found));
        }
        assert!(!found.name.is_empty());
        assert_eq!(readable(found.name.clone()), found.name);
        if let Some(prefix) = &found.prefix {
            assert!(found.name.starts_with(&format!("{prefix}/")));
        }
        if let Some(enclosing) = &found.enclosing {
            assert!(found.owner_path.starts_with(&format!("{enclosing}/")));
            assert_eq!(identify(enclosing).kind, Kind::Container);
        }
        match &found.container_id {
            Some(id) => {
                assert_eq!(*id, found.entity_key);
                let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
                assert!((25..=64).contains(&id.len()) && id.bytes().all(is_digit));
            }
            None => assert_eq!(found.entity_key, found.owner_path),
        }
        let begin = user_of(&path).map(|uid| format!("/user.slice/user-{uid}.slice/"));
        assert!(begin.is_none_or(|begin| path.starts_with(&begin)));
        let mut above = Some(&*path);
        let mut length = path.len() + 1;
        while let Some(path) = above {
            assert!(path.len() < length || path == "/");
            length = path.len();
            above = path_of_parent(path);
        }
    }
}

/// Bytes come back, no two are one text, and none of it becomes a separator.
fn name(bytes: &[u8]) {
    let text = text_of(bytes);
    assert_eq!(*bytes_of(&text), *bytes);
    let slashes = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'/').count();
    assert_eq!(slashes(text.as_bytes()), slashes(bytes));
    let shown = readable(text.into_owned());
    assert_eq!(readable(shown.clone()), shown);
    let any = String::from_utf8_lossy(bytes);
    assert_eq!(slashes(&bytes_of(&any)), slashes(any.as_bytes()));
}

/// No path leads out of its mount: a root, and a path in it.
fn directory(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let [root, path] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    for (root, path) in [(text_of(root), text_of(path)), (text(root), text(path))] {
        let mount = Mount {
            mount_point: "/sys/fs/cgroup".into(),
            version: Version::V2,
            root: root.into_owned(),
        };
        let Some(directory) = mount.directory(&path) else {
            continue;
        };
        let Ok(inside) = directory.strip_prefix(&mount.mount_point) else {
            panic!("{} is outside", directory.display());
        };
        let is_below = |component| matches!(component, Component::Normal(_));
        assert!(inside.components().all(is_below), "{}", inside.display());
    }
}

/// Each hierarchy is one of the lines.
fn mountinfo(bytes: &[u8]) {
    let table = text(bytes);
    let lines = parse_mountinfo(&table);
    assert!(lines.len() <= table.lines().count());
    for (index, line) in lines.iter().enumerate() {
        let point = &line.mount.mount_point;
        let is_same = |other: &&MountLine| other.mount.mount_point == *point;
        assert_eq!(lines.iter().filter(is_same).count(), 1, "{index}");
        assert_eq!(*text_of(&bytes_of(&line.mount.root)), *line.mount.root);
    }
    let options = DiscoverOptions::default();
    let Ok(found) = Hierarchies::parse(&table, Path::new("mountinfo"), &options) else {
        return;
    };
    let unified = found.unified.is_some();
    assert_eq!(found.mode != Mode::V1, unified);
    let found = found.add_unified_controllers("cpu io memory cpuset");
    assert!(!unified || (found.cpu.is_some() && found.memory.is_some()));
}

fn memberships(bytes: &[u8]) {
    let file = text_of(bytes);
    let found = parse_memberships(&file);
    assert!(found.len() <= file.lines().count());
    for one in &found {
        assert!(file.contains(&one.path) && !one.path.contains('\n'));
        assert!(!one.controllers.iter().any(String::is_empty));
    }
    let ids = HierarchyIds::parse(&file);
    for one in found {
        assert!(ids.controllers(one.hierarchy).is_some());
        for controller in &one.controllers {
            assert!(ids.of_v1_controller(controller).is_some() || found_later(&ids, &one));
        }
    }
}

/// Of two lines with one id the last counts.
fn found_later(ids: &HierarchyIds, one: &Membership) -> bool {
    ids.controllers(one.hierarchy) != Some(&one.controllers)
}

fn status(bytes: &[u8]) {
    let file = text(bytes);
    let status = parse_status(&file);
    assert!(!status.name.contains('\n') && file.contains(&status.name));
    assert_eq!(
        status.container_pid().is_some(),
        !status.namespace_pids.is_empty()
    );
}

/// `cpu.stat`, `cpu.max`, and quota and period of v1.
fn cpu(bytes: &[u8]) {
    let [file, other] = texts(bytes);
    let _ = parse_cpu_stat(&file);
    for cores in [parse_cpu_max(&file), parse_cfs_quota(&file, &other)] {
        assert!(cores.is_none_or(|cores| cores.is_finite() && cores > 0.0));
    }
    if let Ok(shares) = file.trim().parse() {
        assert!((1..=10_000).contains(&weight_of_shares(shares)));
    }
}

/// `memory.stat` of both versions, limits and events.
fn memory(bytes: &[u8]) {
    let file = text(bytes);
    let has_inactive = file.contains("inactive_file");
    assert!(parse_inactive_file(&file).is_none() || has_inactive);
    for stat in [parse_memory_stat_v1(&file), parse_memory_stat_v2(&file)] {
        assert!(stat.inactive_file_bytes.is_none() || has_inactive);
    }
    let _ = parse_oom_kills(&file);
    let limit = parse_memory_limit(&file);
    assert!(limit.is_none() || limit == file.trim().parse().ok());
}

fn pressure(bytes: &[u8]) {
    let file = text(bytes);
    if let Some(times) = parse_pressure(&file) {
        assert!(file.contains("total="));
        assert!(times.stalled_usec == 0 || file.contains("full"));
    }
}

/// `io.stat` of v2, and bytes and operations of v1.
fn io(bytes: &[u8]) {
    let [file, other] = texts(bytes);
    for devices in [parse_io_stat(&file), parse_blkio(&file, &other)] {
        let lines = file.len() + other.len();
        assert!(devices.len() <= lines);
    }
    assert!(
        !parse_io_stat(&file)
            .values()
            .any(|io| *io == DeviceIo::default())
    );
}

/// `io.max` of v2, and the four files of v1.
fn io_limits(bytes: &[u8]) {
    let file = text(bytes);
    let mut limits = parse_io_max(&file);
    assert!(!limits.values().any(|limit| *limit == IoLimit::default()));
    for kind in ["read_bps", "write_bps", "read_iops", "write_iops"] {
        parse_throttle_device(&file, kind, &mut limits);
    }
    assert!(!limits.values().any(|limit| *limit == IoLimit::default()));
}
