//! Where a setting is made: the field of the orchestrator, the option of the runtime, and the file that
//! they write.

use super::{
    facts::{ControllerMount, ControllerMounts},
    view::View,
};

/// Something that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// CPU bandwidth.
    CpuQuota,
    /// CPU weight.
    CpuWeight,
    /// The CPUs that it may use.
    Cpuset,
    /// The memory limit.
    MemoryLimit,
    /// Where reclaim begins to slow it down.
    MemoryHigh,
    /// Block I/O limits.
    IoLimit,
    /// Block I/O weight.
    IoWeight,
}

/// How it is called where.
struct Names {
    /// Field of a container in a pod's spec; empty where there is none.
    kubernetes: &'static str,
    /// Option of `docker update` and `podman update`.
    option: &'static str,
    /// Property of a systemd unit.
    systemd: &'static str,
    v1: &'static str,
    v2: &'static str,
    mount: fn(&ControllerMounts) -> Option<&ControllerMount>,
}

impl Setting {
    fn names(self) -> Names {
        match self {
            Self::CpuQuota => Names {
                kubernetes: "resources.limits.cpu",
                option: "--cpus",
                systemd: "CPUQuota=",
                v1: "cpu.cfs_quota_us",
                v2: "cpu.max",
                mount: |mounts| mounts.cpu.as_ref(),
            },
            Self::CpuWeight => Names {
                kubernetes: "resources.requests.cpu",
                option: "--cpu-shares",
                systemd: "CPUWeight=",
                v1: "cpu.shares",
                v2: "cpu.weight",
                mount: |mounts| mounts.cpu.as_ref(),
            },
            Self::Cpuset => Names {
                kubernetes: "",
                option: "--cpuset-cpus",
                systemd: "AllowedCPUs=",
                v1: "cpuset.cpus",
                v2: "cpuset.cpus",
                mount: |mounts| mounts.cpuset.as_ref(),
            },
            Self::MemoryLimit => Names {
                kubernetes: "resources.limits.memory",
                option: "--memory",
                systemd: "MemoryMax=",
                v1: "memory.limit_in_bytes",
                v2: "memory.max",
                mount: |mounts| mounts.memory.as_ref(),
            },
            Self::MemoryHigh => Names {
                kubernetes: "",
                option: "",
                systemd: "MemoryHigh=",
                v1: "memory.high",
                v2: "memory.high",
                mount: |mounts| mounts.memory.as_ref(),
            },
            Self::IoLimit => Names {
                kubernetes: "",
                option: "",
                systemd: "IOReadBandwidthMax=, IOWriteBandwidthMax=",
                v1: "blkio.throttle.*",
                v2: "io.max",
                mount: |mounts| mounts.io.as_ref(),
            },
            Self::IoWeight => Names {
                kubernetes: "",
                option: "--blkio-weight",
                systemd: "IOWeight=",
                v1: "blkio.bfq.weight",
                v2: "io.weight",
                mount: |mounts| mounts.io.as_ref(),
            },
        }
    }
}

/// Where a setting of the container's own cgroup is made.
pub(super) fn own(view: &View<'_>, setting: Setting) -> String {
    let identity = &view.container.identity;
    let names = setting.names();
    let file = file(view, setting, &identity.cgroup);
    let runtime = identity.runtime.as_str();
    if !identity.pod.is_empty() && !names.kubernetes.is_empty() {
        let pod = if identity.namespace.is_empty() {
            identity.pod.clone()
        } else {
            format!("{}/{}", identity.namespace, identity.pod)
        };
        return format!(
            "{} of container {} in pod {pod} ({file})",
            names.kubernetes, identity.container
        );
    }
    if matches!(runtime, "docker" | "podman") && !names.option.is_empty() {
        return format!(
            "`{runtime} update {}` of {} ({file})",
            names.option,
            identity.label()
        );
    }
    if runtime == "systemd" {
        return format!("{} of {} ({file})", names.systemd, identity.container);
    }
    file
}

/// Where a setting of a cgroup is made, which is the container's own or an ancestor.
pub(super) fn of_cgroup(view: &View<'_>, setting: Setting, cgroup: &str, is_own: bool) -> String {
    if is_own {
        return own(view, setting);
    }
    let identity = &view.container.identity;
    let names = setting.names();
    let file = file(view, setting, cgroup);
    let last = cgroup.rsplit('/').next().unwrap_or_default();
    if !identity.pod_uid.is_empty() && is_of_pod(last, &identity.pod_uid) {
        let field = names.kubernetes;
        if !field.is_empty() {
            return format!(
                "{field} of the containers of pod {}, of which the pod's is the sum ({file})",
                identity.pod
            );
        }
    }
    if [".slice", ".scope", ".service"]
        .iter()
        .any(|suffix| last.ends_with(suffix))
    {
        return format!("{} of {last} ({file})", names.systemd);
    }
    file
}

/// Whether a cgroup's name is that of a pod: its uid, which the systemd driver writes with underscores.
fn is_of_pod(last: &str, pod_uid: &str) -> bool {
    last.contains(pod_uid) || last.contains(&pod_uid.replace('-', "_"))
}

/// The file, with its whole path where the mount is known.
fn file(view: &View<'_>, setting: Setting, cgroup: &str) -> String {
    let names = setting.names();
    match (names.mount)(&view.window.host.controllers) {
        Some(mount) => {
            let file = if mount.is_v2 { names.v2 } else { names.v1 };
            let root = mount.path.trim_end_matches('/');
            let cgroup = cgroup.trim_matches('/');
            if cgroup.is_empty() {
                format!("{root}/{file}")
            } else {
                format!("{root}/{cgroup}/{file}")
            }
        }
        None if names.v1 == names.v2 => format!("{} of {cgroup}", names.v2),
        None => format!("{} of {cgroup}, on v1 {}", names.v2, names.v1),
    }
}
