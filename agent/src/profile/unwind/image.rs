//! The parts of an ELF file that unwinding needs, each read at its place and bounded.

use std::{fs::File, io::Read as _, os::unix::fs::FileExt as _};

use flate2::bufread::ZlibDecoder;
use gimli::{BaseAddresses, EhFrameHdr, LittleEndian};

use super::{
    Clock, MAX_CFI_BYTES, PAGE_BYTES, Segment, UnwindError,
    elf::{EHDR_BYTES, PHDR_BYTES, PT_LOAD, SHDR_BYTES, build_id_of, u16_at, u32_at, u64_at},
};

/// Bytes read at a time, between two looks at the clock.
const CHUNK_BYTES: usize = 1 << 20;
/// Most bytes of names of sections; with more, the sections have none.
const MAX_NAME_BYTES: u64 = 1 << 20;
/// Most executable segments; what exceeds them is left out.
const MAX_SEGMENTS: usize = 64;
/// Most segments of notes that are looked at for the build id, and most bytes of each.
const MAX_NOTES: usize = 16;
const MAX_NOTE_BYTES: u64 = 4096;
/// Bytes of `.eh_frame_hdr` that lead to `.eh_frame`: four bytes and two pointers.
const EH_FRAME_HDR_BYTES: u64 = 20;
const CHDR_BYTES: usize = 24;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const SHT_NOBITS: u32 = 8;
const SHF_COMPRESSED: u64 = 0x800;
const ELFCOMPRESS_ZLIB: u32 = 1;

/// In which form call frame information is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    EhFrame,
    DebugFrame,
}

/// Call frame information and what its pointers count from.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
    /// Whether an entry of length 0 ends it; else its length is known.
    pub(super) terminated: bool,
    /// Virtual address of the bytes.
    pub(super) address: u64,
    pub(super) text_address: Option<u64>,
    pub(super) got_address: Option<u64>,
}

/// A program header.
#[derive(Debug)]
struct Program {
    kind: u32,
    flags: u32,
    place: Segment,
    align: u64,
}

/// A section header.
#[derive(Debug)]
struct Section {
    name: u32,
    kind: u32,
    flags: u64,
    place: Segment,
}

/// An open ELF file.
pub(super) struct Image<'a> {
    file: &'a File,
    length: u64,
    clock: Clock,
    programs: Vec<Program>,
    sections: Vec<Section>,
    names: Vec<u8>,
}

impl<'a> Image<'a> {
    /// Reads the headers. Section headers that make no sense are as good as none.
    pub(super) fn open(file: &'a File, clock: Clock) -> Result<Self, UnwindError> {
        let length = file.metadata()?.len();
        if length < EHDR_BYTES as u64 {
            return Err(UnwindError::Format("cut short"));
        }
        let mut header = [0; EHDR_BYTES];
        file.read_exact_at(&mut header, 0)?;
        // 64 bits, little endian, version 1.
        if !header.starts_with(b"\x7fELF\x02\x01\x01") {
            return Err(UnwindError::Format("other magic, class or byte order"));
        }
        if u16_at(&header, 18) != EM_X86_64 {
            return Err(UnwindError::Format("other machine"));
        }
        if !matches!(u16_at(&header, 16), ET_EXEC | ET_DYN) {
            return Err(UnwindError::Format("neither program nor library"));
        }
        if usize::from(u16_at(&header, 54)) != PHDR_BYTES || u16_at(&header, 56) == 0 {
            return Err(UnwindError::Format("no segments"));
        }
        let mut image = Self {
            file,
            length,
            clock,
            programs: Vec::new(),
            sections: Vec::new(),
            names: Vec::new(),
        };
        let table = u64::from(u16_at(&header, 56)) * PHDR_BYTES as u64;
        let table = image.read(u64_at(&header, 32), table)?;
        image.programs = table.chunks_exact(PHDR_BYTES).map(program).collect();
        image.read_sections(&header)?;
        Ok(image)
    }

