//! Which cgroup hierarchies this host has, where they are mounted, and which carries which controller.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    error::CgroupError,
    file::FileReader,
    mount::{Mount, MountLine, Version, parse_mountinfo},
    process::parse_memberships,
};

/// Longest mount table that is read, bytes: 16 MiB are some 100,000 mounts.
const MAX_MOUNTINFO_BYTES: usize = 16 << 20;

/// How the host uses cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only v1 hierarchies.
    V1,
    /// v1 hierarchies, and the unified one beside them, which may have controllers of its own.
    Hybrid,
    /// Only the unified hierarchy.
    V2,
}

impl Mode {
    /// Its name in status and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
            Self::V2 => "v2",
        }
    }
}

/// Where to look for the hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverOptions {
    /// Only mounts at or below this directory count, e.g. `/host/sys/fs/cgroup`.
    pub cgroup_root: Option<PathBuf>,
}

/// The hierarchies of this host: for each controller the mount that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// How the host uses cgroups.
    pub mode: Mode,
    /// CPU bandwidth and weight; `None` where no hierarchy has the controller.
    pub cpu: Option<Mount>,
    /// CPU time. The unified hierarchy accounts it without a controller.
    pub cpuacct: Option<Mount>,
    /// Block I/O (`blkio` of v1, `io` of v2).
    pub blkio: Option<Mount>,
    /// Memory.
    pub memory: Option<Mount>,
    /// CPU sets.
    pub cpuset: Option<Mount>,
    /// The unified hierarchy, which also keeps the pressure of cgroups; `None` on a v1 host.
    pub unified: Option<Mount>,
}

impl Hierarchies {
    /// Finds the hierarchies in the text of a mount table. `mountinfo` only names its file in errors.
    ///
    /// The controllers of v2 are not in the mount table: [`Self::add_unified_controllers`] adds them.
    /// Where a hierarchy is mounted more than once, the mount that shows most of it is taken.
    ///
    /// # Errors
    ///
    /// If there is no cgroup mount, or none at or below the `cgroup_root` of the options.
    pub fn parse(
        text: &str,
        mountinfo: &Path,
        options: &DiscoverOptions,
    ) -> Result<Self, CgroupError> {
        let mut lines = parse_mountinfo(text);
        if lines.is_empty() {
            return Err(CgroupError::NoMount {
                mountinfo: mountinfo.to_owned(),
            });
        }
        if let Some(root) = &options.cgroup_root {
            lines.retain(|line| line.mount.mount_point.starts_with(root));
            if lines.is_empty() {
                return Err(CgroupError::NoMountBelowRoot {
                    cgroup_root: root.clone(),
                    mountinfo: mountinfo.to_owned(),
                });
            }
        }
        let v1 = |controller: &str| {
            best(&lines, |line| {
                line.controllers.iter().any(|name| name == controller)
            })
        };
        let unified = best(&lines, |line| line.mount.version == Version::V2);
        let any_v1 = lines.iter().any(|line| line.mount.version == Version::V1);
        Ok(Self {
            mode: match (any_v1, unified.is_some()) {
                (true, true) => Mode::Hybrid,
                (true, false) => Mode::V1,
                (false, _) => Mode::V2,
            },
            cpu: v1("cpu"),
            cpuacct: v1("cpuacct").or_else(|| unified.clone()),
            blkio: v1("blkio"),
            memory: v1("memory"),
            cpuset: v1("cpuset"),
            unified,
        })
    }

    /// Gives the unified hierarchy the controllers named in its `cgroup.controllers`. A controller is in
    /// one hierarchy only, so v1 mounts stay.
    #[must_use]
    pub fn add_unified_controllers(mut self, controllers: &str) -> Self {
        for controller in controllers.split_ascii_whitespace() {
            let place = match controller {
                "cpu" => &mut self.cpu,
                "io" => &mut self.blkio,
                "memory" => &mut self.memory,
                "cpuset" => &mut self.cpuset,
                _ => continue,
            };
            if place.is_none() {
                place.clone_from(&self.unified);
            }
        }
        self
    }

