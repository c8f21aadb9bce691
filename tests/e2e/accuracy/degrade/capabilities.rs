//! Each of the other capabilities dropped in turn.

use std::{fs, os::unix::fs::PermissionsExt as _};

use ctrscope_tests::{
    AgentCommand, Capability, ContainerSpec, Without,
    agent::describe,
    binaries,
    perf::{Mainline, hold_level, needs_sys_admin},
    skip,
};
use tempfile::TempDir;

use crate::degrade::{Host, PATIENCE, capabilities::least_but, kernel_version};

/// Debian's and Ubuntu's kernels, as they are set when installed.
#[test]
fn where_perf_events_need_cap_sys_admin_profiles_alone_are_refused() {
    let _level = hold_level().unwrap();
    if !needs_sys_admin().unwrap() {
        skip("this kernel lets CAP_PERFMON sample");
        return;
    }
    let host = Host::new(Without::new().capabilities_but(&Capability::LEAST));
    let fix = "kernel.perf_event_paranoid=2";
    host.assert_lacks("profile", "unsupported", &[fix, "CAP_SYS_ADMIN"]);
    host.assert_no_profile(fix);
    host.assert_check("perf events", "missing", fix);
    host.assert_check("perf_event_paranoid", "ok", "CAP_SYS_ADMIN");
    host.assert_states(&[("sched", "active"), ("block", "active")]);
    host.assert_sched();
}

#[test]
fn without_cap_perfmon_cgroup_files_are_collected() {
    let _level = hold_level().unwrap();
    let host = Host::new(least_but(Capability::Perfmon));
    host.assert_files_alone("run the agent with CAP_PERFMON");
    host.assert_check("CAP_PERFMON", "missing", "run the agent with CAP_PERFMON");
    // Paranoid as most distributions are: the setting counts without the capability.
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap();
    if paranoid.trim().parse::<i32>().unwrap() > 0 {
        host.assert_check("perf events", "missing", "CAP_PERFMON");
        host.assert_check("perf_event_paranoid", "missing", "CAP_PERFMON");
    }
}

#[test]
fn with_neither_of_them_it_does_not_start() {
    let without = Without::new().capabilities_but(&[Capability::SysPtrace]);
    let arguments = ["run", "--listen", "127.0.0.1:0"];
    let output = AgentCommand::run_without(&without, &arguments, PATIENCE).unwrap();
    assert!(!output.status.success());
    let text = describe(&output);
    assert!(
        text.contains("CAP_BPF") && text.contains("CAP_PERFMON"),
        "{text}"
    );
}

#[test]
fn without_cap_sys_ptrace_numbers_and_kernel_frames_stay() {
    let _mainline = Mainline::set().unwrap();
    let host = Host::new(least_but(Capability::SysPtrace));
    host.assert_lacks(
        "profile",
        "degraded",
        &["run the agent with CAP_SYS_PTRACE"],
    );
    host.assert_check(
        "CAP_SYS_PTRACE",
        "warn",
        "run the agent with CAP_SYS_PTRACE",
    );
    host.assert_numbers_and_profile();
}

#[test]
fn without_cap_dac_read_search_numbers_and_profiles_stay() {
    let _mainline = Mainline::set().unwrap();
    let directory = TempDir::new().unwrap();
    let binary = directory.path().join("workload");
    fs::copy(binaries::workload().unwrap(), &binary).unwrap();
    // Anyone may run it, its owner alone may read it, and its owner is not root.
    std::os::unix::fs::chown(&binary, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o711)).unwrap();
    let spec = ContainerSpec::new("owned", &["burn"]).binary(&binary);

    let host = Host::with(least_but(Capability::DacReadSearch), &spec);
    let fix = "run the agent with CAP_DAC_READ_SEARCH";
    host.assert_lacks("profile", "degraded", &[fix]);
    host.assert_check("CAP_DAC_READ_SEARCH", "warn", fix);
    host.assert_numbers_and_profile();
}

#[test]
fn without_cap_syslog_the_lack_of_kernel_symbols_is_told() {
    let _mainline = Mainline::set().unwrap();
    let host = Host::new(least_but(Capability::Syslog));
    host.assert_states(&[("sched", "active"), ("block", "active")]);
    host.assert_sched();
    host.assert_profile();
    let number = |name: &str| -> i32 {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
        text.trim().parse().unwrap()
    };
    // `kallsyms_show_value`: for everybody where both are low.
    if number("kptr_restrict") == 0 && number("perf_event_paranoid") <= 1 {
        host.assert_check("kernel symbols", "ok", "kptr_restrict");
        return;
    }
    host.assert_lacks("profile", "degraded", &["kernel symbols"]);
    let fix = if number("kptr_restrict") > 1 {
        "kptr_restrict=1"
    } else {
        "CAP_SYSLOG"
    };
    host.assert_check("kernel symbols", "warn", fix);
}

#[test]
fn little_locked_memory_matters_only_where_maps_count() {
    let _mainline = Mainline::set().unwrap();
    let host = Host::new(least_but(Capability::SysResource).locked_memory_over(64 << 10));
    if kernel_version() < (5, 11) {
        host.assert_files_alone("RLIMIT_MEMLOCK");
        host.assert_check("memlock", "warn", "CAP_SYS_RESOURCE");
    } else {
        host.assert_states(&[("sched", "active"), ("block", "active")]);
        host.assert_profile_active();
        host.assert_check("memlock", "ok", "maps do not count since 5.11");
        host.assert_sched();
        host.assert_profile();
    }
}
