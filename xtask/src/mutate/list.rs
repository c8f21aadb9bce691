//! The defects.

/// One place of the source changed for the worse.
#[derive(Clone, Copy)]
pub(super) struct Mutation {
    /// What is wrong then.
    pub(super) name: &'static str,
    /// From the root of the repository.
    pub(super) file: &'static str,
    /// Text that the file has once.
    pub(super) sound: &'static str,
    /// What stands in its place.
    pub(super) defect: &'static str,
    /// Filters of the tests of the long run that find it, where the gate cannot.
    pub(super) long_run: Option<&'static [&'static str]>,
}

impl Mutation {
    /// The file with the defect; `None` if its text is not there exactly once.
    pub(super) fn apply(&self, text: &str) -> Option<String> {
        (text.matches(self.sound).count() == 1).then(|| text.replacen(self.sound, self.defect, 1))
    }
}

const LAYOUT: &str = "agent/src/bpf/layout.rs";
const SCHED: &str = "agent-ebpf/src/probes/sched.rs";
const BLOCK: &str = "agent-ebpf/src/probes/block.rs";

/// Wrong offsets, dropped counts, swapped labels, and what lies between kernel and scrape.
pub(super) const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "wrong offset: when a task began to wait",
        file: LAYOUT,
        sound: "layout.task_last_queued = last_queued.offset;",
        defect: "layout.task_last_queued = last_arrival.offset;",
        long_run: None,
    },
    Mutation {
        name: "wrong offset: what a task was charged",
        file: LAYOUT,
        sound: "layout.task_sum_exec = sum_exec.offset;",
        defect: "layout.task_sum_exec = run_delay.offset;",
        long_run: None,
    },
    Mutation {
        name: "wrong offset: length of a request",
        file: LAYOUT,
        sound: "layout.request_data_len = data_len.offset;",
        defect: "layout.request_data_len = cmd_flags.offset;",
        long_run: None,
    },
    Mutation {
        name: "dropped: voluntary switches",
        file: SCHED,
        sound: "            add_one!(stats, voluntary);\n",
        defect: "",
        long_run: None,
    },
    Mutation {
        name: "dropped: every dispatch's wait in its sum",
        file: SCHED,
        sound: "    add!(stats, run_queue_ns, wait);\n",
        defect: "",
        long_run: None,
    },
    Mutation {
        name: "dropped: what a waiting task had waited before it was moved",
        file: SCHED,
        sound: "                wait = added;\n",
        defect: "                let _ = added;\n",
        long_run: Some(&["accuracy::sched::migrated"]),
    },
    Mutation {
        name: "swapped: sleep and other blocked time in off-CPU time",
        file: SCHED,
        sound: "                DEPARTED_UNINTERRUPTIBLE\n            } else {\n                DEPARTED_SLEEP\n",
        defect: "                DEPARTED_SLEEP\n            } else {\n                DEPARTED_UNINTERRUPTIBLE\n",
        long_run: None,
    },
    Mutation {
        name: "swapped: reads and writes",
        file: BLOCK,
        sound: "    if op == 0 {\n        Some(READ)\n",
        defect: "    if op == 0 {\n        Some(WRITE)\n",
        long_run: None,
    },
    Mutation {
        name: "charged to the wrong one: a request without its cgroup",
        file: BLOCK,
        sound: "            return kernel::owner(slot::SUBSYSTEM_BLOCK, css, 0);\n",
        defect: "            let _ = kernel::owner(slot::SUBSYSTEM_BLOCK, css, 0);\n",
        long_run: None,
    },
    Mutation {
        name: "wrong filter: a profile of all but the container",
        file: "agent-ebpf/src/probes/profile.rs",
        sound: "if wanted != slot::IDLE && slot::slot(owner) != wanted {",
        defect: "if wanted != slot::IDLE && slot::slot(owner) == wanted {",
        long_run: None,
    },
    Mutation {
        name: "a counter that wrapped is taken for one that stands still",
        file: "agent-ebpf/src/pod.rs",
        sound: "*self = self.wrapping_sub(*earlier);",
        defect: "*self = self.saturating_sub(*earlier);",
        long_run: None,
    },
    Mutation {
        name: "swapped: labels of voluntary and involuntary switches",
        file: "agent/src/export/metrics/definitions.rs",
        sound: "const KINDS: &[&str] = &[\"voluntary\", \"involuntary\"];",
        defect: "const KINDS: &[&str] = &[\"involuntary\", \"voluntary\"];",
        long_run: None,
    },
    Mutation {
        name: "wrong unit: throttled microseconds taken for nanoseconds",
        file: "agent/src/cgroup/cpu.rs",
        sound: "keyed_number(text, \"throttled_usec\")",
        defect: "keyed_number(text, \"throttled_usec\").map(|usec| usec / 1000)",
        long_run: None,
    },
    Mutation {
        name: "the retention is not kept",
        file: "agent/src/container/registry/places.rs",
        sound: "(now.ns.saturating_sub(exited.ns) >= self.limits.retention_ns",
        defect: "(now.ns.saturating_sub(exited.ns) >= self.limits.retention_ns / 1_000_000",
        long_run: None,
    },
    Mutation {
        name: "the exit code that a runtime tells is lost",
        file: "agent/src/container/registry/names.rs",
        sound: "            entity.exit_code = exit_code.or(entity.exit_code);\n",
        defect: "            let _ = exit_code;\n",
        long_run: None,
    },
];
