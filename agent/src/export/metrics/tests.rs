use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{METRICS, MetricKind, Scope, ServerMetrics, definitions::Read, series};
use crate::{
    diagnosis::{ContainerStanding, Resource, Standing, Verdict},
    export::synthetic::{idle_snapshot, synthetic_snapshot},
    snapshot::{
        ChargedBytes, Container, Kind, Operation, PreemptedBy, Snapshot, Total, Totals, Workload,
        WorkloadIdentity, WorkloadKind,
    },
};

fn render(snapshot: &Snapshot) -> String {
    let server = ServerMetrics::new().expect("the names are valid");
    server.count_request("/metrics", 200);
    let process = super::ProcessUsage::default();
    let mut text = Vec::new();
    let standing = standing(snapshot);
    let bytes = super::render(snapshot, &standing, Some(&process), &server, &mut text);
    assert_eq!(bytes.expect("memory takes all"), text.len() as u64);
    String::from_utf8(text).expect("it is text")
}

/// A verdict for each resource of each container that a runtime has.
fn standing(snapshot: &Snapshot) -> Vec<ContainerStanding> {
    let containers = snapshot.containers.iter();
    containers
        .filter(|container| !container.identity.runtime.is_empty())
        .map(|container| ContainerStanding {
            identity: container.identity.clone(),
            standing: Resource::ALL
                .map(|resource| Standing {
                    resource,
                    verdict: match is_idle(container) && resource != Resource::Memory {
                        true => Verdict::Idle,
                        false => Verdict::Unbound,
                    },
                    since_unix_ms: 0,
                    severity: 0.0,
                })
                .to_vec(),
        })
        .collect()
}

fn is_idle(container: &Container) -> bool {
    let block = container.counters.block.as_ref();
    block.is_some_and(|block| block.count() == 0)
}

/// Series and values; panics on a series that stands there twice or a line that is none.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a line has a value");
        let value = value.parse().expect("the value is a number");
        let double = samples.insert(series.to_owned(), value);
        assert!(double.is_none(), "{series} stands there twice");
    }
    samples
}

fn named(name: &str) -> Container {
    let mut container = Container::default();
    Arc::make_mut(&mut container.identity).container = name.to_owned();
    container
}

fn of(containers: Vec<Container>) -> Snapshot {
    Snapshot {
        containers,
        ..Snapshot::default()
    }
}

fn with_cpu(name: &str, first_seen: u64, on_cpu_ns: u64) -> Container {
    let mut container = named(name);
    container.first_seen_unix_ms = first_seen;
    container.counters.sched.get_or_insert_default().on_cpu_ns = on_cpu_ns;
    container
}

fn cpu_of(text: &str, name: &str) -> f64 {
    samples(text)[&format!(
        "ctrscope_container_cpu_seconds_total{{namespace=\"\",pod=\"\",container=\"{name}\"}}"
    )]
}

#[test]
fn every_metric_but_the_absent_ones_is_rendered_once() {
    let mut snapshot = synthetic_snapshot(3);
    snapshot.containers[2].exited_at_unix_ms = Some(1_700_000_000_500);
    snapshot.containers[2].exit_code = Some(137);
    let text = render(&snapshot);
    samples(&text);
    for metric in METRICS {
        let header = format!("# TYPE {} {}\n", metric.name, metric.kind.name());
        assert_eq!(text.matches(&header).count(), 1, "{header}");
        let help = format!("# HELP {} {}\n", metric.name, metric.help);
        assert_eq!(text.matches(&help).count(), 1, "{help}");
    }
    assert!(text.contains("exited_timestamp_seconds{namespace=\"team-2\",pod=\"checkout-7d9f8c6b5-00002\",container=\"checkout\"} 1700000000.5\n"));
}

