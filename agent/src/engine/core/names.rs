//! Names: containers are asked for the moment they appear, and answers are taken in when they wake the
//! engine; what an entity counted stays with its name when it goes.

use std::{
    io::{PipeWriter, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::Engine;
use crate::{
    engine::files::FileReading,
    runtime::{RuntimeOptions, RuntimeStatus, Runtimes, SocketState, Update},
    snapshot::{CollectorState, Counters, RuntimeHealth},
};

/// Longest time that the start waits for the names of the containers that are there.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);
/// How long it waits for any runtime's socket to be found.
const SOCKET_PATIENCE: Duration = Duration::from_millis(100);
/// Time between two looks for answers at the start.
const FIRST_LOOKS: Duration = Duration::from_millis(5);

/// The runtimes, and how it stands with them.
pub(super) struct Names {
    /// The runtimes, or why none is asked.
    runtimes: Result<Runtimes, (CollectorState, String)>,
    /// The pipe was written to since the last look, so that it never fills.
    woken: Arc<AtomicBool>,
    status: Vec<RuntimeStatus>,
    connections: u64,
    /// Whether any runtime answers.
    pub(super) answer: bool,
}

impl Names {
    /// Starts to ask, where that is wanted.
    pub(super) fn start(options: Option<RuntimeOptions>, wake: PipeWriter) -> Self {
        let woken = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&woken);
        let wake = Box::new(move || {
            if !flag.swap(true, Ordering::AcqRel) {
                // Without a reader the engine is about to end.
                let _ = (&wake).write(&[1]);
            }
        });
        let runtimes = match options {
            None => Err((
                CollectorState::Disabled,
                "no runtime is asked for names: runtime_sockets is none".to_owned(),
            )),
            Some(options) => Runtimes::start(options, wake).map_err(|error| {
                let reason = format!("the thread that asks runtimes was not started: {error}");
                (CollectorState::Failed, reason)
            }),
        };
        Self {
            runtimes,
            woken,
            status: Vec::new(),
            connections: 0,
            answer: false,
        }
    }

    fn take(&mut self) -> Vec<Update> {
        let Ok(runtimes) = &self.runtimes else {
            return Vec::new();
        };
        // Before the updates: one that comes later wakes again.
        self.woken.store(false, Ordering::Release);
        self.status = runtimes.status();
        self.answer = self
            .status
            .iter()
            .any(|socket| socket.state == SocketState::Connected);
        runtimes.take()
    }

    /// Questions and answers that were lost.
    pub(super) fn dropped(&self) -> u64 {
        self.runtimes.as_ref().map_or(0, Runtimes::dropped)
    }

    /// The sockets, for `/status`.
    pub(super) fn health(&self) -> Vec<RuntimeHealth> {
        self.status
            .iter()
            .map(|socket| RuntimeHealth {
                runtime: socket.runtime.to_owned(),
                socket: socket.socket.clone(),
                connected: socket.state == SocketState::Connected,
                reason: socket.reason.clone(),
                connections: socket.connections,
                failures: socket.failures,
            })
            .collect()
    }

    /// The state if it is not active, and why. No runtime at all is none's fault.
    pub(super) fn trouble(&self) -> Option<(CollectorState, String)> {
        if let Err((state, reason)) = &self.runtimes {
            return Some((*state, reason.clone()));
        }
        if self.status.is_empty() {
            let reason = "no socket of a container runtime is found below --host-root, so that \
                          containers are called by their ids: mount the host's /run, or name sockets \
                          by --runtime-socket";
            return Some((CollectorState::Unsupported, reason.to_owned()));
        }
        let failing: Vec<String> = self
            .status
            .iter()
            .filter(|socket| !socket.reason.is_empty())
            .map(|socket| format!("{} at {}: {}", socket.runtime, socket.socket, socket.reason))
            .collect();
        (!failing.is_empty()).then(|| (CollectorState::Degraded, failing.join("; ")))
    }
}

impl Engine {
    /// Asks for the names of what appeared.
    pub(super) fn ask_names(&mut self) {
        let asks = self.registry.take_asks();
        if let Ok(runtimes) = &self.names.runtimes {
            for id in &asks {
                runtimes.ask(id, self.registry.user_of(id));
            }
        }
    }

    /// Takes in what runtimes said since the last time.
    pub(super) fn take_names(&mut self) {
        self.ask_names();
        let updates = self.names.take();
        let connections = self.names.status.iter().map(|one| one.connections).sum();
        let is_more = connections > self.names.connections;
        self.names.connections = connections;
        self.registry.runtimes_answer(self.names.answer, is_more);
        for update in updates {
            let now = self.now();
            match update {
                Update::Described(metadata) => {
                    let files = &self.files;
                    self.registry.described(&metadata, now, |entity| {
                        counters(files.said(&entity.owner_path))
                    });
                }
                Update::Exited {
                    id,
                    user,
                    exit_code,
                    ..
                } => self.registry.ended(&id, user, exit_code),
                Update::Unknown { id } => self.registry.unknown(&id, now),
            }
        }
        self.apply_writes();
        self.ask_names();
    }

    /// Waits until the containers that are there have their names, so that a command that ends soon
    /// knows them. Short where no runtime answers.
    pub(super) fn await_first_names(&mut self) {
        if self.names.runtimes.is_err() || !self.registry.awaits_names() {
            return;
        }
        let began = Instant::now();
        loop {
            self.take_names();
            let patience = if self.names.status.is_empty() {
                SOCKET_PATIENCE
            } else {
                FIRST_PATIENCE
            };
            if !self.registry.awaits_names() || began.elapsed() >= patience {
                return;
            }
            thread::sleep(FIRST_LOOKS);
        }
    }

    /// Leaves what entities counted that were removed to those of their names.
    pub(super) fn bury_departed(&mut self) {
        let (files, sandboxes) = (&self.files, &mut self.sandboxes);
        self.registry.bury_departed(|entity| {
            sandboxes.forget(&entity.owner_path);
            counters(files.remove(&entity.owner_path))
        });
    }
}

/// Counters of the kernel's own files.
fn counters(files: Option<FileReading>) -> Counters {
    files.map_or_else(Counters::default, |files| files.counters)
}
