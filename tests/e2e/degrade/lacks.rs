//! Mounts, kernel features and system calls taken away, one at a time.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ctrscope_tests::{
    AgentCommand, ContainerSpec, Without, agent::describe, cgroup::hierarchies, skip, wait_until,
};
use tempfile::TempDir;

use crate::observe::wait_seen;

use super::{Host, PATIENCE, check, names_hot_functions};

/// The mount point of a v1 controller; `None` where it is in the unified hierarchy.
fn v1_mount(controller: &str) -> Option<PathBuf> {
    let found = hierarchies().unwrap().into_iter().find(|hierarchy| {
        let controllers = hierarchy.controllers.as_ref();
        controllers.is_some_and(|names| names.iter().any(|name| name == controller))
    });
    found.map(|hierarchy| hierarchy.mount)
}

/// A file with a text, and the directory that holds it.
fn file(text: &str) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, text).unwrap();
    (directory, path)
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
fn without_pressure_its_metrics_alone_are_absent() {
    if !Path::new("/proc/pressure").exists() {
        // Then it is the host itself that lacks it.
        let host = Host::new(Without::new());
        host.assert_lacks("pressure", "unsupported", &["CONFIG_PSI=y"]);
        host.assert_absent(&["ctrscope_container_pressure_cpu_waiting_seconds_total"]);
        host.assert_sched();
        return;
    }
    let without = if fs::read("/proc/pressure/cpu").is_ok() {
        Without::new().directory(Path::new("/proc/pressure"))
    } else {
        Without::new()
    };
    let host = Host::new(without);
    host.assert_sched();
    let fix = if fs::read("/proc/pressure/cpu").is_ok() {
        "CONFIG_PSI=y"
    } else {
        "psi=1"
    };
    host.assert_lacks("pressure", "unsupported", &[fix]);
    host.assert_check("psi", "warn", fix);
    let metrics = host.agent.get("/metrics").unwrap().text();
    assert!(
        !metrics.contains("\nctrscope_container_pressure"),
        "{metrics}"
    );
    host.assert_states(&[("sched", "active"), ("memory", "active")]);
    host.assert_profile();
}

/// Where the kernel has the controller and the agent does not see its tree, a request's css has an id
/// that means another cgroup elsewhere.
#[test]
fn without_a_block_controller_no_container_is_charged_with_requests() {
    let Some(mount) = v1_mount("blkio") else {
        skip("the block controller is not in a v1 hierarchy");
        return;
    };
    let data = TempDir::new_in("/var/tmp").unwrap();
    let host = Host::with(
        Without::new().mount(&mount),
        &ContainerSpec::new("busy", &["burn"]).data(data.path()),
    );
    host.assert_sched();
    host.assert_lacks(
        "block",
        "degraded",
        &["no blkio or io controller", "--cgroup-root"],
    );
    host.assert_check("cgroups", "warn", "without io");
    let metrics = host.agent.get("/metrics").unwrap().text();
    let charged: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("ctrscope_container_block_io_bytes_total"))
        .filter(|line| !line.contains("container=\"_other\""))
        .collect();
    assert!(charged.is_empty(), "{charged:?}");
    host.assert_states(&[("sched", "active"), ("memory", "active")]);
    host.assert_profile();
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
        "ctrscope_container_cpu_periods_total",
    ]);
    host.assert_check("cgroups", "warn", "without cpu");
    host.assert_lacks("profile", "degraded", &["without a cpu controller"]);
    host.assert_no_profile("without a cpu controller");
    let path = "/api/v1/profile?type=cpu&seconds=1&format=folded";
    let answer = host.agent.get_slow(path, PATIENCE).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(names_hot_functions(&answer.text()), "{}", answer.text());
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
fn where_bpf_is_refused_cgroup_files_are_collected() {
    let host = Host::new(Without::new().call(libc::SYS_bpf));
    host.assert_files_alone("seccomp");
}

#[test]
fn tracefs_is_not_needed() {
    let without = Without::new()
        .directory(Path::new("/sys/kernel/tracing"))
        .directory(Path::new("/sys/kernel/debug"));
    let host = Host::new(without);
    host.assert_check("tracefs", "ok", "no program needs it");
    host.assert_states(&[
        ("sched", "active"),
        ("block", "active"),
        ("cgroup", "active"),
    ]);
    host.assert_profile_active();
    host.assert_sched();
    host.assert_profile();
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

/// Runs where the kernel was booted with `lockdown=confidentiality`.
#[test]
fn under_lockdown_the_programs_that_read_by_helper_are_refused() {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if !lockdown.contains("[confidentiality]") {
        skip("the kernel is not locked down to confidentiality");
        return;
    }
    let host = Host::new(Without::new());
    host.assert_check("lockdown", "warn", "lockdown=integrity");
    host.assert_lacks("sched", "degraded", &["read_clock", "lockdown=integrity"]);
    host.assert_lacks(
        "cgroup",
        "degraded",
        &["cgroup_mkdir", "lockdown=integrity"],
    );
    host.assert_lacks("profile", "unsupported", &["lockdown=integrity"]);
    host.assert_states(&[("block", "active"), ("memory", "active")]);
    host.assert_no_profile("lockdown");
    // Slices show when they end, which a burning task's do at each tick that finds another one.
    let waits = "ctrscope_container_run_queue_seconds_total";
    wait_until(PATIENCE, waits, || Ok(host.metric(waits))).unwrap();
    host.assert_end_seen();
}

#[test]
fn kernels_known_to_lock_up_are_warned_of() {
    let (_directory, release) = file("6.1.0-18-amd64\n");
    let path = Path::new("/proc/sys/kernel/osrelease");
    let host = Host::new(Without::new().replaced(path, &release));
    host.assert_check("kernel", "warn", "6.2");
    host.assert_lacks("profile", "degraded", &["5.19 to 6.1"]);
    host.assert_states(&[("sched", "active"), ("block", "active")]);
    host.assert_sched();
}
