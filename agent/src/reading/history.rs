//! The readings that are kept.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    ContainerReading, Reading,
    between::{Pair, increase},
    machine::{host_facts, mean_latency},
    tree::add_entitlements,
};
use crate::{
    diagnosis::facts::{ContainerFacts, WindowFacts},
    source::MAX_WINDOW_SECONDS,
};

/// Longest window that facts can be of.
const MAX_WINDOW: Duration = Duration::from_secs(MAX_WINDOW_SECONDS as u64);
/// Time between two readings that are kept. Younger ones stand beside them until the next.
pub(crate) const TICK: Duration = Duration::from_secs(5);
/// How far a reading may be early and still be kept: it is taken when somebody's collection is due.
const TICK_SLACK: Duration = Duration::from_millis(500);
/// How far back the cores of a container are kept.
const FORMER_SPAN: Duration = Duration::from_secs(3_600);
/// Requests without which a disk's mean latency in a tick says nothing of what is normal.
const TELLING_REQUESTS: u64 = 10;
/// Ticks without which nothing is known of what is normal: a minute.
const NORMAL_TICKS: usize = 12;
/// Most former windows in an answer.
const FORMER_WINDOWS: usize = 60;

/// Keeps the readings of the longest window, one in 5 s, and of the last hour the time on CPUs of each
/// container between two of them: 4 bytes each.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Oldest first, 5 s or more apart.
    kept: VecDeque<Arc<Reading>>,
    /// One that is younger than 5 s after the last of those.
    latest: Option<Arc<Reading>>,
    /// When each of the last readings that were kept was taken, oldest first.
    tick_ends_ns: VecDeque<u64>,
    /// Mean latencies of each disk in those of the last ticks in which it had enough requests, with the
    /// ends of the ticks, seconds. 8 bytes each.
    latencies: HashMap<String, VecDeque<(u32, f32)>>,
    /// Seconds on CPUs of each container in the last ticks, oldest first; the last one is that of the last
    /// tick.
    used: HashMap<Key, VecDeque<f32>>,
}

/// Path and beginning of a container.
type Key = (Arc<str>, u64);

impl History {
    /// Takes in a reading, which must be younger than all before.
    pub(crate) fn add(&mut self, reading: Reading) {
        let reading = Arc::new(reading);
        let Some(last) = self.kept.back().map(Arc::clone) else {
            self.tick_ends_ns.push_back(reading.at_ns);
            self.kept.push_back(reading);
            return;
        };
        let age = Duration::from_nanos(reading.at_ns.saturating_sub(last.at_ns));
        if age + TICK_SLACK < TICK {
            self.latest = Some(reading);
            return;
        }
        self.latest = None;
        self.add_tick(&last, &reading);
        self.kept.push_back(reading);
        // One beyond the longest window, so that this has a beginning.
        while let (Some(second), Some(last)) = (self.kept.get(1), self.kept.back())
            && last.at_ns.saturating_sub(second.at_ns) >= nanos(MAX_WINDOW)
        {
            self.kept.pop_front();
        }
    }

    /// When the last reading was taken.
    pub(crate) fn last_at_ns(&self) -> Option<u64> {
        self.later().map(|reading| reading.at_ns)
    }

    /// The last reading.
    pub(crate) fn later(&self) -> Option<&Arc<Reading>> {
        self.latest.as_ref().or_else(|| self.kept.back())
    }

    /// The reading from which a window reaches to the last one: the one whose age is nearest.
    fn earlier(&self, window: Duration) -> Option<&Arc<Reading>> {
        let end = self.later()?.at_ns;
        let begin = end.saturating_sub(nanos(window.min(MAX_WINDOW)));
        self.kept
            .iter()
            .filter(|reading| reading.at_ns < end)
            .min_by_key(|reading| reading.at_ns.abs_diff(begin))
    }

