//! Cgroups: where the hierarchies are mounted, what a path belongs to, and the kernel's own account
//! of a cgroup (cpu, memory, pressure, io), for cgroup v1, v2 and hybrid hosts.
//!
//! The parsers are pure (`&str` in, struct out); the readers take a root path. A cgroup or process that
//! vanished while it was read is normal life: `Ok(None)`. A file or a key that is absent is `None`,
//! never zero.
//!
//! A *cgroup path* is the path of a cgroup below the root of its hierarchy, with a leading slash
//! (`/system.slice/docker-….scope`), as `/proc/PID/cgroup` shows it to PID 1 of the host.

mod account;
mod bandwidth;
mod cpu;
mod cpuset;
mod directory;
mod error;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod hierarchy;
mod io;
mod io_limit;
mod memory;
mod memory_use;
mod mount;
mod name;
mod namespace;
mod path;
mod pressure;
mod process;
mod tree;

#[cfg(test)]
pub(crate) mod fake;

pub(crate) use account::{AccountReader, OpenCgroup, Said};
pub use bandwidth::{Bandwidth, Quota, read_bandwidth};
pub use cpu::{
    CpuLimits, CpuStat, Periods, parse_cfs_quota, parse_cpu_max, parse_cpu_stat, weight_of_shares,
};
pub use cpuset::read_cpuset;
pub(crate) use directory::Handles;
pub use error::CgroupError;
pub use file::FileReader;
pub use hierarchy::{DiscoverOptions, Hierarchies, HierarchyIds, Mode};
pub use io::{DeviceIo, DeviceNumber, IoByDevice, parse_blkio, parse_io_stat, read_io};
pub use io_limit::{IoLimit, IoLimits, parse_io_max, parse_throttle_device, read_io_limits};
pub use memory::{MemoryCounts, parse_inactive_file, parse_memory_limit, parse_oom_kills};
pub use memory_use::{
    MemoryLimits, MemoryStat, MemoryUse, parse_memory_stat_v1, parse_memory_stat_v2,
    read_memory_limits, read_memory_use,
};
pub use mount::{Mount, Version};
pub use name::text_of;
pub use namespace::enter_that_of_init;
pub use path::{PathIdentity, identify, user_of};
pub use pressure::{Pressure, PressureTimes, parse_pressure, read_host_pressure, read_pressure};
pub use process::{
    Membership, ProcessStatus, is_pause, parse_memberships, parse_status, read_memberships,
    read_status,
};
pub use tree::{CgroupDir, Walk, WalkLimits, has_processes, processes, walk};

/// The path of the cgroup above; `None` above the root.
#[must_use]
pub fn path_of_parent(cgroup_path: &str) -> Option<&str> {
    let path = cgroup_path.trim_end_matches('/');
    let (parent, _) = path.rsplit_once('/')?;
    Some(if parent.is_empty() { "/" } else { parent })
}
