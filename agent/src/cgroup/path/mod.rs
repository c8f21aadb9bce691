//! Identity from a cgroup path: which container, pod or systemd unit a cgroup belongs to.
//!
//! Nothing but the path is looked at, so this works for a cgroup that is already gone and for a runtime
//! that nobody can ask. Where containers nest (docker in docker, kind), the last id in the path is the
//! container; everything below it, systemd units included, is its own affair. A systemd unit counts only
//! outside of containers.

mod component;

#[cfg(test)]
mod tests;

use component::{Pod, container, is_monitor, pod, pod_uid, unit_name};

use super::name::readable;
use crate::snapshot::{Kind, Qos};

/// Longest path that is looked at, bytes. The kernel prints none above `PATH_MAX`; of a longer one only
/// the leading components that fit are considered.
const MAX_PATH_BYTES: usize = 4096;

/// What a cgroup path says about the cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathIdentity {
    /// What it is. Whether a container is a pod's sandbox cannot be seen from the path: it is a
    /// [`Kind::Container`] here. The root is [`Kind::Other`].
    pub kind: Kind,
    /// Runtime that lays out such paths; `systemd` for units; empty where no runtime is known.
    ///
    /// A bare id below a pod is taken for `containerd`, a bare id elsewhere for `docker`: both runtimes
    /// write both, so whoever asks the runtime for the name must try the other one too.
    pub runtime: &'static str,
    /// The runtime's full id of the container.
    pub container_id: Option<String>,
    /// Kubernetes uid of the pod, with dashes as the API server writes it; that of a static pod is 32 hex
    /// digits without dashes, also there.
    pub pod_uid: Option<String>,
    /// Class of the pod; `None` outside of pods, and where the kubelet did not lay out the path.
    pub qos: Option<Qos>,
    /// Name of the unit; the first 12 digits of a container's id, or its LXC or machine name; otherwise the
    /// path without its leading slash. [`prefix`](Self::prefix) stands before it, with a slash.
    pub name: String,
    /// What the name is told apart by from that of the same thing elsewhere: of a unit the units that it is
    /// in, of a container the manager of the user to whom its tree is delegated (`user@1000.service`), and
    /// the path above it where something else tells that ([`delegated`](Self::delegated)).
    pub prefix: Option<String>,
    /// Own path of the container that it is in, where containers nest.
    pub enclosing: Option<String>,
    /// The prefix of the path that is the container's or unit's own cgroup; deeper components are its child
    /// cgroups and count as it. The whole path where nothing is recognised.
    pub owner_path: String,
    /// The same in all hierarchies for one container: its id if it has one, otherwise `owner_path`. Whoever
    /// may make cgroups can make one with the id of another container elsewhere: those are told apart by
    /// `owner_path`.
    pub entity_key: String,
    /// Whether it only holds others together (slice, pod, `/docker`, the root, ...) and gets no entry of
    /// its own.
    pub groups_others: bool,
}

impl PathIdentity {
    /// Whether both can be one container in two hierarchies, as far as their paths tell: they have one key, and
    /// whoever could make the one could make the other.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        self.entity_key == other.entity_key
            && self.prefix == other.prefix
            && self.enclosing.is_some() == other.enclosing.is_some()
    }

    /// The same where its cgroup was made by a user without privileges, to whom a tree is delegated that does not
    /// show in the path: a service with `User=` and `Delegate=yes`. Such a user can call a cgroup as a container or
    /// a unit of the system is called, so the path above it stands before the name.
    #[must_use]
    pub fn delegated(mut self) -> Self {
        let is_named = matches!(self.kind, Kind::Container | Kind::Service);
        if !is_named || self.prefix.is_some() || self.enclosing.is_some() {
            return self;
        }
        let above = self
            .owner_path
            .rsplit_once('/')
            .map_or("", |(above, _)| above);
        let above = readable(above.trim_matches('/').to_owned());
        if !above.is_empty() {
            self.name = format!("{above}/{}", self.name);
            self.prefix = Some(above);
        }
        self
    }
}

