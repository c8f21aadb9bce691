//! Frames of Python functions: what the interpreter keeps of them, and how a stack of them is stored.
//!
//! A native stack shows the interpreter's own functions, one of which, `_PyEval_EvalFrameDefault`, stands for a run of
//! Python functions that called one another. Their frames are a list in the memory of the process, which is walked
//! beside the native stack. All places in CPython's structs are told by user space for each program, since each minor
//! version has its own. 3.11 and later, where a frame is a `_PyInterpreterFrame`
//! (<https://github.com/python/cpython/blob/v3.11.2/Include/internal/pycore_frame.h>).

/// Most thread states that one sample looks at for that of the thread that runs. The next sample of the thread goes on
/// where this one gave up.
pub const MAX_THREADS: u32 = 128;
/// Samples after which a search begins anew: the list may have changed so that it has no end.
pub const MAX_ROUNDS: u32 = 64;
/// How long a thread whose search found nothing is not searched for, nanoseconds, unless the list begins with another
/// state by then: a tenth of a second.
pub const SEARCH_INTERVAL_NS: u64 = 100_000_000;
/// Entries of `PYTHON_THREADS`, a power of two.
pub const THREAD_ENTRIES: u32 = 8_192;
/// Bytes of a frame that are read: what is asked for stands within them, and no frame is shorter.
pub const FRAME_BYTES: usize = 80;

/// Set in a word where the run of functions that one native frame stands for ends with it.
pub const LAST_OF_RUN: u64 = 1;
/// The highest number of a place; it stands for all above as well.
pub const MAX_PLACE: u64 = 0xffff;

/// A frame in one word: its code object, an address of which the lowest 4 bits are 0; the place in its bytecode, in
/// units of 2 bytes; and whether it is the last of a run.
#[inline(always)]
#[must_use]
pub const fn word(code: u64, place: u64, is_last: bool) -> u64 {
    let place = if place > MAX_PLACE { MAX_PLACE } else { place };
    (code >> 4) << 17 | place << 1 | is_last as u64
}

/// Address of the code object of a word; 0 where the word is but the end of a run.
#[must_use]
pub const fn code(word: u64) -> u64 {
    word >> 17 << 4
}

/// Place in the bytecode of a word.
#[must_use]
pub const fn place(word: u64) -> u64 {
    word >> 1 & MAX_PLACE
}

/// Whether a word is the last of a run.
#[must_use]
pub const fn is_last(word: u64) -> bool {
    word & LAST_OF_RUN != 0
}

/// Place of the hash in a `str`, bytes: `PyASCIIObject.hash`, 3.11 to 3.14. That of a function's name is there from the
/// beginning.
pub const STR_HASH: u32 = 24;

/// The pointer to the frame that runs stands in the thread state itself (3.13 and later) and not in a `_PyCFrame`.
pub const DIRECT: u32 = u32::MAX;

shared! {
    /// Where the interpreter of a program keeps its frames, in the hash `PYTHONS` by program. All but the first are
    /// offsets, bytes.
    pub struct Python [72] {
        /// Address of `_PyRuntime`.
        pub runtime: u64,
        /// Of the first interpreter's pointer in `_PyRuntime`.
        pub interpreters_head: u32,
        /// Of the next interpreter's pointer in `PyInterpreterState`.
        pub interpreter_next: u32,
        /// Of the first thread state's pointer in `PyInterpreterState`.
        pub threads_head: u32,
        /// Of the next thread state's pointer in `PyThreadState`.
        pub thread_next: u32,
        /// Of `thread_id`, what `pthread_self` says, in `PyThreadState`.
        pub thread_id: u32,
        /// Of `cframe` or `current_frame` in `PyThreadState`.
        pub thread_frame: u32,
        /// Of `current_frame` in `_PyCFrame`, or [`DIRECT`].
        pub cframe_frame: u32,
        /// Of the code object's pointer in `_PyInterpreterFrame`; the four that follow are also in there.
        pub frame_code: u32,
        /// Of the caller's frame.
        pub frame_previous: u32,
        /// Of the pointer to the instruction that runs.
        pub frame_instruction: u32,
        /// Of the byte that tells the last of a run: `is_entry` (3.11) or `owner`.
        pub frame_boundary: u32,
        /// What that byte is then.
        pub boundary_value: u32,
        /// 1 where a frame with that byte is none of a function but follows on the last of the run (3.12 and later).
        pub boundary_is_extra: u32,
        /// Of the first instruction in `PyCodeObject`.
        pub code_instructions: u32,
        /// Of the pointer to the qualified name in there.
        pub code_name: u32,
        /// Zero.
        pub reserved: u32,
    }
}

shared! {
    /// What is remembered of the search for a thread's state, in the array `PYTHON_THREADS` by [`thread_entry`]. All of
    /// it is memory of the process, which may be another's by now: it is only where to look first.
    pub struct PythonThread [64] {
        /// [`crate::profile::ProgramKey::id`] of the program whose it is.
        pub program: u32,
        /// The kernel's pid of the thread whose it is.
        pub tid: u32,
        /// The thread's state; 0 is not known.
        pub known: u64,
        /// The interpreter that it is of.
        pub known_interpreter: u64,
        /// The state that is next in a search that goes on at the next sample; 0 is the first of the next interpreter.
        pub next: u64,
        /// The interpreter that this is in; 0 where no search is under way.
        pub next_interpreter: u64,
        /// What the first list began with when the search began.
        pub head: u64,
        /// Until when nothing is searched for, `CLOCK_MONOTONIC`, nanoseconds: the last search found nothing. 0 where it
        /// did.
        pub until_ns: u64,
        /// Samples that the search took so far.
        pub rounds: u32,
        /// Zero.
        pub reserved: u32,
    }
}

/// Place of a thread's entry. Numbers of threads are given one after the other, so those of one program have each a
/// place of their own.
#[inline(always)]
#[must_use]
pub const fn thread_entry(tid: u32) -> u32 {
    tid & (THREAD_ENTRIES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_began_together_share_no_entry() {
        const { assert!(THREAD_ENTRIES.is_power_of_two()) };
        let first = 4_194_000;
        let mut is_taken = [false; THREAD_ENTRIES as usize];
        for tid in first..first + THREAD_ENTRIES {
            let place = &mut is_taken[thread_entry(tid) as usize];
            assert!(!*place);
            *place = true;
        }
    }

    #[test]
    fn a_word_holds_what_it_is_told() {
        let address = 0x7fff_1234_5670;
        let one = word(address, 77, true);
        assert_eq!((code(one), place(one), is_last(one)), (address, 77, true));
        let deep = word(address, 1 << 20, false);
        assert_eq!(
            (code(deep), place(deep), is_last(deep)),
            (address, MAX_PLACE, false)
        );
        assert_eq!((code(LAST_OF_RUN), is_last(LAST_OF_RUN)), (0, true));
    }
}
