//! A real container: a runc bundle that holds nothing but the workload.

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
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Group,
    accounts::{BlockAccounts, ThreadAccounts},
    binaries, wait_until,
};

/// The workload inside: a path that no host has.
pub const WORKLOAD_PATH: &str = "/opt/app/workload";
/// Where [`ContainerSpec::data`] is mounted inside.
pub const DATA_PATH: &str = "/data";
/// From runc's return to the start of the workload, in a container that may have little CPU time.
const EXECUTED_PATIENCE: Duration = Duration::from_secs(30);
/// Where the gate is inside.
const CONTROL_PATH: &str = "/control";
/// How long a container may take to end.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    name: String,
    arguments: Vec<String>,
    quota: Option<(u64, u64)>,
    shares: Option<u64>,
    cpus: Option<String>,
    data: Option<PathBuf>,
    binary: Option<PathBuf>,
    gated: bool,
    held: bool,
}

impl ContainerSpec {
    /// A container of that name (also its id in runc and the last part of its cgroup path) that runs
    /// the workload with these arguments.
    #[must_use]
    pub fn new(name: &str, arguments: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            ..Self::default()
        }
    }

    /// CPU bandwidth: `quota_usec` in each `period_usec`.
    #[must_use]
    pub fn quota(mut self, quota_usec: u64, period_usec: u64) -> Self {
        self.quota = Some((quota_usec, period_usec));
        self
    }

    /// CPU shares on the v1 scale (1024 is the default).
    #[must_use]
    pub fn shares(mut self, shares: u64) -> Self {
        self.shares = Some(shares);
        self
    }

    /// cpuset, as in `0-1`.
    #[must_use]
    pub fn cpus(mut self, cpus: &str) -> Self {
        self.cpus = Some(cpus.to_owned());
        self
    }

    /// A directory of the host to mount at [`DATA_PATH`].
    #[must_use]
    pub fn data(mut self, directory: &Path) -> Self {
        self.data = Some(directory.to_owned());
        self
    }

    /// A file of the host to run in place of the workload, such as a stripped copy of it.
    #[must_use]
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = Some(path.to_owned());
        self
    }

    /// The work begins only with [`Container::open_gate`].
    #[must_use]
    pub fn gated(mut self) -> Self {
        self.gated = true;
        self
    }

    /// After the work all threads stay, idle, until the container is stopped, so that their accounts
    /// can be read.
    #[must_use]
    pub fn held(mut self) -> Self {
        self.held = true;
        self
    }

    fn config(&self, control: &Path, cgroup: &str) -> Value {
        let mut arguments = vec![WORKLOAD_PATH.to_owned()];
        if self.gated {
            arguments.extend(["--gate".to_owned(), format!("{CONTROL_PATH}/gate")]);
        }
        if self.held {
            arguments.push("--hold".to_owned());
        }
        arguments.extend(self.arguments.iter().cloned());

        let bind = |source: &Path, destination: &str| {
            json!({"type": "bind", "source": source, "destination": destination,
                   "options": ["bind", "rw"]})
        };
        let mut mounts = vec![
            json!({"type": "proc", "source": "proc", "destination": "/proc"}),
            json!({"type": "tmpfs", "source": "tmpfs", "destination": "/dev",
                   "options": ["nosuid", "mode=755", "size=64k"]}),
            bind(control, CONTROL_PATH),
        ];
        if let Some(data) = &self.data {
            mounts.push(bind(data, DATA_PATH));
        }

        let mut cpu = serde_json::Map::new();
        if let Some((quota, period)) = self.quota {
            cpu.insert("quota".into(), quota.into());
            cpu.insert("period".into(), period.into());
        }
        if let Some(shares) = self.shares {
            cpu.insert("shares".into(), shares.into());
        }
        if let Some(cpus) = &self.cpus {
            cpu.insert("cpus".into(), cpus.as_str().into());
        }
        json!({
            "ociVersion": "1.0.2",
            "hostname": self.name,
            "root": {"path": "rootfs"},
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "cwd": "/",
                "args": arguments,
                "env": ["PATH=/opt/app"],
                "noNewPrivileges": true,
            },
            "mounts": mounts,
            "linux": {
                "cgroupsPath": cgroup,
                "resources": {"cpu": cpu},
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"},
                               {"type": "uts"}],
            },
        })
    }
}

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
        let cgroup = format!("{}/{}", group.path(), spec.name);
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
            container.switch_on_block_accounts(data)?;
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

    /// On v1 nothing is counted before some cgroup has a limit on the device since Linux 6.10
    /// (`blk_throtl_activated`, block/blk-throttle.h), and on 6.1 no direction without a limit of its
    /// own: give this one limits that no device reaches.
    fn switch_on_block_accounts(&self, data: &Path) -> Result<()> {
        const BYTES_PER_SECOND: u64 = 1 << 40;
        let (Ok(directory), Some(device)) = (self.cgroup_path("blkio"), disk_of(data)) else {
            return Ok(());
        };
        for direction in ["read", "write"] {
            let file = directory.join(format!("blkio.throttle.{direction}_bps_device"));
            fs::write(&file, format!("{device} {BYTES_PER_SECOND}"))
                .with_context(|| format!("cannot write {}", file.display()))?;
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
        if let Ok(directory) = self.cgroup_path("cpuacct") {
            let text = read(&directory.join("cpuacct.usage"))?;
            return text.trim().parse().context("strange cpuacct.usage");
        }
        let text = read(&self.cgroup_path("cpu")?.join("cpu.stat"))?;
        let usec = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
            .context("cpu.stat without usage_usec")?;
        Ok(usec.parse::<u64>().context("strange usage_usec")? * 1_000)
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
        for directory in self.group.directories() {
            let directory = directory.join(&self.name);
            if let Err(error) = crate::cgroup::remove(&directory) {
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
    let root = bundle.join("rootfs");
    for directory in ["opt/app", "proc", "dev", "data", "control", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let control = bundle.join("control");
    fs::create_dir(&control)?;
    let workload = root.join(WORKLOAD_PATH.trim_start_matches('/'));
    let binary = match &spec.binary {
        Some(path) => path.clone(),
        None => binaries::workload()?,
    };
    fs::copy(binary, &workload)?;
    fs::set_permissions(&workload, fs::Permissions::from_mode(0o755))?;
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
