//! The table of all metrics.

use super::{
    agent::{self, AgentView, Rows},
    text::Value,
};
use crate::diagnosis::Resource;
use crate::snapshot::{
    BlockOperation, Counters, Group, Histogram, Operation, Pressure, PressureTimes, SchedStats,
    Total, Workload,
};

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A classic histogram.
    Histogram,
}

impl MetricKind {
    /// Its name in the text format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a metric describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A container; it has the labels `namespace`, `pod` and `container` before its own.
    Container,
    /// A workload; it has the labels `namespace`, `workload` and `workload_kind` before its own.
    Workload,
    /// A victim and a culprit.
    Pair,
    /// The agent.
    Agent,
}

pub(crate) type ReadNumber = fn(&Group<'_>, usize) -> Option<Value>;
pub(crate) type ReadLatency = for<'a> fn(&'a Group<'_>, usize) -> Option<&'a Histogram>;
pub(crate) type ReadWorkload = fn(&Workload, usize) -> Option<Value>;
pub(crate) type ReadAgent = fn(&AgentView<'_>, &mut Rows);

/// Where a metric's numbers come from.
#[derive(Clone, Copy)]
pub(crate) enum Read {
    /// A container, and the index of the value of the extra label.
    Number(ReadNumber),
    /// The same for a histogram, with its bounds.
    Latency(&'static [(i32, &'static str)], ReadLatency),
    /// A container's identity.
    Info,
    /// The verdicts that stand for a container, one for each resource.
    Bottleneck,
    /// A workload, and the index of the value of the extra label.
    Workload(ReadWorkload),
    /// Who made whom wait.
    Neighbours,
    /// The agent's account of itself.
    Agent(ReadAgent),
    /// The registry of the server.
    Server,
}

/// A metric.
#[derive(Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it counts.
    pub kind: MetricKind,
    /// Its definition, one sentence.
    pub help: &'static str,
    /// Where the numbers come from: a hook or a file of the kernel.
    pub source: &'static str,
    /// Its labels; those of a container or workload are not repeated here.
    pub labels: &'static [&'static str],
    /// All values of its one label, where they are a closed set of a container's or workload's metric.
    pub values: &'static [&'static str],
    pub(crate) read: Read,
}

impl Metric {
    /// What it describes.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self.read {
            Read::Number(_) | Read::Latency(..) | Read::Info | Read::Bottleneck => Scope::Container,
            Read::Workload(_) => Scope::Workload,
            Read::Neighbours => Scope::Pair,
            Read::Agent(_) | Read::Server => Scope::Agent,
        }
    }

    /// Most series that one container or workload has of it; 0 for those of pairs and the agent's own metrics.
    #[must_use]
    pub fn most_series(&self) -> usize {
        let sets = self.values.len().max(1);
        match self.read {
            // Buckets, the one without a bound, sum and count.
            Read::Latency(bounds, _) => sets * (bounds.len() + 3),
            Read::Number(_) | Read::Workload(_) => sets,
            Read::Info => 1,
            // The verdict is a label, and one at a time stands for a resource.
            Read::Bottleneck => Resource::ALL.len(),
            Read::Neighbours | Read::Agent(_) | Read::Server => 0,
        }
    }

    /// The unit, from the name.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        let name = self.name.trim_end_matches("_total");
        [
            ("timestamp_seconds", "seconds since the epoch"),
            ("seconds", "seconds"),
            ("bytes", "bytes"),
            ("cores", "cores"),
            ("weight", "weight"),
            ("info", ""),
            ("state", ""),
            ("attached", ""),
            ("connected", ""),
            ("code", "exit code"),
            ("bottleneck", ""),
        ]
        .iter()
        .find(|(suffix, _)| name.ends_with(suffix))
        .map_or("count", |(_, unit)| unit)
    }

    /// The pair of the extra label for each of its values; one empty text where there is none.
    pub(crate) fn extra_labels(&self) -> Vec<String> {
        match self.labels.first() {
            Some(label) if !self.values.is_empty() => self
                .values
                .iter()
                .map(|value| format!("{label}=\"{value}\""))
                .collect(),
            _ => vec![String::new()],
        }
    }
}

