//! What all recordings share: the sampler in the kernel, and the threads that look at the programs that it
//! meets.
//!
//! It is made at the first recording and stays: tables and what the kernel has verified are there for the next one.
//! While nobody records it does nothing.

use std::{
    collections::HashMap,
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    os::fd::AsFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ctrscope_ebpf::{profile::ProgramKey, python::Python, walk::Mapping};

use super::{core::ProfileParts, cost::thread_cpu_time, python_names::PythonNames};
use crate::{
    bpf::{
        Asks, BpfError, INDEX_WORDS, MAPPINGS, ROWS, Sampler, SessionSample, monotonic_ns,
        wait_readable,
    },
    profile::{
        Image, Process, Programs, PythonStack, Refused, SymbolCache, UnwindTable, WalkMemory,
        WantedStack,
    },
};

/// Longest that the table of one file is read.
const BUILD_TIME: Duration = Duration::from_secs(2);
/// Questions that are answered before anything else is done.
const MOST_ASKS: usize = 256;
/// How long the end waits for a thread that may be stuck in a file that does not answer.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How often programs that go on being sampled are looked at again, and those that have ended are left.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The part of the thread's time that this may take, one in so many: with thousands of programs it is done more rarely.
const SWEEP_PART: u32 = 50;
/// How many of them are looked at before others have their turn.
const SWEPT_AT_ONCE: usize = 64;

/// What [`Programs`] writes to: the kernel side, and the thread that names Python functions.
struct KernelSide {
    sampler: Arc<Sampler>,
    names: PythonNames,
}

impl WalkMemory for KernelSide {
    fn write_mapping(&self, at: u32, mapping: &Mapping) {
        self.sampler.write_mapping(at, mapping);
    }

    fn write_rows(&self, at: u32, rows: &[u32]) {
        self.sampler.write_rows(at, rows);
    }

    fn write_index(&self, at: u32, words: &[u32]) {
        self.sampler.write_index(at, words);
    }

    fn publish(&self, key: ProgramKey, region: u64, ask_after_ns: u64) {
        self.sampler.publish(key, region, ask_after_ns);
    }

    fn look_for_python(&self, key: ProgramKey, process: &Process, is_new: bool) -> bool {
        self.names.look(key, process, is_new)
    }

    fn ended(&self, key: ProgramKey) {
        self.names.ended(key);
    }

    fn forget_python(&self) {
        self.names.forget();
    }

    fn forget(&self, key: ProgramKey) {
        self.sampler.forget(key);
    }

    fn wait_for_walks(&self) {
        self.sampler.wait_for_walks();
    }

    fn sizes(&self) -> [u32; 3] {
        [MAPPINGS, ROWS, INDEX_WORDS]
    }
}

type SharedPrograms = Arc<Mutex<Programs<KernelSide>>>;

/// The sampler and its threads, once there was a recording.
pub(super) struct Profiler {
    parts: ProfileParts,
    proc_root: PathBuf,
    symbols: Arc<Mutex<SymbolCache>>,
    running: Mutex<Option<Running>>,
}

struct Running {
    sampler: Arc<Sampler>,
    programs: SharedPrograms,
    names: PythonNames,
    follower: Follower,
    /// When each of the recordings that are under way began.
    recordings: Vec<Instant>,
}

/// A recording that is under way; the programs that it met are forgotten with the last one.
pub(super) struct Recording<'a> {
    profiler: &'a Profiler,
    /// What samples.
    pub(super) sampler: Arc<Sampler>,
    programs: SharedPrograms,
    names: PythonNames,
    began: Instant,
}

impl Profiler {
    pub(super) fn new(parts: ProfileParts, proc_root: PathBuf) -> Self {
        Self {
            parts,
            proc_root,
            symbols: Arc::default(),
            running: Mutex::new(None),
        }
    }

    /// Where the host's processes are.
    pub(super) fn proc_root(&self) -> &Path {
        &self.proc_root
    }

    /// Names that were found in earlier recordings.
    pub(super) fn symbols(&self) -> &Arc<Mutex<SymbolCache>> {
        &self.symbols
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a recording. The first one loads the sampler, which takes some tenths of a second.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, or there can be no thread.
    pub(super) fn begin(&self) -> Result<Recording<'_>, BpfError> {
        let mut running = self.running();
        // A thread that has ended by a defect is no reason to do without.
        if running
            .as_ref()
            .is_some_and(|known| !known.follower.is_running())
        {
            *running = None;
        }
        let running = match &mut *running {
            Some(running) => running,
            none => none.insert(self.start()?),
        };
        let began = Instant::now();
        if running.recordings.is_empty() {
            let mut programs = lock(&running.programs);
            programs.forget_before(began);
            programs.begin();
        }
        running.recordings.push(began);
        running.follower.record(true);
        Ok(Recording {
            profiler: self,
            sampler: Arc::clone(&running.sampler),
            programs: Arc::clone(&running.programs),
            names: running.names.clone(),
            began,
        })
    }

