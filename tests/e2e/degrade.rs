//! Hosts that lack something: each lack is really made, costs what the table in `docs/requirements.md`
//! says, and is told by `/status`, by a metric and by `check`. The rest of the agent goes on.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ctrscope_tests::{
    Agent, AgentCommand, Capability, Container, ContainerSpec, Group, Without, agent::describe,
    binaries, cgroup::hierarchies, skip, wait_until, workload::hot::HOT_FUNCTIONS,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::observe::{group, wait_seen};

const PATIENCE: Duration = Duration::from_secs(30);

/// An agent on a host that lacks something, and a container that computes.
struct Host {
    without: Without,
    container: Container,
    agent: Agent,
    _group: Arc<Group>,
}

impl Host {
    fn new(without: Without) -> Self {
        Self::with(without, &ContainerSpec::new("busy", &["burn"]))
    }

    fn with(without: Without, spec: &ContainerSpec) -> Self {
        let group = group();
        let agent = Agent::start_without(&without, &[]).unwrap();
        let container = Container::start(&group, spec).unwrap();
        Self {
            without,
            container,
            agent,
            _group: group,
        }
    }

    /// State and reason of a collector in `/status`, which must be those of the metric, too.
    fn collector(&self, name: &str) -> (String, String) {
        let answer = self.agent.get("/status").unwrap();
        let status: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(status["ready"], true, "{status}");
        let collectors = status["agent"]["collectors"].as_array().unwrap();
        let one = collectors.iter().find(|one| one["name"] == name).unwrap();
        let text = |key: &str| one[key].as_str().unwrap().to_owned();
        let (state, reason) = (text("state"), text("reason"));
        let labels = [("collector", name), ("state", state.as_str())];
        let metrics = self.agent.metrics().unwrap();
        assert_eq!(
            metrics.value("ctrscope_collector_state", &labels),
            Some(1.0)
        );
        assert_eq!(state == "active", reason.is_empty(), "{name}: {reason}");
        (state, reason)
    }

    #[track_caller]
    fn assert_states(&self, expected: &[(&str, &str)]) {
        for (name, state) in expected {
            let (is, reason) = self.collector(name);
            assert_eq!(is, *state, "{name}: {reason}\n{}", self.agent.log());
        }
    }

    /// A collector that is not active: its reason holds all of `named`, and is in the log.
    #[track_caller]
    fn assert_lacks(&self, name: &str, state: &str, named: &[&str]) {
        let (is, reason) = self.collector(name);
        assert_eq!(is, state, "{name}: {reason}");
        let log = self.agent.log();
        for named in named {
            assert!(reason.contains(named), "{name}: no {named:?} in {reason}");
            let line = log
                .lines()
                .find(|line| line.contains(name) && line.contains(named));
            assert!(line.is_some(), "{name}: no {named:?} in the log:\n{log}");
        }
    }

    /// Status, detail and fix of a subject of `check`.
    #[track_caller]
    fn check(&self, subject: &str) -> (String, String) {
        let arguments = ["check", "--json"];
        let output = AgentCommand::run_without(&self.without, &arguments, PATIENCE).unwrap();
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", describe(&output)));
        let one = findings.iter().find(|one| one["subject"] == subject);
        let one = one.unwrap_or_else(|| panic!("no {subject}: {}", describe(&output)));
        let status = one["status"].as_str().unwrap().to_owned();
        assert_eq!(one["fix"].is_null(), status == "ok", "{one}");
        (status, one.to_string())
    }

    #[track_caller]
    fn assert_check(&self, subject: &str, status: &str, named: &str) {
        let (is, text) = self.check(subject);
        assert_eq!(is, status, "{text}");
        assert!(text.contains(named), "no {named:?} in {text}");
    }

    /// The value of a metric of the container.
    fn metric(&self, name: &str) -> Option<f64> {
        let cgroup = self.container.cgroup().trim_start_matches('/');
        let metrics = self.agent.metrics().unwrap();
        metrics.value(name, &[("container", cgroup)])
    }

