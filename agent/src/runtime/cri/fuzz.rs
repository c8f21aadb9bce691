//! Fuzz targets: the messages of CRI and of containerd.

use super::{
    describe,
    messages::{self as pb, Container, Exit, Pod},
    wire::{Malformed, Value, fields},
};
use crate::{
    fuzz::Target,
    runtime::{
        Update,
        client::Happening,
        fuzz::{assert_bounded, assert_id, assert_sane},
    },
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("cri_wire", wire),
    Target::new("cri_list", list),
    Target::new("cri_status", status),
    Target::new("cri_event", event),
    Target::new("containerd_container", own_container),
    Target::new("containerd_event", own_event),
];

/// Fields are within the message and come to an end.
fn wire(bytes: &[u8]) {
    let mut of_fields = 0;
    let mut is_broken = false;
    for (index, field) in fields(bytes).enumerate() {
        assert!(index <= bytes.len() && !is_broken);
        let Ok((number, value)) = field else {
            is_broken = true;
            continue;
        };
        assert!(number > 0);
        of_fields += value.bytes().len();
        assert!(value.text(7).chars().count() <= 7);
        if let Value::Bytes(text) = value
            && let Ok(text) = str::from_utf8(text)
        {
            assert!(text.starts_with(&value.text(7)));
            assert_eq!(value.text(usize::MAX), text);
        }
    }
    assert!(of_fields <= bytes.len());
}

/// A container with and without its pod.
fn assert_container(container: &Container, pod: &Pod) {
    for pod in [None, Some(pod)] {
        assert_bounded(&describe::container("containerd", container.clone(), pod));
    }
}

/// `ListContainersResponse`, `ListPodSandboxResponse`, the list of namespaces, and a version.
fn list(bytes: &[u8]) {
    let pods: Vec<Pod> = pb::listed(bytes, |one| pb::pod(one, false))
        .flatten()
        .collect();
    for pod in &pods {
        assert_bounded(&describe::sandbox("containerd", pod));
    }
    let none = Pod::default();
    for (index, container) in pb::listed(bytes, pb::container).flatten().enumerate() {
        assert_container(&container, pods.get(index).unwrap_or(&none));
    }
    for container in pb::listed(bytes, pb::own_container).flatten() {
        assert_bounded(&describe::own(container));
    }
    assert!(
        pb::namespaces(bytes)
            .iter()
            .all(|name| name.len() <= 3 * 1_024)
    );
    let _ = pb::runtime_name(bytes);
}

/// `ContainerStatusResponse` and `PodSandboxStatusResponse`, verbose or not.
fn status(bytes: &[u8]) {
    let Ok(Some(message)) = pb::first(bytes) else {
        return;
    };
    let pod = pb::pod(message, true).unwrap_or_default();
    assert_bounded(&describe::sandbox("cri-o", &pod));
    if let Ok(container) = pb::container_status(message) {
        assert_exit(container.exit);
        assert_container(&container, &pod);
    }
    if let Ok(Some(resources)) = pb::verbose_resources(bytes) {
        assert_sane(&resources);
    }
}

fn assert_exit(exit: Option<Exit>) {
    assert!(exit.is_none_or(|exit| exit.unix_ms != Some(0)));
}

/// `ContainerEventResponse`.
fn event(bytes: &[u8]) {
    if let Ok(event) = pb::container_event(bytes) {
        let id = event.id.clone();
        for happening in describe::of_event("containerd", event) {
            assert_eq!(assert_happening(&happening), id);
        }
    }
}

/// `Container` of containerd's own service.
fn own_container(bytes: &[u8]) {
    if let Ok(container) = pb::own_container(bytes) {
        assert_bounded(&describe::own(container));
    }
}

/// `Envelope` of containerd's own service.
fn own_event(bytes: &[u8]) {
    let happening: Result<_, Malformed> = describe::of_own_event(bytes);
    if let Ok(Some(happening)) = happening {
        assert_happening(&happening);
    }
}

/// What happened is told of an id, which is given back.
fn assert_happening(happening: &Happening) -> &str {
    let id = match happening {
        Happening::Seen(id) => id,
        Happening::Known(update) => {
            if let Update::Described(metadata) = update {
                assert_bounded(metadata);
            }
            update.id()
        }
    };
    assert_id(id);
    id
}
