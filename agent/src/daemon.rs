//! The daemon: an engine, an HTTP server over it, and an orderly end.

use std::{io, path::Path, sync::Arc, thread, time::Duration};

use crate::{
    config::{Config, ListenAddress},
    engine::{Agent, EngineError, EngineOptions},
    export::server::{ServerState, bind, router, serve},
    observer::Observer,
    signals::EndSignals,
    source::Source,
};

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}; choose another address with --listen ADDR")]
    Listen {
        /// Which.
        address: ListenAddress,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The file that was to get the address cannot be written.
    #[error("cannot write the address to {path}")]
    AddressFile {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The collecting thread ended, which is a defect.
    #[error(
        "the collecting thread ended, so nothing is measured any more; the log says why, and a restart collects again"
    )]
    EngineEnded,
    /// The server's own metrics cannot be made, which is a defect.
    #[error("set up the server's metrics")]
    Metrics(#[source] prometheus::Error),
    /// The thread that diagnoses cannot be started.
    #[error("start the thread that diagnoses")]
    Observe(#[source] io::Error),
    /// The runtime or the server failed.
    #[error("serve HTTP")]
    Serve(#[source] io::Error),
}

/// What the configuration says about the engine.
#[must_use]
pub fn engine_options(config: &Config) -> EngineOptions {
    EngineOptions {
        proc_root: config.proc_root.clone(),
        // The default is where mounts usually are, not a demand that they be there.
        cgroup_root: (config.cgroup_root != Config::default().cgroup_root)
            .then(|| config.cgroup_root.clone()),
        btf: config.btf.clone(),
        max_containers: config.max_containers,
        retention: config.retention,
        interval: config.interval,
        selection: config.selection.clone(),
        runtimes: config.runtime_options(),
    }
}

/// Runs until SIGINT, SIGTERM or SIGHUP. The port is bound before anything is loaded into the kernel, so that a
/// port that is taken costs nothing.
///
/// # Errors
///
/// Any [`DaemonError`].
pub fn run(config: &Config) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The work is on the engine's thread and on blocking threads; these two only pass it on.
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build()
        .map_err(DaemonError::Serve)?;
    runtime.block_on(async {
        let listeners = bind(&config.listen)
            .await
            .map_err(|source| DaemonError::Listen { address: config.listen.clone(), source })?;
        let mut signals = EndSignals::new().map_err(DaemonError::Serve)?;
        let addresses = listeners
            .iter()
            .map(|listener| listener.local_addr().map(|address| address.to_string()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(DaemonError::Serve)?;
        let agent = Arc::new(Agent::start(engine_options(config))?);
        let source: Arc<dyn Source> = Arc::<Agent>::clone(&agent);
        let observer = Arc::new(Observer::new(source, config.diagnosis.clone()));
        let watching = observer.watch().map_err(DaemonError::Observe)?;
        let state = ServerState::new(observer).map_err(DaemonError::Metrics)?;
        if let Some(path) = &config.address_file {
            let first = addresses.first().map_or("", String::as_str);
            write_whole(path, &format!("{first}\n")).map_err(|source| {
                DaemonError::AddressFile { path: path.display().to_string(), source }
            })?;
        }
        for address in &addresses {
            tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening on http://{address}");
        }
        let watched = Arc::clone(&agent);
        let ended = async move {
            tokio::select! {
                signal = signals.next() => tracing::info!(signal, "ending"),
                // Whoever supervises the daemon can start it again; alive and blind it would stay so.
                () = end_of(&watched) => tracing::info!("ending"),
            }
        };
        let served = serve(listeners, router(state), ended).await.map_err(DaemonError::Serve);
        if let Some(path) = &config.address_file {
            let _ = std::fs::remove_file(path);
        }
        let served = if agent.is_running() { served } else { Err(DaemonError::EngineEnded) };
        // Their ends wait for their threads, which is no work for this one.
        let ender = thread::spawn(move || {
            drop(watching);
            drop(agent);
        });
        let _ = ender.join();
        served
    })
}

/// Returns when the agent's thread has ended.
async fn end_of(agent: &Agent) {
    while agent.is_running() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Writes a file so that no reader ever sees half of it.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path).inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}
