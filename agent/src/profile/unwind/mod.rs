//! Unwind tables of ELF files for x86-64: what the eBPF unwinder needs to walk the stacks of programs
//! without frame pointers.
//!
//! Stages: [`image`] reads the call frame information (CFI) of a file → [`eh_frame`] evaluates it →
//! [`table`] sorts and packs the rows, in the format of [`ctrscope_ebpf::unwind`].
//!
//! The file belongs to a container and may say anything. It is read, not mapped, because a container
//! that truncates a mapped file kills the reader with SIGBUS. Memory and time are bounded: see
//! [`MAX_CFI_BYTES`], [`table::MAX_ROWS`] and [`UnwindTable::read`]. A file that lies gets wrong stacks
//! of its own processes, and no more. Nothing here needs the kernel.

mod eh_frame;
mod image;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod lookup;
#[cfg(test)]
mod made;
mod pool;
mod table;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    hash::BuildHasher,
    io,
    time::{Duration, Instant},
};

use super::elf;
use image::Image;
pub(crate) use pool::Pool;
use table::Spans;
pub(crate) use table::{FrameRow, Packed};

/// Most bytes of call frame information that are read of one file, and that compressed ones may
/// inflate to. The greatest files known (a browser, a compiler) have 10 to 20 MiB.
const MAX_CFI_BYTES: u64 = 64 << 20;
/// Bytes of call frame information evaluated between two looks at the clock.
const CLOCK_BYTES: usize = 64 << 10;
/// What mappings begin and end at, bytes.
const PAGE_BYTES: u64 = 4096;

/// Why a file gave no unwind table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnwindError {
    /// It is no 64-bit ELF file for x86-64, or a broken one.
    #[error("not a usable ELF file for x86-64: {0}")]
    Format(&'static str),
    /// It could not be read.
    #[error("cannot read call frame information of an ELF file")]
    Read(#[from] io::Error),
    /// Its call frame information is too long.
    #[error("an ELF file has {0} bytes of call frame information, more than {MAX_CFI_BYTES}")]
    TooLong(u64),
    /// Its table would be too long.
    #[error("an unwind table would have more than {} rows", table::MAX_ROWS)]
    TooManyRows,
    /// It took too long.
    #[error("an unwind table was not done after {0:?}")]
    TimedOut(Duration),
}

/// What is left of the time for one file.
#[derive(Debug)]
struct Clock {
    began: Instant,
    time: Duration,
    spent_bytes: usize,
}

impl Clock {
    fn new(time: Duration) -> Self {
        Self {
            began: Instant::now(),
            time,
            spent_bytes: 0,
        }
    }

    /// Looks at the clock once in [`CLOCK_BYTES`] of work.
    fn spend(&mut self, bytes: usize) -> Result<(), UnwindError> {
        self.spent_bytes = self.spent_bytes.saturating_add(bytes);
        if self.spent_bytes < CLOCK_BYTES {
            return Ok(());
        }
        self.spent_bytes = 0;
        if self.began.elapsed() > self.time {
            return Err(UnwindError::TimedOut(self.time));
        }
        Ok(())
    }
}

/// A loaded segment of code: bytes `offset .. offset + bytes` of the file are at `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Segment {
    /// Where it begins in the file, bytes.
    pub(crate) offset: u64,
    /// Its length in the file.
    pub(crate) bytes: u64,
    /// Its virtual address, before the bias.
    pub(crate) address: u64,
}

/// What was found in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Descriptions of functions (FDEs) that gave rows.
    pub(crate) fde_count: u32,
    /// Descriptions that were left out: broken, of no code in the file, beyond 4 GiB or too long.
    pub(crate) refused_count: u32,
    /// Rows of the table by kind; those of [`ctrscope_ebpf::unwind::WIDE`] are unsupported.
    pub(crate) rows_by_kind: [u32; 8],
}

