//! What a container was promised, what it may use at most, and what it is labelled with.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

/// Kubernetes' class of a pod, which decides who is throttled and killed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Qos {
    /// Each of its containers has requests and limits, and they are equal.
    Guaranteed,
    /// Some requests or limits are there.
    Burstable,
    /// None is.
    BestEffort,
}

/// Requests and limits, as the runtime was given them when the container was made. What the kernel
/// enforces now stands in the container's `cpu` and `memory`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CPU request, cores; `None` where there is none, and outside Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_request_cores: Option<f64>,
    /// CPU limit, cores; `None` where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit_cores: Option<f64>,
    /// Memory request, bytes; `None` where there is none, and where the kubelet does not hand it to the
    /// runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_request_bytes: Option<u64>,
    /// Memory limit, bytes; `None` where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
}

/// Labels of a container and, where it has none of that key, of its pod.
pub type Labels = Arc<BTreeMap<String, String>>;
