//! Hosts that lack something: each lack is really made, costs what the table in `docs/requirements.md`
//! says, and is told by `/status`, by a metric and by `check`. The rest of the agent goes on.

pub(crate) mod capabilities;
pub(crate) mod lacks;

use std::{fs, sync::Arc, time::Duration};

use ctrscope_tests::{
    Agent, AgentCommand, Container, ContainerSpec, Group, Without, agent::describe, wait_until,
    workload::hot::HOT_FUNCTIONS,
};
use serde_json::Value;

use crate::observe::{group, wait_seen};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An agent on a host that lacks something, and a container that computes.
pub(crate) struct Host {
    pub(crate) without: Without,
    pub(crate) container: Container,
    pub(crate) agent: Agent,
    _group: Arc<Group>,
}

impl Host {
    pub(crate) fn new(without: Without) -> Self {
        Self::with(without, &ContainerSpec::new("busy", &["burn"]))
    }

    pub(crate) fn with(without: Without, spec: &ContainerSpec) -> Self {
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
    pub(crate) fn collector(&self, name: &str) -> (String, String) {
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
    pub(crate) fn assert_states(&self, expected: &[(&str, &str)]) {
        for (name, state) in expected {
            let (is, reason) = self.collector(name);
            assert_eq!(is, *state, "{name}: {reason}\n{}", self.agent.log());
        }
    }

    /// A collector that is not active: its reason holds all of `named`, and is in the log.
    #[track_caller]
    pub(crate) fn assert_lacks(&self, name: &str, state: &str, named: &[&str]) {
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

    /// Status of a subject of `check`, and all that it says of it.
    #[track_caller]
    pub(crate) fn check(&self, subject: &str) -> (String, String) {
        check(&self.without, subject)
    }

    #[track_caller]
    pub(crate) fn assert_check(&self, subject: &str, status: &str, named: &str) {
        let (is, text) = self.check(subject);
        assert_eq!(is, status, "{text}");
        assert!(text.contains(named), "no {named:?} in {text}");
    }

    /// The value of a metric of the container.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let cgroup = self.container.cgroup().trim_start_matches('/');
        let metrics = self.agent.metrics().unwrap();
        metrics.value(name, &[("container", cgroup)])
    }

    #[track_caller]
    pub(crate) fn assert_absent(&self, metrics: &[&str]) {
        for name in metrics {
            assert_eq!(self.metric(name), None, "{name}");
        }
    }

    /// The container's CPU time goes on as the kernel's own account does: it lies between two readings
    /// of that around it, less what a slice that runs lacks of a tick, or a snapshot is old.
    #[track_caller]
    pub(crate) fn assert_cpu_time(&self) {
        const OLD_NS: u64 = 4_000_000_000;
        const HALF_SECOND_NS: u64 = 500_000_000;
        // The agent adds the slice that runs up to the run queue's clock; the kernel's account is brought
        // up to date at a tick or a switch (`update_curr`, kernel/sched/fair.c), which is 10 ms apart
        // where HZ is lowest. So the agent may be ahead of it.
        const TICK_NS: u64 = 10_000_000;
        wait_seen(&self.agent, &self.container);
        let begin = (self.cpu_seconds() * 1e9) as u64;
        wait_until(PATIENCE, "half a second of CPU time, not old", || {
            let earlier = self.container.cpu_usage_ns()?;
            let seen = (self.cpu_seconds() * 1e9) as u64;
            let later = self.container.cpu_usage_ns()?;
            assert!(seen <= later + TICK_NS, "{earlier} {seen} {later}");
            // On a busy machine a single snapshot may be older.
            let is_recent = seen + OLD_NS >= earlier;
            Ok((is_recent && seen > begin + HALF_SECOND_NS).then_some(()))
        })
        .unwrap();
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        let name = "ctrscope_container_cpu_seconds_total";
        wait_until(PATIENCE, name, || Ok(self.metric(name))).unwrap()
    }

    /// The scheduler's numbers are there.
    #[track_caller]
    pub(crate) fn assert_sched(&self) {
        self.assert_cpu_time();
        for name in [
            "ctrscope_container_run_queue_seconds_total",
            "ctrscope_container_context_switches_total",
        ] {
            assert!(self.metric(name).is_some(), "{name}");
        }
    }

    /// A profile of the container in folded form; status and text.
    pub(crate) fn profile(&self) -> (u16, String) {
        let name = wait_seen(&self.agent, &self.container)
            .identity
            .container
            .clone();
        let path = format!(
            "/api/v1/profile?container={}&type=cpu&seconds=1&format=folded",
            name.replace('/', "%2F")
        );
        let answer = self.agent.get_slow(&path, PATIENCE).unwrap();
        (answer.status, answer.text())
    }

    /// Nothing that this test took away costs profiles anything.
    #[track_caller]
    pub(crate) fn assert_profile_active(&self) {
        // Such a kernel is warned of whatever else there is.
        if ((5, 19)..=(6, 1)).contains(&kernel_version()) {
            let (state, reason) = self.collector("profile");
            assert_eq!(state, "degraded");
            let is_all = reason.starts_with("kernel: ") && !reason.contains("; ");
            assert!(is_all && reason.contains("5.19 to 6.1"), "{reason}");
        } else {
            self.assert_states(&[("profile", "active")]);
        }
    }

    /// A profile names the hot functions of the container. On a busy machine a recording may have met
    /// none of them; then another one is made.
    #[track_caller]
    pub(crate) fn assert_profile(&self) {
        self.wait_profile("hot functions in a profile", names_hot_functions);
    }

    /// Records until a profile is as it should be; each must be answered with one.
    #[track_caller]
    fn wait_profile(&self, what: &str, is_good: impl Fn(&str) -> bool) {
        let mut last = String::new();
        let found = wait_until(PATIENCE, what, || {
            let (status, folded) = self.profile();
            assert_eq!(status, 200, "{folded}");
            last = folded;
            Ok(is_good(&last).then_some(()))
        });
        found.unwrap_or_else(|error| panic!("{error:#}: {last}"));
    }

    /// Numbers and profiles are there, if not all names in them.
    #[track_caller]
    pub(crate) fn assert_numbers_and_profile(&self) {
        self.assert_states(&[("sched", "active"), ("block", "active")]);
        self.assert_sched();
        self.wait_profile("samples in a profile", |folded| !folded.is_empty());
    }

    /// A profile is refused with a reason.
    #[track_caller]
    pub(crate) fn assert_no_profile(&self, named: &str) {
        let (status, text) = self.profile();
        assert_eq!(status, 501, "{text}");
        assert!(text.contains(named), "no {named:?} in {text}");
    }

    /// Cgroup files alone are collected.
    #[track_caller]
    pub(crate) fn assert_files_alone(&self, named: &str) {
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
        assert!(self.metric("ctrscope_container_cpu_weight").is_some());
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
    pub(crate) fn assert_end_seen(self) {
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

pub(crate) fn names_hot_functions(folded: &str) -> bool {
    HOT_FUNCTIONS
        .iter()
        .any(|(function, _)| folded.contains(function))
}

/// As of [`Host::check`].
#[track_caller]
pub(crate) fn check(without: &Without, subject: &str) -> (String, String) {
    let output = AgentCommand::run_without(without, &["check", "--json"], PATIENCE).unwrap();
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", describe(&output)));
    let one = findings.iter().find(|one| one["subject"] == subject);
    let one = one.unwrap_or_else(|| panic!("no {subject}: {}", describe(&output)));
    let status = one["status"].as_str().unwrap().to_owned();
    assert_eq!(one["fix"].is_null(), status == "ok", "{one}");
    (status, one.to_string())
}

/// The first two numbers of this kernel's release.
pub(crate) fn kernel_version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().unwrap().parse().unwrap();
    (number(), number())
}
