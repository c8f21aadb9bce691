//! Files that are not what they should be: for other machines, damaged, and made to cost much.

use super::*;

#[test]
fn files_for_other_machines_are_refused() {
    let good = functions(Cfi::eh_frame(), "zR").elf();
    for (at, byte) in [
        (0, 0),
        (4, 1),
        (5, 2),
        (16, 1),
        (16, 4),
        (18, 183),
        (54, 32),
        (56, 0),
    ] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert!(
            matches!(read(&bad), Err(UnwindError::Format(_))),
            "{at} {byte}"
        );
    }
    assert!(read(b"#!/bin/sh\n").is_err() && read(b"").is_err());
}

/// Rows are in order and lookups agree, whatever the file says.
fn assert_sound(bytes: &[u8]) {
    let Ok(table) = read(bytes) else { return };
    assert!(
        table
            .rows
            .is_sorted_by(|a, b| a.pc < b.pc && a.info != b.info)
    );
    let rows = table.rows.iter().take(50);
    assert_packed_as_unpacked(
        &table,
        rows.flat_map(|row| [row.pc, row.pc.wrapping_sub(1)]),
    );
}

#[test]
fn damage_to_any_byte_does_no_harm() {
    let eh_frame = functions(Cfi::eh_frame(), "zR");
    let debug_frame = functions(Cfi::debug_frame(), "");
    let files = [
        eh_frame.elf(),
        eh_frame.elf_without_sections(),
        debug_frame.elf(),
        debug_frame.compressed_elf(debug_frame.bytes.len() as u64),
    ];
    for good in files {
        let frames_end = (FRAMES_AT + 1024).min(good.len());
        let section_headers = good.len().saturating_sub(5 * 64)..good.len();
        for at in (0..frames_end).chain(section_headers) {
            for damage in [0xff, 0, good[at] ^ 1, good[at] ^ 0x80, 0x7f] {
                let mut bad = good.clone();
                bad[at] = damage;
                assert_sound(&bad);
            }
            let mut bad = good.clone();
            let end = (at + 8).min(bad.len());
            bad[at..end].fill(0xff);
            assert_sound(&bad);
        }
        for length in 0..good.len() {
            assert_sound(&good[..length]);
        }
    }
}

#[test]
fn a_million_functions_take_a_second_or_so() {
    let mut cfi = Cfi::eh_frame();
    let cie = cfi.cie("", 0, AT_ENTRY);
    for number in 0..1_000_000_u64 {
        // From the last to the first, eight at each address.
        cfi.fde(cie, CODE + (1_000_000 - number) / 8, 16, &[]);
    }
    let began = Instant::now();
    let table = UnwindTable::read(&file(&cfi.elf()), LONG).unwrap();
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(table.stats.fde_count, 1_000_000);
    // They all say the same.
    assert_eq!(table.rows.len(), 2);
    assert_eq!(
        table.pack(0).pages,
        ((CODE_PC + 125_016) >> PAGE_SHIFT) - (CODE_PC >> PAGE_SHIFT) + 1
    );
}

#[test]
fn a_table_has_no_more_rows_than_fit() {
    let mut cfi = Cfi::eh_frame();
    let cie = cfi.cie("", 0, AT_ENTRY);
    let frames: Vec<u8> = [0x41, 0x0e, 16, 0x41, 0x0e, 8].repeat(10_000);
    for _ in 0..table::MAX_ROWS / 20_000 + 1 {
        cfi.fde(cie, CODE, CODE_BYTES, &frames);
    }
    assert!(matches!(read(&cfi.elf()), Err(UnwindError::TooManyRows)));
}

#[test]
fn an_entry_that_is_too_long_is_not_evaluated() {
    let mut cfi = Cfi::eh_frame();
    let long = cfi.cie("", 0, &[AT_ENTRY, &vec![0; 70_000]].concat());
    let cie = cfi.cie("", 0, AT_ENTRY);
    cfi.fde(long, CODE, 16, &[]);
    cfi.fde(cie, CODE, 16, &vec![0; 70_000]);
    let table = read(&cfi.elf()).unwrap();
    assert_eq!((table.stats.fde_count, table.stats.refused_count), (0, 2));
}

#[test]
fn a_file_that_takes_long_is_given_up() {
    // States remembered and restored sixty thousand times for each function.
    let mut cfi = Cfi::eh_frame();
    let cie = cfi.cie("", 0, &[AT_ENTRY, &[0x0a, 0x0b].repeat(30_000)].concat());
    for number in 0..100_000_u64 {
        cfi.fde(cie, CODE + number, 1, &[]);
    }
    let began = Instant::now();
    let time = Duration::from_millis(100);
    let given_up = UnwindTable::read(&file(&cfi.elf()), time);
    assert!(matches!(given_up, Err(UnwindError::TimedOut(_))));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_section_that_is_too_long_is_not_read() {
    let bytes = Cfi::eh_frame().elf();
    let file = file(&bytes);
    file.set_len(1 << 40).unwrap();
    // The last section header is that of the frames.
    let size_at = bytes.len() as u64 - 64 + 32;
    file.write_all_at(&(MAX_CFI_BYTES + 1).to_le_bytes(), size_at)
        .unwrap();
    let refused = UnwindTable::read(&file, LONG);
    assert!(matches!(refused, Err(UnwindError::TooLong(_))));
}
