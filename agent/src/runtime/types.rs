//! What a container runtime says of a container, in one form for all of them.

use std::{collections::BTreeMap, sync::Arc};

use crate::snapshot::{Labels, Resources};

/// One container or pod sandbox, as its runtime describes it. All text is bounded and of the runtime's
/// choosing, so nothing may be concluded from it but a name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// The runtime's id, as it stands in the cgroup's path.
    pub id: String,
    /// The user whose runtime says so, and who can speak of containers in the cgroups of this user only;
    /// `None` for a runtime of the system.
    pub user: Option<u32>,
    /// `containerd`, `crio`, `docker` or `podman`.
    pub runtime: &'static str,
    /// Name of the container: in a pod the one in the pod's spec, else the runtime's, without a leading
    /// slash.
    pub name: String,
    /// Kubernetes namespace; empty outside Kubernetes.
    pub namespace: String,
    /// Kubernetes pod; empty outside Kubernetes.
    pub pod: String,
    /// Kubernetes pod uid; empty outside Kubernetes.
    pub pod_uid: String,
    /// Image, as it was asked for; empty where unknown.
    pub image: String,
    /// Whether it is a pod's sandbox.
    pub is_sandbox: bool,
    /// Labels of the container, and of its pod where the container has none of that key.
    pub labels: Labels,
    /// Annotations of the container, and of its pod where the container has none of that key.
    pub annotations: BTreeMap<String, String>,
    /// Requests and limits; `None` where they were not asked for: lists and events do not have them.
    pub resources: Option<Resources>,
}

impl Metadata {
    /// Memory that it takes, bytes, about.
    pub(super) fn bytes(&self) -> usize {
        /// What a map keeps beside a key and a value.
        const ENTRY: usize = 64;
        let texts = [
            &self.id,
            &self.name,
            &self.namespace,
            &self.pod,
            &self.pod_uid,
            &self.image,
        ];
        let maps = [&*self.labels, &self.annotations];
        let pairs = maps.into_iter().flatten();
        size_of::<Self>()
            + texts.into_iter().map(String::len).sum::<usize>()
            + pairs
                .map(|(key, value)| key.len() + value.len() + ENTRY)
                .sum::<usize>()
    }
}

/// What became known.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A container is known, or known anew (renamed, labels read later).
    Described(Arc<Metadata>),
    /// A runtime saw its first process end.
    Exited {
        /// The runtime's id.
        id: String,
        /// The user whose runtime says so, as in [`Metadata::user`].
        user: Option<u32>,
        /// Exit code; `None` where the runtime does not say.
        exit_code: Option<i32>,
        /// When, milliseconds since the epoch; `None` where the runtime does not say.
        unix_ms: Option<u64>,
    },
    /// It was asked for, and no runtime that is reached knows it.
    Unknown {
        /// The id that was asked for.
        id: String,
    },
}

impl Update {
    /// The id of the container.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Described(metadata) => &metadata.id,
            Self::Exited { id, .. } | Self::Unknown { id } => id,
        }
    }
}

/// How it stands with one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// Answers.
    Connected,
    /// Does not answer, or wrongly; tried again later.
    Failing,
}

/// A runtime's socket, for `/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// `containerd`, `crio`, `docker` or `podman`.
    pub runtime: &'static str,
    /// Path of its socket.
    pub socket: String,
    /// How it stands.
    pub state: SocketState,
    /// Why, and the fix; empty if it is connected and all it offers is used.
    pub reason: String,
    /// Times that it was connected.
    pub connections: u64,
    /// Questions that it did not answer, or wrongly.
    pub failures: u64,
}
