//! One cgroup: a container's own, or one above it.

use super::kept;
use crate::{
    cgroup::{
        DeviceIo, FileReader, Hierarchies, IoByDevice, read_bandwidth, read_io, read_io_limits,
        read_memory_limits,
    },
    diagnosis::facts::DeviceUse,
    reading::GroupReading,
};

/// Most devices that are kept of a cgroup.
const MAX_DEVICES: usize = 64;

/// Whose cgroup is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// A container's own: what it did to devices is read also where it has no limit.
    Container,
    /// One above containers: the CPU time of all below it is read, too.
    Above,
}

/// Reads a cgroup; what has gone, or is in no hierarchy, is absent.
pub(super) fn read(
    reader: &mut FileReader,
    hierarchies: &Hierarchies,
    cgroup: &str,
    whose: Whose,
    failures: &mut u64,
) -> GroupReading {
    let with_usage = whose == Whose::Above;
    let cpu = read_bandwidth(reader, hierarchies, cgroup, with_usage);
    let cpu = kept(cpu, failures);
    let memory = read_memory_limits(reader, hierarchies, cgroup);
    let memory = kept(memory, failures).unwrap_or_default();
    let limits = read_io_limits(reader, hierarchies, cgroup).map(Some);
    let mut io_limits = kept(limits, failures).unwrap_or_default();
    while io_limits.len() > MAX_DEVICES {
        io_limits.pop_last();
    }
    let mut io = Vec::new();
    if whose == Whose::Container || !io_limits.is_empty() {
        let found = kept(read_io(reader, hierarchies, cgroup), failures);
        io = used(&found.unwrap_or_default());
    }
    GroupReading {
        cpu,
        memory,
        io_limits,
        io,
        ..GroupReading::default()
    }
}

fn used(devices: &IoByDevice) -> Vec<(crate::cgroup::DeviceNumber, DeviceUse)> {
    let used = devices.iter().map(|(device, io)| (*device, use_of(io)));
    used.take(MAX_DEVICES).collect()
}

/// A direction that the kernel does not name had nothing.
fn use_of(io: &DeviceIo) -> DeviceUse {
    DeviceUse {
        read_bytes: io.read_bytes.unwrap_or(0),
        write_bytes: io.write_bytes.unwrap_or(0),
        reads: io.read_count.unwrap_or(0),
        writes: io.write_count.unwrap_or(0),
    }
}
