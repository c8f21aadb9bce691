//! The thread that takes readings, and when.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{FactCollector, FromKernel, Sources};
use crate::{diagnosis::facts::WindowFacts, engine::cost::thread_cpu_time, snapshot::Snapshot};

/// Shortest time between two readings.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two readings is at least this many times the CPU time that one takes.
const COST_FACTOR: u32 = 50;
/// Readings and questions that may wait.
const QUEUE: usize = 128;

/// Who is to get the facts.
pub(in crate::engine) type Reply = SyncSender<Option<Arc<WindowFacts>>>;

enum Job {
    Read(Arc<Snapshot>, Vec<Option<FromKernel>>),
    Answer(Duration, Reply),
}

/// When readings are taken: by itself one each interval, and one in a second where somebody asks for facts; never at
/// more than a fiftieth of the time.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Longest time between two readings.
    interval: Duration,
    /// When the last reading began, and when the next may.
    last: Option<Instant>,
    next: Instant,
    is_reading: bool,
}

impl Pace {
    fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
            next: Instant::now(),
            is_reading: false,
        }
    }

    fn begin(&mut self, now: Instant) {
        self.last = Some(now);
        self.is_reading = true;
    }

    fn finish(&mut self, cost: Duration) {
        self.is_reading = false;
        if let Some(began) = self.last {
            self.next = began + (cost * COST_FACTOR).max(SHORTEST_INTERVAL);
        }
    }

    fn due_in(&self, now: Instant) -> Duration {
        match self.last {
            // It says by itself when it is done; that it is not by then is no reason to look all the time.
            Some(_) if self.is_reading => SHORTEST_INTERVAL,
            Some(last) => (last + self.interval)
                .max(self.next)
                .saturating_duration_since(now),
            None => Duration::ZERO,
        }
    }

    fn may_read(&self, now: Instant) -> bool {
        !self.is_reading && now >= self.next
    }
}

#[derive(Debug)]
struct Status {
    pace: Pace,
    lacks: String,
    failures: u64,
}

/// Takes readings on a thread of its own. Dropping it ends the thread.
#[derive(Debug)]
pub(in crate::engine) struct FactThread {
    jobs: Option<SyncSender<Job>>,
    status: Arc<Mutex<Status>>,
    thread: Option<JoinHandle<()>>,
}

fn lock(status: &Mutex<Status>) -> MutexGuard<'_, Status> {
    // Each change is whole before anything can panic.
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FactThread {
    /// Starts it, with a reading each `interval`.
    ///
    /// # Errors
    ///
    /// There can be no thread.
    pub(in crate::engine) fn start(
        collector: FactCollector,
        interval: Duration,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE);
        let status = Arc::new(Mutex::new(Status {
            pace: Pace::new(interval),
            lacks: String::new(),
            failures: 0,
        }));
        let its_status = Arc::clone(&status);
        let thread = std::thread::Builder::new()
            .name("facts".into())
            .spawn(move || run(collector, &inbox, &its_status))?;
        Ok(Self {
            jobs: Some(jobs),
            status,
            thread: Some(thread),
        })
    }

    /// How long until the next reading is due.
    pub(in crate::engine) fn due_in(&self) -> Duration {
        lock(&self.status).pace.due_in(Instant::now())
    }

    /// Whether a reading may be taken for somebody who asks.
    pub(in crate::engine) fn may_read(&self) -> bool {
        lock(&self.status).pace.may_read(Instant::now())
    }

    /// Files that could not be read though they are there.
    pub(in crate::engine) fn failures(&self) -> u64 {
        lock(&self.status).failures
    }

    /// Why a part of the facts is missing; empty where none is that another collector does not tell of.
    pub(in crate::engine) fn lacks(&self) -> String {
        lock(&self.status).lacks.clone()
    }

    /// Whether its thread still runs. It ends before this does only by a defect.
    pub(in crate::engine) fn is_running(&self) -> bool {
        let thread = self.thread.as_ref();
        thread.is_some_and(|thread| !thread.is_finished())
    }

    /// Has a reading taken.
    pub(in crate::engine) fn read(&self, snapshot: Arc<Snapshot>, told: Vec<Option<FromKernel>>) {
        lock(&self.status).pace.begin(Instant::now());
        let sent = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.try_send(Job::Read(snapshot, told)).is_ok());
        if !sent {
            lock(&self.status).pace.finish(Duration::ZERO);
        }
    }

    /// Has the facts of a window told that ends with the last reading, the one that is under way included. Who is
    /// not told because too many ask sees the channel close.
    pub(in crate::engine) fn answer(&self, window: Duration, reply: Reply) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.try_send(Job::Answer(window, reply));
        }
    }
}

impl Drop for FactThread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut collector: FactCollector, inbox: &Receiver<Job>, status: &Mutex<Status>) {
    while let Ok(job) = inbox.recv() {
        match job {
            Job::Read(snapshot, told) => {
                let before = thread_cpu_time();
                collector.read(&Sources {
                    snapshot: &snapshot,
                    told: &told,
                });
                let cost = thread_cpu_time().saturating_sub(before);
                let mut status = lock(status);
                status.pace.finish(cost);
                status.lacks = collector.lacks();
                status.failures = collector.failures();
            }
            Job::Answer(window, reply) => {
                let _ = reply.try_send(collector.facts(window));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cgroup::fake::Tree, reading::TICK};

    #[test]
    fn a_reading_is_due_after_the_interval_and_may_be_taken_after_a_second() {
        let mut pace = Pace::new(TICK);
        let now = Instant::now();
        assert_eq!(pace.due_in(now), Duration::ZERO);
        pace.begin(now);
        assert!(!pace.may_read(now + TICK), "one is under way");
        assert!(pace.due_in(now + TICK) > Duration::ZERO);
        pace.finish(Duration::from_millis(1));
        assert!(!pace.may_read(now));
        assert!(pace.may_read(now + SHORTEST_INTERVAL));
        assert_eq!(
            pace.due_in(now + SHORTEST_INTERVAL),
            TICK - SHORTEST_INTERVAL
        );
        assert_eq!(pace.due_in(now + TICK), Duration::ZERO);
        // One that cost much is not due again so soon.
        pace.begin(now);
        pace.finish(TICK);
        assert_eq!(pace.due_in(now + TICK), TICK * COST_FACTOR - TICK);
    }

    #[test]
    fn who_asks_gets_the_reading_that_is_under_way() {
        let tree = Tree::v2();
        let proc = tempfile::tempdir().unwrap();
        let collector = FactCollector::new(tree.hierarchies.clone(), true, proc.path().to_owned());
        let facts = FactThread::start(collector, TICK).unwrap();
        let ask = || {
            let (reply, answer) = sync_channel(1);
            facts.answer(TICK, reply);
            answer.recv_timeout(Duration::from_secs(30)).unwrap()
        };
        let snapshot = |seconds: u64| {
            Arc::new(Snapshot {
                taken_at_ns: seconds * 1_000_000_000,
                ..Snapshot::default()
            })
        };
        assert!(facts.may_read() && facts.due_in() == Duration::ZERO);
        facts.read(snapshot(1), Vec::new());
        assert!(!facts.may_read());
        assert!(ask().is_none(), "there is one reading");
        facts.read(snapshot(3), Vec::new());
        assert_eq!(ask().map(|facts| facts.seconds), Some(2.0));
        assert!(facts.is_running() && facts.lacks().contains("/proc/stat"));
    }
}
