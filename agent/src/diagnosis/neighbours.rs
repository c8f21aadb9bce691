//! Who had what a container waited for: the culprit, if one neighbour holds most of it, and the innocent.
//!
//! A neighbour is called the culprit only if it holds more than [`Thresholds::culprit_share`] of all that
//! was waited for others, and what cannot be attributed counts against that: it may be somebody else's.
//! It is exonerated if it holds no more than [`Thresholds::innocent_share`] of all that was waited, its own
//! tasks included, and little beside whoever holds most: of twenty who hold a twentieth each, none is the
//! culprit and none is innocent. What cannot be attributed counts against that, too, unless it cannot be this
//! neighbour's: one whose cpuset has no CPU of the container's cpuset had none that the container waited for.
//!
//! [`Thresholds::culprit_share`]: super::thresholds::Thresholds

use super::{
    facts::{ContainerFacts, Neighbour, WaitedFor},
    verdict::{Evidence, Party, Relation, Unit},
    view::{View, ratio},
};
use crate::snapshot::{Identity, Kind};

/// Others and innocents that are named, each.
const MAX_NAMED: usize = 5;
/// CPU time from which a neighbour is busy, so that its innocence is worth a word: cores.
const BUSY_CORES: f64 = 0.05;
/// Part of what the largest holds that an innocent holds at most.
const BESIDE_THE_LARGEST: f64 = 0.1;
/// Bytes a second at a device from which a neighbour is busy there.
const BUSY_BYTES_PER_SECOND: f64 = 1e6;

/// Who is to blame, and who is not.
#[derive(Default)]
pub(super) struct Blame {
    pub(super) culprits: Vec<Party>,
    pub(super) others: Vec<Party>,
    pub(super) exonerated: Vec<Party>,
    /// Part of what was waited for others that is nobody's, 0 to 1.
    pub(super) unattributed_ratio: f64,
}

