//! What weights give: the fair scheduler's shares, by hierarchical water-filling.
//!
//! At each level the siblings share what their parent gets in proportion to their weights; what one of
//! them does not use is shared by the others. Asked is what one gets that wants all, beside siblings that
//! want what they used.
//!
//! CPU sets divide the machine: what is asked for a container is computed on its own CPUs only, where a
//! sibling counts, in weight and use, with that part of its CPUs that lies among them. The kernel does
//! much the same: it spreads a group's weight over CPUs by where its tasks are
//! (`calc_group_shares`, kernel/sched/fair.c).

use std::{cmp::Ordering, collections::HashMap};

/// A cgroup of the tree, or the tasks that stand beside the cgroups of one.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Index of the cgroup above, which is a smaller one; `None` for those below the root.
    pub(super) parent: Option<usize>,
    /// Weight on the scale of v2, above 0.
    pub(super) weight: f64,
    /// What all below it and itself used: cores.
    pub(super) used: f64,
    /// CPUs that its tasks may run on, ascending; `None` for all. Asked of leaves only.
    pub(super) cpus: Option<std::sync::Arc<[u32]>>,
    /// Whether it is a cgroup, and so a sibling also while it does nothing.
    pub(super) is_group: bool,
}

/// What one gets, in cores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Share {
    /// If all cgroups beside it want all.
    pub(super) guaranteed: f64,
    /// If each beside it wants what it used.
    pub(super) fair: f64,
}

/// The shares of the nodes in `asked`, in their order. `cpus` are those of the machine, of which each
/// has `available` of its time for tasks.
pub(super) fn shares(nodes: &[Node], asked: &[usize], cpus: &[u32], available: f64) -> Vec<Share> {
    ask(nodes, asked, cpus, available, |island, _, index| {
        island.share(index)
    })
}

/// Largest weight that can be set, on the scale of v2 (`CGROUP_WEIGHT_MAX`, include/linux/cgroup.h).
const MOST_WEIGHT: f64 = 10_000.0;

/// The smallest weight, on the scale of v2, with which each of the nodes in `asked` would get what it needs (cores)
/// beside siblings that want what they used; `None` where no weight of its own gives that.
pub(super) fn weights(
    nodes: &[Node],
    asked: &[(usize, f64)],
    cpus: &[u32],
    available: f64,
) -> Vec<Option<f64>> {
    let indices: Vec<usize> = asked.iter().map(|(index, _)| *index).collect();
    ask(nodes, &indices, cpus, available, |island, place, index| {
        let (_, need) = asked.get(place)?;
        island.weight_for(index, *need)
    })
}

/// Asks each of the nodes in `asked` on its own CPUs, by its place there and its index.
fn ask<T: Clone + Default>(
    nodes: &[Node],
    asked: &[usize],
    cpus: &[u32],
    available: f64,
    mut one: impl FnMut(&mut Island<'_>, usize, usize) -> T,
) -> Vec<T> {
    if asked.is_empty() {
        return Vec::new();
    }
    let children = Children::new(nodes);
    // Those with the same CPUs are computed at once.
    let mut islands: HashMap<Option<&[u32]>, Vec<usize>> = HashMap::new();
    for (place, &index) in asked.iter().enumerate() {
        let set = nodes.get(index).and_then(|node| node.cpus.as_deref());
        islands.entry(set).or_default().push(place);
    }
    let mut answers = vec![T::default(); asked.len()];
    for (set, places) in islands {
        let mut island = Island::new(nodes, &children, set, cpus, available);
        for place in places {
            if let (Some(answer), Some(&index)) = (answers.get_mut(place), asked.get(place)) {
                *answer = one(&mut island, place, index);
            }
        }
    }
    answers
}

/// Children of each node, and those below the root.
struct Children {
    of: Vec<Vec<usize>>,
    root: Vec<usize>,
}

impl Children {
    fn new(nodes: &[Node]) -> Self {
        let mut children = Self {
            of: vec![Vec::new(); nodes.len()],
            root: Vec::new(),
        };
        for (index, node) in nodes.iter().enumerate() {
            match node.parent.and_then(|parent| children.of.get_mut(parent)) {
                Some(siblings) => siblings.push(index),
                None => children.root.push(index),
            }
        }
        children
    }

    fn below(&self, parent: Option<usize>) -> &[usize] {
        match parent {
            Some(parent) => self.of.get(parent).map_or(&[], Vec::as_slice),
            None => &self.root,
        }
    }
}

/// The CPUs of a set, and who is there.
struct Island<'a> {
    nodes: &'a [Node],
    children: &'a Children,
    /// Which part of each node's use lies here, and which part of the CPUs of its leaves.
    parts: Vec<(f64, f64)>,
    size: f64,
    available: f64,
    levels: HashMap<Option<usize>, Level>,
    shares: HashMap<usize, Share>,
}

