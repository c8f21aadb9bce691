//! The thread that reads, and what it may cost.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    readings::{Ended, FileReading, Readings},
    sample::{FileCollector, How},
};
use crate::{cgroup::Hierarchies, engine::cost::thread_cpu_time};

/// Shortest time between two rounds.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(900);
/// Longest time between two rounds, whatever they cost: what is shown is not older than that and the time of a round.
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
/// The time between two rounds is at least this many times the CPU time that one takes.
const COST_FACTOR: u32 = 50;
/// What may be spent at once on containers that have ended or are new, CPU time; it grows again by a fiftieth of the
/// time. Those of users without privileges have a credit of their own, so that they cannot use up that of the
/// others.
const MOST_CREDIT: Duration = Duration::from_millis(250);

/// How much of the files was read.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine) struct FileHealth {
    /// Files that were opened.
    pub(in crate::engine) files_read: u64,
    /// Readings that failed for another reason than the cgroup having gone.
    pub(in crate::engine) failures: u64,
    /// Containers that were not read at their end: too many ended at once.
    pub(in crate::engine) ends_missed: u64,
}

#[derive(Debug, Default)]
struct State {
    readings: Readings,
    /// Rounds that were asked for, and the last one that has been answered.
    asked: u64,
    answered: u64,
    health: FileHealth,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to do.
    work: Condvar,
    /// A round has been answered.
    done: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads files on a thread of its own. Dropping it ends the thread.
#[derive(Debug)]
pub(in crate::engine) struct FileThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    hierarchies: Hierarchies,
}

