//! The tree of cgroups that share the CPUs, from two readings.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Reading,
    between::increase_of,
    entitlement::{Node, shares, weights},
    types::ContainerReading,
};
use crate::{
    cgroup::path_of_parent,
    diagnosis::{
        facts::{ContainerFacts, CpuFacts, CpuTimeFacts, Entitlement},
        waited_for_others,
    },
};

/// The default weight, and that of a task beside cgroups.
const DEFAULT_WEIGHT: f64 = 100.0;
/// Weight of a cgroup whose tasks are to run when nobody else does: 3 of 1,024 shares
/// (`WEIGHT_IDLEPRIO`, kernel/sched/sched.h).
const IDLE_WEIGHT: f64 = 0.3;
/// Use that is not worth a sibling of its own, cores: what two accounts differ by.
const NEGLIGIBLE: f64 = 0.02;

/// Fills in what each container's weight entitles it to. `cpus` are the times of the CPUs in the window;
/// the containers are those of the later reading that have facts, in the same order.
pub(super) fn add_entitlements(
    earlier: &Reading,
    later: &Reading,
    cpus: &[CpuTimeFacts],
    containers: &mut [(&ContainerReading, ContainerFacts)],
) {
    let seconds = later.at_ns.saturating_sub(earlier.at_ns) as f64 / 1e9;
    let numbers: Vec<u32> = later.host.cpus.iter().map(|cpu| cpu.cpu).collect();
    if seconds <= 0.0 || numbers.is_empty() {
        return;
    }
    let mut tree = Tree::default();
    for (reading, _) in containers.iter() {
        let mut path = &*reading.own.path;
        while let Some(parent) = path_of_parent(path) {
            if !tree.holding.insert(parent) {
                break;
            }
            path = parent;
        }
    }
    let mut asked = Vec::new();
    for (place, (reading, facts)) in containers.iter().enumerate() {
        let used = facts.cpu.used_seconds.unwrap_or(0.0) / seconds;
        let index = tree.add_container(earlier, later, seconds, reading, used);
        let weight = reading.own.cpu.as_ref().and_then(|cpu| cpu.weight);
        let is_there = facts.exited_at_unix_ms.is_none();
        if let Some(weight) = weight.filter(|_| is_there) {
            asked.push((place, index, weight));
        }
    }
    tree.add_rest(cpus);
    let indices: Vec<usize> = asked.iter().map(|(_, index, _)| *index).collect();
    let taken: f64 = cpus
        .iter()
        .map(|cpu| cpu.irq_ratio + cpu.softirq_ratio + cpu.steal_ratio)
        .sum();
    let available = (1.0 - taken / (cpus.len() as f64).max(1.0)).clamp(0.0, 1.0);
    let shares = shares(&tree.nodes, &indices, &numbers, available);
    for (&(place, _, weight), share) in asked.iter().zip(shares) {
        let Some((_, facts)) = containers.get_mut(place) else {
            continue;
        };
        let Some(used_seconds) = facts.cpu.used_seconds.filter(|_| facts.seconds > 0.0) else {
            continue;
        };
        facts.cpu.entitlement = Some(Entitlement {
            weight,
            guaranteed_cores: share.guaranteed,
            fair_cores: share.fair,
            obtained_cores: used_seconds / facts.seconds,
            needed_weight: None,
        });
    }
    let wanting: Vec<(usize, usize, f64)> = asked
        .iter()
        .filter_map(|&(place, index, _)| {
            let (reading, facts) = containers.get(place)?;
            let most = reading
                .cpus
                .as_ref()
                .map_or(numbers.len(), |cpus| cpus.len());
            let wanted = wanted_cores(&facts.cpu, facts.seconds)?;
            Some((place, index, ENOUGH * wanted.min(most as f64)))
        })
        .collect();
    let needs: Vec<(usize, f64)> = wanting
        .iter()
        .map(|&(_, index, need)| (index, need))
        .collect();
    let weights = weights(&tree.nodes, &needs, &numbers, available);
    for ((place, _, _), weight) in wanting.into_iter().zip(weights) {
        if let Some((_, facts)) = containers.get_mut(place)
            && let Some(entitlement) = &mut facts.cpu.entitlement
        {
            entitlement.needed_weight = weight.map(|weight| weight.ceil() as u64);
        }
    }
}

/// Part of what it wanted with which it no longer counts as waiting: what is less than a twentieth short is not felt
/// (the default of `wait_ratio`), and all of a full machine can be had by no weight.
const ENOUGH: f64 = 0.95;

/// What it had, and what it waited for others: cores. `None` where it waited for nobody to speak of.
fn wanted_cores(cpu: &CpuFacts, seconds: f64) -> Option<f64> {
    let waited = waited_for_others(cpu.waited_for.as_ref()?);
    let wanted = (cpu.used_seconds? + waited) / seconds;
    (waited / seconds >= NEGLIGIBLE && wanted.is_finite()).then_some(wanted)
}

