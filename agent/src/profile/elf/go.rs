//! Names from the function table of a Go program, `.gopclntab`.
//!
//! Go needs it at run time, so `strip` and `-ldflags=-s` leave it. Four layouts are known by their
//! magic numbers: those of Go 1.2, 1.16, 1.18 and 1.20 (`src/runtime/symtab.go`, `pcHeader`). The
//! table is searched in the file: a look-up takes some 20 reads of 4 bytes, and none of it is kept.
//! Functions that were inlined have the name of the one they are in.
//!
//! Cost on a virtual machine of two CPUs: 7 µs an address in a table of 1 MB, 9 to 19 µs in tables of
//! 20 to 37 MB; no memory that could be measured.

use std::{fs::File, ops::ControlFlow, os::unix::fs::FileExt};

use super::{
    Budget, ElfError, Headers, Lookup,
    headers::{PF_X, Part},
    read_chunks, u16_at, u32_at, u64_at,
};

/// Most bytes of a file that are searched for a table that no section names.
const MAX_SEARCH_BYTES: u64 = 128 << 20;
/// Most places of those that look like a table which are looked at.
const MAX_CANDIDATES: usize = 64;
/// Most bytes of relocations that are searched.
const MAX_RELOCATION_BYTES: u64 = 64 << 20;
/// Most bytes of a name; of longer ones there is the beginning.
const MAX_NAME_BYTES: usize = 4 << 10;
/// Bytes of a name that are read first: most are shorter.
const NAME_BYTES: usize = 128;

/// Length of the longest header, bytes.
const HEADER_BYTES: usize = 72;
const RELA_BYTES: usize = 24;
/// Where `text` is in `runtime.moduledata`, since Go 1.16; before it are the least and the greatest
/// address of a function.
const MODULE_TEXT_AT: u64 = 22 * 8;

const SHT_RELA: u32 = 4;
const EM_AARCH64: u16 = 183;
const R_X86_64_RELATIVE: u64 = 8;
const R_AARCH64_RELATIVE: u64 = 1027;

/// Names what the function table of a Go program names.
pub(super) fn look_up(
    file: &File,
    headers: &Headers,
    budget: &mut Budget,
    lookup: &mut Lookup<'_>,
) -> Result<(), ElfError> {
    let Some(mut table) = find(file, headers, budget)? else {
        return Ok(());
    };
    if !table.relocate(headers, budget)? {
        return Err(ElfError::Format("a Go table without a place of the code"));
    }
    lookup.batches(|addresses, found| {
        for (index, &address) in addresses.iter().enumerate() {
            if let Some(name) = table.name_at(address)? {
                found(index, &name);
            }
        }
        Ok(())
    })
}

