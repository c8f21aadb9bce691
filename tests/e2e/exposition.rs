//! `/metrics`: what is there from the first, what is absent, and that counters only grow.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use ctrscope_tests::{
    Agent, Container, ContainerSpec, binaries,
    metrics::{Metrics, Sample},
    prometheus::Prometheus,
    skip, wait_until,
};
use tempfile::TempDir;

use crate::observe::group;

const PATIENCE: Duration = Duration::from_secs(60);
const SCRAPES: u32 = 20;
/// How often counters must grow, all together: often enough that what does not grow would show.
const GROWN: usize = 100;

fn label(container: &Container) -> String {
    container.cgroup().trim_start_matches('/').to_owned()
}

/// The first scrape that has the container.
fn first_scrape(agent: &Agent, container: &Container) -> Metrics {
    wait_until(PATIENCE, "the container in a scrape", || {
        let metrics = agent.metrics()?;
        let name = label(container);
        let there = metrics.samples.iter().any(|sample| {
            sample.name == "ctrscope_container_cpu_seconds_total"
                && sample.labels["container"] == name
        });
        Ok(there.then_some(metrics))
    })
    .unwrap()
}

/// Not throttled is 0; not measured is no series.
#[test]
fn every_series_of_a_container_is_there_from_first_sight() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let spec = ContainerSpec::new("idle", &["burn"]).gated();
    // The first one reads the programs from the disk, where they are not in memory yet.
    drop(Container::start(&group, &ContainerSpec::new("warm", &["burn"]).gated()).unwrap());
    let idle = Container::start(&group, &spec).unwrap();
    let metrics = first_scrape(&agent, &idle);
    let name = label(&idle);
    let value = |metric: &str, label: Option<(&str, &str)>| {
        let labels: Vec<(&str, &str)> = [("container", name.as_str())]
            .into_iter()
            .chain(label)
            .collect();
        metrics.value(&format!("ctrscope_container_{metric}"), &labels)
    };
    for (metric, label, known) in [
        ("context_switches_total", "kind", "voluntary"),
        ("context_switches_total", "kind", "involuntary"),
        ("off_cpu_seconds_total", "state", "sleep"),
    ] {
        let found = value(metric, Some((label, known)));
        assert!(found.is_some(), "{metric} {known}");
    }
    // It has not been seen to wait for I/O or a lock yet.
    for state in ["io", "uninterruptible"] {
        let found = value("off_cpu_seconds_total", Some(("state", state)));
        assert!(found.is_none_or(|seconds| seconds > 0.0), "{state}");
    }
    // Flushes and discards, which most containers never do, come with the first one, and so does all else of
    // an operation.
    for operation in ["read", "write"] {
        let label = Some(("operation", operation));
        let found = value("block_io_operations_total", label);
        assert_eq!(found, Some(0.0), "{operation}");
        for metric in ["block_io_bytes_total", "block_io_latency_seconds_count"] {
            assert_eq!(value(metric, label), None, "{metric} {operation}");
        }
    }
    for metric in ["cpu_periods_total", "cpu_throttled_seconds_total"] {
        assert_eq!(value(metric, None), None, "{metric}: it has no quota");
    }
    let limit_hits = value("memory_limit_hits_total", None);
    assert_eq!(limit_hits, None, "it has no limit");
    assert_eq!(value("memory_oom_kills_total", None), Some(0.0));
    for metric in [
        "run_queue_seconds_total",
        "run_queue_latency_seconds_count",
        "cpu_weight",
        "process_exits_total",
        "info",
    ] {
        assert!(value(metric, None).is_some(), "{metric}");
    }
    assert_eq!(value("cpu_quota_cores", None), None, "it has no quota");
    assert_eq!(value("exited_timestamp_seconds", None), None, "it lives");

    // So little of a period that it has more than that beside any load.
    let spec = ContainerSpec::new("capped", &["burn"]).quota(10_000, 100_000);
    let capped = Container::start(&group, &spec).unwrap();
    wait_until(PATIENCE, "its quota and its throttled periods", || {
        let (metrics, name) = (agent.metrics()?, label(&capped));
        let labels = [("container", name.as_str())];
        let value = |metric| metrics.value(metric, &labels);
        let throttled = value("ctrscope_container_cpu_throttled_periods_total");
        Ok((value("ctrscope_container_cpu_quota_cores") == Some(0.1)
            && throttled.is_some_and(|periods| periods > 0.0))
        .then_some(()))
    })
    .unwrap();
}

fn is_counter(sample: &Sample) -> bool {
    ["_total", "_bucket", "_count", "_sum"]
        .iter()
        .any(|suffix| sample.name.ends_with(suffix))
}

fn key(sample: &Sample) -> String {
    format!("{}{:?}", sample.name, sample.labels)
}

