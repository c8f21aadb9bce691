//! Fuzz targets: records of the ring buffer, the kernel's types, and what `check` reads of the host.

use super::{
    btf::{Btf, Kind},
    event::KernelEvent,
    features::{Capabilities, Limit, Lockdown, parse_sched_info, parse_version},
    layout,
};
use crate::{
    cgroup::identify,
    fuzz::{Target, text},
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("kernel_event", event),
    Target::new("btf", btf),
    Target::new("host_features", features),
];

/// Types that are looked at closely; what is behind them is read the same way.
const MOST_TYPES: u32 = 64;

/// A record of the ring buffer.
fn event(bytes: &[u8]) {
    let Some(event) = KernelEvent::decode(bytes) else {
        return;
    };
    if let KernelEvent::CgroupMade {
        path: Some(path), ..
    } = event
    {
        assert!(!path.is_empty() && path.len() < bytes.len() * 4);
        let _ = identify(&path);
    }
}

/// `/sys/kernel/btf/vmlinux`: every look-up ends, whatever the types refer to.
fn btf(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes.to_vec()) else {
        return;
    };
    let count = u32::try_from(btf.type_count()).unwrap_or(u32::MAX);
    for id in 0..count.min(MOST_TYPES).saturating_add(2) {
        let name = btf.name(id).to_owned();
        assert!(name.len() <= bytes.len() && !btf.describe(id).is_empty());
        if let Ok(stripped) = btf.strip(id) {
            assert_eq!(btf.strip(stripped).ok(), Some(stripped));
            assert_eq!(btf.size(stripped), btf.size(id));
        }
        let _ = btf.pointee(id);
        let _ = btf.tracepoint(&name);
        let _ = btf.enum_value(&name, "REQ_OP_WRITE_ZEROES");
        for path in ["", "a", "a.b[1].c", "[0]", &name] {
            if let Ok(Some(field)) = btf.field(id, path) {
                assert!(field.offset_bits < 8);
            }
        }
        if let Some(found) = btf.find_struct(&name) {
            assert_eq!(btf.name(found), name);
            assert!(matches!(btf.kind(found), Kind::Struct | Kind::Union));
        }
    }
    let resolved = layout::resolve(&btf);
    for (name, verdict) in resolved.subjects.all() {
        assert_eq!(resolved.verdict(name), verdict.as_result());
    }
}

/// `/proc/PID/status`, `limits` and `schedstat`, the lockdown, and a release.
fn features(bytes: &[u8]) {
    let file = text(bytes);
    if let Some(capabilities) = Capabilities::parse(&file) {
        let none = Capabilities::default();
        assert!(capabilities.can_load() || capabilities.bpf == none.bpf);
        assert!(file.contains("CapEff:"));
    }
    assert!(Limit::parse_memlock(&file).is_none() || file.contains("Max locked memory"));
    assert!(Lockdown::parse(&file).is_none() || file.contains('['));
    let _ = parse_sched_info(&file);
    if let Some((major, minor)) = parse_version(&file) {
        assert!(file.contains(&minor.to_string()) && file.contains(&major.to_string()));
    }
}
