//! Who made whom wait for CPUs in a window: victims by what they waited for, and those that were waited for.
//!
//! These types are also the JSON of `/api/v1/neighbours`. All of it is in the facts that the diagnosis rests on
//! ([`WaitedFor`]); here nobody is judged.

use std::{collections::BTreeMap, sync::Arc};

use ctrscope_ebpf::ledger::{CAUSES, CONTAINER, NAMES, SYSTEM};
use serde::{Deserialize, Serialize};

use super::facts::{ContainerFacts, Neighbour, WaitedFor, WindowFacts};
use crate::snapshot::{Identity, Kind};

/// Neighbours of a victim and victims of a culprit that are named, each.
const MOST_NAMED: usize = 20;
/// Culprits that are listed.
const MOST_CULPRITS: usize = 100;

/// Who made whom wait for CPUs in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WaitMatrix {
    /// Length of the window.
    pub seconds: f64,
    /// When it ended, milliseconds since the epoch.
    pub ended_at_unix_ms: u64,
    /// Containers and services of which it is measured for whom they waited.
    pub measured: usize,
    /// What all of those waited for, in sum; what is nothing is left out.
    pub causes: Vec<CauseWait>,
    /// Those that waited, the one that waited most in a second first; where one is asked for, that one, whether it
    /// waited or not.
    pub containers: Vec<Victim>,
    /// Those that were waited for, the one that was waited for most first, 100 at most; where one is asked for, that
    /// one, or none if nobody waited for it.
    pub culprits: Vec<Culprit>,
    /// Waited for whom no name is given.
    pub unnamed: Unnamed,
}

/// Waits for whom no name is given: seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unnamed {
    /// Containers beyond those that are listed, that are gone by now, or that are too many to be told apart.
    pub containers_seconds: f64,
    /// The same of system services, and what is in neither, as sessions and the root cgroup.
    pub system_seconds: f64,
}

/// What is waited for, and how long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CauseWait {
    /// The value of `cause` of `ctrscope_container_run_queue_cause_seconds_total`.
    pub cause: String,
    /// Seconds.
    pub seconds: f64,
    /// Share of all that was waited, 0 to 1.
    pub share: f64,
}

/// Whether somebody is a container or a system service.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum PartyKind {
    /// A container, or a cgroup that counts as one.
    #[default]
    Container,
    /// A systemd unit.
    Service,
}

impl PartyKind {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Service => Self::Service,
            Kind::Container | Kind::Sandbox | Kind::Cgroup | Kind::Other => Self::Container,
        }
    }
}

/// One that waited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Victim {
    /// Its name: namespace, pod and container, as far as it has them, joined by `/`.
    pub name: String,
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Time that this is of: the window, or less for one that began within it.
    pub seconds: f64,
    /// Run queue latency: seconds, summed over its tasks.
    pub waited_seconds: f64,
    /// The same for each second.
    pub waited_per_second: f64,
    /// What it waited for, most first; what is nothing is left out.
    pub causes: Vec<CauseWait>,
    /// Whom it waited for, most first, 20 at most.
    pub neighbours: Vec<PairWait>,
    /// Waited for others than those.
    pub unnamed: Unnamed,
}

/// One that was waited for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Culprit {
    /// Its name, as that of a [`Victim`].
    pub name: String,
    /// What it is.
    pub kind: PartyKind,
    /// What all others waited for it: seconds.
    pub seconds: f64,
    /// The same for each second of the window.
    pub per_second: f64,
    /// How many waited for it.
    pub victim_count: usize,
    /// Those of them that waited most, 20 at most.
    pub victims: Vec<PairWait>,
}

/// What one waited for another; it bears the name of the other one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PairWait {
    /// Name of the neighbour, or of the victim.
    pub name: String,
    /// What that is.
    pub kind: PartyKind,
    /// Seconds.
    pub seconds: f64,
    /// The same for each second that the victim's numbers are of.
    pub per_second: f64,
    /// Share of all that the victim waited, 0 to 1.
    pub share: f64,
}

