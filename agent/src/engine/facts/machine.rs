//! The machine.

use std::path::PathBuf;

use super::kept;
use crate::{
    cgroup::{FileReader, read_host_pressure},
    host::{
        parse_cpu_ticks, parse_diskstats, parse_load, parse_meminfo, parse_vmstat, read_errors,
        read_interfaces, read_link_speed, read_namespace_id,
    },
    reading::{DiskReading, HostReading, InterfaceReading},
};

/// Whose network is the host's: the first process of the pid namespace that procfs shows.
const HOST_PID: u32 = 1;
const LOOPBACK: &str = "lo";
/// Longest line of interrupts in `/proc/stat`, which comes after those of the CPUs, does not matter; the
/// file may be this long, 4,096 CPUs of 64 bytes.
const STAT_BYTES: usize = 512 << 10;

/// Reads the machine.
#[derive(Debug)]
pub(super) struct MachineReader {
    proc_root: PathBuf,
    sys_root: PathBuf,
    page_bytes: u64,
    stat: FileReader,
    /// Whether `/proc/stat` told of any CPU.
    has_cpus: bool,
}

impl MachineReader {
    pub(super) fn new(proc_root: PathBuf, sys_root: PathBuf) -> Self {
        Self {
            proc_root,
            sys_root,
            page_bytes: procfs::page_size(),
            stat: FileReader::with_limit(STAT_BYTES),
            has_cpus: true,
        }
    }

    /// What is missing of the machine, and the fix.
    pub(super) fn lack(&self) -> Option<&'static str> {
        (!self.has_cpus).then_some(
            "/proc/stat names no CPU, so that it is not known how busy they are: mount the host's procfs, \
             or give it by --proc-root",
        )
    }

    /// Reads the machine; what is not there is absent.
    pub(super) fn read(&mut self, reader: &mut FileReader, failures: &mut u64) -> HostReading {
        let cpus = self.stat.read(&self.proc_root.join("stat"));
        let cpus = kept(cpus.map(|text| text.map(parse_cpu_ticks)), failures).unwrap_or_default();
        self.has_cpus = !cpus.is_empty();
        let pressure = read_host_pressure(reader, &self.proc_root);
        let mut host = HostReading {
            cpus,
            pressure: kept(pressure, failures),
            network: read_namespace_id(&self.proc_root, HOST_PID),
            page_bytes: self.page_bytes,
            ..HostReading::default()
        };
        let mut text_of = |name: &str| {
            let text = reader.read(&self.proc_root.join(name));
            kept(text.map(|text| text.map(str::to_owned)), failures).unwrap_or_default()
        };
        host.load = parse_load(&text_of("loadavg"));
        host.meminfo = parse_meminfo(&text_of("meminfo"));
        host.vmstat = parse_vmstat(&text_of("vmstat"));
        let disks = parse_diskstats(&text_of("diskstats"));
        let disks = disks.into_iter().map(|sample| DiskReading {
            errors: (sample.requests > 0)
                .then(|| read_errors(reader, &self.sys_root, &sample.name))
                .flatten(),
            sample,
        });
        host.disks = disks.collect();
        host.interfaces = self.interfaces(reader, &host, failures);
        host
    }

    fn interfaces(
        &self,
        reader: &mut FileReader,
        host: &HostReading,
        failures: &mut u64,
    ) -> Vec<InterfaceReading> {
        let found = read_interfaces(reader, &self.proc_root, HOST_PID);
        let found = kept(found, failures).unwrap_or_default();
        // sysfs shows the interfaces of whoever mounted it. Only those of the host go by the same names.
        let own = read_namespace_id(&self.proc_root, std::process::id());
        let is_own = host.network.is_some() && own == host.network;
        let found = found.into_iter().filter(|one| one.name != LOOPBACK);
        found
            .map(|sample| InterfaceReading {
                bytes_per_second: is_own
                    .then(|| read_link_speed(reader, &self.sys_root, &sample.name))
                    .flatten(),
                sample,
            })
            .collect()
    }
}