/// The nodes, each after its parent.
#[derive(Default)]
struct Tree<'a> {
    nodes: Vec<Node>,
    /// Cgroups that have containers below them; some are containers themselves.
    holding: HashSet<&'a str>,
    /// Node of each cgroup that has others below it.
    groups: HashMap<Arc<str>, usize>,
    /// What the kernel says that all below a node used; only of those in `groups`.
    accounts: HashMap<usize, f64>,
}

impl Tree<'_> {
    /// Adds a container, and the cgroups above it that are not there yet.
    fn add_container(
        &mut self,
        earlier: &Reading,
        later: &Reading,
        seconds: f64,
        reading: &ContainerReading,
        used: f64,
    ) -> usize {
        let path = &*reading.own.path;
        // The tasks of a cgroup stand beside the cgroups in it.
        let holds_others = self.holding.contains(path);
        let parent = if holds_others {
            Some(path)
        } else {
            path_of_parent(path)
        };
        let parent = parent.and_then(|path| self.group(earlier, later, seconds, path));
        let weight = reading.own.cpu.as_ref().and_then(|cpu| cpu.weight);
        self.nodes.push(Node {
            parent,
            weight: if holds_others {
                DEFAULT_WEIGHT
            } else {
                weight_of(weight)
            },
            used,
            cpus: reading.cpus.clone(),
            is_group: !holds_others && reading.exited_at_unix_ms.is_none(),
        });
        self.nodes.len() - 1
    }

    /// The node of a cgroup above containers; `None` for the root.
    fn group(
        &mut self,
        earlier: &Reading,
        later: &Reading,
        seconds: f64,
        path: &str,
    ) -> Option<usize> {
        let above = path_of_parent(path)?;
        if let Some(index) = self.groups.get(path) {
            return Some(*index);
        }
        let parent = self.group(earlier, later, seconds, above);
        let reading = later.above.get(path).and_then(|group| group.cpu.as_ref());
        let before = earlier.above.get(path).and_then(|group| group.cpu.as_ref());
        let index = self.nodes.len();
        self.nodes.push(Node {
            parent,
            weight: weight_of(reading.and_then(|cpu| cpu.weight)),
            used: 0.0,
            cpus: None,
            is_group: true,
        });
        let used_ns = increase_of(
            before.and_then(|cpu| cpu.usage_ns),
            reading.and_then(|cpu| cpu.usage_ns),
        );
        if let Some(used_ns) = used_ns {
            self.accounts.insert(index, used_ns as f64 / 1e9 / seconds);
        }
        self.groups.insert(Arc::from(path), index);
        Some(index)
    }

    /// Sums up what those below each cgroup used. What the kernel's own account has beyond it was used by
    /// tasks and cgroups that have no entry, which stand beside the others as one.
    fn add_rest(&mut self, cpus: &[CpuTimeFacts]) {
        let count = self.nodes.len();
        // Parents have smaller indices than their children.
        let mut root = 0.0;
        for index in (0..count).rev() {
            let Some(node) = self.nodes.get(index) else {
                continue;
            };
            let (parent, mut used) = (node.parent, node.used);
            if let Some(&account) = self.accounts.get(&index) {
                let rest = account - used;
                if rest > NEGLIGIBLE {
                    self.nodes.push(rest_node(Some(index), rest));
                    used = account;
                }
            }
            if let Some(node) = self.nodes.get_mut(index) {
                node.used = used;
            }
            match parent.and_then(|parent| self.nodes.get_mut(parent)) {
                Some(parent) => parent.used += used,
                None => root += used,
            }
        }
        let all: f64 = cpus.iter().map(|cpu| cpu.task_ratio).sum();
        if all - root > NEGLIGIBLE {
            self.nodes.push(rest_node(None, all - root));
        }
    }
}

fn rest_node(parent: Option<usize>, used: f64) -> Node {
    Node {
        parent,
        weight: DEFAULT_WEIGHT,
        used,
        cpus: None,
        is_group: false,
    }
}

