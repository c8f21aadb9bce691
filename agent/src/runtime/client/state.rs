//! What is known of the sockets and of containers, between the thread that asks and the one that takes.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use super::{Failure, Metadata, Place, Runtime, RuntimeStatus, Update};
use crate::runtime::{SocketState, bounded::is_id};

/// News that may wait to be taken: their number, and their bytes. The system's runtimes have that much,
/// and those of all users together.
const MOST_UPDATES: usize = 8_192;
const MOST_UPDATE_BYTES: usize = 16 << 20;
/// Containers remembered that nobody may have asked for yet, and their bytes; the oldest gives way.
const MOST_REMEMBERED: usize = 4_096;
const MOST_REMEMBERED_BYTES: usize = 8 << 20;
/// Questions in a row without an answer in time after which a connection is given up.
const MOST_SILENT: u32 = 3;

pub(super) struct Shared {
    wake: Box<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
    pub(super) dropped: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    sockets: BTreeMap<PathBuf, Socket>,
    /// Of the system's runtimes, and of those of users, who cannot fill each other's room.
    system: News,
    users: News,
}

struct Socket {
    status: RuntimeStatus,
    user: Option<u32>,
    runtime: Option<Runtime>,
    /// What of it is not used as long as it is connected.
    lasting: String,
    /// Questions in a row that it did not answer in time.
    silent: u32,
    /// Told when there are too many.
    given_up: Arc<Notify>,
}

#[derive(Default)]
struct News {
    updates: VecDeque<Update>,
    update_bytes: usize,
    remembered: Remembered,
}

type Key = (Option<u32>, String);

/// What was said last of containers, the newest.
#[derive(Default)]
struct Remembered {
    by_id: HashMap<Key, Arc<Metadata>>,
    order: VecDeque<Key>,
    bytes: usize,
}