/// Waiting for others, split over who they are.
struct Split<'a> {
    /// Waited for its own tasks or requests, seconds.
    own_seconds: f64,
    /// Waited for others, seconds, that which is nobody's included.
    others_seconds: f64,
    named: Vec<&'a Neighbour>,
    /// The most that a container which is not named can hold, seconds.
    unnamed_seconds: f64,
    /// The most that a service which is not named can hold, seconds.
    unnamed_services_seconds: f64,
    /// What is neither a container nor unknown: its name and seconds.
    more: Vec<(&'static str, f64)>,
    unattributed_seconds: f64,
    /// Whether one of a name can be behind what has no name or is nobody's.
    may_be_behind: fn(&View<'_>, &str) -> bool,
}

impl Split<'_> {
    fn share(&self, seconds: f64) -> f64 {
        ratio(seconds, self.others_seconds).unwrap_or(0.0)
    }

    /// The same of all waiting, that for its own included.
    fn share_of_all(&self, seconds: f64) -> f64 {
        ratio(seconds, self.own_seconds + self.others_seconds).unwrap_or(0.0)
    }

    /// What whoever holds most holds, itself included.
    fn largest(&self) -> f64 {
        let named = self.named.iter().map(|one| one.seconds);
        let more = self.more.iter().map(|(_, seconds)| *seconds);
        named.chain(more).fold(self.own_seconds, f64::max)
    }

    /// The most that a container or service can hold: what those of its name hold, or what can be hidden.
    fn most_of(&self, name: &str, who: &Identity, may_be_behind: bool) -> f64 {
        let mine: f64 = self
            .named
            .iter()
            .filter(|one| one.name == name)
            .map(|one| one.seconds)
            .sum();
        if mine > 0.0 || !may_be_behind {
            return mine;
        }
        match who.kind {
            Kind::Service => self.unnamed_services_seconds,
            _ => self.unnamed_seconds,
        }
    }

    fn blame(
        &self,
        view: &View<'_>,
        use_of: impl Fn(&View<'_>, &str) -> Vec<Evidence>,
        busy: Vec<(f64, &ContainerFacts)>,
    ) -> Blame {
        let thresholds = view.thresholds;
        let party = |name: &str, seconds: f64, share: f64, compared: Relation, threshold| {
            let waited = Evidence::new("waited_for_it_seconds", Unit::Seconds, seconds);
            let part = Evidence::new("share_of_wait", Unit::Ratio, share).is(compared, threshold);
            let mut evidence = vec![waited, part];
            evidence.extend(use_of(view, name));
            Party {
                name: name.to_owned(),
                share,
                evidence,
            }
        };
        let mut blame = Blame {
            unattributed_ratio: self.share(self.unattributed_seconds),
            ..Blame::default()
        };
        for &one in &self.named {
            let judged = party(
                &one.name,
                one.seconds,
                self.share(one.seconds),
                Relation::Above,
                thresholds.culprit_share(),
            );
            if judged.share > thresholds.culprit_share {
                blame.culprits.push(judged);
            } else if judged.share > thresholds.innocent_share {
                blame.others.push(judged);
            }
        }
        for &(name, seconds) in &self.more {
            let share = self.share(seconds);
            if share > thresholds.innocent_share {
                blame.others.push(party(
                    name,
                    seconds,
                    share,
                    Relation::Above,
                    thresholds.culprit_share(),
                ));
            }
        }
        blame.others.sort_by(|a, b| b.share.total_cmp(&a.share));
        blame.others.truncate(MAX_NAMED);
        for (_, neighbour) in busy {
            let name = neighbour.identity.label();
            let may_be_behind = (self.may_be_behind)(view, &name);
            let most = self.most_of(&name, &neighbour.identity, may_be_behind);
            // Whoever may be behind what is nobody's is not innocent.
            let hidden = if may_be_behind {
                self.unattributed_seconds
            } else {
                0.0
            };
            let share = self.share_of_all(most);
            let is_small = self.share_of_all(most + hidden) <= thresholds.innocent_share
                && most <= self.largest() * BESIDE_THE_LARGEST;
            let is_named = |all: &[Party]| all.iter().any(|one| one.name == name);
            if is_small && !is_named(&blame.exonerated) && !is_named(&blame.others) {
                let mut innocent = party(
                    &name,
                    most,
                    share,
                    Relation::AtMost,
                    thresholds.innocent_share(),
                );
                if !may_be_behind {
                    let shared = Evidence::new("cpus_of_both", Unit::Count, 0.0);
                    innocent.evidence.push(shared);
                }
                blame.exonerated.push(innocent);
            }
            if blame.exonerated.len() == MAX_NAMED {
                break;
            }
        }
        blame
    }
}

/// The most that one can hold who is not among the named ones: no more than the least of those, nor than all the rest.
fn hidden(named: &[Neighbour], rest: f64) -> f64 {
    named.last().map_or(rest, |least| least.seconds.min(rest))
}

/// Seconds that a container waited for CPUs that others had; what is nobody's included.
pub(crate) fn waited_for_others(waited: &WaitedFor) -> f64 {
    named(&waited.containers)
        + waited.other_containers_seconds.max(0.0)
        + waited.system_seconds.max(named(&waited.services))
        + waited.kernel_seconds.max(0.0)
        + nobodys(waited)
}

/// Facts that were read from elsewhere may have less than nothing, which is no part of anything.
fn named(neighbours: &[Neighbour]) -> f64 {
    neighbours.iter().map(|one| one.seconds.max(0.0)).sum()
}

fn nobodys(waited: &WaitedFor) -> f64 {
    waited.migrated_seconds.max(0.0) + waited.unattributed_seconds.max(0.0)
}

/// Who had the CPUs that a container waited for; `None` where that is not measured.
pub(super) fn on_cpus(view: &View<'_>) -> Option<Blame> {
    let waited = view.container.cpu.waited_for.as_ref()?;
    let other_services = (waited.system_seconds - named(&waited.services)).max(0.0);
    let split = Split {
        own_seconds: waited.own_seconds,
        others_seconds: waited_for_others(waited),
        named: waited.containers.iter().chain(&waited.services).collect(),
        unnamed_seconds: hidden(&waited.containers, waited.other_containers_seconds),
        unnamed_services_seconds: hidden(&waited.services, other_services),
        more: vec![
            ("other system services", other_services),
            ("kernel threads", waited.kernel_seconds),
        ],
        unattributed_seconds: nobodys(waited),
        may_be_behind: |view, name| view.context.named(name).any(|one| view.may_share_cpus(one)),
    };
    let mut busy: Vec<(f64, &ContainerFacts)> = view
        .neighbours()
        .filter_map(|one| Some((view.cores_of(one)?, one)))
        .filter(|(cores, _)| *cores >= BUSY_CORES)
        .collect();
    busy.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    Some(split.blame(view, used_cores, busy))
}

/// CPU time of those that go by a name.
fn used_cores(view: &View<'_>, name: &str) -> Vec<Evidence> {
    let used = view
        .context
        .named(name)
        .filter_map(|one| view.cores_of(one))
        .reduce(|sum, cores| sum + cores);
    used.map(|cores| Evidence::new("used_cores", Unit::Cores, cores))
        .into_iter()
        .collect()
}

/// Whose requests a container's requests waited behind; `None` where that is not measured.
pub(super) fn at_device(view: &View<'_>, device: &str) -> Option<Blame> {
    let waited = view.container.disk.waited_for.as_ref()?;
    // What is not known may be anybody's.
    let rest = waited.other_seconds.max(0.0) + waited.unknown_seconds.max(0.0);
    let split = Split {
        own_seconds: waited.own_seconds,
        others_seconds: named(&waited.containers) + rest,
        named: waited.containers.iter().collect(),
        unnamed_seconds: hidden(&waited.containers, rest),
        unnamed_services_seconds: rest,
        more: Vec::new(),
        unattributed_seconds: rest,
        may_be_behind: |_, _| true,
    };
    Some(split.blame(
        view,
        |view, name| device_bytes(view, name, device),
        busy_at(view, device),
    ))
}

/// Who uses a device, where it is not measured whose requests were waited for: the culprit has most of
/// the bytes and most of the requests of the others.
pub(super) fn users_of_device(view: &View<'_>, device: &str) -> Blame {
    let thresholds = view.thresholds;
    let busy = busy_at(view, device);
    let amounts = |one: &ContainerFacts| -> (f64, f64) {
        one.disk.devices.get(device).map_or((0.0, 0.0), |used| {
            let bytes = used.read_bytes.saturating_add(used.write_bytes);
            let requests = used.reads.saturating_add(used.writes);
            (bytes as f64, requests as f64)
        })
    };
    // What the device did and no container is charged with may be anybody's.
    let (mine_bytes, mine_requests) = amounts(view.container);
    let (sum_bytes, sum_requests) = view
        .neighbours()
        .map(amounts)
        .fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
    let disk = view.window.host.disks.get(device);
    let (all_bytes, all_requests) = disk.map_or((sum_bytes, sum_requests), |disk| {
        (
            (disk.bytes as f64 - mine_bytes).max(sum_bytes),
            (disk.requests as f64 - mine_requests).max(sum_requests),
        )
    });
    let mut blame = Blame {
        unattributed_ratio: ratio(all_bytes - sum_bytes, all_bytes).unwrap_or(0.0),
        ..Blame::default()
    };
    let largest = busy
        .iter()
        .fold(mine_bytes, |most, (_, one)| amounts(one).0.max(most));
    for (_, one) in busy {
        let (bytes, requests) = amounts(one);
        let of_bytes = ratio(bytes, all_bytes).unwrap_or(0.0);
        let of_requests = ratio(requests, all_requests).unwrap_or(0.0);
        let name = one.identity.label();
        let party = |share, compared, threshold| {
            let part =
                |name, value: f64| Evidence::new(name, Unit::Ratio, value).is(compared, threshold);
            let mut evidence = vec![
                part("share_of_bytes", of_bytes),
                part("share_of_requests", of_requests),
            ];
            evidence.extend(device_bytes(view, &name, device));
            Party {
                name: name.clone(),
                share,
                evidence,
            }
        };
        let (least, most) = (of_bytes.min(of_requests), of_bytes.max(of_requests));
        if least > thresholds.culprit_share {
            let judged = party(least, Relation::Above, thresholds.culprit_share());
            blame.culprits.push(judged);
        } else if most > thresholds.innocent_share {
            let judged = party(most, Relation::Above, thresholds.culprit_share());
            blame.others.push(judged);
        } else if bytes <= largest * BESIDE_THE_LARGEST {
            let judged = party(most, Relation::AtMost, thresholds.innocent_share());
            blame.exonerated.push(judged);
        }
    }
    blame.others.sort_by(|a, b| b.share.total_cmp(&a.share));
    blame.others.truncate(MAX_NAMED);
    blame.exonerated.truncate(MAX_NAMED);
    blame
}

/// The neighbours that are busy at a device, the busiest first, by bytes a second.
fn busy_at<'a>(view: &View<'a>, device: &str) -> Vec<(f64, &'a ContainerFacts)> {
    let mut busy: Vec<(f64, &ContainerFacts)> = view
        .neighbours()
        .filter_map(|one| {
            let used = one.disk.devices.get(device)?;
            let bytes = used.read_bytes.saturating_add(used.write_bytes);
            Some((view.per_second_of(one, bytes as f64)?, one))
        })
        .filter(|(bytes, _)| *bytes >= BUSY_BYTES_PER_SECOND)
        .collect();
    busy.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    busy
}

/// What those that go by a name did to a device.
fn device_bytes(view: &View<'_>, name: &str, device: &str) -> Vec<Evidence> {
    let speed = view
        .context
        .named(name)
        .filter_map(|one| {
            let used = one.disk.devices.get(device)?;
            let bytes = used.read_bytes.saturating_add(used.write_bytes);
            view.per_second_of(one, bytes as f64)
        })
        .reduce(|sum, speed| sum + speed);
    speed
        .map(|speed| {
            Evidence::new("device_bytes_per_second", Unit::BytesPerSecond, speed).of(device)
        })
        .into_iter()
        .collect()
}
