//! Names from `.gnu_debugdata`, "mini debug info": an ELF file with a symbol table, compressed by xz.
//!
//! Fedora and openSUSE leave it in stripped files; it names the functions that `.dynsym` does not.

use std::{
    fs::File,
    ops::ControlFlow,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use xz4rust::{DICT_SIZE_MIN, XzDecoder};

use super::{
    super::open_in_root::memory_file, Budget, CHUNK_BYTES, ElfError, Headers, Lookup, read_chunks,
    symbol_table,
};

/// Most bytes that are decompressed of a file. A larger one gives no names.
const MAX_BYTES: u64 = 64 << 20;
/// Largest dictionary, which is in memory beside them: twice what xz declares unless it is told
/// otherwise. A stream that declares a larger one is refused before it is allocated.
const MAX_DICTIONARY_BYTES: usize = 16 << 20;

/// Names what the compressed symbol table of a file names.
pub(super) fn look_up(
    file: &File,
    headers: &Headers,
    budget: &mut Budget,
    lookup: &mut Lookup<'_>,
) -> Result<(), ElfError> {
    let Some(part) = headers.section(".gnu_debugdata") else {
        return Ok(());
    };
    let inner = catch_unwind(AssertUnwindSafe(|| {
        inflate(file, part.offset, part.bytes, budget)
    }))
    .unwrap_or(Err(ElfError::Panicked))?;
    // For the checks: what is wrong with a segment.
    Headers::read(&inner)?;
    symbol_table::look_up_in_copy(&inner, lookup)
}

/// Decompresses a part of a file to a file in memory: at most 64 MiB, with as much as 16 MiB beside
/// it. What follows the first stream is left out.
pub(in crate::profile) fn inflate(
    file: &File,
    offset: u64,
    bytes: u64,
    budget: &mut Budget,
) -> Result<File, ElfError> {
    let inner = memory_file()?;
    let mut decoder = XzDecoder::in_heap_with_alloc_dict_size(DICT_SIZE_MIN, MAX_DICTIONARY_BYTES);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut length = 0;
    let mut ended = false;
    read_chunks(file, offset, bytes, budget, |budget, _, mut chunk| {
        while !chunk.is_empty() {
            let step = decoder
                .decode(chunk, &mut buffer)
                .map_err(ElfError::Decompress)?;
            let produced = step.output_produced();
            budget.spend(produced)?;
            if length + produced as u64 > MAX_BYTES {
                return Err(ElfError::TooLong(MAX_BYTES));
            }
            inner.write_all_at(&buffer[..produced], length)?;
            length += produced as u64;
            ended = step.is_end_of_stream();
            if ended {
                return Ok(ControlFlow::Break(()));
            }
            if !step.made_progress() {
                break;
            }
            chunk = &chunk[step.input_consumed()..];
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if ended {
        Ok(inner)
    } else {
        Err(ElfError::Format(".gnu_debugdata is cut short"))
    }
}
