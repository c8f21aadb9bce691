use std::collections::{BTreeMap, BTreeSet};

use prometheus::{
    Encoder as _, TextEncoder,
    proto::{Bucket, Counter, LabelPair, Metric as ProtoMetric, MetricFamily, MetricType},
};

use super::{
    Ledger, METRICS, MetricKind, Scope, ServerMetrics,
    definitions::Read,
    merge,
    text::{Text, Value, escape_label},
};
use crate::{
    export::synthetic::synthetic_snapshot,
    snapshot::{Container, Histogram, Kind, Operation, PreemptedBy, Snapshot},
};

fn render_with(snapshot: &Snapshot, ledger: &mut Ledger) -> String {
    let server = ServerMetrics::new().expect("the names are valid");
    server.count_request("/metrics", 200);
    super::render(
        snapshot,
        ledger,
        Some(&super::ProcessUsage::default()),
        &server,
        0,
    )
}

fn render(snapshot: &Snapshot) -> String {
    render_with(snapshot, &mut Ledger::default())
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
    container.identity.container = name.to_owned();
    container
}

fn with_cpu(name: &str, first_seen: u64, on_cpu_ns: u64) -> Container {
    let mut container = named(name);
    container.first_seen_unix_ms = first_seen;
    container.sched.get_or_insert_default().on_cpu_ns = on_cpu_ns;
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
    idle.cpu = Some(Default::default());
    idle.block = Some(Default::default());
    snapshot.containers.push(idle);
    let found = samples(&render(&snapshot));
    let labels = "namespace=\"\",pod=\"\",container=\"idle\"";
    for series in [
        format!("ctrscope_container_cpu_throttled_seconds_total{{{labels}}}"),
        format!("ctrscope_container_preemptions_total{{{labels},by=\"kernel\"}}"),
        format!("ctrscope_container_block_io_bytes_total{{{labels},operation=\"write\"}}"),
    ] {
        assert_eq!(found.get(&series), Some(&0.0), "{series}");
    }
    let flush = |series: &&String| series.contains("flush");
    assert_eq!(found.keys().find(flush), None);
}

#[test]
fn flushes_appear_with_the_first_of_them() {
    let mut snapshot = Snapshot::default();
    let mut container = named("db");
    container.block.get_or_insert_default().operations[2].count = 1;
    snapshot.containers.push(container);
    let text = render(&snapshot);
    assert!(text.contains("container=\"db\",operation=\"flush\"} 1\n"));
    assert!(!text.contains("operation=\"discard\""));
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
    assert_eq!(buckets, 16);
}

#[test]
fn containers_of_one_name_are_one_series_and_their_counters_are_summed() {
    let mut snapshot = Snapshot::default();
    let mut old = with_cpu("web", 1, 5_000_000_000);
    old.exited_at_unix_ms = Some(9);
    old.memory.get_or_insert_default().working_set_bytes = Some(1000);
    old.identity.container_id = "aa".to_owned();
    let mut new = with_cpu("web", 2, 500_000_000);
    new.memory.get_or_insert_default().working_set_bytes = Some(7);
    new.identity.container_id = "bb".to_owned();
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
        assert_eq!(text.matches("ctrscope_container_info{").count(), 2);
    }
}

#[test]
fn a_sum_does_not_fall_when_its_exited_part_leaves_the_snapshot() {
    let mut ledger = Ledger::default();
    let mut old = with_cpu("web", 1, 5_000_000_000);
    let mut snapshot = Snapshot::default();
    snapshot.containers = vec![old.clone()];
    assert_eq!(cpu_of(&render_with(&snapshot, &mut ledger), "web"), 5.0);
    old.exited_at_unix_ms = Some(9);
    snapshot.containers = vec![old, with_cpu("web", 2, 1_000_000_000)];
    assert_eq!(cpu_of(&render_with(&snapshot, &mut ledger), "web"), 6.0);
    for now in [2, 3] {
        snapshot.containers = vec![with_cpu("web", 2, now * 1_000_000_000)];
        let cpu = cpu_of(&render_with(&snapshot, &mut ledger), "web");
        assert_eq!(cpu, 5.0 + now as f64);
    }
    snapshot.containers = vec![];
    render_with(&snapshot, &mut ledger);
    snapshot.containers = vec![with_cpu("web", 3, 1_000_000_000)];
    let cpu = cpu_of(&render_with(&snapshot, &mut ledger), "web");
    assert_eq!(cpu, 1.0, "a name that was gone starts again");
}

#[test]
fn info_that_agrees_in_every_label_is_one_series() {
    let mut snapshot = Snapshot::default();
    snapshot.containers = vec![with_cpu("unit", 1, 1), with_cpu("unit", 2, 1)];
    let text = render(&snapshot);
    samples(&text);
    assert_eq!(text.matches("ctrscope_container_info{").count(), 1);
}