    fn start(&self) -> Result<Running, BpfError> {
        let (sampler, asks) = Sampler::load(&self.parts.resolved, Arc::clone(&self.parts.slots))?;
        let sampler = Arc::new(sampler);
        let no_thread = |source: std::io::Error| BpfError::Unsupported {
            what: "sampling stacks",
            reason: format!("no thread: {source}"),
        };
        let publisher = Arc::clone(&sampler);
        let publish = move |key, python: &Python| publisher.publish_python(key, python);
        let names = PythonNames::start(self.proc_root.clone(), publish).map_err(no_thread)?;
        let memory = KernelSide {
            sampler: Arc::clone(&sampler),
            names: names.clone(),
        };
        let programs = Programs::new(memory, self.proc_root.clone(), self.parts.walks);
        let programs = Arc::new(Mutex::new(programs));
        let follower = Follower::start(
            Arc::clone(&sampler),
            Arc::clone(&programs),
            names.clone(),
            asks,
        )
        .map_err(no_thread)?;
        Ok(Running {
            sampler,
            programs,
            names,
            follower,
            recordings: Vec::new(),
        })
    }
}

fn lock(programs: &SharedPrograms) -> MutexGuard<'_, Programs<KernelSide>> {
    // What a panic left half-done is a region or table that nobody refers to.
    programs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recording<'_> {
    /// What is known of the programs that were sampled: those that live and were not looked at yet are looked at now.
    pub(super) fn processes(
        &self,
        wanted: impl Fn(ProgramKey) -> bool,
    ) -> Vec<(ProgramKey, Process)> {
        let sampled = self.sampler.programs();
        let mut programs = lock(&self.programs);
        programs.complete(&sampled);
        let processes = programs.processes().filter(|(key, _)| wanted(*key));
        processes
            .map(|(key, process)| (key, process.clone()))
            .collect()
    }
}

impl Recording<'_> {
    /// Names of the Python functions of samples, by the hash of their stacks, as far as they can be had within two
    /// seconds. The others say that they were not.
    pub(super) fn pythons(&self, samples: &[SessionSample]) -> HashMap<u64, Arc<PythonStack>> {
        let wanted: HashMap<u64, WantedStack> = samples
            .iter()
            .filter_map(|sample| {
                let (hash, words) = sample.python.as_ref()?;
                Some((*hash, (sample.program, *hash, Arc::clone(words))))
            })
            .collect();
        let wanted: Vec<WantedStack> = wanted.into_values().collect();
        let mut named = self.names.take(wanted.clone());
        for (_, hash, words) in wanted {
            named
                .entry(hash)
                .or_insert_with(|| Arc::new(PythonStack::unread(&words)));
        }
        named
    }

    /// What there was no room for since somebody asked.
    pub(super) fn refused(&self) -> Refused {
        lock(&self.programs).take_refused()
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        let mut running = self.profiler.running();
        let Some(running) = running.as_mut() else {
            return;
        };
        // It may be another one by now, if a thread had to be started anew.
        if !Arc::ptr_eq(&running.sampler, &self.sampler) {
            return;
        }
        let mut recordings = running.recordings.iter();
        if let Some(index) = recordings.position(|began| *began == self.began) {
            running.recordings.swap_remove(index);
        }
        if let Some(oldest) = running.recordings.iter().min() {
            lock(&self.programs).forget_before(*oldest);
        } else {
            // Whoever recorded does not wait until they are forgotten.
            lock(&self.programs).stop();
            running.follower.record(false);
        }
    }
}

/// The thread that answers the kernel side, and the one that reads tables for it. Dropping it ends both.
struct Follower {
    wake: PipeWriter,
    records: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    fn start(
        sampler: Arc<Sampler>,
        programs: SharedPrograms,
        names: PythonNames,
        asks: Asks,
    ) -> std::io::Result<Self> {
        let (woken, wake) = std::io::pipe()?;
        let records = Arc::new(AtomicBool::new(false));
        let is_over = Arc::new(AtomicBool::new(false));
        let builder = Builder::start(wake.try_clone()?)?;
        let worker = Worker {
            sampler,
            programs,
            names,
            asks,
            woken,
            builder,
            records: Arc::clone(&records),
            is_over: Arc::clone(&is_over),
        };
        let thread = std::thread::Builder::new()
            .name("programs".into())
            .spawn(move || worker.run())?;
        Ok(Self {
            wake,
            records,
            is_over,
            thread: Some(thread),
        })
    }

