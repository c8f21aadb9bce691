//! Facts of a window against the kernel's own files over the same work.

mod network;

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ctrscope::diagnosis::facts::{ContainerFacts, WindowFacts};
use ctrscope_tests::{Agent, Container, ContainerSpec, accounts::BlockAccounts, skip, wait_until};
use tempfile::TempDir;

use crate::observe::{group, leniency};

/// Until the agent has taken a reading that it keeps, and another one.
const READ_PATIENCE: Duration = Duration::from_secs(30);
const WORK_PATIENCE: Duration = Duration::from_secs(60);
/// What the container that writes may write in a second.
const WRITE_LIMIT: u64 = 8 << 20;
/// Of the kernel's counters, which go on while one after the other is read.
const TOLERANCE: f64 = 0.02;

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
fn facts_of(agent: &Agent, container: &Container) -> (ContainerFacts, WindowFacts) {
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

fn text(directory: &Path, name: &str) -> Option<String> {
    fs::read_to_string(directory.join(name)).ok()
}

/// The number of a key in a file of a cgroup; the whole file where `key` is empty. 0 where it is not there.
fn number(directory: &Path, name: &str, key: &str) -> u64 {
    let text = text(directory, name).unwrap_or_default();
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

fn assert_near(what: &str, fact: f64, kernel: f64, floor: f64) {
    let allowed = (kernel * TOLERANCE).max(floor) * leniency() as f64;
    println!("{what}: agent {fact}, kernel {kernel}, allowed {allowed}");
    assert!((fact - kernel).abs() <= allowed, "{what}");
}

/// Periods, throttled periods and throttled seconds of a cgroup.
fn throttling(directory: &Path) -> [f64; 3] {
    let stat = |key| number(directory, "cpu.stat", key) as f64;
    [
        stat("nr_periods"),
        stat("nr_throttled"),
        (stat("throttled_usec") / 1e6).max(stat("throttled_time") / 1e9),
    ]
}

/// A container under test, and how its facts are checked against what the kernel's files said before its
/// work and say after it.
struct Subject {
    container: Container,
    check: Check,
}

type Check = Box<dyn FnOnce(&Container, &ContainerFacts, &WindowFacts)>;
type Prepare = fn(&Container) -> Check;

/// Waits for the facts of all, so that a reading is there from before their work, and looks at the files.
#[test]
fn facts_of_containers_agree_with_the_kernels_files() {
    let data = TempDir::new_in("/var/tmp").unwrap();
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let start = |spec: ContainerSpec| Container::start(&group, &spec.gated().held()).unwrap();
    let burn = ["burn", "--threads", "2", "--seconds", "3"];
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
        "201326592",
        "--block",
        "65536",
    ];
    let thrash = ContainerSpec::new("thrash", &read)
        .memory(24 << 20)
        .data(data.path());
    let write = [
        "write-direct",
        "--file",
        "/data/direct",
        "--size",
        "16777216",
        "--bytes",
        "16777216",
        "--block",
        "65536",
    ];
    let writer = ContainerSpec::new("writer", &write)
        .write_limit(WRITE_LIMIT)
        .data(data.path());
    let makers: [(ContainerSpec, Prepare); 3] = [
        (capped, quotas_and_cpus),
        (thrash, memory),
        (writer, devices),
    ];
    let containers = makers.map(|(spec, prepare)| (start(spec), prepare));
    for (container, _) in &containers {
        facts_of(&agent, container);
    }
    let subjects = containers.map(|(container, prepare)| {
        let check = prepare(&container);
        Subject { container, check }
    });
    for subject in &subjects {
        subject.container.open_gate().unwrap();
    }
    for subject in &subjects {
        subject.container.wait_report(WORK_PATIENCE).unwrap();
    }
    for Subject { container, check } in subjects {
        let (facts, window) = facts_of(&agent, &container);
        check(&container, &facts, &window);
    }
}

/// Quotas of its own and of its pod, bursts, CPUs, weight.
fn quotas_and_cpus(container: &Container) -> Check {
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
    let usage = container.cpu_usage_ns().unwrap();
    let before = [throttling(&own), throttling(&pod)];
    Box::new(move |container, facts, window| {
        let usage = (container.cpu_usage_ns().unwrap() - usage) as f64 / 1e9;
        assert_near("used", facts.cpu.used_seconds.unwrap(), usage, 0.02);
        let quotas = &facts.cpu.quotas;
        assert_eq!(quotas.len(), 2, "{quotas:?}");
        for ((quota, directory), before) in quotas.iter().zip([&own, &pod]).zip(before) {
            let after = throttling(directory);
            let path = &quota.cgroup;
            // A timer may go on for a few periods after the last task slept.
            assert_near(path, quota.periods as f64, after[0] - before[0], 3.0);
            let throttled = quota.throttled_periods as f64;
            assert_near(path, throttled, after[1] - before[1], 2.0);
            assert_near(path, quota.throttled_seconds, after[2] - before[2], 0.2);
        }
        assert_eq!((quotas[0].is_own, quotas[0].quota_cores), (true, 0.3));
        assert!(quotas[0].throttled_periods > 10, "{quotas:?}");
        let burst = if has_burst { 0.01 } else { 0.0 };
        assert_eq!(quotas[0].burst_seconds, burst);
        assert_eq!((quotas[1].is_own, quotas[1].quota_cores), (false, 0.5));
        assert!(container.cgroup().starts_with(&quotas[1].cgroup));

        if window.host.cpus.len() > 1 {
            assert_eq!(facts.cpu.cpuset, Some(vec![0]));
        }
        let entitlement = facts.cpu.entitlement.as_ref().unwrap();
        println!("{entitlement:?} {:?}", facts.cpu.ran_on);
        // 512 shares; runc writes a weight by a formula of its own on v2.
        if is_v1 {
            assert_eq!(entitlement.weight, 50);
        }
        assert!(entitlement.fair_cores <= 1.0 && entitlement.fair_cores > 0.0);
        assert!(entitlement.guaranteed_cores <= 1.0 && entitlement.guaranteed_cores > 0.0);
        let obtained = facts.cpu.used_seconds.unwrap() / facts.seconds;
        assert!((entitlement.obtained_cores - obtained).abs() < 1e-9);
        // It was on the first CPU only, which was idle for no more than that.
        let ran_on = facts.cpu.ran_on.unwrap();
        assert!(ran_on.idle_ratio < 1.0);
    })
}

/// Page cache that does not fit into a limit comes back again and again.
fn memory(container: &Container) -> Check {
    let Ok(own) = container.cgroup_path("memory") else {
        return Box::new(|_, facts, _| assert_eq!(facts.memory.working_set_bytes, None));
    };
    let is_v1 = own.join("memory.failcnt").exists();
    let refaults = move |directory: &Path| -> u64 {
        let prefix = if is_v1 { "total_" } else { "" };
        ["", "_file", "_anon"]
            .iter()
            .map(|suffix| {
                let key = format!("{prefix}workingset_refault{suffix}");
                number(directory, "memory.stat", &key)
            })
            .sum()
    };
    let hits = move |directory: &Path| {
        if is_v1 {
            number(directory, "memory.failcnt", "")
        } else {
            number(directory, "memory.events.local", "max")
        }
    };
    let before = (refaults(&own), hits(&own));
    Box::new(move |_, facts, window| {
        let memory = &facts.memory;
        println!("{memory:?}");
        let limits: Vec<_> = memory
            .limits
            .iter()
            .map(|limit| (limit.is_own, limit.limit_bytes))
            .collect();
        assert_eq!(limits, [(true, Some(24 << 20))]);
        let limit = &memory.limits[0];
        let hit = (hits(&own) - before.1) as f64;
        assert!(hit > 0.0, "the limit was not hit");
        assert_near("hits", limit.limit_hits.unwrap() as f64, hit, 5.0);
        assert!(limit.usage_bytes.unwrap() <= 24 << 20);
        assert!(memory.working_set_bytes.unwrap() <= 24 << 20);
        let stat = text(&own, "memory.stat").unwrap();
        if stat.contains("workingset_refault") {
            let kernel = (refaults(&own) - before.0) as f64;
            assert!(kernel > 1_000.0, "nothing came back");
            assert_near("refaults", memory.refaults.unwrap() as f64, kernel, 100.0);
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
    })
}

/// What it did to a device, and the limit on that.
fn devices(container: &Container) -> Check {
    let before = container.block_accounts().ok();
    Box::new(move |container, facts, window| {
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
        assert!(used.write_bytes >= 16 << 20);
        let limit = &disk.limits[0];
        assert!(limit.is_own);
        assert_eq!(limit.write_bytes_per_second, Some(WRITE_LIMIT));
        assert!(limit.used.write_bytes >= 16 << 20);
        assert!(disk.devices.contains_key(&limit.device));
        let device = &window.host.disks[&limit.device];
        println!("{device:?}");
        assert!(device.bytes >= 16 << 20);
        assert!(device.busy_ratio > 0.0 && device.busy_ratio <= 1.0);
        assert!(device.mean_latency_seconds > Some(0.0));
    })
}

#[test]
fn the_machine_is_told_as_its_files_tell_it() {
    let agent = Agent::start(&[]).unwrap();
    let facts = wait_until(READ_PATIENCE, "a window", || Ok(facts(&agent))).unwrap();
    let host = facts.host;
    let online = fs::read_to_string("/proc/stat").unwrap();
    let online = online.lines().filter(|line| line.starts_with("cpu"));
    assert_eq!(host.cpus.len(), online.count() - 1);
    for cpu in &host.cpus {
        let sum =
            cpu.idle_ratio + cpu.task_ratio + cpu.irq_ratio + cpu.softirq_ratio + cpu.steal_ratio;
        assert!((sum - 1.0).abs() < 1e-9, "{cpu:?}");
    }
    assert!(host.load.unwrap()[0] >= 0.0);
    let interfaces: Vec<String> = fs::read_to_string("/proc/net/dev")
        .unwrap()
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .filter(|name| name != "lo")
        .collect();
    for name in interfaces {
        assert!(host.interfaces.contains_key(&name), "{name}");
    }
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
