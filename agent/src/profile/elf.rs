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

const EHDR_BYTES: usize = 64;
const PHDR_BYTES: usize = 56;
const SHDR_BYTES: usize = 64;
const PT_LOAD: u32 = 1;
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

/// Finds the functions at offsets into a file, `None` where there is none. Names are as they stand
/// in the file, mangled.
///
/// Bytes copied are taken from `budget_bytes`; tables that exceed it are left out.
pub(super) fn resolve(
    file: &File,
    offsets: &[u64],
    budget_bytes: &mut u64,
) -> Result<Vec<Option<String>>, ElfError> {
    let copy = sparse_copy(file, budget_bytes)?;
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
        let symbols = symbolizer
            .symbolize(&source, Input::FileOffset(offsets))
            .map_err(ElfError::Symbolize)?;
        Ok(symbols
            .into_iter()
            .map(|symbol| match symbol {
                Symbolized::Sym(symbol) => Some(symbol.name.into_owned()),
                Symbolized::Unknown(_) => None,
            })
            .collect())
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
        let end = u64_at(segment, 8).checked_add(u64_at(segment, 32));
        if u32_at(segment, 0) == PT_LOAD && end.is_none() {
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

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn resolve_bytes(bytes: &[u8]) -> Result<Vec<Option<String>>, ElfError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        resolve(&file, &[0, 0x1000, u64::MAX], &mut (1 << 30))
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
                let _ = resolve(&file, &[0, 0x1000, u64::MAX], &mut (1 << 30));
            }
        }
    }

    #[test]
    fn a_spent_budget_copies_no_table() {
        let file = File::open("/proc/self/exe").unwrap();
        let mut budget = 0;
        let found = resolve(&file, &[0x1000], &mut budget);
        assert!(found.map_or(true, |names| names == [None]));
        assert_eq!(budget, 0);
    }
}
