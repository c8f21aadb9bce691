//! A podman of its own behind its API: images, containers, state and socket in a temporary folder, no network.
//!
//! Containers are no children of the service: each is held by a `conmon`, which calls podman when it ends.
//! So the folder's configuration goes by the environment, which `conmon` hands on.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    cgroup,
    daemon::{Daemon, Folder, PATIENCE},
    engine, wait_until,
};

/// A podman whose service runs; ended on drop, with all of its containers.
pub struct Podman {
    // In the order in which they end.
    service: Daemon,
    folder: Folder,
    parent: String,
}

impl Podman {
    /// Starts the service of the API and gives it an image that holds the workload program.
    ///
    /// # Errors
    ///
    /// `podman` is missing, or its service does not come up.
    pub fn start() -> Result<Self> {
        let folder = Folder::new("ctrscope-podman-", &["root"])?;
        configure(folder.path())?;
        let service = start_service(&folder)?;
        let podman = Self {
            service,
            folder,
            parent: cgroup::own_name("ctrscope-podman"),
        };
        podman.wait_ready()?;
        let import = engine::import(&podman.folder)?;
        podman.run(&import.each_ref().map(String::as_str))?;
        Ok(podman)
    }

    /// The socket of its API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("podman.sock")
    }

    /// Starts a container with the workload program and gives its id.
    ///
    /// # Errors
    ///
    /// podman refuses.
    pub fn start_container(
        &self,
        name: &str,
        options: &[&str],
        workload: &[&str],
    ) -> Result<String> {
        let parent = format!("/{}", self.parent);
        let mut all = vec!["--cgroup-parent", parent.as_str()];
        all.extend(options);
        let arguments = engine::run(name, &all, workload);
        Ok(self.run(&arguments)?.trim().to_owned())
    }

    /// Runs podman with these arguments, not by its service, and gives what it printed.
    ///
    /// # Errors
    ///
    /// It fails; with what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        engine::printed("podman", arguments, &output)
    }

    /// Kills the service as a crash would; containers go on.
    ///
    /// # Errors
    ///
    /// It cannot be killed.
    pub fn crash(&mut self) -> Result<()> {
        self.service.crash()?;
        fs::remove_file(self.socket()).context("cannot remove the socket of the service")
    }

    /// Starts the service again.
    ///
    /// # Errors
    ///
    /// It does not come up again.
    pub fn restart(&mut self) -> Result<()> {
        self.service = start_service(&self.folder)?;
        self.wait_ready()
    }

    fn output(&self, arguments: &[&str]) -> Result<Output> {
        command(self.folder.path())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("cannot run podman: `cargo xtask setup --test` installs it")
    }

    fn wait_ready(&self) -> Result<()> {
        wait_until(PATIENCE, "podman's service listens", || {
            Ok(UnixStream::connect(self.socket()).is_ok().then_some(()))
        })
        .with_context(|| self.folder.log())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.output(&["rm", "--all", "--force", "--time", "0"]);
        for hierarchy in cgroup::hierarchies().unwrap_or_default() {
            let _ = cgroup::remove(&hierarchy.mount.join(&self.parent));
        }
    }
}

/// What a podman of the host has elsewhere is here in the folder. Its locks are in shared memory by one name
/// for all, and a container may open more files than a test's host may allow.
fn configure(folder: &Path) -> Result<()> {
    let path = |name: &str| folder.join(name);
    let containers = format!(
        "[containers]\n\
         default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
         [engine]\n\
         cgroup_manager = \"cgroupfs\"\n\
         events_logger = \"file\"\n\
         lock_type = \"file\"\n\
         runtime = \"runc\"\n\
         static_dir = {:?}\n\
         tmp_dir = {:?}\n\
         volume_path = {:?}\n",
        path("static"),
        path("tmp"),
        path("volumes"),
    );
    fs::write(path("containers.conf"), containers)?;
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
        path("root"),
        path("run"),
    );
    fs::write(path("storage.conf"), storage)?;
    Ok(())
}

fn command(folder: &Path) -> Command {
    let path = |name: &str| folder.join(name);
    let mut command = Command::new("podman");
    command
        .env("CONTAINERS_CONF", path("containers.conf"))
        .env("CONTAINERS_STORAGE_CONF", path("storage.conf"))
        .arg("--root")
        .arg(path("root"))
        .arg("--runroot")
        .arg(path("run"))
        .arg("--tmpdir")
        .arg(path("tmp"))
        .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
        .args(["--runtime", "runc"]);
    command
}

fn start_service(folder: &Folder) -> Result<Daemon> {
    let socket = format!("unix://{}", folder.path().join("podman.sock").display());
    folder.spawn(command(folder.path()).args(["system", "service", "--time", "0", &socket]))
}
