//! Every target over all of its seeds, and over what damage makes of them: the same in every run.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use super::*;

/// Inputs made of each seed by each kind of damage.
const MOST_OF_A_KIND: usize = 16;
/// Longest seed: what is longer makes the test slow and the fuzzer, too.
const MOST_BYTES: usize = 16 << 10;

/// xorshift64: the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/fuzz"))
}

/// The seeds of a target with their names, in the order of these.
fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = folder().join(target.name);
    let mut seeds: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

/// What is damaged in a seed, and what comes of it.
fn damaged(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let step = seed.len().div_ceil(MOST_OF_A_KIND).max(1);
    all.extend(
        (0..seed.len())
            .step_by(step)
            .map(|end| seed[..end].to_vec()),
    );
    for _ in 0..MOST_OF_A_KIND.min(seed.len()) {
        let mut flipped = seed.to_vec();
        flipped[random.below(seed.len())] ^= 1 << random.below(8);
        all.push(flipped);
        let mut replaced = seed.to_vec();
        let odd = [0, b'\n', b' ', b':', b'-', b'/', b'9', 0x7f, 0x80, 0xff];
        replaced[random.below(seed.len())] = odd[random.below(odd.len())];
        all.push(replaced);
        let mut spliced = seed[..random.below(seed.len())].to_vec();
        spliced.extend(&other[random.below(other.len())..]);
        all.push(spliced);
        let at = random.below(seed.len());
        let mut repeated = seed[..at].to_vec();
        repeated.extend(&seed[at / 2..]);
        all.push(repeated);
    }
    all
}

/// What went wrong, if anything did.
fn run(target: &Target, input: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|_| {
        format!(
            "{} does not hold for \"{}\"; the panic is above",
            target.name,
            input.escape_ascii()
        )
    })
}

#[test]
fn every_target_has_seeds_and_all_seeds_are_of_a_target() {
    let names: BTreeSet<String> = targets().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), targets().count(), "two have one name");
    let folders: BTreeSet<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, folders);
    for target in targets() {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{} has no seed", target.name);
        for (name, seed) in seeds {
            assert!(seed.len() <= MOST_BYTES, "{}/{name} is long", target.name);
        }
    }
}

/// The first input of a target for which a promise does not hold.
fn first_broken(target: &Target, random: &mut Random) -> Option<String> {
    let seeds = seeds(target);
    for (index, (name, seed)) in seeds.iter().enumerate() {
        if let Err(error) = run(target, seed) {
            return Some(format!("seed {name}: {error}"));
        }
        let (_, other) = &seeds[(index + 1) % seeds.len()];
        let inputs = damaged(seed, other, random);
        if let Some(error) = inputs.iter().find_map(|input| run(target, input).err()) {
            return Some(error);
        }
    }
    None
}

#[test]
fn every_promise_holds_for_the_seeds_and_what_damage_makes_of_them() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let broken: Vec<String> = targets()
        .filter_map(|target| first_broken(target, &mut random))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_broken_promise_is_told_with_the_input() {
    let target = Target::new("none", |bytes| assert!(bytes.is_empty()));
    assert_eq!(run(&target, b""), Ok(()));
    assert!(run(&target, b"a\xff").unwrap_err().contains("a\\xff"));
}
