//! Tables of this program and of files made up byte by byte.

mod hostile;

use std::{os::unix::fs::FileExt as _, path::Path};

use ctrscope_ebpf::unwind::{
    DRAP, END, GAP, PAGE_MASK, PAGE_SHIFT, PLT, RBP, RSP, SIG, UNSUPPORTED, WIDE, info, slot, units,
};

use super::{
    super::maps,
    lookup,
    made::{AT_ENTRY, BUILD_ID, CODE, CODE_BYTES, Cfi, FRAMES_AT, GOT, file},
    *,
};

const LONG: Duration = Duration::from_secs(60);
/// The row of a function that has done nothing yet.
const ENTRY: u32 = info(RSP, 0, 1);
const CODE_PC: u32 = CODE as u32;

fn read(bytes: &[u8]) -> Result<UnwindTable, UnwindError> {
    UnwindTable::read(&file(bytes), LONG)
}

/// The rows of a file, addresses counted from the begin of the code.
fn rows_of(bytes: &[u8]) -> Vec<(u32, u32)> {
    let rows = read(bytes).unwrap().rows;
    rows.iter()
        .map(|row| (row.pc - CODE_PC, row.info))
        .collect()
}

/// The rows of a function of 64 bytes at the begin of the code.
fn rows_of_function(augmentation: &'static str, instructions: &[u8]) -> Vec<(u32, u32)> {
    let mut cfi = Cfi::eh_frame();
    let cie = cfi.cie(augmentation, 0, AT_ENTRY);
    cfi.fde(cie, CODE, 64, instructions);
    rows_of(&cfi.elf())
}

/// The info of a function that has one row.
fn info_of(instructions: &[u8]) -> u32 {
    let rows = rows_of_function("zR", instructions);
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!((rows[0].0, rows[1]), (0, (64, GAP)));
    rows[0].1
}

/// Looks up what the kernel side would, among the rows of other tables.
fn assert_packed_as_unpacked(table: &UnwindTable, addresses: impl IntoIterator<Item = u32>) {
    const BASE: u32 = 5;
    let packed = table.pack(BASE);
    let other = ctrscope_ebpf::unwind::row(0, info(DRAP, 0, 3));
    let mut map = vec![other; BASE as usize];
    map.extend(&packed.rows);
    map.push(other);
    for pc in addresses {
        let found = lookup::packed(&map, &packed, pc);
        assert_eq!(found, lookup::unpacked(table, pc), "at {pc:#x}");
    }
}

#[inline(never)]
fn known_function(of: u64) -> u64 {
    std::hint::black_box(of).wrapping_mul(3)
}

#[test]
fn a_function_of_this_program_has_the_row_of_its_entry() {
    let table = UnwindTable::read(&File::open("/proc/self/exe").unwrap(), LONG).unwrap();
    let address = known_function as *const () as u64;
    let mappings = maps::parse(&std::fs::read_to_string("/proc/self/maps").unwrap());
    let mapping = maps::find(&mappings, address).unwrap();
    let length = mapping.end - mapping.start;
    let bias = table.bias(mapping.start, mapping.offset, length).unwrap();
    let pc = u32::try_from(address - bias).unwrap();
    assert_eq!(known_function(1), 3);
    assert_eq!(lookup::unpacked(&table, pc), ENTRY);
    // It is the beginning of a function: what is before it is none of it.
    assert!(table.rows.iter().any(|row| row.pc == pc) || lookup::unpacked(&table, pc - 1) == ENTRY);

    let of_kind = |wanted| table.rows.iter().filter(move |row| row.kind() == wanted);
    assert!(of_kind(RSP).all(|row| units(row.info) >= 1));
    let frames = of_kind(RBP).count();
    let usual = of_kind(RBP).filter(|row| (slot(row.info), units(row.info)) == (2, 2));
    assert!(frames > 1000 && usual.count() > frames * 9 / 10);
    assert!(table.stats.fde_count > 1000 && table.stats.rows_by_kind[END as usize] > 0);
    assert_eq!(
        table.stats.rows_by_kind.iter().sum::<u32>() as usize,
        table.rows.len()
    );
}