#[test]
fn counters_never_go_backwards() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let data = TempDir::new_in("/var/tmp").unwrap();
    let work: [(&str, &[&str]); 4] = [
        ("burn", &["burn", "--threads", "3"]),
        ("pingpong", &["pingpong", "--cpu", "0"]),
        ("spawn", &["spawn", "--pause-ms", "1"]),
        (
            "disk",
            &[
                "read-write-direct",
                "--file",
                "/data/file",
                "--size",
                "1048576",
            ],
        ),
    ];
    let _containers: Vec<Container> = work
        .iter()
        .map(|(name, arguments)| {
            let spec = ContainerSpec::new(name, arguments).data(data.path());
            Container::start(&group, &spec).unwrap()
        })
        .collect();
    let mut last: BTreeMap<String, f64> = BTreeMap::new();
    let mut grown = 0;
    let mut scrape = 0;
    wait_until(PATIENCE, "enough scrapes and enough growth", || {
        scrape += 1;
        // The same snapshot would be read until there is a newer one.
        agent.snapshot_json()?;
        let metrics = agent.metrics()?;
        assert_eq!(metrics.malformed, Vec::<String>::new());
        for sample in metrics.samples.iter().filter(|sample| is_counter(sample)) {
            let key = key(sample);
            if let Some(&old) = last.get(&key) {
                assert!(
                    sample.value >= old,
                    "scrape {scrape}: {key}: {old} to {}",
                    sample.value
                );
                grown += usize::from(sample.value > old);
            }
            last.insert(key, sample.value);
        }
        // Within one scrape: buckets are cumulative, and the last one is the count.
        for count in metrics
            .samples
            .iter()
            .filter(|s| s.name.ends_with("_seconds_count"))
        {
            let bucket = format!("{}_bucket", count.name.trim_end_matches("_count"));
            let mut labels: Vec<(&str, &str)> = count
                .labels
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            labels.push(("le", "+Inf"));
            assert_eq!(
                metrics.value(&bucket, &labels),
                Some(count.value),
                "{bucket}"
            );
        }
        Ok((scrape >= SCRAPES && grown > GROWN).then_some(()))
    })
    .unwrap();
}

#[test]
fn promtool_has_nothing_to_say_about_a_scrape() {
    let agent = Agent::start(&[]).unwrap();
    let body = agent.get("/metrics").unwrap().body;
    let started = Command::new(binaries::prometheus("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        skip("promtool is not installed");
        return;
    };
    promtool.stdin.take().unwrap().write_all(&body).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = ctrscope_tests::agent::describe(&output);
    assert!(output.status.success(), "{said}");
}

/// What the server itself makes of the scrapes: none fails, no sample is dropped, and all that is written is
/// kept; an idle container has few series, and each is joined with its info.
#[test]
fn prometheus_scrapes_without_a_loss() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let spec = ContainerSpec::new("idle", &["burn"]).gated();
    let idle = Container::start(&group, &spec).unwrap();
    first_scrape(&agent, &idle);
    let Some(server) = Prometheus::start(agent.address()).unwrap() else {
        skip("prometheus is not installed");
        return;
    };
    let value = |query: &str| server.query(query).unwrap();
    wait_until(PATIENCE, "three scrapes", || {
        Ok((server.query("count_over_time(up[5m])")? >= Some(3.0)).then_some(()))
    })
    .unwrap();
    assert_eq!(
        value("min_over_time(up[5m])"),
        Some(1.0),
        "{}",
        server.log()
    );
    let kept = "scrape_samples_scraped - scrape_samples_post_metric_relabeling";
    assert_eq!(value(kept), Some(0.0));
    assert!(value("scrape_samples_scraped") > Some(100.0));
    let metrics = server.own_metrics().unwrap();
    let dropped = [
        "prometheus_target_scrapes_sample_duplicate_timestamp_total",
        "prometheus_target_scrapes_sample_out_of_order_total",
        "prometheus_target_scrapes_sample_out_of_bounds_total",
        "prometheus_target_scrapes_exceeded_sample_limit_total",
        "prometheus_target_scrapes_exceeded_body_size_limit_total",
    ];
    for name in dropped {
        assert_eq!(metrics.value(name, &[]), Some(0.0), "{name}");
    }
    let name = label(&idle);
    let series = format!("count({{__name__=~\"ctrscope_container_.*\",container=\"{name}\"}})");
    let count = value(&series);
    // One that is idle has 40 at most; on a busy machine its start may have been preempted, or waited for a disk.
    assert!(count <= Some(95.0) && count > Some(20.0), "{count:?}");
    let joined = "count(ctrscope_container_cpu_seconds_total * on (namespace, pod, container) \
        group_left (image) ctrscope_container_info) - count(ctrscope_container_cpu_seconds_total)";
    assert_eq!(value(joined), Some(0.0));
}
