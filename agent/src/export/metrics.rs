//! The exposition: a snapshot as Prometheus text.
//!
//! [`METRICS`] is the one table of what is exported. The text, the reference in `docs/metrics.md` and
//! the tests that compare the dashboards with the code are all made from it.
//!
//! The text is written by [`text`], not by the `prometheus` crate. Both were measured on two cores with
//! 1,000 containers (94,000 lines, 14 MB): the crate's encoder, given one family at a time, took 32 to
//! 53 ms, because it clones each label for each series and allocates for each number, which leaves
//! nothing of a scrape budget of 50 ms for the collection; [`text`] took 7 to 17 ms. A test holds
//! the two to the same output. What the server counts itself ([`ServerMetrics`]) is in a registry of
//! the crate.

mod agent;
mod definitions;
mod neighbours;
mod series;
mod server;
mod text;
mod verdicts;

#[cfg(test)]
mod drift;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt::Write as _, io};

pub use agent::ProcessUsage;
pub use definitions::{METRICS, Metric, MetricKind, Scope, reference_table};
pub use server::ServerMetrics;

use self::{
    agent::{AgentView, Rows},
    definitions::Read,
    series::Series,
    text::{Text, Value, escape_label},
};
use crate::{
    diagnosis::ContainerStanding,
    snapshot::{Kind, Snapshot, Workload, WorkloadIdentity},
};

/// Content type of the exposition.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Writes the exposition of a snapshot and of the verdicts that stand into a sink, in pieces of some 32 KB.
/// Gives its length in bytes. About 10 ms for 1,000 containers, without what the sink does.
///
/// # Errors
///
/// Those of the sink.
pub fn render(
    snapshot: &Snapshot,
    standing: &[ContainerStanding],
    process: Option<&ProcessUsage>,
    server: &ServerMetrics,
    sink: &mut dyn io::Write,
) -> io::Result<u64> {
    let series = series::series(&snapshot.containers);
    let view = AgentView {
        health: &snapshot.agent,
        process,
    };
    let workloads: Vec<(String, &Workload)> = snapshot
        .workloads
        .iter()
        .map(|workload| (workload_labels(&workload.identity), workload))
        .collect();
    let mut text = Text::into_sink(sink);
    for metric in METRICS {
        match metric.read {
            Read::Number(read) => {
                let rows = series.iter().map(|one| (one.labels.as_str(), &one.group));
                number(&mut text, metric, rows, read);
            }
            Read::Workload(read) => {
                let rows = workloads
                    .iter()
                    .map(|(labels, one)| (labels.as_str(), *one));
                number(&mut text, metric, rows, read);
            }
            Read::Latency(bounds, read) => latency(&mut text, metric, &series, bounds, read),
            Read::Info => info(&mut text, metric, &series),
            Read::Bottleneck => verdicts::write(&mut text, metric, &series, standing),
            Read::Neighbours => neighbours::write(&mut text, metric, snapshot.neighbours.as_ref()),
            Read::Agent(read) => {
                let rows = agent_rows(metric, &view, read);
                if !rows.is_empty() {
                    text.family(metric.name, metric.kind.name(), metric.help);
                }
                for (labels, value) in &rows {
                    text.sample(metric.name, "", labels, "", *value);
                }
            }
            Read::Server => {}
        }
    }
    text.finished(&server.text());
    text.finish()
}

/// One series for each of `rows`, which have their label pairs, and each value of the extra label.
fn number<'a, T: 'a>(
    text: &mut Text<'_>,
    metric: &Metric,
    rows: impl Iterator<Item = (&'a str, &'a T)>,
    read: fn(&T, usize) -> Option<Value>,
) {
    let extras = metric.extra_labels();
    let mut opened = false;
    for (labels, row) in rows {
        for (index, extra) in extras.iter().enumerate() {
            let Some(value) = read(row, index) else {
                continue;
            };
            if !opened {
                text.family(metric.name, metric.kind.name(), metric.help);
                opened = true;
            }
            text.sample(metric.name, "", labels, extra, value);
        }
    }
}

fn latency(
    text: &mut Text<'_>,
    metric: &Metric,
    series: &[Series<'_>],
    bounds: &[(i32, &str)],
    read: definitions::ReadLatency,
) {
    let extras = metric.extra_labels();
    let mut opened = false;
    for one in series {
        for (index, extra) in extras.iter().enumerate() {
            let Some(histogram) = read(&one.group, index) else {
                continue;
            };
            if !opened {
                text.family(metric.name, metric.kind.name(), metric.help);
                opened = true;
            }
            text.histogram(metric.name, &one.labels, extra, bounds, histogram);
        }
    }
}

/// Reads a family; rows that agree in all labels are summed, for a series may stand there once only.
fn agent_rows(
    metric: &Metric,
    view: &AgentView<'_>,
    read: definitions::ReadAgent,
) -> BTreeMap<String, Value> {
    let mut rows = Rows::new();
    read(view, &mut rows);
    let mut families: BTreeMap<String, Value> = BTreeMap::new();
    for (values, value) in rows {
        let mut labels = String::new();
        for (name, value) in metric.labels.iter().zip(&values) {
            let separator = if labels.is_empty() { "" } else { "," };
            // Writing to a String does not fail.
            let _ = write!(labels, "{separator}{name}=\"");
            escape_label(value, &mut labels);
            labels.push('"');
        }
        families
            .entry(labels)
            .and_modify(|sum| *sum = sum.plus(value))
            .or_insert(value);
    }
    families
}

/// The label pairs of a workload, escaped, without braces.
fn workload_labels(identity: &WorkloadIdentity) -> String {
    let mut out = String::with_capacity(96);
    for (opening, value) in [
        ("namespace=\"", identity.namespace.as_str()),
        ("\",workload=\"", &identity.name),
        ("\",workload_kind=\"", identity.kind.label()),
    ] {
        out.push_str(opening);
        escape_label(value, &mut out);
    }
    out.push('"');
    out
}

/// One series for each container, so that any other is joined with it by the labels that all have.
fn info(text: &mut Text<'_>, metric: &Metric, series: &[Series<'_>]) {
    if !series.is_empty() {
        text.family(metric.name, metric.kind.name(), metric.help);
    }
    for one in series {
        let identity = one.group.identity;
        let mut labels = one.labels.clone();
        let kind = match identity.kind {
            Kind::Container => "container",
            Kind::Sandbox => "sandbox",
            Kind::Service => "service",
            Kind::Cgroup => "cgroup",
            Kind::Other => "other",
        };
        for (name, value) in [
            ("container_id", identity.container_id.as_str()),
            ("image", &identity.image),
            ("pod_uid", &identity.pod_uid),
            ("runtime", &identity.runtime),
            ("kind", kind),
            ("cgroup", &identity.cgroup),
            ("workload", &identity.workload),
            ("workload_kind", identity.workload_kind.label()),
        ] {
            // Writing to a String does not fail.
            let _ = write!(labels, ",{name}=\"");
            escape_label(value, &mut labels);
            labels.push('"');
        }
        text.sample(metric.name, "", &labels, "", Value::Count(1));
    }
}