/// Bounds of the run queue latency: whole powers of two, so that they are bounds of the kernel-side
/// histogram and nothing is re-binned. Every power from 0.24 ms to 62 ms, where time slices (0.7 to
/// 4 ms) and the waits of a bandwidth period (100 ms) lie and a wait begins to be felt; every second
/// one below, where waits are only compared, and above; what is shorter than 15 us is felt by nobody. With
/// `+Inf` they are 14.
const RUN_QUEUE_BOUNDS: &[(i32, &str)] = &[
    (-16, "1.52587890625e-05"),
    (-14, "6.103515625e-05"),
    (-12, "0.000244140625"),
    (-11, "0.00048828125"),
    (-10, "0.0009765625"),
    (-9, "0.001953125"),
    (-8, "0.00390625"),
    (-7, "0.0078125"),
    (-6, "0.015625"),
    (-5, "0.03125"),
    (-4, "0.0625"),
    (-2, "0.25"),
    (0, "1"),
];

/// Bounds of the block I/O latency: no device answers within 15 µs, so that is the first; every power
/// of two from there to 62 ms tells a flash drive (50 to 200 µs) from a disk (4 to 20 ms) and both
/// from a full queue. With `+Inf` they are 16.
const BLOCK_BOUNDS: &[(i32, &str)] = &[
    (-16, "1.52587890625e-05"),
    (-15, "3.0517578125e-05"),
    (-14, "6.103515625e-05"),
    (-13, "0.0001220703125"),
    (-12, "0.000244140625"),
    (-11, "0.00048828125"),
    (-10, "0.0009765625"),
    (-9, "0.001953125"),
    (-8, "0.00390625"),
    (-7, "0.0078125"),
    (-6, "0.015625"),
    (-5, "0.03125"),
    (-4, "0.0625"),
    (-2, "0.25"),
    (0, "1"),
];

const BY: &[&str] = &["self", "container", "system", "kernel", "quota"];
const CAUSES: &[&str] = &ctrscope_ebpf::ledger::NAMES;
const OPERATIONS: &[&str] = &["read", "write", "flush", "discard"];

/// The Markdown table of `docs/metrics.md`, for one scope.
#[must_use]
pub fn reference_table(scope: Scope) -> String {
    let mut out = String::from(
        "| metric | type | labels | unit | definition | source |\n|---|---|---|---|---|---|\n",
    );
    for metric in METRICS.iter().filter(|metric| metric.scope() == scope) {
        let labels = if metric.values.is_empty() {
            metric.labels.join("`, `")
        } else {
            format!("{}={}", metric.labels.join(""), metric.values.join("\\|"))
        };
        let labels = if labels.is_empty() {
            labels
        } else {
            format!("`{labels}`")
        };
        out.push_str(&format!(
            "| `{}` | {} | {labels} | {} | {} | {} |\n",
            metric.name,
            metric.kind.name(),
            metric.unit(),
            metric.help,
            metric.source,
        ));
    }
    out
}

fn sched(counters: &Counters, read: impl FnOnce(&SchedStats) -> Value) -> Option<Value> {
    counters.sched.as_ref().map(read)
}

/// An operation of a container.
fn operation(counters: &Counters, index: usize) -> Option<&BlockOperation> {
    counters.block.as_ref()?.operations.get(index)
}

/// The same if it ever happened. Most containers never read or write a disk, and hardly one flushes or
/// discards.
fn happened(counters: &Counters, index: usize) -> Option<&BlockOperation> {
    operation(counters, index).filter(|one| one.count > 0 || one.errors > 0)
}

