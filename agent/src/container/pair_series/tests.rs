use std::collections::BTreeMap;

use super::*;

fn identity(name: &str) -> Arc<Identity> {
    Arc::new(Identity {
        container: name.to_owned(),
        ..Identity::default()
    })
}

/// Sums of pairs of slots; slot 1 is `c1` and so on, and 0 has no name.
fn update(series: &mut PairSeries, sums: &[(u32, u32, u64)]) {
    named(series, sums, |slot| format!("c{slot}"));
}

fn named(series: &mut PairSeries, sums: &[(u32, u32, u64)], name: impl Fn(u32) -> String) {
    at(1, series, sums, name);
}

fn at(
    now_ns: u64,
    series: &mut PairSeries,
    sums: &[(u32, u32, u64)],
    name: impl Fn(u32) -> String,
) {
    let pairs = sums.iter().map(|&(victim, culprit, ns)| {
        let names = (victim > 0 && culprit > 0)
            .then(|| (identity(&name(victim)), identity(&name(culprit))));
        ((victim, culprit), names, ns)
    });
    series.update(pairs, now_ns);
}

/// What is exported, by `victim<culprit`, with `_other`.
fn told(series: &PairSeries) -> BTreeMap<String, u64> {
    let told = series.told();
    assert!(told.pairs.len() <= series.most);
    let pairs = told.pairs.iter();
    let mut told: BTreeMap<String, u64> = pairs
        .map(|one| {
            let name = format!("{}<{}", one.victim.container, one.culprit.container);
            (name, one.ns)
        })
        .chain([("_other".to_owned(), told.other_ns)])
        .collect();
    told.retain(|_, ns| *ns > 0);
    told
}

fn of(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let pairs = pairs.iter();
    pairs.map(|(name, ns)| ((*name).to_owned(), *ns)).collect()
}

#[test]
fn where_there_is_room_each_pair_has_its_whole_sum() {
    let mut series = PairSeries::new(3);
    update(&mut series, &[(1, 2, 100), (2, 1, 5), (0, 1, 7), (1, 0, 1)]);
    assert_eq!(
        told(&series),
        of(&[("c1<c2", 100), ("c2<c1", 5), ("_other", 8)])
    );
    update(&mut series, &[(1, 2, 130), (2, 1, 5), (0, 1, 9), (1, 0, 1)]);
    assert_eq!(
        told(&series),
        of(&[("c1<c2", 130), ("c2<c1", 5), ("_other", 10)])
    );
}

#[test]
fn a_pair_takes_the_place_of_another_one_only_with_half_as_much_again() {
    let mut series = PairSeries::new(2);
    update(&mut series, &[(1, 2, 100), (1, 3, 50), (1, 4, 10)]);
    assert_eq!(
        told(&series),
        of(&[("c1<c2", 100), ("c1<c3", 50), ("_other", 10)])
    );
    // More than the smallest one, but not enough.
    update(&mut series, &[(1, 2, 100), (1, 3, 50), (1, 4, 74)]);
    assert_eq!(
        told(&series),
        of(&[("c1<c2", 100), ("c1<c3", 50), ("_other", 74)])
    );
    // What it waited until now is in the others' series, where it stays.
    update(&mut series, &[(1, 2, 100), (1, 3, 50), (1, 4, 75)]);
    assert_eq!(told(&series), of(&[("c1<c2", 100), ("_other", 75)]));
    update(&mut series, &[(1, 2, 100), (1, 3, 60), (1, 4, 80)]);
    assert_eq!(
        told(&series),
        of(&[("c1<c2", 100), ("c1<c4", 5), ("_other", 85)])
    );
    // One that comes back goes on from where it was.
    update(&mut series, &[(1, 2, 100), (1, 3, 130), (1, 4, 80)]);
    assert_eq!(
        told(&series),
        of(&[("c1<c2", 100), ("c1<c3", 50), ("_other", 155)])
    );
    update(&mut series, &[(1, 2, 100), (1, 3, 131), (1, 4, 80)]);
    assert_eq!(told(&series)["c1<c3"], 51);
}

#[test]
fn pairs_of_one_name_are_one_series_that_never_decreases() {
    let mut series = PairSeries::new(5);
    let name = |slot: u32| if slot == 9 { "c1" } else { "c2" }.to_owned();
    named(&mut series, &[(9, 2, 100), (9, 3, 50)], name);
    assert_eq!(told(&series), of(&[("c1<c2", 150)]));
    // One of the two is gone: the sum keeps what it had.
    series.forget(&HashSet::from([3]));
    named(&mut series, &[(9, 2, 110)], name);
    assert_eq!(told(&series), of(&[("c1<c2", 160)]));
    // Its slot is another's of that name, which begins at zero.
    named(&mut series, &[(9, 2, 110), (9, 3, 1)], name);
    assert_eq!(told(&series), of(&[("c1<c2", 161)]));
}

#[test]
fn a_pair_that_is_gone_leaves_and_makes_room() {
    let mut series = PairSeries::new(1);
    update(&mut series, &[(1, 2, 100), (1, 3, 50)]);
    series.forget(&HashSet::from([2]));
    assert_eq!(told(&series), of(&[("_other", 50)]));
    // The next one has the slot; what is counted in it is no increase of the former one.
    update(&mut series, &[(1, 2, 10), (1, 3, 60)]);
    assert_eq!(told(&series), of(&[("c1<c3", 10), ("_other", 60)]));
    update(&mut series, &[]);
    assert_eq!(told(&series), of(&[("_other", 60)]));
    assert!(series.slots.is_empty() && series.sums.is_empty());
}

