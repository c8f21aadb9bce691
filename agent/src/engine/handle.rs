//! The engine's thread, and the handle by which others reach it.

use std::{
    collections::HashMap,
    io::{PipeReader, PipeWriter, Read as _, Write as _},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::watch;

use super::{
    EngineError, EngineOptions,
    core::{Engine, Published, owner},
    profile::{SessionParts, record},
    profiler::Profiler,
};
use crate::{
    bpf::wait_readable,
    diagnosis::facts::WindowFacts,
    profile::Owner,
    resolve::resolve_container,
    snapshot::Snapshot,
    source::{Cancel, ProfileRequest, RenderedProfile, Source, SourceError, check_window},
};

/// Longest that somebody waits for the engine's thread.
const PATIENCE: Duration = Duration::from_secs(30);
/// Commands that may wait.
const QUEUE: usize = 64;
/// Profiles that may be recorded at once.
pub(super) const PROFILE_SLOTS: usize = 4;

enum Command {
    Snapshot(SyncSender<Arc<Snapshot>>),
    Target(String, SyncSender<Result<(u32, String), SourceError>>),
    Facts(Duration, SyncSender<Option<Arc<WindowFacts>>>),
    Names(SyncSender<HashMap<u32, Arc<Owner>>>),
    Stop,
}

/// A running engine. Dropping it ends its thread and takes every program out of the kernel.
pub struct Agent {
    commands: SyncSender<Command>,
    /// What the thread published last: whoever is content with it need not ask.
    published: watch::Receiver<Option<Published>>,
    wake: PipeWriter,
    thread: Option<JoinHandle<()>>,
    /// What a profile needs, or why there can be none.
    session_parts: Result<SessionParts, String>,
    profiles: AtomicUsize,
}

impl Agent {
    /// Starts an engine on a thread of its own. Everything that can fail has failed when this
    /// returns.
    ///
    /// # Errors
    ///
    /// Any [`EngineError`].
    pub fn start(options: EngineOptions) -> Result<Self, EngineError> {
        let (commands, inbox) = sync_channel(QUEUE);
        let (woken, wake) = std::io::pipe().map_err(EngineError::Thread)?;
        let names_wake = wake.try_clone().map_err(EngineError::Thread)?;
        let (publish, published) = watch::channel(None);
        let (started, outcome) = sync_channel(1);
        let proc_root = options.proc_root.clone();
        // The engine is made on its own thread: what aya holds need not be sent.
        let thread = std::thread::Builder::new()
            .name("ctrscope-engine".into())
            .spawn(move || match Engine::start(options, names_wake, publish) {
                Ok(engine) => {
                    let parts = engine.profile().clone().map(|parts| SessionParts {
                        profiler: Profiler::new(parts, proc_root),
                        totals: Arc::clone(engine.profile_totals()),
                        cpus: engine.online_cpus().to_vec(),
                    });
                    let _ = started.send(Ok(parts));
                    run(engine, &inbox, woken);
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            })
            .map_err(EngineError::Thread)?;
        let session_parts = match outcome.recv() {
            Ok(Ok(parts)) => parts,
            Ok(Err(error)) => {
                let _ = thread.join();
                return Err(error);
            }
            Err(_) => {
                return Err(EngineError::Thread(std::io::Error::other(
                    "it ended at once",
                )));
            }
        };
        Ok(Self {
            commands,
            published,
            wake,
            thread: Some(thread),
            session_parts,
            profiles: AtomicUsize::new(0),
        })
    }

    /// Whether its thread still runs. It ends before it is told to only by a defect.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    fn send(&self, command: Command) -> Result<(), SourceError> {
        self.commands
            .try_send(command)
            .map_err(|_| SourceError::NotReady("the collecting thread does not answer".into()))?;
        // A full pipe wakes it as well.
        let _ = (&self.wake).write(&[1]);
        Ok(())
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Result<T, SourceError> {
        let (reply, answer) = sync_channel(1);
        self.send(command(reply))?;
        answer
            .recv_timeout(PATIENCE)
            .map_err(|_| SourceError::NotReady("the collecting thread does not answer".into()))
    }
}

impl Source for Agent {
    fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
        let young = |published: &Published| published.if_young().cloned();
        if let Some(young) = self.published.borrow().as_ref().and_then(young) {
            return Ok(young);
        }
        self.ask(Command::Snapshot)
    }

    fn facts(&self, window: Duration) -> Result<Arc<WindowFacts>, SourceError> {
        check_window(window)?;
        self.ask(|reply| Command::Facts(window, reply))?
            .ok_or_else(|| {
                SourceError::NotReady(
                    "facts are of the time between two readings, and there is one so far; ask again in \
                     a second"
                        .into(),
                )
            })
    }

    fn profile(
        &self,
        request: &ProfileRequest,
        cancel: &Cancel,
    ) -> Result<RenderedProfile, SourceError> {
        let parts = self.session_parts.as_ref().map_err(|reason| {
            SourceError::Unsupported(format!(
                "no profile can be recorded: {reason}; `ctrscope check` says what this host lacks"
            ))
        })?;
        let _slot = ProfileSlot::take(&self.profiles)?;
        let (slot, subject) = match &request.container {
            Some(query) => {
                let (slot, name) = self.ask(|reply| Command::Target(query.clone(), reply))??;
                (Some(slot), name)
            }
            None => (None, "host".to_owned()),
        };
        let names = || self.ask(Command::Names);
        record(parts, request, slot, &subject, names, cancel)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The queue may be full; the thread then sees that the sender is gone.
        let _ = self.send(Command::Stop);
        let (dead, _) = sync_channel(1);
        self.commands = dead;
        let _ = (&self.wake).write(&[1]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One of the places for profiles; free again when dropped.
struct ProfileSlot<'a>(&'a AtomicUsize);

impl<'a> ProfileSlot<'a> {
    fn take(taken: &'a AtomicUsize) -> Result<Self, SourceError> {
        taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < PROFILE_SLOTS).then_some(taken + 1)
            })
            .map(|_| Self(taken))
            .map_err(|_| SourceError::Busy {
                slots: PROFILE_SLOTS,
            })
    }
}

