//! Totals of workloads: what becomes of the numbers of containers that are gone.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ctrscope_tests::{Agent, Metrics, containerd::Containerd, docker::Docker, wait_until};
use serde_json::Value;

use crate::names::{CPU, PATIENCE, agent_at, agent_with};

const TOTAL: &str = "ctrscope_workload_cpu_seconds_total";
/// A fifth of a second: such a container has hardly begun when it is asked for.
const BRIEF: [&str; 3] = ["burn", "--seconds", "0.2"];
/// CPU time between the last scrape of a container's series and its end: of a pod's sandbox, which ends
/// when the pod is removed, and of runc before the workload.
const UNSEEN_SECONDS: f64 = 0.1;

/// All that scrapes have shown: the highest of each series of a container, and of each total of a workload.
#[derive(Default)]
struct Seen {
    containers: BTreeMap<String, f64>,
    totals: BTreeMap<String, f64>,
}

impl Seen {
    /// Scrapes; no total of a workload is less than before, or gone.
    fn scrape(&mut self, agent: &Agent) -> Metrics {
        let metrics = agent.metrics().unwrap();
        let mut now = BTreeMap::new();
        for sample in &metrics.samples {
            let key = format!("{} {:?}", sample.name, sample.labels);
            if sample.name.starts_with("ctrscope_workload_") && sample.name.ends_with("_total") {
                now.insert(key, sample.value);
            } else if sample.name == CPU && sample.labels["namespace"] == "shop" {
                let highest = self.containers.entry(key).or_default();
                *highest = highest.max(sample.value);
            }
        }
        for (series, before) in &self.totals {
            let total = now.get(series);
            assert!(total >= Some(before), "{series}: {before} and {total:?}");
        }
        self.totals = now;
        metrics
    }

    /// CPU seconds of the containers of all pods whose names begin so.
    fn counted(&self, pod: &str) -> f64 {
        let begins = format!("\"pod\": \"{pod}");
        let of_pods = self.containers.iter();
        of_pods
            .filter(|(series, _)| series.contains(&begins))
            .map(|(_, seconds)| seconds)
            .sum()
    }
}

fn workload<'a>(namespace: &'a str, name: &'a str, kind: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("namespace", namespace),
        ("workload", name),
        ("workload_kind", kind),
    ]
}

#[test]
fn a_workload_keeps_what_its_pods_counted_that_are_gone() {
    let containerd = Containerd::start().unwrap();
    let agent = agent_at(&containerd.socket(), &["--retention", "1s"]);
    let mut seen = Seen::default();
    let hash = [("app", "web"), ("pod-template-hash", "5d4c9b8f6")];
    let next = [("app", "web"), ("pod-template-hash", "6d4b75cb6d")];
    let set = [
        ("controller-revision-hash", "db-6c5f4d9b7"),
        ("statefulset.kubernetes.io/pod-name", "db-0"),
    ];
    let job = [("batch.kubernetes.io/job-name", "backup-29012345")];
    let proxy = [("controller-revision-hash", "5f8c9d7b4")];
    for (name, labels, attempts) in [
        ("web-5d4c9b8f6-x2z4f", &hash[..], 1),
        // Restarted in its pod, and then rolled over to a new ReplicaSet.
        ("web-5d4c9b8f6-7xkqp", &hash, 2),
        ("web-6d4b75cb6d-9bpsw", &next, 1),
        ("db-0", &set, 1),
        ("backup-29012345-k8z2x", &job, 1),
        ("proxy-x2z4f", &proxy, 1),
    ] {
        let pod = containerd.run_pod("shop", name, labels).unwrap();
        for attempt in 0..attempts {
            let id = containerd
                .start_container(&pod, "app", attempt, &BRIEF)
                .unwrap();
            let end = [("pod", name), ("container", "app")];
            wait_until(PATIENCE, "its end is seen, under its name", || {
                let metrics = seen.scrape(&agent);
                let info = [("container_id", id.as_str()), ("container", "app")];
                let is_named = metrics.value("ctrscope_container_info", &info).is_some();
                let exited = metrics.value("ctrscope_container_exited_timestamp_seconds", &end);
                Ok((is_named && exited.is_some()).then_some(()))
            })
            .unwrap();
        }
        containerd.remove_pod(&pod).unwrap();
    }
    let metrics = wait_until(PATIENCE, "no container of theirs has a series", || {
        let metrics = seen.scrape(&agent);
        let is_there = metrics.value(CPU, &[("namespace", "shop")]).is_some();
        Ok((!is_there).then_some(metrics))
    })
    .unwrap();
    for (name, kind, pods, containers) in [
        ("web", "deployment", "web-", 4.0),
        ("db", "statefulset", "db-0", 1.0),
        ("backup", "cronjob", "backup-", 1.0),
        ("proxy", "daemonset", "proxy-", 1.0),
    ] {
        let labels = workload("shop", name, kind);
        let total = metrics.value(TOTAL, &labels).expect(name);
        let counted = seen.counted(pods);
        println!("{name}: {total:.3} s, its containers {counted:.3} s");
        assert!(counted > 0.02 * containers, "{name}: {counted}");
        let unseen = total - counted;
        assert!(
            (-1e-6..UNSEEN_SECONDS * containers).contains(&unseen),
            "{name}: {total} and {counted}"
        );
        for (metric, expected) in [
            ("ctrscope_workload_containers", 0.0),
            ("ctrscope_workload_containers_started_total", containers),
            ("ctrscope_workload_containers_exited_total", containers),
        ] {
            let found = metrics.value(metric, &labels);
            assert_eq!(found, Some(expected), "{metric} of {name}");
        }
    }
    let answer: Value =
        serde_json::from_str(&agent.get("/api/v1/workloads").unwrap().text()).unwrap();
    let all = answer["workloads"].as_array().unwrap();
    let web = all.iter().find(|one| one["workload"] == "web").unwrap();
    let ns = web["totals"]["cpu_ns"].as_u64().unwrap();
    let seconds = metrics.value(TOTAL, &workload("shop", "web", "deployment"));
    assert_eq!(Some(ns as f64 / 1e9), seconds);
    assert_eq!(web["totals"]["started"], 4);
}

#[test]
fn a_service_of_compose_keeps_what_its_containers_counted_that_are_gone() {
    let docker = Docker::start().unwrap();
    let agent = agent_with(&docker, &["--retention", "1s"]);
    let mut seen = Seen::default();
    let options = [
        "--rm",
        "--label",
        "com.docker.compose.project=shop",
        "--label",
        "com.docker.compose.service=web",
    ];
    let labels = workload("", "shop/web", "compose");
    let mut last = 0.0;
    for container in ["shop-web-1", "shop-web-2", "shop-web-1"] {
        docker.start_container(container, &options, &BRIEF).unwrap();
        let began = Instant::now();
        let total = wait_until(PATIENCE, "it came, ended and is gone", || {
            let metrics = seen.scrape(&agent);
            let total = metrics.value(TOTAL, &labels).unwrap_or(0.0);
            let has_series = metrics.value(CPU, &[("container", container)]).is_some();
            let is_over = began.elapsed() > Duration::from_secs(1) && !has_series;
            Ok((is_over && total > last + 0.02).then_some(total))
        })
        .unwrap();
        println!("after {container}: {total:.3} s");
        last = total;
    }
    let metrics = seen.scrape(&agent);
    let exited = metrics.value("ctrscope_workload_containers_exited_total", &labels);
    assert_eq!(exited, Some(3.0));
    let unnamed = workload("", "_unnamed", "container");
    assert_eq!(metrics.value(TOTAL, &unnamed), None);
}
