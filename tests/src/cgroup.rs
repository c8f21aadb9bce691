//! cgroups of the tests: one parent for each test, in every hierarchy, removed at the end.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::wait_until;

/// A mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its v1 controllers, `name=...` included; `None` for v2.
    pub controllers: Option<Vec<String>>,
}

/// The hierarchies that are mounted, from the text of `/proc/self/mountinfo`.
#[must_use]
pub fn parse_hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (fields, filesystem) = line.split_once(" - ")?;
            let mount = PathBuf::from(fields.split(' ').nth(4)?);
            let mut filesystem = filesystem.split(' ');
            let controllers = match filesystem.next()? {
                "cgroup2" => None,
                "cgroup" => Some(
                    filesystem
                        .nth(1)?
                        .split(',')
                        .map(str::to_owned)
                        .collect::<Vec<_>>(),
                ),
                _ => return None,
            };
            Some(Hierarchy { mount, controllers })
        })
        .collect()
}

/// The hierarchies that are mounted.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read mountinfo")?;
    Ok(parse_hierarchies(&text))
}

/// A name that no other test has, in this process or another: `<prefix>-<pid>`, and `-<n>` after the
/// first of this process.
pub(crate) fn own_name(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    match COUNT.fetch_add(1, Ordering::Relaxed) {
        0 => format!("{prefix}-{}", std::process::id()),
        n => format!("{prefix}-{}-{n}", std::process::id()),
    }
}

/// A parent cgroup for the containers of one test, with a state directory of its own for runc.
/// Dropping it removes the cgroups in all hierarchies.
pub struct Group {
    name: String,
    state: TempDir,
    hierarchies: Vec<Hierarchy>,
}

impl Group {
    /// Names a group `<prefix>-<pid>`, and `-<n>` after the first of this process. It is made with
    /// its first container.
    ///
    /// # Errors
    ///
    /// No temporary directory, or no `/proc`.
    pub fn new(prefix: &str) -> Result<Self> {
        let name = own_name(prefix);
        Ok(Self {
            name,
            state: TempDir::with_prefix("ctrscope-runc-")
                .context("cannot make a state directory for runc")?,
            hierarchies: hierarchies()?,
        })
    }

    /// Its path from the root of every hierarchy, with the slash.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// `--root` of runc.
    #[must_use]
    pub fn state_directory(&self) -> &Path {
        self.state.path()
    }

    /// Directory of a cgroup (path from the root) in the hierarchy of a controller; v2 where no v1
    /// hierarchy has it. `None` where the controller is nowhere.
    #[must_use]
    pub fn directory(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        let v1 = self.hierarchies.iter().find(|hierarchy| {
            hierarchy
                .controllers
                .as_ref()
                .is_some_and(|list| list.iter().any(|name| name == controller))
        });
        let hierarchy = v1.or_else(|| {
            self.hierarchies.iter().find(|hierarchy| {
                hierarchy.controllers.is_none()
                    && fs::read_to_string(hierarchy.mount.join("cgroup.controllers"))
                        .is_ok_and(|list| list.split_whitespace().any(|name| name == controller))
            })
        })?;
        Some(hierarchy.mount.join(cgroup.trim_start_matches('/')))
    }

    /// CPU time of all that ran in it, nanoseconds; 0 before it is made.
    #[must_use]
    pub fn cpu_usage_ns(&self) -> u64 {
        let directory = |controller| self.directory(controller, &self.path());
        usage_ns(directory("cpuacct"), directory("cpu")).unwrap_or(0)
    }

    /// CPU time of what ran in a cgroup (path from the root), nanoseconds.
    ///
    /// # Errors
    ///
    /// The cgroup is not there, or no hierarchy has the cpu controller.
    pub fn cpu_usage_of(&self, cgroup: &str) -> Result<u64> {
        let directory = |controller| self.directory(controller, cgroup);
        usage_ns(directory("cpuacct"), directory("cpu"))
    }

    /// Makes a cgroup (path from the group's own, without a slash at its beginning) in each hierarchy that
    /// counts something. Gives its directories.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn make(&self, path: &str) -> Result<Vec<PathBuf>> {
        const COUNTING: [&str; 4] = ["cpu", "cpuacct", "blkio", "memory"];
        let counts = |hierarchy: &&Hierarchy| {
            let controllers = hierarchy.controllers.as_ref();
            controllers.is_none_or(|list| list.iter().any(|one| COUNTING.contains(&one.as_str())))
        };
        let make = |hierarchy: &Hierarchy| {
            let mut directory = hierarchy.mount.clone();
            for component in std::iter::once(self.name.as_str()).chain(path.split('/')) {
                if hierarchy.controllers.is_none() {
                    for controller in ["+cpu", "+io", "+memory"] {
                        // Where v1 has it, v2 has not.
                        let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
                    }
                }
                directory.push(component);
                fs::create_dir_all(&directory)
                    .with_context(|| format!("cannot make {}", directory.display()))?;
            }
            Ok(directory)
        };
        self.hierarchies.iter().filter(counts).map(make).collect()
    }

    /// Directories of this group that exist, over all hierarchies.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        self.hierarchies
            .iter()
            .map(|hierarchy| hierarchy.mount.join(&self.name))
            .filter(|directory| directory.exists())
            .collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for directory in self.directories() {
            if let Err(error) = remove(&directory) {
                eprintln!("cgroup left behind: {error:#}");
            }
        }
    }
}

/// CPU time of a cgroup by its directories: `cpuacct.usage` of v1, else `usage_usec` of `cpu.stat`,
/// nanoseconds.
pub(crate) fn usage_ns(cpuacct: Option<PathBuf>, cpu: Option<PathBuf>) -> Result<u64> {
    let read = |path: PathBuf| {
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    if let Some(directory) = cpuacct {
        let text = read(directory.join("cpuacct.usage"))?;
        return text.trim().parse().context("strange cpuacct.usage");
    }
    let directory = cpu.context("no cgroup hierarchy has the cpu controller")?;
    let text = read(directory.join("cpu.stat"))?;
    let usec = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))
        .context("cpu.stat without usage_usec")?;
    Ok(usec.parse::<u64>().context("strange usage_usec")? * 1_000)
}

/// Removes a cgroup and what is below it. Waits for the last tasks to be gone.
///
/// # Errors
///
/// It is still busy after half a minute.
pub fn remove(directory: &Path) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    let what = format!("remove cgroup {}", directory.display());
    wait_until(PATIENCE, &what, || {
        Ok((fs::remove_dir(directory).is_ok() || !directory.exists()).then_some(()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a Debian 12 host with kernel 6.18, hybrid.
    const HYBRID: &str = "\
31 25 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:36 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
42 31 0:37 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_mounts_give_v1_and_v2_hierarchies() {
        let found = parse_hierarchies(HYBRID);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].mount, Path::new("/sys/fs/cgroup/cpu"));
        let controllers = found[0].controllers.as_ref().unwrap();
        assert!(controllers.iter().any(|name| name == "cpu"));
        assert_eq!(found[2].controllers, None);
    }
}
