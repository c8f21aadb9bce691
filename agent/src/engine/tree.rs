//! Keeps the registry in step with the cgroup trees: by the kernel's events, and by a walk where
//! events are missing.

mod above;
mod maker;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use self::above::{Above, Place};
use crate::{
    bpf::{CssId, KernelEvent, Subsystem},
    cgroup::{Hierarchies, HierarchyIds, Mount, Version, WalkLimits, has_processes, walk},
    container::{CgroupKey, Now, Origin, Registry},
};

/// A hierarchy whose cgroups own something that is counted.
#[derive(Clone, Debug)]
struct Watched {
    id: u32,
    mount: Mount,
    above: Above,
}

/// The hierarchies of the cpu and block controllers: two on v1, one on v2.
#[derive(Debug)]
pub(super) struct Tree {
    /// That of the cpu controller, and without one another, so that containers are found all the same.
    primary: Watched,
    /// Whether the primary one is the cpu controller's: else a cpu css is of a hierarchy that is not
    /// seen, and its cgroup's id would name a foreign cgroup here.
    tells_cpu: bool,
    /// That of the block controller. The same goes for its css without one.
    block: Option<Watched>,
    /// Css of cgroups that were unknown when they were seen; looked for by the next walk.
    pending: Vec<(CgroupKey, Subsystem, CssId)>,
    last_walk: Option<Instant>,
    walk_wanted: bool,
    truncated: bool,
    walk_error: Option<String>,
}

/// Shortest time between two walks.
const WALK_INTERVAL: Duration = Duration::from_secs(1);
/// Css that may wait for a walk; the rest are counted as other.
const MOST_PENDING: usize = 4_096;

impl Tree {
    /// The trees of these mounts; `None` where nothing is mounted that holds containers.
    pub(super) fn new(hierarchies: &Hierarchies, ids: &HierarchyIds) -> Option<Self> {
        let watch = |mount: &Option<Mount>, controller: &str| {
            let mount = mount.clone()?;
            let id = match mount.version {
                Version::V1 => ids.of_v1_controller(controller).unwrap_or(0),
                Version::V2 => 0,
            };
            let above = Above::of(&mount);
            Some(Watched { id, mount, above })
        };
        let cpu = watch(&hierarchies.cpu, "cpu");
        let tells_cpu = cpu.is_some();
        let primary = cpu
            .or_else(|| watch(&hierarchies.unified, ""))
            .or_else(|| watch(&hierarchies.memory, "memory"))
            .or_else(|| watch(&hierarchies.cpuacct, "cpuacct"))?;
        let block = watch(&hierarchies.blkio, "blkio");
        Some(Self {
            primary,
            tells_cpu,
            block,
            pending: Vec::new(),
            last_walk: None,
            walk_wanted: true,
            truncated: false,
            walk_error: None,
        })
    }

    /// Whether a cpu css can be brought to its cgroup.
    pub(super) fn tells_cpu(&self) -> bool {
        self.tells_cpu
    }

    /// Whether a block css can be brought to its cgroup.
    pub(super) fn tells_block(&self) -> bool {
        self.block.is_some()
    }

    /// Why the last walk of a tree failed; `None` if it did not.
    pub(super) fn walk_error(&self) -> Option<&str> {
        self.walk_error.as_deref()
    }

    /// The hierarchy whose cgroups decide whether a container lives.
    pub(super) fn primary(&self) -> u32 {
        self.primary.id
    }

    /// Whether the last walk left cgroups out.
    pub(super) fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// The hierarchy of a css; `None` where it is not seen.
    fn hierarchy(&self, subsystem: Subsystem) -> Option<u32> {
        match subsystem {
            Subsystem::Cpu => self.tells_cpu.then_some(self.primary.id),
            Subsystem::Block => self.block.as_ref().map(|block| block.id),
        }
    }

    fn watched(&mut self, hierarchy: u32) -> Option<&mut Watched> {
        if hierarchy == self.primary.id {
            return Some(&mut self.primary);
        }
        self.block.as_mut().filter(|block| block.id == hierarchy)
    }

