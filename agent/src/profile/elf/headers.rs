//! The headers of an ELF file, and what is found by them.

use std::{fs::File, os::unix::fs::FileExt};

use super::{EHDR_BYTES, ElfError, PHDR_BYTES, PT_LOAD, SHDR_BYTES, u16_at, u32_at, u64_at};

/// Most bytes of names of sections; with more, the sections have none.
const MAX_NAME_BYTES: u64 = 1 << 20;
/// Most parts with notes that are looked at for the build id, and most bytes of each.
const MAX_NOTES: usize = 16;
const MAX_NOTE_BYTES: u64 = 4096;
/// Longest build id, bytes.
const MAX_BUILD_ID_BYTES: usize = 64;

const PT_NOTE: u32 = 4;
pub(super) const PF_X: u32 = 1;
const SHT_NOTE: u32 = 7;
const SHT_NOBITS: u32 = 8;
const NT_GNU_BUILD_ID: u32 = 3;

/// Headers of a file, as they stand in it.
#[derive(Debug)]
pub(super) struct Headers {
    pub(super) file: [u8; EHDR_BYTES],
    pub(super) segments: Vec<u8>,
    /// Empty where there are none, or none that can be read.
    pub(super) sections: Vec<u8>,
    /// Names of sections.
    names: Vec<u8>,
    /// Length of the file, bytes.
    pub(super) length: u64,
}

/// A segment or a section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) kind: u32,
    pub(super) flags: u64,
    /// In the file.
    pub(super) offset: u64,
    /// In the memory of a process, less where the file is loaded.
    pub(super) address: u64,
    /// In the file.
    pub(super) bytes: u64,
    align: u64,
}

impl Part {
    /// Where in the file the page begins in which a segment begins.
    pub(super) fn mapped_from(&self) -> u64 {
        let is_usable = self.align.is_power_of_two();
        let mask = if is_usable { self.align - 1 } else { 0 };
        self.offset & !mask
    }

    /// A segment with code.
    #[cfg(test)]
    pub(super) fn code(offset: u64, address: u64, bytes: u64, align: u64) -> Self {
        Self {
            kind: PT_LOAD,
            flags: PF_X.into(),
            offset,
            address,
            bytes,
            align,
        }
    }
}

impl Headers {
    /// Reads the headers of a file: at most 8 MiB, if it has as many segments and sections as it can.
    pub(super) fn read(file: &File) -> Result<Self, ElfError> {
        let length = file.metadata()?.len();
        let mut header = [0; EHDR_BYTES];
        file.read_exact_at(&mut header, 0)?;
        // 64 bits, little endian, version 1.
        if !header.starts_with(b"\x7fELF\x02\x01\x01") {
            return Err(ElfError::Format("other magic, class or byte order"));
        }
        let count = u16_at(&header, 56);
        if count == 0 || usize::from(u16_at(&header, 54)) != PHDR_BYTES {
            return Err(ElfError::Format("no segments"));
        }
        let mut segments = vec![0; usize::from(count) * PHDR_BYTES];
        file.read_exact_at(&mut segments, u64_at(&header, 32))?;
        let mut headers = Self {
            file: header,
            segments,
            sections: Vec::new(),
            names: Vec::new(),
            length,
        };
        for segment in headers.loaded() {
            let (offset, address) = (segment.offset, segment.address);
            let ends = [offset, address].map(|begin| begin.checked_add(segment.bytes));
            if ends.contains(&None) {
                return Err(ElfError::Format("segment out of range"));
            }
        }
        let offset = u64_at(&header, 40);
        let bytes = usize::from(u16_at(&header, 60)) * SHDR_BYTES;
        let sound = offset >= EHDR_BYTES as u64
            && usize::from(u16_at(&header, 58)) == SHDR_BYTES
            && headers.has(offset, bytes as u64);
        if sound {
            headers.sections = vec![0; bytes];
            file.read_exact_at(&mut headers.sections, offset)?;
            let names = usize::from(u16_at(&header, 62));
            let names = headers.section_parts().nth(names);
            if let Some(names) = names
                && names.bytes <= MAX_NAME_BYTES
                && headers.has(names.offset, names.bytes)
            {
                headers.names = vec![0; usize::try_from(names.bytes).unwrap_or(0)];
                file.read_exact_at(&mut headers.names, names.offset)?;
            }
        }
        Ok(headers)
    }

