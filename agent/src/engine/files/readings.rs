//! Whose files are read when, and what they said last.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::sample::FileSample;
use crate::snapshot::{AsOf, Counters, Gauges};

/// Longest time between two readings of a container that does nothing, and one round more.
pub(super) const QUIET_INTERVAL: Duration = Duration::from_secs(60);

/// What the files of a container say.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct FileReading {
    /// What is counted.
    pub(in crate::engine) counters: Counters,
    /// What goes up and down.
    pub(in crate::engine) gauges: Gauges,
    /// As of when it is true, nanoseconds since the engine's start; none before the first reading.
    pub(in crate::engine) as_of: AsOf,
    /// The number of the reading, of all that were made; 0 before the first.
    pub(in crate::engine) number: u64,
}

/// A container.
#[derive(Debug)]
struct Entry {
    said: FileReading,
    /// `None` while it is being read.
    sample: Option<Box<FileSample>>,
    is_live: bool,
    /// It did something since its last reading began.
    is_active: bool,
    /// Its last reading was of a time in which it was not active, and found no counter changed.
    is_settled: bool,
    /// When it ended for the first time of those that count together, and how many these are.
    ends: Option<(Instant, u32)>,
    /// The number of the last notes that it was in.
    noted: u64,
}

/// So many ends of one container are read in [`ENDS_INTERVAL`]: it has one, or a few where its tasks come one after
/// the other. Whoever empties a cgroup again and again shall not cost more.
const MOST_ENDS: u32 = 8;
const ENDS_INTERVAL: Duration = Duration::from_secs(10);

impl Default for Entry {
    fn default() -> Self {
        Self {
            said: FileReading::default(),
            sample: Some(Box::default()),
            is_live: false,
            is_active: false,
            is_settled: false,
            ends: None,
            noted: 0,
        }
    }
}

impl Entry {
    /// The number of its last reading, if nothing new is expected of another one.
    fn quiet_since(&self) -> Option<u64> {
        let is_quiet = self.said.number > 0 && self.is_settled && !self.is_active;
        is_quiet.then_some(self.said.number)
    }
}

/// One that is to be read now.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) path: String,
    pub(super) sample: Box<FileSample>,
    /// It was active since it was last read.
    pub(super) was_active: bool,
    /// Nothing new is expected of it.
    pub(super) is_quiet: bool,
}

/// One whose last task has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) path: String,
    /// A user without privileges can have made it.
    pub(super) is_users: bool,
}

/// The containers whose files are read.
#[derive(Debug, Default)]
pub(super) struct Readings {
    containers: HashMap<String, Entry>,
    /// Those whose last task has ended, to be read at once.
    ended: Vec<Ended>,
    last_round: Option<Instant>,
    readings: u64,
    notes: u64,
}

impl Readings {
    /// Notes which containers there are: path, whether it is live, and whether it ran or did I/O since the last time,
    /// or might have. What stood still and was not active is as it was read. All others are forgotten.
    pub(super) fn note<'a>(
        &mut self,
        containers: impl Iterator<Item = (&'a str, bool, bool)>,
        now_ns: u64,
    ) {
        self.notes += 1;
        for (path, is_live, is_active) in containers {
            self.note_one(path, is_live, is_active, now_ns);
        }
        let notes = self.notes;
        self.containers.retain(|_, entry| entry.noted == notes);
    }

    fn note_one(&mut self, path: &str, is_live: bool, is_active: bool, now_ns: u64) {
        let notes = self.notes;
        let Some(entry) = self.entry(path) else {
            return;
        };
        entry.noted = notes;
        entry.is_live = is_live;
        entry.is_active |= is_active;
        if entry.quiet_since().is_some() && entry.said.as_of.files_ns.is_some() {
            entry.said.as_of.files_ns = Some(now_ns);
        }
        if !is_live && let Some(sample) = &mut entry.sample {
            sample.close();
        }
    }

    /// That of a path, made if there is none: always some. Most are known, and need no copy of their path.
    fn entry(&mut self, path: &str) -> Option<&mut Entry> {
        if !self.containers.contains_key(path) {
            self.containers.insert(path.to_owned(), Entry::default());
        }
        self.containers.get_mut(path)
    }

    /// Forgets one; what it said last.
    pub(super) fn remove(&mut self, path: &str) -> Option<FileReading> {
        self.containers.remove(path).map(|entry| entry.said)
    }

    /// What one said last.
    pub(super) fn said(&self, path: &str) -> Option<&FileReading> {
        self.containers.get(path).map(|entry| &entry.said)
    }

    /// The last task of one has ended, of which this may be the first that is heard; `false` if it does so too
    /// often to be read.
    pub(super) fn ended(&mut self, path: &str, is_users: bool, now: Instant) -> bool {
        let Some(entry) = self.entry(path) else {
            return false;
        };
        let (first, count) = match entry.ends {
            Some((first, count)) if now.saturating_duration_since(first) < ENDS_INTERVAL => {
                (first, count + 1)
            }
            _ => (now, 1),
        };
        entry.ends = Some((first, count.min(MOST_ENDS + 1)));
        if count > MOST_ENDS {
            return false;
        }
        if !self.ended.iter().any(|known| known.path == path) {
            self.ended.push(Ended {
                path: path.to_owned(),
                is_users,
            });
        }
        true
    }

