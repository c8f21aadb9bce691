//! Collector of the kernel's own files of each container: bandwidth control, memory, pressure.
//!
//! A container that does nothing is read rarely. Its bandwidth control cannot change, its pressure only
//! while a task of it waits, which shows at the next reading, and its memory only by what others do to it
//! (reclaim, a new limit). So who ran or did I/O is read at each round, once more after that until nothing
//! moves, and then only in its turn, which comes at least once in [`QUIET_INTERVAL`].

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use crate::{
    cgroup::{
        self, CgroupError, FileReader, Hierarchies, Mount, read_cpu, read_cpu_usage_ns,
        read_memory, read_pressure,
    },
    snapshot::{
        AsOf, Counted, Counters, Gauges, MemoryEvents, Pressure, PressureTimes, Throttling,
    },
};

/// What the files of a container said when they were last read. Its counters only go up: a cgroup that
/// is made again at its path begins at zero, and is added to what the former ones had counted. It is told by
/// the inode of its directory; a counter that falls in one and the same cgroup (some of the kernel's do by a
/// little, and v1 lets whoever may write `memory.failcnt` set it to 0) stays what it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileSample {
    /// What the cgroups at its path have counted.
    pub(crate) counters: Counters,
    /// What the one that is there has.
    pub(crate) gauges: Gauges,
    /// As of when they are true, nanoseconds since the engine's start; none before the first reading.
    as_of_ns: Option<u64>,
    /// When its CPU time was read, likewise.
    usage_as_of_ns: Option<u64>,
    /// What that one has counted.
    last: Counters,
    /// What those before it had counted when they were last read.
    former: Counters,
    /// The cgroup that `last` is of, by inode, in the hierarchy of each subject.
    cgroups: Cgroups,
    /// The number of its last reading; none for one that is new.
    reading: Option<u64>,
    /// It was active since it was last read.
    active: bool,
    /// Its last reading was of a time in which it was not active, and found no counter changed.
    settled: bool,
}

impl FileSample {
    /// Notes whether it ran or did I/O since the last time, or might have. What stood still and was not
    /// active is as it was read.
    pub(crate) fn note_activity(&mut self, active: bool, now_ns: u64) {
        self.active |= active;
        if self.quiet_since().is_some() {
            self.as_of_ns = Some(now_ns);
        }
    }

    /// As of when its numbers are true.
    pub(crate) fn as_of(&self) -> AsOf {
        AsOf {
            files_ns: self.as_of_ns,
            cpu_usage_ns: self.usage_as_of_ns,
        }
    }

