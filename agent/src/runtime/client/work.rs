//! What the thread does: one task for each socket, one for each question.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::sleep,
};

use super::{Failure, Happening, Place, Runtime, RuntimeOptions, Update, sockets, state::Shared};

/// Questions that are asked at once.
const AT_ONCE: usize = 16;
/// Questions that are not answered yet, those among them that wait to be asked again. Further ones wait to
/// be taken in.
const MOST_PENDING: usize = 4_096;
/// A container's sandbox becomes known after its cgroup: when to ask again.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(900)];
/// How often new sockets are looked for.
const SEARCH: Duration = Duration::from_secs(5);
/// Until a socket is tried again: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// Sockets of the system that are kept at once: the usual ones, and as many as can be named. And those of
/// users.
const MOST_SOCKETS: usize = 32;
const MOST_OF_USERS: usize = 16;

/// Who has an id, and in whose cgroups it is.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) id: String,
    pub(super) user: Option<u32>,
}

/// What all tasks share.
#[derive(Clone)]
struct Work {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Question>,
    /// A list may be long, so one is read at a time; those of users do not hold up the system's.
    list: Arc<Semaphore>,
    list_of_users: Arc<Semaphore>,
}

/// All that the thread does; ends only when it is dropped.
pub(super) async fn work(
    options: RuntimeOptions,
    shared: Arc<Shared>,
    asks: mpsc::Sender<Question>,
    mut questions: mpsc::Receiver<Question>,
) {
    let work = Work {
        shared,
        asks,
        list: Arc::new(Semaphore::new(1)),
        list_of_users: Arc::new(Semaphore::new(1)),
    };
    let mut sockets: JoinSet<Arc<Place>> = JoinSet::new();
    let mut kept: HashSet<(bool, PathBuf)> = HashSet::new();
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let pending = Arc::new(Semaphore::new(MOST_PENDING));
    let mut search = tokio::time::interval(SEARCH);
    loop {
        tokio::select! {
            _ = search.tick() => {
                let named = options.sockets.iter().map(|path| (Place::named(path), true));
                let found = match options.search {
                    true => sockets::search(&options.host_root),
                    false => Vec::new(),
                };
                let found = found.into_iter().map(|place| (place, false));
                for (place, is_named) in named.chain(found) {
                    let is_users = place.user.is_some();
                    let most = if is_users { MOST_OF_USERS } else { MOST_SOCKETS };
                    let like_it = kept.iter().filter(|(of_user, _)| *of_user == is_users);
                    if like_it.count() < most && kept.insert((is_users, place.path.clone())) {
                        sockets.spawn(keep(work.clone(), Arc::new(place), is_named));
                    }
                }
            }
            Some(ended) = sockets.join_next() => {
                if let Ok(place) = ended {
                    kept.remove(&(place.user.is_some(), place.path.clone()));
                }
            }
            Some(question) = questions.recv() => {
                let Ok(place) = Arc::clone(&pending).acquire_owned().await else {
                    return;
                };
                let (shared, at_once) = (Arc::clone(&work.shared), Arc::clone(&at_once));
                tokio::spawn(async move {
                    answer(&shared, &at_once, &question).await;
                    drop(place);
                });
            }
        }
    }
}

/// Answers one question. It takes one of the places to ask only while it does: many containers that nobody
/// knows do not keep others from their names.
async fn answer(shared: &Shared, at_once: &Semaphore, Question { id, user }: &Question) {
    if let Some(known) = shared.remembered(id, *user) {
        shared.tell(known.user, [Update::Described(known)]);
    }
    for pause in [Duration::ZERO].into_iter().chain(AGAIN) {
        sleep(pause).await;
        let _asking = at_once.acquire().await;
        let mut lookups = JoinSet::new();
        for (path, by, runtime) in shared.runtimes_of(*user) {
            let id = id.clone();
            lookups.spawn(async move { (path, by, runtime.lookup(&id).await) });
        }
        while let Some(looked) = lookups.join_next().await {
            let Ok((path, by, found)) = looked else {
                continue;
            };
            shared.answered(&path, found.as_ref().err());
            if let Ok(Some(metadata)) = found {
                shared.tell_answer(by, metadata);
                return;
            }
        }
        // An event may have told it meanwhile, and a container that is gone is not found any more.
        if shared.remembered(id, *user).is_some() {
            return;
        }
    }
    shared.tell(None, [Update::Unknown { id: id.clone() }]);
}

/// Keeps one socket connected; ends when one that was only found is there no longer.
async fn keep(work: Work, place: Arc<Place>, is_named: bool) -> Arc<Place> {
    let mut pause = FIRST_PAUSE;
    loop {
        if !is_named && !sockets::is_socket(&place.path) {
            work.shared.forget(&place.path);
            return place;
        }
        let began = Instant::now();
        let failure = session(&work, &place).await;
        work.shared.lost(&place, &failure);
        if began.elapsed() > LAST_PAUSE {
            pause = FIRST_PAUSE;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// One connection, from its begin to the reason of its end.
async fn session(work: &Work, place: &Arc<Place>) -> Failure {
    let shared = &*work.shared;
    let runtime = match Runtime::connect(place).await {
        Ok(runtime) => runtime,
        Err(failure) => return failure,
    };
    let given_up = shared.connected(place, &runtime);
    let (opened, is_open) = oneshot::channel();
    let follow = runtime.follow(
        move || {
            let _ = opened.send(());
        },
        |happening| match happening {
            Happening::Known(update) => shared.tell(place.user, [update]),
            Happening::Seen(id) => {
                let question = Question {
                    id,
                    user: place.user,
                };
                if work.asks.try_send(question).is_err() {
                    shared.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        },
    );
    // What is there already, when nothing new can be missed; where the stream's head comes with its
    // first event only, not later than this.
    let list = async {
        let _ = tokio::time::timeout(FIRST_PAUSE, is_open).await;
        let list = match place.user {
            None => &work.list,
            Some(_) => &work.list_of_users,
        };
        let _one_at_a_time = list.acquire().await;
        runtime.list().await
    };
    tokio::pin!(follow, list);
    let mut is_listed = false;
    loop {
        tokio::select! {
            ended = &mut follow => {
                return match ended {
                    Err(failure) => failure,
                    Ok(()) => Failure::broken("events", &"the stream ended"),
                };
            }
            listed = &mut list, if !is_listed => {
                is_listed = true;
                match listed {
                    Ok((all, left_out)) => {
                        let all = all.into_iter().map(|one| Update::Described(Arc::new(one)));
                        shared.tell(place.user, all);
                        shared.lose(left_out);
                    }
                    // Each is asked for when it is seen.
                    Err(failure) if failure.is_of_the_answer() => shared.limited(place, &failure),
                    Err(failure) => return failure,
                }
            }
            () = given_up.notified() => {
                return Failure::Silent { asked: "questions in a row".to_owned() };
            }
        }
    }
}
