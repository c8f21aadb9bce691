//! Opens files that a container chose, without following it out of its root or into a device.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use rustix::fs::{MemfdFlags, Mode, OFlags, ResolveFlags, memfd_create, openat2};

/// Opens a regular file below a directory for reading, as a process with that root would find it:
/// symbolic links, absolute ones and `..` included, end inside it.
///
/// Linux 5.6 (`openat2`); on older kernels, and where a seccomp filter refuses it, an error.
///
/// # Errors
///
/// The kernel's, and `InvalidInput` when it is not a regular file (which is found out without
/// opening it: a FIFO does not block and a device is not touched).
pub(super) fn open_regular_in_root(root: &Path, path: &Path) -> io::Result<File> {
    let root = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(root)?;
    open_regular_below(&root, path)
}

/// The same for a root that is open, with `O_PATH` at least.
///
/// # Errors
///
/// As [`open_regular_in_root`].
pub(super) fn open_regular_below(root: &File, path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let handle = openat2(root, path, flags, Mode::empty(), resolve)?;
    reopen_regular(&File::from(handle))
}

/// Opens a regular file for reading, following links, those below `/proc` too.
///
/// # Errors
///
/// As [`open_regular_in_root`].
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)?;
    reopen_regular(&handle)
}

/// Turns an `O_PATH` handle into a file to read, if it is a regular one.
fn reopen_regular(handle: &File) -> io::Result<File> {
    if !handle.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

/// Makes an anonymous file in memory.
///
/// # Errors
///
/// The kernel's.
pub(super) fn memory_file() -> io::Result<File> {
    Ok(memfd_create("ctrscope-symbols", MemfdFlags::CLOEXEC)?.into())
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::symlink, process::Command};

    use super::*;

    #[test]
    fn a_link_cannot_leave_the_root() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "outside").unwrap();
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("tmp")).unwrap();
        symlink(
            outside.path().join("secret"),
            root.path().join("tmp/absolute"),
        )
        .unwrap();
        symlink(
            format!("../../../../../..{}/secret", outside.path().display()),
            root.path().join("tmp/relative"),
        )
        .unwrap();
        symlink("/proc/self/exe", root.path().join("tmp/magic")).unwrap();
        for name in ["tmp/absolute", "tmp/relative", "tmp/magic", "tmp/missing"] {
            assert!(open_regular_in_root(root.path(), Path::new(name)).is_err());
        }
    }

    #[test]
    fn a_link_inside_the_root_is_followed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("var")).unwrap();
        std::fs::write(root.path().join("var/file"), "inside").unwrap();
        symlink("/var", root.path().join("tmp")).unwrap();
        let mut text = String::new();
        open_regular_in_root(root.path(), Path::new("/tmp/file"))
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "inside");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let root = tempfile::tempdir().unwrap();
        let status = Command::new("mkfifo")
            .arg(root.path().join("fifo"))
            .status()
            .unwrap();
        assert!(status.success());
        for name in ["fifo", "."] {
            let error = open_regular_in_root(root.path(), Path::new(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        assert!(open_regular(Path::new("/dev/null")).is_err());
        assert!(open_regular(&root.path().join("fifo")).is_err());
    }
}