impl Drop for ProfileSlot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn run(mut engine: Engine, inbox: &Receiver<Command>, mut woken: PipeReader) {
    let mut scratch = [0; 64];
    loop {
        // Without a kernel side the pipe alone is waited for.
        let events = engine.events_fd().unwrap_or_else(|| woken.as_fd());
        let waited = wait_readable(events, woken.as_fd(), engine.wake_in());
        match waited {
            Ok([_, true]) => {
                let _ = woken.read(&mut scratch);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "wait for events");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        engine.pump();
        loop {
            match inbox.try_recv() {
                Ok(Command::Snapshot(reply)) => {
                    let _ = reply.try_send(engine.snapshot());
                }
                Ok(Command::Target(query, reply)) => {
                    let _ = reply.try_send(target(&mut engine, &query));
                }
                Ok(Command::Names(reply)) => {
                    let _ = reply.try_send(engine.names_by_slot());
                }
                Ok(Command::Facts(window, reply)) => {
                    engine.window_facts(window, reply);
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => break,
            }
        }
        engine.tick();
        if !engine.is_whole() {
            tracing::error!("a thread that reads files has ended");
            return;
        }
    }
}

fn target(engine: &mut Engine, query: &str) -> Result<(u32, String), SourceError> {
    if let Some(reason) = engine.samples_lack() {
        return Err(SourceError::Unsupported(format!(
            "no profile of one container can be recorded, one of the host can: {reason}"
        )));
    }
    let snapshot = engine.snapshot();
    let index = resolve_container(&snapshot, query)?;
    let name = snapshot
        .containers
        .get(index)
        .map(|container| owner(&container.identity).label())
        .unwrap_or_default();
    match engine.slot_of(index) {
        Some(slot) => Ok((slot, name)),
        None => Err(SourceError::Unsupported(format!(
            "{name} is not counted by itself: all slots are taken; raise --max-containers"
        ))),
    }
}
