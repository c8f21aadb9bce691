//! The kernel's own accounts of a process's threads and of a cgroup: what the agent is measured by.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};

/// Sums over the threads of a process.
///
/// A thread that ended takes its part with it: compare two readings only while none ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadAccounts {
    /// `schedstat` field 1: time on CPUs, nanoseconds.
    pub on_cpu_ns: u64,
    /// `schedstat` field 2: time runnable but waiting, nanoseconds.
    pub run_delay_ns: u64,
    /// `schedstat` field 3: times it was dispatched.
    pub dispatches: u64,
    /// Switches that left the CPU blocked.
    pub voluntary: u64,
    /// Switches that left the CPU runnable.
    pub involuntary: u64,
    /// Threads summed.
    pub threads: u64,
}

impl ThreadAccounts {
    /// Sums what `/proc/<pid>/task` says now.
    ///
    /// # Errors
    ///
    /// The process is gone. A thread that ends meanwhile is left out.
    pub fn read(pid: u32) -> Result<Self> {
        let tasks = format!("/proc/{pid}/task");
        let mut sum = Self::default();
        for entry in fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))? {
            let directory = entry?.path();
            match Self::of_thread(&directory) {
                Ok(thread) => sum.add(&thread),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // ESRCH: it ended between open and read.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("{}", directory.display()));
                }
            }
        }
        Ok(sum)
    }

    /// One thread, from its directory under `/proc/<pid>/task`.
    pub(crate) fn of_thread(directory: &Path) -> io::Result<Self> {
        let schedstat = fs::read_to_string(directory.join("schedstat"))?;
        let status = fs::read_to_string(directory.join("status"))?;
        Ok(Self::parse(&schedstat, &status))
    }

    /// The text of `schedstat` and `status` of one thread.
    #[must_use]
    pub fn parse(schedstat: &str, status: &str) -> Self {
        let mut fields = schedstat.split_whitespace().map(|field| field.parse().ok());
        let mut next = || fields.next().flatten().unwrap_or(0);
        let switches = |key: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .and_then(|value| value.trim().parse().ok())
                .unwrap_or(0)
        };
        Self {
            on_cpu_ns: next(),
            run_delay_ns: next(),
            dispatches: next(),
            voluntary: switches("voluntary_ctxt_switches:"),
            involuntary: switches("nonvoluntary_ctxt_switches:"),
            threads: 1,
        }
    }

    /// Adds a thread.
    pub fn add(&mut self, other: &Self) {
        self.on_cpu_ns += other.on_cpu_ns;
        self.run_delay_ns += other.run_delay_ns;
        self.dispatches += other.dispatches;
        self.voluntary += other.voluntary;
        self.involuntary += other.involuntary;
        self.threads += other.threads;
    }

    /// What was added since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            on_cpu_ns: self.on_cpu_ns.saturating_sub(earlier.on_cpu_ns),
            run_delay_ns: self.run_delay_ns.saturating_sub(earlier.run_delay_ns),
            dispatches: self.dispatches.saturating_sub(earlier.dispatches),
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
            threads: self.threads,
        }
    }
}

/// Block I/O of a cgroup by the kernel's throttling account, all devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockAccounts {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl BlockAccounts {
    /// The text of v2 `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...`.
    #[must_use]
    pub fn parse_v2(text: &str) -> Self {
        let sum = |key: &str| {
            text.split_whitespace()
                .filter_map(|field| field.strip_prefix(key)?.parse::<u64>().ok())
                .sum()
        };
        Self {
            read_bytes: sum("rbytes="),
            write_bytes: sum("wbytes="),
            reads: sum("rios="),
            writes: sum("wios="),
        }
    }

    /// The texts of v1 `blkio.throttle.io_service_bytes` and `io_serviced`: `8:0 Read 4096`.
    #[must_use]
    pub fn parse_v1(bytes: &str, operations: &str) -> Self {
        let sum = |text: &str, operation: &str| {
            text.lines()
                .filter_map(|line| {
                    let mut fields = line.split_whitespace().skip(1);
                    (fields.next()? == operation).then(|| fields.next()?.parse::<u64>().ok())?
                })
                .sum()
        };
        Self {
            read_bytes: sum(bytes, "Read"),
            write_bytes: sum(bytes, "Write"),
            reads: sum(operations, "Read"),
            writes: sum(operations, "Write"),
        }
    }
}

