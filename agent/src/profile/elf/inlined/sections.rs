//! The sections of DWARF, read and decompressed.

use std::{
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
    os::unix::fs::FileExt as _,
};

use flate2::read::ZlibDecoder;

use super::super::{
    Budget, CHUNK_BYTES, ElfError, Headers, headers::Part, read_chunks, u32_at, u64_at,
};

/// Most bytes of the sections of a file together, decompressed.
pub(super) const MAX_BYTES: u64 = 128 << 20;

const SHF_COMPRESSED: u64 = 0x800;
const ELFCOMPRESS_ZLIB: u32 = 1;
const CHDR_BYTES: usize = 24;

/// What inlined functions are found by. All but the first two may be empty.
#[derive(Debug)]
pub(super) struct Sections {
    pub(super) info: Vec<u8>,
    pub(super) abbrev: Vec<u8>,
    pub(super) str: Vec<u8>,
    pub(super) str_offsets: Vec<u8>,
    pub(super) line_str: Vec<u8>,
    pub(super) addr: Vec<u8>,
    pub(super) ranges: Vec<u8>,
    pub(super) rnglists: Vec<u8>,
    pub(super) line: Vec<u8>,
}

impl Sections {
    /// Reads those of a file; `None` where it has none, or none that can be decompressed.
    ///
    /// # Errors
    ///
    /// [`ElfError::TooLong`] where they are more than is kept, [`ElfError::Spent`].
    pub(super) fn read(
        file: &File,
        headers: &Headers,
        budget: &mut Budget,
    ) -> Result<Option<Self>, ElfError> {
        let mut room = MAX_BYTES;
        let mut read = |name| match headers.section(name) {
            Some(part) => read_section(file, part, &mut room, budget),
            None => Ok(None),
        };
        let Some(info) = read(".debug_info")? else {
            return Ok(None);
        };
        let Some(abbrev) = read(".debug_abbrev")? else {
            return Ok(None);
        };
        let mut read = |name| Ok::<_, ElfError>(read(name)?.unwrap_or_default());
        Ok(Some(Self {
            info,
            abbrev,
            str: read(".debug_str")?,
            str_offsets: read(".debug_str_offsets")?,
            line_str: read(".debug_line_str")?,
            addr: read(".debug_addr")?,
            ranges: read(".debug_ranges")?,
            rnglists: read(".debug_rnglists")?,
            line: read(".debug_line")?,
        }))
    }
}

/// Reads a section that lies within the file; `None` where it is compressed by something else than zlib, or wrongly.
fn read_section(
    file: &File,
    part: Part,
    room: &mut u64,
    budget: &mut Budget,
) -> Result<Option<Vec<u8>>, ElfError> {
    let mut take = |bytes: u64| {
        *room = room
            .checked_sub(bytes)
            .ok_or(ElfError::TooLong(MAX_BYTES))?;
        Ok::<_, ElfError>(Vec::with_capacity(usize::try_from(bytes).unwrap_or(0)))
    };
    if part.flags & SHF_COMPRESSED == 0 {
        let mut all = take(part.bytes)?;
        read_chunks(file, part.offset, part.bytes, budget, |_, _, chunk| {
            all.extend_from_slice(chunk);
            Ok(ControlFlow::Continue(()))
        })?;
        return Ok(Some(all));
    }
    let Some(left) = part.bytes.checked_sub(CHDR_BYTES as u64) else {
        return Ok(None);
    };
    let mut header = [0; CHDR_BYTES];
    file.read_exact_at(&mut header, part.offset)?;
    if u32_at(&header, 0) != ELFCOMPRESS_ZLIB {
        return Ok(None);
    }
    let whole = u64_at(&header, 8);
    let mut all = take(whole)?;
    let offset = part.offset + CHDR_BYTES as u64;
    let mut decoder = ZlibDecoder::new(Compressed { file, offset, left });
    loop {
        let wanted = (whole - all.len() as u64).min(CHUNK_BYTES as u64);
        budget.spend(CHUNK_BYTES)?;
        match decoder.by_ref().take(wanted).read_to_end(&mut all) {
            Err(_) => return Ok(None),
            Ok(0) => return Ok(Some(all)),
            Ok(_) => {}
        }
    }
}

/// The compressed bytes of a section.
struct Compressed<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Compressed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