#[test]
fn what_was_not_measured_has_no_series() {
    let mut snapshot = Snapshot::default();
    snapshot.containers.push(named("bare"));
    let text = render(&snapshot);
    let of_container: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("ctrscope_container_"))
        .collect();
    assert_eq!(of_container.len(), 1, "{of_container:?}");
    assert!(of_container[0].starts_with("ctrscope_container_info{"));
    assert!(!text.contains("# TYPE ctrscope_container_cpu_quota_cores"));
}

#[test]
fn a_counter_is_zero_from_the_first_sight_on() {
    let mut snapshot = Snapshot::default();
    let mut idle = with_cpu("idle", 1, 0);
    idle.counters.cpu = Some(Default::default());
    idle.counters.block = Some(Default::default());
    snapshot.containers.push(idle);
    let found = samples(&render(&snapshot));
    let labels = "namespace=\"\",pod=\"\",container=\"idle\"";
    for series in [
        format!("ctrscope_container_cpu_periods_total{{{labels}}}"),
        format!("ctrscope_container_cpu_throttled_periods_total{{{labels}}}"),
        format!("ctrscope_container_context_switches_total{{{labels},kind=\"involuntary\"}}"),
        format!("ctrscope_container_block_io_operations_total{{{labels},operation=\"write\"}}"),
    ] {
        assert_eq!(found.get(&series), Some(&0.0), "{series}");
    }
    // Parts of those, and what without a quota or a limit cannot be, come with the first of them.
    for absent in ["flush", "bytes_total", "errors", "preempt", "hits"] {
        assert_eq!(found.keys().find(|series| series.contains(absent)), None);
    }
}

/// What users of such agents complain of is how many series they make.
#[test]
fn a_container_has_few_series() {
    let of = |snapshot| count_series(&snapshot, Scope::Container);
    assert!(of(idle_snapshot(1)) <= 40, "{}", of(idle_snapshot(1)));
    assert!(
        of(synthetic_snapshot(1)) <= 105,
        "{}",
        of(synthetic_snapshot(1))
    );
}

#[test]
fn what_came_once_stays() {
    let mut container = named("db");
    let counters = &mut container.counters;
    counters.sched.get_or_insert_default().preemptions = [0, 2, 0, 0, 0];
    counters.cpu.get_or_insert_default().periods = 1;
    counters.memory.get_or_insert_default().limit_hits = Some(3);
    let block = counters.block.get_or_insert_default();
    block.operations[0].errors = 1;
    let text = render(&of(vec![container]));
    for there in [
        "preemptions_total{namespace=\"\",pod=\"\",container=\"db\",by=\"container\"} 2",
        "cpu_throttled_seconds_total{namespace=\"\",pod=\"\",container=\"db\"} 0",
        "memory_limit_hits_total{namespace=\"\",pod=\"\",container=\"db\"} 3",
        "block_io_errors_total{namespace=\"\",pod=\"\",container=\"db\",operation=\"read\"} 1",
        "block_io_bytes_total{namespace=\"\",pod=\"\",container=\"db\",operation=\"read\"} 0",
    ] {
        assert!(text.contains(there), "{there}\n{text}");
    }
}

#[test]
fn flushes_appear_with_the_first_of_them() {
    let mut snapshot = Snapshot::default();
    let mut container = named("db");
    container.counters.block.get_or_insert_default().operations[2].count = 1;
    snapshot.containers.push(container);
    let text = render(&snapshot);
    assert!(text.contains("container=\"db\",operation=\"flush\"} 1\n"));
    assert!(!text.contains("operation=\"discard\""));
}