    /// The facts of a window that ends with the last reading; its length is that which the readings
    /// allow. `None` before there are two.
    pub(crate) fn facts(&self, window: Duration) -> Option<WindowFacts> {
        let later = self.later()?;
        let earlier = self.earlier(window)?;
        let mut firsts = Firsts::new(earlier, later);
        for reading in &self.kept {
            if reading.at_ns > earlier.at_ns {
                firsts.add(reading);
            }
        }
        let seconds = later.at_ns.saturating_sub(earlier.at_ns) as f64 / 1e9;
        let mut host = host_facts(&earlier.host, &later.host, seconds);
        for (name, disk) in &mut host.disks {
            disk.normal_latency_seconds = self.normal_latency(name, earlier.at_ns);
        }
        let was_there = |new: &&Arc<ContainerReading>| {
            new.exited_at_unix_ms
                .is_none_or(|exited| exited >= earlier.unix_ms)
        };
        let found = later.containers.iter().filter(was_there);
        let mut containers: Vec<(&ContainerReading, ContainerFacts)> = found
            .filter_map(|new| {
                let (earlier, old) = firsts.find(new)?;
                if earlier.at_ns >= later.at_ns {
                    return None;
                }
                let pair = Pair {
                    earlier,
                    later,
                    old,
                    new,
                };
                Some((&**new, pair.facts()))
            })
            .collect();
        add_entitlements(earlier, later, &host.cpus, &mut containers);
        let containers = containers.into_iter().map(|(reading, mut facts)| {
            facts.cpu.former_cores = self.former_cores(&reading.key(), earlier.at_ns, window);
            facts
        });
        Some(WindowFacts {
            seconds,
            ended_at_unix_ms: later.unix_ms,
            containers: containers.collect(),
            host,
        })
    }

    /// The median of a disk's latencies in the ticks that ended by `end_ns`.
    fn normal_latency(&self, disk: &str, end_ns: u64) -> Option<f64> {
        let known = self.latencies.get(disk)?;
        let before = known
            .iter()
            .filter(|(at_s, _)| whole_seconds(end_ns) >= *at_s);
        let mut latencies: Vec<f32> = before.map(|(_, latency)| *latency).collect();
        if latencies.len() < NORMAL_TICKS {
            return None;
        }
        let middle = latencies.len() / 2;
        let (_, median, _) = latencies.select_nth_unstable_by(middle, f32::total_cmp);
        Some(f64::from(*median))
    }

    /// Cores of a container in the windows before `end_ns`, oldest first.
    fn former_cores(&self, key: &Key, end_ns: u64, window: Duration) -> Vec<f64> {
        let Some(used) = self.used.get(key) else {
            return Vec::new();
        };
        let mut windows = Vec::new();
        let (mut seconds, mut sum) = (0.0, 0.0);
        let ends = self.tick_ends_ns.iter().rev();
        let begins = self.tick_ends_ns.iter().rev().skip(1);
        for ((end, begin), used) in ends.zip(begins).zip(used.iter().rev()) {
            if *end > end_ns {
                continue;
            }
            seconds += end.saturating_sub(*begin) as f64 / 1e9;
            sum += f64::from(*used);
            // Half a tick is nearer than a whole one more.
            if seconds + TICK.as_secs_f64() / 2.0 >= window.as_secs_f64() {
                windows.push(sum / seconds);
                (seconds, sum) = (0.0, 0.0);
                if windows.len() == FORMER_WINDOWS {
                    break;
                }
            }
        }
        windows.reverse();
        windows
    }

    /// Takes in what each container used between the last reading that was kept and this one.
    fn add_tick(&mut self, last: &Reading, now: &Reading) {
        self.tick_ends_ns.push_back(now.at_ns);
        let begin = now.at_ns.saturating_sub(nanos(FORMER_SPAN));
        while self.tick_ends_ns.front().is_some_and(|&end| end < begin) {
            self.tick_ends_ns.pop_front();
        }
        let ticks = self.tick_ends_ns.len().saturating_sub(1);
        self.add_latencies(last, now, begin);
        let before = last.containers.iter();
        let before: HashMap<Key, Option<u64>> =
            before.map(|one| (one.key(), one.on_cpu_ns)).collect();
        let mut used = HashMap::with_capacity(now.containers.len());
        for one in &now.containers {
            let key = one.key();
            let Some(old) = before.get(&key) else {
                continue;
            };
            let mut row = self.used.remove(&key).unwrap_or_default();
            let ns = old
                .zip(one.on_cpu_ns)
                .map(|(old, new)| new.saturating_sub(old));
            row.push_back(ns.unwrap_or(0) as f32 / 1e9);
            while row.len() > ticks {
                row.pop_front();
            }
            used.insert(key, row);
        }
        self.used = used;
    }

    fn add_latencies(&mut self, last: &Reading, now: &Reading, begin_ns: u64) {
        let mut kept = HashMap::new();
        for new in &now.host.disks {
            let name = &new.sample.name;
            let mut row = self.latencies.remove(name).unwrap_or_default();
            let old = last.host.disks.iter().find(|old| old.sample.name == *name);
            let requests = old.and_then(|old| increase(old.sample.requests, new.sample.requests));
            if requests.is_some_and(|requests| requests >= TELLING_REQUESTS) {
                let latency = old.and_then(|old| mean_latency(old, new));
                row.extend(latency.map(|latency| (whole_seconds(now.at_ns), latency as f32)));
            }
            while row
                .front()
                .is_some_and(|(at_s, _)| *at_s < whole_seconds(begin_ns))
            {
                row.pop_front();
            }
            if !row.is_empty() {
                kept.insert(name.clone(), row);
            }
        }
        self.latencies = kept;
    }
}

