//! Files that are mapped as code: which they are, and open as long as somebody may ask for them.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    sync::{Arc, Weak},
};

use rustix::process::{Resource, getrlimit};

use super::{
    maps::{self, Mapping},
    open_in_root::{memory_file, open_regular, open_regular_in_root},
};

/// Files that are kept open at most, and part of the descriptors that a process may have; later ones are looked up by
/// name when they are needed.
const MAX_OPEN: usize = 768;
const OPEN_SHARE: u64 = 4;
/// Largest vDSO, bytes.
const MAX_VDSO_BYTES: u64 = 1 << 20;

/// Which file it is. An inode that is used again is another one by its times, and so is a file that was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileIdentity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl FileIdentity {
    /// Size of the file, bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// One that is told from others by a number.
    #[cfg(test)]
    pub(crate) fn numbered(inode: u64) -> Self {
        Self {
            device: 0,
            inode,
            bytes: 0,
            modified_ns: 0,
            changed_ns: 0,
        }
    }

    fn of(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file that is mapped as code, open.
#[derive(Debug)]
pub(crate) struct Image {
    /// Which it is.
    pub(crate) identity: FileIdentity,
    /// Opened while it was mapped: the very file, deleted or not.
    pub(crate) file: File,
}

/// The files that are open.
#[derive(Debug, Default)]
pub(crate) struct Images {
    open: HashMap<FileIdentity, Weak<Image>>,
    vdso: Option<Arc<Image>>,
}

impl Images {
    /// The file of a mapping of a process, whose directory in `/proc` is given; `None` where it holds no file's bytes.
    ///
    /// # Errors
    ///
    /// The kernel's: the process has gone, the file is none of this agent's. `QuotaExceeded` if too many are open.
    pub(crate) fn of(
        &mut self,
        process: &Path,
        mapping: &Mapping,
    ) -> io::Result<Option<Arc<Image>>> {
        if &*mapping.path == "[vdso]" {
            return self.vdso().map(Some);
        }
        if !mapping.is_file() {
            return Ok(None);
        }
        let range = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
        let by_range = process.join(range);
        if let Ok(metadata) = fs::metadata(&by_range)
            && let Some(known) = self.known(FileIdentity::of(&metadata))
        {
            return Ok(Some(known));
        }
        let file = open_regular(&by_range)
            .or_else(|_| open_regular_in_root(&process.join("root"), Path::new(&*mapping.path)))?;
        let identity = FileIdentity::of(&file.metadata()?);
        if let Some(known) = self.known(identity) {
            return Ok(Some(known));
        }
        self.keep(identity, file).map(Some)
    }

    /// Keeps a file as if it had been met.
    #[cfg(test)]
    pub(crate) fn keep_file(&mut self, file: File) -> Arc<Image> {
        let identity = FileIdentity::of(&file.metadata().unwrap());
        self.keep(identity, file).unwrap()
    }

    fn known(&self, identity: FileIdentity) -> Option<Arc<Image>> {
        self.open.get(&identity)?.upgrade()
    }

    fn keep(&mut self, identity: FileIdentity, file: File) -> io::Result<Arc<Image>> {
        let most = most_open();
        if self.open.len() >= most {
            self.open.retain(|_, image| image.strong_count() > 0);
            if self.open.len() >= most {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
        }
        let image = Arc::new(Image { identity, file });
        self.open.insert(identity, Arc::downgrade(&image));
        Ok(image)
    }

    fn vdso(&mut self) -> io::Result<Arc<Image>> {
        if let Some(vdso) = &self.vdso {
            return Ok(Arc::clone(vdso));
        }
        let file = own_vdso()?;
        let identity = FileIdentity::of(&file.metadata()?);
        let image = self.keep(identity, file)?;
        Ok(Arc::clone(self.vdso.insert(image)))
    }
}

fn most_open() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let share = limit.map_or(MAX_OPEN as u64, |limit| limit / OPEN_SHARE);
    usize::try_from(share).map_or(MAX_OPEN, |share| share.min(MAX_OPEN))
}

/// A copy of this process' vDSO, which is that of every process of 64 bits.
fn own_vdso() -> io::Result<File> {
    let mappings = maps::parse(&fs::read_to_string("/proc/self/maps")?);
    let vdso = mappings
        .iter()
        .find(|mapping| &*mapping.path == "[vdso]")
        .ok_or(io::ErrorKind::NotFound)?;
    let length = (vdso.end - vdso.start).min(MAX_VDSO_BYTES);
    let mut image = vec![0; usize::try_from(length).unwrap_or(0)];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, vdso.start)?;
    let copy = memory_file()?;
    copy.write_all_at(&image, 0)?;
    Ok(copy)
}