    #[track_caller]
    fn assert_absent(&self, metrics: &[&str]) {
        for name in metrics {
            assert_eq!(self.metric(name), None, "{name}");
        }
    }

    /// The container's CPU time goes on as the kernel's own account does: it lies between two readings
    /// of that around it, less what a slice that runs lacks of a tick, or files that are read at most
    /// every 0.9 s are old.
    #[track_caller]
    fn assert_cpu_time(&self) {
        const OLD_NS: u64 = 2_000_000_000;
        const HALF_SECOND_NS: u64 = 500_000_000;
        wait_seen(&self.agent, &self.container);
        let begin = self.cpu_seconds();
        wait_until(PATIENCE, "half a second of CPU time", || {
            let earlier = self.container.cpu_usage_ns()?;
            let seen = (self.cpu_seconds() * 1e9) as u64;
            let later = self.container.cpu_usage_ns()?;
            assert!(
                seen <= later && seen + OLD_NS * 2 >= earlier,
                "{earlier} {seen} {later}"
            );
            Ok((seen > (begin * 1e9) as u64 + HALF_SECOND_NS).then_some(()))
        })
        .unwrap();
    }

    fn cpu_seconds(&self) -> f64 {
        let name = "ctrscope_container_cpu_seconds_total";
        wait_until(PATIENCE, name, || Ok(self.metric(name))).unwrap()
    }

    /// The scheduler's numbers are there.
    #[track_caller]
    fn assert_sched(&self) {
        self.assert_cpu_time();
        for name in [
            "ctrscope_container_run_queue_seconds_total",
            "ctrscope_container_context_switches_total",
        ] {
            assert!(self.metric(name).is_some(), "{name}");
        }
    }

    /// A profile of the container in folded form; status and text.
    fn profile(&self) -> (u16, String) {
        let name = wait_seen(&self.agent, &self.container).identity.container;
        let path = format!(
            "/api/v1/profile?container={}&type=cpu&seconds=1&format=folded",
            name.replace('/', "%2F")
        );
        let answer = self.agent.get_slow(&path, PATIENCE).unwrap();
        (answer.status, answer.text())
    }

    /// A profile names the hot functions of the container.
    #[track_caller]
    fn assert_profile(&self) {
        let (status, folded) = self.profile();
        assert_eq!(status, 200, "{folded}");
        assert!(names_hot_functions(&folded), "{folded}");
    }

    /// A profile is refused with a reason.
    #[track_caller]
    fn assert_no_profile(&self, named: &str) {
        let (status, text) = self.profile();
        assert_eq!(status, 501, "{text}");
        assert!(text.contains(named), "no {named:?} in {text}");
    }

    /// Cgroup files alone are collected.
    #[track_caller]
    fn assert_files_alone(&self, named: &str) {
        for name in ["sched", "block", "profile"] {
            let (state, reason) = self.collector(name);
            assert_eq!(state, "unsupported", "{name}");
            assert!(reason.contains(named), "{name}: no {named:?} in {reason}");
        }
        self.assert_lacks("cgroup", "degraded", &[named, "walks"]);
        self.assert_states(&[("cpu", "active"), ("memory", "active")]);
        self.assert_cpu_time();
        self.assert_absent(&[
            "ctrscope_container_run_queue_seconds_total",
            "ctrscope_container_context_switches_total",
            "ctrscope_container_block_io_bytes_total",
        ]);
        assert!(
            self.metric("ctrscope_container_cpu_periods_total")
                .is_some()
        );
        assert!(
            self.metric("ctrscope_container_memory_working_set_bytes")
                .is_some()
        );
        self.assert_no_profile(named);
        assert_eq!(self.agent.get("/readyz").unwrap().status, 200);
        // A command that needs the programs says why it has none.
        let address = self.agent.address().to_string();
        let arguments = ["--server", &address, "runqlat", "1", "1"];
        let output = AgentCommand::run(&arguments, PATIENCE).unwrap();
        let text = describe(&output);
        assert!(
            !output.status.success() && text.contains(named),
            "no {named:?} in {text}"
        );
    }