/// Finds the table by its section, else by its header: the linker of C merges it with other data in
/// position independent programs.
fn find<'a>(
    file: &'a File,
    headers: &Headers,
    budget: &mut Budget,
) -> Result<Option<Table<'a>>, ElfError> {
    for name in [".gopclntab", ".data.rel.ro.gopclntab"] {
        if let Some(part) = headers.section(name) {
            return Table::read(file, part.offset, part.bytes);
        }
    }
    if !headers.sections.is_empty() && headers.section(".go.buildinfo").is_none() {
        return Ok(None);
    }
    let mut left = MAX_SEARCH_BYTES;
    let mut candidates = MAX_CANDIDATES;
    let mut found = None;
    let data = headers.loaded().filter(|part| !is_code(part));
    for part in data {
        // Tables are aligned, and so are the offsets of segments, to pages of memory.
        let Some(begin) = part.offset.checked_next_multiple_of(8) else {
            continue;
        };
        let end = (part.offset + part.bytes).min(headers.length);
        let bytes = end.saturating_sub(begin).min(left);
        left -= bytes;
        read_chunks(file, begin, bytes, budget, |_, offset, chunk| {
            for (word, at) in chunk.chunks_exact(8).zip((offset..).step_by(8)) {
                if !looks_like_a_table(u64_at(word, 0)) || candidates == 0 {
                    continue;
                }
                candidates -= 1;
                found = Table::read(file, at, end - at)?;
                if found.is_some() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if found.is_some() {
            break;
        }
    }
    Ok(found)
}

/// Whether eight bytes may begin a table: a magic number, two zeros, the least length of an
/// instruction and the length of a pointer.
fn looks_like_a_table(word: u64) -> bool {
    word & 0xff00_ffff_ffff_ff00 == 0x0800_0000_ffff_ff00
}

fn is_code(part: &Part) -> bool {
    part.flags & u64::from(PF_X) != 0
}

/// A function table in a file.
#[derive(Debug)]
pub(in crate::profile) struct Table<'a> {
    file: &'a File,
    /// Where it is in the file.
    offset: u64,
    bytes: u64,
    /// Functions.
    count: u64,
    /// What addresses in it count from: 0 before Go 1.18.
    text: u64,
    relative: bool,
    /// Bytes of an address in it.
    width: u64,
    /// Offsets within it: of the list of functions by address, of what their offsets count from, and of
    /// what those of names count from.
    list: u64,
    functions: u64,
    names: u64,
}

impl<'a> Table<'a> {
    /// Reads the header of a table; `None` if it makes no sense.
    pub(in crate::profile) fn read(
        file: &'a File,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<Self>, ElfError> {
        if bytes < HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, offset)?;
        if !looks_like_a_table(u64_at(&header, 0)) || !matches!(header[6], 1 | 2 | 4) {
            return Ok(None);
        }
        let word = |at| u64_at(&header, at);
        let mut table = Self {
            file,
            offset,
            bytes,
            count: word(8),
            text: 0,
            relative: false,
            width: 8,
            list: 16,
            functions: 0,
            names: 0,
        };
        let parts = match header[0] {
            // Go 1.2: offsets count from the beginning.
            0xfb => None,
            0xfa => Some(24),
            // Go 1.18, 1.20.
            0xf0 | 0xf1 => {
                table.text = word(24);
                table.relative = true;
                table.width = 4;
                Some(32)
            }
            _ => return Ok(None),
        };
        if let Some(at) = parts {
            // Names, compilation units, files, pairs of addresses and values, functions.
            let offsets: [u64; 5] = std::array::from_fn(|index| word(at + index * 8));
            if !offsets.is_sorted() || offsets[0] < at as u64 + 40 {
                return Ok(None);
            }
            table.names = offsets[0];
            table.list = offsets[4];
            table.functions = offsets[4];
        }
        // Pairs of an address and an offset, and the address at which the last function ends.
        let list_bytes = table.count.checked_mul(2).and_then(|count| {
            count
                .checked_add(1)?
                .checked_mul(table.width)?
                .checked_add(table.list)
        });
        let fits = list_bytes.is_some_and(|end| end <= bytes);
        Ok((table.count > 0 && fits).then_some(table))
    }

    /// The name of the function at a virtual address. A name that is no text has replacement characters.
    pub(in crate::profile) fn name_at(&self, address: u64) -> Result<Option<String>, ElfError> {
        let Some(address) = address.checked_sub(self.text) else {
            return Ok(None);
        };
        if address < self.begin(0)? || address >= self.begin(self.count)? {
            return Ok(None);
        }
        let (mut low, mut high) = (0, self.count);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.begin(middle)? <= address {
                low = middle;
            } else {
                high = middle;
            }
        }
        let begin = self.begin(low)?;
        let offset = self.word(self.list + (low * 2 + 1) * self.width)?;
        let Some(function) = self.functions.checked_add(offset) else {
            return Ok(None);
        };
        // Its address once more, and the offset of its name.
        let mut bytes = [0; 12];
        let bytes = &mut bytes[..if self.relative { 8 } else { 12 }];
        if !self.copy(function, bytes)? {
            return Ok(None);
        }
        let (again, name) = bytes.split_at(bytes.len() - 4);
        let again = if self.relative {
            u32_at(again, 0).into()
        } else {
            u64_at(again, 0)
        };
        if again != begin {
            return Ok(None);
        }
        self.name(self.names.saturating_add(u32_at(name, 0).into()))
    }

    /// The text at an offset up to a zero byte, if it is not empty.
    fn name(&self, at: u64) -> Result<Option<String>, ElfError> {
        let room = self.bytes.saturating_sub(at);
        for most in [NAME_BYTES, MAX_NAME_BYTES] {
            let mut name = vec![0; usize::try_from(room).map_or(most, |room| room.min(most))];
            if !self.copy(at, &mut name)? {
                return Ok(None);
            }
            let end = name.iter().position(|&byte| byte == 0);
            if end.is_some() || most == MAX_NAME_BYTES {
                name.truncate(end.unwrap_or(name.len()));
                let name = String::from_utf8_lossy(&name).into_owned();
                return Ok(Some(name).filter(|name| !name.is_empty()));
            }
        }
        Ok(None)
    }

    /// Where a function begins, from the beginning of the code on; where the last one ends, for the
    /// count of them.
    fn begin(&self, index: u64) -> Result<u64, ElfError> {
        self.word(self.list + index * 2 * self.width)
    }

    /// A number of the list of functions, which lies within the table.
    fn word(&self, at: u64) -> Result<u64, ElfError> {
        let mut bytes = [0; 8];
        let width = if self.width == 4 { 4 } else { 8 };
        self.copy(at, &mut bytes[..width])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Copies bytes of the table; returns whether it has them.
    fn copy(&self, at: u64, bytes: &mut [u8]) -> Result<bool, ElfError> {
        let end = at.checked_add(bytes.len() as u64);
        let place = self.offset.checked_add(at);
        let Some(place) = place.filter(|_| end.is_some_and(|end| end <= self.bytes)) else {
            return Ok(false);
        };
        self.file.read_exact_at(bytes, place)?;
        Ok(true)
    }

    /// Finds out where the code begins if the header does not say so; returns whether all functions are
    /// in one executable segment then.
    ///
    /// It is 0 in the file since Go 1.26, where `runtime.moduledata` in `.go.module` has it, and before
    /// that in position independent programs, where it is in a relocation.
    fn relocate(&mut self, headers: &Headers, budget: &mut Budget) -> Result<bool, ElfError> {
        let (first, end) = (self.begin(0)?, self.begin(self.count)?);
        if self.relative && self.text == 0 {
            let header = headers.address_of(self.offset);
            let module = headers.section(".go.module").map(|part| part.address);
            let places = [
                header.and_then(|address| address.checked_add(24)),
                module.and_then(|address| address.checked_add(MODULE_TEXT_AT - 16)),
                module.and_then(|address| address.checked_add(MODULE_TEXT_AT)),
            ];
            let [in_header, least, in_module] = pointers(self.file, headers, places, budget)?;
            // Whether it is the field that it is taken for.
            let in_module = in_module.filter(|text| text.checked_add(first) == least);
            self.text = in_header.or(in_module).unwrap_or(0);
            if self.text == 0 {
                return Ok(false);
            }
        }
        let [first, end] = [first, end].map(|at| self.text.checked_add(at));
        Ok(first.zip(end).is_some_and(|(first, end)| {
            first < end
                && headers
                    .loaded()
                    .filter(is_code)
                    .any(|code| first >= code.address && end <= code.address + code.bytes)
        }))
    }
}

