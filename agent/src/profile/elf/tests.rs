//! Files made up byte by byte, sound and hostile.

use std::{io::Write, time::Duration};

use super::*;

mod damaged;
mod sources;

fn budget() -> Budget {
    Budget {
        bytes: 1 << 30,
        deadline: Instant::now() + Duration::from_secs(600),
    }
}

/// The names at offsets into a file, empty where there is none.
fn names(file: &File, offsets: &[u64]) -> Vec<String> {
    let found = resolve(file, offsets, &mut budget(), |name| Some(name.into()));
    texts(&found.unwrap())
}

fn texts(names: &[Option<Arc<str>>]) -> Vec<String> {
    let text = |name: &Option<Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
    names.iter().map(text).collect()
}

fn resolve_file(file: &File, offsets: &[u64], bytes: u64) -> Result<Vec<bool>, ElfError> {
    let mut budget = Budget {
        bytes,
        deadline: Instant::now() + Duration::from_secs(600),
    };
    let names = resolve(file, offsets, &mut budget, |name| Some(name.into()))?;
    Ok(names.iter().map(Option::is_some).collect())
}

fn resolve_bytes(bytes: &[u8]) -> Result<Vec<bool>, ElfError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    resolve_file(&file, &[0, 0x1000, u64::MAX], 1 << 30)
}

#[test]
fn files_that_are_no_elf_are_refused() {
    for bytes in [
        b"".as_slice(),
        b"#!/bin/sh\n",
        &[0; 4096],
        b"\x7fELF",
        &[0xff; 4096],
    ] {
        assert!(resolve_bytes(bytes).is_err());
    }
}

#[test]
fn a_damaged_elf_does_no_harm() {
    // The headers of this program with each byte, and each run of eight, made wrong in turn.
    let mut program = std::fs::read("/proc/self/exe").unwrap();
    program.truncate(64 << 10);
    let file = tempfile::tempfile().unwrap();
    for at in 0..EHDR_BYTES + 4 * PHDR_BYTES {
        for width in [1, 8] {
            let mut bytes = program.clone();
            bytes[at..at + width].fill(0xff);
            file.set_len(0).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            let _ = resolve_file(&file, &[0, 0x1000, u64::MAX], 1 << 30);
        }
    }
}

#[test]
fn a_spent_budget_copies_no_table() {
    let file = File::open("/proc/self/exe").unwrap();
    let found = resolve_file(&file, &[0x1000], 0);
    assert!(found.map_or(true, |names| names == [false]));
}

/// An ELF file with one segment and a symbol table of `count` symbols, all at address 0x1000 and
/// one byte long, with names of `name_bytes`.
fn hostile(count: usize, name_bytes: usize) -> Vec<u8> {
    let mut file = vec![0_u8; 0x400];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    let table_bytes = (count * 24) as u64;
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[3, 0, 62, 0, 1]);
    put(32, &64_u64.to_le_bytes());
    put(40, &0x100_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0, 64, 0, 4, 0, 3, 0]);
    put(64, &1_u32.to_le_bytes());
    put(64 + 32, &0x10_0000_u64.to_le_bytes());
    put(64 + 40, &0x10_0000_u64.to_le_bytes());
    let sections = [
        (1_u32, 2_u32, 0x400, table_bytes, 2_u32),
        (9, 3, 0x400 + table_bytes, name_bytes as u64 + 2, 0),
        (17, 3, 0x300, 27, 0),
    ];
    for (index, (name, kind, offset, size, link)) in sections.into_iter().enumerate() {
        let at = 0x140 + index * 64;
        put(at, &name.to_le_bytes());
        put(at + 4, &kind.to_le_bytes());
        put(at + 24, &offset.to_le_bytes());
        put(at + 32, &size.to_le_bytes());
        put(at + 40, &link.to_le_bytes());
        put(at + 56, &24_u64.to_le_bytes());
    }
    put(0x300, b"\0.symtab\0.strtab\0.shstrtab\0");
    let mut symbol = [0_u8; 24];
    symbol[0] = 1;
    symbol[4] = 2;
    symbol[6] = 1;
    symbol[8..16].copy_from_slice(&0x1000_u64.to_le_bytes());
    symbol[16] = 1;
    file.extend(symbol.repeat(count));
    file.push(0);
    file.extend(vec![b'x'; name_bytes]);
    file.push(0);
    file
}

fn resolve_at(bytes: &[u8], offsets: &[u64]) -> Result<Vec<bool>, ElfError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    resolve_file(&file, offsets, 1 << 30)
}

#[test]
fn addresses_are_found_until_the_deadline() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&hostile(10, 5)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut budget = Budget {
        bytes: 1 << 30,
        deadline,
    };
    let offsets = [0x1000; 3 * BATCH];
    let mut looked_up = 0;
    let names = resolve(&file, &offsets, &mut budget, |name| {
        looked_up += 1;
        // The batch that is under way at the deadline is the last one.
        while looked_up == BATCH && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        Some(name.into())
    })
    .unwrap();
    // None of it on a machine so slow that it is over before the first.
    assert!(looked_up <= BATCH, "{looked_up}");
    let found = names.iter().filter(|name| name.is_some()).count();
    assert_eq!((found, names.len()), (looked_up, offsets.len()));
}

#[test]
fn an_address_in_no_symbol_has_no_name() {
    assert_eq!(
        resolve_at(&hostile(10, 5), &[0x1000, 0x1001]).unwrap(),
        [true, false]
    );
}

#[test]
fn a_name_of_many_megabytes_is_not_copied() {
    assert_eq!(
        resolve_at(&hostile(1, 1 << 20), &[0x1000; 200])
            .unwrap()
            .len(),
        200
    );
    // Tables that do not fit are left out.
    assert_eq!(
        resolve_at(&hostile(1, 65 << 20), &[0x1000]).unwrap_or(vec![false]),
        [false]
    );
}
