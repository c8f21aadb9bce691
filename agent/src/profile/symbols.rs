//! Names that were found, kept from one recording to the next.

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    image::FileIdentity,
    kallsyms::{self, CoreSymbols},
};

/// Most names that are kept, and most bytes of them; beyond, files that were asked for longest ago are forgotten.
const MAX_NAMES: usize = 1 << 18;
const MAX_NAME_BYTES: usize = 8 << 20;
/// How long what could not be read of the kernel is not read again.
const KERNEL_RETRY: Duration = Duration::from_secs(10);

/// Names of places in files, and of the kernel's own functions. Some 2 MB for the kernel, and 40 bytes and the name for
/// each place in a file, at most 18 MB.
#[derive(Debug, Default)]
pub(crate) struct SymbolCache {
    files: HashMap<FileIdentity, FileNames>,
    names: usize,
    bytes: usize,
    core: Option<CoreSymbols>,
    /// When it was read last.
    core_read: Option<Instant>,
}

#[derive(Debug)]
struct FileNames {
    names: HashMap<u64, Option<Arc<str>>>,
    bytes: usize,
    used: Instant,
}

impl SymbolCache {
    /// What is known of the names of offsets into a file; `None` where nobody has looked.
    pub(super) fn of_file(
        &mut self,
        file: FileIdentity,
        offsets: &[u64],
    ) -> Vec<Option<Option<Arc<str>>>> {
        let known = self.files.get_mut(&file).map(|known| {
            known.used = Instant::now();
            &known.names
        });
        let name = |offset: &u64| known.and_then(|known| known.get(offset)).cloned();
        offsets.iter().map(name).collect()
    }

    /// Keeps what was found.
    pub(super) fn keep(&mut self, file: FileIdentity, fresh: &[(u64, Option<Arc<str>>)]) {
        let names = fresh.iter().filter_map(|(_, name)| name.as_ref());
        let bytes: usize = names.map(|name| name.len()).sum();
        if fresh.len() > MAX_NAMES / 4 || bytes > MAX_NAME_BYTES / 4 {
            return;
        }
        while self.names + fresh.len() > MAX_NAMES || self.bytes + bytes > MAX_NAME_BYTES {
            let oldest = self.files.iter().min_by_key(|(_, names)| names.used);
            let Some(oldest) = oldest.map(|(identity, _)| *identity) else {
                return;
            };
            if let Some(gone) = self.files.remove(&oldest) {
                self.names -= gone.names.len();
                self.bytes -= gone.bytes;
            }
        }
        let known = self.files.entry(file).or_insert_with(|| FileNames {
            names: HashMap::new(),
            bytes: 0,
            used: Instant::now(),
        });
        for (offset, name) in fresh {
            if known.names.insert(*offset, name.clone()).is_none() {
                self.names += 1;
                let bytes = name.as_ref().map_or(0, |name| name.len());
                known.bytes += bytes;
                self.bytes += bytes;
            }
        }
    }

    /// The functions of kernel addresses, which must be sorted, by `/proc/kallsyms`. The kernel's own are read once;
    /// modules and BPF programs come and go, so that an address among them has the file read, for 45 ms.
    pub(super) fn of_kernel(
        &mut self,
        proc_root: &Path,
        addresses: &[u64],
    ) -> io::Result<Vec<Option<String>>> {
        let path = proc_root.join("kallsyms");
        let is_due = self
            .core_read
            .is_none_or(|read| read.elapsed() >= KERNEL_RETRY);
        if self.core.is_none() && is_due {
            self.core_read = Some(Instant::now());
            self.core = CoreSymbols::read(File::open(&path)?)?;
        }
        let Some(core) = &self.core else {
            return kallsyms::resolve(File::open(path)?, addresses);
        };
        let others = addresses.iter().filter(|at| !core.covers(**at));
        let others: Vec<u64> = others.copied().collect();
        let mut found = Vec::new();
        if !others.is_empty() {
            found = kallsyms::resolve(File::open(path)?, &others)?;
        }
        let mut found = found.into_iter();
        let name = |at: &u64| {
            if core.covers(*at) {
                core.name(*at).map(str::to_owned)
            } else {
                found.next().flatten()
            }
        };
        Ok(addresses.iter().map(name).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(number: u64) -> FileIdentity {
        FileIdentity::numbered(number)
    }

    #[test]
    fn what_was_found_is_known_and_so_is_that_there_is_nothing() {
        let mut cache = SymbolCache::default();
        assert_eq!(cache.of_file(identity(1), &[1, 2]), [None, None]);
        let name: Arc<str> = "f".into();
        cache.keep(identity(1), &[(1, None), (2, Some(Arc::clone(&name)))]);
        let known = cache.of_file(identity(1), &[1, 2, 3]);
        assert_eq!(known, [Some(None), Some(Some(name)), None]);
        assert_eq!(cache.of_file(identity(2), &[2]), [None]);
    }

    #[test]
    fn what_was_asked_for_longest_ago_makes_room() {
        let mut cache = SymbolCache::default();
        let name = Some(Arc::from("x"));
        let many = |count: usize| -> Vec<_> {
            let offsets = 0..count as u64;
            offsets.map(|offset| (offset, name.clone())).collect()
        };
        for file in 0..6 {
            cache.keep(identity(file), &many(MAX_NAMES / 4));
            assert!(cache.names <= MAX_NAMES && cache.bytes <= MAX_NAME_BYTES);
        }
        assert_eq!(cache.files.len(), 4);
        assert!(!cache.files.contains_key(&identity(0)));
        // One that would drive out all others is not kept.
        cache.keep(identity(9), &many(MAX_NAMES));
        assert_eq!(cache.files.len(), 4);
        // The same once more takes no more room.
        let before = (cache.names, cache.bytes);
        cache.keep(identity(5), &many(10));
        assert!(cache.names <= before.0 && cache.bytes <= before.1);
    }

    #[test]
    fn the_kernel_is_read_once_and_what_comes_and_goes_each_time() {
        let proc_root = tempfile::tempdir().unwrap();
        let path = proc_root.path().join("kallsyms");
        let text = "ffffffff81000000 T _stext\nffffffff81000100 t schedule\n\
                    ffffffff81000300 T _etext\nffffffffc0000000 t first\t[one]\n";
        std::fs::write(&path, text).unwrap();
        let mut cache = SymbolCache::default();
        let addresses = [0xffff_ffff_8100_0104, 0xffff_ffff_c000_0010];
        let mut names = || {
            let names = cache.of_kernel(proc_root.path(), &addresses).unwrap();
            names.map_into_text()
        };
        assert_eq!(names(), "schedule first");
        std::fs::write(&path, "ffffffffc0000000 t second\t[two]\n").unwrap();
        assert_eq!(names(), "schedule second");
    }

    trait Text {
        fn map_into_text(self) -> String;
    }

    impl Text for Vec<Option<String>> {
        fn map_into_text(self) -> String {
            let names = self.into_iter().map(Option::unwrap_or_default);
            names.collect::<Vec<_>>().join(" ")
        }
    }
}
