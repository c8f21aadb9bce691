//! Directories of cgroups, and files in them, that are kept open between readings.
//!
//! To open a file by its path costs as much as to read it, and more on a busy machine: the path is walked
//! component by component. Through a directory that is open there is one component; through a file that is
//! open, none. Whoever holds a directory also knows that it is still the same cgroup: one that was removed
//! and made again at its path is another directory, and what is held of the former one says that it has gone.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use super::mount::Mount;

/// How many descriptors may be kept. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Handles {
    free: Arc<AtomicUsize>,
}

/// Most descriptors that are kept: three directories of each of a thousand containers, and eight files of
/// some hundred busy ones.
const MOST_HANDLES: usize = 4_096;

impl Handles {
    /// As many as leave half of what this process may open to others; at most [`MOST_HANDLES`].
    pub(crate) fn of_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let limit = limit.current.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        Self::new((limit / 2).min(MOST_HANDLES))
    }

    pub(super) fn new(count: usize) -> Self {
        Self {
            free: Arc::new(AtomicUsize::new(count)),
        }
    }

    fn take(&self) -> Option<Handle> {
        self.free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                free.checked_sub(1)
            })
            .ok()?;
        Some(Handle(Arc::clone(&self.free)))
    }
}

/// The right to keep one descriptor.
#[derive(Debug)]
struct Handle(Arc<AtomicUsize>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A descriptor that counts.
#[derive(Debug)]
struct Kept {
    fd: OwnedFd,
    _handle: Handle,
}

/// A cgroup's directory in one hierarchy.
#[derive(Debug)]
pub(crate) struct OpenDirectory {
    directory: Kept,
    inode: u64,
    files: Vec<(&'static str, Kept)>,
}

impl OpenDirectory {
    /// Opens it; `None` where it is not there, is outside of the mount, or no more may be kept.
    pub(crate) fn open(mount: &Mount, cgroup: &str, handles: &Handles) -> Option<Self> {
        let path = mount.directory(cgroup)?;
        let handle = handles.take()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, &path, flags, Mode::empty()).ok()?;
        let inode = fstat(&fd).ok()?.st_ino;
        Some(Self {
            directory: Kept {
                fd,
                _handle: handle,
            },
            inode,
            files: Vec::new(),
        })
    }

    /// Which cgroup it is.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// A file of it, to be read through `read`. It is kept where `keep` says so and there is room.
    pub(super) fn with_file<T>(
        &mut self,
        name: &'static str,
        keep: Option<&Handles>,
        opened: &mut u64,
        read: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        if let Some((_, file)) = self.files.iter().find(|(kept, _)| *kept == name) {
            return read(file.fd.as_fd());
        }
        *opened += 1;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(&self.directory.fd, name, flags, Mode::empty())?;
        let result = read(fd.as_fd());
        if let Some(handle) = keep.and_then(Handles::take) {
            self.files.push((
                name,
                Kept {
                    fd,
                    _handle: handle,
                },
            ));
        }
        result
    }

    /// Keeps no file of it any more.
    pub(crate) fn close_files(&mut self) {
        self.files = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{fake::Tree, file::FileReader};

    fn open(tree: &Tree, handles: &Handles) -> Option<OpenDirectory> {
        OpenDirectory::open(tree.hierarchies.cpu.as_ref().unwrap(), "/a", handles)
    }

    #[test]
    fn what_is_kept_is_read_anew_and_counted() {
        let tree = Tree::v2();
        tree.write("a/cpu.stat", "nr_periods 1\n");
        let handles = Handles::new(2);
        let mut directory = open(&tree, &handles).unwrap();
        let mut reader = FileReader::new();
        for (periods, opened) in [(1, 1), (2, 1), (3, 1)] {
            tree.write("a/cpu.stat", &format!("nr_periods {periods}\n"));
            let text = reader.read_kept(&mut directory, "cpu.stat", Some(&handles));
            assert_eq!(
                text.unwrap(),
                Some(format!("nr_periods {periods}\n").as_str())
            );
            assert_eq!(reader.opened(), opened);
        }
        // Directory and file; then there is room for no other, which is read all the same.
        assert!(open(&tree, &handles).is_none());
        tree.write("a/cpu.max", "max 100000\n");
        let text = reader.read_kept(&mut directory, "cpu.max", Some(&handles));
        assert_eq!(text.unwrap(), Some("max 100000\n"));
        directory.close_files();
        assert!(open(&tree, &handles).is_some());
        drop(directory);
        assert_eq!(handles.free.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_directory_made_again_is_another_one() {
        let tree = Tree::v2();
        tree.write("a/cpu.stat", "nr_periods 1\n");
        let handles = Handles::new(8);
        let mut former = open(&tree, &handles).unwrap();
        // Kept aside, so that the file system does not use its inode again.
        std::fs::rename(tree.path("a"), tree.path("former")).unwrap();
        tree.remove("former/cpu.stat");
        tree.write("a/cpu.stat", "nr_periods 7\n");
        let mut reader = FileReader::new();
        let text = reader.read_kept(&mut former, "cpu.stat", None);
        assert_eq!(text.unwrap(), None, "the former one has gone");
        let now = open(&tree, &handles).unwrap();
        assert_ne!(now.inode(), former.inode());
    }

    #[test]
    fn a_long_file_is_read_to_its_end_through_a_descriptor() {
        let tree = Tree::v2();
        let text = "x 1\n".repeat(5_000);
        tree.write("a/memory.stat", &text);
        let mut directory = open(&tree, &Handles::new(8)).unwrap();
        let mut reader = FileReader::new();
        let read = reader.read_kept(&mut directory, "memory.stat", None);
        assert_eq!(read.unwrap(), Some(text.as_str()));
    }
}