impl FileThread {
    /// Starts it. `has_pressure` says whether the kernel keeps pressure at all, `reads_usage` whether CPU time is
    /// to be read. Times of readings are counted from `started`.
    ///
    /// # Errors
    ///
    /// There can be no thread.
    pub(in crate::engine) fn start(
        hierarchies: Hierarchies,
        has_pressure: bool,
        reads_usage: bool,
        started: Instant,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let collector = FileCollector::new(hierarchies.clone(), has_pressure, reads_usage, started);
        let worker = Worker {
            shared: Arc::clone(&shared),
            collector,
            next_round: Instant::now(),
            credits: [Credit::full(), Credit::full()],
            credit_for_new: Credit::full(),
        };
        let thread = std::thread::Builder::new()
            .name("files".into())
            .spawn(move || worker.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
            hierarchies,
        })
    }

    /// The mounts.
    pub(in crate::engine) fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Notes who is there: path, whether it is live, whether it did something since the last time.
    pub(in crate::engine) fn note<'a>(
        &self,
        containers: impl Iterator<Item = (&'a str, bool, bool)>,
        now_ns: u64,
    ) {
        self.shared.lock().readings.note(containers, now_ns);
    }

    /// Asks for a round, and waits for it as long as `patience`.
    pub(in crate::engine) fn round(&self, patience: Duration) {
        let mut state = self.shared.lock();
        state.asked += 1;
        let asked = state.asked;
        self.shared.work.notify_one();
        let is_open = |state: &mut State| state.answered < asked;
        drop(
            self.shared
                .done
                .wait_timeout_while(state, patience, is_open)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Whether its thread still runs. It ends before this does only by a defect.
    pub(in crate::engine) fn is_running(&self) -> bool {
        let thread = self.thread.as_ref();
        thread.is_some_and(|thread| !thread.is_finished())
    }

    /// The last task of a container has ended: it is read as soon as possible. `is_users` says that a user without
    /// privileges can have made it.
    pub(in crate::engine) fn ended(&self, path: &str, is_users: bool) {
        let mut state = self.shared.lock();
        if !state.readings.ended(path, is_users, Instant::now()) {
            state.health.ends_missed += 1;
        }
        drop(state);
        self.shared.work.notify_one();
    }

    /// What a container's files said last.
    pub(in crate::engine) fn said(&self, path: &str) -> Option<FileReading> {
        self.shared.lock().readings.said(path).cloned()
    }

    /// Forgets a container; what its files said last.
    pub(in crate::engine) fn remove(&self, path: &str) -> Option<FileReading> {
        self.shared.lock().readings.remove(path)
    }

    /// How much was read so far.
    pub(in crate::engine) fn health(&self) -> FileHealth {
        self.shared.lock().health
    }
}

impl Drop for FileThread {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What may be spent on containers that have ended.
#[derive(Debug)]
struct Credit {
    left: Duration,
    at: Instant,
}

impl Credit {
    fn full() -> Self {
        Self {
            left: MOST_CREDIT,
            at: Instant::now(),
        }
    }

    fn is_there(&mut self, now: Instant) -> bool {
        let grown = now.saturating_duration_since(self.at) / COST_FACTOR;
        self.left = (self.left + grown).min(MOST_CREDIT);
        self.at = now;
        !self.left.is_zero()
    }

    fn spend(&mut self, cost: Duration) {
        self.left = self.left.saturating_sub(cost);
    }
}

struct Worker {
    shared: Arc<Shared>,
    collector: FileCollector,
    next_round: Instant,
    /// For what has ended: of the system, of users.
    credits: [Credit; 2],
    credit_for_new: Credit,
}

/// What is to be done next.
enum Job {
    Ended(Ended),
    /// To answer what was asked last: whom to read, and whether that is a round or only what is new.
    Round {
        asked: u64,
        due: Vec<String>,
        is_round: bool,
    },
    Over,
}

impl Worker {
    fn run(mut self) {
        loop {
            match self.next_job() {
                Job::Ended(ended) => self.read_ended(ended),
                Job::Round {
                    asked,
                    due,
                    is_round,
                } => {
                    if !self.round(due, is_round) {
                        return;
                    }
                    self.shared.lock().answered = asked;
                    self.shared.done.notify_all();
                }
                Job::Over => return,
            }
        }
    }

    fn next_job(&self) -> Job {
        let mut state = self.shared.lock();
        loop {
            if state.is_over {
                return Job::Over;
            }
            if let Some(ended) = state.readings.next_ended() {
                return Job::Ended(ended);
            }
            if state.asked > state.answered {
                let now = Instant::now();
                let asked = state.asked;
                let is_round = now >= self.next_round;
                let due = state.readings.due(now, is_round);
                return Job::Round {
                    asked,
                    due,
                    is_round,
                };
            }
            state = self
                .shared
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reads whom it is told to; `false` if it is to end.
    fn round(&mut self, due: Vec<String>, is_round: bool) -> bool {
        let began = Instant::now();
        let cpu_before = thread_cpu_time();
        for path in due {
            // What is new waits for the round where there is too much of it.
            if !is_round && !self.credit_for_new.is_there(Instant::now()) {
                break;
            }
            let before = thread_cpu_time();
            self.read(path, false);
            if !is_round {
                let cost = thread_cpu_time().saturating_sub(before);
                self.credit_for_new.spend(cost);
            }
            // What has ended does not wait for the others.
            loop {
                let mut state = self.shared.lock();
                if state.is_over {
                    return false;
                }
                let Some(ended) = state.readings.next_ended() else {
                    break;
                };
                drop(state);
                self.read_ended(ended);
            }
        }
        if is_round {
            let cost = thread_cpu_time().saturating_sub(cpu_before);
            let interval = cost * COST_FACTOR;
            self.next_round = began + interval.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
        }
        true
    }

    fn credit(&mut self, is_users: bool) -> &mut Credit {
        let [of_system, of_users] = &mut self.credits;
        if is_users { of_users } else { of_system }
    }

    fn read_ended(&mut self, ended: Ended) {
        let is_users = ended.is_users;
        if !self.credit(is_users).is_there(Instant::now()) {
            self.shared.lock().health.ends_missed += 1;
            return;
        }
        let before = thread_cpu_time();
        self.read(ended.path, true);
        let cost = thread_cpu_time().saturating_sub(before);
        self.credit(is_users).spend(cost);
    }

    fn read(&mut self, path: String, has_ended: bool) {
        let Some(mut turn) = self.shared.lock().readings.begin(path) else {
            return;
        };
        let how = How {
            now: Instant::now(),
            keeps_files: turn.was_active,
            // What ended may have done so since anybody looked.
            is_quiet: turn.is_quiet && !has_ended,
        };
        let moved = self.collector.read(&turn.path, &mut turn.sample, how);
        let mut state = self.shared.lock();
        state.readings.finish(turn, moved);
        state.health.files_read = self.collector.files_read();
        state.health.failures = self.collector.failures();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::fake::Tree;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn stat(throttled: u64) -> String {
        format!("nr_periods 10\nnr_throttled {throttled}\nthrottled_usec 0\n")
    }

    fn throttled(files: &FileThread, path: &str) -> Option<u64> {
        Some(files.said(path)?.counters.cpu?.throttled_periods)
    }

    fn start(tree: &Tree) -> FileThread {
        FileThread::start(tree.hierarchies.clone(), true, false, Instant::now()).unwrap()
    }

    #[test]
    fn a_round_that_is_waited_for_has_what_is_there_now() {
        let tree = Tree::v2();
        tree.write("a/cpu.stat", &stat(1));
        let files = start(&tree);
        files.note([("/a", true, true)].into_iter(), 0);
        assert_eq!(files.said("/a").unwrap().number, 0);
        files.round(PATIENCE);
        assert_eq!(throttled(&files, "/a"), Some(1));
        // The next one comes too soon for it, but not for one that is new.
        tree.write("a/cpu.stat", &stat(2));
        tree.write("b/cpu.stat", &stat(5));
        files.note([("/a", true, true), ("/b", true, true)].into_iter(), 0);
        files.round(PATIENCE);
        assert_eq!(throttled(&files, "/a"), Some(1));
        assert_eq!(throttled(&files, "/b"), Some(5));
        assert!(files.health().files_read > 0);
    }

    #[test]
    fn what_has_ended_is_read_whether_or_not_there_is_a_round() {
        let tree = Tree::v2();
        tree.write("a/cpu.stat", &stat(1));
        let files = start(&tree);
        files.note([("/a", true, true)].into_iter(), 0);
        files.round(PATIENCE);
        tree.write("a/cpu.stat", &stat(3));
        files.ended("/a", false);
        let began = Instant::now();
        while throttled(&files, "/a") != Some(3) {
            assert!(began.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        // What nobody speaks of any more is forgotten.
        files.note(std::iter::empty(), 0);
        files.round(PATIENCE);
        assert!(files.said("/a").is_none());
    }

    #[test]
    fn what_ends_at_once_costs_no_more_than_there_is() {
        let mut credit = Credit::full();
        let now = credit.at;
        assert!(credit.is_there(now));
        credit.spend(MOST_CREDIT * 2);
        assert!(!credit.is_there(now));
        // A fiftieth of the time, and never more than at first.
        assert!(credit.is_there(now + Duration::from_secs(1)));
        assert_eq!(credit.left, Duration::from_millis(20));
        assert!(credit.is_there(now + Duration::from_secs(1_000)));
        assert_eq!(credit.left, MOST_CREDIT);
    }
}
