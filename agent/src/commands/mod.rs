//! The commands. Each is written against [`Source`] and a writer, so that it does the same with a
//! daemon, without one, and in a test.

mod biolat;
mod check;
mod diagnose;
mod flame;
pub mod host;
mod interrupt;
mod latency;
mod neighbours;
mod runqlat;
mod top;
mod who;
mod windows;

use std::{
    cell::Cell,
    error::Error as _,
    io::{self, stderr, stdout},
    process::ExitCode,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::filter::LevelFilter;

pub use check::{Finding, Status};

use crate::{
    cgroup::enter_that_of_init,
    cli::{Cli, Command},
    client::HttpSource,
    config::{Config, LogFormat},
    daemon::{self, DaemonError},
    error_chain::error_chain,
    source::{Source, SourceError},
    terminal::{Terminal, say},
};

/// Exit code of a failure.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code of wrong usage or configuration; clap's own.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of `diagnose` where something holds a container back.
pub const EXIT_BOTTLENECK: u8 = 3;
/// Exit code of a command that was interrupted before it was done: 128 + SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked.
    Done,
    /// It did what was asked, and the answer is bad news (`check`).
    BadNews,
    /// It did what was asked, and something holds a container back (`diagnose`).
    Bottleneck,
    /// It was interrupted before it was done.
    Interrupted,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The source has no answer.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The daemon does not run.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// There is neither a daemon nor a local source.
    #[error(
        "no daemon answers at {address} ({daemon}), and this process cannot measure by itself: {local}"
    )]
    NoSource {
        /// Where the daemon was looked for.
        address: String,
        /// Why it does not answer.
        daemon: String,
        /// Why there is no local source, and the fix.
        local: String,
    },
    /// A daemon on another host does not answer, so that measuring here would answer for the wrong one.
    #[error(
        "no daemon answers at {address} ({daemon}); start it there with `ctrscope run --listen ADDR`, or leave --server out to measure this host"
    )]
    NoRemoteDaemon {
        /// Where it was looked for.
        address: String,
        /// Why it does not answer.
        daemon: String,
    },
    /// Something could not be read or written.
    #[error("cannot {action}")]
    Io {
        /// What was attempted, on what.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The answer is nothing, which is not what was asked for.
    #[error("{0}")]
    Nothing(String),
}

impl CommandError {
    fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            action: action.into(),
            source,
        }
    }

    fn output(source: io::Error) -> Self {
        Self::io("write to standard output", source)
    }

    /// Whether the reader of the output went away, as `head` does.
    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// As many open files as the hard limit allows: the soft one of 1,024 that services start with is for programs
/// that use `select(2)`, and too few for the files of a thousand containers.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "limit of open files not raised");
    }
}

/// Runs the command and says on standard error why it failed.
#[must_use]
pub fn run(cli: &Cli, config: &Config) -> ExitCode {
    // Before there are other threads, so that all read the same paths.
    match enter_that_of_init(&config.proc_root) {
        Ok(true) => tracing::debug!("paths are read in the cgroup namespace of PID 1"),
        Ok(false) => {}
        Err(error) => tracing::debug!(%error, "cgroup namespace of PID 1 not entered"),
    }
    raise_open_files();
    match execute(cli, config) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::BadNews) => ExitCode::from(EXIT_FAILURE),
        Ok(Outcome::Bottleneck) => ExitCode::from(EXIT_BOTTLENECK),
        Ok(Outcome::Interrupted) | Err(CommandError::Source(SourceError::Cancelled)) => {
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("ctrscope: {}", error_chain(&error)));
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn execute(cli: &Cli, config: &Config) -> Result<Outcome, CommandError> {
    let terminal = Terminal::detect();
    let out = &mut stdout();
    let open = || open_source(config, host::local_source);
    match &cli.command {
        Command::Run(_) => Ok(daemon::run(config).map(|()| Outcome::Done)?),
        Command::Check(arguments) => {
            check::check(arguments, &host::findings(config), terminal, out)
        }
        Command::Who(arguments) => {
            let snapshot = daemon_snapshot(config);
            who::who(arguments, config, snapshot.as_deref(), out)
        }
        Command::Top(arguments) => {
            let cancel = interrupt::cancel_on_signals()?;
            top::top(arguments, &*open()?, terminal, &cancel, out)
        }
        Command::Diagnose(arguments) => {
            let cancel = interrupt::cancel_on_signals()?;
            let (source, is_local) = open_and_say_whether_local(config)?;
            diagnose::diagnose(arguments, &*source, is_local, terminal, &cancel, out)
        }
        Command::Neighbours(arguments) => {
            let cancel = interrupt::cancel_on_signals()?;
            let (source, is_local) = open_and_say_whether_local(config)?;
            neighbours::neighbours(arguments, &*source, is_local, terminal, &cancel, out)
        }
        Command::Runqlat(arguments) => {
            let cancel = interrupt::cancel_on_signals()?;
            runqlat::runqlat(arguments, &*open()?, &cancel, out)
        }
        Command::Biolat(arguments) => {
            let cancel = interrupt::cancel_on_signals()?;
            biolat::biolat(arguments, &*open()?, &cancel, out)
        }
        Command::Flame(arguments) => {
            let cancel = interrupt::cancel_on_signals()?;
            flame::flame(arguments, &*open()?, terminal, &cancel, out)
        }
    }
}

