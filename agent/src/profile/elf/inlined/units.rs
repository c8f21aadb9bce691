//! The walk over the entries of units.

use std::{collections::HashMap, sync::Arc};

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAbbrevOffset, DebugAddrBase, DebugInfoOffset,
    DebugLocListsBase, DebugRngListsBase, DebugStrOffsetsBase, Dwarf, DwarfFileType, EndianSlice,
    LittleEndian, RangeListsOffset, Unit, UnitHeader, UnitOffset, UnitType, constants as dw,
};

use super::{super::ElfError, Bytes, Chain, Clock, Inlined, lines, sections::Sections};

/// Most functions at an address.
const MAX_DEPTH: usize = 64;
/// Most units of a file.
const MAX_UNITS: usize = 1 << 17;
/// Most bytes of the abbreviations of a unit.
const MAX_ABBREV_BYTES: usize = 256 << 10;
/// Most entries that are followed to the name of a function.
const MAX_ORIGINS: usize = 16;
/// Most bytes of a name that are looked at.
const MAX_NAME_BYTES: usize = 8 << 10;
/// Ranges of functions that a linker has dropped begin at 0 or 1.
const DROPPED: u64 = 1;
/// Steps that the header and the root of a unit cost.
const UNIT_STEPS: usize = 64;

/// A unit with what its root says.
struct Loaded<'a> {
    unit: Unit<Bytes<'a>>,
    begin: usize,
    ranges: Ranges,
    line_offset: Option<usize>,
}

/// The addresses of an entry.
#[derive(Clone, Copy, Default)]
struct Ranges {
    low: Option<u64>,
    high: Option<u64>,
    bytes: Option<u64>,
    list: Option<RangeListsOffset<usize>>,
}

/// An inlined function at an address.
#[derive(Clone, Copy)]
struct Call {
    /// Where its entry is, in the unit.
    entry: usize,
    /// Where the entry with its name is, in `.debug_info`.
    named_by: usize,
    /// The line that it was called from.
    line: u32,
}

/// The units of a file.
pub(super) struct Units<'a> {
    dwarf: &'a Dwarf<Bytes<'a>>,
    sections: &'a Sections,
    clock: Clock,
    /// Where each begins.
    begins: Vec<u32>,
    abbreviations: Option<(usize, Arc<Abbreviations>)>,
    /// Names by where they are.
    names: HashMap<usize, Option<Arc<str>>>,
    /// The unit that a name was in last.
    of_name: Option<Loaded<'a>>,
    pub(super) is_cut: bool,
}

impl<'a> Units<'a> {
    pub(super) fn new(dwarf: &'a Dwarf<Bytes<'a>>, sections: &'a Sections, clock: Clock) -> Self {
        Self {
            dwarf,
            sections,
            clock,
            begins: Vec::new(),
            abbreviations: None,
            names: HashMap::new(),
            of_name: None,
            is_cut: false,
        }
    }

    /// The functions at addresses, which must be sorted.
    pub(super) fn look_up(
        &mut self,
        mut pending: Vec<u64>,
        room: &mut usize,
        keep: &mut dyn FnMut(&str) -> Option<Arc<str>>,
    ) -> Vec<(u64, Chain)> {
        let mut found = Vec::new();
        if let Err(ElfError::Spent) = self.list() {
            self.is_cut = true;
        }
        for index in 0..self.begins.len() {
            if pending.is_empty() {
                break;
            }
            let begin = self.begins[index] as usize;
            match self.look_up_in(begin, &mut pending, room, keep, &mut found) {
                Ok(()) => {}
                Err(ElfError::Spent) => {
                    self.is_cut = true;
                    break;
                }
                Err(ElfError::TooLong(_)) => self.is_cut = true,
                Err(error) => tracing::trace!(begin, %error, "unusable unit"),
            }
        }
        found
    }

