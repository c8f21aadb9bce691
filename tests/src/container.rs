//! A real container: a runc bundle that holds nothing but the workload, or a command on a root file system of
//! its own.

mod spec;

use std::{
    ffi::CString,
    fs::{self, File},
    io::Write as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Group,
    accounts::{BlockAccounts, ThreadAccounts},
    binaries, cgroup, wait_until,
};

pub use spec::ContainerSpec;

/// The workload inside: a path that no host has.
pub const WORKLOAD_PATH: &str = "/opt/app/workload";
/// Where [`ContainerSpec::data`] is mounted inside.
pub const DATA_PATH: &str = "/data";
/// From runc's return to the start of the workload, in a container that may have little CPU time.
const EXECUTED_PATIENCE: Duration = Duration::from_secs(60);
/// Where the gate is inside.
const CONTROL_PATH: &str = "/control";
/// How long a container may take to end.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// A container that runs. Dropping it kills it, deletes it and removes its cgroups.
pub struct Container {
    group: Arc<Group>,
    name: String,
    cgroup: String,
    bundle: TempDir,
    /// The FIFO, held open so that what is written stays until it is read.
    gate: File,
    pid: u32,
}

impl Container {
    /// Starts a container and returns when its process runs the workload.
    ///
    /// # Errors
    ///
    /// runc is missing or refuses; its message is part of the error.
    pub fn start(group: &Arc<Group>, spec: &ContainerSpec) -> Result<Self> {
        let bundle = TempDir::with_prefix("ctrscope-bundle-").context("cannot make a bundle")?;
        let cgroup = spec.cgroup(&group.path());
        let gate = write_bundle(bundle.path(), spec, &cgroup)
            .with_context(|| format!("cannot write the bundle of {}", spec.name))?;
        // From here on a failure deletes what runc may have made.
        let mut container = Self {
            group: Arc::clone(group),
            name: spec.name.clone(),
            cgroup,
            bundle,
            gate,
            pid: 0,
        };
        container.run()?;
        if let Some(data) = &spec.data {
            container.limit_io(data, spec.io_limits())?;
        }
        Ok(container)
    }

    fn run(&mut self) -> Result<()> {
        let log = self.bundle.path().join("runc.log");
        let pid_file = self.bundle.path().join("pid");
        let status = runc(&self.group)
            .arg("--log")
            .arg(&log)
            .args(["run", "--detach", "--pid-file"])
            .arg(&pid_file)
            .arg("--bundle")
            .arg(self.bundle.path())
            .arg(&self.name)
            .stdin(Stdio::null())
            .stdout(File::create(self.bundle.path().join("stdout"))?)
            .stderr(File::create(self.bundle.path().join("stderr"))?)
            .status()
            .context("cannot run runc")?;
        if !status.success() {
            bail!(
                "runc did not start {}: {}{}",
                self.name,
                fs::read_to_string(&log).unwrap_or_default(),
                self.stderr()
            );
        }
        let pid = fs::read_to_string(&pid_file).context("runc wrote no pid")?;
        self.pid = pid.trim().parse().context("runc wrote a strange pid")?;
        self.wait_executed()
    }

    /// runc returns while its process in the container has still to execute the workload, which ends
    /// that process' other threads: with them go their accounts.
    fn wait_executed(&self) -> Result<()> {
        let name = format!("/proc/{}/comm", self.pid);
        wait_until(EXECUTED_PATIENCE, "the workload's start", || {
            // A short workload may have ended.
            let name = fs::read_to_string(&name).unwrap_or_default();
            Ok((!name.starts_with("runc:")).then_some(()))
        })
    }

