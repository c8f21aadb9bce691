//! Files that are not what they should be.

use std::{io::Write as _, os::unix::fs::FileExt as _};

use super::{
    super::{super::u64_at, sections::MAX_BYTES},
    *,
};

/// The same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A program, and the offsets of a function in it.
fn program(options: &[&str]) -> (Vec<u8>, Vec<u64>) {
    let program = built(options);
    let offsets = offsets_of(&program.path, "outer");
    (fs::read(&program.path).unwrap(), offsets)
}

/// Looks a file up, and asserts what holds of any.
fn assert_sound(bytes: &[u8], offsets: &[u64]) {
    const ROOM: usize = 1 << 12;
    let (mut budget, mut room) = (budget(), ROOM);
    let began = Instant::now();
    let found = look_up(&file_of(bytes), None, offsets, &mut budget, &mut room, keep);
    assert!(began.elapsed() < MAX_FILE_TIME * 2);
    match found {
        Ok(found) => {
            let lengths = found.of_offsets.values().map(|chain| chain.inlined.len());
            assert!(lengths.clone().all(|length| length <= 64));
            assert!(lengths.sum::<usize>() <= ROOM - room);
        }
        Err(error) => assert!(!matches!(error, ElfError::Panicked), "{error}"),
    }
}

/// Where the sections of DWARF are in a file.
fn debug_sections(bytes: &[u8]) -> Vec<(usize, usize)> {
    let headers = Headers::read(&file_of(bytes)).unwrap();
    let names = [
        "info", "abbrev", "line", "str", "rnglists", "ranges", "addr",
    ];
    let parts = names
        .iter()
        .filter_map(|name| headers.section(&format!(".debug_{name}")));
    let place = |at| usize::try_from(at).unwrap();
    parts
        .map(|part| (place(part.offset), place(part.bytes)))
        .collect()
}

#[test]
fn damage_does_no_harm() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for options in [
        &["-gdwarf-4"][..],
        &["-gdwarf-5"],
        &["-gdwarf-5", "-gz=zlib"],
    ] {
        let (good, offsets) = program(options);
        let sections = debug_sections(&good);
        assert!(sections.len() >= 4, "{sections:?}");
        for variant in 0..600 {
            let mut bad = good.clone();
            for _ in 0..1 + variant % 7 {
                let (begin, bytes) = sections[random.below(sections.len())];
                let at = begin + random.below(bytes.max(1));
                bad[at] = match variant % 4 {
                    0 => 0xff,
                    1 => 0,
                    2 => good[at] ^ (1 << random.below(8)),
                    _ => u8::try_from(random.below(256)).unwrap(),
                };
            }
            assert_sound(&bad, &offsets);
        }
        for _ in 0..200 {
            assert_sound(&good[..random.below(good.len())], &offsets);
        }
    }
}

/// Where the section headers of a file are.
fn table_of(bytes: &[u8]) -> usize {
    usize::try_from(u64_at(bytes, 40)).unwrap()
}

#[test]
fn sizes_that_a_file_only_claims_do_no_harm() {
    let (good, offsets) = program(&["-gdwarf-5"]);
    let table = table_of(&good);
    let count = (good.len() - table) / 64;
    assert!(count > 20);
    for header in (0..count).map(|section| table + section * 64) {
        for size in [u64::MAX, 1 << 62, 1 << 40, MAX_BYTES, good.len() as u64] {
            let mut bad = good.clone();
            bad[header + 32..header + 40].copy_from_slice(&size.to_le_bytes());
            assert_sound(&bad, &offsets);
        }
        // It claims to be compressed.
        let mut bad = good.clone();
        bad[header + 9] |= 8;
        assert_sound(&bad, &offsets);
    }
}

