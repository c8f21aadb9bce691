//! Interpreters made up byte by byte, sound and hostile, and one that runs.

use std::{cell::RefCell, sync::Arc};

use ctrscope_ebpf::{
    profile::ProgramKey,
    python::{DIRECT, LAST_OF_RUN, MAX_PLACE, Python, STR_HASH, word},
};

mod live;
mod names;
mod offsets;

use self::offsets::{OFFSETS_3_13, OFFSETS_3_14};
use super::{layout::Layout, memory::StrLayout, *};

const RUNTIME: u64 = 0x10_0000;
const VERSION: u64 = 0x20_0000;
const CODE_TYPE: u64 = 0x20_1000;
const INTERPRETER: u64 = 0x30_0000;
const THREAD: u64 = 0x31_0000;
const CODE: u64 = 0x40_0000;
const QUALNAME: u64 = 0x50_0000;
const FILENAME: u64 = 0x51_0000;
const LINETABLE: u64 = 0x52_0000;
const PROGRAM: ProgramKey = ProgramKey { tgid: 7, id: 1 };

/// Pieces of memory, later ones before earlier ones.
#[derive(Default)]
struct Made {
    pieces: Vec<(u64, Vec<u8>)>,
    reads: RefCell<Vec<(u64, usize)>>,
}

impl Memory for Made {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.reads.borrow_mut().push((address, into.len()));
        let part = self.pieces.iter().rev().find_map(|(start, bytes)| {
            let at = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(at..at.checked_add(into.len())?)
        });
        if let Some(part) = part {
            into.copy_from_slice(part);
        }
        part.is_some()
    }
}

impl Made {
    fn put(&mut self, address: u64, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.pieces.push((address, bytes.into()));
        self
    }

    fn put_word(&mut self, address: u64, value: u64) -> &mut Self {
        self.put(address, value.to_le_bytes())
    }

    /// A `str` whose characters have so many bytes each.
    fn put_str(&mut self, address: u64, text: &str, width: usize, layout: StrLayout) -> &mut Self {
        let count = text.chars().count() as u64;
        let state = state(width, text.is_ascii());
        let bytes = text
            .chars()
            .flat_map(|c| u32::from(c).to_le_bytes()[..width].to_vec());
        self.put_raw_str(address, count, state, bytes.collect(), layout)
    }

    fn put_raw_str(
        &mut self,
        address: u64,
        length: u64,
        state: u32,
        data: Vec<u8>,
        layout: StrLayout,
    ) -> &mut Self {
        let is_ascii = state >> 6 & 1 == 1 || state >> 20 & 1 == 1;
        let head = if is_ascii {
            layout.ascii_bytes
        } else {
            layout.compact_bytes
        };
        let mut object = vec![0; head as usize];
        object[16..24].copy_from_slice(&length.to_le_bytes());
        object[32..36].copy_from_slice(&state.to_le_bytes());
        object.extend(data);
        self.put(address, object)
    }

    fn put_bytes(&mut self, address: u64, size: u64, data: &[u8]) -> &mut Self {
        let mut object = vec![0; 32];
        object[16..24].copy_from_slice(&size.to_le_bytes());
        object.extend(data);
        self.put(address, object)
    }