#[test]
fn the_page_index_finds_what_a_search_over_all_rows_finds() {
    let table = UnwindTable::read(&File::open("/proc/self/exe").unwrap(), LONG).unwrap();
    let (first, last) = (table.rows[0].pc, table.rows[table.rows.len() - 1].pc);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let sampled = (0..10_000).map(|_| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        first + u32::try_from(random % u64::from(last - first)).unwrap()
    });
    assert_packed_as_unpacked(&table, sampled);
    let edges = [0, first - 1, first, last - 1, last, last | PAGE_MASK];
    assert_packed_as_unpacked(&table, edges);
    assert_packed_as_unpacked(&table, [(last | PAGE_MASK) + 1, u32::MAX]);
    let begins = table.rows.iter().step_by(7);
    assert_packed_as_unpacked(
        &table,
        begins.flat_map(|row| [row.pc, row.pc.wrapping_sub(1)]),
    );
}

#[test]
fn the_image_of_the_vdso_is_a_file_like_any_other() {
    let mappings = maps::parse(&std::fs::read_to_string("/proc/self/maps").unwrap());
    // A kernel may be without it.
    let Some(vdso) = mappings.iter().find(|mapping| &*mapping.path == "[vdso]") else {
        return;
    };
    let length = vdso.end - vdso.start;
    let mut image = vec![0; usize::try_from(length).unwrap()];
    let memory = File::open("/proc/self/mem").unwrap();
    memory.read_exact_at(&mut image, vdso.start).unwrap();
    let table = read(&image).unwrap();
    assert!(table.stats.fde_count > 0 && table.stats.refused_count == 0);
    assert!(table.rows.iter().any(|row| row.info == ENTRY));
    // Linked at 0 since Linux 3.16.
    assert_eq!(table.bias(vdso.start, 0, length), Some(vdso.start));
}

#[test]
fn libraries_of_this_machine_have_few_rows_that_are_unsupported() {
    for path in ["/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib64/libc.so.6"] {
        if Path::new(path).exists() {
            let table = UnwindTable::read(&File::open(path).unwrap(), LONG).unwrap();
            let unsupported = table.stats.rows_by_kind[WIDE as usize] as usize;
            assert!(table.rows.len() > 10_000 && unsupported < table.rows.len() / 1000);
            assert_eq!(table.stats.rows_by_kind[SIG as usize], 1);
        }
    }
}

#[test]
fn a_prologue_and_an_epilogue_have_their_rows() {
    let rows = rows_of_function(
        "zR",
        &[
            0x41, // push rbp
            0x0e, 16, 0x86, 2, 0x43, // mov rbp, rsp
            0x0d, 6, 0x2e, 16, 0x0a, 0x50, // args_size, remember, return
            0x0c, 7, 8, 0xc6, 0x41, // restore rbp
            0x0b, 0x41,
        ],
    );
    assert_eq!(
        rows,
        [
            (0, ENTRY),
            (1, info(RSP, 2, 2)),
            (4, info(RBP, 2, 2)),
            (20, ENTRY),
            (21, info(RBP, 2, 2)),
            (64, GAP),
        ]
    );
}