/// What all disks have moved: those with request queues, which the block layer's tracepoints show.
/// Devices made of bios only (device mapper, md, zram) stand above them or are no disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskAccounts {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Bytes discarded.
    pub discard_bytes: u64,
}

impl DiskAccounts {
    /// Sums `/sys/block/*/stat`.
    ///
    /// # Errors
    ///
    /// `/sys` cannot be read. A disk that goes meanwhile is left out.
    pub fn read() -> Result<Self> {
        const DISKS: &str = "/sys/block";
        let mut sum = Self::default();
        for entry in fs::read_dir(DISKS).with_context(|| format!("cannot list {DISKS}"))? {
            let directory = entry?.path();
            if !directory.join("mq").is_dir() {
                continue;
            }
            if let Ok(stat) = fs::read_to_string(directory.join("stat")) {
                let disk = Self::parse(&stat);
                sum.read_bytes += disk.read_bytes;
                sum.write_bytes += disk.write_bytes;
                sum.discard_bytes += disk.discard_bytes;
            }
        }
        Ok(sum)
    }

    /// The text of one disk's `stat` (`Documentation/block/stat.rst`), whose sectors have 512 bytes.
    #[must_use]
    pub fn parse(stat: &str) -> Self {
        let fields: Vec<u64> = stat
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let bytes = |field: usize| fields.get(field).copied().unwrap_or(0) * 512;
        Self {
            read_bytes: bytes(2),
            write_bytes: bytes(6),
            discard_bytes: bytes(13),
        }
    }

    /// All of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.read_bytes + self.write_bytes + self.discard_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_and_status_of_a_thread() {
        let status = "Name:\tcat\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n";
        let thread = ThreadAccounts::parse("811293 20134 9\n", status);
        assert_eq!(thread.on_cpu_ns, 811_293);
        assert_eq!(thread.run_delay_ns, 20_134);
        assert_eq!(thread.dispatches, 9);
        assert_eq!((thread.voluntary, thread.involuntary), (7, 2));
    }

    #[test]
    fn the_stat_of_a_disk_has_sectors_read_written_and_discarded() {
        // Of a Debian 12 host with kernel 6.18.
        let stat = " 4649333   107678 198594818 57453747  2185055   907688 396548152  2537748        0  1455860 60187321   678078       60 238093584   190954    62977     4870";
        let disk = DiskAccounts::parse(stat);
        assert_eq!(disk.read_bytes, 198_594_818 * 512);
        assert_eq!(disk.write_bytes, 396_548_152 * 512);
        assert_eq!(disk.discard_bytes, 238_093_584 * 512);
        assert_eq!(
            disk.bytes(),
            disk.read_bytes + disk.write_bytes + disk.discard_bytes
        );
    }

    #[test]
    fn io_stat_sums_over_devices() {
        let text = "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n";
        let block = BlockAccounts::parse_v2(text);
        assert_eq!((block.read_bytes, block.write_bytes), (15, 20));
        assert_eq!((block.reads, block.writes), (2, 2));
    }

    #[test]
    fn blkio_total_lines_are_not_counted_twice() {
        let bytes = "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 12288\n8:0 Total 12288\nTotal 12288\n";
        let operations = "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n";
        let block = BlockAccounts::parse_v1(bytes, operations);
        assert_eq!((block.read_bytes, block.write_bytes), (4096, 8192));
        assert_eq!((block.reads, block.writes), (1, 2));
    }
}
