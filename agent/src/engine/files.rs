//! Collector of the kernel's own files of each container: bandwidth control, memory, pressure.

use std::time::{Duration, Instant};

use crate::{
    cgroup::{
        CgroupError, FileReader, Hierarchies, read_cpu, read_cpu_usage_ns, read_memory,
        read_pressure,
    },
    snapshot::{CpuControl, Memory, Pressure},
};

/// What the files of a container said when they were last read.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileSample {
    pub(crate) cpu_usage_ns: Option<u64>,
    pub(crate) cpu: Option<CpuControl>,
    pub(crate) memory: Option<Memory>,
    pub(crate) pressure: Option<Pressure>,
}

/// Reads the files, at most as often as keeps their cost under a fiftieth of a CPU.
#[derive(Debug)]
pub(crate) struct FileCollector {
    reader: FileReader,
    hierarchies: Hierarchies,
    has_pressure: bool,
    next: Instant,
    failures: u64,
}

/// Shortest time between two readings.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(900);
/// The time between two readings is at least this many times the time that one takes.
const COST_FACTOR: u32 = 50;

impl FileCollector {
    /// A collector of these mounts; `has_pressure` says whether the kernel keeps pressure at all.
    pub(crate) fn new(hierarchies: Hierarchies, has_pressure: bool) -> Self {
        Self {
            reader: FileReader::new(),
            hierarchies,
            has_pressure,
            next: Instant::now(),
            failures: 0,
        }
    }

    /// The mounts.
    pub(crate) fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Whether it is time to read again.
    pub(crate) fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// A round of reading that began at `started` is over.
    pub(crate) fn finish_round(&mut self, started: Instant) {
        let interval = (started.elapsed() * COST_FACTOR).max(SHORTEST_INTERVAL);
        self.next = started + interval;
    }

    /// Readings that failed for another reason than the cgroup having gone.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// The reader, for what else is read on this thread.
    pub(crate) fn reader(&mut self) -> &mut FileReader {
        &mut self.reader
    }

    /// Reads the files of one container. What has gone meanwhile leaves the last reading as it is:
    /// a container's counters stay after its end. `with_usage` asks for its CPU time, too, which the
    /// scheduler collector measures where it runs.
    pub(crate) fn read(&mut self, cgroup: &str, with_usage: bool, sample: &mut FileSample) {
        if with_usage {
            let usage = read_cpu_usage_ns(&mut self.reader, &self.hierarchies, cgroup);
            self.keep(usage, &mut sample.cpu_usage_ns);
        }
        let cpu = read_cpu(&mut self.reader, &self.hierarchies, cgroup);
        self.keep(cpu, &mut sample.cpu);
        let memory = read_memory(&mut self.reader, &self.hierarchies, cgroup);
        self.keep(memory, &mut sample.memory);
        if !self.has_pressure {
            return;
        }
        let pressure = read_pressure(&mut self.reader, &self.hierarchies, cgroup);
        self.keep(pressure, &mut sample.pressure);
    }

    fn keep<T>(&mut self, read: Result<Option<T>, CgroupError>, kept: &mut Option<T>) {
        match read {
            Ok(Some(value)) => *kept = Some(value),
            Ok(None) => {}
            Err(error) => {
                self.failures += 1;
                tracing::debug!(%error, "cgroup file not read");
            }
        }
    }
}