#[test]
fn rules_that_a_row_has_room_for_are_told() {
    // Where rbp is: undefined, the same, in the last slot and beyond it, in between, not in the frame.
    assert_eq!(info_of(&[0x07, 6]), ENTRY);
    assert_eq!(info_of(&[0x08, 6]), ENTRY);
    assert_eq!(info_of(&[0x86, 7]), info(RSP, 7, 1));
    assert_eq!(info_of(&[0x86, 8]), UNSUPPORTED);
    assert_eq!(info_of(&[0x09, 6, 3]), UNSUPPORTED);
    assert_eq!(info_of(&[0x14, 6, 2]), UNSUPPORTED);
    assert_eq!(info_of(&[0x16, 6, 2, 0x77, 0]), UNSUPPORTED);
    // A CFA at another register, at an odd place, below rsp.
    assert_eq!(info_of(&[0x0c, 10, 0]), UNSUPPORTED);
    assert_eq!(info_of(&[0x0e, 12]), UNSUPPORTED);
    assert_eq!(info_of(&[0x13, 1]), UNSUPPORTED);
    // The return address somewhere else, or nowhere; rsp that is not the CFA.
    assert_eq!(info_of(&[0x90, 2]), UNSUPPORTED);
    assert_eq!(info_of(&[0x07, 16]), info(END, 0, 0));
    assert_eq!(info_of(&[0x87, 2]), UNSUPPORTED);
}

#[test]
fn known_expressions_have_kinds_of_their_own() {
    let plt = [
        0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22,
    ];
    assert_eq!(info_of(&plt), info(PLT, 0, 11));
    // The word at rbp - 8 is the CFA, rbp is at rbp.
    let drap = [0x0f, 3, 0x76, 0x78, 0x06, 0x10, 6, 2, 0x76, 0];
    assert_eq!(info_of(&drap), info(DRAP, 0, 1));
    let wide_drap = [0x0f, 4, 0x76, 0x80, 0x7d, 0x06, 0x10, 6, 2, 0x76, 0];
    assert_eq!(info_of(&wide_drap), info(DRAP, 0, 48));
    // The word at rsp + 40 is 8 below the CFA, rbp is in a slot.
    let kept = [0x0f, 5, 0x77, 40, 0x06, 0x23, 8, 0x86, 2];
    assert_eq!(info_of(&kept), info(DRAP, 2, 6));
    let below = [0x0f, 5, 0x77, 0x78, 0x06, 0x23, 8, 0x86, 7];
    assert_eq!(info_of(&below), info(DRAP, 7, 0));
    // Almost the same, and not the same.
    assert_eq!(info_of(&kept[..7]), UNSUPPORTED);
    for (at, other) in [(2, 0x76), (3, 0x70), (3, 44), (6, 16), (8, 8)] {
        let mut changed = kept;
        changed[at] = other;
        assert_eq!(info_of(&changed), UNSUPPORTED, "{other} at {at}");
    }
    assert_eq!(info_of(&plt[..12]), UNSUPPORTED);
    assert_eq!(info_of(&[&plt[..], &[0x86, 2]].concat()), UNSUPPORTED);
    assert_eq!(info_of(&drap[..5]), UNSUPPORTED);
    assert_eq!(
        info_of(&[0x0f, 3, 0x76, 8, 0x06, 0x10, 6, 2, 0x76, 0]),
        UNSUPPORTED
    );
    assert_eq!(info_of(&[0x0f, 2, 0x76, 0x06]), UNSUPPORTED);
    assert_eq!(info_of(&[0x0f, 0]), UNSUPPORTED);
}

#[test]
fn a_signal_frame_is_one_where_the_kernel_left_the_registers() {
    // CFA is the word at rsp + 160, the return address is at rsp + 168.
    let glibc = [0x0f, 4, 0x77, 0xa0, 1, 0x06, 0x10, 16, 3, 0x77, 0xa8, 1];
    assert_eq!(rows_of_function("zRS", &glibc)[0], (0, info(SIG, 0, 0)));
    assert_eq!(rows_of_function("zR", &glibc)[0], (0, UNSUPPORTED));
    // rsp + 0 and an offset from it.
    let by_offset = [0x0e, 0, 0x11, 16, 0x6b];
    assert_eq!(rows_of_function("zRS", &by_offset)[0], (0, info(SIG, 0, 0)));
    // Marked, and called like any other.
    assert_eq!(rows_of_function("zRS", &[])[0], (0, ENTRY));
    assert_eq!(rows_of_function("zRS", &[0x90, 3])[0], (0, UNSUPPORTED));
}

