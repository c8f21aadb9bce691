//! The rows and columns of `top`, the same in the terminal, in a pipe and in JSON.

use std::{cmp::Ordering, collections::HashMap};

use serde::Serialize;

use crate::{
    cli::SortKey,
    diagnosis::{ContainerStanding, Verdict},
    resolve::display_name,
    snapshot::{Identity, Kind, Rates, Snapshot},
    terminal::{ABSENT, Align, Table, bytes, cores, per_second, percent, printable, seconds},
};

/// One container over the time between two snapshots.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    container_id: String,
    cgroup: String,
    kind: Kind,
    exited_at_unix_ms: Option<u64>,
    /// Since it exited.
    #[serde(skip)]
    exited_seconds: Option<f64>,
    #[serde(skip)]
    is_idle: bool,
    seconds: f64,
    cpu_cores: Option<f64>,
    run_queue_p50_seconds: Option<f64>,
    run_queue_p99_seconds: Option<f64>,
    wait_ratio: Option<f64>,
    throttled_ratio: Option<f64>,
    voluntary_per_second: Option<f64>,
    involuntary_per_second: Option<f64>,
    preempted_by_others_per_second: Option<f64>,
    io_p99_seconds: Option<f64>,
    io_bytes_per_second: Option<f64>,
    io_operations_per_second: Option<f64>,
    cpu_pressure_ratio: Option<f64>,
    memory_pressure_ratio: Option<f64>,
    io_pressure_ratio: Option<f64>,
    /// What holds it back most, of the verdicts that stand; `None` where nothing does, or none is known.
    verdict: Option<Verdict>,
}

impl Row {
    pub(super) fn is_busy(&self) -> bool {
        !self.is_idle
    }

    /// Whether its name has a text in it; `filter` is in lower case.
    pub(super) fn has(&self, filter: &str) -> bool {
        self.name.to_lowercase().contains(filter)
    }

    pub(super) fn has_exited(&self) -> bool {
        self.exited_seconds.is_some()
    }

    pub(super) fn is_throttled(&self) -> bool {
        self.throttled_ratio.is_some_and(|ratio| ratio > 0.0)
    }

    pub(super) fn is_held_back(&self) -> bool {
        self.verdict.is_some()
    }

    fn state(&self) -> String {
        match self.exited_seconds {
            None => "live".to_owned(),
            Some(ago) if ago < 60.0 => format!("exited {ago:.0}s"),
            Some(ago) => format!("exited {:.0}m", (ago / 60.0).floor()),
        }
    }
}

/// A column: its title, its width on a screen, what is in it, and what sorts by it.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) align: Align,
    pub(super) width: u16,
    pub(super) sort: Option<SortKey>,
    pub(super) cell: fn(&Row) -> String,
}

const fn number(title: &'static str, width: u16, cell: fn(&Row) -> String) -> Column {
    Column {
        title,
        align: Align::Right,
        width,
        sort: None,
        cell,
    }
}

const fn sorted(column: Column, sort: SortKey) -> Column {
    Column {
        sort: Some(sort),
        ..column
    }
}

/// Title of the column that has what holds a container back.
pub(super) const VERDICT: &str = "VERDICT";

/// All columns, the most telling first: a narrow screen shows as many as fit.
pub(super) const COLUMNS: [Column; 14] = [
    Column {
        title: "CONTAINER",
        align: Align::Left,
        width: 20,
        sort: Some(SortKey::Name),
        cell: |row| printable(&row.name).into_owned(),
    },
    sorted(number("CPU", 6, |row| cores(row.cpu_cores)), SortKey::Cpu),
    Column {
        title: VERDICT,
        align: Align::Left,
        width: 17,
        sort: None,
        cell: |row| row.verdict.map_or(ABSENT, Verdict::label).to_owned(),
    },
    number("RUNQ50", 7, |row| seconds(row.run_queue_p50_seconds)),
    sorted(
        number("RUNQ99", 7, |row| seconds(row.run_queue_p99_seconds)),
        SortKey::Runq,
    ),
    number("WAIT", 6, |row| percent(row.wait_ratio)),
    sorted(
        number("THROTTLED", 9, |row| percent(row.throttled_ratio)),
        SortKey::Throttled,
    ),
    number("INVOL", 8, |row| per_second(row.involuntary_per_second)),
    number("PREEMPTED", 9, |row| {
        per_second(row.preempted_by_others_per_second)
    }),
    number("IO99", 7, |row| seconds(row.io_p99_seconds)),
    sorted(
        number("IO", 10, |row| bytes(row.io_bytes_per_second)),
        SortKey::Io,
    ),
    number("CPU PSI", 7, |row| percent(row.cpu_pressure_ratio)),
    number("IO PSI", 6, |row| percent(row.io_pressure_ratio)),
    Column {
        title: "STATE",
        align: Align::Left,
        width: 10,
        sort: None,
        cell: Row::state,
    },
];

