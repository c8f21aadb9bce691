//! A disk whose latency can be set: a file system over a loop device over a file that this process serves.
//!
//! Needs FUSE and loop devices of the kernel, and root. The file is the only one of a FUSE file system, which is
//! mounted over a regular file, as QEMU exports its images; its contents are in memory. `mount -o loop` makes the
//! loop device, which goes with its mount, and the file's own mount is taken away as soon as the loop device has it
//! open, so that one mount is all that there is to undo.
//!
//! What could wait for itself, and does not: the requests are answered by a thread that does nothing else and opens
//! no file, so that whoever reads, syncs or unmounts, in this process too, waits for another thread. Memory that it
//! wants is not made free by writing to a disk, this one among them (`PR_SET_IO_FLUSHER`), where it may ask for
//! that. Where this process is killed, the kernel answers all that waits with an error: the mount stays, and
//! nobody hangs at it.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyOpen, ReplyWrite, Request, Session,
    WriteFlags,
};
use tempfile::TempDir;

use crate::wait_until;

/// What fits onto the disk, with what the file system takes, bytes.
const SIZE: usize = 64 << 20;
/// How long the file system may be in use when it is to be unmounted, and the file when that is done.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// `include/uapi/linux/prctl.h`.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// A disk that is mounted. Dropping it unmounts it and ends what serves it.
pub struct SlowDisk {
    directory: TempDir,
    delay_us: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

impl SlowDisk {
    /// What is missing here for one; `None` where nothing is.
    #[must_use]
    pub fn lacks() -> Option<&'static str> {
        let opens = |path: &str| File::options().read(true).write(true).open(path).is_ok();
        let runs = |program: &str, argument: &str| {
            let output = Command::new(program).arg(argument).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !opens("/dev/fuse") {
            return Some("the kernel has no FUSE");
        }
        if !opens("/dev/loop-control") {
            return Some("the kernel has no loop devices");
        }
        if !runs("mkfs.ext4", "-V") {
            return Some("there is no mkfs.ext4 (package e2fsprogs)");
        }
        // Busybox has one that knows less.
        (!runs("mount", "--version")).then_some("there is no mount of util-linux")
    }

    /// Makes one and mounts it. Each request takes `delay` and what the way to the server takes, some tens of
    /// microseconds; requests are served one after the other.
    ///
    /// # Errors
    ///
    /// Something is missing ([`lacks`](Self::lacks)), or the kernel refuses.
    pub fn new(delay: Duration) -> Result<Self> {
        let directory = TempDir::with_prefix("ctrscope-disk-")?;
        let image = directory.path().join("image");
        File::create(&image)?;
        fs::create_dir(directory.path().join("mounted"))?;
        let delay_us = Arc::new(AtomicU64::new(0));
        let file = OneFile {
            bytes: Mutex::new(vec![0; SIZE]),
            delay_us: Arc::clone(&delay_us),
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("ctrscope-disk".to_owned())];
        let session =
            Session::new(file, &image, &config).context("cannot mount a FUSE file system")?;
        let server = thread::Builder::new().name("slow-disk".to_owned());
        let server = server.spawn(move || serve(session))?;
        // From here on a failure takes away what there is.
        let disk = Self {
            directory,
            delay_us,
            server,
        };
        disk.mount(&image)?;
        disk.set_delay(delay);
        Ok(disk)
    }

    fn mount(&self, image: &Path) -> Result<()> {
        // No journal, whose thread would have requests of its own, and all is written now, not by the kernel
        // later. Blocks as long as what is read, so that a read is one request.
        let features = ["-O", "^has_journal", "-b", "4096", "-N", "64", "-m", "0"];
        let extended = "nodiscard,lazy_itable_init=0";
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", extended])
            .args(features)
            .arg(image))?;
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", "loop,noatime"])
            .arg(image)
            .arg(self.path()))?;
        unmount(image, libc::MNT_DETACH).context("cannot detach the FUSE file system")
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// Sets how long each request takes that comes from now on.
    pub fn set_delay(&self, delay: Duration) {
        let us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.delay_us.store(us, Ordering::Relaxed);
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        self.set_delay(Duration::ZERO);
        let path = self.path();
        let unmounted = wait_until(END_PATIENCE, "nobody at the disk", || {
            match unmount(&path, 0) {
                Ok(()) => Ok(Some(())),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(None),
                // It was not mounted.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Some(())),
                Err(error) => Err(error.into()),
            }
        });
        if let Err(error) = unmounted {
            eprintln!("{} is unmounted when it is left: {error:#}", path.display());
            let _ = unmount(&path, libc::MNT_DETACH);
        }
        // Still there if not all was made.
        let _ = unmount(&self.directory.path().join("image"), libc::MNT_DETACH);
        let ended = wait_until(END_PATIENCE, "the end of the disk", || {
            Ok(self.server.is_finished().then_some(()))
        });
        if let Err(error) = ended {
            // A mount namespace has a copy of the mount. It is served until it ends, or this process.
            eprintln!("{error:#}");
        }
    }
}

/// Answers requests until the file system is mounted nowhere and its file is closed.
fn serve(session: Session<OneFile>) {
    // Linux 5.6, with `CAP_SYS_RESOURCE`. Without it the same holds as long as the machine has memory left.
    // SAFETY: numbers alone. It is of this thread and of those that it starts.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if let Err(error) = session.run() {
        eprintln!("the slow disk failed: {error}");
    }
}

fn unmount(path: &Path, flags: i32) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a string that ends with zero.
    if unsafe { libc::umount2(path.as_ptr(), flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The file system: its root is its only file. What it does not answer (locks, attributes, `fsync`, which has
/// nothing to do) the library refuses as not there, and the kernel does not ask again.
struct OneFile {
    bytes: Mutex<Vec<u8>>,
    delay_us: Arc<AtomicU64>,
}

impl OneFile {
    /// As long as the device takes for a request.
    fn delay(&self) {
        let us = self.delay_us.load(Ordering::Relaxed);
        if us > 0 {
            thread::sleep(Duration::from_micros(us));
        }
    }
}

impl Filesystem for OneFile {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let epoch = SystemTime::UNIX_EPOCH;
        let attributes = FileAttr {
            ino,
            size: SIZE as u64,
            blocks: SIZE as u64 / 512,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: epoch,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(3600), &attributes);
    }

    /// Past the page cache, in which a read would find what an earlier one left.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.delay();
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let range = within(offset, size as usize, bytes.len());
        reply.data(bytes.get(range).unwrap_or_default());
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.delay();
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let range = within(offset, data.len(), bytes.len());
        match bytes.get_mut(range) {
            Some(place) if place.len() == data.len() => {
                place.copy_from_slice(data);
                reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
            }
            _ => reply.error(Errno::ENOSPC),
        }
    }
}

/// What there is of `length` bytes from `offset` in a file of `size` bytes.
fn within(offset: u64, length: usize, size: usize) -> Range<usize> {
    let begin = usize::try_from(offset).unwrap_or(size).min(size);
    begin..begin.saturating_add(length).min(size)
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn nothing_is_beyond_the_end_of_the_disk() {
        assert_eq!(within(0, 4, 10), 0..4);
        assert_eq!(within(8, 4, 10), 8..10);
        assert_eq!(within(10, 4, 10), 10..10);
        assert_eq!(within(u64::MAX, usize::MAX, 10), 10..10);
        assert_eq!(within(1, usize::MAX, 10), 1..10);
    }
}
