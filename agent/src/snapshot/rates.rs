//! What a container did between two snapshots, per second.

use std::{collections::HashMap, sync::Arc};

use super::{
    AsOf, BlockStats, Container, Counted as _, Counters, Histogram, PreemptedBy, PressureTimes,
    SchedStats, Snapshot,
};

/// What a container did between two snapshots. `None` is what either of them did not measure, and what
/// went backwards (a reset).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// Time between the two, seconds.
    pub seconds: f64,
    /// Time on CPUs, seconds per second.
    pub cpu_cores: Option<f64>,
    /// Run queue latencies of that time.
    pub run_queue: Option<Histogram>,
    /// Share of the time it was runnable or running that it spent waiting for a CPU, 0 to 1; `None`
    /// while it wanted none.
    pub wait_ratio: Option<f64>,
    /// Voluntary context switches per second.
    pub voluntary_per_second: Option<f64>,
    /// Involuntary context switches per second.
    pub involuntary_per_second: Option<f64>,
    /// Preemptions by another container or the system per second; its own tasks and the kernel, whose
    /// part includes the bandwidth limit, are not others.
    pub preempted_by_others_per_second: Option<f64>,
    /// Block I/O latencies of that time, all operations.
    pub io_latency: Option<Histogram>,
    /// Block I/O bytes per second.
    pub io_bytes_per_second: Option<f64>,
    /// Block I/O requests per second.
    pub io_operations_per_second: Option<f64>,
    /// What its cgroup files say; `None` where they were not read between the two.
    pub files: Option<FileRates>,
}

/// What the cgroup files of a container say between two readings of them, which lie elsewhere in time than
/// the snapshots that show them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FileRates {
    /// Time between the two readings, seconds.
    pub seconds: f64,
    /// The later one, on the clock of [`Snapshot::taken_at_ns`].
    pub as_of_ns: u64,
    /// Share of the enforcement periods in which it was throttled, 0 to 1; `None` without a quota.
    pub throttled_ratio: Option<f64>,
    /// Share of the time in which a task of it waited for a CPU, 0 to 1.
    pub cpu_pressure_ratio: Option<f64>,
    /// Share of the time in which a task of it waited for memory, 0 to 1.
    pub memory_pressure_ratio: Option<f64>,
    /// Share of the time in which a task of it waited for I/O, 0 to 1.
    pub io_pressure_ratio: Option<f64>,
}

impl Rates {
    /// Subtracts two states of one container, those of snapshots that lie `seconds` apart; what was read
    /// at other times is divided by the time between these. All is `None` where they do not lie apart.
    #[must_use]
    pub fn between(earlier: &Container, later: &Container, seconds: f64) -> Self {
        if !seconds.is_finite() || seconds <= 0.0 {
            return Self::default();
        }
        let Some(added) = later.counters.since(&earlier.counters) else {
            return Self::default();
        };
        let mut rates = Self {
            seconds,
            ..Self::default()
        };
        let apart = |of: fn(&AsOf) -> Option<u64>| {
            match (of(&earlier.as_of), of(&later.as_of)) {
                (Some(then), Some(now)) => seconds_of(now.saturating_sub(then)),
                // An agent that does not say it reads with each snapshot.
                (None, None) => seconds,
                _ => 0.0,
            }
        };
        let (was, is) = (&earlier.counters.sched, &later.counters.sched);
        // Of the entry of all others, what no other entry has.
        let by_programs = is.is_some() && !later.is_counted_elsewhere;
        if by_programs && was.is_some() {
            let ns = added.sched.as_ref().map(|sched| sched.on_cpu_ns);
            rates.cpu_cores = ns.map(|ns| ns as f64 / 1e9 / seconds);
        } else if !by_programs && was.is_some() == is.is_some() {
            let apart = apart(|of| of.cpu_usage_ns);
            let ns = added.cpu_usage_ns.filter(|_| apart > 0.0);
            rates.cpu_cores = ns.map(|ns| ns as f64 / 1e9 / apart);
        }
        rates.files = FileRates::of(&added, later, apart(|of| of.files_ns));
        if let Some(sched) = added.sched {
            rates.add_sched(sched);
        }
        if let Some(block) = &added.block {
            rates.add_block(block);
        }
        rates
    }

