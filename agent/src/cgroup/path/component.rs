//! What one component of a cgroup path is, given the components before it.

use crate::snapshot::Qos;

/// Digits of a container's id that stand for its name.
const SHORT_ID_DIGITS: usize = 12;

/// A container recognised by one component.
pub(super) struct ContainerComponent {
    pub(super) runtime: &'static str,
    pub(super) id: Option<String>,
    pub(super) name: String,
}

impl ContainerComponent {
    fn with_id(runtime: &'static str, id: &str) -> Self {
        Self {
            runtime,
            id: Some(id.to_owned()),
            name: id.get(..SHORT_ID_DIGITS).unwrap_or(id).to_owned(),
        }
    }

    fn with_name(runtime: &'static str, name: String) -> Self {
        Self {
            runtime,
            id: None,
            name,
        }
    }
}

/// The container whose own cgroup this component is. `parents` are the components between the enclosing
/// container (or the root) and this one.
pub(super) fn container(parents: &[&str], component: &str) -> Option<ContainerComponent> {
    if is_monitor(parents, component).is_some() {
        return None;
    }
    let asked = without_kata(component);
    bare_id(parents, asked)
        .or_else(|| prefixed_id(component))
        .or_else(|| colon_id(asked))
        .or_else(|| nomad(parents, component))
        .or_else(|| garden(parents, component))
        .or_else(|| ecs_id(parents, component))
        .or_else(|| lxc(parents, component))
        .or_else(|| machine(parents, component))
}

/// Kata puts its own word before the name that the engine asked for (`CgroupKataPrefix` in
/// <https://pkg.go.dev/github.com/kata-containers/runtime/virtcontainers/pkg/cgroups>).
fn without_kata(component: &str) -> &str {
    component.strip_prefix("kata_").unwrap_or(component)
}

/// The runtime whose monitor process (conmon, `lxc-start`) runs in this cgroup: it belongs to the host, not
/// to the container that it watches.
pub(super) fn is_monitor(parents: &[&str], component: &str) -> Option<&'static str> {
    if component.starts_with("crio-conmon-") {
        return Some("crio");
    }
    if component.starts_with("libpod-conmon-") {
        return Some("podman");
    }
    if component.starts_with("lxc.monitor.") || parents.last() == Some(&"lxc.monitor") {
        return Some("lxc");
    }
    None
}

/// A pod, by the component that is its cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) uid: String,
    pub(super) qos: Option<Qos>,
}

/// The pod whose cgroup this component is, `parents` being those before it.
pub(super) fn pod(parents: &[&str], component: &str) -> Option<Pod> {
    let component = without_kata(component);
    Some(Pod {
        uid: pod_uid(component)?,
        qos: qos(parents, component),
    })
}

/// The class of a pod, by where the kubelet puts it: guaranteed pods stand beside the cgroups of the other
/// two classes (<https://github.com/kubernetes/kubernetes/blob/v1.31.0/pkg/kubelet/cm/pod_container_manager_linux.go>,
/// `GetPodContainerName`). `None` where somebody else put it somewhere else.
fn qos(parents: &[&str], component: &str) -> Option<Qos> {
    let component = component.split(':').next().unwrap_or(component);
    let class = match component.strip_suffix(".slice") {
        // The kubelet can have a root of its own, which stands before.
        Some(slice) => {
            let (class, _) = slice.rsplit_once("-pod")?;
            let start = class.rfind("kubepods")?;
            let is_begun = start == 0 || class.get(..start)?.ends_with('-');
            is_begun.then_some(class.get(start..)?)?
        }
        None => match parents {
            [.., "kubepods", "burstable"] => "kubepods-burstable",
            [.., "kubepods", "besteffort"] => "kubepods-besteffort",
            [.., "kubepods"] => "kubepods",
            _ => return None,
        },
    };
    match class {
        "kubepods" => Some(Qos::Guaranteed),
        "kubepods-burstable" => Some(Qos::Burstable),
        "kubepods-besteffort" => Some(Qos::BestEffort),
        _ => None,
    }
}

