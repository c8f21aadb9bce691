//! Errors of the cgroup readers.

use std::{io, path::PathBuf};

/// What can go wrong when cgroups are read.
///
/// A cgroup or process that vanished is not an error.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file or directory exists, but could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The mount table holds no cgroup file system.
    #[error(
        "no cgroup file system is mounted according to {}: mount one on the host \
         (mount -t cgroup2 none /sys/fs/cgroup), or, in a container, give the agent the host's \
         (volume /sys/fs/cgroup:/host/sys/fs/cgroup:ro) and set cgroup_root to it",
        mountinfo.display()
    )]
    NoMount {
        /// The mount table that was read.
        mountinfo: PathBuf,
    },
    /// Cgroup file systems are mounted, but none at or below the configured root.
    #[error(
        "no cgroup file system is mounted at or below cgroup_root {} according to {}: \
         set cgroup_root to where the host's /sys/fs/cgroup is mounted, or leave it unset",
        cgroup_root.display(), mountinfo.display()
    )]
    NoMountBelowRoot {
        /// The configured root.
        cgroup_root: PathBuf,
        /// The mount table that was read.
        mountinfo: PathBuf,
    },
}
