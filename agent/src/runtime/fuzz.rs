//! Fuzz targets: what runtimes answer. The tables of the protocols stand here, too.

use super::{
    Metadata,
    bounded::{MOST_KEY, MOST_LABEL_BYTES, MOST_LABELS, MOST_NAME, MOST_VALUE, is_id},
    oci::LinuxResources,
};
pub(crate) use super::{cri::fuzz::TARGETS as CRI, docker::fuzz::TARGETS as DOCKER};
use crate::{fuzz::Target, snapshot::Resources};

pub(crate) const OCI: &[Target] = &[Target::new("oci_spec", spec)];

/// `config.json`, and what holds it in a verbose answer of CRI.
fn spec(bytes: &[u8]) {
    let found = [
        LinuxResources::of_spec(bytes),
        LinuxResources::of_info(bytes),
    ];
    for resources in found.into_iter().flatten() {
        assert_sane(&resources.resources());
    }
}

/// Limits are numbers to divide by.
pub(super) fn assert_sane(resources: &Resources) {
    let Resources {
        cpu_request_cores,
        cpu_limit_cores,
        memory_request_bytes,
        memory_limit_bytes,
    } = *resources;
    for cores in [cpu_request_cores, cpu_limit_cores].into_iter().flatten() {
        assert!(cores.is_finite() && cores > 0.0);
    }
    assert!(memory_request_bytes != Some(0) && memory_limit_bytes != Some(0));
}

/// All that is kept of a container is within its bounds.
pub(super) fn assert_bounded(metadata: &Metadata) {
    let names = [
        &metadata.name,
        &metadata.namespace,
        &metadata.pod,
        &metadata.pod_uid,
        &metadata.image,
    ];
    for name in names {
        assert!(name.len() <= MOST_NAME && !name.contains('\0'));
    }
    for pairs in [&*metadata.labels, &metadata.annotations] {
        let bytes: usize = pairs
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        assert!(pairs.len() <= MOST_LABELS && bytes <= MOST_LABEL_BYTES);
        for (key, value) in pairs {
            assert!(key.len() <= MOST_KEY && value.len() <= MOST_VALUE);
            assert!(!key.contains('\0') && !value.contains('\0'));
        }
    }
    if let Some(resources) = &metadata.resources {
        assert_sane(resources);
    }
}

/// Whether something can be asked for; what cannot is not believed either.
pub(super) fn assert_id(id: &str) {
    assert!(is_id(id), "{id:?}");
}
