//! What the test containers do.
//!
//! The main thread only waits: for the gate, for the workers, for SIGTERM. A worker that has finished
//! parks, so that `/proc/<pid>/task` still has every thread when the accounts are read.

mod block;
mod cpu;
pub mod hot;
pub mod jit;
pub mod mangled;
mod memory;
mod network;
mod signal;
mod spawn;

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::accounts::ThreadAccounts;
use signal::Signals;

/// Kinds of work. Without `--seconds` they go on until SIGTERM.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Work {
    /// Busy loops in three functions with known shares of CPU time: `hot_fifty` 50 %, `hot_thirty`
    /// 30 %, `hot_twenty` 20 %
    Burn(ThreadOptions),
    /// Two threads that wake each other through pipes
    Pingpong(ThreadOptions),
    /// One of two threads that wake each other through FIFOs; the other is another process
    Pass {
        /// Where it runs and for how long, if it is the first
        #[command(flatten)]
        threads: ThreadOptions,
        /// The FIFO that it reads
        #[arg(long)]
        read: PathBuf,
        /// The FIFO that it writes
        #[arg(long)]
        write: PathBuf,
        /// It begins, and ends both
        #[arg(long)]
        first: bool,
    },
    /// Bursts of busy loop with sleeps between them
    SleepBurn {
        /// Who and for how long
        #[command(flatten)]
        threads: ThreadOptions,
        /// CPU time of a burst
        #[arg(long, default_value_t = 5)]
        burn_ms: u64,
        /// Sleep between bursts
        #[arg(long, default_value_t = 20)]
        sleep_ms: u64,
    },
    /// Read a file past the page cache (`O_DIRECT`); it is written first if it is too short
    ReadDirect(BlockOptions),
    /// Write a file past the page cache (`O_DIRECT`)
    WriteDirect(BlockOptions),
    /// Write and read in turn past the page cache (`O_DIRECT`); the bytes are those of each
    ReadWriteDirect(BlockOptions),
    /// Write a file through the page cache
    WriteBuffered {
        /// What to write
        #[command(flatten)]
        options: BlockOptions,
        /// fsync after so many blocks; 0: never
        #[arg(long, default_value_t = 0)]
        fsync_every: u64,
        /// fsync after the first block
        #[arg(long)]
        fsync_first: bool,
        /// fdatasync instead of fsync: of blocks that the file has already, it writes no metadata
        #[arg(long)]
        datasync: bool,
    },
    /// Read a file through the page cache, over and over; it is written first if it is too short
    ReadBuffered(BlockOptions),
    /// Take memory and keep it until SIGTERM
    Allocate {
        /// How much
        #[arg(long)]
        bytes: u64,
    },
    /// Start children, one after the other, that take more memory than there is
    Overcommit {
        /// How much each takes
        #[arg(long)]
        bytes: u64,
        /// Pause between two
        #[arg(long, default_value_t = 200)]
        pause_ms: u64,
    },
    /// Send small datagrams as fast as it can
    Flood {
        /// Where to
        #[arg(long)]
        to: SocketAddr,
    },
    /// Take datagrams, with a pause after each
    Sink {
        /// Where it listens
        #[arg(long)]
        at: SocketAddr,
        /// Pause after each
        #[arg(long, default_value_t = 0)]
        pause_ms: u64,
    },
    /// Start children that live a few milliseconds
    Spawn {
        /// For how long
        #[arg(long)]
        seconds: Option<f64>,
        /// Pause between two
        #[arg(long, default_value_t = 20)]
        pause_ms: u64,
    },
    /// Fork children that end at once, one after the other: each takes a new pid
    Fork {
        /// How many
        #[arg(long)]
        count: u64,
    },
    /// Start children, one after the other, and wait for each as `vfork` does: uninterruptible, until it ends
    Vfork {
        /// How many
        #[arg(long)]
        count: u64,
        /// How long each lives
        #[arg(long, default_value_t = 100)]
        live_ms: u64,
    },
    /// Start children, one after the other, in which another thread than the first calls `exec`
    SpawnReplaced {
        /// How many
        #[arg(long)]
        count: u64,
    },
    /// Become a short `burn`, by an `exec` of another thread than the first
    Replaced,
    /// Run code that was made at run time and is named in /tmp/perf-<own pid>.map
    Jit(ThreadOptions),
    /// Busy loops in two functions with mangled names: one of C++, one of Rust
    Mangled(ThreadOptions),
    /// Many threads, each asleep most of the time
    ManyThreads(ThreadOptions),
}

