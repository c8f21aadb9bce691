//! Names and lines of Python functions, from the code objects in the memory of a process.

use std::{collections::HashMap, mem, sync::Arc};

use ctrscope_ebpf::{
    profile::ProgramKey,
    python::{self, STR_HASH},
};

use super::{
    super::{
        elf::{u32_at, u64_at},
        frame_name::{UNKNOWN, clean},
    },
    layout::{CodeLayout, MAX_CODE_BYTES},
    lines::Lines,
    memory::{Memory, OBJECT_TYPE, read_bytes},
};
use crate::unprintable::is_unprintable;

/// Code objects that are remembered, and bytes of them; half of either, unless all are in use.
const MAX_CODES: usize = 16_384;
const MAX_BYTES: usize = 8 << 20;
/// Most words of a stack that are looked at.
const MAX_WORDS: usize = 1_024;
/// Longest name and longest file name, bytes: longer ones are cut in the middle. No more characters are read of them.
const MAX_NAME_BYTES: usize = 500;
const MAX_FILE_BYTES: usize = 4_096;
/// Largest location table, bytes: places that only the rest of a larger one knows have no line.
const MAX_TABLE_BYTES: usize = 64 << 10;

/// A frame of a Python function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PyFrame {
    /// The qualified name, such as `Parser.read.<locals>.line` or `<module>`, cleaned; `[unknown]` where it could not
    /// be read. At most [`super::super::frame_name::MAX_FRAME_BYTES`].
    pub(crate) qualname: Arc<str>,
    /// The file, as the function was compiled from it, without control characters; empty where it is not known. At
    /// most 4096 bytes.
    pub(crate) file: Arc<str>,
    /// The line in it, 0 where it is not known.
    pub(crate) line: u32,
}

/// The Python functions that one frame of `_PyEval_EvalFrameDefault` stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// The innermost first. None where the interpreter was about to begin or to end.
    pub(crate) frames: Vec<PyFrame>,
    /// Whether it is known with its outermost one; otherwise the walk ended within it.
    pub(crate) is_whole: bool,
    /// Addresses of the code objects among them that could not be read.
    pub(crate) unread: Vec<u64>,
}

/// What tells code objects that were at an address one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    qualname: u64,
    filename: u64,
    linetable: u64,
    first_line: u32,
    /// The hash of the qualified name: a new function is often at the very addresses of one that has gone.
    digest: u64,
}

/// What is known of a code object.
#[derive(Debug)]
struct Code {
    qualname: Arc<str>,
    file: Arc<str>,
    lines: Lines,
    /// None of the program's functions, but one of the interpreter's own.
    is_internal: bool,
}

#[derive(Debug)]
struct Known {
    identity: Identity,
    code: Arc<Code>,
    /// The stack for which the identity was read last.
    stack: u64,
}

/// Code objects that were read, of all programs: at most 16,384 and 8 MB. Those that were not asked for since half as
/// many others were are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Codes {
    recent: HashMap<(ProgramKey, u64), Known>,
    recent_bytes: usize,
    older: HashMap<(ProgramKey, u64), Known>,
    /// Stacks so far.
    stacks: u64,
}

/// What stands at the address of a code object.
enum Found {
    Code(Identity),
    Another,
    Unreadable,
}

impl Codes {
    /// Names the frames of a stack of words, the innermost first, and tells the runs apart. Two reads for each
    /// code object in it, and six more for one that is new: 9 µs for 9 frames of 7 functions on a virtual machine, and
    /// 70 µs the first time, without the looks at `pagemap`. What cannot be read any more is named as before.
    pub(crate) fn runs(
        &mut self,
        program: ProgramKey,
        layout: &CodeLayout,
        memory: &impl Memory,
        words: &[u64],
    ) -> Vec<Run> {
        self.stacks += 1;
        let mut runs = Vec::new();
        let mut run = Run::default();
        for &word in words.iter().take(MAX_WORDS) {
            if python::code(word) != 0 {
                let address = python::code(word);
                let code = self.code(program, layout, memory, address);
                if code.is_none() {
                    run.unread.push(address);
                }
                run.frames
                    .extend(frame(code.as_deref(), python::place(word)));
            }
            if python::is_last(word) {
                run.is_whole = true;
                runs.push(mem::take(&mut run));
            }
        }
        if !run.frames.is_empty() {
            runs.push(run);
        }
        runs
    }

