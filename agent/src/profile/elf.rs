//! Names of functions from what an ELF file, or its debug file, says about them.
//!
//! | source | of | found by |
//! |---|---|---|
//! | [`symbol_table`] | `.symtab`, `.dynsym` | their sections |
//! | [`debug_data`] | stripped files of Fedora and its kin | `.gnu_debugdata`: a compressed ELF file with a symbol table |
//! | [`debug_file`] | files whose debug package is installed in the container | the build id, else `.gnu_debuglink` |
//! | [`go`] | stripped Go programs | `.gopclntab`, which every Go program has |
//!
//! A source is asked for what those before it did not name, so a symbol table goes before all else.
//! Addresses are looked up as the file's own virtual addresses, because offsets differ between a file
//! and its debug file. DWARF is read for inlined functions alone ([`inlined`]).
//!
//! Everything is hostile: it is read with `read` and never mapped, because a container that truncates
//! a file while it is mapped kills the reader with SIGBUS. Sizes are bounded for a file and, by the
//! [`Budget`], for a profile. What is made of a file is dropped when the file is done.

use std::{fs::File, io, mem, ops::ControlFlow, os::unix::fs::FileExt, sync::Arc, time::Instant};

mod debug_data;
mod debug_file;
mod go;
mod headers;
pub(super) mod inlined;
#[cfg(test)]
mod made;
mod objects;
mod symbol_table;
#[cfg(test)]
mod tests;

use self::headers::Headers;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use self::{debug_data::inflate, go::Table};
pub(super) use self::{debug_file::DebugFiles, headers::build_id_of, objects::Objects};

/// Bytes read at a time, between two looks at the clock: whole words and whole relocations.
const CHUNK_BYTES: usize = 240 << 10;

/// Addresses looked up between two looks at the clock: a table in which millions of symbols begin at
/// one address makes each of them cost milliseconds.
const BATCH: usize = 16;

pub(super) const EHDR_BYTES: usize = 64;
pub(super) const PHDR_BYTES: usize = 56;
pub(super) const SHDR_BYTES: usize = 64;
pub(super) const PT_LOAD: u32 = 1;

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
    /// The symbolizer or the decompressor panicked.
    #[error("the symbolizer panicked")]
    Panicked,
    /// Its compressed symbols are broken, or need more memory than they get.
    #[error("cannot decompress .gnu_debugdata")]
    Decompress(#[source] xz4rust::XzError),
    /// Something in it is larger than is kept of that.
    #[error("more than {0} bytes of symbols or debug information")]
    TooLong(u64),
    /// Its DWARF is broken.
    #[error("broken DWARF")]
    Dwarf(#[from] gimli::Error),
    /// The budget has no bytes or no time left.
    #[error("the budget of the profile is spent")]
    Spent,
}

/// What may be spent on the files of a profile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Bytes that may still be read or decompressed; symbol tables that exceed it are left out.
    pub(super) bytes: u64,
    /// When to stop: addresses not looked up by then have no name.
    pub(super) deadline: Instant,
}

impl Budget {
    /// Whether all was looked for that is there.
    pub(super) fn is_left(&self) -> bool {
        self.bytes > 0 && Instant::now() < self.deadline
    }
}

impl Budget {
    /// Takes bytes that are about to be read or written.
    fn spend(&mut self, bytes: usize) -> Result<(), ElfError> {
        let left = self.bytes.checked_sub(bytes as u64);
        let left = left.filter(|_| Instant::now() < self.deadline);
        self.bytes = left.ok_or(ElfError::Spent)?;
        Ok(())
    }
}

/// Finds the functions at offsets into a file, `None` where there is none.
///
/// `keep` makes the name to keep of each function, which is as it stands in the file: mangled, and of
/// any length. No other file is opened.
pub(super) fn resolve(
    file: &File,
    offsets: &[u64],
    budget: &mut Budget,
    mut keep: impl FnMut(&str) -> Option<Arc<str>>,
) -> Result<Vec<Option<Arc<str>>>, ElfError> {
    search(file, None, offsets, budget, &mut keep)
}

