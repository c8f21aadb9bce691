use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn node(parent: Option<usize>, weight: f64, used: f64) -> Node {
    Node {
        parent,
        weight,
        used,
        cpus: None,
        is_group: true,
    }
}

fn on(cpus: &[u32], parent: Option<usize>, used: f64) -> Node {
    Node {
        cpus: Some(Arc::from(cpus)),
        ..node(parent, 100.0, used)
    }
}

fn share(nodes: &[Node], index: usize, cpus: u32) -> (f64, f64) {
    let cpus: Vec<u32> = (0..cpus).collect();
    let share = shares(nodes, &[index], &cpus, 1.0)[0];
    let round = |cores: f64| (cores * 1e6).round() / 1e6;
    (round(share.guaranteed), round(share.fair))
}

#[test]
fn alone_it_gets_all() {
    assert_eq!(share(&[node(None, 100.0, 0.1)], 0, 4), (4.0, 4.0));
}

#[test]
fn busy_siblings_share_by_weight() {
    let nodes = [node(None, 100.0, 0.5), node(None, 300.0, 3.5)];
    assert_eq!(share(&nodes, 0, 4), (1.0, 1.0));
    assert_eq!(share(&nodes, 1, 4), (3.0, 3.5));
}

#[test]
fn what_others_do_not_use_is_to_be_had() {
    let nodes = [
        node(None, 100.0, 0.0),
        node(None, 100.0, 0.2),
        node(None, 800.0, 0.0),
    ];
    assert_eq!(share(&nodes, 0, 4), (0.4, 3.8));
    // Two want more than their part, and one less.
    let nodes = [
        node(None, 100.0, 1.0),
        node(None, 100.0, 2.6),
        node(None, 200.0, 0.4),
    ];
    // Of 4 cores 0.4 are gone; the rest is shared by the two.
    assert_eq!(share(&nodes, 0, 4), (1.0, 1.8));
}

#[test]
fn levels_are_filled_from_the_root_down() {
    let nodes = [
        node(None, 100.0, 2.0),    // 0: a slice, with two below it
        node(None, 300.0, 2.0),    // 1: another
        node(Some(0), 100.0, 1.5), // 2
        node(Some(0), 100.0, 0.5), // 3
    ];
    // The slice gets 1 by right, and 2 because the other uses no more; its second uses half a core.
    assert_eq!(share(&nodes, 2, 4), (0.5, 1.5));
    assert_eq!(share(&nodes, 3, 4), (0.5, 1.0));
}

#[test]
fn tasks_beside_cgroups_take_what_they_used_and_are_no_siblings_else() {
    let mut rest = node(None, 100.0, 0.5);
    rest.is_group = false;
    let nodes = [node(None, 100.0, 1.5), rest];
    assert_eq!(share(&nodes, 0, 2), (2.0, 1.5));
}

#[test]
fn a_cpu_set_is_a_machine_of_its_own() {
    // Two on one CPU, one on the other three.
    let nodes = [
        on(&[0], None, 0.1),
        on(&[0], None, 0.9),
        on(&[1, 2, 3], None, 3.0),
    ];
    assert_eq!(share(&nodes, 0, 4), (0.5, 0.5));
    assert_eq!(share(&nodes, 2, 4), (3.0, 3.0));
    // One that may run anywhere counts with the part of it that is here.
    let nodes = [on(&[0], None, 0.1), node(None, 100.0, 1.0)];
    assert_eq!(share(&nodes, 0, 2), (0.666_667, 0.666_667));
}

#[test]
fn a_slice_counts_with_what_its_own_do_on_the_cpus() {
    let nodes = [
        on(&[0], None, 0.5),
        node(None, 100.0, 1.5),
        on(&[0], Some(1), 0.5),
        on(&[1], Some(1), 1.0),
    ];
    // A third of the slice's use is here: a third of its weight and half a core.
    assert_eq!(share(&nodes, 0, 2).1, 0.75);
    assert_eq!(share(&nodes, 0, 2).0, 0.666_667);
}

#[test]
fn time_that_tasks_cannot_have_is_not_shared() {
    let nodes = [node(None, 100.0, 0.5), node(None, 100.0, 0.5)];
    let got = shares(&nodes, &[0], &[0, 1], 0.75)[0];
    assert_eq!((got.guaranteed, got.fair), (1.0, 1.0));
    let got = shares(&nodes, &[0], &[0, 1], 0.4)[0];
    assert_eq!(got.fair, 0.4);
}