/// A program with other sections of DWARF, which are appended.
fn with_sections(good: &[u8], replaced: &[(&str, &[u8])]) -> Vec<u8> {
    let headers = Headers::read(&file_of(good)).unwrap();
    let mut bad = good.to_vec();
    for (name, bytes) in replaced {
        let header = table_of(good) + headers.section_index(name).unwrap() * 64;
        let offset = bad.len() as u64;
        bad[header + 24..header + 32].copy_from_slice(&offset.to_le_bytes());
        bad[header + 32..header + 40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        bad.extend_from_slice(bytes);
    }
    bad
}

/// All addresses: `low_pc` and, as a length, `high_pc`.
fn everywhere() -> Vec<u8> {
    let mut place = 2_u64.to_le_bytes().to_vec();
    place.extend(i64::MAX.to_le_bytes());
    place
}

/// A unit of DWARF 4 with all addresses, and these entries after its root.
fn unit(entries: &[u8]) -> Vec<u8> {
    let mut rest = vec![4, 0, 0, 0, 0, 0, 8, 1];
    rest.extend(everywhere());
    rest.extend_from_slice(entries);
    let length = u32::try_from(rest.len()).unwrap();
    let mut unit = length.to_le_bytes().to_vec();
    unit.extend(rest);
    unit
}

/// Of DWARF 4, 7.5.3: number, tag, whether it has children, attributes and their forms.
const ABBREVIATIONS: &[u8] = &[
    // 1: a unit with `low_pc` and `high_pc`.
    1, 0x11, 1, 0x11, 1, 0x12, 7, 0, 0, //
    // 2: an inlined function with both.
    2, 0x1d, 1, 0x11, 1, 0x12, 7, 0, 0, //
    // 3: one with nothing.
    3, 0x1d, 1, 0, 0, //
    // 4: one with both, and with an origin.
    4, 0x1d, 1, 0x11, 1, 0x12, 7, 0x31, 0x13, 0, 0, //
    // 5: one with a list of ranges, without children.
    5, 0x1d, 0, 0x55, 0x17, 0, 0, //
    0,
];

fn found_in(entries: &[u8], ranges: &[u8]) -> Chains {
    let (good, offsets) = program(&["-gdwarf-4"]);
    let replaced = [
        (".debug_info", &unit(entries)[..]),
        (".debug_abbrev", ABBREVIATIONS),
        (".debug_ranges", ranges),
    ];
    chains(&file_of(&with_sections(&good, &replaced)), None, &offsets)
}

#[test]
fn functions_inlined_into_one_another_without_end_are_cut() {
    let one = [vec![2], everywhere()].concat();
    let found = found_in(&one.repeat(100_000), &[]);
    assert!(found.is_cut && !found.of_offsets.is_empty());
    let mut lengths = found.of_offsets.values().map(|chain| chain.inlined.len());
    assert!(lengths.all(|length| length == 64));
    // Of a byte each, as deep as they are many.
    let found = found_in(&vec![3; 16 << 20], &[]);
    assert!(found.of_offsets.is_empty());
}

#[test]
fn a_function_that_is_its_own_origin_has_no_name() {
    // It is behind the header and the root of the unit.
    let origin = 28_u32.to_le_bytes().to_vec();
    let found = found_in(&[vec![4], everywhere(), origin].concat(), &[]);
    assert!(!found.is_cut && !found.of_offsets.is_empty());
    let mut texts = found.of_offsets.values().map(text);
    assert!(texts.all(|text| text == "0 :0"));
}

#[test]
fn a_file_that_takes_too_long_is_cut() {
    // A million functions, each of which has a quarter of a million ranges.
    let mut ranges = everywhere().repeat(1 << 18);
    ranges.extend([0; 16]);
    let began = Instant::now();
    let found = found_in(&[5, 0, 0, 0, 0].repeat(1 << 20), &ranges);
    assert!(found.is_cut && found.of_offsets.is_empty());
    assert!(began.elapsed() < MAX_FILE_TIME * 2);
}

#[test]
fn a_file_with_more_than_is_kept_is_cut() {
    let (good, offsets) = program(&["-gdwarf-4"]);
    // Sections of holes.
    for bytes in [MAX_BYTES / 2, MAX_BYTES] {
        let bad = with_sections(&good, &[(".debug_str", &[0])]);
        let file = file_of(&bad);
        let headers = Headers::read(&file).unwrap();
        let header = table_of(&bad) + headers.section_index(".debug_str").unwrap() * 64;
        let size = header as u64 + 32;
        file.write_all_at(&bytes.to_le_bytes(), size).unwrap();
        file.set_len(bad.len() as u64 + bytes).unwrap();
        assert_eq!(chains(&file, None, &offsets).is_cut, bytes == MAX_BYTES);
    }
}

#[test]
fn no_more_is_kept_than_there_is_room_for() {
    let (good, offsets) = program(&["-gdwarf-5"]);
    let file = file_of(&good);
    for room in [0, 1, 5] {
        let mut left = room;
        let found = look_up(&file, None, &offsets, &mut budget(), &mut left, keep).unwrap();
        let lengths = found.of_offsets.values().map(|chain| chain.inlined.len());
        assert_eq!(lengths.sum::<usize>(), room);
        assert!(found.is_cut && left == 0);
    }
    // No name is kept.
    let found = look_up(&file, None, &offsets, &mut budget(), &mut 9999, |_| None).unwrap();
    assert!(found.is_cut);
    let mut chains = found.of_offsets.values();
    assert!(chains.all(|chain| chain.inlined.is_empty()));
}
