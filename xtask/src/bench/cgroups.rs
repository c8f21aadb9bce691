//! Plain cgroups, in each hierarchy that the agent reads, below one parent of our own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use ctrscope_tests::{
    Group,
    cgroup::{hierarchies, remove},
};

use crate::interrupt;

/// What the agent reads of a container.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "blkio"];
/// The same in v2; what is not offered there is refused, which does not matter.
const V2_CONTROLLERS: [&str; 3] = ["+cpu", "+memory", "+io"];

/// A cgroup: its directory in each hierarchy.
#[derive(Clone)]
pub(super) struct Cgroup {
    directories: Vec<PathBuf>,
}

impl Cgroup {
    /// One directory for each hierarchy.
    pub(super) fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// The file that lists its processes, in a hierarchy in which it can have any.
    pub(super) fn processes(&self) -> Result<PathBuf> {
        let first = self.directories.first().context("no cgroup hierarchy")?;
        Ok(first.join("cgroup.procs"))
    }
}

/// Cgroups below `/ctrscope-bench-<pid>`. Dropping this removes them.
pub(super) struct Cgroups {
    group: Group,
    parents: Vec<PathBuf>,
    made: Vec<Cgroup>,
}

impl Cgroups {
    /// Makes the parent.
    pub(super) fn new() -> Result<Self> {
        let group = Group::new("ctrscope-bench")?;
        let mut parents = Vec::new();
        // The cpu controller first: that hierarchy is the one which names a container.
        let mut mounts = hierarchies()?;
        mounts.retain(|hierarchy| match &hierarchy.controllers {
            Some(list) => list.iter().any(|name| CONTROLLERS.contains(&name.as_str())),
            None => true,
        });
        mounts.sort_by_key(|hierarchy| match &hierarchy.controllers {
            Some(list) if list.iter().any(|name| name == "cpu") => 0,
            Some(_) => 1,
            None => 2,
        });
        // A hierarchy may be mounted more than once.
        let mut seen = Vec::new();
        mounts.retain(|hierarchy| {
            let first = !seen.contains(&hierarchy.controllers);
            seen.push(hierarchy.controllers.clone());
            first
        });
        for hierarchy in mounts {
            let parent = hierarchy.mount.join(group.path().trim_start_matches('/'));
            fs::create_dir(&parent)
                .with_context(|| format!("cannot make cgroup {}", parent.display()))?;
            if hierarchy.controllers.is_none() {
                offer_controllers(&hierarchy.mount);
                offer_controllers(&parent);
            }
            parents.push(parent);
        }
        Ok(Self {
            group,
            parents,
            made: Vec::new(),
        })
    }

    /// Makes one more.
    pub(super) fn make(&mut self, name: &str) -> Result<Cgroup> {
        let mut cgroup = Cgroup {
            directories: Vec::new(),
        };
        for parent in &self.parents {
            let directory = parent.join(name);
            fs::create_dir(&directory)
                .with_context(|| format!("cannot make cgroup {}", directory.display()))?;
            cgroup.directories.push(directory);
        }
        self.made.push(cgroup.clone());
        Ok(cgroup)
    }

    /// Makes more until there are `count`, and lets a task run a moment in each: a cgroup in which
    /// nothing ever ran is not shown.
    pub(super) fn grow_to(&mut self, count: usize) -> Result<()> {
        let mut fresh = Vec::new();
        while self.made.len() < count {
            interrupt::check()?;
            fresh.push(self.make(&format!("c{:04}", self.made.len()))?);
        }
        // One shell visits many: moving a process costs a grace period of RCU in the kernel.
        for some in fresh.chunks(50) {
            interrupt::check()?;
            let visit = "for d; do echo $$ >\"$d\" || exit 1; sleep 0.001; done";
            let mut command = Command::new("sh");
            command.args(["-c", visit, "sh"]);
            for cgroup in some {
                command.arg(cgroup.processes()?);
            }
            let status = command
                .stdout(Stdio::null())
                .status()
                .context("cannot run sh")?;
            if !status.success() {
                bail!("no task could be run in a new cgroup: {status}");
            }
        }
        Ok(())
    }

    /// Those that were made, in their order.
    pub(super) fn made(&self) -> &[Cgroup] {
        &self.made
    }

    /// How many were made.
    pub(super) fn len(&self) -> usize {
        self.made.len()
    }

    /// Makes and removes cgroups, for the programs that see it.
    pub(super) fn churn(&mut self, count: usize) -> Result<()> {
        let parent = self.parents.first().context("no cgroup hierarchy")?;
        for number in 0..count {
            let directory = parent.join(format!("churn{number}"));
            fs::create_dir(&directory)?;
            remove(&directory)?;
        }
        Ok(())
    }

    /// Its path from the root of each hierarchy.
    pub(super) fn path(&self) -> String {
        self.group.path()
    }
}

/// Lets the children of a v2 cgroup use the controllers.
fn offer_controllers(directory: &Path) {
    for controller in V2_CONTROLLERS {
        // A v2 mount beside v1 has none to offer; the files that are needed are there all the same.
        let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
    }
}
