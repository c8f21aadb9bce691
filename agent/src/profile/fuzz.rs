//! Fuzz targets: what a container's processes are named by, all of it written by the container.

use std::{
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use super::{
    demangle::demangle,
    elf::{self, Budget, ElfError},
    frame_name::{JIT_SUFFIX, KERNEL_SUFFIX, MAX_FRAME_BYTES, clean},
    kallsyms, maps,
    open_in_root::memory_file,
    perf_map, process,
};
use crate::fuzz::{Target, text};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("profile_maps", mappings),
    Target::new("profile_process", stat),
    Target::new("profile_kallsyms", kernel_symbols),
    Target::new("profile_perf_map", perf_map),
    Target::new("profile_symbol", symbol),
    Target::new("profile_elf", elf_file),
];

/// Addresses that are looked up, in order: the least, the greatest, and what begins a seed's entries.
const ADDRESSES: [u64; 6] = [0, 1, 0x1000, 0x7f_1000, 0xffff_ffff_8100_0110, u64::MAX];

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
    if let Some(ticks) = process::parse_start_ticks(&file) {
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
    let Ok(names) = perf_map::resolve(bytes, &ADDRESSES) else {
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
fn assert_frame(name: &str) {
    assert!(!name.is_empty() && name.len() + KERNEL_SUFFIX.len() <= MAX_FRAME_BYTES);
    assert!(!name.contains([';', '\n', '\r', '\t']) && !name.contains(char::is_control));
    assert!(!name.ends_with(KERNEL_SUFFIX) && !name.ends_with(JIT_SUFFIX));
    assert!(!name.starts_with("# "));
    if let Some((_, last)) = name.rsplit_once(' ') {
        assert!(last.parse::<u64>().is_err(), "{name:?} has a count");
    }
    assert_eq!(clean(name), name);
}

/// An ELF file, of which every name that is found is a part.
fn elf_file(bytes: &[u8]) {
    let Ok(file) = memory_file() else {
        return;
    };
    if file.write_all_at(bytes, 0).is_err() {
        return;
    }
    let mut budget = Budget {
        bytes: 1 << 20,
        deadline: Instant::now() + Duration::from_secs(1),
    };
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
