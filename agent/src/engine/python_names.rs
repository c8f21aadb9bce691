//! The thread that reads the names of Python functions out of processes.
//!
//! A page of a process' memory may be of a file system that never answers, and who reads it then cannot even be killed.
//! So this thread holds no lock, nobody waits for it longer than [`PATIENCE`], and what it is too late for has no
//! names.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use ctrscope_ebpf::{profile::ProgramKey, python::Python};

use crate::profile::{Process, PythonStack, Pythons, WantedStack};

/// How long the end of a recording waits for names.
const PATIENCE: Duration = Duration::from_secs(2);
/// Jobs that wait at most: a stack takes up to 1 KiB, a program with the mappings of 16 files 2 KiB. Further ones are
/// dropped; stacks are named at the end of the recording then, and programs are looked at again.
const MAX_JOBS: usize = 2_048;

type Named = HashMap<u64, Arc<PythonStack>>;

enum Job {
    Look(ProgramKey, Box<Process>, bool),
    Met(ProgramKey, u64, Arc<[u64]>),
    Ended(ProgramKey),
    Take(Vec<WantedStack>, Instant, SyncSender<Named>),
    Forget,
}

/// A handle of the thread, which ends with the last one.
#[derive(Clone)]
pub(super) struct PythonNames {
    jobs: SyncSender<Job>,
}

impl PythonNames {
    /// Starts the thread. What it finds out of a program that the kernel side must know, it hands to `publish`.
    pub(super) fn start(
        proc_root: PathBuf,
        publish: impl Fn(ProgramKey, &Python) + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, inbox) = sync_channel(MAX_JOBS);
        std::thread::Builder::new()
            .name("python-names".into())
            .spawn(move || work(&proc_root, &inbox, publish))?;
        Ok(Self { jobs })
    }

    /// Has a program looked into; says whether that will be done.
    pub(super) fn look(&self, key: ProgramKey, process: &Process, is_new: bool) -> bool {
        // It may wait for long: what it holds is what it needs.
        process.for_python().is_none_or(|process| {
            let job = Job::Look(key, Box::new(process), is_new);
            self.jobs.try_send(job).is_ok()
        })
    }

    /// Has a stack named that was just met.
    pub(super) fn met(&self, key: ProgramKey, hash: u64, words: Arc<[u64]>) {
        let _ = self.jobs.try_send(Job::Met(key, hash, words));
    }

    /// A program has ended.
    pub(super) fn ended(&self, key: ProgramKey) {
        let _ = self.jobs.try_send(Job::Ended(key));
    }

    /// Nobody records any more.
    pub(super) fn forget(&self) {
        let _ = self.jobs.try_send(Job::Forget);
    }

    /// Names of stacks, by their hash; those are missing that could not be read in time.
    pub(super) fn take(&self, wanted: Vec<WantedStack>) -> Named {
        if wanted.is_empty() {
            return Named::new();
        }
        let (reply, answer) = sync_channel(1);
        let deadline = Instant::now() + PATIENCE;
        let mut job = Job::Take(wanted, deadline, reply);
        while let Err(error) = self.jobs.try_send(job) {
            let TrySendError::Full(back) = error else {
                return Named::new();
            };
            if Instant::now() >= deadline {
                return Named::new();
            }
            job = back;
            std::thread::sleep(Duration::from_millis(5));
        }
        // The work itself ends at the deadline, but for what is read just then.
        answer
            .recv_timeout(PATIENCE + PATIENCE / 4)
            .unwrap_or_default()
    }
}

fn work(proc_root: &Path, inbox: &Receiver<Job>, publish: impl Fn(ProgramKey, &Python)) {
    let mut pythons = Pythons::default();
    while let Ok(job) = inbox.recv() {
        // What it reads is a container's: a defect that it finds shall cost names only.
        let done = catch_unwind(AssertUnwindSafe(|| match job {
            Job::Look(key, process, is_new) => {
                if let Some(python) = pythons.look(proc_root, key, &process, is_new) {
                    publish(key, &python);
                }
            }
            Job::Met(key, hash, words) => pythons.met(key, hash, &words),
            Job::Ended(key) => pythons.ended(key),
            Job::Take(wanted, deadline, reply) => {
                let _ = reply.try_send(pythons.take(&wanted, deadline));
            }
            Job::Forget => pythons.forget(),
        }));
        if done.is_err() {
            tracing::error!("a defect: naming Python functions panicked");
            pythons = Pythons::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_names_without_an_end() {
        // A thread that hangs, as in a file system that does not answer.
        let (jobs, _inbox) = sync_channel(1);
        let names = PythonNames { jobs };
        let key = ProgramKey { tgid: 1, id: 1 };
        let wanted = || vec![(key, 7, Arc::from([0_u64]))];
        let began = Instant::now();
        assert!(names.take(wanted()).is_empty());
        // Now there is no room either.
        assert!(names.take(wanted()).is_empty());
        names.ended(key);
        names.forget();
        assert!(began.elapsed() < 4 * PATIENCE);
    }

    #[test]
    fn what_is_not_known_has_no_names() {
        let names = PythonNames::start("/proc".into(), |_, _| {}).unwrap();
        let key = ProgramKey { tgid: 1, id: 1 };
        names.met(key, 7, Arc::from([2_u64]));
        assert!(names.take(vec![(key, 7, Arc::from([2_u64]))]).is_empty());
    }
}