    /// A code object by its layout, with all that it points to.
    fn put_code(&mut self, address: u64, layout: &CodeLayout, pointers: [u64; 3], first_line: u32) {
        let mut object = vec![0; layout.head_bytes()];
        let mut write = |at: u32, bytes: &[u8]| {
            object[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        write(8, &layout.code_type.to_le_bytes());
        write(layout.qualname, &pointers[0].to_le_bytes());
        write(layout.filename, &pointers[1].to_le_bytes());
        write(layout.linetable, &pointers[2].to_le_bytes());
        write(layout.first_line, &first_line.to_le_bytes());
        self.put(address, object);
    }
}

fn state(width: usize, is_ascii: bool) -> u32 {
    // Interned, and all of it.
    2 | u32::try_from(width).unwrap() << 2 | 1 << 5 | u32::from(is_ascii) << 6
}

fn layout_of(version: u64, memory: &Made) -> Result<Layout, Absent> {
    Layout::of(Version(version), memory, RUNTIME)
}

fn v3_11() -> CodeLayout {
    let mut code = layout_of(0x030b_02f0, &Made::default()).unwrap().code;
    code.code_type = CODE_TYPE;
    code
}

/// The block of debug offsets of a release of 3.13, as 3.13.0 has it, or of 3.14.
fn debug_offsets(version: u64) -> Vec<u64> {
    let words = if version >> 16 == 0x030d {
        &OFFSETS_3_13[..]
    } else {
        &OFFSETS_3_14[..]
    };
    let mut block = vec![u64::from_le_bytes(*b"xdebugpy"), version, 0];
    block.extend(words);
    block.resize(96, 0);
    block
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// An interpreter of a version that runs one thread.
fn made(version: u64) -> Made {
    let mut memory = Made::default();
    memory.put_word(VERSION, version);
    memory.put_word(CODE_TYPE + 24, CODE_TYPE + 0x800);
    memory.put(CODE_TYPE + 0x800, *b"code\0");
    if version >> 16 >= 0x030d {
        memory.put(RUNTIME, bytes_of(&debug_offsets(version)));
    }
    let layout = layout_of(version, &memory).unwrap();
    let python = layout.python;
    memory.put_word(RUNTIME + u64::from(python.interpreters_head), INTERPRETER);
    memory.put_word(INTERPRETER + u64::from(python.threads_head), THREAD);
    memory.put_word(THREAD + u64::from(layout.thread_interpreter), INTERPRETER);
    memory
}

fn find(memory: &Made) -> Result<Interpreter, Absent> {
    Interpreter::at([RUNTIME, VERSION, CODE_TYPE], memory)
}

#[test]
fn an_interpreter_of_each_version_is_found() {
    for version in [
        0x030b_02f0,
        0x030c_01f0,
        0x030d_00f0,
        0x030e_00f0,
        0x030e_00c1,
    ] {
        let interpreter = find(&made(version)).unwrap();
        assert_eq!(interpreter.python.runtime, RUNTIME);
        assert_eq!(interpreter.code.code_type, CODE_TYPE);
        assert_eq!(interpreter.version, Version(version));
        let is_direct = interpreter.python.cframe_frame == DIRECT;
        assert_eq!(is_direct, version >= 0x030d_0000);
    }
}

#[test]
fn a_version_that_cannot_be_read_is_that_of_the_debug_offsets() {
    let without = |version: u64| {
        let mut memory = made(version);
        memory.pieces.retain(|(address, _)| *address != VERSION);
        find(&memory).map(|interpreter| interpreter.version)
    };
    assert_eq!(without(0x030e_0af0), Ok(Version(0x030e_0af0)));
    assert_eq!(without(0x030d_00f0), Ok(Version(0x030d_00f0)));
    assert_eq!(without(0x030c_01f0), Err(Absent::Unreadable));
}

#[test]
fn layouts_by_debug_offsets_are_those_of_the_headers() {
    let layout = find(&made(0x030d_00f0)).unwrap();
    let python = layout.python;
    let frame = [
        python.frame_code,
        python.frame_previous,
        python.frame_instruction,
        python.frame_boundary,
    ];
    assert_eq!(frame, [0, 8, 56, 70]);
    assert_eq!(python.code_instructions, 200);
    let layout = find(&made(0x030e_00f0)).unwrap();
    let python = layout.python;
    let frame = [
        python.frame_code,
        python.frame_previous,
        python.frame_instruction,
        python.frame_boundary,
    ];
    assert_eq!(frame, [0, 8, 56, 74]);
}

#[test]
fn what_is_not_known_is_said() {
    let absent = |version: u64| layout_of(version, &Made::default()).unwrap_err();
    for version in [
        0,
        0x030a_0cf0,
        0x030f_00f0,
        0x040b_00f0,
        0x030b_00a7,
        0x030c_00b4,
        0x1_030b_02f0,
        u64::MAX,
    ] {
        assert_eq!(absent(version), Absent::Version(Version(version)));
    }
    assert_eq!(absent(0x030d_00f0), Absent::Unreadable);
    let with = |index: usize, value: u64| {
        let mut memory = made(0x030d_00f0);
        let mut block = debug_offsets(0x030d_00f0);
        block[index] = value;
        memory.put(RUNTIME, bytes_of(&block));
        find(&memory).err()
    };
    assert_eq!(with(0, 0), Some(Absent::Offsets));
    assert_eq!(with(1, 0x030d_01f0), Some(Absent::Offsets));
    assert_eq!(with(2, 1), Some(Absent::FreeThreaded));
    // Places of pointers in frames and code objects, the type, and heads of bytes and of text.
    for index in [
        5, 9, 21, 23, 30, 31, 33, 35, 37, 38, 39, 43, 45, 65, 66, 68, 69, 70,
    ] {
        for value in [u64::MAX, u64::MAX - 7, 1 << 32, 1 << 31] {
            assert_eq!(
                with(index, value),
                Some(Absent::Offsets),
                "{index} {value:x}"
            );
        }
    }
    // Not aligned, and a pointer beyond what is read of a frame.
    assert_eq!(with(31, 57), Some(Absent::Offsets));
    assert_eq!(with(31, 128), Some(Absent::Offsets));
}

#[test]
fn objects_that_are_others_are_not_read() {
    // With `Py_TRACE_REFS` the type comes where the name is looked for.
    let mut memory = made(0x030b_02f0);
    memory.put_word(CODE_TYPE + 24, CODE_TYPE);
    assert_eq!(find(&memory).err(), Some(Absent::Objects));
    memory.put_word(CODE_TYPE + 24, u64::MAX);
    assert_eq!(find(&memory).err(), Some(Absent::Objects));
    // Before it runs, and with a thread of another.
    for (address, value) in [
        (RUNTIME + 40, 0),
        (RUNTIME + 40, INTERPRETER + 1),
        (INTERPRETER + 16, 0),
        (THREAD + 16, INTERPRETER + 8),
    ] {
        let mut memory = made(0x030b_02f0);
        memory.put_word(address, value);
        let absent = find(&memory).unwrap_err();
        assert_eq!(absent, Absent::NotRunning);
        assert!(!absent.is_final());
    }
    let gone = find(&Made::default()).unwrap_err();
    assert_eq!(gone, Absent::Unreadable);
    assert!(Absent::Objects.is_final());
}