    /// Finds out where units begin, up to one that is broken.
    fn list(&mut self) -> Result<(), ElfError> {
        let mut units = self.dwarf.debug_info.units();
        while let Some(header) = units.next()? {
            self.clock.spend(1)?;
            if self.begins.len() >= MAX_UNITS {
                self.is_cut = true;
                break;
            }
            // Sections have at most 128 MiB.
            let begin = header
                .debug_info_offset()
                .map(|begin| u32::try_from(begin.0));
            self.begins.extend(begin.and_then(Result::ok));
        }
        Ok(())
    }

    /// Finds what a unit has of addresses, and takes them out of those that are pending.
    fn look_up_in(
        &mut self,
        begin: usize,
        pending: &mut Vec<u64>,
        room: &mut usize,
        keep: &mut dyn FnMut(&str) -> Option<Arc<str>>,
        found: &mut Vec<(u64, Chain)>,
    ) -> Result<(), ElfError> {
        let Some(loaded) = self.load(begin)? else {
            return Ok(());
        };
        // Most units have none.
        let mut is_inside = Vec::new();
        self.each_within(&loaded.unit, loaded.ranges, pending, |index| {
            is_inside.resize(pending.len(), false);
            is_inside[index] = true;
        })?;
        if is_inside.is_empty() {
            return Ok(());
        }
        let mut inside = is_inside.iter();
        let addresses: Vec<u64> = pending
            .extract_if(.., |_| inside.next().is_some_and(|is_inside| *is_inside))
            .collect();
        let calls = self.walk(&loaded, &addresses, room)?;
        let lines = match loaded.line_offset {
            Some(offset) => {
                let address_bytes = loaded.unit.header.address_size();
                let section = &self.sections.line;
                match lines::at(section, offset, address_bytes, &addresses, &mut self.clock) {
                    Err(ElfError::Spent) => return Err(ElfError::Spent),
                    lines => lines.unwrap_or_default(),
                }
            }
            None => Vec::new(),
        };
        self.of_name = Some(loaded);
        for (index, (address, calls)) in addresses.into_iter().zip(calls).enumerate() {
            let line = lines.get(index).copied().unwrap_or(0);
            let mut chain = Chain {
                line: calls.first().map_or(line, |call| call.line),
                inlined: Vec::with_capacity(calls.len()),
            };
            for (depth, call) in calls.iter().enumerate() {
                let Some(name) = self.name(call.named_by, keep)? else {
                    self.is_cut = true;
                    break;
                };
                chain.inlined.push(Inlined {
                    name,
                    line: calls.get(depth + 1).map_or(line, |inner| inner.line),
                });
            }
            if chain != Chain::default() {
                found.push((address, chain));
            }
        }
        Ok(())
    }