fn weight_of(weight: Option<u64>) -> f64 {
    match weight {
        None => DEFAULT_WEIGHT,
        Some(0) => IDLE_WEIGHT,
        Some(weight) => weight as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cgroup::Bandwidth,
        diagnosis::facts::CpuFacts,
        host::CpuTicks,
        reading::{GroupReading, HostReading},
        snapshot::Identity,
    };

    /// Containers by path, weight and cores used in a window of 10 s, and the cgroups above them by path,
    /// weight and cores by their account.
    fn entitlements(
        containers: &[(&str, Option<u64>, f64)],
        above: &[(&str, u64, f64)],
        busy: f64,
    ) -> Vec<Option<Entitlement>> {
        let group = |path: &str, weight: Option<u64>, used: f64| GroupReading {
            path: Arc::from(path),
            cpu: Some(Bandwidth {
                quota: None,
                weight,
                usage_ns: Some((used * 1e10) as u64),
            }),
            ..GroupReading::default()
        };
        let reading = |at_seconds: u64, part: f64| Reading {
            at_ns: at_seconds * 1_000_000_000,
            host: HostReading {
                cpus: (0..4)
                    .map(|cpu| CpuTicks {
                        cpu,
                        ..CpuTicks::default()
                    })
                    .collect(),
                ..HostReading::default()
            },
            above: above
                .iter()
                .map(|&(path, weight, used)| {
                    let group = group(path, Some(weight), used * part);
                    (Arc::from(path), Arc::new(group))
                })
                .collect(),
            ..Reading::default()
        };
        let readings: Vec<ContainerReading> = containers
            .iter()
            .map(|&(path, weight, used)| ContainerReading {
                identity: Arc::new(Identity {
                    cgroup: path.into(),
                    ..Identity::default()
                }),
                own: group(path, weight, used),
                ..ContainerReading::default()
            })
            .collect();
        let mut pairs: Vec<_> = readings
            .iter()
            .zip(containers)
            .map(|(reading, &(_, _, used))| {
                let facts = ContainerFacts {
                    seconds: 10.0,
                    cpu: CpuFacts {
                        used_seconds: Some(used * 10.0),
                        ..CpuFacts::default()
                    },
                    ..ContainerFacts::default()
                };
                (reading, facts)
            })
            .collect();
        let cpus: Vec<CpuTimeFacts> = (0..4)
            .map(|cpu| CpuTimeFacts {
                cpu,
                task_ratio: busy / 4.0,
                idle_ratio: 1.0 - busy / 4.0,
                ..CpuTimeFacts::default()
            })
            .collect();
        add_entitlements(&reading(0, 0.0), &reading(10, 1.0), &cpus, &mut pairs);
        let found = pairs.into_iter();
        found.map(|(_, facts)| facts.cpu.entitlement).collect()
    }

    fn cores(entitlement: &Option<Entitlement>) -> (f64, f64, f64) {
        let found = entitlement.as_ref().unwrap();
        let round = |cores: f64| (cores * 1e3).round() / 1e3;
        (
            round(found.guaranteed_cores),
            round(found.fair_cores),
            round(found.obtained_cores),
        )
    }

    #[test]
    fn pods_share_first_and_their_containers_then() {
        let found = entitlements(
            &[
                ("/kube/a/web", Some(100), 1.0),
                ("/kube/a/side", Some(100), 0.0),
                ("/kube/b/bully", Some(100), 3.0),
                ("/system/sshd", Some(100), 0.0),
            ],
            &[
                ("/kube", 300, 4.0),
                ("/kube/a", 100, 1.0),
                ("/kube/b", 200, 3.0),
                ("/system", 100, 0.0),
            ],
            4.0,
        );
        // Three quarters of 4 cores are kube's, a third of that the pod's, and half of it the container's.
        assert_eq!(cores(&found[0]), (0.5, 1.333, 1.0));
        assert_eq!(cores(&found[2]), (2.0, 3.0, 3.0));
        assert_eq!(found[0].as_ref().map(|found| found.weight), Some(100));
    }

    #[test]
    fn what_has_no_entry_takes_its_part_at_its_level() {
        // Of 2 cores that the slice used one was nobody's, and one core was used outside of all.
        let found = entitlements(
            &[("/slice/web", Some(100), 1.0)],
            &[("/slice", 100, 2.0)],
            3.0,
        );
        let (guaranteed, fair, obtained) = cores(&found[0]);
        assert_eq!((guaranteed, obtained), (4.0, 1.0));
        // 4 less 1 outside, less 1 inside.
        assert_eq!(fair, 2.0);
    }

    #[test]
    fn the_tasks_of_a_cgroup_stand_beside_the_containers_in_it() {
        let found = entitlements(
            &[("/a", Some(300), 2.0), ("/a/b", Some(100), 2.0)],
            &[("/a", 300, 4.0)],
            4.0,
        );
        // Together they have all of 4 cores; the container inside gives tasks of the outer one half.
        assert_eq!(cores(&found[1]), (4.0, 2.0, 2.0));
        assert_eq!(cores(&found[0]), (2.0, 2.0, 2.0));
        assert_eq!(found[0].as_ref().map(|found| found.weight), Some(300));
    }

    #[test]
    fn without_a_weight_there_is_no_entitlement_but_a_sibling() {
        let found = entitlements(
            &[
                ("/a", None, 2.0),
                ("/b", Some(0), 2.0),
                ("/c", Some(100), 0.0),
            ],
            &[],
            4.0,
        );
        assert_eq!(found[0], None);
        // One that is to run when nobody else does gets next to nothing beside another.
        let (guaranteed, fair, _) = cores(&found[1]);
        assert!(guaranteed < 0.01 && fair == 2.0, "{guaranteed} {fair}");
        assert_eq!(cores(&found[2]).1, 1.997);
    }
}
