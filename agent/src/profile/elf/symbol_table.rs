//! Names from `.symtab` and `.dynsym`.
//!
//! blazesym finds them, but it maps the file it is given. So it gets a sparse copy in memory: headers,
//! symbol tables and their strings, each at its place. A symbol of `.dynsym` without a size names its
//! own address only, one of `.symtab` all up to the next symbol.

use std::{
    fs::File,
    ops::ControlFlow,
    os::{fd::AsRawFd, unix::fs::FileExt},
    panic::{AssertUnwindSafe, catch_unwind},
};

use blazesym::symbolize::{
    Input, Symbolized, Symbolizer,
    source::{Elf, Source},
};

use super::{
    super::open_in_root::memory_file, Budget, ElfError, Headers, Lookup, SHDR_BYTES, read_chunks,
    u16_at, u32_at, u64_at,
};

/// Largest copy of one file, bytes: symbol tables and strings. A table that does not fit is left out.
const MAX_COPY_BYTES: u64 = 64 << 20;

const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;

/// Names what the symbol tables of a file name.
pub(super) fn look_up(
    file: &File,
    headers: &Headers,
    budget: &mut Budget,
    lookup: &mut Lookup<'_>,
) -> Result<(), ElfError> {
    if headers.section_parts().any(|part| is_table(part.kind)) {
        look_up_in_copy(&sparse_copy(file, headers, budget)?, lookup)
    } else {
        Ok(())
    }
}

/// Does what [`look_up`] does in a file that nobody else can change; it is mapped.
pub(super) fn look_up_in_copy(copy: &File, lookup: &mut Lookup<'_>) -> Result<(), ElfError> {
    let source = Source::Elf(Elf {
        debug_syms: false,
        ..Elf::new(format!("/proc/self/fd/{}", copy.as_raw_fd()))
    });
    let symbolizer = Symbolizer::builder()
        .enable_auto_reload(false)
        .enable_code_info(false)
        .enable_inlined_fns(false)
        .enable_demangling(false)
        .build();
    lookup.batches(|addresses, found| {
        catch_unwind(AssertUnwindSafe(|| {
            let symbols = symbolizer
                .symbolize(&source, Input::VirtOffset(addresses))
                .map_err(ElfError::Symbolize)?;
            for (index, symbol) in symbols.iter().enumerate() {
                if let Symbolized::Sym(symbol) = symbol {
                    found(index, &symbol.name);
                }
            }
            Ok(())
        }))
        .unwrap_or(Err(ElfError::Panicked))
    })
}

fn is_table(kind: u32) -> bool {
    matches!(kind, SHT_SYMTAB | SHT_DYNSYM)
}

/// Copies headers and symbol tables to a file in memory.
fn sparse_copy(file: &File, headers: &Headers, budget: &mut Budget) -> Result<File, ElfError> {
    let copy = memory_file()?;
    let mut sections = headers.sections.clone();
    let mut room = MAX_COPY_BYTES.min(budget.bytes);
    let mut copy_section = |index: usize, room: &mut u64| {
        let Some(bytes) = section_bytes(headers, index).filter(|bytes| bytes <= room) else {
            return Ok(());
        };
        *room -= bytes;
        let offset = u64_at(&headers.sections, index * SHDR_BYTES + 24);
        read_chunks(file, offset, bytes, budget, |_, offset, chunk| {
            copy.write_all_at(chunk, offset)?;
            Ok(ControlFlow::Continue(()))
        })
    };
    copy_section(usize::from(u16_at(&headers.file, 62)), &mut room)?;
    for (index, table) in headers.section_parts().enumerate() {
        if !is_table(table.kind) {
            continue;
        }
        let at = index * SHDR_BYTES;
        let strings = usize::try_from(u32_at(&sections, at + 40)).unwrap_or(usize::MAX);
        let whole = section_bytes(headers, index)
            .zip(section_bytes(headers, strings))
            .is_some_and(|(table, strings)| table.saturating_add(strings) <= room);
        if whole {
            copy_section(index, &mut room)?;
            copy_section(strings, &mut room)?;
        } else {
            // Empty, so that nobody takes the hole for symbols.
            sections[at + 32..at + 40].fill(0);
        }
    }
    // Without its name: blazesym refuses a whole file for compressed symbols that it cannot read.
    if let Some(index) = headers.section_index(".gnu_debugdata") {
        sections[index * SHDR_BYTES..][..4].fill(0);
    }
    copy.write_all_at(&headers.file, 0)?;
    copy.write_all_at(&headers.segments, u64_at(&headers.file, 32))?;
    copy.write_all_at(&sections, u64_at(&headers.file, 40))?;
    Ok(copy)
}

/// The size of a section that lies within the file.
fn section_bytes(headers: &Headers, index: usize) -> Option<u64> {
    let part = headers.section_parts().nth(index)?;
    headers.has(part.offset, part.bytes).then_some(part.bytes)
}
