//! The thread that talks to the runtimes.

mod state;
mod work;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
};

use tokio::sync::{mpsc, oneshot};

use self::{
    state::Shared,
    work::{Question, work},
};
use super::{
    Metadata, RuntimeStatus, Update,
    bounded::is_id,
    cri::Cri,
    docker::Docker,
    failure::Failure,
    sockets::{self, Place, Protocol},
};

/// Questions that may wait.
const MOST_ASKED: usize = 4_096;

/// Where to look for runtimes.
#[derive(Clone, Debug, Default)]
pub struct RuntimeOptions {
    /// The host's `/`, below which the usual places are.
    pub host_root: PathBuf,
    /// Sockets besides the usual ones, as the agent can open them.
    pub sockets: Vec<PathBuf>,
    /// Whether the usual places are looked at.
    pub search: bool,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Happening {
    /// All of it.
    Known(Update),
    /// That there is a container, which is to be asked for.
    Seen(String),
}

/// A runtime that answers.
#[derive(Clone, Debug)]
enum Runtime {
    Cri(Cri),
    Docker(Docker),
}

/// What is learned of containers from their runtimes, by a thread of its own. Dropping it ends the thread
/// whatever the sockets do.
#[derive(Debug)]
pub struct Runtimes {
    asks: mpsc::Sender<Question>,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtimes {
    /// Starts the thread. Nothing is waited for: a runtime that is not there yet is found later.
    /// `wake` is called, from that thread, when there is something to [`take`](Self::take).
    ///
    /// # Errors
    ///
    /// No thread can be started.
    pub fn start(options: RuntimeOptions, wake: Box<dyn Fn() + Send + Sync>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared::new(wake));
        let (asks, questions) = mpsc::channel(MOST_ASKED);
        let (stop, stopped) = oneshot::channel::<()>();
        let work = work(options, Arc::clone(&shared), asks.clone(), questions);
        let thread = std::thread::Builder::new()
            .name("ctrscope-names".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = work => {}
                    }
                });
                runtime.shutdown_background();
            })?;
        Ok(Self {
            asks,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Asks who has this id; `user` is the one in whose cgroups it is, whose own runtimes are asked, too.
    /// The answer comes by [`take`](Self::take): [`Update::Described`], or [`Update::Unknown`] after a
    /// second. Never blocks.
    pub fn ask(&self, id: &str, user: Option<u32>) {
        let question = Question {
            id: id.to_owned(),
            user,
        };
        if !is_id(id) || self.asks.try_send(question).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What became known since the last call, oldest first. Never blocks for long.
    #[must_use]
    pub fn take(&self) -> Vec<Update> {
        self.shared.take()
    }

    /// How it stands with each socket that was found or named.
    #[must_use]
    pub fn status(&self) -> Vec<RuntimeStatus> {
        self.shared.status()
    }

    /// Questions and answers that were lost because too many waited, and questions that no runtime could
    /// answer because they hold no id.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Runtimes {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Runtime {
    async fn connect(place: &Arc<Place>) -> Result<Self, Failure> {
        if !sockets::is_socket(&place.path) {
            let why = match place.path.exists() {
                true => "it is no socket",
                false => "there is no such file",
            };
            return Err(Failure::Connect(io::Error::other(why)));
        }
        let docker = async || Docker::connect(place).await.map(Self::Docker);
        let cri = async || Cri::connect(&place.path).await.map(Self::Cri);
        match place.protocol {
            // CRI has no runtimes of users, and its client opens the path by itself.
            Protocol::Any if place.user.is_some() => docker().await,
            Protocol::Docker => docker().await,
            Protocol::Cri => cri().await,
            Protocol::Any => match cri().await {
                Ok(runtime) => Ok(runtime),
                Err(failure) => docker().await.map_err(|_| failure),
            },
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Cri(cri) => cri.runtime(),
            Self::Docker(docker) => docker.runtime(),
        }
    }

    async fn list(&self) -> Result<(Vec<Metadata>, u64), Failure> {
        match self {
            Self::Cri(cri) => cri.list().await,
            Self::Docker(docker) => docker.list().await,
        }
    }

    async fn lookup(&self, id: &str) -> Result<Option<Metadata>, Failure> {
        match self {
            Self::Cri(cri) => cri.lookup(id).await,
            Self::Docker(docker) => docker.lookup(id).await,
        }
    }

    async fn follow(
        &self,
        opened: impl FnOnce(),
        mut happened: impl FnMut(Happening),
    ) -> Result<(), Failure> {
        match self {
            Self::Cri(cri) => cri.follow(opened, happened).await,
            Self::Docker(docker) => {
                docker
                    .follow(opened, |update| happened(Happening::Known(update)))
                    .await
            }
        }
    }
}

#[cfg(test)]
mod tests;
