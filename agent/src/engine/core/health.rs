//! What the agent says of itself.

use std::time::{Duration, Instant};

use super::Engine;
use crate::{
    bpf::features::{Psi, profile_lacks},
    snapshot::{
        AgentHealth, CollectorState, CollectorStatus, InOther, KernelMap, KernelProgram,
        LossCounter,
    },
};

/// Programs without which there are no numbers of the scheduler.
const SCHED_PROGRAMS: [&str; 1] = ["sched_switch"];
/// Programs without which there are no numbers of block requests.
const BLOCK_PROGRAMS: [&str; 2] = ["block_rq_issue", "block_rq_complete"];

/// Time between two looks at the runs of programs and the memory of maps: a system call and a file each, for
/// numbers that hardly change.
const MEASURE_INTERVAL: Duration = Duration::from_secs(10);

/// What was found at the last look.
#[derive(Debug, Default)]
pub(super) struct Measured {
    at: Option<Instant>,
    maps: Vec<KernelMap>,
}

impl Engine {
    pub(super) fn health(
        &mut self,
        losses: Vec<LossCounter>,
        cost: Duration,
        oldest_files_ns: Option<u64>,
    ) -> AgentHealth {
        self.measure();
        let programs = self.programs.clone();
        let collectors = self.collectors(&programs);
        let files = self.files.health();
        let mut losses = losses;
        // Recordings count on their own; these are the sums of those that have ended.
        self.profile_totals.add_to(&mut losses);
        losses.retain(|loss| loss.kind != "taken");
        for (kind, reason, count) in [
            ("lost", "runtime_queue_full", self.names.dropped()),
            (
                "lost",
                "cgroup_not_remembered",
                self.registry.unremembered(),
            ),
            (
                "evicted",
                "workload_limit",
                self.registry.workloads().evicted().count,
            ),
            (
                "lost",
                "cgroup_file_unreadable",
                files.failures + self.facts.failures(),
            ),
            ("lost", "cgroup_end_unread", files.ends_missed),
            (
                "lost",
                "cgroup_tree_truncated",
                u64::from(self.tree.is_truncated()),
            ),
        ] {
            losses.push(LossCounter {
                kind: kind.into(),
                reason: reason.into(),
                count,
            });
        }
        let slots = self.kernel.as_ref().map(|kernel| kernel.sizes().slots - 1);
        AgentHealth {
            runtimes: self.names.health(),
            seen: self.registry.seen(),
            in_other: InOther {
                limit: self.registry.refused(),
                excluded: self.registry.excluded(),
            },
            collectors,
            programs,
            maps: [&self.measured.maps, self.profile_totals.maps()].concat(),
            losses,
            slots_used: slots.map_or(0, |_| self.registry.slots_used()),
            slots: slots.unwrap_or(0),
            charged_bytes: self.block_runs().then(|| self.block_charges.sums()),
            collection_ns: u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX),
            files_read: files.files_read,
            profile_addresses: self.profile_totals.addresses(),
            oldest_files_ns,
        }
    }

    /// Looks at the programs and maps again, if that is due.
    fn measure(&mut self) {
        let Some(kernel) = &self.kernel else {
            return;
        };
        let is_young = |at: Instant| at.elapsed() < MEASURE_INTERVAL;
        if self.measured.at.is_some_and(is_young) {
            return;
        }
        for (program, now) in self.programs.iter_mut().zip(kernel.programs()) {
            program.runs = now.runs;
            program.run_ns = now.run_ns;
        }
        self.measured = Measured {
            at: Some(Instant::now()),
            maps: kernel.maps(),
        };
    }

    fn collectors(&self, programs: &[KernelProgram]) -> Vec<CollectorStatus> {
        let hierarchies = self.files.hierarchies();
        let no_cpu = "no cpu controller is mounted where the agent sees it: mount it, or give the host's \
                      mount by --cgroup-root";
        let no_io = "no blkio or io controller is mounted where the agent sees it, so that all requests \
                     count as _other: mount it, or give the host's mount by --cgroup-root";
        let (any, mut reason) = by_programs(programs, "sched", &SCHED_PROGRAMS);
        if any && !self.tree.tells_cpu() {
            add(&mut reason, &format!("{no_cpu}; all counts as _other"));
        }
        let sched = status("sched", any, reason);
        let (any, mut reason) = by_programs(programs, "block", &BLOCK_PROGRAMS);
        if any && !self.tree.tells_block() {
            add(&mut reason, no_io);
        } else if any && !self.block_is_told() {
            add(
                &mut reason,
                "the kernel does not say whose a request is, so that all count as _other: boot one \
                 built with CONFIG_BLK_CGROUP=y",
            );
        }
        let block = status("block", any, reason);
        // Without events the walks find what there is.
        let (_, mut reason) = by_programs(programs, "cgroup", &[]);
        if !reason.is_empty() {
            add(
                &mut reason,
                "cgroups are found by walks of the tree, those that live shorter not",
            );
        }
        let mut cgroup = status("cgroup", true, reason);
        if let Some(error) = self.tree.walk_error() {
            add(&mut cgroup.reason, error);
            cgroup.state = CollectorState::Failed;
        }
        let cpu = status(
            "cpu",
            hierarchies.cpu.is_some(),
            lack(hierarchies.cpu.is_none(), no_cpu),
        );
        let memory = status(
            "memory",
            hierarchies.memory.is_some(),
            lack(
                hierarchies.memory.is_none(),
                "no memory controller is mounted where the agent sees it: mount it, or give the host's \
                 mount by --cgroup-root",
            ),
        );
        let no_pressure = match (hierarchies.unified.is_some(), self.features.psi) {
            (_, Psi::Absent) => {
                "the kernel keeps no pressure, there is no /proc/pressure: boot one built with \
                 CONFIG_PSI=y"
            }
            (_, Psi::Disabled) => "the kernel's pressure is switched off: boot with psi=1",
            (false, _) => {
                "no cgroup v2 mount, which pressure files need: mount -t cgroup2 none DIRECTORY"
            }
            (true, _) => "",
        };
        let pressure = status("pressure", no_pressure.is_empty(), no_pressure.to_owned());
        vec![
            sched,
            block,
            cgroup,
            cpu,
            memory,
            pressure,
            status("facts", true, self.facts.lacks()),
            self.names_status(),
            self.profile_status(),
        ]
    }

    fn names_status(&self) -> CollectorStatus {
        let name = "names";
        if let Some((state, reason)) = self.names.trouble() {
            return CollectorStatus {
                name: name.into(),
                state,
                reason,
            };
        }
        status(name, true, String::new())
    }

    fn profile_status(&self) -> CollectorStatus {
        if let Err(reason) = &self.profile {
            return status("profile", false, reason.clone());
        }
        let mut reason = String::new();
        for lack in profile_lacks(&self.features) {
            add(&mut reason, &lack);
        }
        if let Some(lack) = self.samples_lack() {
            add(&mut reason, lack);
        }
        status("profile", true, reason)
    }

    /// Why it is not known whose a sample is, so that the host as a whole can be profiled, and no
    /// container.
    pub(in crate::engine) fn samples_lack(&self) -> Option<&'static str> {
        if !self.is_attached("sched_switch") {
            Some("without sched_switch samples are not told apart by container")
        } else if !self.tree.tells_cpu() {
            Some(
                "without a cpu controller samples are not told apart by container: mount it where the \
                 agent sees it, or give the host's mount by --cgroup-root",
            )
        } else {
            None
        }
    }

    /// Whether block requests are counted.
    pub(super) fn block_runs(&self) -> bool {
        BLOCK_PROGRAMS.iter().all(|name| self.is_attached(name))
    }

    /// Whether a request's container is known to the kernel side.
    pub(super) fn block_is_told(&self) -> bool {
        self.tree.tells_block() && self.block_has_blkcg
    }

    /// Logs each collector whose state has changed; at first those that are not active.
    pub(super) fn log_states(&mut self, collectors: &[CollectorStatus]) {
        for one in collectors {
            let before = self.logged_states.insert(one.name.clone(), one.state);
            if before.unwrap_or(CollectorState::Active) == one.state {
                continue;
            }
            let (collector, reason) = (one.name.as_str(), one.reason.as_str());
            let by_programs = matches!(collector, "sched" | "block" | "cgroup");
            if one.state == CollectorState::Active {
                tracing::info!(collector, "collector active");
            } else if by_programs || one.state == CollectorState::Failed {
                tracing::warn!(collector, state = ?one.state, reason, "collector not active");
            } else {
                tracing::info!(collector, state = ?one.state, reason, "collector not active");
            }
        }
    }
}