/// The containers of a snapshot, with what they did and what holds them back. Of those that have no rates
/// the names alone are known.
pub(super) fn rows(
    snapshot: &Snapshot,
    rates: &[Rates],
    standing: &[ContainerStanding],
) -> Vec<Row> {
    let verdicts: HashMap<(&str, &str), Verdict> = standing
        .iter()
        .filter_map(|one| Some((key(&one.identity), one.worst()?.verdict)))
        .collect();
    let unknown = Rates::default();
    let rates = rates.iter().chain(std::iter::repeat(&unknown));
    let containers = snapshot.containers.iter().zip(rates);
    containers
        .map(|(container, rates)| {
            let identity = &container.identity;
            let files = rates.files.unwrap_or_default();
            let run_queue = |q| rates.run_queue.as_ref()?.quantile_seconds(q);
            let exited_ms = container
                .exited_at_unix_ms
                .map(|exited_at| snapshot.taken_at_unix_ms.saturating_sub(exited_at));
            Row {
                name: display_name(identity),
                container_id: identity.container_id.clone(),
                cgroup: identity.cgroup.clone(),
                kind: identity.kind,
                exited_at_unix_ms: container.exited_at_unix_ms,
                exited_seconds: exited_ms.map(|ms| ms as f64 / 1e3),
                is_idle: rates.is_idle(),
                seconds: rates.seconds,
                cpu_cores: rates.cpu_cores,
                run_queue_p50_seconds: run_queue(0.5),
                run_queue_p99_seconds: run_queue(0.99),
                wait_ratio: rates.wait_ratio,
                throttled_ratio: files.throttled_ratio,
                voluntary_per_second: rates.voluntary_per_second,
                involuntary_per_second: rates.involuntary_per_second,
                preempted_by_others_per_second: rates.preempted_by_others_per_second,
                io_p99_seconds: rates
                    .io_latency
                    .as_ref()
                    .and_then(|latency| latency.quantile_seconds(0.99)),
                io_bytes_per_second: rates.io_bytes_per_second,
                io_operations_per_second: rates.io_operations_per_second,
                cpu_pressure_ratio: files.cpu_pressure_ratio,
                memory_pressure_ratio: files.memory_pressure_ratio,
                io_pressure_ratio: files.io_pressure_ratio,
                verdict: verdicts
                    .get(&key(identity))
                    .copied()
                    .filter(|_| container.exited_at_unix_ms.is_none()),
            }
        })
        .collect()
}

fn key(identity: &Identity) -> (&str, &str) {
    (&identity.cgroup, &identity.container_id)
}

