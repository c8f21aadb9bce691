//! Fuzz targets: what Docker and podman answer.

use super::json::{self, Event};
use crate::{
    fuzz::{Target, text},
    runtime::fuzz::{assert_bounded, assert_id},
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("docker_list", list),
    Target::new("docker_inspect", inspect),
    Target::new("docker_event", event),
    Target::new("docker_version", version),
];

/// Room for a list, bytes.
const ROOM: usize = 64 << 10;

fn list(bytes: &[u8]) {
    if let Ok(listing) = json::list(bytes, "docker", ROOM) {
        let kept: usize = listing.containers.iter().map(super::Metadata::bytes).sum();
        assert!(kept <= ROOM);
        for container in &listing.containers {
            assert_id(&container.id);
            assert_bounded(container);
        }
    }
}

fn inspect(bytes: &[u8]) {
    if let Ok(Some(container)) = json::inspected(bytes, "0a0a", "podman") {
        assert_eq!(container.id, "0a0a");
        assert_bounded(&container);
    }
}

fn event(bytes: &[u8]) {
    match json::event(bytes, "docker") {
        Ok(Some(Event::Described(container))) => {
            assert_id(&container.id);
            assert_bounded(&container);
        }
        Ok(Some(Event::Exited { id, unix_ms, .. })) => {
            assert_id(&id);
            assert!(unix_ms.is_none_or(|ms| ms <= u64::MAX / 1_000_000));
        }
        Ok(None) | Err(_) => {}
    }
}

fn version(bytes: &[u8]) {
    if json::is_podman(bytes).is_ok_and(|is_podman| is_podman) {
        assert!(text(bytes).contains('{'));
    }
}
