//! Facts of a window: what is exact in them, and what the kernel's files say of the same work.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ctrscope::diagnosis::facts::{ContainerFacts, WindowFacts};
use ctrscope_tests::{
    Agent, Container, ContainerSpec, Group, accounts::BlockAccounts, skip, wait_until,
};
use tempfile::TempDir;

use crate::observe::group;

/// Until the agent has taken a reading that it keeps, and another one: it takes one every ten seconds.
const READ_PATIENCE: Duration = Duration::from_secs(60);
const WORK_PATIENCE: Duration = Duration::from_secs(60);
/// What the container that writes may write in a second.
const WRITE_LIMIT: u64 = 8 << 20;

/// The facts of the last minute.
fn facts(agent: &Agent) -> Option<WindowFacts> {
    let answer = agent.get("/api/v1/facts?window=60").unwrap();
    // Not before there are two readings.
    (answer.status == 200)
        .then(|| serde_json::from_str(&answer.text()).expect("the JSON of /api/v1/facts are facts"))
}

fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// The facts of a container in a window that ends after this call began.
pub(crate) fn facts_of(agent: &Agent, container: &Container) -> (ContainerFacts, WindowFacts) {
    let now = now_unix_ms();
    wait_until(READ_PATIENCE, "facts of the container", || {
        let Some(facts) = facts(agent).filter(|facts| facts.ended_at_unix_ms >= now) else {
            return Ok(None);
        };
        let found = facts
            .containers
            .iter()
            .find(|facts| facts.identity.cgroup == container.cgroup());
        Ok(found.cloned().map(|found| (found, facts)))
    })
    .unwrap()
}

/// The number of a key in a file of a cgroup; the whole file where `key` is empty. 0 where it is not there.
pub(crate) fn number(directory: &Path, name: &str, key: &str) -> u64 {
    let text = fs::read_to_string(directory.join(name)).unwrap_or_default();
    let value = if key.is_empty() {
        Some(text.trim())
    } else {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            (name == key).then_some(value)
        })
    };
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// How long the containers work.
pub(crate) struct Amounts {
    pub(crate) burn_seconds: &'static str,
    pub(crate) read_bytes: &'static str,
    pub(crate) write_bytes: u64,
}

/// Containers that work, in the order in which they are checked.
pub(crate) struct Subjects {
    /// With quotas of its own and of its pod, and one CPU.
    pub(crate) capped: Container,
    /// With a page cache that does not fit into its limit.
    pub(crate) thrash: Container,
    /// With a limit on what it writes to a disk.
    pub(crate) writer: Container,
    _data: TempDir,
}

impl Subjects {
    /// Starts them and waits for the facts of all, so that a reading is there from before their work.
    pub(crate) fn start(agent: &Agent, group: &Arc<Group>, amounts: &Amounts) -> Self {
        let data = TempDir::new_in("/var/tmp").unwrap();
        let start = |spec: ContainerSpec| Container::start(group, &spec.gated().held()).unwrap();
        let burn = ["burn", "--threads", "2", "--seconds", amounts.burn_seconds];
        let capped = ContainerSpec::new("capped", &burn)
            .pod("pod")
            .quota(30_000, 100_000)
            .shares(512)
            .cpus("0");
        let read = [
            "read-buffered",
            "--file",
            "/data/cached",
            "--size",
            "67108864",
            "--bytes",
            amounts.read_bytes,
            "--block",
            "65536",
        ];
        let thrash = ContainerSpec::new("thrash", &read)
            .memory(24 << 20)
            .data(data.path());
        let bytes = amounts.write_bytes.to_string();
        let write = [
            "write-direct",
            "--file",
            "/data/direct",
            "--size",
            &bytes,
            "--bytes",
            &bytes,
            "--block",
            "65536",
        ];
        let writer = ContainerSpec::new("writer", &write)
            .write_limit(WRITE_LIMIT)
            .data(data.path());
        let all = Self {
            capped: start(capped),
            thrash: start(thrash),
            writer: start(writer),
            _data: data,
        };
        for container in all.each() {
            facts_of(agent, container);
        }
        all
    }

    fn each(&self) -> [&Container; 3] {
        [&self.capped, &self.thrash, &self.writer]
    }

    /// Lets them work, all at once, to the end of the last one's work.
    pub(crate) fn work(&self) {
        for container in self.each() {
            container.open_gate().unwrap();
        }
        for container in self.each() {
            container.wait_report(WORK_PATIENCE).unwrap();
        }
    }
}

#[test]
fn facts_of_containers_are_what_the_kernels_files_say() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let amounts = Amounts {
        burn_seconds: "1",
        read_bytes: "134217728",
        write_bytes: 4 << 20,
    };
    let subjects = Subjects::start(&agent, &group, &amounts);
    let capped = Quotas::set(&subjects.capped);
    let thrash = MemoryAccount::read(&subjects.thrash);
    let before = subjects.writer.block_accounts().ok();
    subjects.work();

    let (facts, window) = facts_of(&agent, &subjects.capped);
    capped.check(&subjects.capped, &facts, &window);
    let (facts, window) = facts_of(&agent, &subjects.thrash);
    check_memory(thrash.as_ref(), &facts, &window);
    let (facts, window) = facts_of(&agent, &subjects.writer);
    check_devices(
        &subjects.writer,
        before,
        amounts.write_bytes,
        &facts,
        &window,
    );
}

