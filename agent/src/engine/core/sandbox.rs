//! Which container of a pod is its sandbox, where no runtime says so.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use crate::{
    cgroup::{FileReader, is_pause, processes},
    container::{Entity, Registry},
    engine::files::FileThread,
    snapshot::Kind,
};

/// How often a pod's container is looked at.
const LOOKS: u8 = 3;

/// A pod's sandbox runs nothing but `pause`. A container is looked at a few times after it appeared, each time that
/// its files have been read: at first its only process may still be the runtime's.
#[derive(Debug, Default)]
pub(super) struct Sandboxes {
    reader: FileReader,
    /// Looks so far, and the reading at the last one, by path.
    looks: HashMap<String, (u8, u64)>,
}

/// Whether it is worth a look. The runtime's word is better.
fn is_candidate(entity: &Entity) -> bool {
    entity.has_files()
        && entity.exited.is_none()
        && entity.metadata.is_none()
        && entity.identity.kind == Kind::Container
        && !entity.identity.pod_uid.is_empty()
}

impl Sandboxes {
    /// Looks at those whose turn it is.
    pub(super) fn look(&mut self, registry: &mut Registry, files: &FileThread, proc_root: &Path) {
        let hierarchies = files.hierarchies();
        let mount = hierarchies.cpu.as_ref().or(hierarchies.unified.as_ref());
        let Some(mount) = mount else {
            return;
        };
        let mut kept = 0;
        for entity in registry.entities_mut().filter(|one| is_candidate(one)) {
            kept += 1;
            let number = files.said(&entity.owner_path).map_or(0, |said| said.number);
            let (looks, last) = match self.looks.get(&entity.owner_path) {
                Some(&known) => known,
                None => (0, 0),
            };
            if number == last || looks >= LOOKS {
                continue;
            }
            self.looks
                .insert(entity.owner_path.clone(), (looks + 1, number));
            let Some(directory) = mount.directory(&entity.identity.cgroup) else {
                continue;
            };
            let pids = processes(&mut self.reader, &directory, 2).unwrap_or_default();
            if is_pause(&mut self.reader, proc_root, &pids) {
                Arc::make_mut(&mut entity.identity).kind = Kind::Sandbox;
            }
        }
        if self.looks.len() > kept {
            let candidates = registry.entities().filter(|one| is_candidate(one));
            let paths: HashSet<&str> = candidates.map(|one| one.owner_path.as_str()).collect();
            self.looks.retain(|path, _| paths.contains(path.as_str()));
        }
    }

    /// Forgets one that has gone.
    pub(super) fn forget(&mut self, path: &str) {
        self.looks.remove(path);
    }
}