#[test]
fn a_frame_of_a_megabyte_has_a_wide_word() {
    // 1 MiB, 1 MiB once more, 2 MiB.
    let rows = rows_of_function(
        "zR",
        &[
            0x0e, 0x80, 0x80, 0x40, 0x44, 0x0e, 8, 0x44, 0x0e, 0x80, 0x80, 0x40, 0x44, 0x0e, 0x80,
            0x80, 0x80, 0x01,
        ],
    );
    let (one, two) = (info(RSP, 0, 1 << 17), info(RSP, 0, 1 << 18));
    assert_eq!(rows, [(0, one), (4, ENTRY), (8, one), (12, two), (64, GAP)]);

    let mut cfi = Cfi::eh_frame();
    let cie = cfi.cie("zR", 0, AT_ENTRY);
    cfi.fde(
        cie,
        CODE,
        64,
        &[0x0e, 0x80, 0x80, 0x40, 0x44, 0x0e, 0x80, 0x80, 0x80, 1],
    );
    let table = read(&cfi.elf()).unwrap();
    let packed = table.pack(0);
    assert_eq!(packed.index[packed.pages as usize + 1..], [one, two]);
    assert_packed_as_unpacked(&table, CODE_PC - 5..CODE_PC + 70);
}

#[test]
fn wide_words_are_bounded() {
    let mut cfi = Cfi::eh_frame();
    let cie = cfi.cie("zR", 0, AT_ENTRY);
    for number in 0..5000_u64 {
        let frame = (1 << 20) + number * 8;
        let leb = [
            0x0e,
            frame as u8 & 0x7f | 0x80,
            (frame >> 7) as u8 | 0x80,
            (frame >> 14) as u8,
        ];
        cfi.fde(cie, CODE + number * 16, 16, &leb);
    }
    let table = read(&cfi.elf()).unwrap();
    let packed = table.pack(0);
    assert_eq!(packed.index.len(), packed.pages as usize + 1 + 4096);
    let look_up = |pc| lookup::packed(&packed.rows, &packed, pc);
    assert_eq!(look_up(CODE_PC + 4095 * 16), info(RSP, 0, (1 << 17) + 4095));
    assert_eq!(look_up(CODE_PC + 4096 * 16), UNSUPPORTED);
}

#[test]
fn what_no_function_covers_is_a_gap_unless_it_is_padding() {
    let mut cfi = Cfi::eh_frame();
    let cie = cfi.cie("zR", 0, AT_ENTRY);
    let framed = [0x0e, 24];
    // Not in order; 15 bytes of padding, 16 bytes of gap, nothing.
    cfi.fde(cie, CODE + 0x500 + 80, 16, AT_ENTRY);
    cfi.fde(cie, CODE + 0x500 + 49, 15, AT_ENTRY);
    cfi.fde(cie, CODE + 0x500, 34, &framed);
    let rows = rows_of(&cfi.elf());
    assert_eq!(
        rows,
        [
            (0x400, GAP),
            (0x500, info(RSP, 0, 3)),
            (0x500 + 49, ENTRY),
            (0x500 + 64, GAP),
            (0x500 + 80, ENTRY),
            (0x500 + 96, GAP),
        ]
    );
    let table = read(&cfi.elf()).unwrap();
    assert_packed_as_unpacked(&table, (0..0x1000).map(|at| CODE_PC - 0x400 + at));
}

