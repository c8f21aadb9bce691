//! Functions that a compiler has put into others, and lines of sources: from DWARF, of the file or of its debug file.
//!
//! gimli reads what is at a place; the walk over a unit is ours, because it has to be bounded (addr2line calls itself
//! for each level of inlining that a file claims to have, and keeps the file table of every unit, which takes many
//! times as much memory as in the file): no recursion, a look at the clock every few thousand steps, nothing kept but
//! what was asked for.
//!
//! | bound | | beyond |
//! |---|---|---|
//! | sections of a file, decompressed | 128 MiB, in memory while the file is looked at | the file is left out |
//! | a file | 2 s | what was not reached is left out |
//! | functions at an address | 64 | those further in are left out |
//! | functions of a profile | 262,144 | later ones are left out |
//! | units of a file | 131,072 | later ones are left out |
//! | abbreviations of a unit | 256 KiB, some 6 MB in memory | the unit is left out |
//! | header of a unit's lines | 256 KiB, at most 30 MB in memory | its lines are not known |
//!
//! Not bounded by the clock is one step: the longest is the search for the end of a name, at most 128 MiB away.
//!
//! Not read are split DWARF (`.dwo`), supplementary files (`.gnu_debugaltlink`), sections compressed by zstd, and units
//! whose addresses `.debug_aranges` alone has.
//!
//! Sources: DWARF 5, 2.17 (addresses), 3.3.8 (inlined functions), 6.2 (lines), 7.5 (units);
//! <https://gabi.xinuos.com/elf/03-sheader.html> (compressed sections).

use std::{
    collections::HashMap,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use gimli::{Dwarf, EndianSlice, LittleEndian, RangeLists};

use super::{Budget, DebugFiles, ElfError, Headers, debug_file};

mod lines;
mod sections;
#[cfg(test)]
mod tests;
mod units;

use self::{sections::Sections, units::Units};

/// Longest that a file is looked at.
const MAX_FILE_TIME: Duration = Duration::from_secs(2);
/// Steps between two looks at the clock; most take some nanoseconds.
const STEPS: usize = 4096;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Functions at an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::profile) struct Chain {
    /// Line of the source, in the function that was not inlined; 0 is not known.
    pub(in crate::profile) line: u32,
    /// Those that were inlined, the outermost first.
    pub(in crate::profile) inlined: Vec<Inlined>,
}

/// A function that was inlined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::profile) struct Inlined {
    pub(in crate::profile) name: Arc<str>,
    /// Line of the source; 0 is not known.
    pub(in crate::profile) line: u32,
}

/// What a file says.
#[derive(Debug, Default)]
pub(in crate::profile) struct Chains {
    /// By offset into the file, for each at which something is known.
    pub(in crate::profile) of_offsets: HashMap<u64, Chain>,
    /// Whether something was left out because of a bound.
    pub(in crate::profile) is_cut: bool,
}

/// When to stop.
struct Clock {
    deadline: Instant,
    steps: usize,
}

impl Clock {
    /// Takes steps.
    fn spend(&mut self, steps: usize) -> Result<(), ElfError> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps < STEPS {
            return Ok(());
        }
        self.steps = 0;
        self.look()
    }

    fn look(&self) -> Result<(), ElfError> {
        if Instant::now() < self.deadline {
            Ok(())
        } else {
            Err(ElfError::Spent)
        }
    }
}

/// Finds the functions at offsets into a file. `room` is how many inlined ones may still be kept of a profile, and
/// `keep` makes the name to keep of each, which is as it stands in the file, up to 8 KiB of it.
///
/// Cost on a virtual machine of two CPUs, with little optimization: 0.12 s and 25 MB of memory for a libpython of 31 MB
/// (19 MB of sections) and 20,000 addresses; 0.4 s and 73 MB for a Rust program of 78 MB (58 MB of sections), 20,000
/// addresses and the 64,000 functions that were inlined there; 0.2 s and 61 MB for 200 addresses.
pub(in crate::profile) fn look_up(
    file: &File,
    debug_files: Option<DebugFiles<'_>>,
    offsets: &[u64],
    budget: &mut Budget,
    room: &mut usize,
    mut keep: impl FnMut(&str) -> Option<Arc<str>>,
) -> Result<Chains, ElfError> {
    let mut budget_of_file = Budget {
        bytes: budget.bytes,
        deadline: budget.deadline.min(Instant::now() + MAX_FILE_TIME),
    };
    // The last resort: gimli is fuzzed, and what is here does not panic either.
    let found = catch_unwind(AssertUnwindSafe(|| {
        search(
            file,
            debug_files,
            offsets,
            &mut budget_of_file,
            room,
            &mut keep,
        )
    }));
    budget.bytes = budget_of_file.bytes;
    match found.unwrap_or(Err(ElfError::Panicked)) {
        Err(ElfError::Spent | ElfError::TooLong(_)) => Ok(Chains {
            is_cut: true,
            ..Chains::default()
        }),
        found => found,
    }
}

fn search(
    file: &File,
    debug_files: Option<DebugFiles<'_>>,
    offsets: &[u64],
    budget: &mut Budget,
    room: &mut usize,
    keep: &mut dyn FnMut(&str) -> Option<Arc<str>>,
) -> Result<Chains, ElfError> {
    let headers = Headers::read(file)?;
    let addresses = offsets.iter().filter_map(|&offset| {
        let address = headers.address_of(offset)?;
        Some((address, offset))
    });
    // Its own addresses are those of its debug file; its offsets are not.
    let offset_of: HashMap<u64, u64> = addresses.collect();
    let mut sections = Sections::read(file, &headers, budget)?;
    if sections.is_none()
        && let Some(mut files) = debug_files
        && let Some((file, headers)) = debug_file::find(file, &headers, &mut files, budget)?
    {
        sections = Sections::read(&file, &headers, budget)?;
    }
    let Some(sections) = sections else {
        return Ok(Chains::default());
    };
    let slice = |bytes| EndianSlice::new(bytes, LittleEndian);
    let dwarf: Dwarf<Bytes<'_>> = Dwarf {
        debug_info: slice(&sections.info).into(),
        debug_addr: slice(&sections.addr).into(),
        debug_str: slice(&sections.str).into(),
        debug_str_offsets: slice(&sections.str_offsets).into(),
        debug_line_str: slice(&sections.line_str).into(),
        ranges: RangeLists::new(
            slice(&sections.ranges).into(),
            slice(&sections.rnglists).into(),
        ),
        ..Dwarf::default()
    };
    let mut pending: Vec<u64> = offset_of.keys().copied().collect();
    pending.sort_unstable();
    let clock = Clock {
        deadline: budget.deadline,
        steps: 0,
    };
    let mut units = Units::new(&dwarf, &sections, clock);
    let found = units.look_up(pending, room, keep);
    let chain = |(address, chain): (u64, Chain)| Some((*offset_of.get(&address)?, chain));
    Ok(Chains {
        of_offsets: found.into_iter().filter_map(chain).collect(),
        is_cut: units.is_cut,
    })
}