/// The uid of the pod whose cgroup this component is: `pod<uid>` (cgroupfs driver), or
/// `kubepods-burstable-pod<uid>.slice` with underscores for dashes (systemd driver), also as the first part
/// of `SLICE:PREFIX:ID`.
pub(super) fn pod_uid(component: &str) -> Option<String> {
    let component = component.split(':').next().unwrap_or(component);
    let uid = match component.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid)?,
        None => component.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    (is_uid(&uid) || is_hex(&uid, 32)).then_some(uid)
}

/// The systemd unit that this component is.
///
/// A unit whose name could be taken for a file of the kernel is written with a leading underscore
/// (<https://github.com/systemd/systemd/blob/v255/src/basic/cgroup-util.c>, `cg_escape`).
pub(super) fn unit_name(component: &str) -> Option<&str> {
    let name = component.strip_prefix('_').unwrap_or(component);
    let (stem, suffix) = name.rsplit_once('.')?;
    let is_unit = matches!(suffix, "service" | "scope" | "socket" | "mount" | "swap");
    (is_unit && !stem.is_empty()).then_some(name)
}

/// `<64hex>` (cgroupfs drivers), and `buildkit/<id>`.
fn bare_id(parents: &[&str], component: &str) -> Option<ContainerComponent> {
    let parent = parents.last().copied().unwrap_or_default();
    if parent == "buildkit" && is_build_id(component) {
        return Some(ContainerComponent::with_id("buildkit", component));
    }
    if !is_id(component) || parent == "libpod_parent" {
        return None;
    }
    let in_pod = parents.iter().any(|parent| pod_uid(parent).is_some());
    let runtime = match parents.first().copied().unwrap_or_default() {
        "default" | "k8s.io" => "containerd",
        _ if in_pod => "containerd",
        _ => "docker",
    };
    Some(ContainerComponent::with_id(runtime, component))
}

/// `PREFIX-<64hex>.scope` (systemd drivers), `crio-<64hex>` and `libpod-<64hex>` (cgroupfs drivers).
fn prefixed_id(component: &str) -> Option<ContainerComponent> {
    let scope = component.strip_suffix(".scope");
    let (prefix, id) = scope.unwrap_or(component).rsplit_once('-')?;
    if is_id(id) {
        let runtime = runtime_of_prefix(prefix);
        return match (scope, runtime) {
            // The drivers of runc and crun name a scope PREFIX-ID; the prefix is the engine's choice.
            (Some(_), runtime) => Some(ContainerComponent::with_id(runtime.unwrap_or(""), id)),
            (None, Some(runtime)) => Some(ContainerComponent::with_id(runtime, id)),
            (None, None) => None,
        };
    }
    // BuildKit, alone or inside dockerd, has ids of its own.
    let built = scope.is_some() && matches!(prefix, "docker" | "buildkit") && is_build_id(id);
    built.then(|| ContainerComponent::with_id("buildkit", id))
}

/// `SLICE:PREFIX:<64hex>`: a path meant for the systemd driver in the hands of the cgroupfs driver.
fn colon_id(component: &str) -> Option<ContainerComponent> {
    let (rest, id) = component.rsplit_once(':')?;
    let (_, prefix) = rest.rsplit_once(':')?;
    is_id(id).then(|| ContainerComponent::with_id(runtime_of_prefix(prefix).unwrap_or(""), id))
}

/// `/ecs/CLUSTER/TASK/<32hex>-<number>` (Fargate, whose containers run under containerd).
fn ecs_id(parents: &[&str], component: &str) -> Option<ContainerComponent> {
    if !parents.contains(&"ecs") {
        return None;
    }
    let (id, number) = component.rsplit_once('-')?;
    let is_number = (1..=20).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    (is_hex(id, 32) && is_number).then(|| ContainerComponent::with_id("containerd", component))
}

