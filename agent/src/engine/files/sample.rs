//! What the files of one container said, over all the cgroups that were at its path.

use std::time::{Duration, Instant};

use crate::{
    cgroup::{self, AccountReader, CgroupError, Handles, Hierarchies, OpenCgroup, Said},
    snapshot::{
        AsOf, Counted, Counters, Gauges, MemoryEvents, Pressure, PressureTimes, Throttling,
    },
};

/// What the files of a container said when they were last read. Its counters only go up: a cgroup that
/// is made again at its path begins at zero, and is added to what the former ones had counted. It is told by
/// the inode of its directory; a counter that falls in one and the same cgroup (some of the kernel's do by a
/// little, and v1 lets whoever may write `memory.failcnt` set it to 0) stays what it was.
#[derive(Debug, Default)]
pub(super) struct FileSample {
    /// What the cgroups at its path have counted.
    pub(super) counters: Counters,
    /// What the one that is there has.
    pub(super) gauges: Gauges,
    /// When it was read, nanoseconds since the engine's start; none before the first reading.
    pub(super) as_of: AsOf,
    /// What that one has counted.
    last: Counters,
    /// What those before it had counted when they were last read.
    former: Counters,
    /// The cgroup that `last` is of, by inode, in the hierarchy of each subject.
    cgroups: Cgroups,
    /// Its directories, and its files while it is busy.
    open: OpenCgroup,
    /// When its limits were last read, and how often they were.
    limits: Option<(Instant, u32)>,
    /// How often its memory alone was read since all was.
    memory_alone: u32,
}

impl FileSample {
    /// Keeps nothing of it open: it has gone.
    pub(super) fn close(&mut self) {
        self.open = OpenCgroup::default();
    }
}

/// Inodes of a cgroup's directories, by subject.
#[derive(Clone, Copy, Debug, Default)]
struct Cgroups {
    cpu: Option<u64>,
    cpu_usage_ns: Option<u64>,
    memory: Option<u64>,
    pressure: Option<u64>,
}

/// One subject of the files, as they have it.
struct Subject<'a, T> {
    sum: &'a mut Option<T>,
    last: &'a mut Option<T>,
    former: &'a mut Option<T>,
    cgroup: &'a mut Option<u64>,
}

impl<T: Counted> Subject<'_, T> {
    /// Takes in a reading of a cgroup; says whether that is another one than the last. One that is gone meanwhile is
    /// a part of what it was.
    fn take(self, now: T, cgroup: Option<u64>) -> bool {
        let mut now = Some(now);
        let is_another = cgroup.is_some() && self.cgroup.is_some() && *self.cgroup != cgroup;
        if is_another {
            self.former.add(self.last);
        } else {
            now.hold(self.last);
        }
        *self.cgroup = cgroup.or(*self.cgroup);
        self.last.clone_from(&now);
        *self.sum = now;
        self.sum.add(self.former);
        is_another
    }
}

/// A subject of a sample, by its name.
macro_rules! subject {
    ($sample:expr, $name:ident) => {
        Subject {
            sum: &mut $sample.counters.$name,
            last: &mut $sample.last.$name,
            former: &mut $sample.former.$name,
            cgroup: &mut $sample.cgroups.$name,
        }
    };
}

/// Longest time between two readings of the limits of a container that is read: who sets them does so at its
/// start, and hardly ever again.
pub(super) const LIMITS_INTERVAL: Duration = Duration::from_secs(10);
/// So many times they are read at each reading: an engine sets them after it has made the cgroup.
const FIRST_LIMITS: u32 = 3;

/// How a container is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) now: Instant,
    /// Its files are worth keeping open: it will be read again soon.
    pub(super) keeps_files: bool,
    /// It did nothing since it was last read, when nothing moved. Then only its memory can: the kernel may take
    /// some back.
    pub(super) is_quiet: bool,
}

/// Of one that is quiet, so many readings are of its memory alone before all is read once.
const MEMORY_ALONE: u32 = 4;

/// What came of reading a container's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// Nothing is there.
    Gone,
    /// It is of the cgroup that was read before, or of the first.
    OfTheSame,
    OfAnother,
}

