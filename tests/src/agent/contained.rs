//! The agent in a container of its own, as a `DaemonSet` or an engine starts it.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Agent;
use crate::{Capability, Group, binaries};

/// Where the host's cgroups are for an agent that sees them elsewhere.
pub const CGROUPS_ELSEWHERE: &str = "/host/cgroups";
/// Where its own files are, inside as outside.
const BINARY: &str = "/ctrscope";
/// Its bit in `include/uapi/linux/capability.h`.
const SYS_ADMIN: u32 = 21;

/// What the agent's container shares with the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surroundings {
    /// The host's PID namespace, and the host's cgroups at [`CGROUPS_ELSEWHERE`]; a cgroup namespace of its own, as
    /// engines give to all.
    HostPid,
    /// Nothing: it is the first process of a node inside of a container (kind, docker in docker), whose cgroups are
    /// all that it sees of any.
    Node,
}

impl Agent {
    /// Starts the daemon in a container by `runc`, in the cgroup `path` below the group's, and waits as
    /// [`start`](Self::start) does. The network is the host's.
    ///
    /// # Errors
    ///
    /// There is no `runc`, it refuses, or as [`start`](Self::start).
    pub fn start_in_container(
        group: &Arc<Group>,
        path: &str,
        surroundings: Surroundings,
        arguments: &[&str],
    ) -> Result<Self> {
        let directory = TempDir::with_prefix("ctrscope-agent-")?;
        let address_file = directory.path().join("address");
        let mut command = vec![
            BINARY.to_owned(),
            "run".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            format!("--address-file={}", address_file.display()),
        ];
        command.extend(arguments.iter().map(|&one| one.to_owned()));
        let cgroup = format!("{}/{path}", group.path());
        write_bundle(
            directory.path(),
            &config(directory.path(), &cgroup, surroundings, &command),
        )?;
        let log = File::create(directory.path().join("log"))?;
        let name = path.replace('/', "-");
        let child = Command::new("runc")
            .arg("--root")
            .arg(group.state_directory())
            .args(["run", "--bundle"])
            .arg(directory.path())
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run runc")?;
        // runc passes signals on, and ends as what it started does.
        Self::waited(child, directory, &address_file)
    }
}

/// The capabilities of this process, a bit each.
fn own_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0)
}

fn write_bundle(bundle: &Path, config: &Value) -> Result<()> {
    let root = bundle.join("rootfs");
    for directory in ["proc", "sys", "tmp", "dev", "host/cgroups"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::create_dir_all(root.join(bundle.strip_prefix("/")?))?;
    let binary = root.join(BINARY.trim_start_matches('/'));
    fs::copy(binaries::agent()?, &binary)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    let path = bundle.join("config.json");
    fs::write(&path, serde_json::to_vec_pretty(config)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn config(bundle: &Path, cgroup: &str, surroundings: Surroundings, arguments: &[String]) -> Value {
    let mut mounts = vec![
        json!({"type": "proc", "source": "proc", "destination": "/proc"}),
        json!({"type": "tmpfs", "source": "tmpfs", "destination": "/dev", "options": ["mode=755"]}),
        json!({"type": "sysfs", "source": "sysfs", "destination": "/sys"}),
        json!({"type": "bind", "source": bundle, "destination": bundle,
               "options": ["bind", "rw"]}),
    ];
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    match surroundings {
        Surroundings::HostPid => mounts.push(json!({
            "type": "bind", "source": "/sys/fs/cgroup", "destination": CGROUPS_ELSEWHERE,
            "options": ["rbind", "ro"],
        })),
        Surroundings::Node => {
            namespaces.push(json!({"type": "pid"}));
            mounts.push(json!({
                "type": "cgroup", "source": "cgroup", "destination": "/sys/fs/cgroup",
                "options": ["ro"],
            }));
        }
    }
    // What this process lacks it cannot give away.
    let own = own_capabilities();
    let least = Capability::LEAST.map(|one| (one as u32, one.name()));
    let capabilities: Vec<&str> = least
        .into_iter()
        .chain([(SYS_ADMIN, "CAP_SYS_ADMIN")])
        .filter(|(bit, _)| own & (1 << bit) != 0)
        .map(|(_, name)| name)
        .collect();
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": arguments,
            "env": ["PATH=/"],
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
        },
        "mounts": mounts,
        "linux": {"cgroupsPath": cgroup, "namespaces": namespaces},
    })
}
