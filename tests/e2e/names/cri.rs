//! Pods of a real containerd, made through CRI.

use std::time::Instant;

use ctrscope_tests::{
    Agent, Metrics,
    containerd::{Containerd, Resources},
    wait_until,
};
use serde_json::Value;

use super::{CPU, PATIENCE, agent_at, runtimes, wait_exit};

const BURN: [&str; 3] = ["burn", "--seconds", "60"];
const BRIEF: [&str; 3] = ["burn", "--seconds", "1"];

fn cpu_of(metrics: &Metrics, pod: &str, container: &str) -> Option<f64> {
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

#[test]
fn a_pods_container_has_namespace_pod_and_container() {
    let containerd = Containerd::start().unwrap();
    let agent = agent_at(&containerd.socket(), &[]);
    let pod = containerd
        .run_pod("shop", "web-0", &[("app", "web")])
        .unwrap();
    let id = containerd.start_container(&pod, "nginx", 0, &BURN).unwrap();
    let started = Instant::now();
    wait_named(&agent, "web-0", "nginx");
    println!("named {:?} after its start", started.elapsed());
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

#[test]
fn a_pods_class_requests_limits_and_labels_are_told() {
    let containerd = Containerd::start().unwrap();
    let agent = agent_at(&containerd.socket(), &[]);
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
        let found = wait_until(PATIENCE, "its resources are told", || {
            let answer = agent.get(&format!("/api/v1/containers/{id}"))?;
            let found: Value = serde_json::from_slice(&answer.body)?;
            Ok(found["resources"].is_object().then_some(found))
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
        // What the kernel enforces, which knows of no request.
        let quota = found["cpu"]["quota_cores"].as_f64();
        assert_eq!(quota, limits.map(|_| 1.5));
    }
    let snapshot = agent.snapshot_json().unwrap();
    let all = snapshot["containers"].as_array().unwrap();
    assert!(all.iter().all(|one| one["labels"].is_null()));
}

#[test]
fn a_container_of_a_pod_that_starts_anew_goes_on_in_its_series() {
    let containerd = Containerd::start().unwrap();
    let agent = agent_at(&containerd.socket(), &["--retention", "1s"]);
    let pod = containerd.run_pod("shop", "job-0", &[]).unwrap();
    let mut last = 0.0;
    for attempt in 0..3 {
        let id = containerd
            .start_container(&pod, "work", attempt, &BRIEF)
            .unwrap();
        let before = last;
        let began = Instant::now();
        wait_until(PATIENCE, "it burned", || {
            if let Some(now) = cpu_of(&agent.metrics()?, "job-0", "work") {
                assert!(now >= last, "attempt {attempt}: {last} fell to {now}");
                last = now;
            }
            let is_over = began.elapsed().as_millis() > 1_500;
            Ok((is_over && last > before + 0.05).then_some(()))
        })
        .unwrap();
        containerd.remove_container(&id).unwrap();
    }
    println!("three attempts: {last:.3} s");
}

#[test]
fn a_containerd_that_crashes_loses_no_series_and_no_counts() {
    let mut containerd = Containerd::start().unwrap();
    let agent = agent_at(&containerd.socket(), &[]);
    let pod = containerd.run_pod("shop", "api-0", &[]).unwrap();
    containerd
        .start_container(&pod, "steady", 0, &BURN)
        .unwrap();
    let before = wait_named(&agent, "api-0", "steady");
    containerd.crash_and_restart().unwrap();
    wait_until(PATIENCE, "it goes on", || {
        let after = cpu_of(&agent.metrics()?, "api-0", "steady").expect("its series is gone");
        assert!(after >= before, "{before} and {after}");
        Ok((after > before).then_some(()))
    })
    .unwrap();
    containerd
        .start_container(&pod, "later", 0, &BRIEF)
        .unwrap();
    wait_named(&agent, "api-0", "later");
    wait_exit(&agent, "later");
    let connections = runtimes(&agent)[0]["connections"].as_u64().unwrap();
    assert!(connections >= 2, "{connections}");
    assert_eq!(runtimes(&agent)[0]["connected"], true);
}
