//! What a container is to be: what runs in it, and what it may take.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{CONTROL_PATH, DATA_PATH, WORKLOAD_PATH};

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    pub(super) name: String,
    arguments: Vec<String>,
    pod: Option<String>,
    quota: Option<(u64, u64)>,
    shares: Option<u64>,
    cpus: Option<String>,
    memory_bytes: Option<u64>,
    read_bytes_per_second: Option<u64>,
    write_bytes_per_second: Option<u64>,
    network: Option<Network>,
    pub(super) data: Option<PathBuf>,
    pub(super) binary: Option<PathBuf>,
    pub(super) root: Option<PathBuf>,
    pub(super) user: u32,
    gated: bool,
    held: bool,
}

/// Network namespace of a container.
#[derive(Clone, Debug)]
enum Network {
    /// One of its own, with nothing but a loopback that is down.
    Own,
    /// One that is there, by its file.
    At(PathBuf),
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

    /// Its cgroup is below one of that name, as a pod's are, instead of the group's own.
    #[must_use]
    pub fn pod(mut self, pod: &str) -> Self {
        self.pod = Some(pod.to_owned());
        self
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

    /// Memory limit.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory_bytes = Some(bytes);
        self
    }

    /// Limit on what it reads from the disk of [`data`](Self::data), bytes a second.
    #[must_use]
    pub fn read_limit(mut self, bytes_per_second: u64) -> Self {
        self.read_bytes_per_second = Some(bytes_per_second);
        self
    }

    /// Limit on what it writes to the disk of [`data`](Self::data), bytes a second.
    #[must_use]
    pub fn write_limit(mut self, bytes_per_second: u64) -> Self {
        self.write_bytes_per_second = Some(bytes_per_second);
        self
    }

    /// A network namespace of its own instead of the host's.
    #[must_use]
    pub fn own_network(mut self) -> Self {
        self.network = Some(Network::Own);
        self
    }

    /// The network namespace of that file, such as `/run/netns/NAME`.
    #[must_use]
    pub fn network(mut self, namespace: &Path) -> Self {
        self.network = Some(Network::At(namespace.to_owned()));
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

    /// A root file system of its own, for which the arguments are a command, in place of the workload. What a
    /// container mounts is made there if it is missing.
    #[must_use]
    pub fn root(mut self, directory: &Path) -> Self {
        self.root = Some(directory.to_owned());
        self
    }

    /// The user, and group, that it runs as; 0 without this.
    #[must_use]
    pub fn user(mut self, id: u32) -> Self {
        self.user = id;
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

    pub(super) fn config(&self, control: &Path, cgroup: &str) -> Value {
        let mut arguments = Vec::new();
        if self.root.is_none() {
            arguments.push(WORKLOAD_PATH.to_owned());
        }
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
        if self.root.is_some() {
            mounts.push(
                json!({"type": "tmpfs", "source": "tmpfs", "destination": "/dev/shm",
                               "options": ["nosuid", "nodev", "mode=1777", "size=256m"]}),
            );
        }
        let root = self.root.as_deref().unwrap_or(Path::new("rootfs"));
        let path = if self.root.is_some() {
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        } else {
            "PATH=/opt/app"
        };

        let mut namespaces = vec![
            json!({"type": "pid"}),
            json!({"type": "mount"}),
            json!({"type": "ipc"}),
            json!({"type": "uts"}),
        ];
        match &self.network {
            None => {}
            Some(Network::Own) => namespaces.push(json!({"type": "network"})),
            Some(Network::At(path)) => namespaces.push(json!({"type": "network", "path": path})),
        }
        json!({
            "ociVersion": "1.0.2",
            // `__NEW_UTS_LEN`, include/uapi/linux/utsname.h.
            "hostname": self.name.get(..64).unwrap_or(&self.name),
            "root": {"path": root},
            "process": {
                "terminal": false,
                "user": {"uid": self.user, "gid": self.user},
                "cwd": "/",
                "args": arguments,
                "env": [path],
                "noNewPrivileges": true,
            },
            "mounts": mounts,
            "linux": {
                "cgroupsPath": cgroup,
                "resources": self.resources(),
                "namespaces": namespaces,
            },
        })
    }

    fn resources(&self) -> Value {
        let mut cpu = Map::new();
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
        let mut resources = json!({ "cpu": cpu });
        if let Some(bytes) = self.memory_bytes {
            resources["memory"] = json!({ "limit": bytes });
        }
        resources
    }

    /// Path of its cgroup below a parent.
    pub(super) fn cgroup(&self, parent: &str) -> String {
        match &self.pod {
            Some(pod) => format!("{parent}/{pod}/{}", self.name),
            None => format!("{parent}/{}", self.name),
        }
    }

    /// What it may move in each direction: `None` for no limit.
    pub(super) fn io_limits(&self) -> [Option<u64>; 2] {
        [self.read_bytes_per_second, self.write_bytes_per_second]
    }
}
