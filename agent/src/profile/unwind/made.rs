//! ELF files with call frame information, made up byte by byte.

use std::{fs::File, io::Write as _, os::unix::fs::FileExt as _};

use flate2::{Compression, write::ZlibEncoder};

use super::super::open_in_root::memory_file;

/// Where bytes of the file are loaded, code apart.
const BASE: u64 = 0x40_0000;
/// Where the code is: not in the file, which has no need of it.
pub(super) const CODE: u64 = 0x50_0000;
const CODE_OFFSET: u64 = 0x10_0000;
pub(super) const CODE_BYTES: u64 = 0x10_0000;
/// What pointers count from, for sections without bytes.
pub(super) const GOT: u64 = 0x60_0000;
pub(super) const BUILD_ID: [u8; 20] = *b"a build id: 20 bytes";

const PROGRAMS_AT: usize = 64;
const NOTE_AT: usize = 0x200;
const EH_FRAME_HDR_AT: usize = 0x240;
const NAMES_AT: usize = 0x280;
/// Where call frame information begins in the file.
pub(super) const FRAMES_AT: usize = 0x400;
const NAMES: &[u8] = b"\0.shstrtab\0.text\0.got\0.eh_frame\0.debug_frame\0";

/// `DW_CFA_def_cfa` rsp + 8, and the return address at CFA - 8: what a call leaves behind.
pub(super) const AT_ENTRY: &[u8] = &[0x0c, 7, 8, 0x90, 1];

/// A common entry that was added.
#[derive(Clone, Copy)]
pub(super) struct Cie {
    offset: usize,
    augmentation: &'static str,
    encoding: u8,
}

/// Call frame information.
pub(super) struct Cfi {
    pub(super) bytes: Vec<u8>,
    debug: bool,
}

impl Cfi {
    pub(super) fn eh_frame() -> Self {
        Self {
            bytes: Vec::new(),
            debug: false,
        }
    }

    pub(super) fn debug_frame() -> Self {
        Self {
            bytes: Vec::new(),
            debug: true,
        }
    }

    /// Adds a common entry; the encoding counts when the augmentation has an `R`.
    pub(super) fn cie(
        &mut self,
        augmentation: &'static str,
        encoding: u8,
        instructions: &[u8],
    ) -> Cie {
        let offset = self.bytes.len();
        let id = if self.debug { u32::MAX } else { 0 };
        let mut body = id.to_le_bytes().to_vec();
        body.push(1);
        body.extend(augmentation.bytes());
        // Factors 1 and -8, return address 16.
        body.extend([0, 1, 0x78, 16]);
        if augmentation.contains('R') {
            body.extend([1, encoding]);
        }
        body.extend(instructions);
        self.entry(&body);
        Cie {
            offset,
            augmentation,
            encoding,
        }
    }

    /// Adds a function; returns where.
    pub(super) fn fde(&mut self, cie: Cie, start: u64, bytes: u64, instructions: &[u8]) -> usize {
        let offset = self.bytes.len();
        let back = if self.debug {
            cie.offset
        } else {
            offset + 4 - cie.offset
        };
        let mut body = u32::try_from(back).unwrap().to_le_bytes().to_vec();
        if cie.augmentation.contains('R') {
            let base = match cie.encoding & 0x70 {
                0x10 => BASE + (FRAMES_AT + offset + 8) as u64,
                0x20 => CODE,
                0x30 => GOT,
                _ => 0,
            };
            let wide = [start.wrapping_sub(base), bytes].map(u64::to_le_bytes);
            let width = if cie.encoding & 0x0f == 0 { 8 } else { 4 };
            body.extend(wide.iter().flat_map(|number| &number[..width]));
            body.push(0);
        } else {
            body.extend(start.to_le_bytes());
            body.extend(bytes.to_le_bytes());
        }
        body.extend(instructions);
        self.entry(&body);
        offset
    }

