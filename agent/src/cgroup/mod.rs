//! Cgroups: where the hierarchies are mounted, what a path belongs to, and the kernel's own account
//! of a cgroup (cpu, memory, pressure, io), for cgroup v1, v2 and hybrid hosts.
//!
//! The parsers are pure (`&str` in, struct out); the readers take a root path. A cgroup or process that
//! vanished while it was read is normal life: `Ok(None)`. A file or a key that is absent is `None`,
//! never zero.
//!
//! A *cgroup path* is the path of a cgroup below the root of its hierarchy, with a leading slash
//! (`/system.slice/docker-….scope`), as `/proc/PID/cgroup` shows it to PID 1 of the host.

mod cpu;
mod error;
mod file;
mod hierarchy;
mod io;
mod memory;
mod mount;
mod path;
mod pressure;
mod process;
mod tree;

#[cfg(test)]
mod fake;

pub use cpu::{
    CpuStat, parse_cfs_quota, parse_cpu_max, parse_cpu_stat, read_cpu, read_cpu_usage_ns,
    weight_of_shares,
};
pub use error::CgroupError;
pub use file::FileReader;
pub use hierarchy::{DiscoverOptions, Hierarchies, HierarchyIds, Mode};
pub use io::{DeviceIo, DeviceNumber, IoByDevice, parse_blkio, parse_io_stat, read_io};
pub use memory::{parse_inactive_file, parse_memory_limit, parse_oom_kills, read_memory};
pub use mount::{Mount, Version};
pub use path::{PathIdentity, identify};
pub use pressure::{parse_pressure, read_host_pressure, read_pressure};
pub use process::{
    Membership, ProcessStatus, is_pause, parse_memberships, parse_status, read_memberships,
    read_status,
};
pub use tree::{CgroupDir, Walk, WalkLimits, has_processes, processes, walk};
