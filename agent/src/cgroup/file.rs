//! Reading of the small files of the cgroup and proc file systems.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::{fd::BorrowedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    str::{self, FromStr},
};

use super::{
    directory::{Handles, OpenDirectory},
    error::CgroupError,
    mount::Mount,
};

/// Longest file that is read, bytes. The longest in practice, `memory.stat`, has some 2 KiB, `io.stat` some
/// 100 bytes for each device.
const MAX_FILE_BYTES: usize = 64 << 10;

/// Reads files into a buffer that it keeps: one open, read and close for each file, no allocation once the
/// buffer has grown. At most 64 KiB of a file are read; of a longer one the last, incomplete line is left
/// out.
#[derive(Debug)]
pub struct FileReader {
    /// Grows and is never cleared: clearing and zeroing it again would cost more than most reads.
    buffer: Vec<u8>,
    /// Bytes of the buffer that are the file last read.
    used: usize,
    limit: usize,
    opened: u64,
}

impl Default for FileReader {
    fn default() -> Self {
        Self::with_limit(MAX_FILE_BYTES)
    }
}

impl FileReader {
    /// A reader with an empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A reader for files up to `limit` bytes.
    pub(crate) fn with_limit(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            used: 0,
            limit,
            opened: 0,
        }
    }

    /// Files that it has opened, or tried to: nearly all of what it costs.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// The text of a file; `None` if it is not there, or its cgroup or process vanished, or the kernel
    /// does not keep what it would tell (pressure with `psi=0`). Bytes after the first that is no UTF-8 are
    /// left out. A symbolic link is not followed.
    pub(crate) fn read(&mut self, path: &Path) -> Result<Option<&str>, CgroupError> {
        match self.fill(path) {
            Ok(complete) => Ok(Some(self.text(complete))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(CgroupError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// The bytes of a file whose names can be anything; else as [`read`](Self::read).
    pub(super) fn read_bytes(&mut self, path: &Path) -> Result<Option<&[u8]>, CgroupError> {
        match self.fill(path) {
            Ok(complete) => Ok(Some(self.bytes(complete))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(CgroupError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Whether a file holds anything; not if it is not there or its cgroup vanished. Reads up to its limit.
    pub(super) fn holds_any(&mut self, path: &Path) -> Result<bool, CgroupError> {
        match self.fill(path) {
            Ok(_) => Ok(self.used > 0),
            Err(error) if is_absent(&error) => Ok(false),
            Err(source) => Err(CgroupError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// A file of a directory that is open, which is kept open where `keep` says so.
    #[cfg(test)]
    pub(super) fn read_kept(
        &mut self,
        directory: &mut OpenDirectory,
        name: &'static str,
        keep: Option<&Handles>,
    ) -> io::Result<Option<&str>> {
        match self.fill_in(directory, name, keep) {
            Ok(complete) => Ok(Some(self.text(complete))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn fill_in(
        &mut self,
        directory: &mut OpenDirectory,
        name: &'static str,
        keep: Option<&Handles>,
    ) -> io::Result<bool> {
        let mut opened = 0;
        let outcome = directory.with_file(name, keep, &mut opened, |file| self.fill_from(file));
        self.opened += opened;
        outcome
    }

    /// Reads a file from its beginning, as [`fill`](Self::fill), in one call where it fits: a file of a cgroup is
    /// one record of `seq_file`, so what is shorter than the room for it is all of it (`seq_read_iter`,
    /// `fs/seq_file.c`).
    fn fill_from(&mut self, file: BorrowedFd<'_>) -> io::Result<bool> {
        self.used = 0;
        loop {
            if self.used == self.buffer.len() && !self.grow() {
                return Ok(false);
            }
            let free = self.buffer.get_mut(self.used..).unwrap_or_default();
            let room = free.len();
            match rustix::io::pread(file, free, self.used as u64) {
                Ok(count) => {
                    self.used += count;
                    if count < room {
                        return Ok(true);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes room for more; not beyond the limit. Files of kernfs and proc have no size; a page is what most
    /// of them fit into.
    fn grow(&mut self) -> bool {
        if self.used >= self.limit {
            return false;
        }
        let grown = (self.used * 2).max(4096).min(self.limit);
        self.buffer.resize(grown, 0);
        true
    }

    /// Reads as much as the limit allows; returns whether that was all.
    fn fill(&mut self, path: &Path) -> io::Result<bool> {
        self.used = 0;
        self.opened += 1;
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        loop {
            if self.used == self.buffer.len() && !self.grow() {
                return Ok(false);
            }
            let free = self.buffer.get_mut(self.used..).unwrap_or_default();
            match file.read(free) {
                Ok(0) => return Ok(true),
                Ok(count) => self.used += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What was read last, up to its last whole line if that was not all of the file.
    fn bytes(&self, complete: bool) -> &[u8] {
        let read = self.buffer.get(..self.used).unwrap_or_default();
        let end = if complete {
            read.len()
        } else {
            read.iter()
                .rposition(|&byte| byte == b'\n')
                .map_or(0, |newline| newline + 1)
        };
        read.get(..end).unwrap_or_default()
    }

    fn text(&self, complete: bool) -> &str {
        let bytes = self.bytes(complete);
        match str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => bytes
                .get(..error.valid_up_to())
                .and_then(|valid| str::from_utf8(valid).ok())
                .unwrap_or_default(),
        }
    }
}

/// One cgroup's directory in one hierarchy, and the reader to read its files with.
pub(super) struct CgroupFiles<'a> {
    reader: &'a mut FileReader,
    place: Place<'a>,
}

/// Where the files of a cgroup are.
enum Place<'a> {
    /// At a path.
    Path(PathBuf),
    /// In a directory that is open; its files are kept open as well where there are handles. The path is for
    /// errors.
    Open {
        directory: &'a mut OpenDirectory,
        keep: Option<&'a Handles>,
        path: (&'a Mount, &'a str),
    },
}

impl<'a> CgroupFiles<'a> {
    /// `None` where the path is not below the mount.
    pub(super) fn new(
        reader: &'a mut FileReader,
        mount: &Mount,
        cgroup_path: &str,
    ) -> Option<Self> {
        let path = mount.directory(cgroup_path)?;
        Some(Self {
            reader,
            place: Place::Path(path),
        })
    }

    /// The same through a directory that is open.
    pub(super) fn through(
        reader: &'a mut FileReader,
        directory: &'a mut OpenDirectory,
        keep: Option<&'a Handles>,
        path: (&'a Mount, &'a str),
    ) -> Self {
        Self {
            reader,
            place: Place::Open {
                directory,
                keep,
                path,
            },
        }
    }

    /// The text of one of its files.
    pub(super) fn read(&mut self, name: &'static str) -> Result<Option<&str>, CgroupError> {
        let outcome = match &mut self.place {
            Place::Path(path) => {
                path.push(name);
                let outcome = self.reader.fill(path);
                path.pop();
                outcome
            }
            Place::Open {
                directory, keep, ..
            } => self.reader.fill_in(directory, name, *keep),
        };
        match outcome {
            Ok(complete) => Ok(Some(self.reader.text(complete))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(CgroupError::Read {
                path: self.path().join(name),
                source,
            }),
        }
    }

    fn path(&self) -> PathBuf {
        match &self.place {
            Place::Path(path) => path.clone(),
            Place::Open {
                path: (mount, cgroup),
                ..
            } => mount.directory(cgroup).unwrap_or_default(),
        }
    }

    /// A file that is one number; `None` also where it is no number.
    pub(super) fn read_number<N: FromStr>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<N>, CgroupError> {
        Ok(self.read(name)?.and_then(|text| text.trim().parse().ok()))
    }
}

/// Not there, vanished while it was read, or not supported by this kernel.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::ENOTDIR | libc::ESRCH | libc::EOPNOTSUPP)
    )
}

/// The value of a key in a file of `KEY VALUE` lines.
pub(super) fn keyed<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim())
    })
}

/// The number of a key in a file of `KEY VALUE` lines.
pub(super) fn keyed_number(text: &str, key: &str) -> Option<u64> {
    keyed(text, key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let mut reader = FileReader::new();
        assert_eq!(reader.read(&directory.path().join("gone")).unwrap(), None);
        fs::write(directory.path().join("file"), "").unwrap();
        assert_eq!(reader.read(&directory.path().join("file/x")).unwrap(), None);
        assert_eq!(
            reader.read(&directory.path().join("file")).unwrap(),
            Some("")
        );
    }

    #[test]
    fn a_long_file_is_cut_after_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("io.stat");
        fs::write(&path, "0123456789\n".repeat(20_000)).unwrap();
        let mut reader = FileReader::new();
        let text = reader.read(&path).unwrap().unwrap();
        assert!(text.len() <= MAX_FILE_BYTES);
        assert!(text.lines().all(|line| line.len() == 10));
        fs::write(&path, "x".repeat(200_000)).unwrap();
        assert_eq!(reader.read(&path).unwrap(), Some(""));
    }

    #[test]
    fn the_buffer_is_reused_and_holds_nothing_of_the_file_before() {
        let directory = tempfile::tempdir().unwrap();
        let (long, short) = (
            directory.path().join("long"),
            directory.path().join("short"),
        );
        fs::write(&long, "9".repeat(9000)).unwrap();
        fs::write(&short, "1\n").unwrap();
        let mut reader = FileReader::new();
        assert_eq!(reader.read(&long).unwrap().unwrap().len(), 9000);
        assert_eq!(reader.read(&short).unwrap(), Some("1\n"));
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        symlink("/etc/hostname", directory.path().join("link")).unwrap();
        let refused = FileReader::new()
            .read(&directory.path().join("link"))
            .is_err();
        assert!(refused);
    }

    #[test]
    fn bytes_that_are_no_text_end_the_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"a 1\n\xff\xfe b 2\n").unwrap();
        assert_eq!(FileReader::new().read(&path).unwrap(), Some("a 1\n"));
    }

    #[test]
    fn keys_are_matched_whole() {
        let text = "total_inactive_file 2\ninactive_file 1\nbroken\nmax x\n";
        assert_eq!(keyed_number(text, "inactive_file"), Some(1));
        assert_eq!(keyed_number(text, "broken"), None);
        assert_eq!(keyed_number(text, "max"), None);
        assert_eq!(keyed(text, "max"), Some("x"));
    }
}
