//! ELF files made up byte by byte: sections, some of them loaded, and code that is not in the file.

use std::{fs::File, os::unix::fs::FileExt};

use super::{super::open_in_root::memory_file, EHDR_BYTES, PHDR_BYTES, SHDR_BYTES};

/// Where the code is in memory.
pub(super) const CODE: u64 = 0x50_0000;
pub(super) const CODE_BYTES: u64 = 0x10_0000;
/// Where it is in the file of a binary.
pub(super) const CODE_OFFSET: u64 = 0x10_0000;
/// Where loaded sections are in memory, less their offset into the file.
pub(super) const BASE: u64 = 0x40_0000;

const PROGBITS: u32 = 1;
const STRTAB: u32 = 3;
const NOTE: u32 = 7;
pub(super) const RELA: u32 = 4;

/// An ELF file in the making.
pub(super) struct Image {
    code_offset: u64,
    with_sections: bool,
    sections: Vec<Section>,
}

struct Section {
    name: &'static str,
    kind: u32,
    link: u32,
    loaded: bool,
    bytes: Vec<u8>,
}

impl Image {
    /// A binary, whose code begins at [`CODE_OFFSET`].
    pub(super) fn binary() -> Self {
        Self::with_code_at(CODE_OFFSET)
    }

    /// A debug file, whose offsets are others.
    pub(super) fn debug_file() -> Self {
        Self::with_code_at(0x1000)
    }

    fn with_code_at(code_offset: u64) -> Self {
        Self {
            code_offset,
            with_sections: true,
            sections: Vec::new(),
        }
    }

    /// Leaves the section headers out.
    pub(super) fn without_section_headers(mut self) -> Self {
        self.with_sections = false;
        self
    }

    fn add(mut self, name: &'static str, kind: u32, link: u32, bytes: &[u8]) -> Self {
        self.sections.push(Section {
            name,
            kind,
            link,
            loaded: false,
            bytes: bytes.to_vec(),
        });
        self
    }

    pub(super) fn section(self, name: &'static str, bytes: &[u8]) -> Self {
        self.add(name, PROGBITS, 0, bytes)
    }

    /// A section that is loaded at [`BASE`] and its offset.
    pub(super) fn loaded(mut self, name: &'static str, bytes: &[u8]) -> Self {
        self = self.section(name, bytes);
        self.sections.last_mut().unwrap().loaded = true;
        self
    }

    /// Relocations that put an address at another.
    pub(super) fn relocations(self, list: &[(u64, u64)]) -> Self {
        let entry = |&(place, value): &(u64, u64)| [place, 8, value].map(u64::to_le_bytes).concat();
        let bytes: Vec<u8> = list.iter().flat_map(entry).collect();
        self.add(".rela.dyn", RELA, 0, &bytes)
    }

    pub(super) fn build_id(self, build_id: &[u8]) -> Self {
        let length = u32::try_from(build_id.len()).unwrap();
        let mut bytes = [4, length, 3].map(u32::to_le_bytes).concat();
        bytes.extend(b"GNU\0");
        bytes.extend(build_id);
        self.add(".note.gnu.build-id", NOTE, 0, &bytes)
    }

