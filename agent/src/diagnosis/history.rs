//! Changes of verdicts over the last hour, without flapping.
//!
//! Windows overlap, and a number near its threshold crosses it back and forth. A verdict of a container's
//! resource is settled when it was given [`CONFIRMATIONS`] times in a row, or at once where it is the first;
//! until then the one before stands. A task that was killed is settled at once: it does not come back.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    report::{Bottleneck, ContainerDiagnosis, Diagnosis, worst_of},
    verdict::{Resource, Verdict},
};
use crate::snapshot::{Identity, Kind};

/// Times in a row that a verdict is given before it stands.
pub const CONFIRMATIONS: u32 = 2;
/// How long changes are remembered.
const REMEMBERED_MS: u64 = 3_600_000;
/// Changes of a container that are remembered, at most: the older ones go first.
const MAX_CHANGES: usize = 64;
/// Containers that are remembered, at most, those that ended within the hour among them: the one that was
/// seen longest ago goes first.
const MAX_CONTAINERS: usize = 4_096;

/// A change of a verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When, milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// Of which resource.
    pub resource: Resource,
    /// What it was; `None` for the first that is known.
    pub from: Option<Verdict>,
    /// What it is since.
    pub to: Verdict,
    /// The finding's sentence at that time.
    pub summary: String,
}

/// The verdict that stands for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Of which resource.
    pub resource: Resource,
    /// The verdict.
    pub verdict: Verdict,
    /// Since when, milliseconds since the epoch.
    pub since_unix_ms: u64,
    /// How much it cost when it was last given, 0 to 1.
    pub severity: f64,
}

/// What stands for a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerStanding {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// The verdict of each resource, in the order of [`Resource::ALL`]; empty before the first window.
    pub standing: Vec<Standing>,
}

impl ContainerStanding {
    /// What holds it back most, of what stands; `None` where nothing does.
    #[must_use]
    pub fn worst(&self) -> Option<Bottleneck> {
        let verdicts: Vec<Bottleneck> = self
            .standing
            .iter()
            .map(|one| Bottleneck {
                resource: one.resource,
                verdict: one.verdict,
                severity: one.severity,
            })
            .collect();
        worst_of(&verdicts)
    }
}

/// A container's cgroup and id: who is made again at the same path has another id.
type Key = (String, String);

#[derive(Debug, Default)]
struct Remembered {
    identity: Arc<Identity>,
    last_seen_unix_ms: u64,
    standing: Vec<Standing>,
    /// What was given last and how often in a row, where that is not what stands.
    candidates: HashMap<Resource, (Verdict, u32)>,
    changes: VecDeque<Change>,
}

/// The changes of all containers.
#[derive(Debug, Default)]
pub struct History {
    containers: HashMap<Key, Remembered>,
}

fn key(identity: &Identity) -> Key {
    (identity.cgroup.clone(), identity.container_id.clone())
}

impl History {
    /// Takes in the diagnosis of a window that is newer than the last one.
    pub fn update(&mut self, diagnosis: &Diagnosis) {
        let now = diagnosis.ended_at_unix_ms;
        for container in &diagnosis.containers {
            self.containers
                .entry(key(&container.identity))
                .or_default()
                .update(container, now);
        }
        self.containers
            .retain(|_, one| now.saturating_sub(one.last_seen_unix_ms) <= REMEMBERED_MS);
        while self.containers.len() > MAX_CONTAINERS {
            let oldest = self
                .containers
                .iter()
                .min_by_key(|(_, one)| one.last_seen_unix_ms)
                .map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { break };
            self.containers.remove(&oldest);
        }
    }