#[test]
fn another_name_is_another_series() {
    let mut series = PairSeries::new(2);
    update(&mut series, &[(1, 2, 100)]);
    named(&mut series, &[(1, 2, 130)], |slot| format!("web{slot}"));
    assert_eq!(told(&series), of(&[("web1<web2", 30)]));
    named(&mut series, &[(1, 2, 135)], |slot| format!("web{slot}"));
    assert_eq!(told(&series), of(&[("web1<web2", 35)]));
    // From now on it is among those without an entry.
    series.update([((1, 2), None, 140)].into_iter(), 1);
    assert!(series.told().pairs.is_empty() && series.sums.is_empty());
    assert_eq!(told(&series), of(&[("_other", 5)]));
}

#[test]
fn another_name_adds_to_the_others_only_what_is_new() {
    let mut series = PairSeries::new(1);
    update(&mut series, &[(1, 2, 1_000), (3, 4, 900)]);
    assert_eq!(told(&series), of(&[("c1<c2", 1_000), ("_other", 900)]));
    let web = |slot: u32| if slot == 3 { "web" } else { "c" }.to_owned() + &slot.to_string();
    named(&mut series, &[(1, 2, 1_000), (3, 4, 907)], web);
    assert_eq!(told(&series), of(&[("c1<c2", 1_000), ("_other", 907)]));
    // It is ranked by all that it waited.
    named(&mut series, &[(1, 2, 1_000), (3, 4, 1_500)], web);
    named(&mut series, &[(1, 2, 1_000), (3, 4, 1_501)], web);
    assert_eq!(told(&series), of(&[("web3<c4", 1), ("_other", 1_500)]));
}

#[test]
fn what_was_waited_long_ago_weighs_less() {
    let mut series = PairSeries::new(1);
    let name = |slot: u32| format!("c{slot}");
    at(5, &mut series, &[(1, 2, 8_000)], name);
    let now = 5 + HALF_LIFE_NS;
    at(now - 1, &mut series, &[(1, 2, 8_000), (3, 4, 5_999)], name);
    assert!(told(&series).contains_key("c1<c2"), "it weighs 8,000");
    at(now, &mut series, &[(1, 2, 8_000), (3, 4, 5_999)], name);
    assert!(told(&series).contains_key("c1<c2"), "both weigh half");
    // 1,000 against 749 and what is new.
    let now = 5 + 3 * HALF_LIFE_NS;
    at(now, &mut series, &[(1, 2, 8_000), (3, 4, 6_749)], name);
    assert!(told(&series).contains_key("c1<c2"));
    at(now, &mut series, &[(1, 2, 8_000), (3, 4, 6_750)], name);
    at(now, &mut series, &[(1, 2, 8_000), (3, 4, 6_757)], name);
    assert_eq!(told(&series), of(&[("c3<c4", 7), ("_other", 6_750)]));
    // Where all rest, all stay.
    at(u64::MAX, &mut series, &[(1, 2, 8_000), (3, 4, 6_757)], name);
    assert_eq!(told(&series), of(&[("c3<c4", 7), ("_other", 6_750)]));
    at(u64::MAX, &mut series, &[(1, 2, 8_001), (3, 4, 6_757)], name);
    at(u64::MAX, &mut series, &[(1, 2, 8_002), (3, 4, 6_757)], name);
    assert!(told(&series).contains_key("c1<c2"));
}

/// Whatever comes and goes: bounded, no series decreases while it is there, and what all of them gain together is what
/// all pairs gained.
#[test]
fn increases_of_all_series_are_those_of_all_pairs() {
    let mut series = PairSeries::new(4);
    let mut random = 7_u64;
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    let mut sums: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    let mut before = told(&series);
    for _ in 0..2_000 {
        let mut gained = 0;
        for _ in 0..below(6) {
            let pair = (below(6) as u32, below(6) as u32);
            let added = 1 + below(1_000);
            *sums.entry(pair).or_default() += added;
            gained += added;
        }
        let all: Vec<_> = sums.iter().map(|(&(v, c), &ns)| (v, c, ns)).collect();
        // Series as they are while the pair that had one is not exported do not count.
        let hidden = |series: &PairSeries| -> u64 {
            let sums = series.sums.values();
            sums.filter(|sum| !sum.is_exported)
                .map(|sum| sum.exported_ns)
                .sum()
        };
        let had: u64 = before.values().sum::<u64>() + hidden(&series);
        update(&mut series, &all);
        let now = told(&series);
        for (name, ns) in &now {
            assert!(before.get(name).is_none_or(|before| before <= ns), "{name}");
        }
        assert_eq!(now.values().sum::<u64>() + hidden(&series), had + gained);
        before = now;
        if below(50) == 0 {
            let slot = 1 + below(5) as u32;
            series.forget(&HashSet::from([slot]));
            sums.retain(|(victim, culprit), _| *victim != slot && *culprit != slot);
            before = told(&series);
        }
    }
    assert!(before.len() > 3, "{before:?}");
}