    pub(super) fn debug_link(self, name: &str, crc: u32) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize((name.len() + 1).next_multiple_of(4), 0);
        bytes.extend(crc.to_le_bytes());
        self.section(".gnu_debuglink", &bytes)
    }

    /// A table of functions: name, place from [`CODE`] on, size.
    pub(super) fn symbols(self, name: &'static str, list: &[(&str, u64, u64)]) -> Self {
        let (kind, strings_name) = if name == ".dynsym" {
            (11, ".dynstr")
        } else {
            (2, ".strtab")
        };
        let mut strings = vec![0];
        let mut table = vec![0; 24];
        for (name, place, size) in list {
            table.extend(u32::try_from(strings.len()).unwrap().to_le_bytes());
            // A global function in section 1.
            table.extend([0x12, 0, 1, 0]);
            table.extend((CODE + place).to_le_bytes());
            table.extend(size.to_le_bytes());
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        // Sections are numbered from 1, and the strings are the next one.
        let link = u32::try_from(self.sections.len() + 2).unwrap();
        self.add(name, kind, link, &table)
            .add(strings_name, STRTAB, 0, &strings)
    }

    pub(super) fn bytes(mut self) -> Vec<u8> {
        self = self.add(".shstrtab", STRTAB, 0, &[]);
        let mut names = vec![0];
        let mut name_offsets = Vec::new();
        for section in &self.sections {
            name_offsets.push(u32::try_from(names.len()).unwrap());
            names.extend(section.name.as_bytes());
            names.push(0);
        }
        self.sections.last_mut().unwrap().bytes = names;

        let loaded = self
            .sections
            .iter()
            .filter(|section| section.loaded)
            .count();
        let mut file = vec![0; EHDR_BYTES + (1 + loaded) * PHDR_BYTES];
        let mut segments = vec![segment(5, self.code_offset, CODE, CODE_BYTES)];
        let mut headers = vec![0; SHDR_BYTES];
        for (section, name) in self.sections.iter().zip(name_offsets) {
            file.resize(file.len().next_multiple_of(32), 0);
            let (offset, bytes) = (file.len() as u64, section.bytes.len() as u64);
            let address = if section.loaded { BASE + offset } else { 0 };
            if section.loaded {
                segments.push(segment(4, offset, address, bytes));
            }
            headers.extend([name, section.kind].map(u32::to_le_bytes).concat());
            headers.extend([0, address, offset, bytes].map(u64::to_le_bytes).concat());
            headers.extend([section.link, 0].map(u32::to_le_bytes).concat());
            headers.extend([4, 24].map(u64::to_le_bytes).concat());
            file.extend(&section.bytes);
        }
        file.resize(file.len().next_multiple_of(8), 0);
        let headers_at = file.len() as u64;
        let count = u16::try_from(headers.len() / SHDR_BYTES).unwrap();
        let segments = segments.concat();
        file[EHDR_BYTES..EHDR_BYTES + segments.len()].copy_from_slice(&segments);
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        // A library for x86-64.
        file[16..21].copy_from_slice(&[3, 0, 62, 0, 1]);
        file[32..40].copy_from_slice(&(EHDR_BYTES as u64).to_le_bytes());
        let phnum = u16::try_from(1 + loaded).unwrap();
        let mut sizes = [64, 56, phnum, 64, count, count - 1];
        if self.with_sections {
            file[40..48].copy_from_slice(&headers_at.to_le_bytes());
            file.extend(headers);
        } else {
            sizes[4..].fill(0);
        }
        file[52..64].copy_from_slice(&sizes.map(u16::to_le_bytes).concat());
        file
    }

    pub(super) fn file(self) -> File {
        file_of(&self.bytes())
    }
}

fn segment(flags: u32, offset: u64, address: u64, bytes: u64) -> Vec<u8> {
    let mut header = [1, flags].map(u32::to_le_bytes).concat();
    header.extend(
        [offset, address, address, bytes, bytes, 8]
            .map(u64::to_le_bytes)
            .concat(),
    );
    header
}

/// A file in memory.
pub(super) fn file_of(bytes: &[u8]) -> File {
    let file = memory_file().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// A function table of Go: its layout by the first byte of its magic number, functions with their
/// places from `text` on in order, where the last one ends, and what the header says of `text`.
pub(super) fn go_table(magic: u8, functions: &[(&str, u32)], end: u32, text: u64) -> Vec<u8> {
    let relative = matches!(magic, 0xf0 | 0xf1);
    let word = |value: u64| {
        let bytes = value.to_le_bytes();
        bytes[..if relative { 4 } else { 8 }].to_vec()
    };
    let address = |place: u32| word(u64::from(place) + if relative { 0 } else { text });
    let mut names = Vec::new();
    let mut name_offsets = Vec::new();
    for (name, _) in functions {
        name_offsets.push(names.len());
        names.extend(name.as_bytes());
        names.push(0);
    }
    let count = functions.len() as u64;
    let mut header = vec![magic, 0xff, 0xff, 0xff, 0, 0, 1, 8];
    header.extend(count.to_le_bytes());
    let header_bytes = match magic {
        0xfb => 16,
        0xfa => 64,
        _ => 72,
    };
    let list_bytes = (functions.len() * 2 + 1) * word(0).len();
    let each = word(0).len() + 4;
    // Names come first, but in Go 1.2, where offsets count from the beginning.
    let (names_at, list_at) = if magic == 0xfb {
        (16 + list_bytes + functions.len() * each, 16)
    } else {
        let at = header_bytes;
        (at, (at + names.len()).next_multiple_of(8))
    };
    let base = if magic == 0xfb { 0 } else { list_at };
    if magic != 0xfb {
        // The number of files.
        header.extend(0_u64.to_le_bytes());
        if relative {
            header.extend(text.to_le_bytes());
        }
        for offset in [names_at, list_at, list_at, list_at, list_at] {
            header.extend((offset as u64).to_le_bytes());
        }
    }
    let mut list = Vec::new();
    let mut bodies = Vec::new();
    for ((_, place), name) in functions.iter().zip(name_offsets) {
        let body = list_at - base + list_bytes + bodies.len();
        list.extend(address(*place));
        list.extend(word(body as u64));
        bodies.extend(address(*place));
        let name = if magic == 0xfb { names_at + name } else { name };
        bodies.extend(u32::try_from(name).unwrap().to_le_bytes());
    }
    list.extend(address(end));
    let mut table = header;
    if magic != 0xfb {
        table.extend(&names);
        table.resize(list_at, 0);
    }
    table.extend(list);
    table.extend(bodies);
    if magic == 0xfb {
        table.extend(names);
    }
    table
}