/// Reads the files of containers.
#[derive(Debug)]
pub(super) struct FileCollector {
    accounts: AccountReader,
    /// Whether the kernel keeps pressure at all.
    has_pressure: bool,
    /// Whether CPU time is read: where no program counts it.
    reads_usage: bool,
    /// What times are counted from.
    started: Instant,
    failures: u64,
}

impl FileCollector {
    pub(super) fn new(
        hierarchies: Hierarchies,
        has_pressure: bool,
        reads_usage: bool,
        started: Instant,
    ) -> Self {
        Self {
            accounts: AccountReader::new(hierarchies, Handles::of_process()),
            has_pressure,
            reads_usage,
            started,
            failures: 0,
        }
    }

    /// Readings that failed for another reason than the cgroup having gone.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// Files that were opened.
    pub(super) fn files_read(&self) -> u64 {
        self.accounts.files_read()
    }

    /// Reads the files of one container; says whether a counter moved. What has gone meanwhile leaves the last
    /// reading as it is: a container's counters stay after its end.
    pub(super) fn read(&mut self, path: &str, sample: &mut FileSample, how: How) -> bool {
        let before = sample.last.clone();
        if !how.keeps_files {
            sample.open.close_files();
        }
        if self.reads_usage {
            let usage = self
                .accounts
                .usage_ns(&mut sample.open, path, how.keeps_files);
            if let Some(usage) = self.there(usage) {
                sample.as_of.cpu_usage_ns = Some(self.now_ns());
                subject!(sample, cpu_usage_ns).take(usage.what, usage.inode);
            }
        }
        if how.is_quiet && sample.memory_alone < MEMORY_ALONE {
            sample.memory_alone += 1;
            if self.read_memory(path, sample, how.keeps_files) == Memory::OfTheSame {
                sample.as_of.files_ns = Some(self.now_ns());
                return sample.last != before;
            }
        }
        sample.memory_alone = 0;
        self.read_limits(path, sample, how.now);
        self.read_counters(path, sample, how.keeps_files);
        sample.last != before
    }

    fn read_limits(&mut self, path: &str, sample: &mut FileSample, now: Instant) {
        let count = match sample.limits {
            Some((last, count)) if count >= FIRST_LIMITS => {
                if now.saturating_duration_since(last) < LIMITS_INTERVAL {
                    return;
                }
                count
            }
            Some((_, count)) => count + 1,
            None => 1,
        };
        sample.limits = Some((now, count));
        let limits = self.accounts.cpu_limits(&mut sample.open, path);
        if let Some(limits) = self.there(limits) {
            sample.gauges.cpu_quota_cores = limits.what.quota_cores;
            sample.gauges.cpu_weight = limits.what.weight;
        }
        let limit = self.accounts.memory_limit(&mut sample.open, path);
        if let Some(limit) = self.there(limit) {
            sample.gauges.memory_limit_bytes = limit.what;
        }
    }

    fn read_counters(&mut self, path: &str, sample: &mut FileSample, keeps: bool) {
        let (mut is_there, mut is_another) = (false, false);
        let periods = self.accounts.periods(&mut sample.open, path, keeps);
        if let Some(Said { what, inode }) = self.there(periods) {
            is_there = true;
            // What could be throttled once stays in sight.
            let can = sample.gauges.cpu_quota_cores.is_some() || what.periods > 0;
            if can || sample.counters.cpu.is_some() {
                let throttling = Throttling {
                    periods: what.periods,
                    throttled_periods: what.throttled_periods,
                    throttled_ns: what.throttled_ns,
                };
                is_another |= subject!(sample, cpu).take(throttling, inode);
            }
        }
        let memory = self.read_memory(path, sample, keeps);
        is_there |= memory != Memory::Gone;
        is_another |= memory == Memory::OfAnother;
        if is_another {
            // Its limits are its own, and are read with the next reading.
            sample.limits = None;
        }
        // Pressure is what is divided by the time between two readings.
        let read_at = self.now_ns();
        if is_there {
            sample.as_of.files_ns = Some(read_at);
        }
        if !self.has_pressure {
            return;
        }
        let pressure = self.accounts.pressure(&mut sample.open, path, keeps);
        if let Some(Said { what, inode }) = self.there(pressure) {
            let times = |times: Option<cgroup::PressureTimes>| {
                times.map(|times| PressureTimes {
                    waiting_usec: times.waiting_usec,
                    stalled_usec: times.stalled_usec,
                })
            };
            let pressure = Pressure {
                cpu: times(what.cpu),
                memory: times(what.memory),
                io: times(what.io),
            };
            subject!(sample, pressure).take(pressure, inode);
            sample.as_of.files_ns = Some(read_at);
        }
    }