    fn entry(&mut self, body: &[u8]) {
        let length = body.len().next_multiple_of(4);
        self.bytes
            .extend(u32::try_from(length).unwrap().to_le_bytes());
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len() + length - body.len(), 0);
    }

    /// A file with it, as most are.
    pub(super) fn elf(&self) -> Vec<u8> {
        elf(
            if self.debug {
                ".debug_frame"
            } else {
                ".eh_frame"
            },
            0,
            &self.bytes,
        )
    }

    /// A file without section headers.
    pub(super) fn elf_without_sections(&self) -> Vec<u8> {
        let mut file = self.elf();
        file.truncate(FRAMES_AT + self.bytes.len());
        file[40..48].fill(0);
        file
    }

    /// A file whose section is compressed, with a length that is told of it.
    pub(super) fn compressed_elf(&self, told_bytes: u64) -> Vec<u8> {
        let mut section = vec![1, 0, 0, 0, 0, 0, 0, 0];
        section.extend(told_bytes.to_le_bytes());
        section.extend(8_u64.to_le_bytes());
        let mut encoder = ZlibEncoder::new(section, Compression::fast());
        encoder.write_all(&self.bytes).unwrap();
        elf(".debug_frame", 0x800, &encoder.finish().unwrap())
    }
}

/// A file with one section of call frame information.
fn elf(name: &str, flags: u64, frames: &[u8]) -> Vec<u8> {
    let mut file = vec![0; FRAMES_AT];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[3, 0, 62, 0, 1]);
    put(32, &(PROGRAMS_AT as u64).to_le_bytes());
    put(40, &((FRAMES_AT + frames.len()) as u64).to_le_bytes());
    put(52, &[64, 0, 56, 0, 4, 0, 64, 0, 5, 0, 1, 0]);

    let loaded = (FRAMES_AT + frames.len()) as u64;
    let has_header = name == ".eh_frame";
    let programs = [
        (1_u32, 4_u32, 0, BASE, loaded),
        (1, 5, CODE_OFFSET, CODE, CODE_BYTES),
        (4, 4, NOTE_AT as u64, BASE + NOTE_AT as u64, 36),
        (
            if has_header { 0x6474_e550 } else { 0 },
            4,
            EH_FRAME_HDR_AT as u64,
            BASE + EH_FRAME_HDR_AT as u64,
            8,
        ),
    ];
    for (index, (kind, flags, offset, address, bytes)) in programs.into_iter().enumerate() {
        let at = PROGRAMS_AT + index * 56;
        put(at, &kind.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 16, &address.to_le_bytes());
        put(at + 32, &bytes.to_le_bytes());
        put(at + 40, &bytes.to_le_bytes());
        put(at + 48, &4_u64.to_le_bytes());
    }
    put(NOTE_AT, &[4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0]);
    put(NOTE_AT + 12, b"GNU\0");
    put(NOTE_AT + 16, &BUILD_ID);
    // Version, a pointer that counts from itself, no table.
    put(EH_FRAME_HDR_AT, &[1, 0x1b, 0xff, 0xff]);
    let distance = u32::try_from(FRAMES_AT - EH_FRAME_HDR_AT - 4).unwrap();
    put(EH_FRAME_HDR_AT + 4, &distance.to_le_bytes());
    put(NAMES_AT, NAMES);
    file.extend(frames);

    let frames_bytes = frames.len() as u64;
    let sections = [
        ("", 0_u32, 0, 0, 0, 0),
        (".shstrtab", 3, 0, 0, NAMES_AT as u64, NAMES.len() as u64),
        (".text", 1, 6, CODE, 0, 0),
        (".got", 1, 3, GOT, 0, 0),
        (
            name,
            1,
            flags,
            BASE + FRAMES_AT as u64,
            FRAMES_AT as u64,
            frames_bytes,
        ),
    ];
    for (name, kind, flags, address, offset, bytes) in sections {
        let name = [name.as_bytes(), b"\0"].concat();
        let name = NAMES.windows(name.len()).position(|at| at == name).unwrap();
        file.extend(u32::try_from(name).unwrap().to_le_bytes());
        file.extend(kind.to_le_bytes());
        for number in [flags, address, offset, bytes, 0, 4, 0] {
            file.extend(number.to_le_bytes());
        }
    }
    file
}

/// An open file of these bytes.
pub(super) fn file(bytes: &[u8]) -> File {
    let file = memory_file().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}