/// The first reading of each container in a window.
struct Firsts<'a> {
    found: HashMap<(&'a str, u64), (&'a Reading, &'a ContainerReading)>,
    missing: usize,
}

impl<'a> Firsts<'a> {
    /// Those that were there when the window began and are there still.
    fn new(earlier: &'a Reading, later: &Reading) -> Self {
        let mut firsts = Self {
            found: HashMap::with_capacity(later.containers.len()),
            missing: usize::MAX,
        };
        firsts.add(earlier);
        let is_missing = |one: &&Arc<ContainerReading>| firsts.find(one).is_none();
        firsts.missing = later.containers.iter().filter(is_missing).count();
        firsts
    }

    /// Adds those of a younger reading that were not there before; none where none is missing.
    fn add(&mut self, reading: &'a Reading) {
        if self.missing == 0 {
            return;
        }
        for one in &reading.containers {
            let key = (&*one.own.path, one.first_seen_unix_ms);
            self.found.entry(key).or_insert((reading, one));
        }
    }

    fn find(&self, later: &ContainerReading) -> Option<(&'a Reading, &'a ContainerReading)> {
        let key = (&*later.own.path, later.first_seen_unix_ms);
        let found = self.found.get(&key).copied();
        found.filter(|(_, earlier)| earlier.is_same(later))
    }
}

