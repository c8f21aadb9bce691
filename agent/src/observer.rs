//! The observer: diagnoses what a source measures, again and again, and remembers what changed.
//!
//! It stands in front of a source and is one itself, so that server and commands ask it for all. In the
//! daemon a thread of its own looks every [`INTERVAL`]; a command that measures by itself has no such
//! thread, and then whoever asks for what stands makes it look.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    config::DiagnosisConfig,
    diagnosis::{
        ContainerStanding, Diagnosis, History, WaitMatrix, diagnose, facts::WindowFacts, judge,
        wait_matrix,
    },
    resolve::{display_name, resolve_container},
    snapshot::{Identity, Kind, Snapshot},
    source::{Cancel, DiagnosisRequest, ProfileRequest, RenderedProfile, Source, SourceError},
};

/// Time between two looks. A verdict stands after the second that gives it.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// The same before there is a first window.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest window whose verdicts are remembered, seconds: in the first moments of the agent a container
/// that works in bursts would be idle in one and held back in the next.
const SHORTEST_WINDOW_SECONDS: f64 = 4.5;

/// Diagnoses what a source measures.
pub struct Observer {
    source: Arc<dyn Source>,
    config: DiagnosisConfig,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    history: History,
    looked: Option<Instant>,
    standing: Arc<Vec<ContainerStanding>>,
    /// End of the last window that was remembered, milliseconds since the epoch; 0 before there is one.
    ended_at_unix_ms: u64,
    /// Whether a thread looks.
    is_watched: bool,
}

impl State {
    /// Whether it is time to look. Until there is a first window it is near.
    fn is_due(&self) -> bool {
        let wait = if self.ended_at_unix_ms == 0 {
            FIRST_INTERVAL
        } else {
            INTERVAL
        };
        self.looked.is_none_or(|looked| looked.elapsed() >= wait)
    }
}