/// Pointers at virtual addresses: what the file has there, or a relocation puts there. `None` is none,
/// or 0.
fn pointers<const N: usize>(
    file: &File,
    headers: &Headers,
    places: [Option<u64>; N],
    budget: &mut Budget,
) -> Result<[Option<u64>; N], ElfError> {
    let mut found = [None; N];
    for (found, place) in found.iter_mut().zip(places) {
        if let Some(offset) = place.and_then(|place| headers.offset_of(place))
            && headers.has(offset, 8)
        {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, offset)?;
            *found = Some(u64::from_le_bytes(bytes)).filter(|&pointer| pointer != 0);
        }
    }
    let kind = if u16_at(&headers.file, 18) == EM_AARCH64 {
        R_AARCH64_RELATIVE
    } else {
        R_X86_64_RELATIVE
    };
    let mut left = MAX_RELOCATION_BYTES;
    let tables = headers.section_parts().filter(|part| part.kind == SHT_RELA);
    for part in tables {
        if found.iter().all(Option::is_some)
            || part.bytes > left
            || !headers.has(part.offset, part.bytes)
        {
            continue;
        }
        left -= part.bytes;
        read_chunks(file, part.offset, part.bytes, budget, |_, _, chunk| {
            for entry in chunk.chunks_exact(RELA_BYTES) {
                if u64_at(entry, 8) != kind {
                    continue;
                }
                let address = Some(u64_at(entry, 0));
                for (found, _) in found
                    .iter_mut()
                    .zip(places)
                    .filter(|&(_, place)| place == address)
                {
                    *found = Some(u64_at(entry, 16));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(found)
}