/// A number that is a part of another one, which says 0 as long as there is no part.
fn part(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}

/// Blocked time by [`STATES`]. Other states than sleep are absent until there was some.
fn blocked(sched: &SchedStats, index: usize) -> Option<u64> {
    match index {
        0 => Some(sched.off_cpu_sleep_ns),
        1 => part(sched.off_cpu_io_ns),
        _ => part(sched.off_cpu_uninterruptible_ns),
    }
}

/// The same of a workload.
fn blocked_total(workload: &Workload, index: usize) -> Option<u64> {
    let total = [
        Total::OFF_CPU_SLEEP,
        Total::OFF_CPU_IO,
        Total::OFF_CPU_UNINTERRUPTIBLE,
    ];
    let value = workload.totals.get(*total.get(index)?)?;
    if index == 0 { Some(value) } else { part(value) }
}

/// A number of an operation of a workload. As for a container, flushes and discards are absent until there
/// was one.
fn block_total(workload: &Workload, index: usize, total: fn(Operation) -> Total) -> Option<u64> {
    let operation = *Operation::ALL.get(index)?;
    let totals = &workload.totals;
    let is_there = index < 2 || totals.get(Total::block_operations(operation))? > 0;
    is_there.then(|| totals.get(total(operation))).flatten()
}

fn pressure(
    counters: &Counters,
    resource: impl FnOnce(&Pressure) -> Option<PressureTimes>,
) -> Option<PressureTimes> {
    resource(counters.pressure.as_ref()?)
}

/// Time in which a task waited.
fn waiting(times: Option<PressureTimes>) -> Option<Value> {
    Some(Value::Microseconds(times?.waiting_usec))
}

/// The part of it in which all did.
fn stalled(times: Option<PressureTimes>) -> Option<Value> {
    part(times?.stalled_usec).map(Value::Microseconds)
}

macro_rules! metrics {
    ($($name:literal $kind:ident $([$($label:literal),*])? $(= $values:ident)? $help:literal $source:literal $read:expr;)*) => {
        /// Every metric that is exported.
        pub static METRICS: &[Metric] = &[$(Metric {
            name: $name,
            kind: MetricKind::$kind,
            help: $help,
            source: $source,
            labels: &[$($($label),*)?],
            values: metrics!(@values $($values)?),
            read: $read,
        }),*];
    };
    (@values) => { &[] };
    (@values $values:ident) => { $values };
}

const STATES: &[&str] = &["sleep", "io", "uninterruptible"];
const KINDS: &[&str] = &["voluntary", "involuntary"];

