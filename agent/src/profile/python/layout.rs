//! Where the versions of CPython keep what is needed to walk and to name the frames of Python functions.
//!
//! | version | known from |
//! |---|---|
//! | 3.11, 3.12 | tables here, of release builds for 64 bits |
//! | 3.13, 3.14 | `_Py_DebugOffsets`, the program's own table at the beginning of `_PyRuntime` |
//!
//! Of 3.11.2, 3.12.1, 3.13.0 and 3.14.10 for x86-64 all was compared with `offsetof` of their headers, and a process
//! was read: Debian's 3.11.2 and 3.14.10, where the program holds the interpreter, and builds of 3.11.7, 3.12.1 and
//! 3.13.0 with a shared library.
//!
//! Sources: <https://github.com/python/cpython/blob/v3.11.2/Include/internal/pycore_frame.h>, `pycore_runtime.h`,
//! `pycore_interp.h`, `cpython/pystate.h` and `cpython/code.h` beside it, the same at `v3.12.1`, and
//! <https://github.com/python/cpython/blob/v3.13.0/Include/internal/pycore_runtime.h> and
//! <https://github.com/python/cpython/blob/v3.14.0/Include/internal/pycore_debug_offsets.h>.

use ctrscope_ebpf::python::{DIRECT, FRAME_BYTES, Python};

use super::{
    super::elf::u64_at,
    Absent,
    memory::{BYTES_DATA, BYTES_SIZE, Memory, OBJECT_TYPE, STR_LENGTH, STR_STATE, StrLayout},
};

/// Most bytes of a code object that are read.
pub(super) const MAX_CODE_BYTES: usize = 512;
/// Farthest places within the larger structs that are believed.
const MAX_RUNTIME: u64 = 16 << 20;
const MAX_THREAD: u64 = 1 << 16;

/// Words of `_Py_DebugOffsets` that are read, in all versions.
const DEBUG_WORDS: usize = 96;
const COOKIE: &[u8; 8] = b"xdebugpy";

/// `FRAME_OWNED_BY_CSTACK` of 3.12 and 3.13, `FRAME_OWNED_BY_INTERPRETER` of 3.14: the owner of the frame that the
/// interpreter's function begins with. 3.14 has `FRAME_OWNED_BY_CSTACK` as well, 4, but no frame has it
/// (`entry.frame.owner` in <https://github.com/python/cpython/blob/v3.14.0/Python/ceval.c>).
const ENTRY_OWNER: u32 = 3;

/// Of one version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Without the address of `_PyRuntime`.
    pub(super) python: Python,
    /// Place of the pointer back to the interpreter in a thread state, bytes.
    pub(super) thread_interpreter: u32,
    pub(super) code: CodeLayout,
}

/// What is read of code objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodeLayout {
    /// Address of `PyCode_Type`, which each code object points to.
    pub(super) code_type: u64,
    /// Places in a code object, bytes, as the next ones: of the `str` of the qualified name,
    pub(super) qualname: u32,
    /// that of the file name,
    pub(super) filename: u32,
    /// the `bytes` of the location table,
    pub(super) linetable: u32,
    /// and the first line, an `int`.
    pub(super) first_line: u32,
    pub(super) text: StrLayout,
}

impl CodeLayout {
    /// Bytes from the beginning of a code object to the last that is asked for.
    pub(super) fn head_bytes(&self) -> usize {
        let words = [self.qualname, self.filename, self.linetable].map(|at| at + 8);
        let last = words.into_iter().max().unwrap_or(0);
        last.max(self.first_line + 4) as usize
    }
}

/// 3.11, as `offsetof` gives it with Debian's headers of 3.11.2.
pub(super) const V3_11: Layout = Layout {
    python: Python {
        interpreters_head: 40,
        interpreter_next: 0,
        threads_head: 16,
        thread_next: 8,
        thread_id: 152,
        thread_frame: 56,
        cframe_frame: 8,
        frame_code: 32,
        frame_previous: 48,
        frame_instruction: 56,
        // `is_entry`
        frame_boundary: 68,
        boundary_value: 1,
        boundary_is_extra: 0,
        code_instructions: 184,
        code_name: 0,
        reserved: 0,
        ..Python::ZERO
    },
    thread_interpreter: 16,
    code: CodeLayout {
        code_type: 0,
        qualname: 128,
        filename: 112,
        linetable: 136,
        first_line: 72,
        text: StrLayout {
            ascii_bytes: 48,
            compact_bytes: 72,
        },
    },
};