    /// Reads a mount table (`/proc/self/mountinfo`) and the
    /// `cgroup.controllers` of the unified hierarchy.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or as [`Self::parse`].
    pub fn discover(mountinfo: &Path, options: &DiscoverOptions) -> Result<Self, CgroupError> {
        let mut reader = FileReader::with_limit(MAX_MOUNTINFO_BYTES);
        // Whoever may mount anything chooses the names there.
        let Some(table) = reader.read_bytes(mountinfo)? else {
            return Err(CgroupError::NoMount {
                mountinfo: mountinfo.to_owned(),
            });
        };
        let hierarchies = Self::parse(&String::from_utf8_lossy(table), mountinfo, options)?;
        let Some(unified) = &hierarchies.unified else {
            return Ok(hierarchies);
        };
        let path = unified.mount_point.join("cgroup.controllers");
        match reader.read(&path)? {
            Some(controllers) => Ok(hierarchies.add_unified_controllers(controllers)),
            None => Ok(hierarchies),
        }
    }
}

/// The mount that shows most of its hierarchy; the first of several.
fn best(lines: &[MountLine], wanted: impl Fn(&MountLine) -> bool) -> Option<Mount> {
    let mut best: Option<&Mount> = None;
    for line in lines.iter().filter(|line| wanted(line)) {
        if best.is_none_or(|best| line.mount.reach() > best.reach()) {
            best = Some(&line.mount);
        }
    }
    best.cloned()
}

/// Kernel ids of the hierarchies and the controllers of each; 0 is the unified one.
///
/// The kernel's cgroup tracepoints name a hierarchy by this id (their field `root`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HierarchyIds {
    controllers: BTreeMap<u32, Vec<String>>,
}