/// Who made whom wait; `only` of one container: as a victim and as a culprit.
#[must_use]
pub fn wait_matrix(facts: &WindowFacts, only: Option<&Identity>) -> WaitMatrix {
    let mut sums = [0.0; CAUSES];
    let mut culprits: BTreeMap<(PartyKind, String), Culprit> = BTreeMap::new();
    let mut victims = Vec::new();
    let mut measured = 0;
    for one in &facts.containers {
        let Some(waited) = &one.cpu.waited_for else {
            continue;
        };
        measured += 1;
        let causes = causes_of(waited);
        for (sum, seconds) in sums.iter_mut().zip(causes) {
            *sum += seconds;
        }
        let victim = Row::new(one, facts.seconds, causes, waited);
        for (culprit, pair) in victim.pairs() {
            let known = culprits
                .entry((pair.kind, culprit.clone()))
                .or_insert_with(|| Culprit {
                    name: culprit,
                    kind: pair.kind,
                    ..Culprit::default()
                });
            known.seconds += pair.seconds;
            known.victim_count += 1;
            known.victims.push(PairWait {
                name: victim.name.clone(),
                kind: PartyKind::of(one.identity.kind),
                ..pair
            });
        }
        victims.push(victim);
    }
    let mut culprits: Vec<Culprit> = culprits.into_values().collect();
    culprits.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let listed = culprits.iter().take(MOST_CULPRITS);
    let unnamed = unnamed(sums, listed.map(|one| (one.kind, one.seconds)));
    if let Some(only) = only {
        let key = (PartyKind::of(only.kind), only.label());
        culprits.retain(|one| one.kind == key.0 && one.name == key.1);
        victims.retain(|one| one.is(only));
    } else {
        victims.retain(|one| one.waited_seconds > 0.0);
    }
    culprits.truncate(MOST_CULPRITS);
    for one in &mut culprits {
        one.per_second = ratio(one.seconds, facts.seconds);
        sort(&mut one.victims);
        one.victims.truncate(MOST_NAMED);
    }
    let mut containers: Vec<Victim> = victims.into_iter().map(Row::told).collect();
    containers.sort_by(|a, b| b.waited_per_second.total_cmp(&a.waited_per_second));
    WaitMatrix {
        seconds: facts.seconds,
        ended_at_unix_ms: facts.ended_at_unix_ms,
        measured,
        causes: told(sums),
        containers,
        culprits,
        unnamed,
    }
}

/// A victim, with everybody that it waited for.
struct Row {
    name: String,
    identity: Arc<Identity>,
    seconds: f64,
    waited_seconds: f64,
    causes: [f64; CAUSES],
    neighbours: Vec<PairWait>,
}