/// Does what [`resolve`] does, and looks for the debug file of a binary as well.
pub(super) fn resolve_with(
    file: &File,
    debug_files: DebugFiles<'_>,
    offsets: &[u64],
    budget: &mut Budget,
    mut keep: impl FnMut(&str) -> Option<Arc<str>>,
) -> Result<Vec<Option<Arc<str>>>, ElfError> {
    search(file, Some(debug_files), offsets, budget, &mut keep)
}

/// Asks all sources in turn. One that is broken costs its own names only; it is an error when no
/// other has any.
fn search(
    file: &File,
    debug_files: Option<DebugFiles<'_>>,
    offsets: &[u64],
    budget: &mut Budget,
    keep: &mut dyn FnMut(&str) -> Option<Arc<str>>,
) -> Result<Vec<Option<Arc<str>>>, ElfError> {
    let headers = Headers::read(file)?;
    let pending = offsets.iter().enumerate();
    let mut lookup = Lookup {
        pending: pending
            .filter_map(|(index, &offset)| Some((index, headers.address_of(offset)?)))
            .collect(),
        names: vec![None; offsets.len()],
        deadline: budget.deadline,
        keep,
    };
    let mut failed = symbol_table::look_up(file, &headers, budget, &mut lookup).err();
    if !lookup.pending.is_empty() {
        let result = debug_data::look_up(file, &headers, budget, &mut lookup);
        failed = failed.or(result.err());
    }
    if let Some(debug_files) = debug_files
        && !lookup.pending.is_empty()
    {
        let result = debug_file::look_up(file, &headers, debug_files, budget, &mut lookup);
        failed = failed.or(result.err());
    }
    if !lookup.pending.is_empty() {
        let result = go::look_up(file, &headers, budget, &mut lookup);
        failed = failed.or(result.err());
    }
    match failed {
        Some(error)
            if !matches!(error, ElfError::Spent) && lookup.names.iter().all(Option::is_none) =>
        {
            Err(error)
        }
        _ => Ok(lookup.names),
    }
}

/// Addresses and their names.
struct Lookup<'a> {
    /// Virtual addresses that are not found yet, with their places in `names`.
    pending: Vec<(usize, u64)>,
    names: Vec<Option<Arc<str>>>,
    deadline: Instant,
    keep: &'a mut dyn FnMut(&str) -> Option<Arc<str>>,
}

impl Lookup<'_> {
    /// Looks pending addresses up, [`BATCH`] at a time until the deadline. `find` gets addresses, and
    /// calls back with the index and the name of each that it finds.
    fn batches(
        &mut self,
        mut find: impl FnMut(&[u64], &mut dyn FnMut(usize, &str)) -> Result<(), ElfError>,
    ) -> Result<(), ElfError> {
        let mut result = Ok(());
        for batch in mem::take(&mut self.pending).chunks(BATCH) {
            if result.is_ok() && Instant::now() >= self.deadline {
                result = Err(ElfError::Spent);
            }
            let mut found = [false; BATCH];
            if result.is_ok() {
                let addresses: Vec<u64> = batch.iter().map(|&(_, address)| address).collect();
                result = find(&addresses, &mut |index, name| {
                    self.names[batch[index].0] = (self.keep)(name);
                    found[index] = true;
                });
            }
            let missing = batch.iter().zip(found).filter(|&(_, found)| !found);
            self.pending.extend(missing.map(|(pending, _)| *pending));
        }
        result
    }
}

/// Reads a part of a file, [`CHUNK_BYTES`] at a time, until `each` breaks off. `each` gets the offset
/// of a chunk within the file.
fn read_chunks(
    file: &File,
    mut offset: u64,
    bytes: u64,
    budget: &mut Budget,
    mut each: impl FnMut(&mut Budget, u64, &[u8]) -> Result<ControlFlow<()>, ElfError>,
) -> Result<(), ElfError> {
    let mut left = bytes;
    let mut buffer =
        vec![0; usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES))];
    while left > 0 {
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let chunk = &mut buffer[..wanted];
        budget.spend(wanted)?;
        file.read_exact_at(chunk, offset)?;
        if each(budget, offset, chunk)?.is_break() {
            break;
        }
        offset = offset.saturating_add(wanted as u64);
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