    /// The end of the container is seen without events.
    fn assert_end_seen(self) {
        let cgroup = self.container.cgroup().to_owned();
        drop(self.container);
        wait_until(PATIENCE, "the end of the container", || {
            let snapshot = self.agent.snapshot_json()?;
            let rows = snapshot["containers"].as_array().unwrap();
            let row = rows.iter().find(|row| row["identity"]["cgroup"] == *cgroup);
            Ok(row.and_then(|row| row["exited_at_unix_ms"].as_u64()))
        })
        .unwrap();
    }
}

fn names_hot_functions(folded: &str) -> bool {
    HOT_FUNCTIONS
        .iter()
        .any(|(function, _)| folded.contains(function))
}

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
    let (Some(cpu), Some(_)) = (v1_mount("cpu"), v1_mount("cpuacct")) else {
        skip("the cpu controller is not in a v1 hierarchy");
        return;
    };
    let host = Host::new(Without::new().mount(&cpu));
    host.assert_cpu_time();
    host.assert_lacks("sched", "degraded", &["no cpu controller", "_other"]);
    host.assert_lacks("cpu", "unsupported", &["no cpu controller"]);
    host.assert_absent(&[
        "ctrscope_container_run_queue_seconds_total",
        "ctrscope_container_cpu_periods_total",
    ]);
    host.assert_check("cgroups", "warn", "without cpu");
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
        ("profile", "active"),
    ]);
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
    host.assert_check("cgroups", "ok", "cpu");
    host.assert_sched();
    host.assert_profile();
}

fn least_but(capability: Capability) -> Without {
    let keep: Vec<_> = Capability::LEAST
        .into_iter()
        .filter(|kept| *kept != capability)
        .collect();
    Without::new().capabilities_but(&keep)
}

#[test]
fn the_least_capabilities_are_enough() {
    let host = Host::new(Without::new().capabilities_but(&Capability::LEAST));
    host.assert_states(&[
        ("sched", "active"),
        ("block", "active"),
        ("cgroup", "active"),
        ("profile", "active"),
    ]);
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

#[test]
fn without_cap_perfmon_cgroup_files_are_collected() {
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
    host.assert_states(&[("sched", "active"), ("block", "active")]);
    host.assert_sched();
    let (status, folded) = host.profile();
    assert_eq!(status, 200, "{folded}");
    assert!(!folded.is_empty());
}

#[test]
fn without_cap_dac_read_search_numbers_and_profiles_stay() {
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
    host.assert_states(&[("sched", "active"), ("block", "active")]);
    host.assert_sched();
    let (status, folded) = host.profile();
    assert_eq!(status, 200, "{folded}");
    assert!(!folded.is_empty());
}

#[test]
fn without_cap_syslog_the_lack_of_kernel_symbols_is_told() {
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
    let keep = Capability::LEAST
        .into_iter()
        .filter(|kept| *kept != Capability::SysResource);
    let keep: Vec<_> = keep.collect();
    let without = Without::new()
        .capabilities_but(&keep)
        .locked_memory_over(64 << 10);
    let host = Host::new(without);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().unwrap().parse::<u32>().unwrap();
    if (number(), number()) < (5, 11) {
        host.assert_files_alone("RLIMIT_MEMLOCK");
        host.assert_check("memlock", "warn", "CAP_SYS_RESOURCE");
    } else {
        host.assert_states(&[
            ("sched", "active"),
            ("block", "active"),
            ("profile", "active"),
        ]);
        host.assert_check("memlock", "ok", "maps do not count since 5.11");
        host.assert_sched();
        host.assert_profile();
    }
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
