//! Names of functions from the symbol tables of an ELF file.
//!
//! blazesym finds them, but it maps the file it is given, and a container that truncates a file while
//! it is mapped kills the reader with SIGBUS. So blazesym gets a sparse copy in memory: headers,
//! symbol tables and their strings, each at its place, read with `read` and bounded. The copy and
//! what blazesym builds from it are gone when the file is done, so that memory never holds more than
//! one of them. No other file is opened on account of what is in this one: no debug link, no DWARF,
//! and so no inlined functions.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use blazesym::symbolize::{
    Input, Symbolized, Symbolizer,
    source::{Elf, Source},
};

use super::open_in_root::memory_file;

/// Largest copy of one file, bytes: symbol tables and strings. A table that does not fit is left out.
const MAX_COPY_BYTES: u64 = 64 << 20;
/// Bytes copied at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Addresses looked up between two looks at the clock: a table in which millions of symbols begin at
/// one address makes each of them cost milliseconds.
const BATCH: usize = 16;

pub(super) const EHDR_BYTES: usize = 64;
pub(super) const PHDR_BYTES: usize = 56;
pub(super) const SHDR_BYTES: usize = 64;
pub(super) const PT_LOAD: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;

/// Why a file gave no names.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElfError {
    /// It is no 64-bit ELF file, or a broken one.
    #[error("not a usable 64-bit ELF file: {0}")]
    Format(&'static str),
    /// It could not be read.
    #[error("cannot read an ELF file")]
    Read(#[from] io::Error),
    /// The symbolizer refused it.
    #[error("cannot symbolize an ELF file")]
    Symbolize(#[source] blazesym::Error),
    /// The symbolizer panicked.
    #[error("the symbolizer panicked")]
    Panicked,
}

/// What may be spent on the files of a profile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Bytes of tables that may still be copied; tables that exceed it are left out.
    pub(super) bytes: u64,
    /// When to stop: addresses not looked up by then have no name.
    pub(super) deadline: Instant,
}

/// Finds the functions at offsets into a file, `None` where there is none.
///
/// `keep` makes the name to keep of each symbol, which is as it stands in the file: mangled, and of
/// any length.
pub(super) fn resolve(
    file: &File,
    offsets: &[u64],
    budget: &mut Budget,
    mut keep: impl FnMut(&str) -> Option<Arc<str>>,
) -> Result<Vec<Option<Arc<str>>>, ElfError> {
    let copy = sparse_copy(file, &mut budget.bytes)?;
    let source = Source::Elf(Elf {
        debug_syms: false,
        ..Elf::new(format!("/proc/self/fd/{}", copy.as_raw_fd()))
    });
    catch_unwind(AssertUnwindSafe(|| {
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            .enable_code_info(false)
            .enable_inlined_fns(false)
            .enable_demangling(false)
            .build();
        let mut names = Vec::with_capacity(offsets.len());
        for batch in offsets.chunks(BATCH) {
            if Instant::now() >= budget.deadline {
                break;
            }
            let symbols = symbolizer
                .symbolize(&source, Input::FileOffset(batch))
                .map_err(ElfError::Symbolize)?;
            names.extend(symbols.into_iter().map(|symbol| match symbol {
                Symbolized::Sym(symbol) => keep(&symbol.name),
                Symbolized::Unknown(_) => None,
            }));
        }
        names.resize(offsets.len(), None);
        Ok(names)
    }))
    .unwrap_or(Err(ElfError::Panicked))
}

/// Copies headers and symbol tables to a file in memory.
fn sparse_copy(file: &File, budget_bytes: &mut u64) -> Result<File, ElfError> {
    let length = file.metadata()?.len();
    let mut header = [0; EHDR_BYTES];
    file.read_exact_at(&mut header, 0)?;
    // 64 bits, little endian, version 1.
    if !header.starts_with(b"\x7fELF\x02\x01\x01") {
        return Err(ElfError::Format("other magic, class or byte order"));
    }
    let segments = read_table(file, u64_at(&header, 32), u16_at(&header, 56), PHDR_BYTES)?;
    let mut sections = read_table(file, u64_at(&header, 40), u16_at(&header, 60), SHDR_BYTES)?;
    if usize::from(u16_at(&header, 54)) != PHDR_BYTES
        || usize::from(u16_at(&header, 58)) != SHDR_BYTES
    {
        return Err(ElfError::Format("odd header sizes"));
    }
    for segment in segments.chunks_exact(PHDR_BYTES) {
        // blazesym adds the size in the file to both.
        let (offset, address) = (u64_at(segment, 8), u64_at(segment, 16));
        let size = u64_at(segment, 32);
        let ends = offset.checked_add(size).zip(address.checked_add(size));
        if u32_at(segment, 0) == PT_LOAD && ends.is_none() {
            return Err(ElfError::Format("segment out of range"));
        }
    }

    let copy = memory_file()?;
    let names = usize::from(u16_at(&header, 62));
    let mut room = MAX_COPY_BYTES.min(*budget_bytes);
    let before = room;
    copy_section(file, &copy, &sections, names, length, &mut room)?;
    for index in 0..sections.len() / SHDR_BYTES {
        let at = index * SHDR_BYTES;
        if !matches!(u32_at(&sections, at + 4), SHT_SYMTAB | SHT_DYNSYM) {
            continue;
        }
        let strings = usize::try_from(u32_at(&sections, at + 40)).unwrap_or(usize::MAX);
        let whole = section_bytes(&sections, index, length)
            .zip(section_bytes(&sections, strings, length))
            .is_some_and(|(table, strings)| table.saturating_add(strings) <= room);
        if whole {
            copy_section(file, &copy, &sections, index, length, &mut room)?;
            copy_section(file, &copy, &sections, strings, length, &mut room)?;
        } else {
            // Empty, so that nobody takes the hole for symbols.
            sections[at + 32..at + 40].fill(0);
        }
    }
    *budget_bytes -= before - room;
    copy.write_all_at(&header, 0)?;
    copy.write_all_at(&segments, u64_at(&header, 32))?;
    copy.write_all_at(&sections, u64_at(&header, 40))?;
    Ok(copy)
}

/// Reads a table of headers.
fn read_table(file: &File, offset: u64, count: u16, each: usize) -> Result<Vec<u8>, ElfError> {
    if count == 0 || offset < EHDR_BYTES as u64 {
        return Err(ElfError::Format("no segments or no sections"));
    }
    let mut table = vec![0; usize::from(count) * each];
    file.read_exact_at(&mut table, offset)?;
    Ok(table)
}

/// The size of a section that lies within the file.
fn section_bytes(sections: &[u8], index: usize, length: u64) -> Option<u64> {
    let header = sections.chunks_exact(SHDR_BYTES).nth(index)?;
    let size = u64_at(header, 32);
    let end = u64_at(header, 24).checked_add(size)?;
    (end <= length).then_some(size)
}

/// Copies one section, if it lies within the file and there is room.
fn copy_section(
    file: &File,
    copy: &File,
    sections: &[u8],
    index: usize,
    length: u64,
    room: &mut u64,
) -> Result<(), ElfError> {
    let Some(mut left) = section_bytes(sections, index, length).filter(|size| size <= room) else {
        return Ok(());
    };
    *room -= left;
    let mut offset = u64_at(sections, index * SHDR_BYTES + 24);
    let mut buffer = vec![0; CHUNK_BYTES];
    while left > 0 {
        let wanted = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let chunk = &mut buffer[..wanted];
        file.read_exact_at(chunk, offset)?;
        copy.write_all_at(chunk, offset)?;
        offset += wanted as u64;
        left -= wanted as u64;
    }
    Ok(())
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..at + N)
        .and_then(|bytes| bytes.try_into().ok())
        .unwrap_or([0; N])
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, time::Duration};

    use super::*;

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
}