#[test]
fn of_functions_that_overlap_the_first_wins() {
    let mut cfi = Cfi::eh_frame();
    let cie = cfi.cie("zR", 0, AT_ENTRY);
    let (two, three, four) = (&[0x0e, 16][..], &[0x0e, 24][..], &[0x0e, 32][..]);
    // One within, one across the end, one at the same address.
    cfi.fde(cie, CODE, 64, &[two, &[0x60], four].concat());
    cfi.fde(cie, CODE + 8, 8, three);
    cfi.fde(cie, CODE + 16, 112, three);
    cfi.fde(cie, CODE, 256, three);
    let rows = rows_of(&cfi.elf());
    assert_eq!(
        rows,
        [
            (0, info(RSP, 0, 2)),
            (32, info(RSP, 0, 4)),
            (64, info(RSP, 0, 3)),
            (256, GAP),
        ]
    );
}

#[test]
fn functions_that_are_nowhere_are_refused() {
    let mut cfi = Cfi::eh_frame();
    let cie = cfi.cie("zR", 0, AT_ENTRY);
    for (start, bytes) in [
        (0, 16),
        (CODE - 1, 16),
        (CODE + CODE_BYTES, 16),
        (CODE, 0),
        (CODE + 16, u64::MAX),
        (CODE + 16, 0_u64.wrapping_sub(CODE + 16)),
        (1 << 32, 16),
        (u64::MAX, 1),
    ] {
        cfi.fde(cie, start, bytes, &[]);
    }
    // Longer than the code: as much as there is.
    cfi.fde(cie, CODE + CODE_BYTES - 16, 1 << 40, &[]);
    let table = read(&cfi.elf()).unwrap();
    assert_eq!((table.stats.fde_count, table.stats.refused_count), (1, 8));
    let end = CODE_PC + CODE_BYTES as u32;
    assert_eq!(table.rows.last().map(|row| row.pc), Some(end));
}

#[test]
fn a_broken_function_costs_itself_alone() {
    let mut cfi = Cfi::eh_frame();
    let broken = cfi.cie("zQ", 0, AT_ENTRY);
    let cie = cfi.cie("zR", 0, AT_ENTRY);
    cfi.fde(broken, CODE, 16, &[]);
    // An unknown instruction; a state that was never remembered, after 4 bytes.
    cfi.fde(cie, CODE + 0x100, 16, &[0x3f]);
    cfi.fde(cie, CODE + 0x200, 16, &[0x44, 0x0b]);
    cfi.fde(cie, CODE + 0x300, 16, &[]);
    let rows = rows_of(&cfi.elf());
    assert_eq!(
        rows,
        [
            (0, GAP),
            (0x100, UNSUPPORTED),
            (0x110, GAP),
            (0x200, ENTRY),
            (0x204, UNSUPPORTED),
            (0x210, GAP),
            (0x300, ENTRY),
            (0x310, GAP),
        ]
    );
}

#[test]
fn pointers_count_from_where_their_encoding_says() {
    // As they are, from the pointer itself, from the code, from the global offset table.
    for encoding in [0x00, 0x1b, 0x2b, 0x3b, 0x10, 0x03] {
        let mut cfi = Cfi::eh_frame();
        let cie = cfi.cie("zR", encoding, AT_ENTRY);
        cfi.fde(cie, CODE + 16, 16, &[]);
        assert_eq!(
            rows_of(&cfi.elf()),
            [(0, GAP), (16, ENTRY), (32, GAP)],
            "{encoding:#x}"
        );
    }
    // The address of an address: not followed.
    let mut cfi = Cfi::eh_frame();
    let cie = cfi.cie("zR", 0x9b, AT_ENTRY);
    cfi.fde(cie, GOT, 16, &[]);
    assert!(read(&cfi.elf()).unwrap().rows.is_empty());
}

fn functions(mut cfi: Cfi, augmentation: &'static str) -> Cfi {
    let cie = cfi.cie(augmentation, 0x1b, AT_ENTRY);
    for number in 0..40_u8 {
        let frame = [
            0x41,
            0x0e,
            16 + number % 10 * 8,
            0x86,
            2,
            0x0a,
            0x48,
            0x0e,
            8,
            0x44,
            0x0b,
        ];
        cfi.fde(cie, CODE + u64::from(number) * 64, 48, &frame);
    }
    cfi
}

