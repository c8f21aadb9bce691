//! Mounts, kernel features and system calls taken away that the gate does not take away.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ctrscope_tests::{ContainerSpec, Without, skip, wait_until};
use tempfile::TempDir;

use crate::degrade::{Host, PATIENCE, lacks::v1_mount};

/// A file with a text, and the directory that holds it.
fn file(text: &str) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, text).unwrap();
    (directory, path)
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
    host.assert_check("kernel", "warn", "6.4");
    host.assert_lacks("profile", "degraded", &["5.19 to 6.3"]);
    host.assert_states(&[("sched", "active"), ("block", "active")]);
    host.assert_sched();
}