impl<'a> Island<'a> {
    fn new(
        nodes: &'a [Node],
        children: &'a Children,
        set: Option<&[u32]>,
        cpus: &[u32],
        available: f64,
    ) -> Self {
        let here: Vec<u32> = match set {
            Some(set) => cpus
                .iter()
                .copied()
                .filter(|cpu| set.binary_search(cpu).is_ok())
                .collect(),
            None => cpus.to_vec(),
        };
        let size = here.len() as f64;
        let whole = (cpus.len() as f64).max(1.0);
        let mut parts = vec![(0.0, 0.0); nodes.len()];
        // Children come after their parents.
        for (index, node) in nodes.iter().enumerate().rev() {
            let below = children.below(Some(index));
            let part = if below.is_empty() {
                let part = match &node.cpus {
                    None => size / whole,
                    Some(own) => {
                        let shared = own
                            .iter()
                            .filter(|&cpu| here.binary_search(cpu).is_ok())
                            .count();
                        shared as f64 / (own.len() as f64).max(1.0)
                    }
                };
                (part, part)
            } else {
                let of = |child: &usize| {
                    let used = nodes.get(*child).map_or(0.0, |node| node.used);
                    let (by_use, by_cpus) = parts.get(*child).copied().unwrap_or_default();
                    (used, by_use, by_cpus)
                };
                let used: f64 = below.iter().map(|child| of(child).0).sum();
                let here: f64 = below.iter().map(|child| of(child).0 * of(child).1).sum();
                let by_cpus =
                    below.iter().map(|child| of(child).2).sum::<f64>() / below.len() as f64;
                (if used > 0.0 { here / used } else { by_cpus }, by_cpus)
            };
            if let Some(place) = parts.get_mut(index) {
                *place = part;
            }
        }
        Self {
            nodes,
            children,
            parts,
            size,
            available,
            levels: HashMap::new(),
            shares: HashMap::new(),
        }
    }

    fn share(&mut self, index: usize) -> Share {
        // From the root down; paths are a few levels long.
        let mut path = vec![index];
        let mut at = index;
        while let Some(parent) = self.nodes.get(at).and_then(|node| node.parent) {
            path.push(parent);
            at = parent;
        }
        let mut above = self.whole();
        for index in path.into_iter().rev() {
            above = match self.shares.get(&index) {
                Some(share) => *share,
                None => {
                    let share = self.below(above, index);
                    self.shares.insert(index, share);
                    share
                }
            };
        }
        above
    }

    /// All that there is.
    fn whole(&self) -> Share {
        Share {
            guaranteed: self.size,
            fair: self.size * self.available,
        }
    }

