//! Collector of the kernel's own files of each container: bandwidth control, memory, pressure.

use std::time::{Duration, Instant};

use crate::{
    cgroup::{
        CgroupError, FileReader, Hierarchies, read_cpu, read_cpu_usage_ns, read_memory,
        read_pressure,
    },
    snapshot::{CpuControl, Memory, Pressure},
};

/// What the files of a container said when they were last read. Its counters only go up: a cgroup that
/// is made again at its path begins at zero, and is added to what the former ones had counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileSample {
    pub(crate) cpu_usage_ns: Option<u64>,
    pub(crate) cpu: Option<CpuControl>,
    pub(crate) memory: Option<Memory>,
    pub(crate) pressure: Option<Pressure>,
    counters: Counters,
}

/// Counters of a container's files.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    usage: Counter,
    periods: Counter,
    throttled_periods: Counter,
    throttled: Counter,
    oom_kills: Counter,
    limit_hits: Counter,
    /// CPU, memory and I/O; waiting and stalled.
    pressure: [[Counter; 2]; 3],
}

/// A counter of one path, whose cgroup may be another one at each reading.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// What the former cgroups had counted when they were last read.
    former: u64,
    last: u64,
}

impl Counter {
    /// Takes in a reading and puts the sum of all cgroups in its place. A new cgroup that has counted
    /// more than the former one when it is first read is not told from that one.
    fn sum(&mut self, value: &mut u64) {
        if *value < self.last {
            self.former += self.last;
        }
        self.last = *value;
        *value += self.former;
    }
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
    /// a container's counters stay after its end.
    pub(crate) fn read(&mut self, cgroup: &str, sample: &mut FileSample) {
        let counters = &mut sample.counters;
        let mut cpu = read_cpu(&mut self.reader, &self.hierarchies, cgroup);
        if let Ok(Some(cpu)) = &mut cpu {
            counters.periods.sum(&mut cpu.periods);
            counters.throttled_periods.sum(&mut cpu.throttled_periods);
            counters.throttled.sum(&mut cpu.throttled_ns);
        }
        self.keep(cpu, &mut sample.cpu);
        let mut memory = read_memory(&mut self.reader, &self.hierarchies, cgroup);
        if let Ok(Some(memory)) = &mut memory {
            if let Some(kills) = &mut memory.oom_kills {
                counters.oom_kills.sum(kills);
            }
            if let Some(hits) = &mut memory.limit_hits {
                counters.limit_hits.sum(hits);
            }
        }
        self.keep(memory, &mut sample.memory);
        if !self.has_pressure {
            return;
        }
        let mut pressure = read_pressure(&mut self.reader, &self.hierarchies, cgroup);
        if let Ok(Some(pressure)) = &mut pressure {
            let resources = [&mut pressure.cpu, &mut pressure.memory, &mut pressure.io];
            for (times, [waiting, stalled]) in resources.into_iter().zip(&mut counters.pressure) {
                if let Some(times) = times {
                    waiting.sum(&mut times.waiting_usec);
                    stalled.sum(&mut times.stalled_usec);
                }
            }
        }
        self.keep(pressure, &mut sample.pressure);
    }

    /// Reads a container's CPU time, which the scheduler collector measures where it runs. One file,
    /// some microseconds, so at each collection: a rate of it is right only if it is as fresh as the
    /// snapshot.
    pub(crate) fn read_usage(&mut self, cgroup: &str, sample: &mut FileSample) {
        let mut usage = read_cpu_usage_ns(&mut self.reader, &self.hierarchies, cgroup);
        if let Ok(Some(usage)) = &mut usage {
            sample.counters.usage.sum(usage);
        }
        self.keep(usage, &mut sample.cpu_usage_ns);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_made_again_is_added_to_the_former_ones() {
        let mut counter = Counter::default();
        let mut sum = |mut value: u64| {
            counter.sum(&mut value);
            value
        };
        assert_eq!([sum(10), sum(15), sum(15)], [10, 15, 15]);
        assert_eq!([sum(0), sum(4), sum(2)], [15, 19, 21]);
    }
}