/// 3.12, as `offsetof` gives it with the headers of 3.12.1.
const V3_12: Layout = Layout {
    python: Python {
        interpreters_head: 40,
        interpreter_next: 0,
        threads_head: 72,
        thread_next: 8,
        thread_id: 136,
        thread_frame: 56,
        cframe_frame: 0,
        frame_code: 0,
        frame_previous: 8,
        frame_instruction: 56,
        // `owner`
        frame_boundary: 70,
        boundary_value: ENTRY_OWNER,
        boundary_is_extra: 1,
        code_instructions: 192,
        code_name: 0,
        reserved: 0,
        ..Python::ZERO
    },
    thread_interpreter: 16,
    code: CodeLayout {
        code_type: 0,
        qualname: 128,
        filename: 112,
        linetable: 136,
        first_line: 68,
        text: TEXT_SINCE_3_12,
    },
};

const TEXT_SINCE_3_12: StrLayout = StrLayout {
    ascii_bytes: 40,
    compact_bytes: 56,
};

/// Numbers of the words of `_Py_DebugOffsets` in one version.
struct DebugWords {
    interpreters_head: usize,
    interpreter_next: usize,
    threads_head: usize,
    thread_next: usize,
    thread_interpreter: usize,
    thread_frame: usize,
    thread_id: usize,
    frame_previous: usize,
    frame_code: usize,
    frame_instruction: usize,
    frame_owner: usize,
    code_filename: usize,
    code_qualname: usize,
    code_linetable: usize,
    code_first_line: usize,
    code_instructions: usize,
    object_type: usize,
    bytes_size: usize,
    bytes_data: usize,
    str_state: usize,
    str_length: usize,
    ascii_bytes: usize,
}

/// 3.13.
const WORDS_3_13: DebugWords = DebugWords {
    interpreters_head: 5,
    interpreter_next: 8,
    threads_head: 9,
    thread_next: 21,
    thread_interpreter: 22,
    thread_frame: 23,
    thread_id: 24,
    frame_previous: 29,
    frame_code: 30,
    frame_instruction: 31,
    frame_owner: 33,
    code_filename: 35,
    code_qualname: 37,
    code_linetable: 38,
    code_first_line: 39,
    code_instructions: 43,
    object_type: 45,
    bytes_size: 65,
    bytes_data: 66,
    str_state: 68,
    str_length: 69,
    ascii_bytes: 70,
};

/// 3.14.
const WORDS_3_14: DebugWords = DebugWords {
    interpreters_head: 5,
    interpreter_next: 8,
    threads_head: 9,
    thread_next: 24,
    thread_interpreter: 25,
    thread_frame: 26,
    thread_id: 27,
    frame_previous: 32,
    frame_code: 33,
    frame_instruction: 34,
    frame_owner: 36,
    code_filename: 40,
    code_qualname: 42,
    code_linetable: 43,
    code_first_line: 44,
    code_instructions: 48,
    object_type: 51,
    bytes_size: 75,
    bytes_data: 76,
    str_state: 78,
    str_length: 79,
    ascii_bytes: 80,
};

/// A version as `PY_VERSION_HEX` has it: what it is, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version(pub(super) u64);

impl Version {
    /// What `_Py_DebugOffsets` says, at the beginning of `_PyRuntime` since 3.13.
    pub(super) fn stated(memory: &impl Memory, runtime: u64) -> Option<Self> {
        let mut head = [0; 16];
        (memory.read(runtime, &mut head) && head.starts_with(COOKIE))
            .then(|| Self(u64_at(&head, 8)))
    }