#[test]
fn bytes_of_all_disks_have_a_series_by_whom_they_are_charged_to_and_by_operation() {
    let mut snapshot = Snapshot::default();
    assert!(!render(&snapshot).contains("ctrscope_block_io_bytes_total"));
    snapshot.agent.charged_bytes = Some(ChargedBytes {
        container: [1, 2, 0, 3],
        service: [4, 5, 0, 0],
        other: [6, 7, 0, 8],
    });
    let text = render(&snapshot);
    let bytes: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("ctrscope_block_io_bytes_total"))
        .collect();
    assert_eq!(
        bytes,
        [
            "{charged=\"container\",operation=\"discard\"} 3",
            "{charged=\"container\",operation=\"read\"} 1",
            "{charged=\"container\",operation=\"write\"} 2",
            "{charged=\"other\",operation=\"discard\"} 8",
            "{charged=\"other\",operation=\"read\"} 6",
            "{charged=\"other\",operation=\"write\"} 7",
            "{charged=\"service\",operation=\"discard\"} 0",
            "{charged=\"service\",operation=\"read\"} 4",
            "{charged=\"service\",operation=\"write\"} 5",
        ]
    );
}

#[test]
fn a_latency_has_at_most_sixteen_buckets_on_powers_of_two_and_they_never_fall() {
    for metric in METRICS {
        let Read::Latency(bounds, _) = metric.read else {
            continue;
        };
        assert!(bounds.len() < 16, "{}", metric.name);
        for &(log2, text) in bounds {
            let bound: f64 = text.parse().expect("it is a number");
            assert_eq!(bound, f64::powi(2.0, log2), "{}", metric.name);
        }
    }
    let text = render(&synthetic_snapshot(1));
    let mut last = 0.0;
    let mut buckets = 0;
    for line in text.lines() {
        if line.starts_with("ctrscope_container_run_queue_latency_seconds_bucket") {
            let value: f64 = line
                .rsplit(' ')
                .next()
                .and_then(|v| v.parse().ok())
                .expect("a number");
            assert!(value >= last);
            last = value;
            buckets += 1;
        }
    }
    assert_eq!(buckets, 14);
}

#[test]
fn containers_of_one_name_are_one_series_and_their_counters_are_summed() {
    let mut snapshot = Snapshot::default();
    let mut old = with_cpu("web", 1, 5_000_000_000);
    old.exited_at_unix_ms = Some(9);
    old.gauges.memory_working_set_bytes = Some(1000);
    Arc::make_mut(&mut old.identity).container_id = "aa".to_owned();
    let mut new = with_cpu("web", 2, 500_000_000);
    new.gauges.memory_working_set_bytes = Some(7);
    Arc::make_mut(&mut new.identity).container_id = "bb".to_owned();
    for order in [[old.clone(), new.clone()], [new, old]] {
        snapshot.containers = order.to_vec();
        let text = render(&snapshot);
        assert_eq!(cpu_of(&text, "web"), 5.5);
        let found = samples(&text);
        let working_set = "ctrscope_container_memory_working_set_bytes{namespace=\"\",pod=\"\",container=\"web\"}";
        assert_eq!(
            found[working_set], 7.0,
            "an exited container uses no memory"
        );
        assert!(!text.contains("exited_timestamp"), "one of them lives");
        // Of whoever lives, so that the others can be joined with it.
        assert_eq!(text.matches("ctrscope_container_info{").count(), 1);
        assert!(text.contains("container_id=\"bb\""));
    }
}

#[test]
fn the_counters_of_containers_that_are_gone_stay_in_the_series_of_their_name() {
    let mut new = with_cpu("web", 2, 1_000_000_000);
    let old = with_cpu("web", 1, 5_000_000_000);
    new.former = Some(Box::new(old.counters));
    let snapshot = of(vec![new.clone()]);
    assert_eq!(cpu_of(&render(&snapshot), "web"), 6.0);
    let snapshot = of(vec![with_cpu("web", 3, 2_000_000_000), new]);
    assert_eq!(cpu_of(&render(&snapshot), "web"), 8.0);
}