#[test]
fn a_file_without_section_headers_has_the_same_table() {
    let cfi = functions(Cfi::eh_frame(), "zR");
    let rows = rows_of(&cfi.elf());
    assert!(rows.len() > 100);
    assert_eq!(rows_of(&cfi.elf_without_sections()), rows);
    // What is behind the terminator is no frame information then.
    let mut ended = functions(Cfi::eh_frame(), "zR");
    ended.bytes.extend([0; 4]);
    let cie = ended.cie("zR", 0x1b, AT_ENTRY);
    ended.fde(cie, CODE + 0x1_0000, 16, &[]);
    assert_eq!(rows_of(&ended.elf_without_sections()), rows);
    // There it is a function more, and a gap.
    assert_eq!(rows_of(&ended.elf()).len(), rows.len() + 2);
}

#[test]
fn debug_frame_is_read_where_there_is_no_other_compressed_or_not() {
    let cfi = functions(Cfi::debug_frame(), "");
    let rows = rows_of(&functions(Cfi::eh_frame(), "zR").elf());
    assert_eq!(rows_of(&cfi.elf()), rows);
    let whole = cfi.bytes.len() as u64;
    assert_eq!(rows_of(&cfi.compressed_elf(whole)), rows);
    // As much as it says, and no more; nothing when it says more than is allowed.
    assert!(rows_of(&cfi.compressed_elf(whole / 2)).len() < rows.len());
    let bomb = read(&cfi.compressed_elf(MAX_CFI_BYTES + 1));
    assert!(matches!(bomb, Err(UnwindError::TooLong(_))));
    let mut broken = cfi.compressed_elf(whole);
    broken[FRAMES_AT + 24..FRAMES_AT + 40].fill(0xff);
    assert!(read(&broken).unwrap().rows.is_empty());
}

#[test]
fn the_build_id_and_the_segments_of_code_are_told() {
    let table = read(&functions(Cfi::eh_frame(), "zR").elf()).unwrap();
    assert_eq!(table.build_id.as_deref(), Some(&BUILD_ID[..]));
    assert_eq!(table.segments.len(), 1);
    assert_eq!(table.segments[0].address, CODE);
}

#[test]
fn the_bias_is_that_of_the_segment_of_code() {
    // As lld lays out: the page at 0x1000 is in both, and the second is moved by a page.
    let segment = |offset, bytes, address| Segment {
        offset,
        bytes,
        address,
    };
    let table = |segments: &[Segment]| UnwindTable {
        rows: Vec::new(),
        segments: segments.into(),
        build_id: None,
        stats: Stats::default(),
    };
    let one = table(&[segment(0x1230, 0x800, 0x2230)]);
    assert_eq!(one.bias(0x7f00_0000, 0x1000, 0x1000), Some(0x7eff_e000));
    assert_eq!(one.bias(0x7f00_0000, 0x2000, 0x1000), None);
    assert_eq!(one.bias(0x7f00_0000, 0, 0x1000), None);
    assert_eq!(one.bias(u64::MAX, u64::MAX, u64::MAX), None);
    // A program at a fixed address; two segments, of which the mapping has a page of the other.
    let fixed = table(&[segment(0x1000, 0x1000, 0x40_1000)]);
    assert_eq!(fixed.bias(0x40_1000, 0x1000, 0x1000), Some(0));
    let two = table(&[
        segment(0x1000, 0x1100, 0x1000),
        segment(0x2100, 0x1000, 0x3100),
    ]);
    assert_eq!(two.bias(0x1_0000, 0x1000, 0x2000), Some(0xf000));
    assert_eq!(two.bias(0x1_2000, 0x2000, 0x2000), Some(0xf000));
    assert_eq!(table(&[]).bias(0, 0, 1), None);
}
