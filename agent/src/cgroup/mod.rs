//! Cgroups: where the hierarchies are mounted, what a path belongs to, and the kernel's own account
//! of a cgroup (cpu, memory, pressure, io), for cgroup v1, v2 and hybrid hosts.
//!
//! The parsers are pure (`&str` in, struct out); the readers take a root path. A cgroup or process that
//! vanished while it was read is normal life: `Ok(None)`. A file or a key that is absent is `None`,
//! never zero.
//!
//! A *cgroup path* is the path of a cgroup below the root of its hierarchy, with a leading slash
//! (`/system.slice/docker-….scope`), as `/proc/PID/cgroup` shows it to PID 1 of the host.

mod error;
mod file;
mod hierarchy;
mod mount;
mod path;
mod process;

pub use error::CgroupError;
pub use file::FileReader;
pub use hierarchy::{DiscoverOptions, Hierarchies, HierarchyIds, Mode};
pub use mount::{Mount, Version};
pub use path::{PathIdentity, identify};
pub use process::{
    Membership, ProcessStatus, is_pause, parse_memberships, parse_status, read_memberships,
    read_status,
};