/// How to unwind every function of one ELF file.
#[derive(Debug)]
pub(crate) struct UnwindTable {
    /// Rows by pc, each valid up to the next; empty when the file describes no function.
    pub(crate) rows: Vec<FrameRow>,
    /// Executable segments, as in the file.
    pub(crate) segments: Box<[Segment]>,
    /// The build id, which a linker writes; 1 to 64 bytes.
    pub(crate) build_id: Option<Box<[u8]>>,
    /// Counts, for whoever wants to know what the table cannot do.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests and debuggers"))]
    pub(crate) stats: Stats,
}

impl UnwindTable {
    /// Builds the table of an ELF file.
    ///
    /// CFI is in the section `.eh_frame`, or where the program header of `.eh_frame_hdr` leads to when
    /// there are no section headers, or else in `.debug_frame`. A file without any has an empty table.
    ///
    /// Costs 2 ms for libc (23,000 rows) and 75 ms for LLVM (1.2 million), in the quick profile on one
    /// CPU of a virtual machine with two. Memory is 4 MiB for each MiB of CFI, at most 200 MiB, and
    /// 8 bytes a row afterwards.
    ///
    /// # Errors
    ///
    /// [`UnwindError`]; after `time` of evaluation at the latest, which sorting (less than 0.5 s for
    /// the longest table) comes on top of. A read that blocks, of a file in user space, is not ended.
    pub(crate) fn read(file: &File, time: Duration) -> Result<Self, UnwindError> {
        let mut image = Image::open(file, Clock::new(time))?;
        let segments = image.code();
        let mut spans = Spans::new(&segments);
        if let Some(frames) = image.eh_frame()? {
            eh_frame::collect(&frames, &mut spans, image.clock())?;
        }
        if spans.is_empty()
            && let Some(frames) = image.debug_frame()?
        {
            eh_frame::collect(&frames, &mut spans, image.clock())?;
        }
        let build_id = image.build_id()?;
        let mut stats = Stats {
            fde_count: spans.fde_count(),
            refused_count: spans.refused_count(),
            ..Stats::default()
        };
        let rows = spans.into_rows();
        for row in &rows {
            if let Some(count) = stats.rows_by_kind.get_mut(row.kind() as usize) {
                *count += 1;
            }
        }
        Ok(Self {
            rows,
            segments,
            build_id,
            stats,
        })
    }

    /// What the kernel side reads, for rows that are put at `base` in the map of rows.
    pub(crate) fn pack(&self, base: u32) -> Packed {
        table::pack(&self.rows, base)
    }

    /// A digest of all that the kernel side reads of it.
    pub(crate) fn digest(&self, hasher: &impl BuildHasher) -> u64 {
        hasher.hash_one((&self.rows, &self.segments))
    }

    /// A table with so many rows, all of one page.
    #[cfg(test)]
    pub(super) fn of_rows(rows: u32) -> Self {
        let row = |pc| FrameRow {
            pc,
            info: ctrscope_ebpf::unwind::info(ctrscope_ebpf::unwind::RSP, 0, pc + 1),
        };
        Self {
            rows: (0..rows).map(row).collect(),
            segments: Box::default(),
            build_id: None,
            stats: Stats::default(),
        }
    }

    #[cfg(test)]
    fn bias(&self, start: u64, offset: u64, length: u64) -> Option<u64> {
        bias(&self.segments, start, offset, length)
    }
}

/// The bias of a mapping of a file with these segments: what to subtract (wrapping) from an address for the virtual
/// address that rows are about. `None` when no executable segment is in the mapping.
///
/// `start` is the mapping's first address, `offset` the file offset mapped there, `length` in bytes.
/// Only executable segments count: lld puts the same page of the file into two segments that have
/// different biases. Of two executable ones in the mapping, the one with more bytes there wins.
pub(crate) fn bias(segments: &[Segment], start: u64, offset: u64, length: u64) -> Option<u64> {
    let end = offset.saturating_add(length);
    let shared = |segment: &Segment| {
        let first = segment.offset.max(offset);
        (segment.offset.saturating_add(segment.bytes))
            .min(end)
            .saturating_sub(first)
    };
    let segment = segments.iter().max_by_key(|segment| shared(segment))?;
    (shared(segment) > 0).then(|| {
        start
            .wrapping_sub(offset)
            .wrapping_add(segment.offset)
            .wrapping_sub(segment.address)
    })
}