    /// Whether bytes lie within the file.
    pub(super) fn has(&self, offset: u64, bytes: u64) -> bool {
        let end = offset.checked_add(bytes);
        end.is_some_and(|end| end <= self.length)
    }

    fn segment_parts(&self) -> impl Iterator<Item = Part> {
        self.segments.chunks_exact(PHDR_BYTES).map(|header| Part {
            kind: u32_at(header, 0),
            flags: u32_at(header, 4).into(),
            offset: u64_at(header, 8),
            address: u64_at(header, 16),
            bytes: u64_at(header, 32),
            align: u64_at(header, 48),
        })
    }

    /// All sections, those without bytes or out of the file too.
    pub(super) fn section_parts(&self) -> impl Iterator<Item = Part> {
        self.sections.chunks_exact(SHDR_BYTES).map(|header| Part {
            kind: u32_at(header, 4),
            flags: u64_at(header, 8),
            offset: u64_at(header, 24),
            address: u64_at(header, 16),
            bytes: u64_at(header, 32),
            align: u64_at(header, 48),
        })
    }

    /// The segments that are loaded.
    pub(super) fn loaded(&self) -> impl Iterator<Item = Part> {
        self.segment_parts().filter(|part| part.kind == PT_LOAD)
    }

    /// The virtual address of an offset into the file, if it is loaded.
    pub(super) fn address_of(&self, offset: u64) -> Option<u64> {
        self.loaded().find_map(|segment| {
            let inside = offset.checked_sub(segment.offset)?;
            (inside < segment.bytes).then(|| segment.address + inside)
        })
    }

    /// The offset into the file of a virtual address, if it is loaded from there.
    pub(super) fn offset_of(&self, address: u64) -> Option<u64> {
        self.loaded().find_map(|segment| {
            let inside = address.checked_sub(segment.address)?;
            (inside < segment.bytes).then(|| segment.offset + inside)
        })
    }

    /// The number of the first section of a name.
    pub(super) fn section_index(&self, name: &str) -> Option<usize> {
        let mut headers = self.sections.chunks_exact(SHDR_BYTES);
        headers.position(|header| {
            let rest = self.names.get(u32_at(header, 0) as usize..);
            rest.and_then(|rest| rest.strip_prefix(name.as_bytes()))
                .is_some_and(|rest| rest.first() == Some(&0))
        })
    }

    /// The first section of a name, if its bytes lie within the file.
    pub(super) fn section(&self, name: &str) -> Option<Part> {
        self.section_parts()
            .nth(self.section_index(name)?)
            .filter(|part| part.kind != SHT_NOBITS && self.has(part.offset, part.bytes))
    }

    /// The build id. Sections come first: in a debug file the segments are those of the binary, and
    /// their offsets into the file mean nothing.
    pub(super) fn build_id(&self, file: &File) -> Result<Option<Box<[u8]>>, ElfError> {
        let sections = self.section_parts().filter(|part| part.kind == SHT_NOTE);
        let segments = self.segment_parts().filter(|part| part.kind == PT_NOTE);
        let notes = sections.chain(segments);
        let notes = notes.filter(|part| self.has(part.offset, part.bytes));
        for part in notes.take(MAX_NOTES) {
            let bytes = usize::try_from(part.bytes.min(MAX_NOTE_BYTES)).unwrap_or(0);
            let mut notes = vec![0; bytes];
            file.read_exact_at(&mut notes, part.offset)?;
            let build_id = build_id_of(&notes, if part.align == 8 { 8 } else { 4 });
            if build_id.is_some() {
                return Ok(build_id);
            }
        }
        Ok(None)
    }
}

/// The build id among notes, each of whose parts begins at a multiple of `align`.
pub(in crate::profile) fn build_id_of(mut notes: &[u8], align: usize) -> Option<Box<[u8]>> {
    loop {
        let (header, rest) = notes.split_at_checked(12)?;
        let [name_bytes, bytes] = [0, 4].map(|at| u32_at(header, at) as usize);
        let name = rest.get(..name_bytes)?;
        // Lengths are 32 bits and add up on 64.
        let begin = (12 + name_bytes).next_multiple_of(align);
        let content = notes.get(begin..begin + bytes)?;
        if u32_at(header, 8) == NT_GNU_BUILD_ID && name == b"GNU\0" {
            let fits = (1..=MAX_BUILD_ID_BYTES).contains(&bytes);
            return fits.then(|| content.into());
        }
        notes = notes.get((begin + bytes).next_multiple_of(align)..)?;
    }
}
