//! Tables that are broken or want too much.

use flate2::Crc;

use super::{
    super::made::{CODE, CODE_OFFSET, Image, file_of, go_table},
    sources::DEBUG_DATA,
    *,
};

/// 65 MiB of zeros, made by xz 5.4.1.
const BOMB: &[u8] = include_bytes!("../../../../fixtures/fuzz/profile_debug_data/larger_than_kept");
const FUNCTIONS: &[(&str, u32)] = &[("main.work", 0x100), ("main.(*T).Do", 0x180)];

fn inflated(bytes: &[u8]) -> Result<File, ElfError> {
    inflate(&file_of(bytes), 0, bytes.len() as u64, &mut budget())
}

/// Does it to the bytes with each of them made wrong, and to each of their beginnings.
fn for_each_damage(bytes: &[u8], mut see: impl FnMut(&[u8])) {
    let mut damaged = bytes.to_vec();
    for at in 0..bytes.len() {
        for wrong in [0, 0x7f, 0xff, bytes[at] ^ 1] {
            damaged[at] = wrong;
            see(&damaged);
        }
        damaged[at] = bytes[at];
        see(&bytes[..at]);
    }
}

#[test]
fn a_damaged_go_table_does_no_harm() {
    for magic in [0xfb, 0xfa, 0xf0, 0xf1] {
        let table = go_table(magic, FUNCTIONS, 0x200, CODE);
        for_each_damage(&table, |table| {
            let file = file_of(table);
            let read = Table::read(&file, 0, table.len() as u64);
            for address in [0, CODE + 0x100, CODE + 0x180, u64::MAX] {
                if let Ok(Some(table)) = &read {
                    let _ = table.name_at(address);
                }
            }
        });
    }
}

#[test]
fn a_damaged_image_does_no_harm() {
    let table = go_table(0xf1, FUNCTIONS, 0x200, 0);
    let image = Image::binary()
        .build_id(b"0123")
        .debug_link("app.debug", 7)
        .section(".gnu_debugdata", DEBUG_DATA)
        .loaded(".gopclntab", &table)
        .loaded(".go.module", &[1; 184])
        .relocations(&[(1, 2)]);
    let whole = image.bytes();
    let headers = whole.len() - 9 * SHDR_BYTES;
    let mut damaged = whole.clone();
    for at in (0..EHDR_BYTES + 3 * PHDR_BYTES).chain(headers..whole.len()) {
        for width in [1, 8] {
            let end = (at + width).min(whole.len());
            damaged[at..end].fill(0xff);
            let mut debug_file = Image::debug_file().symbols(".symtab", &[("x", 0, 8)]);
            debug_file = debug_file.build_id(b"0123");
            let debug_files = DebugFiles {
                binary: "/app".as_ref(),
                open: &mut |_| Ok(file_of(&damaged)),
            };
            let keep = |name: &str| Some(name.into());
            let offsets = [CODE_OFFSET + 0x100, CODE_OFFSET + 0x180];
            let debug_file = debug_file.file();
            let _ = resolve_with(&debug_file, debug_files, &offsets, &mut budget(), keep);
            let _ = resolve(&file_of(&damaged), &offsets, &mut budget(), keep);
            damaged[at..end].copy_from_slice(&whole[at..end]);
        }
    }
}

#[test]
fn damaged_compressed_symbols_do_no_harm() {
    for_each_damage(DEBUG_DATA, |bytes| {
        let file = Image::binary().section(".gnu_debugdata", bytes).file();
        let _ = resolve(&file, &[CODE_OFFSET + 0x100], &mut budget(), |_| None);
    });
}

#[test]
fn compressed_symbols_that_are_cut_short_are_refused() {
    // The last twelve bytes, which end the stream, say nothing that the decoder did not know.
    for length in 0..DEBUG_DATA.len() - 12 {
        assert!(inflated(&DEBUG_DATA[..length]).is_err(), "{length}");
    }
    assert!(inflated(DEBUG_DATA).is_ok());
}

#[test]
fn compressed_symbols_are_bounded() {
    assert!(matches!(inflated(BOMB), Err(ElfError::TooLong(_))));
    let mut budget = Budget {
        bytes: 1 << 20,
        ..budget()
    };
    let spent = inflate(&file_of(BOMB), 0, BOMB.len() as u64, &mut budget);
    assert!(matches!(spent, Err(ElfError::Spent)));
}

#[test]
fn a_dictionary_of_four_gibibytes_is_refused() {
    // Magic and flags of the stream, then the header of a block: its length in words, its flags, the
    // filter, the length of its properties, the dictionary, zeros, the checksum.
    let mut bytes = DEBUG_DATA.to_vec();
    let end = 12 + usize::from(bytes[12]) * 4;
    let filter = bytes.windows(2).position(|at| at == [0x21, 1]).unwrap();
    let with_dictionary = |size: u8, bytes: &mut [u8]| {
        bytes[filter + 2] = size;
        let mut crc = Crc::new();
        crc.update(&bytes[12..end]);
        bytes[end..end + 4].copy_from_slice(&crc.sum().to_le_bytes());
        inflated(bytes)
    };
    // 16 MiB, 24 MiB, 4 GiB.
    assert!(with_dictionary(24, &mut bytes).is_ok());
    for size in [25, 40] {
        let refused = with_dictionary(size, &mut bytes);
        assert!(matches!(refused, Err(ElfError::Decompress(_))), "{size}");
    }
}

#[test]
fn a_file_full_of_what_begins_a_go_table_is_soon_given_up() {
    let mut data = [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8].repeat(1 << 20);
    data.extend(go_table(0xf1, FUNCTIONS, 0x200, CODE));
    let file = Image::binary().loaded("", &data).without_section_headers();
    assert_eq!(names(&file.file(), &[CODE_OFFSET + 0x100]), [""]);
}

#[test]
fn a_spent_budget_ends_the_search_without_an_error() {
    let mut budget = Budget {
        bytes: 100,
        ..budget()
    };
    let data = vec![0; 1 << 20];
    let file = Image::binary().loaded("", &data).without_section_headers();
    let found = resolve(&file.file(), &[CODE_OFFSET], &mut budget, |_| None);
    assert_eq!(found.unwrap(), [None]);
    assert_eq!(budget.bytes, 100);
}