/// Sorts, the largest first and what was not measured last; equal ones by name, so that rows stay where
/// they are.
pub(super) fn sort(rows: &mut [Row], key: SortKey) {
    let value = |row: &Row| match key {
        SortKey::Cpu => row.cpu_cores,
        SortKey::Runq => row.run_queue_p99_seconds,
        SortKey::Throttled => row.throttled_ratio,
        SortKey::Io => row.io_bytes_per_second,
        SortKey::Name => None,
    };
    rows.sort_by(|a, b| {
        let by_value = match (value(a), value(b)) {
            (Some(a), Some(b)) => b.total_cmp(&a),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        by_value
            .then_with(|| a.name.cmp(&b.name))
            .then_with(|| a.cgroup.cmp(&b.cgroup))
    });
}

/// The plain table.
pub(super) fn render(rows: &[Row]) -> String {
    let mut table = Table::new(&COLUMNS.map(|column| (column.title, column.align)));
    for row in rows {
        table.row(COLUMNS.iter().map(|column| (column.cell)(row)));
    }
    table.to_string()
}

/// Two snapshots, two seconds apart, of a busy, a waiting and an exited container.
#[cfg(test)]
pub(super) mod fixture {
    use crate::diagnosis::{ContainerStanding, Resource, Standing, Verdict};
    use std::sync::Arc;

    use crate::snapshot::{
        BlockStats, Container, Counters, Gauges, Identity, SchedStats, Snapshot, Throttling,
    };

    fn container(name: &str) -> Container {
        Container {
            identity: Arc::new(Identity {
                container: name.to_owned(),
                cgroup: format!("/{name}"),
                ..Identity::default()
            }),
            counters: Counters {
                sched: Some(SchedStats::default()),
                block: Some(BlockStats::default()),
                ..Counters::default()
            },
            ..Container::default()
        }
    }

    /// `web` is throttled.
    pub(crate) fn standing() -> Vec<ContainerStanding> {
        let verdict = |resource, verdict, severity| Standing {
            resource,
            verdict,
            since_unix_ms: 0,
            severity,
        };
        vec![ContainerStanding {
            identity: container("web").identity,
            standing: vec![
                verdict(Resource::Cpu, Verdict::CapThrottled, 0.5),
                verdict(Resource::Memory, Verdict::Unbound, 0.0),
                verdict(Resource::Disk, Verdict::IoLimited, 0.2),
            ],
        }]
    }

    pub(crate) fn two_snapshots() -> (Snapshot, Snapshot) {
        let mut web = container("web");
        web.counters.cpu = Some(Throttling::default());
        web.gauges = Gauges {
            cpu_quota_cores: Some(0.5),
            ..Gauges::default()
        };
        let earlier = Snapshot {
            taken_at_unix_ms: 1_000,
            taken_at_ns: 1_000_000_000,
            containers: vec![container("db"), container("old"), web],
            ..Snapshot::default()
        };
        let mut later = earlier.clone();
        later.taken_at_unix_ms += 2_000;
        later.taken_at_ns += 2_000_000_000;
        later.host.name = "box".to_owned();
        later.host.kernel = "6.1.0".to_owned();
        later.host.cpus = 4;
        let [db, old, web] = later.containers.as_mut_slice() else {
            unreachable!("there are three");
        };
        if let Some(sched) = &mut web.counters.sched {
            sched.on_cpu_ns = 1_500_000_000;
            sched.involuntary = 600;
            sched.preemptions = [0, 40, 0, 0, 0];
            for _ in 0..100 {
                sched.run_queue.record(5_000_000);
            }
        }
        if let Some(cpu) = &mut web.counters.cpu {
            cpu.periods = 20;
            cpu.throttled_periods = 5;
        }
        if let Some(block) = &mut db.counters.block {
            block.operations[0].latency.record(1_000_000);
            block.operations[0].bytes = 8 << 20;
            block.operations[0].count = 1;
        }
        old.exited_at_unix_ms = Some(1_500);
        (earlier, later)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshot::Course;

    /// What containers did between two snapshots.
    fn rows_of(earlier: Snapshot, later: Snapshot, standing: &[ContainerStanding]) -> Vec<Row> {
        let later = Arc::new(later);
        let mut course = Course::new(Arc::new(earlier));
        rows(&later, &course.follow(&later).unwrap(), standing)
    }

    fn sorted_names(key: SortKey) -> Vec<String> {
        let (earlier, later) = fixture::two_snapshots();
        let mut rows = rows_of(earlier, later, &fixture::standing());
        sort(&mut rows, key);
        rows.into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn the_table_shows_absent_numbers_as_dashes() {
        let (earlier, later) = fixture::two_snapshots();
        let mut rows = rows_of(earlier, later, &fixture::standing());
        sort(&mut rows, SortKey::Cpu);
        let text = render(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(words[..3], ["web", "0.75", "cap_throttled"]);
        assert_eq!(words[5..9], ["25.0%", "25.0%", "300/s", "20.0/s"]);
        assert_eq!(words[9..], ["-", "0B/s", "-", "-", "live"]);
        assert!(lines[2].contains("4.00MiB/s"), "{text}");
        assert!(lines[3].ends_with("exited 2s"), "{text}");
    }

    #[test]
    fn rows_sort_by_what_is_asked_and_then_by_name() {
        assert_eq!(sorted_names(SortKey::Cpu), ["web", "db", "old"]);
        assert_eq!(sorted_names(SortKey::Io), ["db", "old", "web"]);
        assert_eq!(sorted_names(SortKey::Name), ["db", "old", "web"]);
        assert_eq!(sorted_names(SortKey::Throttled), ["web", "db", "old"]);
    }

    #[test]
    fn a_reused_cgroup_has_no_rates_yet() {
        let (earlier, mut later) = fixture::two_snapshots();
        for container in &mut later.containers {
            container.first_seen_unix_ms = 9;
        }
        assert!(
            rows_of(earlier, later, &[])
                .iter()
                .all(|row| row.cpu_cores.is_none())
        );
    }
}
