//! Fuzz targets: what a container's processes are named by, all of it written by the container.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use ctrscope_ebpf::unwind::{GAP, INFO_BITS, PAGE_MASK, UNSUPPORTED, WIDE, kind, row};

use super::{
    demangle::demangle,
    elf::{self, Budget, ElfError},
    frame_name::{INLINED_SUFFIX, JIT_SUFFIX, KERNEL_SUFFIX, MAX_FRAME_BYTES, clean},
    kallsyms, maps,
    open_in_root::memory_file,
    perf_map, process, python,
    unwind::{UnwindTable, lookup},
};
use crate::fuzz::{Target, text};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("profile_maps", mappings),
    Target::new("profile_process", stat),
    Target::new("profile_kallsyms", kernel_symbols),
    Target::new("profile_perf_map", perf_map),
    Target::new("profile_symbol", symbol),
    Target::new("profile_elf", elf_file),
    Target::new("profile_debug_data", debug_data),
    Target::new("profile_inlined", inlined),
    Target::new("profile_go_table", go_table),
    Target::new("profile_unwind_table", unwind_table),
    Target::new("profile_python", python::fuzz::process),
    Target::new("profile_python_lines", python::fuzz::lines),
];

/// Addresses that are looked up, in order: the least, the greatest, and what begins a seed's entries.
const ADDRESSES: [u64; 6] = [0, 1, 0x1000, 0x7f_1000, 0xffff_ffff_8100_0110, u64::MAX];

/// Addresses of the functions in the tables of Go.
const GO_ADDRESSES: [u64; 3] = [0x50_0100, 0x50_0180, 0x50_01c0];

/// Most bytes that a target reads and makes of its input.
const MAX_BYTES: u64 = 1 << 20;

/// `/proc/PID/maps`.
fn mappings(bytes: &[u8]) {
    let file = text(bytes);
    let mappings = maps::parse(&file);
    assert!(mappings.len() <= file.lines().count());
    for mapping in &mappings {
        let module = mapping.module();
        assert!(!module.is_empty() && !module.contains('/') && !module.contains('\n'));
        assert!(mapping.bytes() > 0 && (!mapping.is_file() || mapping.inode != 0));
    }
    for address in ADDRESSES {
        if let Some(found) = maps::find(&mappings, address) {
            assert!((found.start..found.end).contains(&address));
        }
    }
}

/// `/proc/PID/stat` and `status`.
fn stat(bytes: &[u8]) {
    let file = text(bytes);
    if let Some((ticks, _)) = process::parse_beginning(&file) {
        assert!(file.contains(&ticks.to_string()));
    }
    assert!(process::own_pid(&file).is_none() || file.contains("NSpid:"));
}

/// `/proc/kallsyms`.
fn kernel_symbols(bytes: &[u8]) {
    let file = text(bytes);
    if let Ok(names) = kallsyms::resolve(bytes, &ADDRESSES) {
        assert_eq!(names.len(), ADDRESSES.len());
        for name in names.into_iter().flatten() {
            assert!(!name.is_empty() && !name.contains([' ', '\t', '\n']));
            assert!(file.contains(&name));
        }
    }
}

/// The file of a just-in-time compiler.
fn perf_map(bytes: &[u8]) {
    let Ok(names) = perf_map::resolve(bytes, &ADDRESSES, Instant::now() + Duration::from_secs(60))
    else {
        panic!("a slice can be read");
    };
    assert_eq!(names.len(), ADDRESSES.len());
    for name in names.into_iter().flatten() {
        assert!(!name.is_empty() && !name.contains('\n'));
        assert_frame(&clean(&name));
    }
}

/// A symbol, demangled and made safe.
fn symbol(bytes: &[u8]) {
    let name = text(bytes);
    assert_frame(&clean(&name));
    let demangled = demangle(&name);
    assert!(demangled.len() <= 8 << 10);
    assert_frame(&clean(&demangled));
}

/// A name that is clean cannot end a frame, a stack or a line, and is taken for nothing but a name.
pub(super) fn assert_frame(name: &str) {
    assert!(!name.is_empty() && name.len() + KERNEL_SUFFIX.len() <= MAX_FRAME_BYTES);
    assert!(!name.contains([';', '\n', '\r', '\t']) && !name.contains(char::is_control));
    assert!(!name.ends_with(KERNEL_SUFFIX) && !name.ends_with(JIT_SUFFIX));
    assert!(!name.ends_with(INLINED_SUFFIX) && !name.starts_with("# "));
    if let Some((_, last)) = name.rsplit_once(' ') {
        assert!(last.parse::<u64>().is_err(), "{name:?} has a count");
    }
    assert_eq!(clean(name), name);
}