impl HierarchyIds {
    /// Parses the text of `/proc/self/cgroup`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self {
            controllers: parse_memberships(text)
                .into_iter()
                .map(|membership| (membership.hierarchy, membership.controllers))
                .collect(),
        }
    }

    /// The v1 controllers of a hierarchy (`name=systemd` is one); empty for the unified one, `None` for an
    /// id that is not there.
    #[must_use]
    pub fn controllers(&self, hierarchy: u32) -> Option<&[String]> {
        self.controllers.get(&hierarchy).map(Vec::as_slice)
    }

    /// The v1 hierarchy that carries a controller; `None` if it is in the unified one or in none.
    #[must_use]
    pub fn of_v1_controller(&self, controller: &str) -> Option<u32> {
        self.controllers
            .iter()
            .find(|(_, names)| names.iter().any(|name| name == controller))
            .map(|(&hierarchy, _)| hierarchy)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    // The origins of these are in `fixtures/cgroup/README.md`.
    const HYBRID: &str = include_str!("../../fixtures/cgroup/mountinfo_hybrid_6_18");
    const V2: &str = include_str!("../../fixtures/cgroup/mountinfo_v2_systemd");
    const V1: &str = include_str!("../../fixtures/cgroup/mountinfo_v1_docker");
    const CONTAINER: &str = include_str!("../../fixtures/cgroup/mountinfo_v2_agent_container");

    fn parse(text: &str, options: &DiscoverOptions) -> Result<Hierarchies, CgroupError> {
        Hierarchies::parse(text, Path::new("/proc/self/mountinfo"), options)
    }

    fn point(mount: Option<&Mount>) -> Option<&str> {
        mount.and_then(|mount| mount.mount_point.to_str())
    }

    #[test]
    fn a_hybrid_host_without_v2_controllers_reads_them_from_v1() {
        let found = parse(HYBRID, &DiscoverOptions::default())
            .unwrap()
            .add_unified_controllers("hugetlb\n");
        assert_eq!(found.mode, Mode::Hybrid);
        assert_eq!(point(found.cpu.as_ref()), Some("/sys/fs/cgroup/cpu"));
        assert_eq!(
            point(found.cpuacct.as_ref()),
            Some("/sys/fs/cgroup/cpuacct")
        );
        assert_eq!(point(found.blkio.as_ref()), Some("/sys/fs/cgroup/blkio"));
        assert_eq!(point(found.memory.as_ref()), Some("/sys/fs/cgroup/memory"));
        assert_eq!(
            point(found.unified.as_ref()),
            Some("/sys/fs/cgroup/unified")
        );
    }

    #[test]
    fn a_hybrid_host_takes_from_v2_what_v1_lacks() {
        let text = HYBRID
            .lines()
            .filter(|line| !line.ends_with("rw,memory"))
            .collect::<Vec<_>>()
            .join("\n");
        let found = parse(&text, &DiscoverOptions::default())
            .unwrap()
            .add_unified_controllers("memory pids");
        assert_eq!(point(found.memory.as_ref()), Some("/sys/fs/cgroup/unified"));
        assert_eq!(found.cpu.map(|cpu| cpu.version), Some(Version::V1));
    }

    #[test]
    fn a_v2_host_has_the_controllers_that_its_mount_names() {
        let found = parse(V2, &DiscoverOptions::default())
            .unwrap()
            .add_unified_controllers("cpuset cpu io pids\n");
        assert_eq!(found.mode, Mode::V2);
        assert_eq!(point(found.cpu.as_ref()), Some("/sys/fs/cgroup"));
        assert_eq!(found.cpu, found.unified);
        assert_eq!(found.cpuacct, found.unified);
        assert_eq!(found.blkio, found.unified);
        assert_eq!(found.memory, None);
    }

    #[test]
    fn a_v1_host_mounts_controllers_together() {
        let found = parse(V1, &DiscoverOptions::default()).unwrap();
        assert_eq!(found.mode, Mode::V1);
        assert_eq!(
            point(found.cpu.as_ref()),
            Some("/sys/fs/cgroup/cpu,cpuacct")
        );
        assert_eq!(found.cpu, found.cpuacct);
        assert_eq!(found.unified, None);
    }

    #[test]
    fn in_a_container_the_mount_from_above_the_namespace_is_preferred() {
        let found = parse(CONTAINER, &DiscoverOptions::default()).unwrap();
        assert_eq!(point(found.unified.as_ref()), Some("/host/sys/fs/cgroup"));
    }

    #[test]
    fn the_configured_root_decides() {
        let options = DiscoverOptions {
            cgroup_root: Some(PathBuf::from("/sys/fs/cgroup")),
        };
        let found = parse(CONTAINER, &options).unwrap();
        assert_eq!(point(found.unified.as_ref()), Some("/sys/fs/cgroup"));
    }

    #[test]
    fn a_missing_mount_is_an_error_that_names_the_fix() {
        let none = parse("", &DiscoverOptions::default())
            .unwrap_err()
            .to_string();
        assert!(none.contains("mount -t cgroup2"), "{none}");
        let options = DiscoverOptions {
            cgroup_root: Some(PathBuf::from("/elsewhere")),
        };
        let elsewhere = parse(V2, &options).unwrap_err().to_string();
        assert!(elsewhere.contains("cgroup_root /elsewhere"), "{elsewhere}");
    }

    #[test]
    fn discovery_reads_the_controllers_of_the_unified_mount() {
        let host = tempfile::tempdir().unwrap();
        let mount = host.path().join("sys/fs/cgroup");
        fs::create_dir_all(&mount).unwrap();
        fs::write(mount.join("cgroup.controllers"), "cpu io memory\n").unwrap();
        let mountinfo = host.path().join("mountinfo");
        let table = V2.replace("/sys/fs/cgroup", mount.to_str().unwrap());
        fs::write(&mountinfo, &table).unwrap();
        let options = DiscoverOptions::default();
        let found = Hierarchies::discover(&mountinfo, &options).unwrap();
        // A name before it that is no UTF-8 hides nothing.
        let foreign = b"9 1 0:9 / /mnt/\xff rw - fuse.x x rw\n";
        fs::write(&mountinfo, [foreign, table.as_bytes()].concat()).unwrap();
        assert_eq!(Hierarchies::discover(&mountinfo, &options).unwrap(), found);
        assert_eq!(found.memory.map(|memory| memory.mount_point), Some(mount));
        let gone = Hierarchies::discover(Path::new("/nonexistent/mountinfo"), &options);
        assert!(matches!(gone, Err(CgroupError::NoMount { .. })));
    }

    #[test]
    fn hierarchy_ids_map_to_controllers() {
        // Kernel 4.15, systemd 237.
        let ids =
            HierarchyIds::parse("4:cpu,cpuacct:/\n1:name=systemd:/init.scope\n0::/init.scope\n");
        assert_eq!(ids.of_v1_controller("cpuacct"), Some(4));
        assert_eq!(ids.of_v1_controller("memory"), None);
        assert_eq!(ids.controllers(1), Some(&["name=systemd".to_owned()][..]));
        assert_eq!(ids.controllers(0), Some(&[][..]));
        assert_eq!(ids.controllers(9), None);
    }
}