/// Whether all programs are attached without which a collector has no numbers, and what the others of
/// it lack.
fn by_programs(programs: &[KernelProgram], collector: &str, needed: &[&str]) -> (bool, String) {
    let lacking: Vec<_> = programs
        .iter()
        .filter(|program| program.collector == collector && !program.attached)
        .collect();
    let runs = needed.iter().all(|name| {
        programs
            .iter()
            .any(|program| program.name == *name && program.attached)
    });
    (runs, reasons(&lacking))
}

/// Active without a reason; with one degraded if it runs, else unsupported.
fn status(name: &str, runs: bool, reason: String) -> CollectorStatus {
    CollectorStatus {
        name: name.into(),
        state: match (runs, reason.is_empty()) {
            (true, true) => CollectorState::Active,
            (true, false) => CollectorState::Degraded,
            (false, _) => CollectorState::Unsupported,
        },
        reason,
    }
}

fn lack(lacks: bool, reason: &str) -> String {
    if lacks {
        reason.to_owned()
    } else {
        String::new()
    }
}

fn add(reason: &mut String, more: &str) {
    if !reason.is_empty() {
        reason.push_str("; ");
    }
    reason.push_str(more);
}

/// Programs with their reasons; those that share one are named together.
fn reasons(lacking: &[&KernelProgram]) -> String {
    let mut by_reason: Vec<(&str, Vec<&str>)> = Vec::new();
    for program in lacking {
        match by_reason
            .iter_mut()
            .find(|(reason, _)| *reason == program.reason)
        {
            Some((_, names)) => names.push(&program.name),
            None => by_reason.push((&program.reason, vec![&program.name])),
        }
    }
    by_reason
        .iter()
        .map(|(reason, names)| format!("{}: {reason}", names.join(", ")))
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, collector: &str, reason: &str) -> KernelProgram {
        KernelProgram {
            name: name.into(),
            collector: collector.into(),
            attached: reason.is_empty(),
            reason: reason.into(),
            ..KernelProgram::default()
        }
    }

    #[test]
    fn a_collector_runs_if_what_gives_its_numbers_is_attached() {
        let state = |programs: &[KernelProgram], collector, needed: &[&str]| {
            let (runs, reason) = by_programs(programs, collector, needed);
            (status(collector, runs, reason.clone()).state, reason)
        };
        let auxiliary = [
            program("sched_switch", "sched", "no such tracepoint"),
            program("read_clock", "sched", ""),
            program("block_rq_issue", "block", ""),
            program("block_rq_complete", "block", "refused"),
        ];
        assert_eq!(
            state(&auxiliary, "sched", &SCHED_PROGRAMS),
            (
                CollectorState::Unsupported,
                "sched_switch: no such tracepoint".to_owned()
            )
        );
        let (block, _) = state(&auxiliary, "block", &BLOCK_PROGRAMS);
        assert_eq!(block, CollectorState::Unsupported);
        let main = [
            program("sched_switch", "sched", ""),
            program("read_clock", "sched", "refused"),
        ];
        assert_eq!(
            state(&main, "sched", &SCHED_PROGRAMS),
            (CollectorState::Degraded, "read_clock: refused".to_owned())
        );
    }
}