/// Threads and time.
#[derive(clap::Args, Clone, Debug)]
pub struct ThreadOptions {
    /// Number of threads
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// For how long; default: until SIGTERM
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Run on this CPU only
    #[arg(long)]
    pub cpu: Option<usize>,
}

/// File and amount.
#[derive(clap::Args, Clone, Debug)]
pub struct BlockOptions {
    /// The file
    #[arg(long)]
    pub file: PathBuf,
    /// Its size; offsets stay below it
    #[arg(long, default_value_t = 64 << 20)]
    pub size: u64,
    /// Bytes to move in all; default: until SIGTERM or `--seconds`
    #[arg(long)]
    pub bytes: Option<u64>,
    /// For how long
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Bytes of one operation, a multiple of 4096
    #[arg(long, default_value_t = 64 << 10)]
    pub block: usize,
    /// Random offsets instead of ascending ones
    #[arg(long)]
    pub random: bool,
    /// Pause between operations
    #[arg(long, default_value_t = 0)]
    pub pause_ms: u64,
    /// Threads that do the same, each with a file of its own: the others' names end with their number
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
}

/// Tells a worker when to end.
#[derive(Clone)]
pub(crate) struct Until {
    stop: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Until {
    fn after(seconds: Option<f64>, stop: &Arc<AtomicBool>) -> Self {
        Self {
            stop: Arc::clone(stop),
            deadline: seconds
                .map(|seconds| Instant::now() + Duration::from_secs_f64(seconds.max(0.0))),
        }
    }

    /// Whether the work is over.
    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// What a worker thread does; gives its part of the report.
pub(crate) type Worker = Box<dyn FnOnce(&Until) -> Result<Value> + Send>;

/// Does the work and prints the report.
///
/// # Errors
///
/// A worker failed; the message says at what.
pub fn run(gate: Option<&Path>, hold: bool, work: &Work) -> Result<()> {
    // Before any thread exists, so that all inherit the mask. As pid 1 of a container the default
    // action of SIGTERM would be to ignore it.
    let signals = Signals::block().context("cannot block signals")?;
    if let Some(gate) = gate {
        // Without O_NONBLOCK the open itself would wait, and no signal could end it.
        let gate = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(gate)
            .with_context(|| format!("cannot open the gate {}", gate.display()))?;
        if !signals.wait_readable(gate.as_fd())? {
            return Ok(());
        }
    }

    let stop = Arc::new(AtomicBool::new(false));
    let (seconds, workers) = prepare(work)?;
    let until = Until::after(seconds, &stop);
    let (sender, receiver) = mpsc::channel();
    let (mut wake, waker) = std::io::pipe().context("cannot make a pipe")?;
    let expected = workers.len();
    for worker in workers {
        let (until, sender) = (until.clone(), sender.clone());
        let mut waker = waker.try_clone().context("cannot share a pipe")?;
        thread::spawn(move || {
            // The receivers live as long as the process.
            let _ = sender.send(guarded(worker, &until));
            let _ = waker.write_all(&[0]);
            loop {
                thread::park();
            }
        });
    }
    let mut reports = Vec::with_capacity(expected);
    let mut stopped = false;
    while reports.len() < expected {
        // After the signal the workers end by themselves: one byte each.
        if stopped || signals.wait_readable(wake.as_fd())? {
            wake.read_exact(&mut [0])?;
            reports.push(receiver.recv()??);
        } else {
            stop.store(true, Ordering::Relaxed);
            stopped = true;
        }
    }
    println!("{}", report(&reports)?);
    if hold && !stopped {
        signals.wait_forever()?;
    }
    Ok(())
}

/// Does a worker's part. A panic, which the hook has printed, is an error like others: without an answer
/// the main thread would wait for ever.
fn guarded(worker: Worker, until: &Until) -> Result<Value> {
    catch_unwind(AssertUnwindSafe(|| worker(until))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        bail!("a worker panicked: {}", text.unwrap_or("no message"))
    })
}

fn direct(options: &BlockOptions, read: bool, write: bool) -> (Option<f64>, Vec<Worker>) {
    let work = |options| block::direct(options, read, write);
    (options.seconds, block::in_threads(options, work))
}

fn prepare(work: &Work) -> Result<(Option<f64>, Vec<Worker>)> {
    Ok(match work.clone() {
        Work::Burn(options) => (options.seconds, cpu::burn(&options)),
        Work::Pingpong(options) => (options.seconds, cpu::pingpong(&options)?),
        Work::Pass {
            threads,
            read,
            write,
            first,
        } => (threads.seconds, cpu::pass(&read, &write, first, &threads)?),
        Work::SleepBurn {
            threads,
            burn_ms,
            sleep_ms,
        } => (
            threads.seconds,
            cpu::sleep_burn(
                &threads,
                Duration::from_millis(burn_ms),
                Duration::from_millis(sleep_ms),
            ),
        ),
        Work::Fork { count } => (None, spawn::fork(count)),
        Work::Vfork { count, live_ms } => {
            (None, spawn::vfork(count, Duration::from_millis(live_ms)))
        }
        Work::SpawnReplaced { count } => (None, spawn::spawn_replaced(count)),
        Work::Replaced => (None, spawn::replaced()),
        Work::Jit(options) => (options.seconds, jit::jit(&options)?),
        Work::Mangled(options) => (options.seconds, mangled::mangled(&options)),
        Work::ManyThreads(options) => (
            options.seconds,
            cpu::sleep_burn(
                &options,
                Duration::from_micros(200),
                Duration::from_millis(50),
            ),
        ),
        Work::ReadDirect(options) => direct(&options, true, false),
        Work::WriteDirect(options) => direct(&options, false, true),
        Work::ReadWriteDirect(options) => direct(&options, true, true),
        Work::WriteBuffered {
            options,
            fsync_every,
            fsync_first,
            datasync,
        } => (
            options.seconds,
            block::in_threads(&options, |options| {
                block::buffered(options, fsync_every, fsync_first, datasync)
            }),
        ),
        Work::ReadBuffered(options) => (
            options.seconds,
            block::in_threads(&options, block::read_buffered),
        ),
        Work::Allocate { bytes } => (None, memory::allocate(memory::size(bytes)?)),
        Work::Overcommit { bytes, pause_ms } => (
            None,
            memory::overcommit(memory::size(bytes)?, Duration::from_millis(pause_ms)),
        ),
        Work::Flood { to } => (None, network::flood(to)),
        Work::Sink { at, pause_ms } => (None, network::sink(at, Duration::from_millis(pause_ms))?),
        Work::Spawn { seconds, pause_ms } => {
            (seconds, spawn::spawn(Duration::from_millis(pause_ms)))
        }
    })
}

/// The accounts of all threads of this process, and what the workers said.
fn report(workers: &[Value]) -> Result<Value> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").context("cannot list own threads")? {
        let entry = entry?;
        let thread = ThreadAccounts::of_thread(&entry.path())?;
        threads.push(json!({
            "tid": entry.file_name().to_string_lossy().parse::<u32>()?,
            "on_cpu_ns": thread.on_cpu_ns,
            "run_delay_ns": thread.run_delay_ns,
            "dispatches": thread.dispatches,
            "voluntary": thread.voluntary,
            "involuntary": thread.involuntary,
        }));
    }
    Ok(json!({ "pid": std::process::id(), "threads": threads, "workers": workers }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_panics_has_failed() {
        let until = Until::after(None, &Arc::new(AtomicBool::new(false)));
        let error = guarded(Box::new(|_| panic!("no {}", "disk")), &until).unwrap_err();
        assert!(format!("{error:#}").contains("no disk"), "{error:#}");
        let report = guarded(Box::new(|_| Ok(json!({}))), &until).unwrap();
        assert_eq!(report, json!({}));
    }
}
