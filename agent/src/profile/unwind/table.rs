//! Rows of one file: in order, without repetition, and packed for the maps.

use std::collections::HashMap;

use ctrscope_ebpf::unwind::{GAP, INFO_BITS, PAGE_MASK, PAGE_SHIFT, UNSUPPORTED, kind, row, wide};

use super::{Segment, UnwindError};

/// Most rows of one table, and of what is collected for it; 4 bytes each when packed. LLVM has 1.3
/// million.
pub(super) const MAX_ROWS: usize = 4 << 20;
/// Most wide words of one table; what exceeds them is unsupported.
const MAX_WIDE_WORDS: usize = 4096;
/// A gap between functions from which on it is one, bytes: what is less is padding, and gets no row.
const GAP_BYTES: u32 = 16;
/// The info of a collected row that ends a function: of the kind `WIDE`, of which a collected row has
/// no other info than `UNSUPPORTED`.
const END_OF_FUNCTION: u32 = u32::MAX;

/// How to find the caller from `pc` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FrameRow {
    /// Virtual address in the file.
    pub(crate) pc: u32,
    /// As in [`ctrscope_ebpf::unwind`], with all bits of a wide word.
    pub(crate) info: u32,
}

impl FrameRow {
    /// The kind of its info.
    pub(crate) const fn kind(self) -> u32 {
        kind(self.info)
    }
}

/// A table as the kernel side reads it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Rows of 4 bytes.
    pub(crate) rows: Vec<u32>,
    /// The page index, which has one entry more than there are pages, and behind it the wide words.
    pub(crate) index: Vec<u32>,
    /// The first page: a pc without its low bits.
    pub(crate) page0: u32,
    /// Number of pages; 0 when there are no rows.
    pub(crate) pages: u32,
}

/// Rows of functions as they are found, in any order.
#[derive(Debug)]
pub(super) struct Spans<'a> {
    segments: &'a [Segment],
    /// Rows of one function after the other, each with its end.
    rows: Vec<FrameRow>,
    /// First address and first row of each function: 32 bits each, so that they sort by address, and
    /// by the order in the file where two functions have the same.
    starts: Vec<u64>,
    refused_count: u32,
}

impl<'a> Spans<'a> {
    pub(super) fn new(segments: &'a [Segment]) -> Self {
        Self {
            segments,
            rows: Vec::new(),
            starts: Vec::new(),
            refused_count: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    pub(super) fn fde_count(&self) -> u32 {
        u32::try_from(self.starts.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn refused_count(&self) -> u32 {
        self.refused_count
    }

    /// Counts a function that gets no rows.
    pub(super) fn refuse(&mut self) {
        self.refused_count = self.refused_count.saturating_add(1);
    }

    /// The addresses of a function as far as they are below 4 GiB and in one executable segment, or
    /// `None`. In `.debug_frame`, functions that the linker left out are described at address 0.
    pub(super) fn place(&self, start: u64, end: u64) -> Option<(u32, u32)> {
        let segment = self.segments.iter().find(|segment| {
            start
                .checked_sub(segment.address)
                .is_some_and(|at| at < segment.bytes)
        })?;
        let end = end.min(segment.address.saturating_add(segment.bytes));
        let place = (u32::try_from(start).ok()?, u32::try_from(end).ok()?);
        (place.0 < place.1).then_some(place)
    }

    /// Begins a function.
    pub(super) fn begin(&mut self, start: u32) {
        self.starts
            .push(u64::from(start) << 32 | self.rows.len() as u64);
    }

    /// Adds a row or the end of the function that has begun, not below its last row.
    pub(super) fn push(&mut self, pc: u32, info: u32) -> Result<(), UnwindError> {
        if self.rows.len() >= MAX_ROWS {
            return Err(UnwindError::TooManyRows);
        }
        self.rows.push(FrameRow { pc, info });
        Ok(())
    }

    /// Ends a function.
    pub(super) fn finish(&mut self, end: u32) -> Result<(), UnwindError> {
        self.push(end, END_OF_FUNCTION)
    }

    /// Sorts the rows. Of functions that overlap, the one that begins first wins, and the rest of the
    /// other is kept.
    pub(super) fn into_rows(mut self) -> Vec<FrameRow> {
        self.starts.sort_unstable();
        let mut sorted = Sorted::default();
        for start in self.starts {
            // The low half is the row.
            let rows = self.rows.get((start & u64::from(u32::MAX)) as usize..);
            sorted.add(rows.unwrap_or_default());
        }
        sorted.finish()
    }
}

/// Rows in order.
#[derive(Debug, Default)]
struct Sorted {
    rows: Vec<FrameRow>,
    /// Where the last function ends.
    end: Option<u32>,
}

impl Sorted {
    /// Adds the function that the rows begin with.
    fn add(&mut self, rows: &[FrameRow]) {
        for (row, next) in rows.iter().zip(rows.iter().skip(1)) {
            if row.info == END_OF_FUNCTION {
                break;
            }
            let start = row.pc.max(self.end.unwrap_or(0));
            if start >= next.pc {
                continue;
            }
            match self.end {
                // The index of pages leads to no row before the first.
                None if start & PAGE_MASK != 0 => self.push(start & !PAGE_MASK, GAP),
                Some(end) if start - end >= GAP_BYTES => self.push(end, GAP),
                _ => {}
            }
            self.push(start, row.info);
            self.end = Some(next.pc);
        }
    }

    fn push(&mut self, pc: u32, info: u32) {
        if self.rows.last().is_none_or(|last| last.info != info) {
            self.rows.push(FrameRow { pc, info });
        }
    }

    fn finish(mut self) -> Vec<FrameRow> {
        if let Some(end) = self.end {
            self.push(end, GAP);
        }
        self.rows.shrink_to_fit();
        self.rows
    }
}

/// Packs rows that are put at `base` in the map of rows.
pub(super) fn pack(rows: &[FrameRow], base: u32) -> Packed {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Packed::default();
    };
    let page0 = first.pc >> PAGE_SHIFT;
    let pages = (last.pc >> PAGE_SHIFT).saturating_sub(page0) + 1;
    let mut words = WideWords::default();
    let mut packed = Packed {
        rows: Vec::with_capacity(rows.len()),
        index: Vec::with_capacity(pages as usize + 1),
        page0,
        pages,
    };
    let mut at = base;
    for FrameRow { pc, info } in rows {
        let page = (pc >> PAGE_SHIFT).saturating_sub(page0) as usize;
        while packed.index.len() <= page {
            packed.index.push(at);
        }
        packed.rows.push(row(*pc, words.narrow(*info)));
        at = at.wrapping_add(1);
    }
    packed.index.push(at);
    packed.index.extend(words.words);
    packed
}

/// Infos that do not fit into a row, each once.
#[derive(Debug, Default)]
struct WideWords {
    words: Vec<u32>,
    numbers: HashMap<u32, u32>,
}

impl WideWords {
    /// An info that fits.
    fn narrow(&mut self, info: u32) -> u32 {
        if info >> INFO_BITS == 0 {
            return info;
        }
        if let Some(number) = self.numbers.get(&info) {
            return wide(*number);
        }
        if self.words.len() >= MAX_WIDE_WORDS {
            return UNSUPPORTED;
        }
        self.words.push(info);
        let number = u32::try_from(self.words.len()).unwrap_or(0);
        self.numbers.insert(info, number);
        wide(number)
    }
}