/// Quotas of a container and of its pod.
pub(crate) struct Quotas {
    /// Directories: its own and its pod's.
    pub(crate) directories: [PathBuf; 2],
    is_v1: bool,
    has_burst: bool,
}

impl Quotas {
    /// Gives the pod a quota and the container a burst.
    pub(crate) fn set(container: &Container) -> Self {
        let own = container.cgroup_path("cpu").unwrap();
        let pod = own.parent().unwrap().to_owned();
        let is_v1 = own.join("cpu.cfs_quota_us").exists();
        if is_v1 {
            fs::write(pod.join("cpu.cfs_quota_us"), "50000").unwrap();
        } else {
            fs::write(pod.join("cpu.max"), "50000 100000").unwrap();
        }
        let burst = own.join(if is_v1 {
            "cpu.cfs_burst_us"
        } else {
            "cpu.max.burst"
        });
        // Since 5.14.
        let has_burst = burst.exists();
        if has_burst {
            fs::write(burst, "10000").unwrap();
        }
        Self {
            directories: [own, pod],
            is_v1,
            has_burst,
        }
    }

    /// Quotas, bursts, CPUs and weight, which are exact.
    pub(crate) fn check(
        &self,
        container: &Container,
        facts: &ContainerFacts,
        window: &WindowFacts,
    ) {
        let quotas = &facts.cpu.quotas;
        assert_eq!(quotas.len(), 2, "{quotas:?}");
        assert_eq!((quotas[0].is_own, quotas[0].quota_cores), (true, 0.3));
        assert!(quotas[0].periods > 0, "{quotas:?}");
        let burst = if self.has_burst { 0.01 } else { 0.0 };
        assert_eq!(quotas[0].burst_seconds, burst);
        assert_eq!((quotas[1].is_own, quotas[1].quota_cores), (false, 0.5));
        assert!(container.cgroup().starts_with(&quotas[1].cgroup));

        if window.host.cpus.len() > 1 {
            assert_eq!(facts.cpu.cpuset, Some(vec![0]));
        }
        let entitlement = facts.cpu.entitlement.as_ref().unwrap();
        println!("{entitlement:?} {:?}", facts.cpu.ran_on);
        // 512 shares; runc writes a weight by a formula of its own on v2.
        if self.is_v1 {
            assert_eq!(entitlement.weight, 50);
        }
        assert!(entitlement.fair_cores <= 1.0 && entitlement.fair_cores > 0.0);
        assert!(entitlement.guaranteed_cores <= 1.0 && entitlement.guaranteed_cores > 0.0);
        let obtained = facts.cpu.used_seconds.unwrap() / facts.seconds;
        assert!((entitlement.obtained_cores - obtained).abs() < 1e-9);
        // It was on the first CPU only, which was idle for no more than that.
        let ran_on = facts.cpu.ran_on.unwrap();
        assert!(ran_on.idle_ratio < 1.0);
    }
}

/// What the kernel's files say of a container's memory.
pub(crate) struct MemoryAccount {
    directory: PathBuf,
    /// How often it was at its limit.
    pub(crate) hits: u64,
    /// Pages of its page cache that came back.
    pub(crate) refaults: u64,
}

impl MemoryAccount {
    /// `None` where there is no memory controller.
    pub(crate) fn read(container: &Container) -> Option<Self> {
        let directory = container.cgroup_path("memory").ok()?;
        Some(Self::of(directory))
    }

    fn of(directory: PathBuf) -> Self {
        let is_v1 = directory.join("memory.failcnt").exists();
        let prefix = if is_v1 { "total_" } else { "" };
        let refaults = ["", "_file", "_anon"].iter().map(|suffix| {
            let key = format!("{prefix}workingset_refault{suffix}");
            number(&directory, "memory.stat", &key)
        });
        let refaults = refaults.sum();
        let hits = if is_v1 {
            number(&directory, "memory.failcnt", "")
        } else {
            number(&directory, "memory.events.local", "max")
        };
        Self {
            directory,
            hits,
            refaults,
        }
    }

    /// What was added since.
    pub(crate) fn added(&self) -> Self {
        let now = Self::of(self.directory.clone());
        Self {
            hits: now.hits - self.hits,
            refaults: now.refaults - self.refaults,
            directory: now.directory,
        }
    }
}