    fn add_sched(&mut self, added: SchedStats) {
        let per_second = |count: u64| Some(count as f64 / self.seconds);
        let waited_ns = added.run_queue.sum_ns();
        self.wait_ratio = ratio(waited_ns, waited_ns.saturating_add(added.on_cpu_ns));
        let by_others = PreemptedBy::ALL
            .iter()
            .zip(added.preemptions)
            .filter(|(by, _)| matches!(by, PreemptedBy::Container | PreemptedBy::System))
            .map(|(_, count)| count)
            .sum();
        self.voluntary_per_second = per_second(added.voluntary);
        self.involuntary_per_second = per_second(added.involuntary);
        self.preempted_by_others_per_second = per_second(by_others);
        self.run_queue = Some(added.run_queue);
    }

    fn add_block(&mut self, added: &BlockStats) {
        self.io_latency = Some(added.latency());
        self.io_bytes_per_second = Some(added.bytes() as f64 / self.seconds);
        self.io_operations_per_second = Some(added.count() as f64 / self.seconds);
    }

    /// Whether it did nothing: no time on a CPU, no wait, no I/O.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let none = |value: Option<f64>| value.is_none_or(|value| value == 0.0);
        none(self.cpu_cores)
            && none(self.io_operations_per_second)
            && self
                .run_queue
                .as_ref()
                .is_none_or(|waits| waits.count() == 0)
    }
}

impl FileRates {
    fn of(added: &Counters, later: &Container, seconds: f64) -> Option<Self> {
        if seconds <= 0.0 {
            return None;
        }
        let waited = |times: Option<PressureTimes>| {
            let usec = times?.waiting_usec;
            // Each of the kernel's files is some microseconds younger than the time that stands for all.
            Some((usec as f64 / 1e6 / seconds).min(1.0))
        };
        let pressure = added.pressure.clone().unwrap_or_default();
        Some(Self {
            seconds,
            as_of_ns: later.as_of.files_ns.unwrap_or_default(),
            throttled_ratio: match &added.cpu {
                Some(cpu) if cpu.periods > 0 => ratio(cpu.throttled_periods, cpu.periods),
                Some(_) => later.gauges.cpu_quota_cores.map(|_| 0.0),
                None => None,
            },
            cpu_pressure_ratio: waited(pressure.cpu),
            memory_pressure_ratio: waited(pressure.memory),
            io_pressure_ratio: waited(pressure.io),
        })
    }
}

/// Longest that rates of cgroup files are shown when no newer reading comes, nanoseconds.
const STALE_NS: u64 = 15_000_000_000;

/// What containers do from one snapshot to the next, for whoever shows it again and again.
///
/// Where cgroup files were not read between two snapshots, what they said before holds on, for 15 s at most:
/// shorter looks than the time between two readings show neither gaps nor zeroes.
#[derive(Clone, Debug)]
pub struct Course {
    last: Arc<Snapshot>,
    /// By cgroup and time of the first sight. Of those that are in the last snapshot.
    files: HashMap<(String, u64), FileRates>,
}

impl Course {
    /// Begins with a snapshot; rates come with the next.
    #[must_use]
    pub fn new(first: Arc<Snapshot>) -> Self {
        Self {
            last: first,
            files: HashMap::new(),
        }
    }

    /// The snapshot that came last.
    #[must_use]
    pub fn last(&self) -> &Arc<Snapshot> {
        &self.last
    }

    /// Takes in the next snapshot; gives what its containers, in their order, did since the last one. `None`
    /// where it is none later.
    pub fn follow(&mut self, next: &Arc<Snapshot>) -> Option<Vec<Rates>> {
        let seconds = seconds_between(&self.last, next);
        if seconds <= 0.0 {
            return None;
        }
        let earlier = EarlierContainers::new(&self.last);
        let mut kept = HashMap::with_capacity(next.containers.len());
        let rates = next.containers.iter().map(|container| {
            let Some(before) = earlier.find(container) else {
                return Rates::default();
            };
            let mut rates = Rates::between(before, container, seconds);
            let key = (
                container.identity.cgroup.clone(),
                container.first_seen_unix_ms,
            );
            let is_fresh =
                |files: &FileRates| next.taken_at_ns.saturating_sub(files.as_of_ns) <= STALE_NS;
            let former = || self.files.get(&key).copied().filter(is_fresh);
            rates.files = rates.files.or_else(former);
            if let Some(files) = rates.files {
                kept.insert(key, files);
            }
            rates
        });
        let rates = rates.collect();
        self.files = kept;
        self.last = Arc::clone(next);
        Some(rates)
    }
}

/// The containers of a snapshot, to find a later state's earlier one. A reused cgroup is another
/// container.
#[derive(Debug)]
pub struct EarlierContainers<'a>(HashMap<(&'a str, u64), &'a Container>);

