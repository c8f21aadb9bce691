//! Where the code of a process is mapped, for walks of its user stack, and how such a walk ends.

/// Steps of the search for the mapping of an address: a process has less than 2,048 that hold code, or later ones
/// are left out.
pub const MAPPING_STEPS: u32 = 11;
/// Most mappings of one process.
pub const MAX_MAPPINGS: u32 = (1 << MAPPING_STEPS) - 1;

/// Frames are found by the rows of a table.
pub const MAPPING_TABLE: u32 = 0;
/// Code that has no table, which most often keeps frame pointers: generated, or of a compiler that always does.
pub const MAPPING_POINTERS: u32 = 1;
/// Its table is not there yet.
pub const MAPPING_PENDING: u32 = 2;

shared! {
    /// A mapping that holds code, below 2^63, in the array `MAPPINGS`; those of a process stand side by side, by address, behind
    /// a head whose `start` is [`head`] of the program.
    pub struct Mapping [40] {
        /// First address.
        pub start: u64,
        /// Address after the last.
        pub end: u64,
        /// What to subtract from an address to get that in the file's table.
        pub bias: u64,
        /// Where its page index begins in `UNWIND_INDEX`.
        pub index: u32,
        /// Number of pages.
        pub pages: u32,
        /// Number of its first page.
        pub first_page: u32,
        /// `MAPPING_*`
        pub kind: u32,
    }
}

/// What the head of a region says: whose it is.
#[inline(always)]
#[must_use]
pub const fn head(tgid: u32, program: u32) -> u64 {
    (tgid as u64) << 32 | program as u64
}

/// Where the mappings of a program are: its head at `first`, which is not 0, and `count` of them behind it.
#[inline(always)]
#[must_use]
pub const fn region(first: u32, count: u32) -> u64 {
    (first as u64) << 32 | count as u64
}

/// Index of the head of a region; 0 is none.
#[inline(always)]
#[must_use]
pub const fn region_first(region: u64) -> u32 {
    (region >> 32) as u32
}

/// Number of mappings of a region.
#[inline(always)]
#[must_use]
pub const fn region_count(region: u64) -> u32 {
    region as u32
}

/// Declares how a walk ends, with what users read.
macro_rules! stops {
    ($($(#[$meta:meta])* $constant:ident = $number:literal $name:literal,)*) => {
        $($(#[$meta])* pub const $constant: u32 = $number;)*

        /// Their names, in the order of their numbers.
        pub const STOPS: &[&str] = &[$($name,)*];
    };
}

stops! {
    /// It came to the outermost frame.
    STOP_END = 0 "end",
    /// The next address is in no mapping that holds code.
    STOP_UNMAPPED = 1 "unmapped",
    /// The table cannot express how to go on.
    STOP_UNSUPPORTED = 2 "unsupported",
    /// The stack could not be read: it is not in memory, or no stack.
    STOP_FAULT = 3 "fault",
    /// The caller's frame would not be above the callee's.
    STOP_BAD_FRAME = 4 "bad_frame",
    /// It is as deep as the limit.
    STOP_DEPTH = 5 "depth",
    /// No mapping of the process was known yet: the kernel walked by frame pointers alone.
    STOP_POINTERS = 6 "frame_pointers",
    /// The registers of the process could not be found.
    STOP_NO_REGISTERS = 7 "no_registers",
    /// A task of 32 bits, which is not walked.
    STOP_32_BIT = 8 "32_bit",
    /// There is no user stack: a kernel thread, or a task that is about to end.
    STOP_ABSENT = 9 "absent",
    /// The frame pointer is zero where no table says more: the outermost frame, or code that uses the register for
    /// something else.
    STOP_POINTER_END = 10 "pointer_end",
    /// The table of the code was not read yet, and what its frame pointer points to is no frame.
    STOP_PENDING = 11 "table_pending",
}

/// Set beside the number where a step was taken by frame pointer, because there was no row.
pub const STEPPED_BY_POINTER: u32 = 1 << 8;
/// The number alone.
pub const STOP_MASK: u32 = STEPPED_BY_POINTER - 1;

shared! {
    /// Asks user space for a program, in the ring `EVENTS` of the profiler.
    pub struct Ask [32] {
        /// The kernel's tgid.
        pub tgid: u32,
        /// [`crate::profile::program_id`]
        pub program: u32,
        /// The address that is in no mapping; 0 where none of them is known.
        pub address: u64,
        /// `task_struct.start_boottime` of the first thread, nanoseconds.
        pub start_ns: u64,
        /// Hash of a stack of Python functions that was not there before: the question is for their names alone. 0
        /// is none.
        pub python: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_holds_both_its_numbers() {
        let word = region(70_000, MAX_MAPPINGS);
        assert_eq!(
            (region_first(word), region_count(word)),
            (70_000, MAX_MAPPINGS)
        );
        assert_eq!(region_first(0), 0);
        assert_ne!(head(1, 2), head(2, 1));
    }

    #[test]
    fn every_stop_has_a_name() {
        assert_eq!(STOPS[STOP_PENDING as usize], "table_pending");
        assert_eq!(STOPS.len() as u32, STOP_PENDING + 1);
        const { assert!(STOP_PENDING <= STOP_MASK) };
    }
}
