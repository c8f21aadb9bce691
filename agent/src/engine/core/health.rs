//! What the agent says of itself.

use std::{sync::atomic::Ordering, time::Instant};

use super::Engine;
use crate::snapshot::{AgentHealth, CollectorState, CollectorStatus, LossCounter};

impl Engine {
    pub(super) fn health(&self, losses: Vec<LossCounter>, began: Instant) -> AgentHealth {
        let programs = self.kernel.programs();
        let mut collectors = Vec::new();
        for name in ["sched", "block", "cgroup"] {
            let lacking: Vec<_> = programs
                .iter()
                .filter(|program| program.collector == name && !program.attached)
                .map(|program| format!("{}: {}", program.name, program.reason))
                .collect();
            let any = programs.iter().any(|p| p.collector == name && p.attached);
            collectors.push(CollectorStatus {
                name: name.into(),
                state: match (lacking.is_empty(), any) {
                    (true, _) => CollectorState::Active,
                    (false, true) => CollectorState::Degraded,
                    (false, false) => CollectorState::Unsupported,
                },
                reason: lacking.join("; "),
            });
        }
        let hierarchies = self.files.hierarchies();
        for (name, offered, lack) in [
            (
                "cpu",
                hierarchies.cpu.is_some(),
                "no cpu controller is mounted",
            ),
            (
                "memory",
                hierarchies.memory.is_some(),
                "no memory controller is mounted",
            ),
            (
                "pressure",
                hierarchies.unified.is_some(),
                "no cgroup v2 mount, which pressure files need",
            ),
        ] {
            collectors.push(CollectorStatus {
                name: name.into(),
                state: if offered {
                    CollectorState::Active
                } else {
                    CollectorState::Unsupported
                },
                reason: if offered { String::new() } else { lack.into() },
            });
        }
        let profile = self.resolved.verdict("profile");
        collectors.push(CollectorStatus {
            name: "profile".into(),
            state: if profile.is_ok() {
                CollectorState::Active
            } else {
                CollectorState::Unsupported
            },
            reason: profile.err().unwrap_or_default(),
        });
        let mut losses = losses;
        // Sessions count on their own; these are the sums of those that have ended.
        for (loss, ended) in losses.iter_mut().zip(self.profile_losses.iter()) {
            loss.count += ended.load(Ordering::Relaxed);
        }
        losses.retain(|loss| loss.kind != "taken");
        for (kind, reason, count) in [
            ("lost", "container_limit", self.registry.refused()),
            (
                "lost",
                "cgroup_not_remembered",
                self.registry.unremembered(),
            ),
            ("lost", "cgroup_file_unreadable", self.files.failures()),
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
        let sizes = self.kernel.sizes();
        AgentHealth {
            collectors,
            programs,
            maps: self.kernel.maps(),
            losses,
            slots_used: self.registry.slots_used(),
            slots: sizes.slots - 1,
            collection_ns: u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
        }
    }
}