fn whole_seconds(ns: u64) -> u32 {
    u32::try_from(ns / 1_000_000_000).unwrap_or(u32::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::DiskSample,
        reading::{DiskReading, GroupReading, TaskReading},
        snapshot::Identity,
    };

    /// A container that has used so many milliseconds.
    fn container(path: &str, used_ms: u64) -> Arc<ContainerReading> {
        Arc::new(ContainerReading {
            identity: Arc::new(Identity {
                cgroup: path.to_owned(),
                ..Identity::default()
            }),
            on_cpu_ns: Some(used_ms * 1_000_000),
            tasks: Some(TaskReading::default()),
            own: GroupReading {
                path: Arc::from(path),
                ..GroupReading::default()
            },
            ..ContainerReading::default()
        })
    }

    fn reading(at_seconds: f64, containers: Vec<Arc<ContainerReading>>) -> Reading {
        Reading {
            at_ns: (at_seconds * 1e9) as u64,
            unix_ms: (at_seconds * 1e3) as u64,
            containers,
            ..Reading::default()
        }
    }

    fn facts(history: &History, seconds: u64) -> WindowFacts {
        history.facts(Duration::from_secs(seconds)).unwrap()
    }

    /// A second of CPU time in each five, from 0 to 100 s.
    fn steady() -> History {
        let mut history = History::default();
        for tick in 0..=20 {
            history.add(reading(
                5.0 * tick as f64,
                vec![container("/a", 1_000 * tick)],
            ));
        }
        history
    }

    #[test]
    fn a_window_is_as_long_as_the_readings_allow() {
        let mut history = History::default();
        assert!(history.facts(Duration::from_secs(60)).is_none());
        history.add(reading(0.0, vec![]));
        assert!(history.facts(Duration::from_secs(60)).is_none());
        history.add(reading(5.0, vec![]));
        assert_eq!(facts(&history, 60).seconds, 5.0);
        let history = steady();
        for (asked, got) in [(1, 5.0), (10, 10.0), (12, 10.0), (13, 15.0), (60, 60.0)] {
            assert_eq!(facts(&history, asked).seconds, got, "{asked}");
        }
    }

    #[test]
    fn readings_beside_the_beat_end_a_window_and_are_not_kept() {
        let mut history = steady();
        for tenth in 1..40 {
            let at = 100.0 + f64::from(tenth) / 10.0;
            history.add(reading(at, vec![container("/a", 20_000)]));
        }
        assert_eq!(facts(&history, 1).seconds, 3.9);
        assert_eq!(facts(&history, 1).ended_at_unix_ms, 103_900);
        assert!(history.kept.len() <= 14, "{}", history.kept.len());
        // What is due a little early is kept.
        history.add(reading(104.6, vec![container("/a", 20_000)]));
        assert_eq!(history.kept.back().map(|last| last.unix_ms), Some(104_600));
    }

    #[test]
    fn former_windows_are_as_long_as_this_one_and_before_it() {
        let mut history = steady();
        history.add(reading(105.0, vec![container("/a", 25_000)]));
        let former = |seconds| {
            facts(&history, seconds).containers[0]
                .cpu
                .former_cores
                .clone()
        };
        let ten = former(10);
        // 10 s windows before 95 s: nine and a half of them.
        assert_eq!(ten.len(), 9);
        assert!(
            ten.iter().all(|cores| (cores - 0.2).abs() < 1e-6),
            "{ten:?}"
        );
        assert_eq!(former(5).len(), 20);
        // The one that the window is does not count.
        assert!(former(5).iter().all(|&cores| cores < 0.21));
        assert!(former(60).is_empty());
    }

    #[test]
    fn an_hour_of_cores_is_kept_and_not_more() {
        let mut history = History::default();
        for tick in 0..2_000 {
            history.add(reading(5.0 * tick as f64, vec![container("/a", 0)]));
        }
        let rows: Vec<usize> = history.used.values().map(VecDeque::len).collect();
        assert_eq!(rows, [720]);
        assert_eq!(history.tick_ends_ns.len(), 721);
        history.add(reading(10_000.0, vec![]));
        assert!(history.used.is_empty());
    }

    #[test]
    fn a_container_that_began_in_the_window_has_facts_of_its_life() {
        let mut history = steady();
        for (at, used) in [(105.0, 300), (110.0, 800)] {
            let both = vec![container("/a", 21_000), container("/new", used)];
            history.add(reading(at, both));
        }
        let new = &facts(&history, 60).containers[1];
        assert_eq!((new.seconds, new.cpu.used_seconds), (5.0, Some(0.5)));
        // One that is seen a first time has none yet.
        history.add(reading(115.0, vec![container("/newer", 5)]));
        assert_eq!(facts(&history, 60).containers, []);
    }

    #[test]
    fn one_that_ended_before_the_window_is_left_out() {
        let mut history = steady();
        let mut ended = ContainerReading::clone(&container("/a", 20_000));
        ended.exited_at_unix_ms = Some(102_000);
        for at in [105.0, 110.0] {
            history.add(reading(at, vec![Arc::new(ended.clone())]));
        }
        assert_eq!(facts(&history, 10).containers.len(), 1);
        assert_eq!(facts(&history, 5).containers, []);
    }

    #[test]
    fn another_container_at_the_same_path_is_a_new_one() {
        let mut history = steady();
        let mut other = ContainerReading::clone(&container("/a", 5));
        other.first_seen_unix_ms = 102_000;
        history.add(reading(105.0, vec![Arc::new(other)]));
        assert_eq!(facts(&history, 10).containers, []);
    }

    #[test]
    fn what_is_normal_for_a_disk_is_the_median_of_the_hour_before() {
        let mut history = History::default();
        let (mut requests, mut latency_ms) = (100, 0);
        let mut add = |history: &mut History, tick: u32, more: u64, ms: u64| {
            requests += more;
            latency_ms += more * ms;
            let disk = DiskReading {
                sample: DiskSample {
                    name: "vda".into(),
                    requests,
                    latency_ms,
                    ..DiskSample::default()
                },
                errors: None,
            };
            let mut reading = reading(5.0 * f64::from(tick), vec![]);
            reading.host.disks = vec![disk];
            history.add(reading);
        };
        let normal = |history: &History| {
            let disks = &facts(history, 10).host.disks;
            disks["vda"].normal_latency_seconds
        };
        for tick in 0..13 {
            add(&mut history, tick, 100, if tick % 3 == 0 { 9 } else { 2 });
        }
        // The window itself does not count: ten ticks are left.
        assert_eq!(normal(&history), None);
        // Two requests say nothing of what is normal.
        for tick in 13..20 {
            add(&mut history, tick, 2, 500);
        }
        assert_eq!(normal(&history), Some(f64::from(0.002f32)));
        let kept = history.latencies["vda"].len();
        assert_eq!(kept, 12);
        for tick in 20..2_000 {
            add(&mut history, tick, 100, 4);
        }
        assert_eq!(normal(&history), Some(f64::from(0.004f32)));
        assert!(history.latencies["vda"].len() <= 721);
        history.add(reading(20_000.0, vec![]));
        assert!(history.latencies.is_empty());
    }

    #[test]
    fn a_counter_that_went_backwards_gives_none() {
        let mut history = steady();
        history.add(reading(105.0, vec![container("/a", 3)]));
        let facts = facts(&history, 5);
        assert_eq!(facts.containers[0].cpu.used_seconds, None);
        assert_eq!(facts.containers[0].cpu.waits, Some(0));
    }
}