impl Shared {
    pub(super) fn new(wake: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            wake,
            state: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, the state is whole all the same.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Vec<Update> {
        let mut state = self.lock();
        let State { system, users, .. } = &mut *state;
        (system.update_bytes, users.update_bytes) = (0, 0);
        let all = system.updates.drain(..).chain(users.updates.drain(..));
        all.collect()
    }

    pub(super) fn status(&self) -> Vec<RuntimeStatus> {
        let state = self.lock();
        let all = state.sockets.values();
        all.map(|socket| socket.status.clone()).collect()
    }

    /// Tells what a runtime says by itself, the system's or a user's, and remembers it for who asks later.
    pub(super) fn tell(&self, user: Option<u32>, updates: impl IntoIterator<Item = Update>) {
        self.put(user, updates, News::put);
    }

    /// Tells what a runtime answered to a question.
    pub(super) fn tell_answer(&self, user: Option<u32>, answer: Metadata) {
        let answer = Update::Described(Arc::new(answer));
        self.put(user, [answer], News::put_answer);
    }

    fn put(
        &self,
        user: Option<u32>,
        updates: impl IntoIterator<Item = Update>,
        put: fn(&mut News, Update) -> bool,
    ) {
        let mut state = self.lock();
        let news = match user {
            None => &mut state.system,
            Some(_) => &mut state.users,
        };
        let mut dropped = 0;
        for update in updates {
            // No other can be of a container.
            if is_id(update.id()) && !put(news, marked(update, user)) {
                dropped += 1;
            }
        }
        drop(state);
        self.lose(dropped);
        (self.wake)();
    }

    /// Counts what is lost.
    pub(super) fn lose(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// What was said of a container by those who can speak of it, without asking again.
    pub(super) fn remembered(&self, id: &str, user: Option<u32>) -> Option<Arc<Metadata>> {
        let state = self.lock();
        let by = |news: &News, user| {
            let key = (user, id.to_owned());
            news.remembered.by_id.get(&key).cloned()
        };
        by(&state.system, None).or_else(|| by(&state.users, Some(user?)))
    }

    /// The runtimes that can know a container in a user's cgroups, or in those of the system.
    pub(super) fn runtimes_of(&self, user: Option<u32>) -> Vec<(PathBuf, Option<u32>, Runtime)> {
        let state = self.lock();
        state
            .sockets
            .iter()
            .filter(|(_, socket)| socket.user.is_none() || socket.user == user)
            .filter_map(|(path, socket)| Some((path.clone(), socket.user, socket.runtime.clone()?)))
            .collect()
    }

    /// A socket is connected. What is given back is told when it does not answer any longer.
    pub(super) fn connected(&self, place: &Place, runtime: &Runtime) -> Arc<Notify> {
        let mut state = self.lock();
        let socket = state.socket(place);
        socket.status.runtime = runtime.name();
        socket.status.state = SocketState::Connected;
        socket.status.reason.clear();
        socket.status.connections += 1;
        socket.runtime = Some(runtime.clone());
        socket.lasting.clear();
        socket.silent = 0;
        socket.given_up = Arc::default();
        let given_up = Arc::clone(&socket.given_up);
        drop(state);
        let socket = place.path.display();
        tracing::info!(runtime = runtime.name(), %socket, "runtime connected");
        given_up
    }

    /// The socket is of no use until it is connected again.
    pub(super) fn lost(&self, place: &Place, failure: &Failure) {
        let mut state = self.lock();
        let socket = state.socket(place);
        let was_connected = socket.runtime.take().is_some();
        socket.status.state = SocketState::Failing;
        socket.status.reason = failure.to_string();
        socket.status.failures += 1;
        let is_first = socket.status.failures == 1;
        drop(state);
        if was_connected || is_first {
            let socket = place.path.display();
            tracing::warn!(%socket, %failure, "runtime does not answer");
        }
    }

    /// A part of what a connected socket offers is of no use, and the rest goes on.
    pub(super) fn limited(&self, place: &Place, failure: &Failure) {
        let mut state = self.lock();
        let socket = state.socket(place);
        socket.status.failures += 1;
        socket.lasting = failure.to_string();
        socket.status.reason.clone_from(&socket.lasting);
        drop(state);
        let socket = place.path.display();
        tracing::warn!(%socket, %failure, "runtime answers in part");
    }

    /// A question went well or not; the connection goes on, unless it did not answer too often.
    pub(super) fn answered(&self, path: &Path, failure: Option<&Failure>) {
        let mut state = self.lock();
        let Some(socket) = state.sockets.get_mut(path) else {
            return;
        };
        match failure {
            Some(failure) => {
                socket.status.failures += 1;
                socket.status.state = SocketState::Failing;
                socket.status.reason = failure.to_string();
                if matches!(failure, Failure::Silent { .. }) {
                    socket.silent += 1;
                    if socket.silent >= MOST_SILENT {
                        socket.given_up.notify_one();
                    }
                }
            }
            None if socket.runtime.is_some() => {
                socket.status.state = SocketState::Connected;
                socket.status.reason.clone_from(&socket.lasting);
                socket.silent = 0;
            }
            None => {}
        }
    }

    pub(super) fn forget(&self, path: &Path) {
        self.lock().sockets.remove(path);
    }
}

/// An update with the mark of whose word it is.
fn marked(mut update: Update, by: Option<u32>) -> Update {
    match &mut update {
        Update::Described(metadata) if metadata.user != by => Arc::make_mut(metadata).user = by,
        Update::Exited { user, .. } => *user = by,
        Update::Described(_) | Update::Unknown { .. } => {}
    }
    update
}

impl State {
    fn socket(&mut self, place: &Place) -> &mut Socket {
        self.sockets
            .entry(place.path.clone())
            .or_insert_with(|| Socket {
                status: RuntimeStatus {
                    runtime: place.runtime,
                    socket: place.path.display().to_string(),
                    state: SocketState::Failing,
                    reason: "not tried yet".to_owned(),
                    connections: 0,
                    failures: 0,
                },
                user: place.user,
                runtime: None,
                lasting: String::new(),
                silent: 0,
                given_up: Arc::default(),
            })
    }
}

impl News {
    /// Remembers and tells an update; whether there was room for it.
    fn put(&mut self, mut update: Update) -> bool {
        if let Update::Described(metadata) = &mut update {
            self.remembered.put(metadata);
        }
        self.push(update)
    }

    /// Tells an answer; whether there was room for it. Who is asked for once more is looked up once more, so
    /// it is remembered only with what was told before: thousands that came and went would take megabytes.
    fn put_answer(&mut self, mut update: Update) -> bool {
        if let Update::Described(metadata) = &mut update
            && self.remembered.knows(metadata)
        {
            self.remembered.put(metadata);
        }
        self.push(update)
    }

    fn push(&mut self, update: Update) -> bool {
        let mut bytes = size_of::<Update>();
        if let Update::Described(metadata) = &update {
            bytes += metadata.bytes();
        }
        let has_room = self.updates.len() < MOST_UPDATES
            && self.update_bytes.saturating_add(bytes) <= MOST_UPDATE_BYTES;
        if has_room {
            self.update_bytes += bytes;
            self.updates.push_back(update);
        }
        has_room
    }
}

impl Remembered {
    fn knows(&self, metadata: &Metadata) -> bool {
        let key = (metadata.user, metadata.id.clone());
        self.by_id.contains_key(&key)
    }

    /// Remembers what is said of a container. Events and lists say nothing of its limits: what is known
    /// of them stays, and is put into what is told.
    fn put(&mut self, metadata: &mut Arc<Metadata>) {
        let key = (metadata.user, metadata.id.clone());
        let known = self.by_id.get(&key);
        if metadata.resources.is_none()
            && let Some(resources) = known.and_then(|known| known.resources)
        {
            Arc::make_mut(metadata).resources = Some(resources);
        }
        let bytes = |metadata: &Metadata| metadata.bytes() + 2 * size_of::<Key>();
        self.bytes += bytes(metadata);
        match self.by_id.insert(key.clone(), Arc::clone(metadata)) {
            Some(former) => self.bytes -= bytes(&former),
            None => self.order.push_back(key),
        }
        while (self.order.len() > MOST_REMEMBERED || self.bytes > MOST_REMEMBERED_BYTES)
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(oldest) = self.by_id.remove(&oldest) {
                self.bytes -= bytes(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Resources;

    fn of(id: &str) -> Metadata {
        Metadata {
            id: id.to_owned(),
            ..Metadata::default()
        }
    }

    fn described(metadata: Metadata) -> Update {
        Update::Described(Arc::new(metadata))
    }

    #[test]
    fn a_new_name_does_not_forget_the_limits() {
        let mut remembered = Remembered::default();
        let limits = Some(Resources {
            cpu_limit_cores: Some(0.5),
            ..Resources::default()
        });
        remembered.put(&mut Arc::new(Metadata {
            resources: limits,
            ..of("0a")
        }));
        let mut renamed = Arc::new(Metadata {
            name: "new".to_owned(),
            ..of("0a")
        });
        remembered.put(&mut renamed);
        assert_eq!(renamed.resources, limits);
        assert_eq!(remembered.by_id[&(None, "0a".to_owned())], renamed);
    }

    #[test]
    fn an_answer_is_told_and_remembered_only_with_what_was_told_before() {
        let shared = Shared::new(Box::new(|| {}));
        let answer = |id: &str| Metadata {
            resources: Some(Resources::default()),
            ..of(id)
        };
        shared.tell_answer(None, answer("0a"));
        assert_eq!(shared.remembered("0a", None), None);
        shared.tell(None, [described(of("0b"))]);
        shared.tell_answer(None, answer("0b"));
        assert!(shared.remembered("0b", None).unwrap().resources.is_some());
        assert_eq!(shared.take().len(), 3);
    }

    #[test]
    fn what_is_remembered_is_bounded_by_number_and_by_bytes() {
        let mut remembered = Remembered::default();
        for index in 0..MOST_REMEMBERED + 10 {
            remembered.put(&mut Arc::new(of(&index.to_string())));
        }
        assert_eq!(remembered.by_id.len(), MOST_REMEMBERED);
        assert!(!remembered.by_id.contains_key(&(None, "0".to_owned())));
        for index in 0..1_000 {
            remembered.put(&mut Arc::new(Metadata {
                name: "x".repeat(16 << 10),
                ..of(&index.to_string())
            }));
        }
        assert!(remembered.bytes <= MOST_REMEMBERED_BYTES && remembered.by_id.len() < 600);
        assert_eq!(remembered.order.len(), remembered.by_id.len());
        for index in 0..1_000 {
            remembered.put(&mut Arc::new(of(&index.to_string())));
        }
        let bytes: usize = remembered.by_id.values().map(|one| one.bytes()).sum();
        let keys = remembered.by_id.len() * 2 * size_of::<Key>();
        assert_eq!(remembered.bytes, bytes + keys);
    }

    #[test]
    fn news_are_bounded_and_what_is_lost_is_counted() {
        let shared = Shared::new(Box::new(|| {}));
        let many = (0..MOST_UPDATES + 7).map(|index| described(of(&index.to_string())));
        shared.tell(None, many);
        assert_eq!(shared.dropped.load(Ordering::Relaxed), 7);
        // The room of users is another one.
        shared.tell(Some(7), [described(of("0a"))]);
        assert_eq!(shared.take().len(), MOST_UPDATES + 1);
        let large = (0..2_000).map(|index| {
            described(Metadata {
                name: "x".repeat(16 << 10),
                ..of(&index.to_string())
            })
        });
        shared.tell(None, large);
        let bytes: usize = shared
            .take()
            .iter()
            .map(|update| match update {
                Update::Described(metadata) => metadata.bytes(),
                _ => 0,
            })
            .sum();
        assert!(bytes <= MOST_UPDATE_BYTES);
        shared.tell(None, [described(of("../x"))]);
        assert_eq!(shared.take(), []);
    }

    #[test]
    fn a_users_word_is_marked_and_does_not_replace_the_systems() {
        let shared = Shared::new(Box::new(|| {}));
        let named = |name: &str| {
            described(Metadata {
                name: name.to_owned(),
                ..of("0a")
            })
        };
        shared.tell(None, [named("true")]);
        shared.tell(Some(7), [named("false")]);
        shared.tell(Some(8), [named("worse")]);
        let name = |user| {
            shared
                .remembered("0a", user)
                .map(|found| found.name.clone())
        };
        assert_eq!(name(None).as_deref(), Some("true"));
        assert_eq!(name(Some(7)).as_deref(), Some("true"));
        let users: Vec<_> = shared
            .take()
            .iter()
            .map(|update| match update {
                Update::Described(metadata) => metadata.user,
                _ => None,
            })
            .collect();
        assert_eq!(users, [None, Some(7), Some(8)]);
        shared.tell(Some(7), [described(of("0b"))]);
        let found = |user| shared.remembered("0b", user).is_some();
        assert!(found(Some(7)) && !found(Some(8)) && !found(None));
    }
}