/// What the components seen so far amount to.
struct Owner {
    kind: Kind,
    runtime: &'static str,
    id: Option<String>,
    pod: Option<Pod>,
    name: String,
    prefix: Option<String>,
    /// Where the path of the container ends that it is in.
    enclosing: Option<usize>,
    /// Where its own path ends.
    end: usize,
}

/// Identifies a cgroup from its path.
///
/// Never fails: an unknown layout is a [`Kind::Cgroup`] of its own. Time and memory are bounded by
/// `PATH_MAX` whatever the input. A path with a `..` component comes from another cgroup namespace, and
/// nothing is read out of it.
#[must_use]
pub fn identify(path: &str) -> PathIdentity {
    let path = bounded(path);
    let components = components(path);
    let Some(&(_, end)) = components.last() else {
        return PathIdentity {
            kind: Kind::Other,
            runtime: "",
            container_id: None,
            pod_uid: None,
            qos: None,
            name: "/".to_owned(),
            prefix: None,
            enclosing: None,
            owner_path: path.to_owned(),
            entity_key: path.to_owned(),
            groups_others: true,
        };
    };
    let names: Vec<&str> = components.iter().map(|&(name, _)| name).collect();
    let foreign = names.contains(&"..");
    let (owner, last_pod) = if foreign {
        (None, None)
    } else {
        find_owner(&components, &names)
    };

    let split = |pod: Option<Pod>| match pod {
        Some(pod) => (Some(pod.uid), pod.qos),
        None => (None, None),
    };
    if let Some(owner) = owner {
        let (pod_uid, qos) = split(owner.pod);
        let owner_path = path.get(..owner.end).unwrap_or(path).to_owned();
        return PathIdentity {
            kind: owner.kind,
            runtime: owner.runtime,
            entity_key: owner.id.clone().unwrap_or_else(|| owner_path.clone()),
            container_id: owner.id,
            pod_uid,
            qos,
            name: readable(match &owner.prefix {
                Some(prefix) => format!("{prefix}/{}", owner.name),
                None => owner.name,
            }),
            prefix: owner.prefix.map(readable),
            enclosing: owner
                .enclosing
                .and_then(|end| path.get(..end))
                .map(str::to_owned),
            owner_path,
            groups_others: false,
        };
    }
    let (pod_uid, qos) = split(last_pod);
    let owner_path = path.get(..end).unwrap_or(path).to_owned();
    PathIdentity {
        kind: Kind::Cgroup,
        runtime: "",
        container_id: None,
        pod_uid,
        qos,
        name: readable(owner_path.trim_start_matches('/').to_owned()),
        prefix: None,
        enclosing: None,
        entity_key: owner_path.clone(),
        owner_path,
        groups_others: !foreign && groups_others(&names),
    }
}

/// The user in whose cgroups a path is, by systemd's layout: only this user and the system can make
/// cgroups there, and rootless containers have theirs there.
#[must_use]
pub fn user_of(path: &str) -> Option<u32> {
    let rest = path.strip_prefix("/user.slice/user-")?;
    let (uid, _) = rest.split_once(".slice/")?;
    // As systemd writes it, so that a path has one user only.
    let is_number =
        uid.bytes().all(|byte| byte.is_ascii_digit()) && (uid == "0" || !uid.starts_with('0'));
    uid.parse().ok().filter(|_| is_number)
}

/// Cuts an overlong path after its last whole component that fits.
fn bounded(path: &str) -> &str {
    if path.len() <= MAX_PATH_BYTES {
        return path;
    }
    let mut end = MAX_PATH_BYTES;
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    let head = path.get(..end).unwrap_or_default();
    // A component cut short could pass for another.
    match head.rfind('/') {
        Some(slash) if slash > 0 => head.get(..slash).unwrap_or(head),
        _ => head,
    }
}

/// The components that are not empty, each with the offset of its end.
fn components(path: &str) -> Vec<(&str, usize)> {
    let mut offset = 0;
    let mut found = Vec::new();
    for component in path.split('/') {
        let end = offset + component.len();
        if !component.is_empty() {
            found.push((component, end));
        }
        offset = end + 1;
    }
    found
}