    fn is_running(&self) -> bool {
        let thread = self.thread.as_ref();
        thread.is_some_and(|thread| !thread.is_finished())
    }

    fn record(&self, records: bool) {
        self.records.store(records, Ordering::Relaxed);
        let _ = (&self.wake).write(&[1]);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = (&self.wake).write(&[1]);
        let began = Instant::now();
        while self.is_running() {
            if began.elapsed() >= END_PATIENCE {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    sampler: Arc<Sampler>,
    programs: SharedPrograms,
    names: PythonNames,
    asks: Asks,
    woken: PipeReader,
    builder: Builder,
    records: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self) {
        let mut scratch = [0; 64];
        let mut swept = Instant::now();
        let mut interval = SWEEP_INTERVAL;
        loop {
            let records = self.records.load(Ordering::Relaxed);
            let wait = if records {
                interval.saturating_sub(swept.elapsed())
            } else {
                Duration::from_secs(3_600)
            };
            match wait_readable(self.asks.fd(), self.woken.as_fd(), wait) {
                Ok([_, true]) => {
                    let _ = self.woken.read(&mut scratch);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "wait for programs");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            self.answer();
            if records && swept.elapsed() >= interval {
                let before = thread_cpu_time();
                self.sweep();
                swept = Instant::now();
                interval = SWEEP_INTERVAL.max((thread_cpu_time() - before) * SWEEP_PART);
            }
            self.rest();
            self.build();
        }
    }

    /// Looks at what was sampled again. Who asks, and whoever begins or ends a recording, waits for a few of them only.
    fn sweep(&mut self) {
        for sampled in self.sampler.programs().chunks(SWEPT_AT_ONCE) {
            lock(&self.programs).sweep(sampled);
            self.answer();
            if !self.records.load(Ordering::Relaxed) || self.is_over.load(Ordering::Relaxed) {
                return;
            }
        }
        lock(&self.programs).clear_left();
    }

    fn rest(&self) {
        let mut programs = lock(&self.programs);
        if programs.is_left() {
            programs.rest(&self.sampler.programs());
        }
    }

    fn answer(&mut self) {
        for _ in 0..MOST_ASKS {
            let Some(ask) = self.asks.next() else {
                return;
            };
            let key = ProgramKey {
                tgid: ask.tgid,
                id: ask.program,
            };
            if ask.python != 0 {
                if let Some(words) = self.sampler.python_stack(ask.python) {
                    self.names.met(key, ask.python, words);
                }
            } else if let Some(program) = self.sampler.program(key) {
                lock(&self.programs).asked(&ask, &program, monotonic_ns());
            }
        }
    }

    /// Takes in the tables that were read, and has the next one read.
    fn build(&mut self) {
        while let Ok((image, table)) = self.builder.done.try_recv() {
            lock(&self.programs).built(&image, table.as_ref());
            self.builder.is_idle = true;
        }
        if self.builder.is_idle
            && let Some(image) = lock(&self.programs).next_build()
        {
            match self.builder.jobs.try_send(image) {
                Ok(()) => self.builder.is_idle = false,
                Err(TrySendError::Full(image) | TrySendError::Disconnected(image)) => {
                    lock(&self.programs).built(&image, None);
                }
            }
        }
    }
}

type Built = (Arc<Image>, Option<UnwindTable>);

/// The thread that reads tables, one at a time: a process that lives for a moment must be looked at meanwhile. It
/// ends when nobody can give it work any more.
struct Builder {
    jobs: SyncSender<Arc<Image>>,
    done: Receiver<Built>,
    is_idle: bool,
}

impl Builder {
    fn start(mut wake: PipeWriter) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel::<Arc<Image>>(1);
        let (built, done) = sync_channel::<Built>(1);
        std::thread::Builder::new()
            .name("unwind-tables".into())
            .spawn(move || {
                while let Ok(image) = inbox.recv() {
                    // The file is a container's: a defect that it finds shall cost its own table only.
                    let read = || UnwindTable::read(&image.file, BUILD_TIME);
                    let table = match catch_unwind(AssertUnwindSafe(read)) {
                        Ok(Ok(table)) => Some(table),
                        Ok(Err(error)) => {
                            tracing::debug!(%error, "no unwind table");
                            None
                        }
                        Err(_) => {
                            tracing::error!("a defect: reading an unwind table panicked");
                            None
                        }
                    };
                    if built.send((image, table)).is_err() {
                        return;
                    }
                    let _ = wake.write(&[1]);
                }
            })?;
        Ok(Self {
            jobs,
            done,
            is_idle: true,
        })
    }
}