    /// The smallest weight with which a node gets what it needs; `None` where its parent does not get that much.
    fn weight_for(&mut self, index: usize, need: f64) -> Option<f64> {
        let node = self.nodes.get(index).filter(|node| node.is_group)?;
        let above = match node.parent {
            Some(parent) => self.share(parent),
            None => self.whole(),
        };
        let level = self.level(node.parent);
        let gets = |weight: f64| level.fair(index, weight, above.fair);
        let (mut low, mut high) = (node.weight, MOST_WEIGHT);
        if need.is_nan() || gets(high) < need {
            return None;
        }
        // Up to a thousandth.
        while high > low * 1.001 {
            let middle = (low * high).sqrt();
            if gets(middle) < need {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(high)
    }

    /// The children of a node.
    fn level(&mut self, parent: Option<usize>) -> &Level {
        let (nodes, parts, children) = (self.nodes, &self.parts, self.children);
        self.levels.entry(parent).or_insert_with(|| {
            let siblings = children.below(parent).iter();
            Level::new(siblings.filter_map(|&sibling| {
                let node = nodes.get(sibling)?;
                let (by_use, by_cpus) = parts.get(sibling).copied()?;
                Some(Sibling {
                    index: sibling,
                    weight: node.weight * by_use,
                    used: node.used * by_use,
                    standing: if node.is_group {
                        node.weight * by_cpus
                    } else {
                        0.0
                    },
                })
            }))
        })
    }

    /// What a node gets of what its parent gets.
    fn below(&mut self, above: Share, index: usize) -> Share {
        let Some(node) = self.nodes.get(index) else {
            return Share::default();
        };
        let (parent, weight) = (node.parent, node.weight);
        let level = self.level(parent);
        Share {
            guaranteed: above.guaranteed * level.guaranteed_part(index, weight),
            fair: level.fair(index, weight, above.fair),
        }
    }
}

/// One of those that share what their parent gets.
#[derive(Clone, Copy, Debug)]
struct Sibling {
    index: usize,
    /// Weight beside what it used.
    weight: f64,
    used: f64,
    /// Weight if it wants all.
    standing: f64,
}

/// The children of one cgroup, by how much they used for their weight.
struct Level {
    siblings: Vec<Sibling>,
    /// Place of each in those.
    places: HashMap<usize, usize>,
    /// Sum of what those before a place used.
    used_before: Vec<f64>,
    /// Sum of the weights from a place on.
    weight_from: Vec<f64>,
    standing: f64,
}

impl Level {
    fn new(siblings: impl Iterator<Item = Sibling>) -> Self {
        let mut siblings: Vec<Sibling> = siblings.collect();
        siblings.sort_by(|a, b| a.mark().partial_cmp(&b.mark()).unwrap_or(Ordering::Equal));
        let mut used_before = vec![0.0];
        for sibling in &siblings {
            used_before.push(used_before.last().unwrap_or(&0.0) + sibling.used);
        }
        let mut weight_from = vec![0.0];
        for sibling in siblings.iter().rev() {
            weight_from.push(weight_from.last().unwrap_or(&0.0) + sibling.weight);
        }
        weight_from.reverse();
        Self {
            places: siblings
                .iter()
                .enumerate()
                .map(|(place, sibling)| (sibling.index, place))
                .collect(),
            standing: siblings.iter().map(|sibling| sibling.standing).sum(),
            used_before,
            weight_from,
            siblings,
        }
    }

    fn guaranteed_part(&self, index: usize, weight: f64) -> f64 {
        let own = self.sibling(index).map_or(0.0, |(_, own)| own.standing);
        let others = (self.standing - own).max(0.0);
        weight / (others + weight)
    }

    fn sibling(&self, index: usize) -> Option<(usize, &Sibling)> {
        let place = *self.places.get(&index)?;
        Some((place, self.siblings.get(place)?))
    }

    /// What one gets that wants all of `capacity`, and the others what they used.
    fn fair(&self, index: usize, weight: f64, capacity: f64) -> f64 {
        let own = self.sibling(index);
        // The water level is what a unit of weight gets. Below a place all are full, from it on all get
        // by weight.
        let filled = |place: usize| {
            let mut used = self.used_before.get(place).copied().unwrap_or(0.0);
            let mut weights = self.weight_from.get(place).copied().unwrap_or(0.0) + weight;
            if let Some((own_place, own)) = own {
                if own_place < place {
                    used -= own.used;
                } else {
                    weights -= own.weight;
                }
            }
            (used, weights)
        };
        let place = self.siblings.partition_point(|sibling| {
            let place = self.places.get(&sibling.index).copied().unwrap_or(0);
            let (used, weights) = filled(place);
            used + sibling.mark() * weights < capacity
        });
        let (used, weights) = filled(place);
        let level = ((capacity - used) / weights.max(f64::MIN_POSITIVE)).max(0.0);
        (level * weight).min(capacity)
    }
}

impl Sibling {
    /// The water level at which it has what it used.
    fn mark(&self) -> f64 {
        if self.used <= 0.0 {
            0.0
        } else {
            self.used / self.weight.max(f64::MIN_POSITIVE)
        }
    }
}

#[cfg(test)]
mod tests;
