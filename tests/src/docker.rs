//! A Docker Engine of its own, with a containerd of its own: data, state and sockets in a temporary
//! folder, no network.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    cgroup,
    daemon::{Daemon, Folder, PATIENCE},
    engine, wait_until,
};

/// A running Docker Engine; ended on drop, with all of its containers.
pub struct Docker {
    // In the order in which they end.
    engine: Daemon,
    containerd: Daemon,
    folder: Folder,
    parent: String,
}

impl Docker {
    /// Starts an engine and gives it an image that holds the workload program.
    ///
    /// # Errors
    ///
    /// `dockerd` or `docker` is missing, or the engine does not come up.
    pub fn start() -> Result<Self> {
        let folder = Folder::new("ctrscope-docker-", &["data"])?;
        let containerd = start_containerd(&folder)?;
        let parent = cgroup::own_name("ctrscope-docker");
        let engine = start_engine(&folder, &parent)?;
        let docker = Self {
            engine,
            containerd,
            folder,
            parent,
        };
        docker.wait_ready()?;
        let import = engine::import(&docker.folder)?;
        docker.run(&import.each_ref().map(String::as_str))?;
        Ok(docker)
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Starts a container with the workload program and gives its id.
    ///
    /// # Errors
    ///
    /// The engine refuses.
    pub fn start_container(
        &self,
        name: &str,
        options: &[&str],
        workload: &[&str],
    ) -> Result<String> {
        let arguments = engine::run(name, options, workload);
        Ok(self.run(&arguments)?.trim().to_owned())
    }

    /// Runs a command of the client and gives what it printed.
    ///
    /// # Errors
    ///
    /// It fails; with what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.client(arguments)?;
        engine::printed("docker", arguments, &output)
    }

    /// Kills engine and containerd as a crash would, and starts them again; containers go on.
    ///
    /// # Errors
    ///
    /// They do not come up again.
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.engine.crash()?;
        self.containerd.crash()?;
        for left in ["docker.sock", "pid"] {
            let _ = fs::remove_file(self.folder.path().join(left));
        }
        self.containerd = start_containerd(&self.folder)?;
        self.engine = start_engine(&self.folder, &self.parent)?;
        self.wait_ready()
    }

    fn client(&self, arguments: &[&str]) -> Result<Output> {
        Command::new("docker")
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args(arguments)
            .env("DOCKER_CONFIG", self.folder.path().join("config"))
            .stdin(Stdio::null())
            .output()
            .context("cannot run docker")
    }

    fn wait_ready(&self) -> Result<()> {
        wait_until(PATIENCE, "the Docker Engine answers", || {
            Ok(self.client(&["version"])?.status.success().then_some(()))
        })
        .with_context(|| self.folder.log())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Ok(ids) = self.run(&["ps", "--all", "--quiet"]) {
            let mut arguments = vec!["rm", "--force"];
            arguments.extend(ids.split_whitespace());
            if arguments.len() > 2 {
                let _ = self.run(&arguments);
            }
        }
        for hierarchy in cgroup::hierarchies().unwrap_or_default() {
            let _ = cgroup::remove(&hierarchy.mount.join(&self.parent));
        }
    }
}

fn start_containerd(folder: &Folder) -> Result<Daemon> {
    let path = |name: &str| folder.path().join(name);
    let config = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {:?}\n",
        path("containerd-data"),
        path("containerd-state"),
        path("containerd.sock"),
    );
    fs::write(path("containerd.toml"), config)?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(path("containerd.toml"));
    let daemon = folder.spawn(&mut command)?;
    wait_until(PATIENCE, "containerd listens", || {
        Ok(UnixStream::connect(path("containerd.sock"))
            .is_ok()
            .then_some(()))
    })?;
    Ok(daemon)
}

/// `parent` is the cgroup of its containers: another engine has another one, which can be removed.
fn start_engine(folder: &Folder, parent: &str) -> Result<Daemon> {
    let path = |name: &str| folder.path().join(name);
    let mut command = Command::new("dockerd");
    command
        .arg("--data-root")
        .arg(path("data"))
        .arg("--exec-root")
        .arg(path("exec"))
        .arg("--pidfile")
        .arg(path("pid"))
        .arg("--host")
        .arg(format!("unix://{}", path("docker.sock").display()))
        .arg("--containerd")
        .arg(path("containerd.sock"))
        .arg("--cgroup-parent")
        .arg(format!("/{parent}"))
        .args(["--bridge", "none", "--iptables=false", "--ip6tables=false"])
        .args(["--storage-driver", "vfs", "--live-restore"]);
    folder.spawn(&mut command)
}