/// Limits are exact; page cache that does not fit into one comes back again and again.
pub(crate) fn check_memory(
    before: Option<&MemoryAccount>,
    facts: &ContainerFacts,
    window: &WindowFacts,
) {
    let memory = &facts.memory;
    println!("{memory:?}");
    let Some(before) = before else {
        assert_eq!(memory.working_set_bytes, None);
        return;
    };
    let limits: Vec<_> = memory
        .limits
        .iter()
        .map(|limit| (limit.is_own, limit.limit_bytes))
        .collect();
    assert_eq!(limits, [(true, Some(24 << 20))]);
    let limit = &memory.limits[0];
    assert!(before.added().hits > 0, "the limit was not hit");
    assert!(limit.limit_hits > Some(0));
    assert!(limit.usage_bytes.unwrap() <= 24 << 20);
    assert!(memory.working_set_bytes.unwrap() <= 24 << 20);
    let stat = fs::read_to_string(before.directory.join("memory.stat")).unwrap();
    if stat.contains("workingset_refault") {
        assert!(before.added().refaults > 1_000, "nothing came back");
        assert!(memory.refaults > Some(0));
    } else {
        assert_eq!(memory.refaults, None);
    }
    let tells_direct = stat.contains("pgsteal_direct");
    assert_eq!(memory.direct_reclaim_pages.is_some(), tells_direct);
    assert!(
        memory
            .direct_reclaim_pages
            .is_none_or(|pages| pages > 1_000)
    );
    assert_eq!(memory.oom_kills, Some(0));

    let host = window.host.memory;
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().next().unwrap().split_whitespace().nth(1);
    let total: u64 = total.unwrap().parse().unwrap();
    assert_eq!(host.total_bytes, Some(total << 10));
    assert!(host.available_bytes < host.total_bytes);
    assert!(host.dirty_threshold_bytes > Some(0));
    assert!(host.oom_kills.is_some());
}

/// What it did to a device, to the byte, and the limit on that.
pub(crate) fn check_devices(
    container: &Container,
    before: Option<BlockAccounts>,
    written: u64,
    facts: &ContainerFacts,
    window: &WindowFacts,
) {
    let disk = &facts.disk;
    println!("{disk:?}");
    let Some(before) = before else {
        assert!(disk.devices.is_empty() && disk.limits.is_empty());
        return;
    };
    if disk.devices.is_empty() && disk.limits.is_empty() {
        skip("the directory for data is on no disk");
        return;
    }
    let after = container.block_accounts().unwrap();
    let mut sum = BlockAccounts::default();
    for device in disk.devices.values() {
        sum.read_bytes += device.read_bytes;
        sum.write_bytes += device.write_bytes;
        sum.reads += device.reads;
        sum.writes += device.writes;
    }
    let used = BlockAccounts {
        read_bytes: after.read_bytes - before.read_bytes,
        write_bytes: after.write_bytes - before.write_bytes,
        reads: after.reads - before.reads,
        writes: after.writes - before.writes,
    };
    assert_eq!(sum, used, "the kernel's account");
    assert!(used.write_bytes >= written);
    let limit = &disk.limits[0];
    assert!(limit.is_own);
    assert_eq!(limit.write_bytes_per_second, Some(WRITE_LIMIT));
    assert!(limit.used.write_bytes >= written);
    assert!(disk.devices.contains_key(&limit.device));
    let device = &window.host.disks[&limit.device];
    println!("{device:?}");
    assert!(device.bytes >= written);
    assert!(device.busy_ratio > 0.0 && device.busy_ratio <= 1.0);
    assert!(device.mean_latency_seconds > Some(0.0));
}

#[test]
fn the_machine_is_told_as_its_files_tell_it() {
    let agent = Agent::start(&[]).unwrap();
    let first = wait_until(READ_PATIENCE, "a window", || Ok(facts(&agent))).unwrap();
    let host = first.host;
    let online = fs::read_to_string("/proc/stat").unwrap();
    let online = online.lines().filter(|line| line.starts_with("cpu"));
    assert_eq!(host.cpus.len(), online.count() - 1);
    for cpu in &host.cpus {
        let sum =
            cpu.idle_ratio + cpu.task_ratio + cpu.irq_ratio + cpu.softirq_ratio + cpu.steal_ratio;
        assert!((sum - 1.0).abs() < 1e-9, "{cpu:?}");
    }
    assert!(host.load.unwrap()[0] >= 0.0);
    // One that came up meanwhile is in the next facts.
    wait_until(READ_PATIENCE, "all network interfaces", || {
        let Some(facts) = facts(&agent) else {
            return Ok(None);
        };
        let dev = fs::read_to_string("/proc/net/dev")?;
        let is_there = |name: &str| name == "lo" || facts.host.interfaces.contains_key(name);
        let mut names = dev.lines().filter_map(|line| line.split_once(':'));
        Ok(names.all(|(name, _)| is_there(name.trim())).then_some(()))
    })
    .unwrap();
    let has_pressure = fs::read_to_string("/proc/pressure/cpu").is_ok();
    assert_eq!(host.pressure.cpu_waiting.is_some(), has_pressure);
    assert!(host.controllers.memory.is_some());
    let status = agent.get("/status").unwrap().text();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let collectors = status["agent"]["collectors"].as_array().unwrap();
    let facts = collectors
        .iter()
        .find(|one| one["name"] == "facts")
        .unwrap();
    assert_eq!(facts["state"], "active", "{facts}");
}