    /// One whose last task has ended.
    pub(super) fn next_ended(&mut self) -> Option<Ended> {
        self.ended.pop()
    }

    /// Who is read now. What is new is read whatever the time: a container's series are all there from its
    /// first sight. The others only in a round: all that moved, and of the quiet ones those that were read longest
    /// ago, as many as are due for the time since the last round.
    pub(super) fn due(&mut self, now: Instant, is_round: bool) -> Vec<String> {
        let live = || self.containers.iter().filter(|(_, entry)| entry.is_live);
        if !is_round {
            let new = live().filter(|(_, entry)| entry.said.number == 0);
            return new.map(|(path, _)| path.clone()).collect();
        }
        let mut quiet: Vec<u64> = live()
            .filter_map(|(_, entry)| entry.quiet_since())
            .collect();
        let since = self
            .last_round
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let share = (since.as_secs_f64() / QUIET_INTERVAL.as_secs_f64()).min(1.0);
        let count = (share * quiet.len() as f64).ceil() as usize;
        let quiet_until = count
            .checked_sub(1)
            .filter(|&index| index < quiet.len())
            .map(|index| *quiet.select_nth_unstable(index).1);
        let is_due = |entry: &Entry| match entry.quiet_since() {
            None => true,
            Some(since) => quiet_until.is_some_and(|until| since <= until),
        };
        let due = live().filter(|(_, entry)| is_due(entry));
        let due = due.map(|(path, _)| path.clone()).collect();
        self.last_round = Some(now);
        due
    }

    /// Hands one out to be read; `None` if it has gone meanwhile, or is being read.
    pub(super) fn begin(&mut self, path: String) -> Option<Turn> {
        let entry = self.containers.get_mut(&path)?;
        let is_quiet = entry.quiet_since().is_some();
        let sample = entry.sample.take()?;
        Some(Turn {
            path,
            sample,
            was_active: std::mem::take(&mut entry.is_active),
            is_quiet,
        })
    }

