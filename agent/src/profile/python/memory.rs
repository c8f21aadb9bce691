//! The memory of a process, and the objects of Python in it.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use super::super::{
    elf::{u32_at, u64_at},
    process::{self, Process},
};

/// Place of the type in each object, bytes, as the next ones; 3.11 to 3.14
/// (<https://github.com/python/cpython/blob/v3.11.2/Include/object.h>). Other in builds with `Py_TRACE_REFS` and in
/// free-threaded ones.
pub(super) const OBJECT_TYPE: usize = 8;
/// Of the name in a type, a pointer to text that ends with 0.
pub(super) const TYPE_NAME: u64 = 24;
/// Of the number of bytes in a `bytes`, and of the bytes.
pub(super) const BYTES_SIZE: u64 = 16;
pub(super) const BYTES_DATA: u64 = 32;
/// Of the number of characters in a `str`, and of its state
/// (<https://github.com/python/cpython/blob/v3.11.2/Include/cpython/unicodeobject.h>).
pub(super) const STR_LENGTH: usize = 16;
pub(super) const STR_STATE: usize = 32;
/// What of a `str` is read before its characters.
const STR_HEAD_BYTES: usize = STR_STATE + 4;

/// Most characters of a `str`, and most bytes of a `bytes`, that it is believed to have.
const MAX_LENGTH: u64 = 1 << 31;

/// Memory of a process that is alive, or one that was made.
pub(crate) trait Memory {
    /// Reads as many bytes as asked for, or says that it cannot. What is read may be changing.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;

    /// A word of 64 bits.
    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)
            .then(|| u64::from_le_bytes(bytes))
    }
}

/// Memory of a process, read through `/proc/PID/mem`: 1 µs each time on a virtual machine, and a look at `pagemap` for
/// each page before it. Once open, it is that of
/// one address space for good: when the process has ended or runs another program, nothing is to be read of it.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    file: File,
    /// `/proc/PID/pagemap`.
    pages: File,
    page_bytes: u64,
}

/// Set in an entry of `pagemap` where the page is in memory (`Documentation/admin-guide/mm/pagemap.rst`).
const PRESENT: u64 = 1 << 63;

impl ProcessMemory {
    /// Opens the memory of a process that was looked at, if it still is that process.
    ///
    /// # Errors
    ///
    /// The process has gone or runs another program (`NotFound`), or may not be traced: without CAP_SYS_PTRACE, those
    /// of other users and those with more capabilities.
    pub(crate) fn open(proc_root: &Path, tgid: u32, process: &Process) -> io::Result<Self> {
        let folder = process::folder(proc_root, process.task);
        let file = File::open(folder.join("mem"))?;
        let pages = File::open(folder.join("pagemap"))?;
        if process.is_still(proc_root, tgid) {
            Ok(Self {
                file,
                pages,
                page_bytes: rustix::param::page_size() as u64,
            })
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

impl ProcessMemory {
    /// Whether all pages of some bytes are in memory. Others are not read: the one who reads would wait for the file system
    /// that they come from, which may never answer.
    fn is_present(&self, address: u64, bytes: usize) -> bool {
        let Some(last) = address.checked_add((bytes as u64).max(1) - 1) else {
            return false;
        };
        (address / self.page_bytes..=last / self.page_bytes).all(|page| {
            let mut entry = [0; 8];
            let read = page
                .checked_mul(8)
                .map(|at| self.pages.read_exact_at(&mut entry, at));
            matches!(read, Some(Ok(()))) && u64::from_ne_bytes(entry) & PRESENT != 0
        })
    }
}

impl Memory for ProcessMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.is_present(address, into.len()) && self.file.read_exact_at(into, address).is_ok()
    }
}

/// How large the heads of `str` objects are, bytes: their characters follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StrLayout {
    /// Of one that is ASCII.
    pub(super) ascii_bytes: u32,
    /// Of all others that are compact.
    pub(super) compact_bytes: u32,
}

impl StrLayout {
    /// Reads a `str`: all of it, or the first and the last characters with `…` between, `most` at most. `None` where
    /// there is none. Two or three reads, 4 bytes of memory each character.
    pub(super) fn read(self, memory: &impl Memory, address: u64, most: usize) -> Option<String> {
        let mut head = [0; STR_HEAD_BYTES];
        if !is_pointer(address) || !memory.read(address, &mut head) {
            return None;
        }
        let length = u64_at(&head, STR_LENGTH);
        let state = State::of(u32_at(&head, STR_STATE))?;
        if length > MAX_LENGTH {
            return None;
        }
        let bytes = if state.is_ascii {
            self.ascii_bytes
        } else {
            self.compact_bytes
        };
        let data = address.checked_add(bytes.into())?;
        let whole = usize::try_from(length)
            .ok()
            .filter(|&length| length <= most);
        if let Some(length) = whole {
            return state.characters(memory, data, length);
        }
        let half = (most - 1) / 2;
        let rest = (length - half as u64) * state.width as u64;
        let begin = state.characters(memory, data, half)?;
        let end = state.characters(memory, data.checked_add(rest)?, half)?;
        Some(format!("{begin}…{end}"))
    }
}

/// What the state of a `str` says: whether it is ASCII, and bytes of a character.
#[derive(Clone, Copy, Debug)]
struct State {
    is_ascii: bool,
    width: usize,
}

impl State {
    /// Compact ones alone: others are of classes derived from `str`, which name no code.
    fn of(state: u32) -> Option<Self> {
        // 2 bits of how it is interned come first, or 16 of them, which are less than 4 all the same: a compact one
        // of the first kind has a bit above them.
        let bits = if state & 0xffff < 4 {
            state >> 16
        } else {
            state >> 2
        };
        let width = bits & 7;
        let (is_compact, is_ascii) = (bits & 8 != 0, bits & 16 != 0);
        let is_sound = matches!(width, 1 | 2 | 4) && (width == 1 || !is_ascii);
        (is_compact && is_sound).then_some(Self {
            is_ascii,
            width: width as usize,
        })
    }

    fn characters(self, memory: &impl Memory, address: u64, count: usize) -> Option<String> {
        let mut bytes = vec![0; count * self.width];
        if !memory.read(address, &mut bytes) {
            return None;
        }
        let code = |bytes: &[u8]| {
            let mut whole = [0; 4];
            whole[..bytes.len()].copy_from_slice(bytes);
            // A surrogate stands for a byte of a file name that is no UTF-8.
            char::from_u32(u32::from_le_bytes(whole)).unwrap_or(char::REPLACEMENT_CHARACTER)
        };
        Some(bytes.chunks_exact(self.width).map(code).collect())
    }
}

/// Reads a `bytes`, the first `most` of it.
pub(super) fn read_bytes(memory: &impl Memory, address: u64, most: usize) -> Option<Vec<u8>> {
    if !is_pointer(address) {
        return None;
    }
    let size = memory.word(address.checked_add(BYTES_SIZE)?)?;
    if size > MAX_LENGTH {
        return None;
    }
    let size = usize::try_from(size).map_or(most, |size| size.min(most));
    let mut bytes = vec![0; size];
    memory
        .read(address.checked_add(BYTES_DATA)?, &mut bytes)
        .then_some(bytes)
}

/// Whether it may point to an object or a struct: not null, and aligned.
pub(super) fn is_pointer(address: u64) -> bool {
    address != 0 && address.is_multiple_of(8)
}
