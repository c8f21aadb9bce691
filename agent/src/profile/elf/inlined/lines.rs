//! Lines of sources at addresses.

use gimli::{
    DebugLine, DebugLineOffset, EndianSlice, FileEntry, IncompleteLineProgram, LineInstruction,
    LineProgram, LineProgramHeader, LineRow, LittleEndian,
};

use super::{
    super::{ElfError, u16_at, u32_at, u64_at},
    Bytes, Clock,
};

/// Longest header of a unit's lines, bytes: folders and files, of which nothing is kept.
const MAX_HEADER_BYTES: u64 = 256 << 10;
/// The highest address that a linker leaves where it has dropped a function; the others are the highest two of all.
const DROPPED: u64 = 1;

/// A program whose files are of no interest.
struct Program<'a>(IncompleteLineProgram<Bytes<'a>>);

impl<'a> LineProgram<Bytes<'a>, usize> for Program<'a> {
    fn header(&self) -> &LineProgramHeader<Bytes<'a>, usize> {
        self.0.header()
    }

    fn add_file(&mut self, _: FileEntry<Bytes<'a>, usize>) {}
}

/// The lines of a unit at addresses, which must be sorted; 0 where there is none.
pub(super) fn at(
    section: &[u8],
    offset: usize,
    address_bytes: u8,
    addresses: &[u64],
    clock: &mut Clock,
) -> Result<Vec<u32>, ElfError> {
    let mut lines = vec![0; addresses.len()];
    let rest = section.get(offset..).unwrap_or_default();
    if header_bytes(rest).is_none_or(|bytes| bytes > MAX_HEADER_BYTES) {
        return Ok(lines);
    }
    let section = DebugLine::from(EndianSlice::new(section, LittleEndian));
    let program = section.program(DebugLineOffset(offset), address_bytes, None, None)?;
    let mut program = Program(program);
    let mut instructions = program.header().instructions();
    let mut row = LineRow::new(program.header());
    // Where the row before begins, and its line.
    let mut before: Option<(u64, u32)> = None;
    let mut is_dropped = false;
    while let Some(instruction) = instructions.next_instruction(program.header())? {
        clock.spend(1)?;
        if let LineInstruction::SetAddress(address) = instruction {
            is_dropped = address <= DROPPED || address < row.address() || address >= u64::MAX - 1;
        }
        if !row.execute(instruction, &mut program)? {
            continue;
        }
        if let Some((begin, line)) = before.take()
            && begin < row.address()
        {
            let first = addresses.partition_point(|&address| address < begin);
            let within = addresses[first..].partition_point(|&address| address < row.address());
            clock.spend(within)?;
            for known in &mut lines[first..first + within] {
                if *known == 0 {
                    *known = line;
                }
            }
        }
        if row.end_sequence() {
            is_dropped = false;
        } else if !is_dropped {
            let line = row.line().and_then(|line| u32::try_from(line.get()).ok());
            before = Some((row.address(), line.unwrap_or(0)));
        }
        let header = program.0.header();
        row.reset(header);
    }
    Ok(lines)
}

/// The length of a header from the end of that field on; `None` where it is cut short.
fn header_bytes(unit: &[u8]) -> Option<u64> {
    let is_wide = u32_at(unit, 0) == u32::MAX;
    let version_at = if is_wide { 12 } else { 4 };
    let version = u16_at(unit, version_at);
    let at = version_at + if version >= 5 { 4 } else { 2 };
    unit.get(at..at + 8)?;
    Some(if is_wide {
        u64_at(unit, at)
    } else {
        u32_at(unit, at).into()
    })
}
