//! Keeps the registry in step with the cgroup trees: by the kernel's events, and by a walk where
//! events are missing.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use crate::{
    bpf::{CssId, KernelEvent, Subsystem},
    cgroup::{HierarchyIds, Mount, WalkLimits, has_processes, walk},
    container::{CgroupKey, Now, Registry},
};

/// A hierarchy whose cgroups own something that is counted.
#[derive(Clone, Debug)]
struct Watched {
    id: u32,
    mount: Mount,
}

/// The hierarchies of the cpu and block controllers: two on v1, one on v2.
#[derive(Debug)]
pub(super) struct Tree {
    cpu: Watched,
    block: Option<Watched>,
    /// Css of cgroups that were unknown when they were seen; looked for by the next walk.
    pending: Vec<(CgroupKey, Subsystem, CssId)>,
    last_walk: Option<Instant>,
    walk_wanted: bool,
    truncated: bool,
}

/// Shortest time between two walks.
const WALK_INTERVAL: Duration = Duration::from_secs(1);
/// Css that may wait for a walk; the rest are counted as other.
const MOST_PENDING: usize = 4_096;

impl Tree {
    pub(super) fn new(cpu: Mount, block: Option<Mount>, ids: &HierarchyIds) -> Self {
        let id = |controller| ids.of_v1_controller(controller).unwrap_or(0);
        let cpu = Watched {
            id: id("cpu"),
            mount: cpu,
        };
        let block = block.map(|mount| Watched {
            id: id("blkio"),
            mount,
        });
        Self {
            cpu,
            block,
            pending: Vec::new(),
            last_walk: None,
            walk_wanted: true,
            truncated: false,
        }
    }

    /// Hierarchy of the cpu controller.
    pub(super) fn primary(&self) -> u32 {
        self.cpu.id
    }

    /// Whether the last walk left cgroups out.
    pub(super) fn is_truncated(&self) -> bool {
        self.truncated
    }

    fn hierarchy(&self, subsystem: Subsystem) -> u32 {
        match (subsystem, &self.block) {
            (Subsystem::Cpu, _) | (Subsystem::Block, None) => self.cpu.id,
            (Subsystem::Block, Some(block)) => block.id,
        }
    }

    fn is_watched(&self, hierarchy: u32) -> bool {
        hierarchy == self.cpu.id
            || self
                .block
                .as_ref()
                .is_some_and(|block| block.id == hierarchy)
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
                let key = CgroupKey {
                    hierarchy: self.hierarchy(*subsystem),
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
                if self.is_watched(*hierarchy_id) {
                    let key = CgroupKey {
                        hierarchy: *hierarchy_id,
                        id: *cgroup_id,
                    };
                    match path {
                        Some(path) => {
                            let css: Vec<_> = [(Subsystem::Cpu, cpu), (Subsystem::Block, block)]
                                .into_iter()
                                .filter_map(|(subsystem, css)| Some((subsystem, (*css)?)))
                                .collect();
                            registry.cgroup_made(key, path, false, &css, now);
                        }
                        None => self.walk_wanted = true,
                    }
                }
                None
            }
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
        let both = [Some(self.cpu.clone()), self.block.clone()];
        let mut walked = None;
        for watched in both.into_iter().flatten() {
            if walked.replace(watched.id) != Some(watched.id) {
                self.walk(&watched, registry, now);
            }
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
                tracing::warn!(%error, "cgroup tree not walked");
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
            if registry.knows(key) {
                continue;
            }
            let populated = watched
                .mount
                .directory(&directory.path)
                .is_some_and(|path| has_processes(&path).unwrap_or(false));
            registry.cgroup_made(key, &directory.path, populated, &[], now);
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