#[test]
fn the_rest_is_one_series_under_its_own_name() {
    let mut snapshot = Snapshot::default();
    let mut other = with_cpu("_other", 1, 1_000_000_000);
    other.identity.kind = Kind::Other;
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
fn numbers_are_written_exactly() {
    for (value, expected) in [
        (Value::Count(0), "0"),
        (Value::Count(u64::MAX), "18446744073709551615"),
        (Value::Nanoseconds(0), "0"),
        (Value::Nanoseconds(1), "0.000000001"),
        (Value::Nanoseconds(1_500_000_000), "1.5"),
        (Value::Nanoseconds(u64::MAX), "18446744073.709551615"),
        (Value::Microseconds(1_000_001), "1.000001"),
        (Value::Milliseconds(1_700_000_000_500), "1700000000.5"),
        (Value::Real(0.25), "0.25"),
        (Value::Real(f64::NAN), "NaN"),
        (Value::Real(f64::INFINITY), "+Inf"),
    ] {
        let mut text = Text::with_capacity(0);
        text.sample("m", "", "", "", value);
        assert_eq!(text.into_string(), format!("m {expected}\n"));
    }
}

/// Xorshift; a seed gives the same texts each time.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Any text: quotes, backslashes, line ends, control characters, letters of many scripts.
fn any_text(seed: &mut u64) -> String {
    let length = next(seed) % 12;
    (0..length)
        .map(|_| match next(seed) % 4 {
            0 => ['"', '\\', '\n', '\r', ',', '=', '{', '}', ' ', '#'][(next(seed) % 10) as usize],
            1 => char::from((1 + next(seed) % 127) as u8),
            _ => char::from_u32((next(seed) % 0x11_0000) as u32).unwrap_or('\u{fffd}'),
        })
        .map(|character| if character == '\0' { 'x' } else { character })
        .collect()
}

#[test]
fn any_name_and_number_is_written_as_the_prometheus_crate_writes_it() {
    let mut seed = 0x2545_f491_4f6c_dd1d;
    let bounds = [(-20, "9.5367431640625e-07"), (-4, "0.0625"), (0, "1")];
    for _ in 0..2_000 {
        let help = any_text(&mut seed);
        let name = any_text(&mut seed);
        let count = next(&mut seed) % (1 << 50);
        let mut latency = Histogram::default();
        for _ in 0..5 {
            let shift = next(&mut seed) % 40;
            latency.record(next(&mut seed) >> (24 + shift));
        }

        let mut labels = String::from("container=\"");
        escape_label(&name, &mut labels);
        labels.push('"');
        let mut mine = Text::with_capacity(0);
        mine.family("m_total", "counter", &help);
        mine.sample("m_total", "", &labels, "kind=\"a\"", Value::Count(count));
        mine.family("l_seconds", "histogram", &help);
        mine.histogram("l_seconds", &labels, "", &bounds, &latency);

        let theirs = by_the_crate(&name, &help, count, &latency);
        // Those that differ in notation only: compare them as numbers.
        assert_eq!(
            canonical(&mine.into_string()),
            canonical(&theirs),
            "{name:?}"
        );
    }
}

fn by_the_crate(name: &str, help: &str, count: u64, latency: &Histogram) -> String {
    let label = |name: &str, value: &str| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    let family = |name: &str, kind, metric| {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(vec![metric]);
        family
    };
    let mut counter = Counter::default();
    counter.set_value(count as f64);
    let mut first = ProtoMetric::default();
    first.set_label(vec![label("container", name), label("kind", "a")]);
    first.set_counter(counter);

    let mut histogram = prometheus::proto::Histogram::default();
    histogram.set_sample_count(latency.count());
    histogram.set_sample_sum(latency.sum_ns() as f64 / 1e9);
    let bucket = |log2: i32| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(f64::powi(2.0, log2));
        bucket.set_cumulative_count(latency.count_up_to_log2(log2));
        bucket
    };
    histogram.set_bucket(vec![bucket(-20), bucket(-4), bucket(0)]);
    let mut second = ProtoMetric::default();
    second.set_label(vec![label("container", name)]);
    second.set_histogram(histogram);

    let families = [
        family("m_total", MetricType::COUNTER, first),
        family("l_seconds", MetricType::HISTOGRAM, second),
    ];
    let mut out = Vec::new();
    TextEncoder::new()
        .encode(&families, &mut out)
        .expect("it encodes");
    String::from_utf8(out).expect("it is UTF-8")
}

/// The text with one notation for each number, and without an empty help line.
fn canonical(text: &str) -> String {
    let text = text.replace("9.5367431640625e-07", "0.00000095367431640625");
    let lines = text.split('\n').filter_map(|line| {
        if line.starts_with('#') {
            let empty_help = line == "# HELP m_total " || line == "# HELP l_seconds ";
            return (!empty_help).then(|| line.to_owned());
        }
        let number = line
            .rsplit_once(' ')
            .and_then(|(series, value)| Some(format!("{series} {:e}", value.parse::<f64>().ok()?)));
        Some(number.unwrap_or_else(|| line.to_owned()))
    });
    lines.collect::<Vec<_>>().join("\n")
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
        let of_container = metric.name.starts_with("ctrscope_container_");
        assert_eq!(
            of_container,
            metric.scope() == Scope::Container,
            "{}",
            metric.name
        );
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

pub(super) fn count_series(snapshot: &Snapshot) -> usize {
    samples(&render(snapshot))
        .keys()
        .filter(|series| series.starts_with("ctrscope_container_"))
        .count()
}

#[test]
fn the_most_series_of_a_container_is_what_the_table_says() {
    let mut snapshot = synthetic_snapshot(1);
    let container = &mut snapshot.containers[0];
    for operation in &mut container.block.get_or_insert_default().operations {
        operation.count = 1;
    }
    let live = count_series(&snapshot);
    let most: usize = METRICS
        .iter()
        .map(super::Metric::series_per_container)
        .sum();
    // The time of the exit, which a living container has not.
    assert_eq!(live + 1, most);
}

#[test]
fn merging_keeps_the_order_of_the_snapshot() {
    let mut snapshot = Snapshot::default();
    snapshot.containers = ["b", "a", "b"].map(named).to_vec();
    let series = merge::series(&snapshot, &mut Ledger::default());
    let names: Vec<&str> = series
        .iter()
        .map(|one| one.container.identity.container.as_str())
        .collect();
    assert_eq!(names, ["b", "a"]);
}