#[test]
fn the_weight_that_gives_what_is_needed() {
    let weight = |nodes: &[Node], need: f64| {
        let found = weights(nodes, &[(0, need)], &[0, 1], 1.0)[0]?;
        let mut with_it = nodes.to_vec();
        with_it[0].weight = found;
        let fair = shares(&with_it, &[0], &[0, 1], 1.0)[0].fair;
        assert!(fair >= need - 1e-9 && fair <= need * 1.01, "{fair} {need}");
        Some(found)
    };
    // Beside one of 400 that wants all, 1 of 2 cores takes as much weight as that has.
    let nodes = [node(None, 100.0, 0.4), node(None, 400.0, 1.6)];
    let found = weight(&nodes, 1.0).unwrap();
    assert!((400.0..=401.0).contains(&found), "{found}");
    // All of it cannot be had, and from within a slice no more than the slice gets.
    assert_eq!(weights(&nodes, &[(0, 2.0)], &[0, 1], 1.0), [None]);
    let slice = [
        node(None, 100.0, 0.4),
        node(None, 400.0, 1.6),
        node(Some(0), 100.0, 0.4),
    ];
    assert_eq!(weights(&slice, &[(2, 1.0)], &[0, 1], 1.0), [None]);
    assert_eq!(weights(&slice, &[(2, f64::NAN)], &[0, 1], 1.0), [None]);
    // What it has is enough.
    assert!(weights(&nodes, &[(0, 0.3)], &[0, 1], 1.0)[0] <= Some(100.2));
}

#[test]
fn an_empty_set_of_cpus_gives_nothing() {
    let nodes = [on(&[9], None, 0.0)];
    assert_eq!(share(&nodes, 0, 2), (0.0, 0.0));
    assert_eq!(shares(&nodes, &[0], &[], 1.0)[0], Share::default());
}

/// A tree of up to 12 nodes on 4 CPUs, with random weights, uses and sets.
fn tree() -> impl Strategy<Value = Vec<Node>> {
    let one = (
        proptest::option::of(0usize..12),
        1u32..10_000,
        0.0..4.0f64,
        proptest::option::of(proptest::collection::btree_set(0u32..4, 1..4)),
    );
    proptest::collection::vec(one, 1..12).prop_map(|rows| {
        rows.into_iter()
            .enumerate()
            .map(|(index, (parent, weight, used, cpus))| Node {
                parent: parent.filter(|&parent| parent < index),
                weight: f64::from(weight),
                used,
                cpus: cpus.map(|cpus| cpus.into_iter().collect()),
                is_group: true,
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn a_share_is_within_the_machine_and_no_less_than_guaranteed_beside_all(nodes in tree()) {
        let asked: Vec<usize> = (0..nodes.len()).collect();
        for (index, share) in shares(&nodes, &asked, &[0, 1, 2, 3], 1.0).into_iter().enumerate() {
            let most = nodes[index].cpus.as_ref().map_or(4.0, |cpus| cpus.len() as f64);
            prop_assert!(share.guaranteed >= 0.0 && share.guaranteed <= most + 1e-9);
            prop_assert!(share.fair >= 0.0 && share.fair <= most + 1e-9, "{share:?}");
        }
    }

    #[test]
    fn without_sets_what_is_fair_is_at_least_what_is_guaranteed(mut nodes in tree()) {
        for node in &mut nodes {
            node.cpus = None;
        }
        let asked: Vec<usize> = (0..nodes.len()).collect();
        for share in shares(&nodes, &asked, &[0, 1, 2, 3], 1.0) {
            prop_assert!(share.fair >= share.guaranteed - 1e-9, "{share:?}");
        }
    }

    #[test]
    fn siblings_that_all_want_all_share_the_whole(weights in proptest::collection::vec(1u32..10_000, 1..20)) {
        let nodes: Vec<Node> = weights.iter().map(|&weight| node(None, f64::from(weight), 100.0)).collect();
        let asked: Vec<usize> = (0..nodes.len()).collect();
        let all = shares(&nodes, &asked, &[0, 1, 2, 3], 1.0);
        let sum: f64 = all.iter().map(|share| share.fair).sum();
        prop_assert!((sum - 4.0).abs() < 1e-6, "{sum}");
        for share in all {
            prop_assert!((share.fair - share.guaranteed).abs() < 1e-6);
        }
    }

    #[test]
    fn water_filling_is_what_a_slow_search_finds(
        others in proptest::collection::vec((1u32..1_000, 0.0..3.0f64), 0..8), weight in 1u32..1_000
    ) {
        let mut nodes = vec![node(None, f64::from(weight), 0.0)];
        nodes.extend(others.iter().map(|&(weight, used)| node(None, f64::from(weight), used)));
        let fair = shares(&nodes, &[0], &[0, 1, 2, 3], 1.0)[0].fair;
        let total = |level: f64| -> f64 {
            let theirs = others.iter().map(|&(weight, used)| used.min(level * f64::from(weight)));
            theirs.sum::<f64>() + level * f64::from(weight)
        };
        let (mut low, mut high) = (0.0, 4.0 / f64::from(weight));
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if total(middle) < 4.0 { low = middle } else { high = middle }
        }
        prop_assert!((fair - low * f64::from(weight)).abs() < 1e-6, "{fair} {}", low * f64::from(weight));
    }
}