#[test]
fn the_exit_code_of_a_name_is_that_of_whoever_ended_last() {
    let ended = |at, code| Container {
        exited_at_unix_ms: Some(at),
        exit_code: Some(code),
        ..named("job")
    };
    let code = |containers| {
        let text = render(&of(containers));
        samples(&text)["ctrscope_container_last_exit_code{namespace=\"\",pod=\"\",container=\"job\"}"]
    };
    assert_eq!(code(vec![ended(5, 137), ended(3, 1)]), 137.0);
    assert_eq!(code(vec![ended(3, 1), ended(5, 137)]), 137.0);
    assert_eq!(code(vec![named("job"), ended(5, 2)]), 2.0);
}

#[test]
fn a_container_that_ended_has_its_info() {
    let mut ended = with_cpu("job", 1, 1);
    ended.exited_at_unix_ms = Some(2);
    let text = render(&of(vec![ended]));
    assert_eq!(text.matches("ctrscope_container_info{").count(), 1);
}

#[test]
fn the_rest_is_one_series_under_its_own_name() {
    let mut snapshot = Snapshot::default();
    let mut other = with_cpu("_other", 1, 1_000_000_000);
    Arc::make_mut(&mut other.identity).kind = Kind::Other;
    snapshot.containers = vec![other];
    assert_eq!(cpu_of(&render(&snapshot), "_other"), 1.0);
}

#[test]
fn agent_rows_that_agree_in_every_label_are_summed() {
    let mut snapshot = synthetic_snapshot(0);
    let double = snapshot.agent.programs[0].clone();
    snapshot.agent.programs.push(double);
    let found = samples(&render(&snapshot));
    let runs = "ctrscope_program_runs_total{program=\"sched_switch\",collector=\"sched\"}";
    assert_eq!(found[runs], 2_000_000.0);
    assert_eq!(
        found["ctrscope_collector_state{collector=\"sched\",state=\"active\"}"],
        1.0
    );
    assert_eq!(
        found["ctrscope_collector_state{collector=\"sched\",state=\"failed\"}"],
        0.0
    );
}

#[test]
fn definitions_are_well_formed() {
    let mut names = BTreeSet::new();
    for metric in METRICS {
        assert!(
            names.insert(metric.name),
            "{} stands there twice",
            metric.name
        );
        assert_eq!(
            metric.kind == MetricKind::Counter,
            metric.name.ends_with("_total"),
            "{}",
            metric.name
        );
        assert!(
            metric.help.ends_with('.') && !metric.help.contains('\n'),
            "{}",
            metric.name
        );
        assert!(
            metric.values.is_empty() || metric.labels.len() == 1,
            "{}",
            metric.name
        );
        let scope = match metric.name {
            name if name.starts_with("ctrscope_container_") => Scope::Container,
            name if name.starts_with("ctrscope_workload_") => Scope::Workload,
            name if name.starts_with("ctrscope_neighbour_") => Scope::Pair,
            _ => Scope::Agent,
        };
        assert_eq!(metric.scope(), scope, "{}", metric.name);
    }
    let values = |name: &str| {
        let found = METRICS.iter().find(|metric| metric.name == name);
        found
            .map(|metric| metric.values.to_vec())
            .unwrap_or_default()
    };
    assert_eq!(
        values("ctrscope_container_preemptions_total"),
        PreemptedBy::ALL.map(PreemptedBy::label)
    );
    assert_eq!(
        values("ctrscope_container_block_io_bytes_total"),
        Operation::ALL.map(Operation::label)
    );
}

/// Series of one container or one workload.
pub(super) fn count_series(snapshot: &Snapshot, scope: Scope) -> usize {
    let prefix = match scope {
        Scope::Container => "ctrscope_container_",
        Scope::Workload => "ctrscope_workload_",
        Scope::Pair => "ctrscope_neighbour_",
        Scope::Agent => "ctrscope_",
    };
    samples(&render(snapshot))
        .keys()
        .filter(|series| series.starts_with(prefix))
        .count()
}

pub(super) fn most_series(scope: Scope) -> usize {
    let of_scope = METRICS.iter().filter(|metric| metric.scope() == scope);
    of_scope.map(super::Metric::most_series).sum()
}