/// `nomad.slice/{share,reserve}.slice/ALLOCATION.TASK.scope` (cgroup v2) and `nomad/.../ALLOCATION.TASK` (v1)
/// of Nomad's own drivers. The name is what its Docker driver calls a container: `TASK-ALLOCATION`.
fn nomad(parents: &[&str], component: &str) -> Option<ContainerComponent> {
    if !parents
        .iter()
        .any(|parent| matches!(*parent, "nomad.slice" | "nomad"))
    {
        return None;
    }
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let (allocation, task) = name.split_once('.')?;
    (is_uid(allocation) && !task.is_empty())
        .then(|| ContainerComponent::with_name("nomad", format!("{task}-{allocation}")))
}

/// `garden/HANDLE` (Cloud Foundry), `garden/good/HANDLE` and `garden/bad/HANDLE` where it throttles.
fn garden(parents: &[&str], component: &str) -> Option<ContainerComponent> {
    let is_one = match parents {
        [.., "garden"] => !matches!(component, "good" | "bad"),
        [.., "garden", "good" | "bad"] => true,
        _ => false,
    };
    is_one.then(|| ContainerComponent::with_name("garden", component.to_owned()))
}

/// `lxc/NAME` (LXC up to 3), `lxc.payload/NAME` (LXC 3.1), `lxc.payload.NAME` (LXC 4 and later).
fn lxc(parents: &[&str], component: &str) -> Option<ContainerComponent> {
    if let Some(name) = component.strip_prefix("lxc.payload.") {
        return (!name.is_empty()).then(|| ContainerComponent::with_name("lxc", name.to_owned()));
    }
    matches!(parents.last(), Some(&("lxc" | "lxc.payload")))
        .then(|| ContainerComponent::with_name("lxc", component.to_owned()))
}

/// `machine.slice/machine-NAME.scope` (machined: nspawn, libvirt) and
/// `machine.slice/systemd-nspawn@NAME.service`.
fn machine(parents: &[&str], component: &str) -> Option<ContainerComponent> {
    if parents.last() != Some(&"machine.slice") {
        return None;
    }
    let escaped = component
        .strip_prefix("machine-")
        .and_then(|rest| rest.strip_suffix(".scope"))
        .or_else(|| {
            component
                .strip_prefix("systemd-nspawn@")
                .and_then(|rest| rest.strip_suffix(".service"))
        })
        .filter(|name| !name.is_empty())?;
    let name = unescape(escaped);
    // libvirt names a machine DRIVER-NUMBER-NAME.
    let libvirt = name.starts_with("qemu-") || name.starts_with("lxc-");
    let runtime = if libvirt { "libvirt" } else { "systemd-nspawn" };
    Some(ContainerComponent::with_name(runtime, name))
}

fn runtime_of_prefix(prefix: &str) -> Option<&'static str> {
    match prefix {
        "docker" => Some("docker"),
        "cri-containerd" | "containerd" | "nerdctl" => Some("containerd"),
        "crio" => Some("crio"),
        "libpod" | "libpod-payload" => Some("podman"),
        "buildkit" => Some("buildkit"),
        _ => None,
    }
}

/// Undoes `\xNN` of systemd. A name that would hold a control character or no UTF-8 stays as it is.
fn unescape(escaped: &str) -> String {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((before, after)) = rest.split_once("\\x") {
        let value = after
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (Some(value), Some(next)) = (value, after.get(2..)) else {
            return escaped.to_owned();
        };
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(value);
        rest = next;
    }
    bytes.extend_from_slice(rest.as_bytes());
    match String::from_utf8(bytes) {
        Ok(name) if !name.chars().any(char::is_control) => name,
        _ => escaped.to_owned(),
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The ids of Docker, containerd (CRI, nerdctl), CRI-O and podman.
fn is_id(text: &str) -> bool {
    is_hex(text, 64)
}

/// The ids of BuildKit: 25 digits in base 36
/// (<https://github.com/moby/buildkit/blob/v0.12.0/identity/randomid.go>).
fn is_build_id(text: &str) -> bool {
    text.len() == 25
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

/// A uid as the API server writes it: 8-4-4-4-12 hex digits.
fn is_uid(text: &str) -> bool {
    let mut groups = text.split('-');
    let fits = [8, 4, 4, 4, 12]
        .into_iter()
        .all(|digits| groups.next().is_some_and(|group| is_hex(group, digits)));
    fits && groups.next().is_none()
}