    /// The changes of a container, the oldest first.
    #[must_use]
    pub fn changes(&self, identity: &Identity) -> Vec<Change> {
        self.containers
            .get(&key(identity))
            .map(|one| one.changes.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// What stands for each container that was in the last diagnosis.
    #[must_use]
    pub fn standing(&self) -> Vec<ContainerStanding> {
        let last = self
            .containers
            .values()
            .map(|one| one.last_seen_unix_ms)
            .max();
        self.containers
            .values()
            .filter(|one| Some(one.last_seen_unix_ms) == last)
            .filter(|one| one.identity.kind != Kind::Other)
            .map(|one| ContainerStanding {
                identity: Arc::clone(&one.identity),
                standing: one.standing.clone(),
            })
            .collect()
    }
}

impl Remembered {
    fn update(&mut self, container: &ContainerDiagnosis, now: u64) {
        // A name can come later than the container.
        self.identity.clone_from(&container.identity);
        self.last_seen_unix_ms = now;
        for given in &container.resources {
            let resource = given.resource;
            let severity = given.severity();
            let stands = self
                .standing
                .iter_mut()
                .find(|one| one.resource == resource);
            let from = match stands {
                Some(stands) if stands.verdict == given.verdict => {
                    stands.severity = severity;
                    self.candidates.remove(&resource);
                    continue;
                }
                Some(stands) => {
                    let candidate = self
                        .candidates
                        .entry(resource)
                        .or_insert((given.verdict, 0));
                    if candidate.0 != given.verdict {
                        *candidate = (given.verdict, 0);
                    }
                    candidate.1 += 1;
                    if candidate.1 < CONFIRMATIONS && given.verdict != Verdict::OomKilled {
                        continue;
                    }
                    self.candidates.remove(&resource);
                    let from = stands.verdict;
                    *stands = Standing {
                        resource,
                        verdict: given.verdict,
                        since_unix_ms: now,
                        severity,
                    };
                    Some(from)
                }
                None => {
                    self.standing.push(Standing {
                        resource,
                        verdict: given.verdict,
                        since_unix_ms: now,
                        severity,
                    });
                    None
                }
            };
            let summary = given
                .findings
                .first()
                .map(|finding| finding.summary.clone());
            self.changes.push_back(Change {
                at_unix_ms: now,
                resource,
                from,
                to: given.verdict,
                summary: summary.unwrap_or_default(),
            });
        }
        while self.changes.len() > MAX_CHANGES
            || self
                .changes
                .front()
                .is_some_and(|oldest| now.saturating_sub(oldest.at_unix_ms) > REMEMBERED_MS)
        {
            self.changes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::verdict::ResourceDiagnosis;

    const MINUTE_MS: u64 = 60_000;

    /// A window of containers whose memory has a verdict.
    fn diagnosis(end_ms: u64, verdicts: &[(&str, Verdict)]) -> Diagnosis {
        let container = |&(name, verdict): &(&str, Verdict)| ContainerDiagnosis {
            identity: Arc::new(Identity {
                cgroup: format!("/{name}"),
                ..Identity::default()
            }),
            resources: vec![ResourceDiagnosis {
                resource: Resource::Memory,
                verdict,
                findings: Vec::new(),
                asked: Vec::new(),
            }],
            ..ContainerDiagnosis::default()
        };
        Diagnosis {
            ended_at_unix_ms: end_ms,
            containers: verdicts.iter().map(container).collect(),
            ..Diagnosis::default()
        }
    }

    fn changes(history: &History, name: &str) -> Vec<(u64, Verdict)> {
        let identity = Identity {
            cgroup: format!("/{name}"),
            ..Identity::default()
        };
        let changes = history.changes(&identity).into_iter();
        changes.map(|one| (one.at_unix_ms, one.to)).collect()
    }

    #[test]
    fn a_task_that_was_killed_is_told_at_once_and_a_verdict_that_flaps_never_stands() {
        let mut history = History::default();
        let given = [
            Verdict::Unbound,
            Verdict::MemoryLimited,
            Verdict::Unbound,
            Verdict::HostMemory,
            Verdict::MemoryLimited,
            Verdict::OomKilled,
            Verdict::Unbound,
            Verdict::Unbound,
        ];
        for (at, verdict) in (1..).zip(given) {
            history.update(&diagnosis(at, &[("a", verdict)]));
        }
        assert_eq!(
            changes(&history, "a"),
            [
                (1, Verdict::Unbound),
                (6, Verdict::OomKilled),
                (8, Verdict::Unbound)
            ]
        );
        let standing = history.standing();
        assert_eq!(standing[0].standing[0].since_unix_ms, 8);
        assert_eq!(standing[0].worst(), None);
    }

    #[test]
    fn changes_are_kept_for_an_hour_and_containers_as_long_after_their_end() {
        let mut history = History::default();
        history.update(&diagnosis(
            0,
            &[("a", Verdict::Unbound), ("b", Verdict::Unbound)],
        ));
        history.update(&diagnosis(MINUTE_MS, &[("a", Verdict::OomKilled)]));
        assert_eq!(changes(&history, "a").len(), 2);
        // Who is gone stands no more, and is remembered.
        assert_eq!(history.standing().len(), 1);
        assert_eq!(changes(&history, "b").len(), 1);
        history.update(&diagnosis(60 * MINUTE_MS + 1, &[("a", Verdict::OomKilled)]));
        assert_eq!(changes(&history, "a"), [(MINUTE_MS, Verdict::OomKilled)]);
        assert_eq!(changes(&history, "b"), []);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut history = History::default();
        for at in 0..1_000 {
            let verdict = if at % 4 < 2 {
                Verdict::Unbound
            } else {
                Verdict::MemoryLimited
            };
            history.update(&diagnosis(at, &[("a", verdict)]));
        }
        assert_eq!(changes(&history, "a").len(), MAX_CHANGES);
        let names: Vec<String> = (0..MAX_CONTAINERS + 5)
            .map(|one| format!("c{one}"))
            .collect();
        let many: Vec<(&str, Verdict)> = names
            .iter()
            .map(|name| (name.as_str(), Verdict::Unbound))
            .collect();
        history.update(&diagnosis(1_000, &many));
        assert_eq!(history.containers.len(), MAX_CONTAINERS);
        assert_eq!(changes(&history, "a"), []);
    }
}