impl<'a> EarlierContainers<'a> {
    /// Indexes a snapshot.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let containers = snapshot.containers.iter();
        Self(containers.map(|one| (Self::key(one), one)).collect())
    }

    /// The earlier state of a container; `None` if it was not there.
    #[must_use]
    pub fn find(&self, later: &Container) -> Option<&'a Container> {
        let found = self.0.get(&Self::key(later)).copied();
        found.filter(|earlier| is_same(earlier, later))
    }

    fn key(container: &Container) -> (&str, u64) {
        (&container.identity.cgroup, container.first_seen_unix_ms)
    }
}

/// Whether two entries of two snapshots are one container.
#[must_use]
pub fn is_same(one: &Container, other: &Container) -> bool {
    one.identity.kind == other.identity.kind
        && one.identity.cgroup == other.identity.cgroup
        && one.identity.container_id == other.identity.container_id
        && one.first_seen_unix_ms == other.first_seen_unix_ms
}

/// Seconds between two snapshots, by the monotonic clock; 0 where they do not lie apart.
#[must_use]
pub fn seconds_between(earlier: &Snapshot, later: &Snapshot) -> f64 {
    seconds_of(later.taken_at_ns.saturating_sub(earlier.taken_at_ns))
}

fn seconds_of(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{BlockOperation, Gauges, Pressure, Throttling};

    fn files(rates: &Rates) -> FileRates {
        rates.files.expect("files were read")
    }

    fn earlier() -> Container {
        Container {
            counters: Counters {
                sched: Some(SchedStats {
                    on_cpu_ns: 1_000_000_000,
                    involuntary: 10,
                    preemptions: [1, 2, 3, 4, 5],
                    ..SchedStats::default()
                }),
                block: Some(BlockStats::default()),
                cpu: Some(Throttling {
                    periods: 100,
                    throttled_periods: 10,
                    ..Throttling::default()
                }),
                ..Counters::default()
            },
            gauges: Gauges {
                cpu_quota_cores: Some(0.5),
                ..Gauges::default()
            },
            ..Container::default()
        }
    }

    #[test]
    fn counters_become_rates() {
        let earlier = earlier();
        let mut later = earlier.clone();
        if let Some(sched) = &mut later.counters.sched {
            sched.on_cpu_ns += 1_500_000_000;
            sched.involuntary += 6;
            sched.preemptions = [9, 4, 4, 9, 5];
            sched.run_queue.record(500_000_000);
        }
        if let Some(cpu) = &mut later.counters.cpu {
            cpu.periods += 20;
            cpu.throttled_periods += 5;
        }
        if let Some(block) = &mut later.counters.block {
            block.operations[0] = BlockOperation {
                bytes: 8192,
                count: 4,
                ..BlockOperation::default()
            };
        }
        let rates = Rates::between(&earlier, &later, 2.0);
        assert_eq!(rates.cpu_cores, Some(0.75));
        assert_eq!(rates.wait_ratio, Some(0.25));
        assert_eq!(files(&rates).throttled_ratio, Some(0.25));
        assert_eq!(rates.involuntary_per_second, Some(3.0));
        assert_eq!(rates.preempted_by_others_per_second, Some(1.5));
        assert_eq!(rates.io_bytes_per_second, Some(4096.0));
        assert_eq!(rates.io_operations_per_second, Some(2.0));
        assert!(!rates.is_idle());
    }

    #[test]
    fn without_the_scheduler_cores_are_of_the_kernels_own_account() {
        let usage = |ns| Container {
            counters: Counters {
                cpu_usage_ns: Some(ns),
                ..Counters::default()
            },
            ..Container::default()
        };
        let rates = Rates::between(&usage(1_000_000_000), &usage(2_000_000_000), 2.0);
        assert_eq!(rates.cpu_cores, Some(0.5));
        assert_eq!(rates.wait_ratio, None);
        // The two accounts begin at different times.
        let rates = Rates::between(&usage(500_000_000), &earlier(), 1.0);
        assert_eq!(rates.cpu_cores, None);
    }

    #[test]
    fn what_other_entries_show_is_not_in_that_of_all_others_again() {
        let mut others = earlier();
        others.is_counted_elsewhere = true;
        let mut later = others.clone();
        if let Some(sched) = &mut later.counters.sched {
            sched.on_cpu_ns += 1_000_000_000;
        }
        assert_eq!(Rates::between(&others, &later, 1.0).cpu_cores, None);
    }

    #[test]
    fn absent_stays_absent() {
        let rates = Rates::between(&Container::default(), &earlier(), 1.0);
        assert_eq!(rates.cpu_cores, None);
        assert_eq!(rates.io_bytes_per_second, None);
        assert_eq!(
            rates.files,
            Some(FileRates {
                seconds: 1.0,
                ..FileRates::default()
            })
        );
    }

    #[test]
    fn a_counter_going_backwards_is_a_reset_and_gives_none() {
        let later = earlier();
        let mut before = earlier();
        if let Some(sched) = &mut before.counters.sched {
            sched.on_cpu_ns += 1;
            sched.run_queue.record(1_000);
        }
        let rates = Rates::between(&before, &later, 1.0);
        assert_eq!(rates.cpu_cores, None);
        assert_eq!(rates.run_queue, None);
        assert_eq!(rates.wait_ratio, None);
        assert_eq!(rates.involuntary_per_second, None);
        assert_eq!(
            files(&rates).throttled_ratio,
            Some(0.0),
            "its files were not reset"
        );
    }

    #[test]
    fn an_idle_container_with_a_quota_is_throttled_in_no_period() {
        let rates = Rates::between(&earlier(), &earlier(), 1.0);
        assert_eq!(files(&rates).throttled_ratio, Some(0.0));
        assert_eq!(rates.wait_ratio, None);
        assert!(rates.is_idle());
    }

    #[test]
    fn what_files_say_is_divided_by_the_time_between_their_readings() {
        let read_at = |ns, waiting_usec| {
            let waiting = PressureTimes {
                waiting_usec,
                stalled_usec: 0,
            };
            Container {
                counters: Counters {
                    cpu_usage_ns: Some(ns),
                    pressure: Some(Pressure {
                        cpu: Some(waiting),
                        ..Pressure::default()
                    }),
                    ..Counters::default()
                },
                as_of: AsOf {
                    files_ns: Some(ns),
                    cpu_usage_ns: Some(ns),
                },
                ..Container::default()
            }
        };
        let (first, second) = (read_at(1_000_000_000, 0), read_at(4_000_000_000, 1_500_000));
        let rates = Rates::between(&first, &second, 1.0);
        assert_eq!(rates.cpu_cores, Some(1.0));
        assert_eq!(files(&rates).cpu_pressure_ratio, Some(0.5));
        assert_eq!(files(&rates).as_of_ns, 4_000_000_000);
        // Shown again.
        let rates = Rates::between(&second, &second, 1.0);
        assert_eq!((rates.cpu_cores, rates.files), (None, None));
        let unread = Container::default();
        assert_eq!(Rates::between(&unread, &second, 1.0).files, None);
    }

    /// A container that waits half of the time, in a snapshot each second; its files are read in those of
    /// `readings`, and said in those after what was read then.
    fn course(readings: &[u64], seconds: u64) -> Vec<Option<f64>> {
        let snapshot = |second: u64| {
            let read = readings.iter().rfind(|&&read| read <= second).copied();
            let mut container = earlier();
            container.as_of.files_ns = read.map(|read| read * 1_000_000_000);
            container.counters.pressure = read.map(|read| Pressure {
                io: Some(PressureTimes {
                    waiting_usec: read * 500_000,
                    stalled_usec: 0,
                }),
                ..Pressure::default()
            });
            Arc::new(Snapshot {
                taken_at_ns: second * 1_000_000_000,
                containers: vec![container],
                ..Snapshot::default()
            })
        };
        let mut course = Course::new(snapshot(0));
        let rates = (1..=seconds).map(|second| course.follow(&snapshot(second)).unwrap());
        rates
            .map(|rates| rates[0].files.and_then(|files| files.io_pressure_ratio))
            .collect()
    }

    #[test]
    fn looks_between_two_readings_show_neither_gaps_nor_zeroes() {
        let half = Some(0.5);
        assert_eq!(course(&[0, 3, 5], 6), [None, None, half, half, half, half]);
    }

    #[test]
    fn rates_of_files_that_are_read_no_more_end() {
        let rates = course(&[0, 1], 18);
        assert_eq!(rates[15], Some(0.5));
        assert_eq!(rates[16], None);
    }

    #[test]
    fn a_snapshot_that_is_no_later_has_no_rates() {
        let snapshot = Arc::new(Snapshot::default());
        let mut course = Course::new(Arc::clone(&snapshot));
        assert_eq!(course.follow(&snapshot), None);
    }

    #[test]
    fn no_time_between_gives_nothing() {
        assert_eq!(
            Rates::between(&earlier(), &earlier(), 0.0),
            Rates::default()
        );
    }
}