/// The last container, or outside of containers the last unit; and the last pod seen.
fn find_owner(components: &[(&str, usize)], names: &[&str]) -> (Option<Owner>, Option<Pod>) {
    let mut owner: Option<Owner> = None;
    let mut last_pod = None;
    // First component after the enclosing container: what lies before it says nothing about the runtime.
    let mut context_start = 0;
    let mut enclosing = None;
    // The units that the path leads through outside of containers, and the manager of a user among them.
    let mut units: Vec<&str> = Vec::new();
    let mut manager = None;
    for (index, &(component, end)) in components.iter().enumerate() {
        let before = names.get(..index).unwrap_or_default();
        if let Some(pod) = pod(before, component) {
            last_pod = Some(pod);
        }
        let parents = names.get(context_start..index).unwrap_or_default();
        if let Some(found) = container(parents, component) {
            context_start = index + 1;
            owner = Some(Owner {
                kind: Kind::Container,
                runtime: found.runtime,
                name: found.name,
                id: found.id,
                pod: last_pod.clone(),
                prefix: manager.map(str::to_owned),
                enclosing,
                end,
            });
            enclosing = Some(end);
            continue;
        }
        let in_container = owner
            .as_ref()
            .is_some_and(|owner| owner.kind == Kind::Container);
        if in_container {
            continue;
        }
        let service = is_monitor(parents, component)
            .map(|runtime| (runtime, component))
            .or_else(|| unit_name(component).map(|unit| ("systemd", unit)));
        if let Some((runtime, name)) = service {
            owner = Some(Owner {
                kind: Kind::Service,
                runtime,
                id: None,
                pod: None,
                name: name.to_owned(),
                prefix: (!units.is_empty()).then(|| units.join("/")),
                enclosing: None,
                end,
            });
            units.push(name);
            if is_user_manager(before, component) {
                manager = Some(component);
            }
        }
    }
    (owner, last_pod)
}

/// Whether a unit is the manager of a user, to whom everything below is delegated: the user alone, without
/// privileges, makes and names the cgroups there. Only the system makes cgroups in `user.slice` itself; the same
/// names further down are a user's own.
fn is_user_manager(parents: &[&str], component: &str) -> bool {
    let uid = |name: &str, start: &str, end: &str| -> Option<u32> {
        name.strip_prefix(start)?.strip_suffix(end)?.parse().ok()
    };
    let manager = uid(component, "user@", ".service");
    let slice = match parents {
        ["user.slice", slice] => uid(slice, "user-", ".slice"),
        _ => None,
    };
    manager.is_some() && manager == slice
}

/// Whether a cgroup that is neither container nor unit is a level that holds others together.
fn groups_others(names: &[&str]) -> bool {
    let Some((&last, parents)) = names.split_last() else {
        return true;
    };
    if last.ends_with(".slice") || pod_uid(last).is_some() {
        return true;
    }
    let below_kubepods = parents.contains(&"kubepods");
    match last {
        "kubepods" | "docker" | "ecs" | "nomad" | "garden" | "vc" | "kata_overhead" | "lxc"
        | "lxc.payload" | "lxc.monitor" | "libpod_parent" | "actions_job" | "buildkit" => true,
        "burstable" | "besteffort" | "guaranteed" => below_kubepods,
        "share" | "reserve" => parents.last() == Some(&"nomad"),
        "good" | "bad" => parents.last() == Some(&"garden"),
        // The namespaces of containerd; `system`, `user` and `machine` as systemd named its slices
        // before version 205.
        "default" | "k8s.io" | "moby" | "system" | "user" | "machine" | "kubelet" => {
            parents.is_empty()
        }
        // `/ecs/TASK` and `/ecs/CLUSTER/TASK`; the pods of podman with the cgroupfs manager.
        _ => match parents {
            ["ecs"] | ["ecs", _] => true,
            _ => parents.last() == Some(&"libpod_parent"),
        },
    }
}
