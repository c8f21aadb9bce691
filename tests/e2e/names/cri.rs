//! Pods of a real containerd, made through CRI.

use ctrscope_tests::{
    Agent, Metrics,
    containerd::{Containerd, Pod, Resources},
    wait_until,
};
use serde_json::Value;

use super::{CPU, PATIENCE, agent_at, runtimes, wait_exit};

const BURN: [&str; 3] = ["burn", "--seconds", "600"];
const BRIEF: [&str; 3] = ["burn", "--seconds", "1"];

/// CPU seconds of the series of a pod's container.
pub(crate) fn cpu_of(metrics: &Metrics, pod: &str, container: &str) -> Option<f64> {
    let labels = [
        ("namespace", "shop"),
        ("pod", pod),
        ("container", container),
    ];
    metrics.value(CPU, &labels)
}

fn wait_named(agent: &Agent, pod: &str, container: &str) -> f64 {
    wait_until(PATIENCE, "it is named", || {
        Ok(cpu_of(&agent.metrics()?, pod, container))
    })
    .unwrap()
}

/// A containerd is started once, for all that is looked at here.
#[test]
fn a_pods_containers_are_named_and_go_on_when_containerd_crashes() {
    let mut containerd = Containerd::start().unwrap();
    let agent = agent_at(&containerd.socket(), &[]);
    let pod = containerd
        .run_pod("shop", "web-0", &[("app", "web")])
        .unwrap();
    names_are_told(&containerd, &agent, &pod);
    resources_are_told(&containerd, &agent);
    a_crash_loses_nothing(&mut containerd, &agent, &pod);
}

/// Namespace, pod and container; the sandbox is told from a container.
fn names_are_told(containerd: &Containerd, agent: &Agent, pod: &Pod) {
    let id = containerd.start_container(pod, "nginx", 0, &BURN).unwrap();
    wait_named(agent, "web-0", "nginx");
    let metrics = agent.metrics().unwrap();
    let info = [
        ("namespace", "shop"),
        ("pod", "web-0"),
        ("container", "nginx"),
        ("container_id", id.as_str()),
        ("pod_uid", "uid-web-0"),
        ("runtime", "containerd"),
        ("kind", "container"),
    ];
    assert_eq!(metrics.value("ctrscope_container_info", &info), Some(1.0));
    let sandbox = [
        ("pod", "web-0"),
        ("container_id", pod.id.as_str()),
        ("kind", "sandbox"),
    ];
    wait_until(PATIENCE, "the sandbox is told from a container", || {
        let metrics = agent.metrics()?;
        Ok(metrics.value("ctrscope_container_info", &sandbox))
    })
    .unwrap();
}

/// Class, requests, limits and labels.
fn resources_are_told(containerd: &Containerd, agent: &Agent) {
    let limits = Resources {
        cpu_period: 100_000,
        cpu_quota: 150_000,
        cpu_shares: 512,
        memory_limit: 256 << 20,
    };
    for (index, (class, qos, name, limits)) in [
        ("burstable", "burstable", "some", Some(limits)),
        ("", "guaranteed", "all", Some(limits)),
        ("besteffort", "best_effort", "none", None),
    ]
    .into_iter()
    .enumerate()
    {
        let uid = format!("0f7b6a3e-2c1d-4e5f-8a9b-{index:012x}");
        let pod = containerd.run_pod_of_class(class, name, &uid).unwrap();
        let id = containerd
            .start_container_with(&pod, "web", 0, &BURN, limits)
            .unwrap();
        // What the kernel enforces, which knows of no request. runc sets it after the cgroup is made, so the
        // first reading of its files can be older.
        let enforced = limits.map(|_| 1.5);
        let found = wait_until(PATIENCE, "its resources and its quota are told", || {
            let answer = agent.get(&format!("/api/v1/containers/{id}"))?;
            let found: Value = serde_json::from_slice(&answer.body)?;
            let quota = found["gauges"]["cpu_quota_cores"].as_f64();
            let is_told = found["resources"].is_object() && quota == enforced;
            Ok(is_told.then_some(found))
        })
        .unwrap();
        println!("{qos}: {}", found["resources"]);
        assert_eq!(found["identity"]["qos"], qos);
        assert_eq!(found["identity"]["pod_uid"], uid.as_str());
        assert_eq!(found["labels"]["tier"], "test");
        let told = |key: &str| found["resources"][key].as_f64();
        assert_eq!(told("cpu_request_cores"), limits.map(|_| 0.5));
        assert_eq!(told("cpu_limit_cores"), limits.map(|_| 1.5));
        let bytes = limits.map(|limits| limits.memory_limit as f64);
        assert_eq!(told("memory_limit_bytes"), bytes);
    }
    let snapshot = agent.snapshot_json().unwrap();
    let all = snapshot["containers"].as_array().unwrap();
    assert!(all.iter().all(|one| one["labels"].is_null()));
}

/// Series and counts go on, and containers that come later are named.
fn a_crash_loses_nothing(containerd: &mut Containerd, agent: &Agent, pod: &Pod) {
    let before = wait_named(agent, "web-0", "nginx");
    containerd.crash_and_restart().unwrap();
    wait_until(PATIENCE, "it goes on", || {
        let after = cpu_of(&agent.metrics()?, "web-0", "nginx").expect("its series is gone");
        assert!(after >= before, "{before} and {after}");
        Ok((after > before).then_some(()))
    })
    .unwrap();
    containerd.start_container(pod, "later", 0, &BRIEF).unwrap();
    wait_named(agent, "web-0", "later");
    wait_exit(agent, "later");
    let connections = runtimes(agent)[0]["connections"].as_u64().unwrap();
    assert!(connections >= 2, "{connections}");
    assert_eq!(runtimes(agent)[0]["connected"], true);
}