/// The source of a command, and whether this process measures, so that there is nothing before it began.
fn open_and_say_whether_local(config: &Config) -> Result<(Box<dyn Source>, bool), CommandError> {
    let is_local = Cell::new(false);
    let source = open_source(config, |config| {
        is_local.set(true);
        host::local_source(config)
    })?;
    Ok((source, is_local.get()))
}

/// The running daemon where one answers, and otherwise what `local` makes.
///
/// A daemon that is not ready yet does answer. A daemon on another host is never replaced by this one.
///
/// # Errors
///
/// [`CommandError::NoSource`] with both reasons, [`CommandError::NoRemoteDaemon`], and with `--local`
/// the error of `local` alone.
pub fn open_source(
    config: &Config,
    local: impl FnOnce(&Config) -> Result<Box<dyn Source>, SourceError>,
) -> Result<Box<dyn Source>, CommandError> {
    if config.local {
        return Ok(local(config)?);
    }
    let daemon = HttpSource::new(&config.server);
    let Err(error @ SourceError::Unreachable { .. }) = daemon.snapshot() else {
        tracing::debug!(address = %config.server, "asking the daemon");
        return Ok(Box::new(daemon));
    };
    let address = config.server.clone();
    let reason = error
        .source()
        .map_or_else(|| error.to_string(), error_chain);
    if !is_this_host(&address) {
        return Err(CommandError::NoRemoteDaemon {
            address,
            daemon: reason,
        });
    }
    tracing::debug!(%address, %reason, "no daemon answers, measuring in this process");
    local(config).map_err(|error| CommandError::NoSource {
        address,
        daemon: reason,
        local: error_chain(&error),
    })
}

/// The snapshot of a daemon on this host, if one runs: for commands that can do without.
fn daemon_snapshot(config: &Config) -> Option<std::sync::Arc<crate::snapshot::Snapshot>> {
    if config.local || !is_this_host(&config.server) {
        return None;
    }
    HttpSource::new(&config.server).snapshot().ok()
}

fn is_this_host(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Sets up logging to standard error. The live table has the terminal to itself and logs only where
/// standard error goes elsewhere.
pub fn init_logging(cli: &Cli, config: &Config) {
    let terminal = Terminal::detect();
    let owns_terminal = matches!(&cli.command, Command::Top(top) if !top.json)
        && terminal.stdout
        && terminal.stderr;
    let level = match (&cli.command, config.log_level) {
        _ if owns_terminal => LevelFilter::OFF,
        (_, Some(level)) => level,
        (Command::Run(_), None) => LevelFilter::INFO,
        (_, None) => LevelFilter::WARN,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        // It would tell of a line that cannot be written where that cannot be written either, and panic.
        .log_internal_errors(false)
        .with_writer(stderr);
    // A subscriber that is set already, which only a test can have done, stays.
    let _ = match config.log_format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder
            .with_ansi(terminal.stderr && terminal.color)
            .try_init(),
    };
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, sync::Arc};

    use super::*;
    use crate::{
        snapshot::Snapshot,
        source::{Cancel, ProfileRequest, RenderedProfile},
    };

    struct Empty;

    impl Source for Empty {
        fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
            Ok(Arc::default())
        }

        fn profile(&self, _: &ProfileRequest, _: &Cancel) -> Result<RenderedProfile, SourceError> {
            Err(SourceError::Cancelled)
        }
    }

    fn nobody_at() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound").to_string()
    }

    fn config(server: String) -> Config {
        Config {
            server,
            ..Config::default()
        }
    }

    #[test]
    fn without_a_daemon_the_local_source_is_used() {
        let config = config(nobody_at());
        let source = open_source(&config, |_| Ok(Box::new(Empty))).expect("local");
        assert!(source.snapshot().is_ok());
    }

    #[test]
    fn without_either_the_error_says_both_reasons() {
        let config = config(nobody_at());
        let local = |_: &Config| Err(SourceError::Unsupported("run it with sudo".to_owned()));
        let error = open_source(&config, local)
            .err()
            .expect("neither")
            .to_string();
        let start = format!("no daemon answers at {} (", config.server);
        assert!(error.starts_with(&start), "{error}");
        assert!(error.contains("refused"), "{error}");
        assert!(
            error.ends_with("cannot measure by itself: run it with sudo"),
            "{error}"
        );
    }

    #[test]
    fn a_daemon_elsewhere_is_not_replaced_by_this_host() {
        let config = config("ctrscope.invalid:9464".to_owned());
        let error = open_source(&config, |_| Ok(Box::new(Empty)))
            .err()
            .expect("none");
        assert!(
            matches!(error, CommandError::NoRemoteDaemon { .. }),
            "{error}"
        );
        assert!(is_this_host("[::1]:1") && is_this_host("localhost:1"));
        assert!(is_this_host("127.0.0.2:1") && !is_this_host("10.0.0.1:1"));
    }
}
