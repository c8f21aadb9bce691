//! Where variables of a program are, by their names: from `.dynsym`, else `.symtab`.

use std::{fs::File, ops::ControlFlow};

use super::{
    Budget, ElfError, SHDR_BYTES,
    headers::{Headers, PF_X, Part},
    read_chunks, u16_at, u32_at, u64_at,
};

/// Largest table of symbols, and largest table of their names, bytes; larger ones are left out.
const MAX_TABLE_BYTES: u64 = 16 << 20;
/// Most executable segments that are kept.
const MAX_SEGMENTS: usize = 16;

const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const SYM_BYTES: usize = 24;
/// `STT_OBJECT`, in the lowest 4 bits of `st_info`.
const OBJECT: u8 = 1;

/// Variables of a file.
#[derive(Clone, Debug)]
pub(in crate::profile) struct Objects<const N: usize> {
    /// The file's own virtual address of each, `None` where the file defines none.
    pub(in crate::profile) addresses: [Option<u64>; N],
    code: Vec<Part>,
}

impl<const N: usize> Objects<N> {
    /// Finds variables by their names: those that are exported without reading `.symtab`. A file without section
    /// headers has none.
    ///
    /// # Errors
    ///
    /// It is no usable ELF file, it cannot be read, or the budget is spent.
    pub(in crate::profile) fn find(
        file: &File,
        names: [&str; N],
        budget: &mut Budget,
    ) -> Result<Self, ElfError> {
        let headers = Headers::read(file)?;
        let mut addresses = [None; N];
        for kind in [SHT_DYNSYM, SHT_SYMTAB] {
            if !addresses.contains(&None) {
                break;
            }
            for (index, table) in headers.section_parts().enumerate() {
                if table.kind == kind {
                    let link = u32_at(&headers.sections, index * SHDR_BYTES + 40);
                    let strings = headers.section_parts().nth(link as usize);
                    let tables = [Some(table), strings];
                    search(file, &headers, tables, names, budget, &mut addresses)?;
                }
            }
        }
        let is_code = |part: &Part| part.flags & u64::from(PF_X) != 0;
        let code = headers
            .loaded()
            .filter(is_code)
            .take(MAX_SEGMENTS)
            .collect();
        Ok(Self { addresses, code })
    }

    /// What is added to the file's addresses in a process that has this part of its code mapped at `start`.
    pub(in crate::profile) fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        let holds = |part: &&Part| {
            // The kernel maps whole pages, from before the segment on.
            part.mapped_from() <= offset && offset < part.offset.saturating_add(part.bytes)
        };
        let segments = self.code.iter().filter(holds);
        let segment = segments.max_by_key(|part| part.mapped_from())?;
        let inside = offset.wrapping_sub(segment.offset);
        Some(start.wrapping_sub(segment.address.wrapping_add(inside)))
    }
}

/// Looks through a table of symbols, whose names are in the other part.
fn search<const N: usize>(
    file: &File,
    headers: &Headers,
    tables: [Option<Part>; 2],
    names: [&str; N],
    budget: &mut Budget,
    addresses: &mut [Option<u64>; N],
) -> Result<(), ElfError> {
    let fits = |part: &Part| part.bytes <= MAX_TABLE_BYTES && headers.has(part.offset, part.bytes);
    let [Some(table), Some(strings)] = tables.map(|part| part.filter(fits)) else {
        return Ok(());
    };
    let mut text = Vec::new();
    read_chunks(
        file,
        strings.offset,
        strings.bytes,
        budget,
        |_, _, chunk| {
            text.extend_from_slice(chunk);
            Ok(ControlFlow::Continue(()))
        },
    )?;
    read_chunks(file, table.offset, table.bytes, budget, |_, _, chunk| {
        for symbol in chunk.chunks_exact(SYM_BYTES) {
            let is_defined = u16_at(symbol, 6) != 0;
            if symbol[4] & 0xf != OBJECT || !is_defined {
                continue;
            }
            let rest = text.get(u32_at(symbol, 0) as usize..).unwrap_or_default();
            let is_called = |name: &str| {
                let rest = rest.strip_prefix(name.as_bytes());
                rest.is_some_and(|rest| rest.first() == Some(&0))
            };
            if let Some(index) = names.iter().position(|name| is_called(name)) {
                addresses[index].get_or_insert(u64_at(symbol, 8));
            }
        }
        let is_done = !addresses.contains(&None);
        Ok(if is_done {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{super::made::Image, *};

    fn budget(bytes: u64) -> Budget {
        Budget {
            bytes,
            deadline: Instant::now() + Duration::from_secs(600),
        }
    }

    fn segment(offset: u64, address: u64, bytes: u64, align: u64) -> Part {
        Part::code(offset, address, bytes, align)
    }

    #[test]
    fn a_program_knows_where_it_is() {
        let objects = |code: &[Part]| Objects::<0> {
            addresses: [],
            code: code.to_vec(),
        };
        // Whole pages, as linkers make them with separate code.
        let whole = objects(&[segment(0x1000, 0x40_1000, 0x5000, 0x1000)]);
        assert_eq!(whole.bias(0x40_1000, 0x1000), Some(0));
        assert_eq!(whole.bias(0x7000_0040_3000, 0x3000), Some(0x7000_0000_0000));
        assert_eq!(whole.bias(0x40_0000, 0), None);
        assert_eq!(whole.bias(0x40_0000, 0x6000), None);
        // A segment that begins within a page, as lld makes them.
        let within = objects(&[segment(0x1234, 0x2234, 0x800, 0x1000)]);
        assert_eq!(
            within.bias(0x5000_0000_2000, 0x1000),
            Some(0x5000_0000_0000)
        );
        // Nonsense.
        for align in [0, 3, u64::MAX] {
            let wrong = objects(&[segment(u64::MAX - 1, u64::MAX, 1, align)]);
            wrong.bias(u64::MAX, u64::MAX - 1);
        }
    }

    #[test]
    fn variables_of_this_program_are_found() {
        let file = File::open("/proc/self/exe").unwrap();
        let names = ["environ", "no_such_variable"];
        let found = Objects::find(&file, names, &mut budget(1 << 30));
        assert_eq!(found.unwrap().addresses[1], None);
        assert!(Objects::find(&file, names, &mut budget(0)).is_err());
    }

    #[test]
    fn a_file_without_symbols_has_no_variables() {
        let file = Image::binary().file();
        let found = Objects::find(&file, ["x"], &mut budget(1 << 20)).unwrap();
        assert_eq!(found.addresses, [None]);
        let bare = Image::binary().without_section_headers().file();
        let found = Objects::find(&bare, ["x"], &mut budget(1 << 20)).unwrap();
        assert_eq!(found.addresses, [None]);
    }
}