    /// Takes one back that has been read; `moved` says whether a counter of it did.
    pub(super) fn finish(&mut self, turn: Turn, moved: bool) {
        self.readings += 1;
        let Some(entry) = self.containers.get_mut(&turn.path) else {
            return;
        };
        entry.is_settled = !turn.was_active && !moved;
        entry.said = FileReading {
            counters: turn.sample.counters.clone(),
            gauges: turn.sample.gauges,
            as_of: turn.sample.as_of,
            number: self.readings,
        };
        entry.sample = Some(turn.sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Containers with one counter each, by index.
    struct Host {
        readings: Readings,
        throttled: Vec<u64>,
        now: Instant,
    }

    const INTERVAL: Duration = Duration::from_secs(5);

    impl Host {
        fn new(containers: usize) -> Self {
            Self {
                readings: Readings::default(),
                throttled: vec![0; containers],
                now: Instant::now(),
            }
        }

        fn note(&mut self, active: &[usize], now_ns: u64) {
            let paths: Vec<String> = (0..self.throttled.len())
                .map(|index| index.to_string())
                .collect();
            let containers = paths.iter().enumerate();
            let containers =
                containers.map(|(index, path)| (path.as_str(), true, active.contains(&index)));
            self.readings.note(containers, now_ns);
        }

        /// A collection some time after the last one; says whom it read.
        fn collect(&mut self, after: Duration, active: &[usize], is_round: bool) -> Vec<usize> {
            self.now += after;
            self.note(active, 0);
            let mut read = Vec::new();
            for path in self.readings.due(self.now, is_round) {
                read.push(path.parse().unwrap());
                self.read(path);
            }
            read.sort_unstable();
            read
        }

        fn read(&mut self, path: String) {
            let index: usize = path.parse().unwrap();
            let mut turn = self.readings.begin(path).unwrap();
            let throttling = turn.sample.counters.cpu.get_or_insert_default();
            let moved = throttling.throttled_periods != self.throttled[index];
            throttling.throttled_periods = self.throttled[index];
            turn.sample.as_of.files_ns = Some(1);
            self.readings.finish(turn, moved);
        }

        fn round(&mut self, active: &[usize]) -> Vec<usize> {
            self.collect(INTERVAL, active, true)
        }

        fn seen(&self, index: usize) -> u64 {
            let said = self.readings.said(&index.to_string()).unwrap();
            said.counters.cpu.as_ref().unwrap().throttled_periods
        }
    }

    #[test]
    fn what_is_active_is_read_at_each_round_and_once_more_when_it_has_stopped() {
        let mut host = Host::new(2);
        assert_eq!(host.round(&[0, 1]), [0, 1]);
        host.round(&[1]);
        for throttled in 1..4 {
            host.throttled[1] = throttled;
            assert!(host.round(&[1]).contains(&1));
            assert_eq!(host.seen(1), throttled);
        }
        // The kernel closes a period after the last task of it has gone to sleep.
        host.throttled[1] = 4;
        assert!(host.round(&[]).contains(&1));
        assert_eq!(host.seen(1), 4);
        // That it moved is a reason to look again, that it did not is none.
        assert!(host.round(&[]).contains(&1));
        let read: Vec<_> = (0..2).map(|_| host.round(&[])).collect();
        assert!(read.iter().any(|read| !read.contains(&1)), "{read:?}");
    }

    #[test]
    fn what_waits_without_running_goes_on_being_read() {
        let mut host = Host::new(1);
        host.round(&[0]);
        for waited in 1..20 {
            host.throttled[0] = waited;
            assert_eq!(host.round(&[]), [0], "{waited}");
        }
    }

    #[test]
    fn what_stands_still_is_true_until_it_moves_again() {
        let mut host = Host::new(1);
        let as_of = |host: &Host| host.readings.said("0").unwrap().as_of.files_ns.unwrap();
        host.round(&[0]);
        host.round(&[]);
        host.note(&[], 30);
        assert_eq!(as_of(&host), 30);
        // It moves, and was not read since.
        host.note(&[0], 40);
        host.note(&[], 50);
        assert_eq!(as_of(&host), 30);
    }

    #[test]
    fn a_thousand_quiet_ones_are_read_once_a_minute_evenly() {
        const QUIET: usize = 1_000;
        let busy: Vec<usize> = (QUIET..QUIET + 20).collect();
        let everybody: Vec<usize> = (0..QUIET + 20).collect();
        let mut host = Host::new(QUIET + 20);
        assert_eq!(host.round(&everybody).len(), QUIET + 20);
        assert_eq!(host.round(&busy).len(), QUIET + 20);
        let mut last_read = vec![host.now; QUIET];
        let (mut most, mut readings) = (0, 0);
        for _ in 0..36 {
            let read = host.round(&busy);
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
    }

    #[test]
    fn between_rounds_only_what_is_new_is_read() {
        let mut host = Host::new(2);
        host.round(&[0, 1]);
        host.throttled.push(0);
        let soon = Duration::from_millis(200);
        assert_eq!(host.collect(soon, &[0, 1, 2], false), [2]);
        assert_eq!(host.collect(soon, &[0, 1, 2], false), [0_usize; 0]);
        assert_eq!(host.round(&[0, 1, 2]), [0, 1, 2]);
    }

    #[test]
    fn what_moves_while_it_is_read_is_read_again() {
        let mut host = Host::new(1);
        host.round(&[0]);
        host.round(&[]);
        let turn = host.readings.begin("0".to_owned()).unwrap();
        // What it said before is there meanwhile, and nobody else reads it.
        assert!(host.readings.said("0").is_some());
        assert!(host.readings.begin("0".to_owned()).is_none());
        host.note(&[0], 9);
        host.readings.finish(turn, false);
        assert_eq!(host.round(&[]), [0]);
    }

    #[test]
    fn what_ends_before_anybody_looked_is_read_once() {
        let mut host = Host::new(1);
        host.throttled[0] = 3;
        for _ in 0..2 {
            assert!(host.readings.ended("0", true, host.now));
        }
        let ended = host.readings.next_ended().unwrap();
        assert!(ended.is_users && host.readings.next_ended().is_none());
        host.read(ended.path);
        host.readings.note([("0", false, true)].into_iter(), 0);
        assert_eq!(host.seen(0), 3);
        assert_eq!(host.readings.due(host.now, true), [""; 0]);
    }

    #[test]
    fn what_ends_again_and_again_is_read_a_few_times() {
        let mut readings = Readings::default();
        let now = Instant::now();
        let mut read = 0;
        for _ in 0..100 {
            read += u32::from(readings.ended("0", false, now));
            while readings.next_ended().is_some() {}
        }
        assert_eq!(read, MOST_ENDS);
        assert!(readings.ended("1", false, now));
        assert!(readings.ended("0", false, now + ENDS_INTERVAL));
    }

    #[test]
    fn what_has_gone_is_not_read_and_keeps_what_it_said() {
        let mut host = Host::new(2);
        host.throttled = vec![7, 7];
        host.round(&[0, 1]);
        let both = [("0", false, true), ("1", true, true)];
        host.readings.note(both.into_iter(), 0);
        let due = host.readings.due(host.now + INTERVAL, true);
        assert_eq!(due, ["1"]);
        assert_eq!(host.seen(0), 7);
        host.readings.note([("1", true, false)].into_iter(), 0);
        assert!(host.readings.said("0").is_none() && host.readings.containers.len() == 1);
        let last = host.readings.remove("1").unwrap();
        assert_eq!(last.counters.cpu.unwrap().throttled_periods, 7);
    }
}