    /// Reads the root of a unit; `None` where it has no code of its own.
    fn load(&mut self, begin: usize) -> Result<Option<Loaded<'a>>, ElfError> {
        self.clock.spend(UNIT_STEPS)?;
        let header = self
            .dwarf
            .debug_info
            .header_from_offset(DebugInfoOffset(begin))?;
        if matches!(
            header.type_(),
            UnitType::Type { .. } | UnitType::SplitType { .. }
        ) {
            return Ok(None);
        }
        let abbreviations = self.abbreviations(&header)?;
        let encoding = header.encoding();
        let file_type = DwarfFileType::Main;
        let mut unit = Unit {
            abbreviations,
            name: None,
            comp_dir: None,
            low_pc: 0,
            str_offsets_base: DebugStrOffsetsBase::default_for_encoding_and_file(
                encoding, file_type,
            ),
            addr_base: DebugAddrBase(0),
            loclists_base: DebugLocListsBase::default_for_encoding_and_file(encoding, file_type),
            rnglists_base: DebugRngListsBase::default_for_encoding_and_file(encoding, file_type),
            line_program: None,
            dwo_id: None,
            header,
        };
        let abbreviations = Arc::clone(&unit.abbreviations);
        let mut entries = unit.header.entries_raw(&abbreviations, None)?;
        let Some(root) = entries.read_abbreviation()? else {
            return Ok(None);
        };
        self.clock.spend(root.attributes().len())?;
        let mut line_offset = None;
        // Addresses by their numbers need the base, which may come later.
        let mut places = Vec::new();
        for spec in root.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            match (attribute.name(), attribute.value()) {
                (dw::DW_AT_str_offsets_base, AttributeValue::DebugStrOffsetsBase(base)) => {
                    unit.str_offsets_base = base;
                }
                (
                    dw::DW_AT_addr_base | dw::DW_AT_GNU_addr_base,
                    AttributeValue::DebugAddrBase(base),
                ) => unit.addr_base = base,
                (
                    dw::DW_AT_rnglists_base | dw::DW_AT_GNU_ranges_base,
                    AttributeValue::DebugRngListsBase(base),
                ) => unit.rnglists_base = base,
                (dw::DW_AT_stmt_list, AttributeValue::DebugLineRef(offset)) => {
                    line_offset = Some(offset.0);
                }
                (name @ (dw::DW_AT_low_pc | dw::DW_AT_high_pc | dw::DW_AT_ranges), value) => {
                    places.push((name, value));
                }
                _ => {}
            }
        }
        let mut ranges = Ranges::default();
        for (name, value) in places {
            self.add_place(&unit, name, value, &mut ranges)?;
        }
        unit.low_pc = ranges.low.unwrap_or(0);
        Ok(Some(Loaded {
            unit,
            begin,
            ranges,
            line_offset,
        }))
    }

    /// The abbreviations of a unit; those of the one before are often the same.
    fn abbreviations(
        &mut self,
        header: &UnitHeader<Bytes<'a>>,
    ) -> Result<Arc<Abbreviations>, ElfError> {
        let offset = header.debug_abbrev_offset().0;
        if let Some((known, abbreviations)) = &self.abbreviations
            && *known == offset
        {
            return Ok(Arc::clone(abbreviations));
        }
        let rest = self.sections.abbrev.get(offset..).unwrap_or_default();
        let part = &rest[..rest.len().min(MAX_ABBREV_BYTES)];
        let section = DebugAbbrev::from(EndianSlice::new(part, LittleEndian));
        let parsed = section.abbreviations(DebugAbbrevOffset(0));
        // It costs time in proportion to what it makes.
        self.clock.look()?;
        let parsed = match parsed {
            Err(_) if part.len() < rest.len() => Err(ElfError::TooLong(part.len() as u64)),
            parsed => Ok(Arc::new(parsed?)),
        }?;
        self.abbreviations = Some((offset, Arc::clone(&parsed)));
        Ok(parsed)
    }

    /// Takes an attribute that says where the code of an entry is.
    fn add_place(
        &self,
        unit: &Unit<Bytes<'a>>,
        name: dw::DwAt,
        value: AttributeValue<Bytes<'a>>,
        ranges: &mut Ranges,
    ) -> Result<(), ElfError> {
        match name {
            dw::DW_AT_low_pc => ranges.low = self.dwarf.attr_address(unit, value)?,
            dw::DW_AT_high_pc => match value {
                AttributeValue::Udata(bytes) => ranges.bytes = Some(bytes),
                other => ranges.high = self.dwarf.attr_address(unit, other)?,
            },
            dw::DW_AT_ranges => ranges.list = self.dwarf.attr_ranges_offset(unit, value)?,
            _ => {}
        }
        Ok(())
    }

    /// Calls back with the index of each address that lies within ranges, once for each range that it is in.
    fn each_within(
        &mut self,
        unit: &Unit<Bytes<'a>>,
        ranges: Ranges,
        addresses: &[u64],
        mut each: impl FnMut(usize),
    ) -> Result<(), ElfError> {
        let mut one = |clock: &mut Clock, begin: u64, end: u64| {
            if begin <= DROPPED || begin >= end {
                return clock.spend(1);
            }
            let first = addresses.partition_point(|&address| address < begin);
            let within = addresses[first..].partition_point(|&address| address < end);
            (first..first + within).for_each(&mut each);
            clock.spend(1 + within)
        };
        if let Some(list) = ranges.list {
            let mut list = self.dwarf.ranges(unit, list)?;
            while let Some(range) = list.next()? {
                one(&mut self.clock, range.begin, range.end)?;
            }
        } else if let Some(low) = ranges.low {
            let end = ranges.bytes.and_then(|bytes| low.checked_add(bytes));
            one(&mut self.clock, low, end.or(ranges.high).unwrap_or(low))?;
        }
        Ok(())
    }

    /// The inlined functions of a unit at each of its addresses, the outermost first.
    fn walk(
        &mut self,
        loaded: &Loaded<'a>,
        addresses: &[u64],
        room: &mut usize,
    ) -> Result<Vec<Vec<Call>>, ElfError> {
        let unit = &loaded.unit;
        let mut calls: Vec<Vec<Call>> = vec![Vec::new(); addresses.len()];
        let mut entries = unit.header.entries_raw(&unit.abbreviations, None)?;
        // What was seen before a jump: entries count from where they begin.
        let mut depth_before = 0;
        // Entries with addresses that the next one is within, and how deep they are: not more than functions at an
        // address.
        let mut open: Vec<(isize, usize)> = Vec::new();
        while !entries.is_empty() {
            let entry = entries.next_offset();
            let depth = depth_before + entries.next_depth();
            let Some(abbreviation) = entries.read_abbreviation()? else {
                self.clock.spend(1)?;
                continue;
            };
            self.clock.spend(1 + abbreviation.attributes().len())?;
            while open.last().is_some_and(|&(outer, _)| outer >= depth) {
                open.pop();
            }
            let tag = abbreviation.tag();
            if is_type(tag) && abbreviation.has_children() {
                // A type has no code; what comes after it is known where the compiler says so.
                let mut next = None;
                for spec in abbreviation.attributes() {
                    let attribute = entries.read_attribute(*spec)?;
                    if let (dw::DW_AT_sibling, AttributeValue::UnitRef(at)) =
                        (attribute.name(), attribute.value())
                    {
                        next = Some(at);
                    }
                }
                if let Some(next) = next.filter(|next| next.0 > entries.next_offset().0) {
                    entries = unit.header.entries_raw(&unit.abbreviations, Some(next))?;
                    depth_before = depth;
                }
                continue;
            }
            if tag != dw::DW_TAG_inlined_subroutine {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            let mut ranges = Ranges::default();
            let mut call = Call {
                entry: entry.0,
                named_by: loaded.begin + entry.0,
                line: 0,
            };
            for spec in abbreviation.attributes() {
                let attribute = entries.read_attribute(*spec)?;
                match (attribute.name(), attribute.value()) {
                    (dw::DW_AT_abstract_origin, AttributeValue::UnitRef(at)) => {
                        call.named_by = loaded.begin.saturating_add(at.0);
                    }
                    (dw::DW_AT_abstract_origin, AttributeValue::DebugInfoRef(at)) => {
                        call.named_by = at.0;
                    }
                    (dw::DW_AT_call_line, value) => {
                        let line = value.udata_value().map(u32::try_from);
                        call.line = line.and_then(Result::ok).unwrap_or(0);
                    }
                    (name, value) => self.add_place(unit, name, value, &mut ranges)?,
                }
            }
            let mut is_found = false;
            let mut is_cut = false;
            self.each_within(unit, ranges, addresses, |index| {
                let calls = &mut calls[index];
                // Entries that overlap without being within one another are broken, or of functions that a linker
                // has found to be the same: the first counts.
                let is_inner = calls
                    .last()
                    .is_none_or(|last| open.iter().any(|&(_, outer)| outer == last.entry));
                if !is_inner {
                    return;
                }
                if calls.len() >= MAX_DEPTH || *room == 0 {
                    is_cut = true;
                    return;
                }
                *room -= 1;
                calls.push(call);
                is_found = true;
            })?;
            self.is_cut |= is_cut;
            if is_found && abbreviation.has_children() && open.len() < MAX_DEPTH {
                open.push((depth, entry.0));
            }
        }
        Ok(calls)
    }

    /// The name of the function whose entry is at an offset into `.debug_info`, else an empty one; `None` where there
    /// is no room for it.
    fn name(
        &mut self,
        at: usize,
        keep: &mut dyn FnMut(&str) -> Option<Arc<str>>,
    ) -> Result<Option<Arc<str>>, ElfError> {
        if let Some(known) = self.names.get(&at) {
            return Ok(known.clone());
        }
        self.clock.look()?;
        let name = match self.find_name(at) {
            Err(ElfError::Spent) => return Err(ElfError::Spent),
            name => name.ok().flatten(),
        };
        let bytes = name.as_ref().map_or(&[][..], |name| name.slice());
        let bytes = &bytes[..bytes.len().min(MAX_NAME_BYTES)];
        let kept = keep(&String::from_utf8_lossy(bytes));
        self.names.insert(at, kept.clone());
        Ok(kept)
    }

    /// Follows an entry to one that has a name: as the linker knows it, else as the source has it.
    fn find_name(&mut self, mut at: usize) -> Result<Option<Bytes<'a>>, ElfError> {
        for _ in 0..MAX_ORIGINS {
            let unit = self.begins.partition_point(|&begin| begin as usize <= at);
            let Some(&begin) = unit.checked_sub(1).and_then(|unit| self.begins.get(unit)) else {
                return Ok(None);
            };
            let begin = begin as usize;
            let loaded = match self.of_name.take() {
                Some(loaded) if loaded.begin == begin => loaded,
                _ => match self.load(begin)? {
                    Some(loaded) => loaded,
                    None => return Ok(None),
                },
            };
            let unit = &self.of_name.insert(loaded).unit;
            let place = UnitOffset(at - begin);
            let mut entries = unit.header.entries_raw(&unit.abbreviations, Some(place))?;
            let Some(abbreviation) = entries.read_abbreviation()? else {
                return Ok(None);
            };
            self.clock.spend(1 + abbreviation.attributes().len())?;
            let mut name = None;
            let mut origin = None;
            for spec in abbreviation.attributes() {
                let attribute = entries.read_attribute(*spec)?;
                let value = attribute.value();
                match (attribute.name(), value) {
                    (dw::DW_AT_linkage_name | dw::DW_AT_MIPS_linkage_name, value) => {
                        if let Ok(name) = self.dwarf.attr_string(unit, value) {
                            return Ok(Some(name));
                        }
                    }
                    (dw::DW_AT_name, value) => name = self.dwarf.attr_string(unit, value).ok(),
                    (dw::DW_AT_abstract_origin | dw::DW_AT_specification, value) => {
                        origin = match value {
                            AttributeValue::UnitRef(at) => Some(begin.saturating_add(at.0)),
                            AttributeValue::DebugInfoRef(at) => Some(at.0),
                            _ => None,
                        };
                    }
                    _ => {}
                }
            }
            let Some(next) = origin.filter(|_| name.is_none()) else {
                return Ok(name);
            };
            at = next;
        }
        Ok(None)
    }
}

/// Whether an entry describes a type, within which there is no code.
fn is_type(tag: dw::DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_structure_type
            | dw::DW_TAG_class_type
            | dw::DW_TAG_union_type
            | dw::DW_TAG_enumeration_type
            | dw::DW_TAG_array_type
            | dw::DW_TAG_subroutine_type
    )
}