    /// The code object at an address.
    fn code(
        &mut self,
        program: ProgramKey,
        layout: &CodeLayout,
        memory: &impl Memory,
        address: u64,
    ) -> Option<Arc<Code>> {
        let key = (program, address);
        let known = match self.recent.remove(&key) {
            Some(known) => {
                self.recent_bytes -= known.code.bytes();
                Some(known)
            }
            None => self.older.remove(&key),
        };
        if let Some(known) = known.as_ref()
            && known.stack == self.stacks
        {
            let code = Arc::clone(&known.code);
            self.keep(key, known.identity, &code);
            return Some(code);
        }
        let (identity, code) = match (look(layout, memory, address), known) {
            (Found::Code(identity), Some(known)) if known.identity == identity => {
                (identity, known.code)
            }
            (Found::Code(identity), _) => {
                (identity, Arc::new(Code::read(layout, memory, &identity)?))
            }
            (Found::Unreadable, Some(known)) => (known.identity, known.code),
            (Found::Unreadable, None) | (Found::Another, _) => return None,
        };
        self.keep(key, identity, &code);
        Some(code)
    }

    fn keep(&mut self, key: (ProgramKey, u64), identity: Identity, code: &Arc<Code>) {
        let bytes = code.bytes();
        let is_full = self.recent.len() >= MAX_CODES / 2;
        if is_full || self.recent_bytes + bytes > MAX_BYTES / 2 {
            self.older = mem::take(&mut self.recent);
            self.recent_bytes = 0;
        }
        self.recent_bytes += bytes;
        let known = Known {
            identity,
            code: Arc::clone(code),
            stack: self.stacks,
        };
        self.recent.insert(key, known);
    }

    /// Code objects that are remembered, and bytes of them.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        let all = || self.recent.values().chain(self.older.values());
        (all().count(), all().map(|known| known.code.bytes()).sum())
    }
}

/// Looks at what is at an address.
fn look(layout: &CodeLayout, memory: &impl Memory, address: u64) -> Found {
    let mut head = [0; MAX_CODE_BYTES];
    let bytes = layout.head_bytes().min(MAX_CODE_BYTES);
    if !memory.read(address, &mut head[..bytes]) {
        return Found::Unreadable;
    }
    if u64_at(&head, OBJECT_TYPE) != layout.code_type {
        return Found::Another;
    }
    let pointer = |at: u32| u64_at(&head, at as usize);
    let qualname = pointer(layout.qualname);
    let digest = memory.word(qualname.wrapping_add(STR_HASH.into()));
    Found::Code(Identity {
        qualname,
        digest: digest.unwrap_or(0),
        filename: pointer(layout.filename),
        linetable: pointer(layout.linetable),
        first_line: u32_at(&head, layout.first_line as usize),
    })
}

impl Code {
    /// Reads what a code object points to; `None` where it has no name.
    fn read(layout: &CodeLayout, memory: &impl Memory, identity: &Identity) -> Option<Self> {
        let text = |address, most| layout.text.read(memory, address, most);
        let qualname = text(identity.qualname, MAX_NAME_BYTES)?;
        let file = text(identity.filename, MAX_FILE_BYTES).unwrap_or_default();
        let table = read_bytes(memory, identity.linetable, MAX_TABLE_BYTES).unwrap_or_default();
        // What calls `__init__` for a class that is called (3.13 and later): no function, and in no file.
        let is_internal = qualname == "__init__" && file == "__init__";
        Some(Self {
            qualname: clean(&shortened(qualname, MAX_NAME_BYTES)).into(),
            file: shortened(printable(&file), MAX_FILE_BYTES).into(),
            lines: Lines::decode(&table, identity.first_line),
            is_internal,
        })
    }

    /// Memory it takes with its place among those that are known, bytes.
    fn bytes(&self) -> usize {
        let text = self.qualname.len() + self.file.len();
        size_of::<Self>() + size_of::<Known>() + text + self.lines.bytes()
    }
}

/// A frame at a place; none for what is the interpreter's own.
fn frame(code: Option<&Code>, place: u64) -> Option<PyFrame> {
    let Some(code) = code else {
        return Some(PyFrame {
            qualname: UNKNOWN.into(),
            file: "".into(),
            line: 0,
        });
    };
    (!code.is_internal).then(|| PyFrame {
        qualname: Arc::clone(&code.qualname),
        file: Arc::clone(&code.file),
        line: code.lines.line(place),
    })
}

fn printable(text: &str) -> String {
    let shown = |c: char| if is_unprintable(c) { '?' } else { c };
    text.chars().map(shown).collect()
}

/// Cuts a text of more bytes in the middle.
pub(super) fn shortened(text: String, most_bytes: usize) -> String {
    if text.len() <= most_bytes {
        return text;
    }
    let half = (most_bytes - '…'.len_utf8()) / 2;
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    let begin = (0..=half).rev().find(is_boundary).unwrap_or(0);
    let end = (text.len() - half..).find(is_boundary);
    let end = end.unwrap_or(text.len());
    format!("{}…{}", &text[..begin], &text[end..])
}