    /// Major and minor number.
    pub(crate) fn minor(self) -> (u64, u64) {
        (self.0 >> 24 & 0xff, self.0 >> 16 & 0xff)
    }

    /// Whether it was published as a release, or as a candidate of one: others had other layouts.
    fn is_release(self) -> bool {
        self.0 >> 32 == 0 && self.0 >> 4 & 0xf >= 0xc
    }
}

impl Layout {
    /// The layout of a version, whose `_PyRuntime` is at an address. Reads at most 768 bytes.
    pub(super) fn of(version: Version, memory: &impl Memory, runtime: u64) -> Result<Self, Absent> {
        if !version.is_release() {
            return Err(Absent::Version(version));
        }
        let words = match version.minor() {
            (3, 11) => return Ok(V3_11),
            (3, 12) => return Ok(V3_12),
            (3, 13) => WORDS_3_13,
            (3, 14) => WORDS_3_14,
            _ => return Err(Absent::Version(version)),
        };
        let mut block = [0; DEBUG_WORDS * 8];
        if !memory.read(runtime, &mut block) {
            return Err(Absent::Unreadable);
        }
        Self::by_debug_offsets(version, &words, &block)
    }

    fn by_debug_offsets(
        version: Version,
        words: &DebugWords,
        block: &[u8],
    ) -> Result<Self, Absent> {
        let word = |index: usize| u64_at(block, index * 8);
        if !block.starts_with(COOKIE) || word(1) != version.0 {
            return Err(Absent::Offsets);
        }
        if word(2) != 0 {
            return Err(Absent::FreeThreaded);
        }
        let expected = [
            (words.object_type, OBJECT_TYPE as u64),
            (words.bytes_size, BYTES_SIZE),
            (words.bytes_data, BYTES_DATA),
            (words.str_state, STR_STATE as u64),
            (words.str_length, STR_LENGTH as u64),
            (words.ascii_bytes, TEXT_SINCE_3_12.ascii_bytes.into()),
        ];
        if expected.iter().any(|&(index, value)| word(index) != value) {
            return Err(Absent::Offsets);
        }
        // A pointer, but where it says how many bytes.
        let place = |index: usize, end: u64, bytes: u64, align: u64| {
            let at = word(index);
            let fits = at % align == 0 && at.checked_add(bytes).is_some_and(|last| last <= end);
            let at = u32::try_from(at).ok().filter(|_| fits);
            at.ok_or(Absent::Offsets)
        };
        let pointer = |index, end| place(index, end, 8, 8);
        let (frame, code) = (FRAME_BYTES as u64, MAX_CODE_BYTES as u64);
        Ok(Self {
            python: Python {
                runtime: 0,
                interpreters_head: pointer(words.interpreters_head, MAX_RUNTIME)?,
                interpreter_next: pointer(words.interpreter_next, MAX_RUNTIME)?,
                threads_head: pointer(words.threads_head, MAX_RUNTIME)?,
                thread_next: pointer(words.thread_next, MAX_THREAD)?,
                thread_id: pointer(words.thread_id, MAX_THREAD)?,
                thread_frame: pointer(words.thread_frame, MAX_THREAD)?,
                cframe_frame: DIRECT,
                frame_code: pointer(words.frame_code, frame)?,
                frame_previous: pointer(words.frame_previous, frame)?,
                frame_instruction: pointer(words.frame_instruction, frame)?,
                frame_boundary: place(words.frame_owner, frame, 1, 1)?,
                boundary_value: ENTRY_OWNER,
                boundary_is_extra: 1,
                code_instructions: place(words.code_instructions, code, 0, 2)?,
                code_name: 0,
                reserved: 0,
            },
            thread_interpreter: pointer(words.thread_interpreter, MAX_THREAD)?,
            code: CodeLayout {
                code_type: 0,
                qualname: pointer(words.code_qualname, code)?,
                filename: pointer(words.code_filename, code)?,
                linetable: pointer(words.code_linetable, code)?,
                first_line: place(words.code_first_line, code, 4, 4)?,
                text: TEXT_SINCE_3_12,
            },
        })
    }
}