    /// Limits what it reads and writes. On v1 nothing is counted before some cgroup has a limit on the
    /// device since Linux 6.10 (`blk_throtl_activated`, block/blk-throttle.h), and on 6.1 no direction
    /// without a limit of its own: there a direction without one gets one that no device reaches.
    fn limit_io(&self, data: &Path, [read, write]: [Option<u64>; 2]) -> Result<()> {
        const UNREACHED: u64 = 1 << 40;
        let Some(device) = disk_of(data) else {
            return Ok(());
        };
        let put = |file: PathBuf, text: String| {
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        if let Ok(directory) = self.cgroup_path("blkio") {
            for (direction, limit) in [("read", read), ("write", write)] {
                let file = directory.join(format!("blkio.throttle.{direction}_bps_device"));
                put(file, format!("{device} {}", limit.unwrap_or(UNREACHED)))?;
            }
        } else if read.is_some() || write.is_some() {
            let value = |limit: Option<u64>| limit.map_or("max".to_owned(), |n| n.to_string());
            let line = format!("{device} rbps={} wbps={}", value(read), value(write));
            put(self.cgroup_path("io")?.join("io.max"), line)?;
        }
        Ok(())
    }

    /// Its name; also its id in runc.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cgroup path from the root of every hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Host pid of the workload.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Host tids of the workload's threads.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn tids(&self) -> Result<Vec<u32>> {
        let tasks = format!("/proc/{}/task", self.pid);
        Ok(fs::read_dir(&tasks)
            .with_context(|| format!("cannot list {tasks}"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect())
    }

    /// Its directory in the hierarchy of a controller.
    ///
    /// # Errors
    ///
    /// No hierarchy has that controller.
    pub fn cgroup_path(&self, controller: &str) -> Result<PathBuf> {
        self.group
            .directory(controller, &self.cgroup)
            .with_context(|| format!("no cgroup hierarchy has the {controller} controller"))
    }

    /// Lets a gated workload begin.
    ///
    /// # Errors
    ///
    /// The file could not be written.
    pub fn open_gate(&self) -> Result<()> {
        (&self.gate).write_all(&[0]).context("cannot open the gate")
    }

    /// What the workload has written to its standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.bundle.path().join("stderr")).unwrap_or_default()
    }

    /// What the workload has written to its standard output.
    #[must_use]
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.bundle.path().join("stdout")).unwrap_or_default()
    }

    /// Puts a process into its cgroups, and into nothing else of it.
    ///
    /// # Errors
    ///
    /// The process or the container is gone.
    pub fn enter(&self, pid: u32) -> Result<()> {
        for hierarchy in cgroup::hierarchies()? {
            let directory = hierarchy.mount.join(self.cgroup.trim_start_matches('/'));
            let file = directory.join("cgroup.procs");
            if file.exists() {
                fs::write(&file, pid.to_string())
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
        Ok(())
    }

    /// Runs another command in it, to its end; gives what that wrote to its standard output.
    ///
    /// # Errors
    ///
    /// The container is gone, or the command failed; what it said is part of the error.
    pub fn execute(&self, command: &[&str]) -> Result<String> {
        let output = runc(&self.group)
            .args(["exec", &self.name])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .context("cannot run runc")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("{} in {}: {said}{errors}", command.join(" "), self.name);
        }
        Ok(said)
    }

    /// Waits for the line that the workload prints when its work is done.
    ///
    /// # Errors
    ///
    /// It did not come in time, or the workload failed.
    pub fn wait_report(&self, deadline: Duration) -> Result<Value> {
        let path = self.bundle.path().join("stdout");
        wait_until(deadline, &format!("report of {}", self.name), || {
            let text = fs::read_to_string(&path).context("cannot read its output")?;
            if let Some(line) = text.split_inclusive('\n').next()
                && line.ends_with('\n')
            {
                return Ok(Some(
                    serde_json::from_str(line).context("its report is no JSON")?,
                ));
            }
            if !self.is_alive() {
                bail!("{} ended without a report: {}", self.name, self.stderr());
            }
            Ok(None)
        })
    }

    /// Whether its process runs (a zombie does not).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid)).is_ok_and(|stat| {
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
        })
    }

    /// Sums over its threads.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn thread_accounts(&self) -> Result<ThreadAccounts> {
        ThreadAccounts::read(self.pid)
    }

    /// CPU time of its cgroup: `cpuacct.usage`, or `usage_usec` of `cpu.stat`, nanoseconds.
    ///
    /// # Errors
    ///
    /// The cgroup is gone or has neither.
    pub fn cpu_usage_ns(&self) -> Result<u64> {
        let directory = |controller| self.group.directory(controller, &self.cgroup);
        cgroup::usage_ns(directory("cpuacct"), directory("cpu"))
    }

    /// Periods throttled, from `cpu.stat`.
    ///
    /// # Errors
    ///
    /// The cgroup is gone.
    pub fn throttled_periods(&self) -> Result<u64> {
        let text = read(&self.cgroup_path("cpu")?.join("cpu.stat"))?;
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("nr_throttled "))
            .context("cpu.stat without nr_throttled")?;
        count.parse().context("strange nr_throttled")
    }

    /// Block I/O of its cgroup.
    ///
    /// # Errors
    ///
    /// The cgroup is gone or has no such account.
    pub fn block_accounts(&self) -> Result<BlockAccounts> {
        if let Ok(directory) = self.cgroup_path("blkio") {
            let bytes = read(&directory.join("blkio.throttle.io_service_bytes"))?;
            let operations = read(&directory.join("blkio.throttle.io_serviced"))?;
            return Ok(BlockAccounts::parse_v1(&bytes, &operations));
        }
        let text = read(&self.cgroup_path("io")?.join("io.stat"))?;
        Ok(BlockAccounts::parse_v2(&text))
    }

    /// Asks the workload to end and waits until it has.
    ///
    /// # Errors
    ///
    /// It did not end in time.
    pub fn stop(&self) -> Result<()> {
        // SAFETY: a signal to the process that we started; it is alive or a zombie of that pid.
        unsafe { libc::kill(self.pid.cast_signed(), libc::SIGTERM) };
        self.wait_end()
    }

    /// Waits until the workload has ended by itself.
    ///
    /// # Errors
    ///
    /// It did not end in time.
    pub fn wait_end(&self) -> Result<()> {
        wait_until(END_PATIENCE, &format!("end of {}", self.name), || {
            Ok((!self.is_alive()).then_some(()))
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let deleted = runc(&self.group)
            .args(["delete", "--force", &self.name])
            .stdin(Stdio::null())
            .output();
        if let Ok(output) = &deleted
            && !output.status.success()
            && self.pid != 0
        {
            eprintln!(
                "runc delete {}: {}",
                self.name,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        if self.is_alive() && self.pid != 0 {
            // SAFETY: as in `stop`.
            unsafe { libc::kill(self.pid.cast_signed(), libc::SIGKILL) };
        }
        let below = self.cgroup.strip_prefix(&self.group.path());
        let below = below.unwrap_or_default().trim_start_matches('/');
        for directory in self.group.directories() {
            let directory = directory.join(below);
            if let Err(error) = cgroup::remove(&directory) {
                eprintln!("cgroup left behind: {error:#}");
            }
        }
    }
}

fn runc(group: &Group) -> Command {
    let mut command = Command::new("runc");
    command.arg("--root").arg(group.state_directory());
    command
}

/// `major:minor` of the whole disk that a directory is on; `None` where it is on no block device.
fn disk_of(directory: &Path) -> Option<String> {
    let device = fs::metadata(directory).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let entry = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let disk = if entry.join("partition").exists() {
        entry.parent()?.to_owned()
    } else {
        entry
    };
    Some(fs::read_to_string(disk.join("dev")).ok()?.trim().to_owned())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes the bundle; gives its gate, open.
fn write_bundle(bundle: &Path, spec: &ContainerSpec, cgroup: &str) -> Result<File> {
    let own = bundle.join("rootfs");
    let root = spec.root.as_deref().unwrap_or(&own);
    for directory in ["opt/app", "proc", "dev", "data", "control", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    let control = bundle.join("control");
    fs::create_dir(&control)?;
    if spec.root.is_none() {
        let workload = root.join(WORKLOAD_PATH.trim_start_matches('/'));
        let binary = match &spec.binary {
            Some(path) => path.clone(),
            None => binaries::workload()?,
        };
        fs::copy(binary, &workload)?;
        fs::set_permissions(&workload, fs::Permissions::from_mode(0o755))?;
    }
    let config = spec.config(&control, cgroup);
    fs::write(
        bundle.join("config.json"),
        serde_json::to_vec_pretty(&config)?,
    )?;
    let gate = control.join("gate");
    let path = CString::new(gate.as_os_str().as_bytes())?;
    // SAFETY: a valid path.
    if unsafe { libc::mkfifo(path.as_ptr(), 0o600) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot make the gate");
    }
    // Read and write: neither waits for the other end (fifo(7)).
    Ok(File::options().read(true).write(true).open(&gate)?)
}
