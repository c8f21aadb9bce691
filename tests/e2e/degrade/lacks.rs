//! Mounts, kernel features and system calls taken away, one at a time.

use std::path::{Path, PathBuf};

use ctrscope_tests::{
    AgentCommand, Without, agent::describe, cgroup::hierarchies, skip, wait_until,
};

use crate::observe::wait_seen;

use super::{Host, PATIENCE, check, names_hot_functions};

/// The mount point of a v1 controller; `None` where it is in the unified hierarchy.
pub(crate) fn v1_mount(controller: &str) -> Option<PathBuf> {
    let found = hierarchies().unwrap().into_iter().find(|hierarchy| {
        let controllers = hierarchy.controllers.as_ref();
        controllers.is_some_and(|names| names.iter().any(|name| name == controller))
    });
    found.map(|hierarchy| hierarchy.mount)
}

#[test]
fn without_btf_cgroup_files_are_collected() {
    let host = Host::new(Without::new().directory(Path::new("/sys/kernel/btf")));
    host.assert_files_alone("CONFIG_DEBUG_INFO_BTF=y");
    host.assert_check("btf", "missing", "--btf FILE");
    // A file that is given is a demand.
    let arguments = ["run", "--listen", "127.0.0.1:0", "--btf", "/no/such/btf"];
    let output = AgentCommand::run_without(&host.without, &arguments, PATIENCE).unwrap();
    assert!(!output.status.success());
    assert!(describe(&output).contains("/no/such/btf"));
    host.assert_end_seen();
}

#[test]
fn without_a_cpu_controller_time_is_the_kernels_own_account() {
    let (Some(cpu), Some(cpuacct)) = (v1_mount("cpu"), v1_mount("cpuacct")) else {
        skip("the cpu controller is not in a v1 hierarchy");
        return;
    };
    let host = Host::new(Without::new().mount(&cpu));
    let is_unified = hierarchies()
        .unwrap()
        .iter()
        .any(|one| one.controllers.is_none());
    if cpu != cpuacct || is_unified {
        host.assert_cpu_time();
    } else {
        // One mount of both, and no other one that has the account.
        wait_seen(&host.agent, &host.container);
        host.assert_absent(&["ctrscope_container_cpu_seconds_total"]);
    }
    host.assert_lacks("sched", "degraded", &["no cpu controller", "_other"]);
    host.assert_lacks("cpu", "unsupported", &["no cpu controller"]);
    // All that runs is in the sum of the others there, and would be counted twice.
    let metrics = host.agent.metrics().unwrap();
    let others = [("container", "_other")];
    for (name, is_there) in [
        ("ctrscope_container_cpu_seconds_total", false),
        ("ctrscope_container_run_queue_seconds_total", true),
    ] {
        assert_eq!(metrics.value(name, &others).is_some(), is_there, "{name}");
    }
    host.assert_absent(&[
        "ctrscope_container_run_queue_seconds_total",
        "ctrscope_container_cpu_weight",
    ]);
    host.assert_check("cgroups", "warn", "without cpu");
    host.assert_lacks("profile", "degraded", &["without a cpu controller"]);
    host.assert_no_profile("without a cpu controller");
    let path = "/api/v1/profile?type=cpu&seconds=1&format=folded";
    wait_until(PATIENCE, "hot functions in a profile of the host", || {
        let answer = host.agent.get_slow(path, PATIENCE)?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Ok(names_hot_functions(&answer.text()).then_some(()))
    })
    .unwrap();
}

#[test]
fn without_perf_events_profiles_alone_are_refused() {
    let host = Host::new(Without::new().call(libc::SYS_perf_event_open));
    host.assert_lacks(
        "profile",
        "unsupported",
        &["perf_event_open", "CAP_PERFMON"],
    );
    host.assert_no_profile("perf_event_open");
    host.assert_check("perf events", "missing", "CAP_PERFMON");
    host.assert_states(&[
        ("sched", "active"),
        ("block", "active"),
        ("cgroup", "active"),
    ]);
    host.assert_sched();
}

#[test]
fn read_only_cgroup_mounts_cost_nothing() {
    let mut without = Without::new();
    for hierarchy in hierarchies().unwrap() {
        without = without.writing(&hierarchy.mount);
    }
    let host = Host::new(without);
    host.assert_states(&[
        ("sched", "active"),
        ("block", "active"),
        ("cgroup", "active"),
        ("cpu", "active"),
        ("memory", "active"),
    ]);
    assert_eq!(host.check("cgroups"), check(&Without::new(), "cgroups"));
    host.assert_sched();
    host.assert_profile();
}
