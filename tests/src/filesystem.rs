//! The file system that a directory is on.

use std::{
    ffi::CString, fs::File, io, mem, os::fd::AsRawFd as _, os::unix::ffi::OsStrExt as _, path::Path,
};

use anyhow::{Context as _, Result};

/// Those that charge writeback to the cgroup that owns the inode, on v2 with the memory and io
/// controllers: what sets `SB_I_CGROUPWB` (ext2 and ext4 share a number; `include/uapi/linux/magic.h`).
const WITH_CGROUP_WRITEBACK: [i64; 3] = [
    0xef53,      // ext4
    0x9123_683e, // btrfs
    0x5846_5342, // XFS
];

/// Whether writeback of a file in this directory can be charged to a cgroup.
///
/// # Errors
///
/// The directory is gone.
pub fn has_cgroup_writeback(directory: &Path) -> Result<bool> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: plain numbers, for which zero is a value.
    let mut found: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: a valid path and a valid buffer.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("cannot look at the file system of {}", directory.display()));
    }
    Ok(WITH_CGROUP_WRITEBACK.contains(&found.f_type))
}

/// Has the file system of a directory written back, all of it: the flusher, a kernel worker, does it,
/// and the caller waits (`sync_inodes_sb`, `fs/fs-writeback.c`).
///
/// # Errors
///
/// The directory is gone, or the device failed.
pub fn sync_filesystem(directory: &Path) -> Result<()> {
    let file =
        File::open(directory).with_context(|| format!("cannot open {}", directory.display()))?;
    // SAFETY: an open descriptor.
    if unsafe { libc::syncfs(file.as_raw_fd()) } != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("cannot sync {}", directory.display()));
    }
    Ok(())
}