    fn read_sections(&mut self, header: &[u8]) -> Result<(), UnwindError> {
        let offset = u64_at(header, 40);
        let bytes = u64::from(u16_at(header, 60)) * SHDR_BYTES as u64;
        if offset == 0 || usize::from(u16_at(header, 58)) != SHDR_BYTES || !self.has(offset, bytes)
        {
            return Ok(());
        }
        let table = self.read(offset, bytes)?;
        self.sections = table.chunks_exact(SHDR_BYTES).map(section).collect();
        let names = self.sections.get(usize::from(u16_at(header, 62)));
        if let Some(Segment { offset, bytes, .. }) = names.map(|names| names.place)
            && bytes <= MAX_NAME_BYTES
            && self.has(offset, bytes)
        {
            self.names = self.read(offset, bytes)?;
        }
        Ok(())
    }

    pub(super) fn clock(&mut self) -> &mut Clock {
        &mut self.clock
    }

    /// The executable segments that have bytes in the file.
    pub(super) fn code(&self) -> Box<[Segment]> {
        self.programs
            .iter()
            .filter(|program| program.kind == PT_LOAD && program.flags & PF_X != 0)
            .map(|program| program.place)
            .filter(|place| {
                let end = place.bytes.checked_add(PAGE_BYTES);
                let ends = end.is_some_and(|bytes| {
                    place.offset.checked_add(bytes).is_some()
                        && place.address.checked_add(bytes).is_some()
                });
                place.bytes > 0 && ends
            })
            .take(MAX_SEGMENTS)
            .collect()
    }

    /// `.eh_frame`, by its section or by its header's segment.
    pub(super) fn eh_frame(&mut self) -> Result<Option<Frames>, UnwindError> {
        let Some(place) = self.section(".eh_frame").map(|section| section.place) else {
            return self.eh_frame_of_segment();
        };
        let bytes = self.read_frames(place)?;
        Ok(Some(self.frames(Kind::EhFrame, bytes, place.address)))
    }

    fn eh_frame_of_segment(&mut self) -> Result<Option<Frames>, UnwindError> {
        let Some(header) = self
            .programs
            .iter()
            .find(|program| program.kind == PT_GNU_EH_FRAME)
            .map(|program| program.place)
            .filter(|place| self.has(place.offset, place.bytes))
        else {
            return Ok(None);
        };
        let bytes = self.read(header.offset, header.bytes.min(EH_FRAME_HDR_BYTES))?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(header.address);
        let pointer = EhFrameHdr::new(&bytes, LittleEndian)
            .parse(&bases, 8)
            .and_then(|header| header.eh_frame_ptr().direct());
        let place = pointer.ok().and_then(|address| self.rest_at(address));
        let Some(place) = place else {
            return Ok(None);
        };
        let bytes = self.read(place.offset, place.bytes)?;
        let mut frames = self.frames(Kind::EhFrame, bytes, place.address);
        frames.terminated = true;
        Ok(Some(frames))
    }

    /// What a loaded segment has in the file from an address on, as much of it as is read at most.
    fn rest_at(&self, address: u64) -> Option<Segment> {
        self.programs
            .iter()
            .filter(|program| program.kind == PT_LOAD)
            .find_map(|Program { place, .. }| {
                let skipped = address.checked_sub(place.address)?;
                let offset = place.offset.checked_add(skipped)?;
                let bytes = place
                    .bytes
                    .checked_sub(skipped)?
                    .min(self.length.checked_sub(offset)?)
                    .min(MAX_CFI_BYTES);
                (bytes > 0).then_some(Segment {
                    offset,
                    bytes,
                    address,
                })
            })
    }

    /// `.debug_frame`, inflated if it is compressed with zlib.
    pub(super) fn debug_frame(&mut self) -> Result<Option<Frames>, UnwindError> {
        let Some((place, flags)) = self
            .section(".debug_frame")
            .map(|section| (section.place, section.flags))
        else {
            return Ok(None);
        };
        let mut bytes = self.read_frames(place)?;
        if flags & SHF_COMPRESSED != 0 {
            let Some(inflated) = self.inflate(&bytes)? else {
                return Ok(None);
            };
            bytes = inflated;
        }
        // It is not loaded, so nothing in it counts from where it is.
        Ok(Some(self.frames(Kind::DebugFrame, bytes, 0)))
    }

