//! What the least capabilities are enough for, and one of them dropped.

use ctrscope_tests::{Capability, Without, perf::Mainline};

use super::Host;

/// The least capabilities without one of them.
pub(crate) fn least_but(capability: Capability) -> Without {
    let keep: Vec<_> = Capability::LEAST
        .into_iter()
        .filter(|kept| *kept != capability)
        .collect();
    Without::new().capabilities_but(&keep)
}

#[test]
fn the_least_capabilities_are_enough() {
    let _mainline = Mainline::set().unwrap();
    let host = Host::new(Without::new().capabilities_but(&Capability::LEAST));
    host.assert_states(&[
        ("sched", "active"),
        ("block", "active"),
        ("cgroup", "active"),
    ]);
    host.assert_profile_active();
    for capability in Capability::LEAST {
        if capability != Capability::SysResource && capability != Capability::Syslog {
            host.assert_check(capability.name(), "ok", "granted");
        }
    }
    host.assert_sched();
    host.assert_profile();
}

#[test]
fn without_cap_bpf_cgroup_files_are_collected() {
    let host = Host::new(least_but(Capability::Bpf));
    host.assert_files_alone("run the agent with CAP_BPF");
    host.assert_check("CAP_BPF", "missing", "run the agent with CAP_BPF");
}