metrics! {
    "ctrscope_container_run_queue_latency_seconds" Histogram
        "Run queue latency: runnable (woken or preempted) until running."
        "`sched_switch`" Read::Latency(RUN_QUEUE_BOUNDS, |c, _| c.counters.sched.as_ref().map(|s| &s.run_queue));
    "ctrscope_container_run_queue_seconds_total" Counter
        "Sum of the run queue latency."
        "`sched_switch`" Read::Number(|c, _| sched(&c.counters, |s| Value::Nanoseconds(s.run_queue.sum_ns())));
    "ctrscope_container_cpu_seconds_total" Counter
        "Time on CPUs, slices that still run included."
        "`sched_switch`; without it `cpuacct.usage` or `cpu.stat` `usage_usec`, since the cgroup was made" Read::Number(|c, _| c.on_cpu_ns().map(Value::Nanoseconds));
    "ctrscope_container_off_cpu_seconds_total" Counter ["state"] = STATES
        "Blocked time: the part of off-CPU time that is not run queue latency, for I/O as the kernel's own accounts take it (io), otherwise interruptible (sleep) or not (uninterruptible: locks of the kernel, vfork)."
        "`sched_switch`" Read::Number(|c, i| blocked(c.counters.sched.as_ref()?, i).map(Value::Nanoseconds));
    "ctrscope_container_context_switches_total" Counter ["kind"] = KINDS
        "Context switches that left the CPU blocked (voluntary) or still runnable (involuntary)."
        "`sched_switch`" Read::Number(|c, i| sched(&c.counters, |s| Value::Count(if i == 0 { s.voluntary } else { s.involuntary })));
    "ctrscope_container_preemptions_total" Counter ["by"] = BY
        "Involuntary context switches by who took the CPU: a task of the same container (self), of another container, of the system, or the kernel; or because its quota, or that of a cgroup above, was used up (quota)."
        "`sched_switch`" Read::Number(|c, i| part(*c.counters.sched.as_ref()?.preemptions.get(i)?).map(Value::Count));
    "ctrscope_container_preempted_wait_seconds_total" Counter ["by"] = BY
        "Run queue latency after a preemption, by who took the CPU; who had it while the wait went on is in ctrscope_container_run_queue_cause_seconds_total."
        "`sched_switch`" Read::Number(|c, i| part(*c.counters.sched.as_ref()?.preempted_wait_ns.get(i)?).map(Value::Nanoseconds));
    "ctrscope_container_run_queue_cause_seconds_total" Counter ["cause"] = CAUSES
        "Run queue latency by what the CPU was used for meanwhile: tasks of the same container (self), of another container, of a system service or session (system), kernel threads, interrupts and the hypervisor (kernel), an idle CPU's wake-up (wakeup), waiting on another CPU (migrated), throttling by its quota or that of a cgroup above (quota), and what is not known (unattributed). In sum ctrscope_container_run_queue_seconds_total."
        "`sched_switch`" Read::Number(|c, i| part(*c.counters.sched.as_ref()?.causes_ns.get(i)?).map(Value::Nanoseconds));
    "ctrscope_container_process_exits_total" Counter
        "Processes whose main thread ended."
        "`sched_process_exit`" Read::Number(|c, _| sched(&c.counters, |s| Value::Count(s.process_exits)));
    "ctrscope_container_cpu_periods_total" Counter
        "CFS bandwidth enforcement periods that elapsed."
        "`cpu.stat` `nr_periods`" Read::Number(|c, _| Some(Value::Count(c.counters.cpu.as_ref()?.periods)));
    "ctrscope_container_cpu_throttled_periods_total" Counter
        "CFS bandwidth enforcement periods in which the container was throttled."
        "`cpu.stat` `nr_throttled`" Read::Number(|c, _| Some(Value::Count(c.counters.cpu.as_ref()?.throttled_periods)));
    "ctrscope_container_cpu_throttled_seconds_total" Counter
        "Time throttled by CFS bandwidth control, summed over CPUs."
        "`cpu.stat` `throttled_usec`, v1 `throttled_time`" Read::Number(|c, _| Some(Value::Nanoseconds(c.counters.cpu.as_ref()?.throttled_ns)));
    "ctrscope_container_cpu_quota_cores" Gauge
        "CFS bandwidth quota in cores; absent where there is none."
        "`cpu.max`, v1 `cpu.cfs_quota_us`" Read::Number(|c, _| c.gauges.cpu_quota_cores.map(Value::Real));
    "ctrscope_container_cpu_weight" Gauge
        "CPU weight on the scale of cgroup v2, where 100 is the default."
        "`cpu.weight`, v1 `cpu.shares`" Read::Number(|c, _| c.gauges.cpu_weight.map(Value::Count));
    "ctrscope_container_block_io_latency_seconds" Histogram ["operation"] = OPERATIONS
        "Block I/O latency: request insert until complete, that is queue time and service time."
        "`block_rq_complete`" Read::Latency(BLOCK_BOUNDS, |c, i| happened(&c.counters, i).map(|o| &o.latency));
    "ctrscope_container_block_io_queue_seconds_total" Counter ["operation"] = OPERATIONS
        "Queue time of block requests: insert until issue."
        "`block_rq_complete`" Read::Number(|c, i| happened(&c.counters, i).map(|o| Value::Nanoseconds(o.queue_ns)));
    "ctrscope_container_block_io_bytes_total" Counter ["operation"] = OPERATIONS
        "Bytes of completed block requests, charged to the blkcg that caused them."
        "`block_rq_complete`" Read::Number(|c, i| happened(&c.counters, i).map(|o| Value::Count(o.bytes)));
    "ctrscope_container_block_io_operations_total" Counter ["operation"] = OPERATIONS
        "Completed block requests, charged to the blkcg that caused them."
        "`block_rq_complete`" Read::Number(|c, i| operation(&c.counters, i).filter(|o| i < 2 || o.count > 0 || o.errors > 0).map(|o| Value::Count(o.count)));
    "ctrscope_container_block_io_errors_total" Counter ["operation"] = OPERATIONS
        "Block requests completed in error."
        "`block_rq_complete`" Read::Number(|c, i| happened(&c.counters, i).map(|o| Value::Count(o.errors)));
    "ctrscope_container_memory_working_set_bytes" Gauge
        "Memory in use less inactive file pages."
        "`memory.current`, `memory.stat`" Read::Number(|c, _| c.gauges.memory_working_set_bytes.map(Value::Count));
    "ctrscope_container_memory_limit_bytes" Gauge
        "Memory limit; absent where there is none."
        "`memory.max`, v1 `memory.limit_in_bytes`" Read::Number(|c, _| c.gauges.memory_limit_bytes.map(Value::Count));
    "ctrscope_container_memory_oom_kills_total" Counter
        "Tasks killed for want of memory."
        "`memory.events` `oom_kill`, v1 `memory.oom_control`" Read::Number(|c, _| c.counters.memory.as_ref()?.oom_kills.map(Value::Count));
    "ctrscope_container_memory_limit_hits_total" Counter
        "Times the memory limit was hit and reclaim began."
        "`memory.events` `max`, v1 `memory.failcnt`" Read::Number(|c, _| c.counters.memory.as_ref()?.limit_hits.map(Value::Count));
    "ctrscope_container_pressure_cpu_waiting_seconds_total" Counter
        "Time in which at least one task waited for CPU (pressure some)."
        "`cpu.pressure`" Read::Number(|c, _| waiting(pressure(&c.counters, |p| p.cpu)));
    "ctrscope_container_pressure_cpu_stalled_seconds_total" Counter
        "Time in which all non-idle tasks waited for CPU (pressure full)."
        "`cpu.pressure`" Read::Number(|c, _| stalled(pressure(&c.counters, |p| p.cpu)));
    "ctrscope_container_pressure_memory_waiting_seconds_total" Counter
        "Time in which at least one task waited for memory (pressure some)."
        "`memory.pressure`" Read::Number(|c, _| waiting(pressure(&c.counters, |p| p.memory)));
    "ctrscope_container_pressure_memory_stalled_seconds_total" Counter
        "Time in which all non-idle tasks waited for memory (pressure full)."
        "`memory.pressure`" Read::Number(|c, _| stalled(pressure(&c.counters, |p| p.memory)));
    "ctrscope_container_pressure_io_waiting_seconds_total" Counter
        "Time in which at least one task waited for I/O (pressure some)."
        "`io.pressure`" Read::Number(|c, _| waiting(pressure(&c.counters, |p| p.io)));
    "ctrscope_container_pressure_io_stalled_seconds_total" Counter
        "Time in which all non-idle tasks waited for I/O (pressure full)."
        "`io.pressure`" Read::Number(|c, _| stalled(pressure(&c.counters, |p| p.io)));
    "ctrscope_container_exited_timestamp_seconds" Gauge
        "When the container's cgroup was removed; absent while it lives."
        "`cgroup_rmdir`" Read::Number(|c, _| c.exited_at_unix_ms.map(Value::Milliseconds));
    "ctrscope_container_last_exit_code" Gauge
        "Exit code of the first process of the run that ended last, 128 and the signal's number if it was killed; absent if none ended, and where no runtime says it."
        "runtime" Read::Number(|c, _| c.exit_code.map(|code| Value::Real(f64::from(code))));
    "ctrscope_container_bottleneck" Gauge ["resource", "verdict"]
        "Whether a resource (cpu, memory, disk, network) holds the container back, 1 or 0, with the verdict that stands for it; absent where it is not known, and where the container does not use it."
        "diagnosis" Read::Bottleneck;
    "ctrscope_container_info" Gauge ["container_id", "image", "pod_uid", "runtime", "kind", "cgroup", "workload", "workload_kind"]
        "Who the container is; always 1."
        "cgroup path, runtime" Read::Info;

    "ctrscope_workload_containers" Gauge
        "Containers that live, without the sandboxes of pods."
        "cgroup events" Read::Workload(|w, _| w.containers.map(Value::Count));
    "ctrscope_workload_containers_started_total" Counter
        "Containers that were seen to start, or were there when the agent started."
        "cgroup events" Read::Workload(|w, _| w.totals.get(Total::STARTED).map(Value::Count));
    "ctrscope_workload_containers_exited_total" Counter
        "Containers whose cgroup was removed."
        "`cgroup_rmdir`" Read::Workload(|w, _| w.totals.get(Total::EXITED).map(Value::Count));
    "ctrscope_workload_cpu_seconds_total" Counter
        "Time on CPUs, slices that still run included."
        "as of the containers" Read::Workload(|w, _| w.totals.get(Total::CPU).map(Value::Nanoseconds));
    "ctrscope_workload_run_queue_seconds_total" Counter
        "Sum of the run queue latency."
        "as of the containers" Read::Workload(|w, _| w.totals.get(Total::RUN_QUEUE).map(Value::Nanoseconds));
    "ctrscope_workload_off_cpu_seconds_total" Counter ["state"] = STATES
        "Blocked time: for I/O, otherwise interruptible (sleep) or not (uninterruptible)."
        "as of the containers" Read::Workload(|w, i| blocked_total(w, i).map(Value::Nanoseconds));
    "ctrscope_workload_context_switches_total" Counter ["kind"] = KINDS
        "Context switches that left the CPU blocked (voluntary) or still runnable (involuntary)."
        "as of the containers" Read::Workload(|w, i| w.totals.get(if i == 0 { Total::VOLUNTARY } else { Total::INVOLUNTARY }).map(Value::Count));
    "ctrscope_workload_cpu_throttled_seconds_total" Counter
        "Time throttled by CFS bandwidth control, summed over CPUs."
        "as of the containers" Read::Workload(|w, _| w.totals.get(Total::THROTTLED).map(Value::Nanoseconds));
    "ctrscope_workload_block_io_bytes_total" Counter ["operation"] = OPERATIONS
        "Bytes of completed block requests."
        "as of the containers" Read::Workload(|w, i| block_total(w, i, Total::block_bytes).map(Value::Count));
    "ctrscope_workload_block_io_operations_total" Counter ["operation"] = OPERATIONS
        "Completed block requests."
        "as of the containers" Read::Workload(|w, i| block_total(w, i, Total::block_operations).map(Value::Count));
    "ctrscope_workload_block_io_latency_seconds_total" Counter ["operation"] = OPERATIONS
        "Sum of the block I/O latency."
        "as of the containers" Read::Workload(|w, i| block_total(w, i, Total::block_latency).map(Value::Nanoseconds));
    "ctrscope_workload_memory_oom_kills_total" Counter
        "Tasks killed for want of memory."
        "as of the containers" Read::Workload(|w, _| w.totals.get(Total::OOM_KILLS).map(Value::Count));
    "ctrscope_workload_pressure_cpu_waiting_seconds_total" Counter
        "Time in which at least one task of a container waited for CPU (pressure some), summed over containers."
        "as of the containers" Read::Workload(|w, _| w.totals.get(Total::CPU_WAITING).map(Value::Microseconds));
    "ctrscope_workload_pressure_memory_waiting_seconds_total" Counter
        "Time in which at least one task of a container waited for memory (pressure some), summed over containers."
        "as of the containers" Read::Workload(|w, _| w.totals.get(Total::MEMORY_WAITING).map(Value::Microseconds));
    "ctrscope_workload_pressure_io_waiting_seconds_total" Counter
        "Time in which at least one task of a container waited for I/O (pressure some), summed over containers."
        "as of the containers" Read::Workload(|w, _| w.totals.get(Total::IO_WAITING).map(Value::Microseconds));

    "ctrscope_neighbour_wait_seconds_total" Counter ["namespace", "pod", "container", "culprit_namespace", "culprit_pod", "culprit_container"]
        "Run queue latency of a container in which another container or a system service had the CPU: the 100 pairs that waited longest of late, and in _other what the others waited meanwhile."
        "`sched_switch`" Read::Neighbours;

    "ctrscope_build_info" Gauge ["version"]
        "The agent's version; always 1."
        "agent" Read::Agent(|_, rows| rows.push((vec![env!("CARGO_PKG_VERSION").to_owned()], Value::Count(1))));
    "ctrscope_collector_state" Gauge ["collector", "state"]
        "1 for the state that a collector is in, 0 for the others."
        "agent" Read::Agent(agent::collector_states);
    "ctrscope_program_attached" Gauge ["program", "collector"]
        "Hooks that a kernel program is attached to."
        "agent" Read::Agent(|a, rows| rows.extend(a.health.programs.iter().map(|p| (vec![p.name.clone(), p.collector.clone()], Value::Count(u64::from(p.attached))))));
    "ctrscope_program_runs_total" Counter ["program", "collector"]
        "Runs of a kernel program, counted while kernel.bpf_stats_enabled is 1."
        "`bpf_prog_info` `run_cnt`" Read::Agent(|a, rows| rows.extend(a.health.programs.iter().map(|p| (vec![p.name.clone(), p.collector.clone()], Value::Count(p.runs)))));
    "ctrscope_program_run_seconds_total" Counter ["program", "collector"]
        "Time of the runs of a kernel program, counted while kernel.bpf_stats_enabled is 1."
        "`bpf_prog_info` `run_time_ns`" Read::Agent(|a, rows| rows.extend(a.health.programs.iter().map(|p| (vec![p.name.clone(), p.collector.clone()], Value::Nanoseconds(p.run_ns)))));
    "ctrscope_map_bytes" Gauge ["map"]
        "Kernel memory that a map holds."
        "`fdinfo` `memlock`" Read::Agent(|a, rows| rows.extend(a.health.maps.iter().map(|m| (vec![m.name.clone()], Value::Count(m.bytes)))));
    "ctrscope_map_capacity_entries" Gauge ["map"]
        "Entries that a map has room for."
        "`bpf_map_info` `max_entries`" Read::Agent(|a, rows| rows.extend(a.health.maps.iter().map(|m| (vec![m.name.clone()], Value::Count(m.capacity)))));
    "ctrscope_losses_total" Counter ["kind", "reason"]
        "What is missing from the numbers: lost (ring full), discarded (sample judged wrong) or evicted (removed for room)."
        "kernel programs, agent" Read::Agent(|a, rows| rows.extend(a.health.losses.iter().map(|l| (vec![l.kind.clone(), l.reason.clone()], Value::Count(l.count)))));
    "ctrscope_containers_seen_total" Counter
        "Containers of a runtime that were seen and have or had series of their own, by their ids."
        "cgroup events" Read::Agent(|a, rows| rows.push((vec![], Value::Count(a.health.seen.all))));
    "ctrscope_containers_named_total" Counter
        "Containers that were seen and that a runtime has named."
        "runtime" Read::Agent(|a, rows| rows.push((vec![], Value::Count(a.health.seen.named))));
    "ctrscope_containers_in_other_total" Counter ["reason"]
        "Times that a container got no series of its own and is in those of _other: there was no place for it or a busier one took it (limit), or include and exclude leave it out (excluded)."
        "agent" Read::Agent(|a, rows| rows.extend([("limit", a.health.in_other.limit), ("excluded", a.health.in_other.excluded)].map(|(reason, count)| (vec![reason.to_owned()], Value::Count(count)))));
    "ctrscope_runtime_connected" Gauge ["runtime", "socket"]
        "Whether a container runtime's socket answers, 1 or 0."
        "agent" Read::Agent(|a, rows| rows.extend(a.health.runtimes.iter().map(|r| (vec![r.runtime.clone(), r.socket.clone()], Value::Count(u64::from(r.connected))))));
    "ctrscope_runtime_failures_total" Counter ["runtime", "socket"]
        "Questions that a container runtime did not answer, or wrongly."
        "agent" Read::Agent(|a, rows| rows.extend(a.health.runtimes.iter().map(|r| (vec![r.runtime.clone(), r.socket.clone()], Value::Count(r.failures)))));
    "ctrscope_block_io_bytes_total" Counter ["charged", "operation"]
        "Bytes of all completed block requests of the host, by whom they are charged to: containers and plain cgroups, those that are gone among them (container), systemd units (service), or the root and whoever has no entry of its own (other)."
        "`block_rq_complete`" Read::Agent(agent::charged_bytes);
    "ctrscope_slots" Gauge
        "Containers that the kernel maps have room for."
        "agent" Read::Agent(|a, rows| agent::slots(a, a.health.slots, rows));
    "ctrscope_slots_used" Gauge
        "Containers that have a slot of their own in the kernel maps."
        "agent" Read::Agent(|a, rows| agent::slots(a, a.health.slots_used, rows));
    "ctrscope_collection_seconds" Gauge
        "CPU time that collecting the snapshot behind this exposition took."
        "agent" Read::Agent(|a, rows| rows.push((vec![], Value::Nanoseconds(a.health.collection_ns))));
    "ctrscope_cgroup_files_age_seconds" Gauge
        "Age of the oldest numbers of cgroup files in this exposition; those of a container that did nothing since they were read are of now."
        "agent" Read::Agent(|a, rows| rows.extend(a.health.oldest_files_ns.map(|age| (vec![], Value::Nanoseconds(age)))));
    "ctrscope_cgroup_file_reads_total" Counter
        "Files that the agent opened for the numbers of containers: most of what collecting them costs."
        "agent" Read::Agent(|a, rows| rows.push((vec![], Value::Count(a.health.files_read))));
    "ctrscope_profile_addresses_total" Counter ["named"]
        "Distinct addresses and Python functions of the profiles that have ended, by whether a name was found for them (`yes`, `no`)."
        "agent" Read::Agent(agent::profile_addresses);
    "ctrscope_agent_cpu_seconds_total" Counter
        "User and system CPU time of the agent's own process."
        "`/proc/self/stat`" Read::Agent(|a, rows| rows.extend(a.process.map(|p| (vec![], Value::Real(p.cpu_seconds)))));
    "ctrscope_agent_resident_memory_bytes" Gauge
        "Resident memory of the agent's own process."
        "`/proc/self/stat`" Read::Agent(|a, rows| rows.extend(a.process.map(|p| (vec![], Value::Count(p.resident_bytes)))));
    "ctrscope_scrape_seconds" Gauge
        "How long the previous scrape took, collection and rendering."
        "agent" Read::Server;
    "ctrscope_http_requests_total" Counter ["path", "code"]
        "HTTP requests by route and status code."
        "agent" Read::Server;
}
