//! The kernel's own account of the machine: CPUs, memory, disks and network, from `/proc` and `/sys`.
//!
//! The parsers are pure (`&str` in, struct out); the readers take root paths. What a kernel does not keep
//! is `None` or left out, never zero. All numbers are cumulative since the boot unless said otherwise.

mod cpu;
mod disk;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod memory;
mod network;
mod sample_rate;

pub use cpu::{CpuTicks, parse_cpu_list, parse_cpu_ticks, parse_load};
pub use disk::{DiskSample, parse_diskstats, read_errors};
pub use memory::{MeminfoSample, VmstatSample, parse_meminfo, parse_vmstat};
pub use network::{
    InterfaceSample, NetworkSample, parse_net_dev, parse_netstat, parse_snmp, parse_snmp6,
    read_interfaces, read_link_speed, read_namespace, read_namespace_id,
};
pub(crate) use sample_rate::{SAMPLE_RATE_SETTING, sample_rate_limit};
