//! The agent under test.

mod contained;

pub use self::contained::{CGROUPS_ELSEWHERE, Surroundings};

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    binaries,
    http::{self, Response},
    metrics::Metrics,
    wait_until,
    without::Without,
};

/// From start to ready: loading and verifying the programs, and the first collection.
const READY_PATIENCE: Duration = Duration::from_secs(90);
/// Every request but a profile.
const REQUEST_PATIENCE: Duration = Duration::from_secs(60);
/// From SIGTERM to the end.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// A command line of the agent, for what is not the daemon.
pub struct AgentCommand;

impl AgentCommand {
    /// Runs `ctrscope` with these arguments to its end.
    ///
    /// # Errors
    ///
    /// There is no binary, or it did not end in time.
    pub fn run<S: AsRef<OsStr>>(arguments: &[S], patience: Duration) -> Result<Output> {
        Self::run_without(&Without::new(), arguments, patience)
    }

    /// Runs `ctrscope` to its end on a host that lacks something.
    ///
    /// # Errors
    ///
    /// There is no binary, it cannot be taken away, or it did not end in time.
    pub fn run_without<S: AsRef<OsStr>>(
        without: &Without,
        arguments: &[S],
        patience: Duration,
    ) -> Result<Output> {
        let mut command = Self::command()?;
        without.apply(&mut command);
        let mut child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the agent")?;
        // Its output is read only at the end: no command writes more than a pipe holds.
        let ended = wait_until(patience, "end of the command", || {
            Ok(child.try_wait()?.map(|_| ()))
        });
        if let Err(error) = ended {
            let _ = child.kill();
            let output = child.wait_with_output()?;
            bail!("{error:#}; it said: {}", describe(&output));
        }
        Ok(child.wait_with_output()?)
    }

    /// The binary, to be completed by the caller.
    ///
    /// # Errors
    ///
    /// There is no binary.
    pub fn command() -> Result<Command> {
        Ok(Command::new(binaries::agent()?))
    }
}

/// Sends a signal to a child, which the caller has not waited for.
pub fn signal(child: &Child, signal: i32) {
    // SAFETY: no memory is touched; the child's pid is its own as long as nobody has waited for it.
    unsafe { libc::kill(child.id().cast_signed(), signal) };
}

/// Both outputs as one text.
#[must_use]
pub fn describe(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A running `ctrscope run`. Dropping it ends it, by force if it must be.
pub struct Agent {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Agent {
    /// Starts the daemon on a free port and waits until `/readyz` says yes.
    ///
    /// # Errors
    ///
    /// It ended or was not ready in time; what it logged is part of the error.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_without(&Without::new(), arguments)
    }

    /// Starts the daemon on a host that lacks something, as [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// It cannot be taken away, or as [`start`](Self::start).
    pub fn start_without(without: &Without, arguments: &[&str]) -> Result<Self> {
        Self::spawn(without, "127.0.0.1:0", arguments)
    }

    /// Starts the daemon with another `--listen`, as [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_on(listen: &str) -> Result<Self> {
        Self::spawn(&Without::new(), listen, &[])
    }

    fn spawn(without: &Without, listen: &str, arguments: &[&str]) -> Result<Self> {
        let directory = TempDir::with_prefix("ctrscope-agent-")?;
        let address_file = directory.path().join("address");
        let log = File::create(directory.path().join("log"))?;
        let mut command = AgentCommand::command()?;
        without.apply(&mut command);
        let child = command
            .args(["run", "--listen", listen, "--address-file"])
            .arg(&address_file)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the agent")?;
        Self::waited(child, directory, &address_file)
    }

    fn waited(child: Child, directory: TempDir, address_file: &Path) -> Result<Self> {
        let mut agent = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            directory,
        };
        match agent.wait_ready(address_file) {
            Ok(()) => Ok(agent),
            Err(error) => bail!("{error:#}; it said:\n{}", agent.log()),
        }
    }

    fn wait_ready(&mut self, address_file: &Path) -> Result<()> {
        self.address = wait_until(READY_PATIENCE, "address of the agent", || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended at its start: {status}");
            }
            Ok(fs::read_to_string(address_file)
                .ok()
                .and_then(|text| text.trim().parse().ok()))
        })?;
        wait_until(READY_PATIENCE, "/readyz", || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended at its start: {status}");
            }
            let answer = http::get(self.address, "/readyz", REQUEST_PATIENCE);
            Ok(answer
                .is_ok_and(|answer| answer.status == 200)
                .then_some(()))
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// It cannot be asked.
    pub fn is_alive(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Gets a path.
    ///
    /// # Errors
    ///
    /// No answer.
    pub fn get(&self, path: &str) -> Result<Response> {
        http::get(self.address, path, REQUEST_PATIENCE)
    }

    /// Gets a path that takes a while: a profile.
    ///
    /// # Errors
    ///
    /// No answer within `patience`.
    pub fn get_slow(&self, path: &str, patience: Duration) -> Result<Response> {
        http::get(self.address, path, patience)
    }

    /// `/api/v1/containers`: a snapshot as JSON, taken after this call began. The agent may answer with
    /// one that is 100 ms old (older where a collection takes long), so it is asked until it is newer.
    ///
    /// # Errors
    ///
    /// No answer, another status than 200, or no newer snapshot in time.
    pub fn snapshot_json(&self) -> Result<Value> {
        let called_at = unix_ms();
        wait_until(REQUEST_PATIENCE, "a new snapshot", || {
            let answer = self.get("/api/v1/containers")?;
            if answer.status != 200 {
                bail!("/api/v1/containers: {} {}", answer.status, answer.text());
            }
            let snapshot: Value = serde_json::from_slice(&answer.body)?;
            let taken_at = snapshot["taken_at_unix_ms"].as_u64().unwrap_or(0);
            Ok((u128::from(taken_at) > called_at).then_some(snapshot))
        })
    }

    /// `/metrics`.
    ///
    /// # Errors
    ///
    /// No answer, or another status than 200.
    pub fn metrics(&self) -> Result<Metrics> {
        let answer = self.get("/metrics")?;
        if answer.status != 200 {
            bail!("/metrics: {} {}", answer.status, answer.text());
        }
        Ok(Metrics::parse(&answer.text()))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        self::signal(&self.child, signal);
    }

    /// Ends it by SIGTERM and gives its exit status.
    ///
    /// # Errors
    ///
    /// It did not end in time.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It did not end in time.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        wait_until(END_PATIENCE, "end of the agent", || {
            Ok(self.child.try_wait()?)
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        self.signal(libc::SIGTERM);
        if self.wait().is_err() {
            eprintln!("the agent did not end on SIGTERM; killed");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn unix_ms() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis())
}
