//! What `runqlat` and `biolat` share: histograms of what was added over an interval.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{CommandError, Outcome, interrupt::wait_until};
use crate::{
    cli::LatencyArgs,
    resolve::{display_name, resolve_container},
    snapshot::{
        Container, Counted, EarlierContainers, Histogram, Snapshot, is_same, seconds_between,
    },
    source::{Cancel, Source, SourceError},
    terminal::{Unit, octaves, printable, render_histogram, render_summary, say},
};

/// Longest time between two snapshots: a container that exits must be seen before its retention ends.
const MAX_POLL: Duration = Duration::from_secs(10);

/// A histogram and the operation that it is of, where they are kept apart.
type ByOperation = (Option<&'static str>, Histogram);

/// What is measured.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    /// Name in JSON.
    pub(super) name: &'static str,
    /// Name for a reader.
    pub(super) title: &'static str,
    /// Collector that it comes from.
    pub(super) collector: &'static str,
    /// The histograms of a container, with the operation; `None` where they are not measured.
    pub(super) read: fn(&Container) -> Option<Vec<ByOperation>>,
}

/// Container (empty for the whole host) and operation.
type Key = (String, Option<&'static str>);

pub(super) fn run(
    measure: &Measure,
    arguments: &LatencyArgs,
    source: &dyn Source,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<Outcome, CommandError> {
    let first = source.snapshot()?;
    let only = match &arguments.container {
        Some(query) => {
            let index = resolve_container(&first, query)?;
            first.containers.get(index).cloned()
        }
        None => None,
    };
    require_measured(measure, &first, only.as_ref())?;
    let mut sums = Sums {
        measure,
        each: arguments.each,
        only,
        last: first,
        seconds: 0.0,
        histograms: BTreeMap::new(),
    };
    if !arguments.json {
        announce(&sums, arguments.exact);
    }
    let mut printed = 0;
    loop {
        let end = arguments.interval.map(|interval| Instant::now() + interval);
        loop {
            let poll = Instant::now() + MAX_POLL;
            wait_until(end.map_or(poll, |end| end.min(poll)), cancel);
            match source.snapshot() {
                Ok(snapshot) => sums.add(snapshot),
                // What was collected so far is still worth printing.
                Err(_) if cancel.is_cancelled() => {}
                Err(error) => {
                    sums.print_rest(arguments, out)?;
                    return Err(error.into());
                }
            }
            if cancel.is_cancelled() || end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
        }
        sums.print(arguments, out)?;
        printed += 1;
        match arguments.count {
            Some(count) if printed >= count && !cancel.is_cancelled() => return Ok(Outcome::Done),
            Some(_) if cancel.is_cancelled() => return Ok(Outcome::Interrupted),
            // Without a count Ctrl-C is how it is meant to end.
            None if cancel.is_cancelled() => return Ok(Outcome::Done),
            _ => {}
        }
    }
}

/// Names what is measured, on standard error so that it is not in the way of what reads the output.
fn announce(sums: &Sums<'_>, exact: bool) {
    let whose = match &sums.only {
        Some(container) => format!(" of {}", printable(&display_name(&container.identity))),
        None if sums.each => " of each container".to_owned(),
        None => " of the whole host".to_owned(),
    };
    let bounds = if exact {
        ""
    } else {
        " Bounds are powers of two of a second, rounded; --exact prints them in full."
    };
    say(format_args!(
        "Measuring {}{whose}... Ctrl-C ends it.{bounds}",
        sums.measure.title
    ));
}

/// Fails where no container has what is measured, with the collector's own reason.
fn require_measured(
    measure: &Measure,
    snapshot: &Snapshot,
    only: Option<&Container>,
) -> Result<(), SourceError> {
    let is_measured = match only {
        Some(container) => (measure.read)(container).is_some(),
        None => {
            snapshot.containers.is_empty()
                || snapshot
                    .containers
                    .iter()
                    .any(|container| (measure.read)(container).is_some())
        }
    };
    if is_measured {
        return Ok(());
    }
    let status = snapshot
        .agent
        .collectors
        .iter()
        .find(|status| status.name == measure.collector);
    let reason = match status {
        Some(status) if !status.reason.is_empty() => status.reason.clone(),
        _ => format!("the {} collector does not run", measure.collector),
    };
    Err(SourceError::Unsupported(format!(
        "{} is not measured: {reason}; `ctrscope check` says what this host lacks",
        measure.title
    )))
}

/// What was added since the last print.
struct Sums<'a> {
    measure: &'a Measure,
    each: bool,
    only: Option<Container>,
    last: Arc<Snapshot>,
    seconds: f64,
    histograms: BTreeMap<Key, Histogram>,
}

impl Sums<'_> {
    fn add(&mut self, snapshot: Arc<Snapshot>) {
        self.seconds += seconds_between(&self.last, &snapshot);
        let earlier_containers = EarlierContainers::new(&self.last);
        for container in &snapshot.containers {
            if self
                .only
                .as_ref()
                .is_some_and(|only| !is_same(only, container))
            {
                continue;
            }
            let Some(now) = (self.measure.read)(container) else {
                continue;
            };
            let earlier = earlier_containers
                .find(container)
                .and_then(self.measure.read)
                .unwrap_or_default();
            let name = if self.each || self.only.is_some() {
                display_name(&container.identity)
            } else {
                String::new()
            };
            for (operation, histogram) in now {
                let before = earlier.iter().find(|(of, _)| *of == operation);
                // One that is new, or was reset, has gained all that it has.
                let gained = before
                    .and_then(|(_, before)| Counted::since(&histogram, before))
                    .unwrap_or(histogram);
                self.histograms
                    .entry((name.clone(), operation))
                    .or_default()
                    .add(&gained);
            }
        }
        self.last = snapshot;
    }

    /// Prints and begins anew.
    fn print(&mut self, arguments: &LatencyArgs, out: &mut dyn Write) -> Result<(), CommandError> {
        self.write(arguments, out)
            .and_then(|()| out.flush())
            .map_err(CommandError::output)
    }

    /// Prints what was collected before the source failed, if anything was.
    fn print_rest(
        &mut self,
        arguments: &LatencyArgs,
        out: &mut dyn Write,
    ) -> Result<(), CommandError> {
        if self.seconds > 0.0 {
            self.print(arguments, out)?;
        }
        Ok(())
    }

    fn write(&mut self, arguments: &LatencyArgs, out: &mut dyn Write) -> std::io::Result<()> {
        let histograms = std::mem::take(&mut self.histograms);
        let seconds = std::mem::take(&mut self.seconds);
        for ((container, operation), histogram) in &histograms {
            let optional = self.each || operation.is_some();
            if optional && histogram.count() == 0 {
                continue;
            }
            if arguments.json {
                let line = self.json(seconds, container, *operation, histogram);
                writeln!(out, "{line}")?;
                continue;
            }
            let unit = if arguments.milliseconds {
                Unit::Milliseconds
            } else {
                Unit::Microseconds
            };
            let whose = if container.is_empty() {
                "whole host".to_owned()
            } else {
                printable(container).into_owned()
            };
            let operation = operation.map_or_else(String::new, |name| format!(", {name}"));
            write!(
                out,
                "\n{whose}{operation}, {seconds:.1} s\n{}{}\n",
                render_histogram(histogram, unit, arguments.exact),
                render_summary(histogram)
            )?;
        }
        // One histogram is printed even when empty; several would be left out, all of them.
        let left_out = self.each || histograms.len() != 1;
        let is_empty = histograms.values().all(|histogram| histogram.count() == 0);
        if left_out && is_empty && !arguments.json {
            writeln!(
                out,
                "
nothing in {seconds:.1} s"
            )?;
        }
        Ok(())
    }

    fn json(
        &self,
        seconds: f64,
        container: &str,
        operation: Option<&str>,
        histogram: &Histogram,
    ) -> serde_json::Value {
        let count = histogram.count();
        let sum_seconds = histogram.sum_ns() as f64 / 1e9;
        let buckets: Vec<serde_json::Value> = octaves(histogram)
            .iter()
            .map(|row| {
                json!({
                    "above_seconds": row.lower_seconds,
                    "up_to_seconds": row.upper_seconds,
                    "count": row.count,
                })
            })
            .collect();
        json!({
            "measure": self.measure.name,
            "taken_at_unix_ms": self.last.taken_at_unix_ms,
            "seconds": seconds,
            "container": (!container.is_empty()).then_some(container),
            "operation": operation,
            "count": count,
            "sum_seconds": sum_seconds,
            "mean_seconds": (count > 0).then(|| sum_seconds / count as f64),
            "p50_seconds": histogram.quantile_seconds(0.5),
            "p90_seconds": histogram.quantile_seconds(0.9),
            "p99_seconds": histogram.quantile_seconds(0.99),
            "buckets": buckets,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        cli::BiolatArgs,
        cli::RunqlatArgs,
        commands::{biolat::biolat, runqlat::runqlat},
        snapshot::{BlockStats, CollectorState, CollectorStatus, Counters, Identity, SchedStats},
        source::{ProfileRequest, RenderedProfile},
    };

    /// Plays snapshots one after the other, then cancels and repeats the last.
    struct Played {
        snapshots: Mutex<Vec<Snapshot>>,
        cancel: Cancel,
    }

    impl Source for Played {
        fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
            let mut snapshots = self.snapshots.lock().expect("not poisoned");
            if snapshots.len() == 1 {
                self.cancel.cancel();
                return Ok(Arc::new(snapshots[0].clone()));
            }
            Ok(Arc::new(snapshots.remove(0)))
        }

        fn profile(&self, _: &ProfileRequest, _: &Cancel) -> Result<RenderedProfile, SourceError> {
            Err(SourceError::Cancelled)
        }
    }

    fn container(name: &str, waits_ns: &[u64]) -> Container {
        let mut sched = SchedStats::default();
        let mut block = BlockStats::default();
        for &ns in waits_ns {
            sched.run_queue.record(ns);
            block.operations[1].latency.record(ns);
        }
        Container {
            identity: Arc::new(Identity {
                container: name.to_owned(),
                cgroup: format!("/{name}"),
                ..Identity::default()
            }),
            counters: Counters {
                sched: Some(sched),
                block: Some(block),
                ..Counters::default()
            },
            ..Container::default()
        }
    }

    fn source(cancel: &Cancel) -> Played {
        let snapshot = |seconds: u64, containers| Snapshot {
            taken_at_ns: seconds * 1_000_000_000,
            containers,
            ..Snapshot::default()
        };
        Played {
            snapshots: Mutex::new(vec![
                snapshot(1, vec![container("web", &[9_000])]),
                snapshot(
                    3,
                    vec![
                        container("web", &[9_000, 1_500]),
                        container("new", &[1_600, 3_000]),
                    ],
                ),
            ]),
            cancel: cancel.clone(),
        }
    }

    fn played(arguments: LatencyArgs) -> (String, Outcome) {
        let cancel = Cancel::default();
        let mut out = Vec::new();
        let arguments = RunqlatArgs { latency: arguments };
        let outcome = runqlat(&arguments, &source(&cancel), &cancel, &mut out).expect("it runs");
        (String::from_utf8(out).expect("text"), outcome)
    }

    fn for_a_second() -> LatencyArgs {
        LatencyArgs {
            interval: Some(Duration::from_millis(10)),
            ..LatencyArgs::default()
        }
    }

    #[test]
    fn the_whole_host_is_the_sum_of_what_was_added() {
        let (text, outcome) = played(for_a_second());
        let expected = "
whole host, 2.0 s
               usecs : count      distribution
   0.954 -> 1.91     : 2          |****************************************|
    1.91 -> 3.81     : 1          |********************                    |
count 3  mean 2.03us  p50 ";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(outcome, Outcome::Done);
    }

    #[test]
    fn each_container_has_its_own_and_a_new_one_counts_whole() {
        let (text, _) = played(LatencyArgs {
            each: true,
            ..for_a_second()
        });
        let new = text.find("\nnew, 2.0 s\n").expect("new");
        let web = text.find("\nweb, 2.0 s\n").expect("web");
        assert!(new < web, "{text}");
        assert!(text[new..web].contains("count 2 "), "{text}");
        assert!(text[web..].contains("count 1 "), "{text}");
    }

    #[test]
    fn one_container_is_measured_alone_and_json_has_the_rows() {
        let (text, _) = played(LatencyArgs {
            container: Some("web".to_owned()),
            json: true,
            ..for_a_second()
        });
        let line = text.lines().next().expect("a line");
        let json: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(json["container"], "web");
        assert_eq!(json["count"], 1);
        assert_eq!(json["seconds"], 2.0);
        assert_eq!(json["buckets"][0]["up_to_seconds"], 2.0 / 1_048_576.0);
    }

    #[test]
    fn an_interrupt_before_the_count_prints_and_says_so() {
        let (text, outcome) = played(LatencyArgs {
            count: Some(5),
            ..for_a_second()
        });
        assert!(text.contains("whole host, 2.0 s"));
        assert_eq!(outcome, Outcome::Interrupted);
    }

    #[test]
    fn what_was_collected_before_the_source_failed_is_printed() {
        let played = source(&Cancel::default());
        let mut sums = Sums {
            measure: &crate::commands::runqlat::MEASURE,
            each: false,
            only: None,
            last: played.snapshot().expect("the first"),
            seconds: 0.0,
            histograms: BTreeMap::new(),
        };
        let mut out = Vec::new();
        let arguments = LatencyArgs::default();
        sums.print_rest(&arguments, &mut out)
            .expect("it is written");
        assert!(out.is_empty(), "nothing was collected");
        sums.add(played.snapshot().expect("the second"));
        sums.print_rest(&arguments, &mut out)
            .expect("it is written");
        let text = String::from_utf8(out).expect("text");
        assert!(
            text.contains("whole host, 2.0 s") && text.contains("count 3"),
            "{text}"
        );
    }

    #[test]
    fn operations_are_kept_apart_and_empty_ones_left_out() {
        let cancel = Cancel::default();
        let mut out = Vec::new();
        let arguments = BiolatArgs {
            latency: for_a_second(),
            by_operation: true,
        };
        biolat(&arguments, &source(&cancel), &cancel, &mut out).expect("it runs");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("whole host, write, 2.0 s"), "{text}");
        assert!(!text.contains("read"), "{text}");
    }

    #[test]
    fn what_is_not_measured_is_an_error_with_the_collectors_reason() {
        let mut snapshot = Snapshot {
            containers: vec![Container::default()],
            ..Snapshot::default()
        };
        snapshot.agent.collectors.push(CollectorStatus {
            name: "sched".to_owned(),
            state: CollectorState::Unsupported,
            reason: "no BTF".to_owned(),
        });
        let cancel = Cancel::default();
        let source = Played {
            snapshots: Mutex::new(vec![snapshot]),
            cancel: cancel.clone(),
        };
        let error = runqlat(&RunqlatArgs::default(), &source, &cancel, &mut Vec::new())
            .expect_err("not measured");
        assert_eq!(
            error.to_string(),
            "run queue latency is not measured: no BTF; `ctrscope check` says what this host lacks"
        );
    }
}