    /// The number of its last reading, if nothing new is expected of another one.
    pub(crate) fn quiet_since(&self) -> Option<u64> {
        self.reading.filter(|_| self.settled && !self.active)
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
    /// Takes in a reading of a cgroup, whose inode was looked up before: where it is made again between the
    /// two, the next reading tells. One that is gone meanwhile is a part of what it was.
    fn take(self, now: T, cgroup: Option<u64>) {
        let mut now = Some(now);
        if cgroup.is_some() && self.cgroup.is_some() && *self.cgroup != cgroup {
            self.former.add(self.last);
        } else {
            now.hold(self.last);
        }
        *self.cgroup = cgroup.or(*self.cgroup);
        self.last.clone_from(&now);
        *self.sum = now;
        self.sum.add(self.former);
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

/// Reads the files, at most as often as keeps their cost under a fiftieth of a CPU.
#[derive(Debug)]
pub(crate) struct FileCollector {
    reader: FileReader,
    hierarchies: Hierarchies,
    has_pressure: bool,
    /// What times are counted from.
    started: Instant,
    next: Instant,
    last_round: Option<Instant>,
    /// Readings of containers so far.
    readings: u64,
    failures: u64,
}

/// Shortest time between two rounds.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(900);
/// The time between two rounds is at least this many times the time that one takes.
const COST_FACTOR: u32 = 50;
/// Longest time between two readings of a container that does nothing, and one round more.
pub(crate) const QUIET_INTERVAL: Duration = Duration::from_secs(60);

/// Whom a collection reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Whether there is a round at all, or only what is new is read.
    is_due: bool,
    /// Of the quiet ones, it reads those whose last reading has at most this number.
    quiet_until: Option<u64>,
}

impl Round {
    /// Whether it reads one. What is new is read whatever the round: a container's series are all there
    /// from its first sight.
    pub(crate) fn reads(&self, sample: &FileSample) -> bool {
        match (sample.reading, sample.quiet_since()) {
            (None, _) => true,
            (_, None) => self.is_due,
            (_, Some(since)) => self.quiet_until.is_some_and(|until| since <= until),
        }
    }
}

impl FileCollector {
    /// A collector of these mounts; `has_pressure` says whether the kernel keeps pressure at all. Times of
    /// readings are counted from `started`.
    pub(crate) fn new(hierarchies: Hierarchies, has_pressure: bool, started: Instant) -> Self {
        Self {
            started,
            reader: FileReader::new(),
            hierarchies,
            has_pressure,
            next: Instant::now(),
            last_round: None,
            readings: 0,
            failures: 0,
        }
    }

    /// The mounts.
    pub(crate) fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Says whom to read now. `quiet` has [`FileSample::quiet_since`] of those that are: the ones that were
    /// read longest ago have their turn, as many as are due for the time since the last round.
    pub(crate) fn round(&mut self, now: Instant, quiet: &mut [u64]) -> Round {
        if now < self.next {
            return Round {
                is_due: false,
                quiet_until: None,
            };
        }
        let since = self.last_round.map_or(Duration::ZERO, |last| now - last);
        self.last_round = Some(now);
        let share = (since.as_secs_f64() / QUIET_INTERVAL.as_secs_f64()).min(1.0);
        let count = (share * quiet.len() as f64).ceil() as usize;
        let quiet_until = count
            .checked_sub(1)
            .filter(|&index| index < quiet.len())
            .map(|index| *quiet.select_nth_unstable(index).1);
        Round {
            is_due: true,
            quiet_until,
        }
    }

    /// What a round read that began at `started` has been read.
    pub(crate) fn finish_round(&mut self, round: Round, started: Instant) {
        if round.is_due {
            let interval = (started.elapsed() * COST_FACTOR).max(SHORTEST_INTERVAL);
            self.next = started + interval;
        }
    }

    /// Readings that failed for another reason than the cgroup having gone.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// Files that were opened.
    pub(crate) fn files_read(&self) -> u64 {
        self.reader.opened()
    }

    /// The reader, for what else is read on this thread.
    pub(crate) fn reader(&mut self) -> &mut FileReader {
        &mut self.reader
    }

    /// Reads the files of one container. What has gone meanwhile leaves the last reading as it is:
    /// a container's counters stay after its end.
    pub(crate) fn read(&mut self, cgroup: &str, sample: &mut FileSample) {
        let before = sample.last.clone();
        self.read_all(cgroup, sample);
        sample.settled = !sample.active && sample.last == before;
        sample.active = false;
        self.readings += 1;
        sample.reading = Some(self.readings);
    }

    fn read_all(&mut self, cgroup: &str, sample: &mut FileSample) {
        let inode = inode(self.hierarchies.cpu.as_ref(), cgroup);
        let cpu = read_cpu(&mut self.reader, &self.hierarchies, cgroup);
        if let Some(cpu) = self.there(cpu) {
            sample.gauges.cpu_quota_cores = cpu.quota_cores;
            sample.gauges.cpu_weight = cpu.weight;
            // What could be throttled once stays in sight.
            let can = cpu.quota_cores.is_some() || cpu.periods > 0;
            if can || sample.counters.cpu.is_some() {
                let throttling = Throttling {
                    periods: cpu.periods,
                    throttled_periods: cpu.throttled_periods,
                    throttled_ns: cpu.throttled_ns,
                };
                subject!(sample, cpu).take(throttling, inode);
            }
        }
        let inode = self::inode(self.hierarchies.memory.as_ref(), cgroup);
        let memory = read_memory(&mut self.reader, &self.hierarchies, cgroup);
        if let Some(memory) = self.there(memory) {
            sample.gauges.memory_working_set_bytes = memory.working_set_bytes;
            sample.gauges.memory_limit_bytes = memory.limit_bytes;
            let can = memory.limit_bytes.is_some();
            let events = MemoryEvents {
                oom_kills: memory.oom_kills,
                limit_hits: memory.limit_hits.filter(|&hits| can || hits > 0),
            };
            subject!(sample, memory).take(events, inode);
        }
        // Pressure is what is divided by the time between two readings.
        sample.as_of_ns = Some(self.now_ns());
        if !self.has_pressure {
            return;
        }
        let inode = self::inode(self.hierarchies.unified.as_ref(), cgroup);
        let pressure = read_pressure(&mut self.reader, &self.hierarchies, cgroup);
        if let Some(pressure) = self.there(pressure) {
            let times = |times: Option<cgroup::PressureTimes>| {
                times.map(|times| PressureTimes {
                    waiting_usec: times.waiting_usec,
                    stalled_usec: times.stalled_usec,
                })
            };
            let pressure = Pressure {
                cpu: times(pressure.cpu),
                memory: times(pressure.memory),
                io: times(pressure.io),
            };
            subject!(sample, pressure).take(pressure, inode);
        }
    }

    /// Reads a container's CPU time, which the scheduler collector measures where it runs. One file,
    /// some microseconds, so at each collection: a rate of it is right only if it is as fresh as the
    /// snapshot.
    pub(crate) fn read_usage(&mut self, cgroup: &str, sample: &mut FileSample) {
        let inode = inode(self.hierarchies.cpuacct.as_ref(), cgroup);
        let usage = read_cpu_usage_ns(&mut self.reader, &self.hierarchies, cgroup);
        if let Some(usage) = self.there(usage) {
            sample.usage_as_of_ns = Some(self.now_ns());
            subject!(sample, cpu_usage_ns).take(usage, inode);
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

/// Which cgroup a path is now; some microseconds.
fn inode(mount: Option<&Mount>, cgroup: &str) -> Option<u64> {
    let directory = mount?.directory(cgroup)?;
    Some(fs::metadata(directory).ok()?.ino())
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

    #[test]
    fn what_vanishes_in_the_midst_of_a_reading_leaves_what_was_read_before() {
        let mut host = Host::new(1);
        host.tree.write("0/memory.current", "4096\n");
        host.tree.write("0/memory.events", "max 3\noom_kill 2\n");
        host.collect(INTERVAL, &[0]);
        let counted = host.samples[0].counters.clone();
        assert_eq!(counted.memory.as_ref().unwrap().oom_kills, Some(2));
        host.tree.remove("0/memory.events");
        assert_eq!(host.collect(INTERVAL, &[0]), [0]);
        assert_eq!(host.samples[0].counters, counted);
    }

    #[test]
    fn what_could_be_throttled_or_limited_once_stays_in_sight() {
        let mut host = Host::new(1);
        let could = |host: &Host| {
            let counters = &host.samples[0].counters;
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
            assert_eq!(host.collect(INTERVAL, &[0]), [0]);
            assert_eq!(could(&host), expected);
        }
    }

    /// Containers with files, and the collector that reads them.
    struct Host {
        tree: Tree,
        files: FileCollector,
        samples: Vec<FileSample>,
        now: Instant,
    }

    impl Host {
        fn new(containers: usize) -> Self {
            let tree = Tree::v2();
            let host = Self {
                files: FileCollector::new(tree.hierarchies.clone(), true, Instant::now()),
                tree,
                samples: vec![FileSample::default(); containers],
                // In the future, where no time passes while it is read.
                now: Instant::now() + Duration::from_secs(3_600),
            };
            for index in 0..containers {
                host.write(index, 0);
            }
            host
        }

        /// What the container has counted: throttled periods.
        fn write(&self, index: usize, throttled: u64) {
            let stat = format!("nr_periods 10\nnr_throttled {throttled}\nthrottled_usec 0\n");
            self.tree.write(&format!("{index}/cpu.stat"), &stat);
        }

        fn throttled(&self, index: usize) -> u64 {
            let counters = &self.samples[index].counters;
            counters.cpu.as_ref().unwrap().throttled_periods
        }

        /// A collection some time after the last one; says whom it read.
        fn collect(&mut self, after: Duration, active: &[usize]) -> Vec<usize> {
            self.now += after;
            for (index, sample) in self.samples.iter_mut().enumerate() {
                sample.note_activity(active.contains(&index), 0);
            }
            let quiet = self.samples.iter().filter_map(FileSample::quiet_since);
            let round = self.files.round(self.now, &mut quiet.collect::<Vec<_>>());
            let mut read = Vec::new();
            for (index, sample) in self.samples.iter_mut().enumerate() {
                if round.reads(sample) {
                    self.files.read(&format!("/{index}"), sample);
                    read.push(index);
                }
            }
            self.files.finish_round(round, self.now);
            read
        }
    }

    const INTERVAL: Duration = Duration::from_secs(5);

    #[test]
    fn what_is_active_is_read_at_each_round_and_once_more_when_it_has_stopped() {
        let mut host = Host::new(2);
        assert_eq!(host.collect(INTERVAL, &[0, 1]), [0, 1]);
        host.collect(INTERVAL, &[1]);
        for throttled in 1..4 {
            host.write(1, throttled);
            assert!(host.collect(INTERVAL, &[1]).contains(&1));
            assert_eq!(host.throttled(1), throttled);
        }
        // The kernel closes a period after the last task of it has gone to sleep.
        host.write(1, 4);
        assert!(host.collect(INTERVAL, &[]).contains(&1));
        assert_eq!(host.throttled(1), 4);
        // That it moved is a reason to look again, that it did not is none.
        assert!(host.collect(INTERVAL, &[]).contains(&1));
        let read: Vec<_> = (0..2).map(|_| host.collect(INTERVAL, &[])).collect();
        assert!(read.iter().any(|read| !read.contains(&1)), "{read:?}");
    }

    #[test]
    fn what_waits_without_running_goes_on_being_read() {
        let mut host = Host::new(1);
        host.collect(INTERVAL, &[0]);
        for waited in 1..20 {
            let pressure = format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={waited}\n");
            host.tree.write("0/io.pressure", &pressure);
            assert_eq!(host.collect(INTERVAL, &[]), [0], "{waited}");
        }
    }

    #[test]
    fn what_stands_still_is_true_until_it_moves_again() {
        let mut host = Host::new(1);
        let as_of = |host: &Host| host.samples[0].as_of().files_ns.unwrap();
        host.collect(INTERVAL, &[0]);
        host.collect(INTERVAL, &[]);
        let read = as_of(&host);
        let later = read + 30_000_000_000;
        host.samples[0].note_activity(false, later);
        assert_eq!(as_of(&host), later);
        // It moves, and was not read since.
        host.samples[0].note_activity(true, later + 1);
        host.samples[0].note_activity(false, later + 2);
        assert_eq!(as_of(&host), later);
    }

    #[test]
    fn a_thousand_quiet_ones_are_read_once_a_minute_evenly() {
        const QUIET: usize = 1_000;
        let busy: Vec<usize> = (QUIET..QUIET + 20).collect();
        let everybody: Vec<usize> = (0..QUIET + 20).collect();
        let mut host = Host::new(QUIET + 20);
        assert_eq!(host.collect(INTERVAL, &everybody).len(), QUIET + 20);
        assert_eq!(host.collect(INTERVAL, &busy).len(), QUIET + 20);
        let opened = host.files.files_read();
        let mut last_read = vec![host.now; QUIET];
        let (mut most, mut readings) = (0, 0);
        for _ in 0..36 {
            let read = host.collect(INTERVAL, &busy);
            most = most.max(read.len());
            readings += read.len();
            assert!(busy.iter().all(|index| read.contains(index)));
            for &index in read.iter().filter(|&&index| index < QUIET) {
                let age = host.now - last_read[index];
                assert!(age <= QUIET_INTERVAL + INTERVAL, "{index}: {age:?}");
                last_read[index] = host.now;
            }
        }
        for last in last_read {
            assert!(host.now - last <= QUIET_INTERVAL + INTERVAL);
        }
        // A twelfth of them at each round, three minutes long.
        assert_eq!(most, 84 + 20);
        assert_eq!(readings, 36 * (84 + 20));
        // Of the files of each, eleven at most: these have one, which stands for the controller.
        let opened = host.files.files_read() - opened;
        assert!(opened <= 11 * readings as u64, "{opened}");
    }

    #[test]
    fn between_rounds_only_what_is_new_is_read() {
        let mut host = Host::new(2);
        host.collect(INTERVAL, &[0, 1]);
        host.samples.push(FileSample::default());
        host.write(2, 0);
        let soon = Duration::from_millis(200);
        assert_eq!(host.collect(soon, &[0, 1, 2]), [2]);
        assert_eq!(host.collect(SHORTEST_INTERVAL, &[0, 1, 2]), [0, 1, 2]);
    }
}