impl Row {
    fn new(one: &ContainerFacts, window: f64, causes: [f64; CAUSES], waited: &WaitedFor) -> Self {
        let seconds = if one.seconds > 0.0 {
            one.seconds
        } else {
            window
        };
        let waited_seconds: f64 = causes.iter().sum();
        let mut neighbours: Vec<PairWait> = Vec::new();
        let kinds = [
            (PartyKind::Container, &waited.containers),
            (PartyKind::Service, &waited.services),
        ];
        for (kind, list) in kinds {
            for Neighbour { name, seconds } in list.iter().filter(|one| one.seconds > 0.0) {
                // Containers that share a name are one, as they are everywhere.
                let known = neighbours
                    .iter_mut()
                    .find(|known| known.kind == kind && known.name == *name);
                match known {
                    Some(known) => known.seconds += seconds,
                    None => neighbours.push(PairWait {
                        name: name.clone(),
                        kind,
                        seconds: *seconds,
                        ..PairWait::default()
                    }),
                }
            }
        }
        for one in &mut neighbours {
            one.per_second = ratio(one.seconds, seconds);
            one.share = ratio(one.seconds, waited_seconds).min(1.0);
        }
        sort(&mut neighbours);
        Self {
            name: one.identity.label(),
            identity: Arc::clone(&one.identity),
            seconds,
            waited_seconds,
            causes,
            neighbours,
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (String, PairWait)> + '_ {
        let neighbours = self.neighbours.iter();
        neighbours.map(|one| (one.name.clone(), one.clone()))
    }

    fn is(&self, identity: &Identity) -> bool {
        self.identity.cgroup == identity.cgroup
            && self.identity.container_id == identity.container_id
    }

    fn told(mut self) -> Victim {
        self.neighbours.truncate(MOST_NAMED);
        let named = self.neighbours.iter().map(|one| (one.kind, one.seconds));
        Victim {
            waited_per_second: ratio(self.waited_seconds, self.seconds),
            causes: told(self.causes),
            unnamed: unnamed(self.causes, named),
            name: self.name,
            identity: self.identity,
            seconds: self.seconds,
            waited_seconds: self.waited_seconds,
            neighbours: self.neighbours,
        }
    }
}

/// Seconds in the order of [`NAMES`].
fn causes_of(waited: &WaitedFor) -> [f64; CAUSES] {
    let containers: f64 = waited
        .containers
        .iter()
        .map(|one| one.seconds.max(0.0))
        .sum();
    let causes = [
        waited.throttled_seconds,
        waited.own_seconds,
        containers + waited.other_containers_seconds.max(0.0),
        waited.system_seconds,
        waited.kernel_seconds,
        waited.idle_seconds,
        waited.migrated_seconds,
        waited.unattributed_seconds,
    ];
    causes.map(|seconds| seconds.max(0.0))
}

/// What of it was waited for containers and services that are not among the named ones.
fn unnamed(causes: [f64; CAUSES], named: impl Iterator<Item = (PartyKind, f64)>) -> Unnamed {
    let of = |cause: usize| causes.get(cause).copied().unwrap_or(0.0);
    let (mut containers, mut system) = (of(CONTAINER), of(SYSTEM));
    for (kind, seconds) in named {
        match kind {
            PartyKind::Container => containers -= seconds,
            PartyKind::Service => system -= seconds,
        }
    }
    Unnamed {
        containers_seconds: containers.max(0.0),
        system_seconds: system.max(0.0),
    }
}

/// Most first, without what is nothing.
fn told(causes: [f64; CAUSES]) -> Vec<CauseWait> {
    let all: f64 = causes.iter().sum();
    let mut told: Vec<CauseWait> = NAMES
        .iter()
        .zip(causes)
        .filter(|(_, seconds)| *seconds > 0.0)
        .map(|(cause, seconds)| CauseWait {
            cause: (*cause).to_owned(),
            seconds,
            share: ratio(seconds, all),
        })
        .collect();
    told.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    told
}

/// Most first, and of the same by name.
fn sort(pairs: &mut [PairWait]) {
    pairs.sort_by(|a, b| {
        let by_seconds = b.seconds.total_cmp(&a.seconds);
        by_seconds.then_with(|| a.name.cmp(&b.name))
    });
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::fixture::{held, running, waiting, window};

    /// `web` waits for `batch`, a service and itself; `db` for `batch`; `batch` for nobody.
    fn facts() -> WindowFacts {
        let web = WaitedFor {
            own_seconds: 6.0,
            system_seconds: 9.0,
            services: vec![held("backup.service", 6.0)],
            containers: vec![held("batch", 30.0), held("quiet", 3.0)],
            other_containers_seconds: 6.0,
            throttled_seconds: 6.0,
            ..WaitedFor::default()
        };
        let db = WaitedFor {
            containers: vec![held("batch", 12.0)],
            ..WaitedFor::default()
        };
        let mut db = waiting("db", 0.5, db);
        // It began six seconds ago, so it waits more in a second than the other one.
        db.seconds = 6.0;
        let mut unmeasured = running("dark", 1.0);
        unmeasured.cpu.waited_for = None;
        let web = waiting("web", 0.5, web);
        window(2, 0.0, vec![web, running("batch", 1.2), db, unmeasured])
    }

    fn rest(containers_seconds: f64, system_seconds: f64) -> Unnamed {
        Unnamed {
            containers_seconds,
            system_seconds,
        }
    }

    fn pair(name: &str, kind: PartyKind, numbers: [f64; 3]) -> PairWait {
        let [seconds, per_second, share] = numbers;
        PairWait {
            name: name.to_owned(),
            kind,
            seconds,
            per_second,
            share,
        }
    }

    #[test]
    fn victims_have_their_causes_and_neighbours_most_first() {
        let matrix = wait_matrix(&facts(), None);
        assert_eq!((matrix.seconds, matrix.measured), (60.0, 3));
        let names: Vec<&str> = matrix
            .containers
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(names, ["db", "web"], "batch did not wait");
        assert_eq!(matrix.containers[0].waited_per_second, 2.0);
        let web = &matrix.containers[1];
        assert_eq!((web.waited_seconds, web.waited_per_second), (60.0, 1.0));
        let causes: Vec<_> = web
            .causes
            .iter()
            .map(|one| (one.cause.as_str(), one.seconds))
            .collect();
        let expected = [
            ("container", 39.0),
            ("system", 9.0),
            ("quota", 6.0),
            ("self", 6.0),
        ];
        assert_eq!(causes, expected);
        assert_eq!(web.causes[0].share, 39.0 / 60.0);
        let expected = [
            pair("batch", PartyKind::Container, [30.0, 0.5, 0.5]),
            pair("backup.service", PartyKind::Service, [6.0, 0.1, 0.1]),
            pair("quiet", PartyKind::Container, [3.0, 0.05, 0.05]),
        ];
        assert_eq!(web.neighbours, expected);
        assert_eq!(web.unnamed, rest(6.0, 3.0));
    }

    #[test]
    fn culprits_are_summed_over_their_victims_and_what_is_not_named_is_the_rest() {
        let matrix = wait_matrix(&facts(), None);
        let batch = &matrix.culprits[0];
        assert_eq!((batch.name.as_str(), batch.seconds), ("batch", 42.0));
        assert_eq!((batch.per_second, batch.victim_count), (0.7, 2));
        let victims: Vec<&str> = batch.victims.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(victims, ["web", "db"]);
        assert_eq!(batch.victims[1].share, 1.0);
        let others: Vec<&str> = matrix.culprits[1..]
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(others, ["backup.service", "quiet"]);
        assert_eq!(matrix.unnamed, rest(6.0, 3.0));
        assert_eq!(matrix.causes[0].seconds, 51.0);
    }

    #[test]
    fn one_is_told_of_as_victim_and_as_culprit() {
        let facts = facts();
        let of = |index: usize| wait_matrix(&facts, Some(&facts.containers[index].identity));
        let batch = of(1);
        assert_eq!(batch.containers[0].name, "batch");
        assert_eq!(batch.containers[0].waited_seconds, 0.0);
        assert_eq!(batch.culprits.len(), 1);
        let web = of(0);
        assert_eq!((web.containers.len(), web.culprits.len()), (1, 0));
        // What all waited for is as it is of all.
        assert_eq!(web.causes, wait_matrix(&facts, None).causes);
        assert_eq!(of(3).containers, []);
    }

    #[test]
    fn lists_are_bounded_and_what_is_beyond_them_is_in_the_rest() {
        let crowd = |count: usize| (0..count).map(|index| held(&format!("n{index:03}"), 0.5));
        let waited = |count| WaitedFor {
            containers: crowd(count).collect(),
            ..WaitedFor::default()
        };
        let victims = (0..30).map(|index| waiting(&format!("v{index}"), 0.1, waited(120)));
        let matrix = wait_matrix(&window(2, 0.0, victims.collect()), None);
        assert_eq!((matrix.containers.len(), matrix.culprits.len()), (30, 100));
        let victim = &matrix.containers[0];
        assert_eq!(
            (victim.neighbours.len(), victim.unnamed),
            (20, rest(50.0, 0.0))
        );
        let culprit = &matrix.culprits[0];
        assert_eq!((culprit.victim_count, culprit.victims.len()), (30, 20));
        assert_eq!(matrix.unnamed, rest(20.0 * 30.0 * 0.5, 0.0));
    }

    #[test]
    fn those_of_one_name_are_one_neighbour_and_a_service_is_no_container_of_its_name() {
        let waited = WaitedFor {
            containers: vec![held("web", 2.0), held("web", 1.0)],
            services: vec![held("web", 1.0)],
            system_seconds: 1.0,
            ..WaitedFor::default()
        };
        let facts = window(1, 0.0, vec![waiting("db", 0.1, waited)]);
        let matrix = wait_matrix(&facts, None);
        let culprits = matrix.culprits.iter();
        let culprits: Vec<_> = culprits
            .map(|one| (one.kind, one.seconds, one.victim_count))
            .collect();
        let expected = [(PartyKind::Container, 3.0, 1), (PartyKind::Service, 1.0, 1)];
        assert_eq!(culprits, expected);
        assert_eq!(matrix.unnamed, Unnamed::default());
    }

    #[test]
    fn nothing_waited_gives_no_number_that_is_none() {
        let facts = window(1, 1.0, vec![running("idle", 0.0)]);
        let identity = Arc::clone(&facts.containers[0].identity);
        let matrix = wait_matrix(&facts, Some(&identity));
        assert_eq!(matrix.containers[0].waited_per_second, 0.0);
        assert_eq!((matrix.causes.len(), matrix.culprits.len()), (0, 0));
        let empty = wait_matrix(&WindowFacts::default(), None);
        assert_eq!(empty, WaitMatrix::default());
    }
}