    /// Takes in one event. For a css that was seen, returns the owner that it has now.
    pub(super) fn handle(
        &mut self,
        event: &KernelEvent,
        registry: &mut Registry,
        now: Now,
    ) -> Option<u32> {
        match event {
            KernelEvent::CssSeen {
                subsystem,
                css,
                cgroup_id,
                ..
            } => {
                // Without its hierarchy it stays counted as other.
                let key = CgroupKey {
                    hierarchy: self.hierarchy(*subsystem)?,
                    id: *cgroup_id,
                };
                let owner = registry.css_seen(key, *subsystem, *css);
                if owner.is_none() && self.pending.len() < MOST_PENDING {
                    self.pending.push((key, *subsystem, *css));
                    self.walk_wanted = true;
                }
                owner
            }
            KernelEvent::CgroupMade {
                hierarchy_id,
                cgroup_id,
                path,
                cpu,
                block,
            } => {
                if let Some(watched) = self.watched(*hierarchy_id) {
                    let key = CgroupKey {
                        hierarchy: *hierarchy_id,
                        id: *cgroup_id,
                    };
                    let place = path.as_ref().map_or(Place::Unknown, |path| {
                        watched.above.place(&watched.mount, *cgroup_id, path)
                    });
                    match place {
                        Place::Inside(path) => {
                            let css: Vec<_> = [(Subsystem::Cpu, cpu), (Subsystem::Block, block)]
                                .into_iter()
                                .filter_map(|(subsystem, css)| Some((subsystem, (*css)?)))
                                .collect();
                            let user = maker::user_of(&watched.mount, path);
                            registry.cgroup_made(key, Origin { path, user }, false, &css, now);
                        }
                        Place::Outside => {}
                        Place::Unknown => self.walk_wanted = true,
                    }
                }
                None
            }
            // Of the accounts, not of who is there.
            KernelEvent::CgroupEmptied { .. } => None,
            KernelEvent::CgroupRemoved {
                hierarchy_id,
                cgroup_id,
            } => {
                let key = CgroupKey {
                    hierarchy: *hierarchy_id,
                    id: *cgroup_id,
                };
                registry.cgroup_removed(key, now);
                None
            }
        }
    }

