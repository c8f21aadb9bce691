//! Files of modules, opened by way of the processes that have them mapped.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Instant};

use ctrscope_ebpf::profile::ProgramKey;

use super::{
    super::{
        image::{Image, Images},
        maps::Mapping,
        perf_map, process,
    },
    Symbolizer,
};

impl Symbolizer {
    /// The root directory of a process that has a file mapped and lives, and the path of the file in there; none where
    /// processes with other roots have it mapped as well: the debug file of one would name it for the others.
    pub(super) fn living_root(
        &self,
        openers: &[(ProgramKey, Mapping)],
    ) -> Option<(PathBuf, Arc<str>)> {
        let mut roots = openers.iter().filter_map(|(program, mapping)| {
            let process = self.processes.get(program)?;
            let root = process::folder(&self.proc_root, process.task).join("root");
            let metadata = fs::metadata(&root).ok().filter(|_| process.alive)?;
            Some(((metadata.dev(), metadata.ino()), root, &mapping.path))
        });
        let (first, root, path) = roots.next()?;
        roots
            .all(|(other, ..)| other == first)
            .then(|| (root, Arc::clone(path)))
    }

    /// Opens the file of a module through one of the processes that have it mapped.
    pub(super) fn open_module(&self, openers: &[(ProgramKey, Mapping)]) -> io::Result<Arc<Image>> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for (program, mapping) in openers {
            let process = self.processes.get(program);
            let Some(process) = process.filter(|known| known.alive) else {
                continue;
            };
            let folder = process::folder(&self.proc_root, process.task);
            match Images::default().of(&folder, mapping) {
                Ok(Some(image)) => return Ok(image),
                Ok(None) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Names of generated code by the perf map of its process.
    pub(super) fn read_perf_map(
        &self,
        program: ProgramKey,
        addresses: &[u64],
        deadline: Instant,
    ) -> io::Result<Vec<Option<Arc<str>>>> {
        let process = self.processes.get(&program);
        let process = process.ok_or(io::ErrorKind::NotFound)?;
        let root = process.root.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let map = perf_map::open(root, process.own_pid)?;
        perf_map::resolve(map, addresses, deadline)
    }
}