    /// What is in a compressed section; `None` when it is broken or compressed by something else.
    fn inflate(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, UnwindError> {
        let Some((header, data)) = bytes.split_at_checked(CHDR_BYTES) else {
            return Ok(None);
        };
        let whole = u64_at(header, 8);
        if whole > MAX_CFI_BYTES {
            return Err(UnwindError::TooLong(whole));
        }
        if u32_at(header, 0) != ELFCOMPRESS_ZLIB {
            return Ok(None);
        }
        let mut decoder = ZlibDecoder::new(data);
        let mut inflated = Vec::new();
        loop {
            let left = whole.saturating_sub(inflated.len() as u64);
            let wanted = left.min(CHUNK_BYTES as u64);
            let read = decoder.by_ref().take(wanted).read_to_end(&mut inflated);
            self.clock.spend(CHUNK_BYTES)?;
            match read {
                Err(_) => return Ok(None),
                Ok(0) => return Ok(Some(inflated)),
                Ok(_) => {}
            }
        }
    }

    fn frames(&self, kind: Kind, bytes: Vec<u8>, address: u64) -> Frames {
        let address_of = |name| self.section(name).map(|section| section.place.address);
        Frames {
            kind,
            bytes,
            terminated: false,
            address,
            text_address: address_of(".text"),
            got_address: address_of(".got.plt").or_else(|| address_of(".got")),
        }
    }

    /// The build id, from the notes that are loaded.
    pub(super) fn build_id(&mut self) -> Result<Option<Box<[u8]>>, UnwindError> {
        let places: Vec<_> = self
            .programs
            .iter()
            .filter(|program| program.kind == PT_NOTE)
            .filter(|Program { place, .. }| self.has(place.offset, place.bytes))
            .map(|program| (program.place, program.align))
            .take(MAX_NOTES)
            .collect();
        for (place, align) in places {
            let notes = self.read(place.offset, place.bytes.min(MAX_NOTE_BYTES))?;
            let build_id = build_id_of(&notes, if align == 8 { 8 } else { 4 });
            if build_id.is_some() {
                return Ok(build_id);
            }
        }
        Ok(None)
    }

    /// The section of a name, if it has bytes in the file.
    fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| {
            section.kind != SHT_NOBITS
                && self.has(section.place.offset, section.place.bytes)
                && self
                    .names
                    .get(section.name as usize..)
                    .and_then(|rest| rest.strip_prefix(name.as_bytes()))
                    .is_some_and(|rest| rest.first() == Some(&0))
        })
    }

    fn has(&self, offset: u64, bytes: u64) -> bool {
        offset
            .checked_add(bytes)
            .is_some_and(|end| end <= self.length)
    }

    fn read_frames(&mut self, place: Segment) -> Result<Vec<u8>, UnwindError> {
        if place.bytes > MAX_CFI_BYTES {
            return Err(UnwindError::TooLong(place.bytes));
        }
        self.read(place.offset, place.bytes)
    }

    /// Reads bytes of the file, which the caller has bounded.
    fn read(&mut self, offset: u64, bytes: u64) -> Result<Vec<u8>, UnwindError> {
        if !self.has(offset, bytes) {
            return Err(UnwindError::Format("cut short"));
        }
        let mut all = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let mut at = offset;
        for chunk in all.chunks_mut(CHUNK_BYTES) {
            self.file.read_exact_at(chunk, at)?;
            at = at.saturating_add(chunk.len() as u64);
            self.clock.spend(chunk.len())?;
        }
        Ok(all)
    }
}

fn program(header: &[u8]) -> Program {
    Program {
        kind: u32_at(header, 0),
        flags: u32_at(header, 4),
        place: Segment {
            offset: u64_at(header, 8),
            bytes: u64_at(header, 32),
            address: u64_at(header, 16),
        },
        align: u64_at(header, 48),
    }
}

fn section(header: &[u8]) -> Section {
    Section {
        name: u32_at(header, 0),
        kind: u32_at(header, 4),
        flags: u64_at(header, 8),
        place: Segment {
            offset: u64_at(header, 24),
            bytes: u64_at(header, 32),
            address: u64_at(header, 16),
        },
    }
}
