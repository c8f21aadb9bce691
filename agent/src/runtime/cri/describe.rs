//! From the messages to what is said of a container.

use std::sync::Arc;

use super::{
    MOBY,
    messages::{self as pb, Container, ContainerEvent, Pod},
    wire::Malformed,
};
use crate::runtime::{
    Metadata, Update,
    bounded::{self, take_kubernetes_labels},
    client::Happening,
};

/// What a pod's sandbox is called, which has no name of its own.
const SANDBOX: &str = "POD";

/// A container of a pod.
pub(super) fn container(
    runtime: &'static str,
    container: Container,
    pod: Option<&Pod>,
) -> Metadata {
    let none = Pod::default();
    let pod = pod.unwrap_or(&none);
    let mut labels = container.labels;
    let mut annotations = container.annotations;
    labels.add_missing(&pod.labels);
    annotations.add_missing(&pod.annotations);
    let mut metadata = Metadata {
        id: container.id,
        runtime,
        name: container.name,
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        image: container.image,
        labels: labels.into_map().into(),
        annotations: annotations.into_map(),
        resources: container.resources,
        ..Metadata::default()
    };
    take_kubernetes_labels(&mut metadata);
    metadata
}

/// A pod's sandbox.
pub(super) fn sandbox(runtime: &'static str, pod: &Pod) -> Metadata {
    Metadata {
        id: pod.id.clone(),
        runtime,
        name: SANDBOX.to_owned(),
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        is_sandbox: true,
        labels: pod.labels.clone().into_map().into(),
        annotations: pod.annotations.clone().into_map(),
        ..Metadata::default()
    }
}

/// A container of containerd that CRI knows nothing of.
pub(super) fn own(container: Container) -> Metadata {
    // nerdctl's name; others have none but their id.
    let name = container.labels.get("nerdctl/name");
    let mut metadata = Metadata {
        name: bounded::name(name.unwrap_or(&container.id)),
        id: container.id,
        runtime: "containerd",
        image: container.image,
        labels: container.labels.into_map().into(),
        resources: container.resources,
        ..Metadata::default()
    };
    take_kubernetes_labels(&mut metadata);
    if metadata.pod.is_empty()
        && let Some(resources) = &mut metadata.resources
    {
        // Shares are a weight where nobody requests.
        resources.cpu_request_cores = None;
    }
    metadata
}

/// What an event of CRI says. It has the whole status of its pod and of the container, which may be gone
/// when it is asked for; of one that has not, only that it is there.
pub(super) fn of_event(runtime: &'static str, event: ContainerEvent) -> Vec<Happening> {
    if !bounded::is_id(&event.id) {
        return Vec::new();
    }
    let known = |metadata| Happening::Known(Update::Described(Arc::new(metadata)));
    match (event.container, event.pod) {
        (Some(status), Some(pod)) => {
            let exited = status.exit.map(|exit| {
                Happening::Known(Update::Exited {
                    id: event.id,
                    user: None,
                    exit_code: Some(exit.code),
                    unix_ms: exit.unix_ms,
                })
            });
            let described = known(container(runtime, status, Some(&pod)));
            [described].into_iter().chain(exited).collect()
        }
        (None, Some(pod)) if pod.id == event.id => vec![known(sandbox(runtime, &pod))],
        _ => vec![Happening::Seen(event.id)],
    }
}

/// What an event of containerd says.
pub(super) fn of_own_event(message: &[u8]) -> Result<Option<Happening>, Malformed> {
    let envelope = pb::envelope(message)?;
    if envelope.namespace == MOBY.as_bytes() {
        return Ok(None);
    }
    Ok(match envelope.topic {
        b"/containers/create" | b"/tasks/start" => {
            let id = pb::event_id(envelope.event)?;
            bounded::is_id(&id).then_some(Happening::Seen(id))
        }
        b"/tasks/exit" => {
            let exit = pb::task_exit(envelope.event)?;
            // Others are what was run in it later.
            let is_first = exit.id == exit.container && bounded::is_id(&exit.id);
            is_first.then_some(Happening::Known(Update::Exited {
                id: exit.id,
                user: None,
                exit_code: exit.exit.map(|exit| exit.code),
                unix_ms: exit.exit.and_then(|exit| exit.unix_ms),
            }))
        }
        _ => None,
    })
}