#[test]
fn the_most_series_of_a_container_and_a_workload_are_what_the_table_says() {
    let mut snapshot = synthetic_snapshot(1);
    let container = &mut snapshot.containers[0];
    for operation in &mut container.counters.block.get_or_insert_default().operations {
        operation.count = 1;
    }
    if let Some(sched) = &mut container.counters.sched {
        sched.off_cpu_uninterruptible_ns = 1;
    }
    let live = count_series(&snapshot, Scope::Container);
    // The time and the code of the exit, which one that never ended has not.
    assert_eq!(live + 2, most_series(Scope::Container));
    snapshot.workloads[0]
        .totals
        .add(&Totals::of_container(&snapshot.containers[0]));
    let of_workload = count_series(&snapshot, Scope::Workload);
    assert_eq!(of_workload, most_series(Scope::Workload));
}

#[test]
fn a_workload_has_its_labels_and_what_was_measured() {
    let identity = |name: &str, kind| {
        Arc::new(WorkloadIdentity {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            kind,
        })
    };
    let mut totals = Totals::default();
    totals.set(Total::CPU, 1_500_000_000);
    totals.set(Total::STARTED, 3);
    totals.set(Total::CPU_WAITING, 2_500_000);
    totals.set(Total::block_bytes(Operation::Write), 4_096);
    totals.set(Total::block_operations(Operation::Write), 1);
    totals.set(Total::block_operations(Operation::Flush), 0);
    let snapshot = Snapshot {
        workloads: vec![
            Workload {
                identity: identity("web", WorkloadKind::Deployment),
                containers: Some(2),
                totals,
            },
            Workload {
                identity: identity("a\"b", WorkloadKind::Other),
                ..Workload::default()
            },
        ],
        ..Snapshot::default()
    };
    let text = render(&snapshot);
    let found: Vec<String> = samples(&text)
        .iter()
        .filter_map(|(series, value)| {
            let series = series.strip_prefix("ctrscope_workload_")?;
            Some(format!("{series} {value}"))
        })
        .collect();
    let labels = "namespace=\"shop\",workload=\"web\",workload_kind=\"deployment\"";
    assert_eq!(
        found,
        [
            format!("block_io_bytes_total{{{labels},operation=\"write\"}} 4096"),
            format!("block_io_operations_total{{{labels},operation=\"write\"}} 1"),
            format!("containers_started_total{{{labels}}} 3"),
            format!("containers{{{labels}}} 2"),
            format!("cpu_seconds_total{{{labels}}} 1.5"),
            format!("pressure_cpu_waiting_seconds_total{{{labels}}} 2.5"),
        ]
    );
}

#[test]
fn merging_keeps_the_order_of_the_snapshot() {
    let snapshot = of(["b", "a", "b"].map(named).to_vec());
    let series = series::series(&snapshot.containers);
    let names: Vec<&str> = series
        .iter()
        .map(|one| one.group.identity.container.as_str())
        .collect();
    assert_eq!(names, ["b", "a"]);
}

#[test]
fn cpu_time_that_others_show_is_not_shown_again() {
    let mut snapshot = synthetic_snapshot(1);
    let with = render(&snapshot);
    let shown = |text: &str| {
        text.lines()
            .filter(|line| line.starts_with("ctrscope_container_cpu_seconds_total{"))
            .count()
    };
    snapshot.containers[0].is_counted_elsewhere = true;
    let without = render(&snapshot);
    assert_eq!(shown(&with), shown(&without) + 1);
    assert!(without.contains("ctrscope_container_run_queue_seconds_total{"));
}

#[test]
fn slots_are_counted_where_there_are_any() {
    let mut snapshot = Snapshot::default();
    assert!(!render(&snapshot).contains("ctrscope_slots"));
    snapshot.agent.slots = 10;
    let text = render(&snapshot);
    assert!(text.contains("\nctrscope_slots 10\n") && text.contains("\nctrscope_slots_used 0\n"));
}