    /// The cgroup, with its path, that an event says to be empty now, if it is in the hierarchy that decides whether
    /// a container lives.
    pub(super) fn emptied<'e>(&mut self, event: &'e KernelEvent) -> Option<(CgroupKey, &'e str)> {
        let KernelEvent::CgroupEmptied {
            hierarchy_id,
            cgroup_id,
            path: Some(path),
        } = event
        else {
            return None;
        };
        let watched = &mut self.primary;
        if *hierarchy_id != watched.id {
            return None;
        }
        match watched.above.place(&watched.mount, *cgroup_id, path) {
            Place::Inside(path) => {
                let key = CgroupKey {
                    hierarchy: watched.id,
                    id: *cgroup_id,
                };
                Some((key, path))
            }
            Place::Outside | Place::Unknown => None,
        }
    }

    /// Events were lost: walk as soon as allowed.
    pub(super) fn want_walk(&mut self) {
        self.walk_wanted = true;
    }

    /// How long until a wanted walk may begin; `None` if none is wanted.
    pub(super) fn walk_due_in(&self) -> Option<Duration> {
        self.walk_wanted.then(|| {
            self.last_walk.map_or(Duration::ZERO, |last| {
                WALK_INTERVAL.saturating_sub(last.elapsed())
            })
        })
    }

    /// Walks the trees if that is wanted and not too soon: adds what is new, removes what has gone,
    /// and looks for the css that waited.
    pub(super) fn walk_if_due(&mut self, registry: &mut Registry, now: Now) {
        if self.walk_due_in() != Some(Duration::ZERO) {
            return;
        }
        self.walk_wanted = false;
        self.last_walk = Some(Instant::now());
        self.truncated = false;
        self.walk_error = None;
        let both = [Some(self.primary.clone()), self.block.clone()];
        let mut walked = None;
        for watched in both.into_iter().flatten() {
            if walked.replace(watched.id) != Some(watched.id) {
                self.walk(&watched, registry, now);
            }
        }
        if self.walk_error.is_some() {
            // Once more; until then nothing is known of what waits.
            self.walk_wanted = true;
            return;
        }
        for (key, subsystem, css) in std::mem::take(&mut self.pending) {
            // What is not there now has gone already, and stays counted as other.
            registry.css_seen(key, subsystem, css);
        }
    }

    fn walk(&mut self, watched: &Watched, registry: &mut Registry, now: Now) {
        let found = match walk(&watched.mount, WalkLimits::default()) {
            Ok(found) => found,
            Err(error) => {
                self.walk_error = Some(crate::error_chain::error_chain(&error));
                return;
            }
        };
        self.truncated |= found.truncated;
        let mut there = HashSet::with_capacity(found.directories.len());
        for directory in &found.directories {
            let key = CgroupKey {
                hierarchy: watched.id,
                id: directory.id,
            };
            there.insert(key);
            let is_populated = || {
                let path = watched.mount.directory(&directory.path);
                path.is_some_and(|path| has_processes(&path).unwrap_or(false))
            };
            if registry.knows(key) {
                // One that was empty when it was found; where switches are seen they tell it sooner.
                if registry.may_be_empty(key) && is_populated() {
                    registry.populated(key);
                }
                continue;
            }
            let populated = is_populated();
            let origin = Origin {
                path: &directory.path,
                user: maker::user_of(&watched.mount, &directory.path),
            };
            registry.cgroup_made(key, origin, populated, &[], now);
        }
        if !found.truncated {
            for key in registry.known_in(watched.id) {
                if !there.contains(&key) {
                    registry.cgroup_removed(key, now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        bpf::FirstRun, cgroup::DiscoverOptions, container::RegistryLimits, selection::Selection,
    };

    /// Kernel 6.18, hybrid.
    const MOUNTS: &str = "\
32 31 0:29 / /nowhere/cpu rw - cgroup cgroup rw,cpu
38 31 0:35 / /nowhere/blkio rw - cgroup cgroup rw,blkio
41 31 0:38 / /nowhere/unified rw - cgroup2 cgroup2 rw
";
    const IDS: &str = "7:blkio:/\n1:cpu:/\n0::/\n";

    fn tree(without: &str) -> Tree {
        let mounts: String = MOUNTS
            .lines()
            .filter(|line| !line.ends_with(without))
            .map(|line| format!("{line}\n"))
            .collect();
        let options = DiscoverOptions::default();
        let hierarchies = Hierarchies::parse(&mounts, Path::new("mountinfo"), &options).unwrap();
        Tree::new(&hierarchies, &HierarchyIds::parse(IDS)).unwrap()
    }

    /// Who a css counts as whose cgroup has the id that `/work` has in the primary hierarchy.
    fn owner_of(tree: &mut Tree, subsystem: Subsystem) -> Option<u32> {
        let limits = RegistryLimits {
            entities: 10,
            slots: 10,
            cgroups: 10,
            retention_ns: 0,
        };
        let mut registry = Registry::new(limits, tree.primary(), Selection::default());
        let key = CgroupKey {
            hierarchy: tree.primary(),
            id: 42,
        };
        registry.cgroup_made(key, "/work", true, &[], Now::default());
        let seen = KernelEvent::CssSeen {
            subsystem,
            css: CssId { id: 3, serial: 30 },
            cgroup_id: 42,
            first_run: FirstRun {
                cpu: 0,
                owner: 0,
                switches: 0,
            },
        };
        tree.handle(&seen, &mut registry, Now::default())
    }

    #[test]
    fn a_css_of_a_hierarchy_that_is_not_mounted_is_nobodys() {
        let mut all = tree("-");
        assert!(all.tells_cpu() && all.tells_block());
        assert!(owner_of(&mut all, Subsystem::Cpu).is_some());
        let mut no_block = tree("rw,blkio");
        assert!(no_block.tells_cpu() && !no_block.tells_block());
        assert!(owner_of(&mut no_block, Subsystem::Cpu).is_some());
        assert_eq!(owner_of(&mut no_block, Subsystem::Block), None);
        let mut no_cpu = tree("rw,cpu");
        assert!(!no_cpu.tells_cpu());
        assert_eq!(no_cpu.primary(), 0, "the unified one");
        assert_eq!(owner_of(&mut no_cpu, Subsystem::Cpu), None);
    }
}