impl Observer {
    /// An observer that has not looked yet.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, config: DiagnosisConfig) -> Self {
        Self {
            source,
            config,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a thread that panicked left is whole: each look replaces it at its end.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Diagnoses the window of the configuration and remembers what changed.
    ///
    /// # Errors
    ///
    /// Those of [`Source::facts`].
    pub fn look(&self) -> Result<(), SourceError> {
        self.state().looked = Some(Instant::now());
        let facts = self.source.facts(self.config.window)?;
        if facts.seconds < SHORTEST_WINDOW_SECONDS.min(self.config.window.as_secs_f64()) {
            return Ok(());
        }
        let diagnosis = judge(&facts, &self.config.thresholds);
        let mut state = self.state();
        // The same window says nothing twice.
        if diagnosis.ended_at_unix_ms > state.ended_at_unix_ms {
            state.ended_at_unix_ms = diagnosis.ended_at_unix_ms;
            state.history.update(&diagnosis);
            state.standing = Arc::new(state.history.standing());
        }
        Ok(())
    }

    /// Starts to look again and again, until what it returns is dropped.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn watch(self: &Arc<Self>) -> std::io::Result<Watching> {
        let (stop, stopped) = channel::<()>();
        let observer = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("ctrscope-watch".into())
            .spawn(move || {
                observer.state().is_watched = true;
                while stopped.recv_timeout(FIRST_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    if !observer.state().is_due() {
                        continue;
                    }
                    if let Err(error) = observer.look() {
                        tracing::debug!(%error, "no diagnosis");
                    }
                }
                observer.state().is_watched = false;
            })?;
        Ok(Watching {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Who is meant by what a user calls a container.
    fn meant(&self, query: &str) -> Result<Arc<Identity>, SourceError> {
        let snapshot = self.source.snapshot()?;
        let index = resolve_container(&snapshot, query)?;
        let container = snapshot.containers.get(index);
        Ok(container
            .map(|container| Arc::clone(&container.identity))
            .unwrap_or_default())
    }
}

fn is_same(one: &Identity, other: &Identity) -> bool {
    one.cgroup == other.cgroup && one.container_id == other.container_id
}

/// Why a container that is known is in no window.
fn lacks(identity: &Identity, facts: &WindowFacts) -> SourceError {
    let name = display_name(identity);
    if identity.kind == Kind::Other {
        return SourceError::Unsupported(format!(
            "{name} is the sum of all others, and nothing is told of a sum; ask for one of them"
        ));
    }
    SourceError::NotReady(format!(
        "nothing is known of {name} in the last {:.0} s: it began just now or had ended before; ask again in a \
         few seconds, or give a longer window",
        facts.seconds
    ))
}

impl Source for Observer {
    fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
        self.source.snapshot()
    }

    fn facts(&self, window: Duration) -> Result<Arc<WindowFacts>, SourceError> {
        self.source.facts(window)
    }

    fn diagnosis(&self, request: &DiagnosisRequest) -> Result<Arc<Diagnosis>, SourceError> {
        let window = request.window.unwrap_or(self.config.window);
        let facts = self.source.facts(window)?;
        let mut diagnosis = diagnose(&facts, &self.config.thresholds);
        if let Some(query) = &request.container {
            let identity = self.meant(query)?;
            let containers = &mut diagnosis.containers;
            containers.retain(|one| is_same(&one.identity, &identity));
            if containers.is_empty() {
                return Err(lacks(&identity, &facts));
            }
        }
        let state = self.state();
        for container in &mut diagnosis.containers {
            container.history = state.history.changes(&container.identity);
        }
        drop(state);
        Ok(Arc::new(diagnosis))
    }

    fn neighbours(&self, request: &DiagnosisRequest) -> Result<Arc<WaitMatrix>, SourceError> {
        let window = request.window.unwrap_or(self.config.window);
        let facts = self.source.facts(window)?;
        let Some(query) = &request.container else {
            return Ok(Arc::new(wait_matrix(&facts, None)));
        };
        let identity = self.meant(query)?;
        let matrix = wait_matrix(&facts, Some(&identity));
        if !matrix.containers.is_empty() {
            return Ok(Arc::new(matrix));
        }
        let mut containers = facts.containers.iter();
        if !containers.any(|one| is_same(&one.identity, &identity)) {
            return Err(lacks(&identity, &facts));
        }
        Err(SourceError::Unsupported(format!(
            "whom {} waited for is not measured; `ctrscope check` says what this host lacks",
            display_name(&identity)
        )))
    }

    fn standing(&self) -> Result<Arc<Vec<ContainerStanding>>, SourceError> {
        let is_due = {
            let state = self.state();
            !state.is_watched && state.is_due()
        };
        if is_due {
            match self.look() {
                // None stand yet.
                Ok(()) | Err(SourceError::NotReady(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Arc::clone(&self.state().standing))
    }

    fn profile(
        &self,
        request: &ProfileRequest,
        cancel: &Cancel,
    ) -> Result<RenderedProfile, SourceError> {
        self.source.profile(request, cancel)
    }
}

/// A thread that looks. Dropping it ends the thread, after the look that it is at.
pub struct Watching {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnosis::{
            Resource, Verdict,
            facts::{ContainerFacts, QuotaFacts},
        },
        snapshot::Container,
    };

    /// Windows that follow each other, one for each time that it is asked; the last one again and again.
    struct Played {
        windows: Mutex<Vec<WindowFacts>>,
        snapshot: Snapshot,
    }

    impl Source for Played {
        fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
            Ok(Arc::new(self.snapshot.clone()))
        }

        fn facts(&self, _: Duration) -> Result<Arc<WindowFacts>, SourceError> {
            let mut windows = self.windows.lock().expect("not poisoned");
            let next = windows.first().cloned();
            if windows.len() > 1 {
                windows.remove(0);
            }
            next.map(Arc::new)
                .ok_or_else(|| SourceError::NotReady("no window".to_owned()))
        }

        fn profile(&self, _: &ProfileRequest, _: &Cancel) -> Result<RenderedProfile, SourceError> {
            Err(SourceError::Cancelled)
        }
    }

    fn identity(name: &str) -> Arc<Identity> {
        Arc::new(Identity {
            container: name.to_owned(),
            cgroup: format!("/{name}"),
            ..Identity::default()
        })
    }

    /// A window of two containers, of which one is throttled or not.
    fn window(end_seconds: u64, is_throttled: bool) -> WindowFacts {
        let container = |name: &str| {
            let mut container = ContainerFacts {
                identity: identity(name),
                seconds: 60.0,
                ..ContainerFacts::default()
            };
            container.cpu.used_seconds = Some(30.0);
            container.cpu.waited_seconds = Some(0.0);
            container.cpu.involuntary = Some(0);
            container
        };
        let mut web = container("web");
        web.cpu.quotas = vec![QuotaFacts {
            cgroup: "/web".to_owned(),
            is_own: true,
            quota_cores: 0.5,
            periods: 600,
            throttled_periods: if is_throttled { 500 } else { 0 },
            ..QuotaFacts::default()
        }];
        WindowFacts {
            seconds: 60.0,
            ended_at_unix_ms: end_seconds * 1_000,
            containers: vec![web, container("db")],
            ..WindowFacts::default()
        }
    }

    fn observer(windows: Vec<WindowFacts>) -> Observer {
        let containers = ["web", "db", "new"].map(|name| Container {
            identity: identity(name),
            ..Container::default()
        });
        let source = Played {
            windows: Mutex::new(windows),
            snapshot: Snapshot {
                containers: containers.to_vec(),
                ..Snapshot::default()
            },
        };
        Observer::new(Arc::new(source), DiagnosisConfig::default())
    }

    fn cpu_of_web(observer: &Observer) -> Option<Verdict> {
        let standing = observer.standing().expect("it answers");
        let web = standing
            .iter()
            .find(|one| one.identity.container == "web")?;
        let cpu = web
            .standing
            .iter()
            .find(|one| one.resource == Resource::Cpu)?;
        Some(cpu.verdict)
    }

    #[test]
    fn a_verdict_stands_after_the_second_window_that_gives_it() {
        let observer = observer(vec![
            window(60, true),
            window(70, false),
            window(80, true),
            window(90, false),
            window(100, false),
        ]);
        let mut stood = Vec::new();
        for _ in 0..5 {
            observer.look().expect("a window");
            stood.push(cpu_of_web(&observer).expect("it stands"));
        }
        // Without the host's CPUs steal is not known, so what is not throttled is not known either.
        let (throttled, unknown) = (Verdict::CapThrottled, Verdict::Unknown);
        assert_eq!(stood[..4], [throttled; 4]);
        assert_eq!(stood[4], unknown);
        let request = DiagnosisRequest {
            container: Some("web".to_owned()),
            ..DiagnosisRequest::default()
        };
        let diagnosis = observer.diagnosis(&request).expect("it answers");
        let history = &diagnosis.containers[0].history;
        let cpu: Vec<_> = history
            .iter()
            .filter(|change| change.resource == Resource::Cpu)
            .map(|change| (change.at_unix_ms, change.from, change.to))
            .collect();
        assert_eq!(
            cpu,
            [
                (60_000, None, throttled),
                (100_000, Some(throttled), unknown)
            ]
        );
    }

    #[test]
    fn the_same_window_twice_confirms_nothing() {
        let observer = observer(vec![window(60, true), window(70, false)]);
        for _ in 0..4 {
            observer.look().expect("a window");
        }
        assert_eq!(cpu_of_web(&observer), Some(Verdict::CapThrottled));
    }

    #[test]
    fn a_window_of_a_moment_is_not_remembered() {
        let mut moment = window(60, true);
        moment.seconds = 1.0;
        let observer = observer(vec![moment]);
        assert_eq!(observer.standing().expect("it answers").len(), 0);
    }

    #[test]
    fn without_a_thread_whoever_asks_makes_it_look() {
        let watched = observer(vec![window(60, true)]);
        assert_eq!(cpu_of_web(&watched), Some(Verdict::CapThrottled));
        assert_eq!(observer(vec![]).standing().expect("none yet").len(), 0);
    }

    #[test]
    fn a_thread_looks_by_itself_and_ends_when_it_is_dropped() {
        let observer = Arc::new(observer(vec![window(60, true)]));
        let watching = observer.watch().expect("a thread");
        let deadline = Instant::now() + Duration::from_secs(20);
        while observer.state().ended_at_unix_ms == 0 {
            assert!(Instant::now() < deadline, "it does not look");
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(watching);
        assert_eq!(Arc::strong_count(&observer), 1);
    }

    #[test]
    fn one_container_is_found_by_its_name_and_what_is_in_no_window_says_why() {
        let observer = observer(vec![window(60, true)]);
        let ask = |name: &str| {
            observer.diagnosis(&DiagnosisRequest {
                container: Some(name.to_owned()),
                ..DiagnosisRequest::default()
            })
        };
        let web = ask("web").expect("it is there");
        assert_eq!(web.containers.len(), 1);
        assert_eq!(web.containers[0].name, "web");
        let error = ask("new").expect_err("it is in no window").to_string();
        assert!(
            error.contains("nothing is known of new in the last 60 s"),
            "{error}"
        );
        assert!(matches!(
            ask("x"),
            Err(SourceError::UnknownContainer { .. })
        ));
    }
}