    fn read_memory(&mut self, path: &str, sample: &mut FileSample, keeps: bool) -> Memory {
        let memory = self.accounts.memory(&mut sample.open, path, keeps);
        let Some(Said { what, inode }) = self.there(memory) else {
            return Memory::Gone;
        };
        sample.gauges.memory_working_set_bytes = what.working_set_bytes;
        let can = sample.gauges.memory_limit_bytes.is_some();
        let events = MemoryEvents {
            oom_kills: what.oom_kills,
            limit_hits: what.limit_hits.filter(|&hits| can || hits > 0),
        };
        if subject!(sample, memory).take(events, inode) {
            Memory::OfAnother
        } else {
            Memory::OfTheSame
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// What was read, where it was there and could be.
    fn there<T>(&mut self, read: Result<Option<T>, CgroupError>) -> Option<T> {
        read.unwrap_or_else(|error| {
            self.failures += 1;
            tracing::debug!(%error, "cgroup file not read");
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::fake::Tree;

    #[test]
    fn a_cgroup_made_again_is_added_to_the_former_ones() {
        let mut sample = FileSample::default();
        let mut sum = |inode, periods, throttled_periods| {
            let throttling = Throttling {
                periods,
                throttled_periods,
                throttled_ns: 0,
            };
            subject!(sample, cpu).take(throttling, inode);
            let sum = sample.counters.cpu.as_ref().unwrap();
            (sum.periods, sum.throttled_periods)
        };
        let first = Some(7);
        assert_eq!(
            [sum(first, 10, 1), sum(first, 15, 1), sum(None, 15, 1)],
            [(10, 1), (15, 1), (15, 1)]
        );
        // Also where it has counted more than the former one when it is first read.
        assert_eq!(
            [sum(Some(8), 20, 3), sum(Some(8), 22, 3), sum(Some(9), 2, 0)],
            [(35, 4), (37, 4), (39, 4)]
        );
        // What falls in one and the same is no other one.
        assert_eq!([sum(Some(9), 1, 1), sum(Some(9), 3, 1)], [(39, 5), (40, 5)]);
    }

    struct Host {
        tree: Tree,
        collector: FileCollector,
        sample: FileSample,
        now: Instant,
    }

    impl Host {
        fn new() -> Self {
            let tree = Tree::v2();
            let now = Instant::now();
            Self {
                collector: FileCollector::new(tree.hierarchies.clone(), true, true, now),
                tree,
                sample: FileSample::default(),
                now,
            }
        }

        fn read(&mut self, after: Duration) -> bool {
            self.read_as(after, false)
        }

        fn read_as(&mut self, after: Duration, is_quiet: bool) -> bool {
            self.now += after;
            let how = How {
                now: self.now,
                keeps_files: true,
                is_quiet,
            };
            self.collector.read("/0", &mut self.sample, how)
        }
    }

    #[test]
    fn what_vanishes_in_the_midst_of_a_reading_leaves_what_was_read_before() {
        let mut host = Host::new();
        host.tree.write("0/memory.current", "4096\n");
        host.tree.write("0/memory.events", "max 3\noom_kill 2\n");
        assert!(host.read(Duration::ZERO));
        let counted = host.sample.counters.clone();
        assert_eq!(counted.memory.as_ref().unwrap().oom_kills, Some(2));
        host.sample.open.close_files();
        host.tree.remove("0/memory.events");
        host.read(Duration::ZERO);
        assert_eq!(host.sample.counters, counted);
    }

    #[test]
    fn what_could_be_throttled_or_limited_once_stays_in_sight() {
        let mut host = Host::new();
        let could = |host: &Host| {
            let counters = &host.sample.counters;
            let hits = counters
                .memory
                .as_ref()
                .and_then(|memory| memory.limit_hits);
            (counters.cpu.is_some(), hits)
        };
        host.tree.write(
            "0/cpu.stat",
            "nr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
        );
        host.tree.write("0/memory.current", "4096\n");
        host.tree.write("0/memory.events", "max 0\noom_kill 0\n");
        for (quota, limit, expected) in [
            ("max 100000\n", "max\n", (false, None)),
            ("50000 100000\n", "8192\n", (true, Some(0))),
            ("max 100000\n", "max\n", (true, Some(0))),
        ] {
            host.tree.write("0/cpu.max", quota);
            host.tree.write("0/memory.max", limit);
            host.read(Duration::ZERO);
            assert_eq!(could(&host), expected);
        }
    }

    #[test]
    fn of_one_that_is_quiet_memory_alone_is_read_four_times_of_five() {
        let mut host = Host::new();
        let stat = |periods| format!("nr_periods {periods}\nnr_throttled 0\nthrottled_usec 0\n");
        let seen = |host: &Host| {
            let sample = &host.sample;
            let periods = sample.counters.cpu.as_ref().map(|cpu| cpu.periods);
            (periods, sample.gauges.memory_working_set_bytes)
        };
        host.tree.write("0/cpu.stat", &stat(1));
        host.tree.write("0/memory.stat", "inactive_file 0\n");
        host.tree.write("0/memory.current", "4096\n");
        host.read(Duration::ZERO);
        assert_eq!(seen(&host), (Some(1), Some(4096)));
        for round in 1..=10_u64 {
            host.tree.write("0/cpu.stat", &stat(1 + round));
            host.tree.write("0/memory.current", &format!("{round}\n"));
            host.read_as(Duration::from_secs(60), true);
            let periods = 1 + round / 5 * 5;
            assert_eq!(seen(&host), (Some(periods), Some(round)), "{round}");
        }
        // One that works again is read whole.
        host.tree.write("0/cpu.stat", &stat(20));
        host.read(Duration::ZERO);
        assert_eq!(seen(&host).0, Some(20));
    }

    #[test]
    fn a_cgroup_that_is_made_again_is_read_whole_though_it_is_quiet() {
        let mut host = Host::new();
        let make = |host: &Host, periods| {
            let stat = format!("nr_periods {periods}\nnr_throttled 0\nthrottled_usec 0\n");
            host.tree.write("0/cpu.stat", &stat);
            host.tree.write("0/memory.current", "4096\n");
        };
        make(&host, 5);
        host.read(Duration::ZERO);
        // Kept aside, so that the file system does not use its inode again.
        std::fs::rename(host.tree.path("0"), host.tree.path("former")).unwrap();
        for file in ["former/cpu.stat", "former/memory.current"] {
            host.tree.remove(file);
        }
        host.sample.open.close_files();
        make(&host, 2);
        host.read_as(Duration::from_secs(60), true);
        let periods = host.sample.counters.cpu.as_ref().unwrap().periods;
        assert_eq!(periods, 7);
    }

    #[test]
    fn limits_are_read_often_at_first_and_then_rarely() {
        let mut host = Host::new();
        host.tree.write("0/memory.current", "4096\n");
        let second = Duration::from_secs(1);
        let limit_after = |host: &mut Host, bytes: u64, after| {
            host.tree.write("0/memory.max", &format!("{bytes}\n"));
            host.read(after);
            host.sample.gauges.memory_limit_bytes
        };
        for bytes in [1, 2, 3] {
            assert_eq!(limit_after(&mut host, bytes, second), Some(bytes));
        }
        assert_eq!(limit_after(&mut host, 4, second), Some(3));
        assert_eq!(limit_after(&mut host, 5, LIMITS_INTERVAL), Some(5));
        assert_eq!(limit_after(&mut host, 6, second), Some(5));
    }
}