/// A file in memory, unless there is no room for it.
fn file_of(bytes: &[u8]) -> Option<File> {
    let file = memory_file().ok()?;
    file.write_all_at(bytes, 0).ok()?;
    Some(file)
}

fn budget() -> Budget {
    Budget {
        bytes: MAX_BYTES,
        deadline: Instant::now() + Duration::from_secs(1),
    }
}

/// An ELF file, of which every name that is found is a part.
fn elf_file(bytes: &[u8]) {
    let Some(file) = file_of(bytes) else {
        return;
    };
    let mut budget = budget();
    let mut longest = 0;
    let found = elf::resolve(&file, &ADDRESSES, &mut budget, |name| {
        longest = longest.max(name.len());
        Some(name.into())
    });
    match found {
        Ok(names) => assert_eq!(names.len(), ADDRESSES.len()),
        // It is caught, and costs the names of the whole file.
        Err(error) => assert!(!matches!(error, ElfError::Panicked)),
    }
    assert!(longest <= bytes.len());
}

/// An ELF file with DWARF: as many functions as there is room for, and no more at an address than are followed.
fn inlined(bytes: &[u8]) {
    const ROOM: usize = 64;
    let Some(file) = file_of(bytes) else {
        return;
    };
    // The seeds have their code in the first page.
    let offsets: Vec<u64> = (0..0x1000).step_by(4).chain(ADDRESSES).collect();
    let mut room = ROOM;
    let keep = |name: &str| Some(name.into());
    let found = elf::inlined::look_up(&file, None, &offsets, &mut budget(), &mut room, keep);
    match found {
        Ok(found) => {
            let lengths = found.of_offsets.values().map(|chain| chain.inlined.len());
            assert!(lengths.sum::<usize>() <= ROOM - room);
            assert!(found.of_offsets.keys().all(|at| offsets.contains(at)));
        }
        // It is caught, and costs the functions of the whole file.
        Err(error) => assert!(!matches!(error, ElfError::Panicked)),
    }
}

/// Compressed symbols, which end when the budget does.
fn debug_data(bytes: &[u8]) {
    let Some(file) = file_of(bytes) else {
        return;
    };
    let mut budget = budget();
    if let Ok(inner) = elf::inflate(&file, 0, bytes.len() as u64, &mut budget) {
        let length = inner.metadata().map_or(0, |metadata| metadata.len());
        let spent = MAX_BYTES - budget.bytes;
        assert!(length <= spent && spent <= length + bytes.len() as u64);
    }
}

/// The function table of a Go program, of which every name that is found is a part.
fn go_table(bytes: &[u8]) {
    let Some(file) = file_of(bytes) else {
        return;
    };
    let Ok(Some(table)) = elf::Table::read(&file, 0, bytes.len() as u64) else {
        return;
    };
    for address in ADDRESSES.into_iter().chain(GO_ADDRESSES) {
        let Ok(name) = table.name_at(address) else {
            panic!("a file in memory can be read");
        };
        if let Some(name) = name {
            assert!(!name.is_empty() && !name.contains('\0'));
            assert!(text(bytes).contains(&name) || name.contains(char::REPLACEMENT_CHARACTER));
        }
    }
}

/// An ELF file, of which a table is made: in order, within the code, and packed as it is.
fn unwind_table(bytes: &[u8]) {
    let Some(file) = file_of(bytes) else {
        return;
    };
    let Ok(table) = UnwindTable::read(&file, Duration::from_secs(1)) else {
        return;
    };
    let rows = &table.rows;
    assert!(rows.is_sorted_by(|a, b| a.pc < b.pc && a.info != b.info));
    assert!(rows.last().is_none_or(|last| last.info == GAP));
    for found in rows {
        let place = u64::from(found.pc);
        // Gaps begin where a function ends, and a page before the first.
        let inside = table
            .segments
            .iter()
            .any(|segment| (segment.address..segment.address + segment.bytes).contains(&place));
        assert!(inside || found.info == GAP);
        assert!(kind(found.info) != WIDE || found.info == UNSUPPORTED);
    }
    // Before it in the map is another table.
    let packed = table.pack(1);
    assert_eq!(packed.rows.len(), rows.len());
    let mut map = vec![row(PAGE_MASK, UNSUPPORTED)];
    map.extend(&packed.rows);
    let near = rows
        .iter()
        .take(64)
        .flat_map(|row| [row.pc, row.pc.wrapping_sub(1), row.pc | PAGE_MASK]);
    for pc in near.chain([0, u32::MAX]) {
        let (found, wanted) = (
            lookup::packed(&map, &packed, pc),
            lookup::unpacked(&table, pc),
        );
        let too_wide = found == UNSUPPORTED && wanted >> INFO_BITS != 0;
        assert!(found == wanted || too_wide, "{pc:#x}: {found} {wanted}");
    }
}
