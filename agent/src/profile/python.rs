//! Names of the Python functions in a stack, which a native walk shows as frames of the interpreter.
//!
//! The kernel side walks the interpreter's own list of frames by the offsets of
//! [`Python`](ctrscope_ebpf::python::Python), which
//! [`Interpreters`] finds for a process, and stores words ([`ctrscope_ebpf::python`]). [`Codes`] turns words into
//! names, files and lines while the process lives, since all of these are in its memory alone.
//!
//! CPython 3.11 to 3.14 with a global lock, release builds. Older and newer ones, free-threaded builds, those with `Py_TRACE_REFS`, and
//! programs that hold an interpreter under another name than `python` have no Python frames, and [`Absent`] says why.
//!
//! Everything that is read is the process' own and hostile: it is bounded, cleaned, and may be anything.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ctrscope_ebpf::python::Python;

mod code;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod layout;
mod lines;
mod memory;
#[cfg(test)]
mod tests;

#[cfg(test)]
use self::code::Run;
pub(crate) use self::{
    code::{Codes, PyFrame},
    layout::{CodeLayout, Version},
    memory::{Memory, ProcessMemory},
};
use self::{
    layout::Layout,
    memory::{TYPE_NAME, is_pointer},
};
use super::{
    elf::{Budget, Objects},
    image::{FileIdentity, Image},
    maps::Mapping,
    process::Process,
};

/// What is looked for in a program: both are exported by every build since 3.11, as is the type of code objects.
const OBJECTS: [&str; 3] = ["_PyRuntime", "Py_Version", "PyCode_Type"];
/// `tp_name` of that type.
const CODE_NAME: &[u8; 5] = b"code\0";
/// Files of one process that are looked into, which have `python` in their names.
const MAX_IMAGES: usize = 8;
/// Files whose variables are remembered.
const MAX_FILES: usize = 256;
/// What may be read of one file, bytes, and how long.
const MAX_BYTES: u64 = 64 << 20;
const MAX_TIME: Duration = Duration::from_secs(1);

/// Why a process has no Python frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Absent {
    /// It has mapped no file that holds an interpreter.
    #[error("no interpreter")]
    NoInterpreter,
    /// It has one without `Py_Version`.
    #[error("an interpreter before 3.11, or without exported variables")]
    Old,
    /// It has one whose layout is not known.
    #[error("an interpreter whose layout is not known: {:?}", .0.minor())]
    Version(Version),
    /// It has one without a global lock.
    #[error("a free-threaded interpreter")]
    FreeThreaded,
    /// What the interpreter says of its layout makes no sense.
    #[error("an interpreter whose own offsets make no sense")]
    Offsets,
    /// Objects are not as they are in release builds.
    #[error("an interpreter whose objects are others, such as with Py_TRACE_REFS")]
    Objects,
    /// It has not begun to run, or its threads were changing. Worth another look.
    #[error("an interpreter that is not running yet")]
    NotRunning,
    /// The memory could not be read: the process has ended. Or its file could not be.
    #[error("memory or program not readable")]
    Unreadable,
}

impl Absent {
    /// Whether another look at the same mappings would find the same.
    pub(crate) fn is_final(self) -> bool {
        !matches!(self, Self::NotRunning | Self::Unreadable)
    }
}

/// The interpreter of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interpreter {
    /// For the kernel side.
    pub(crate) python: Python,
    /// For [`Codes`].
    pub(crate) code: CodeLayout,
    /// Which it is.
    pub(crate) version: Version,
}

/// Finds interpreters; remembers where the variables of 256 files are.
#[derive(Debug, Default)]
pub(crate) struct Interpreters {
    objects: HashMap<FileIdentity, Option<Objects<{ OBJECTS.len() }>>>,
}

impl Interpreters {
    /// Finds the interpreter of a process. 7 µs on a virtual machine for a program whose file was looked into before,
    /// otherwise 30 to 70 µs with symbols that are in the page cache; without the looks at `pagemap`.
    ///
    /// # Errors
    ///
    /// There is none, or none that is known.
    pub(crate) fn find(
        &mut self,
        process: &Process,
        memory: &impl Memory,
    ) -> Result<Interpreter, Absent> {
        let mut absent = Absent::NoInterpreter;
        let mut seen = Vec::new();
        for mapping in process.mappings.iter().filter(|mapping| may_hold(mapping)) {
            let Some(image) = mapping.image.as_deref() else {
                absent = Absent::Unreadable;
                continue;
            };
            if seen.contains(&image.identity) {
                continue;
            }
            if seen.len() >= MAX_IMAGES {
                break;
            }
            seen.push(image.identity);
            let Some(objects) = self.objects(image) else {
                absent = Absent::Unreadable;
                continue;
            };
            // The program comes before its libraries, in memory too, and what it defines is used by them.
            let [Some(runtime), version, code_type] = objects.addresses else {
                continue;
            };
            let Some((version, code_type)) = version.zip(code_type) else {
                return Err(Absent::Old);
            };
            let bias = objects.bias(mapping.start, mapping.offset);
            let bias = bias.ok_or(Absent::Unreadable)?;
            let addresses = [runtime, version, code_type].map(|at| at.wrapping_add(bias));
            return Interpreter::at(addresses, memory);
        }
        Err(absent)
    }

    /// Where the variables of a file are; `None` if it could not be read.
    fn objects(&mut self, image: &Image) -> Option<Objects<{ OBJECTS.len() }>> {
        if let Some(known) = self.objects.get(&image.identity) {
            return known.clone();
        }
        let mut budget = Budget {
            bytes: MAX_BYTES,
            deadline: Instant::now() + MAX_TIME,
        };
        let found = Objects::find(&image.file, OBJECTS, &mut budget);
        if let Err(error) = &found {
            tracing::debug!(%error, "variables of an interpreter not found");
        }
        if self.objects.len() >= MAX_FILES {
            self.objects.clear();
        }
        // What took too long would take as long again.
        let objects = found.ok();
        self.objects.insert(image.identity, objects.clone());
        objects
    }
}

#[cfg(test)]
impl Interpreter {
    /// One of 3.11 of which nothing is known but the type of code objects.
    pub(super) fn made(code_type: u64) -> Self {
        Self {
            python: Python::ZERO,
            code: CodeLayout {
                code_type,
                ..layout::V3_11.code
            },
            version: Version(0x030b_02f0),
        }
    }
}

impl Interpreter {
    /// The interpreter whose `_PyRuntime`, `Py_Version` and `PyCode_Type` are at these addresses.
    fn at(addresses: [u64; 3], memory: &impl Memory) -> Result<Self, Absent> {
        let [runtime, version, code_type] = addresses;
        let read = |address: u64| memory.word(address).ok_or(Absent::Unreadable);
        // `Py_Version` may stand in a page of the file that nothing has touched yet, which is not read: so it is in Debian's
        // 3.14.
        let version = match memory.word(version) {
            Some(version) => Version(version),
            None => Version::stated(memory, runtime).ok_or(Absent::Unreadable)?,
        };
        let mut layout = Layout::of(version, memory, runtime)?;
        let name = read(code_type.wrapping_add(TYPE_NAME))?;
        let mut text = [0; CODE_NAME.len()];
        if !memory.read(name, &mut text) || text != *CODE_NAME {
            return Err(Absent::Objects);
        }
        layout.python.runtime = runtime;
        layout.python.code_name = layout.code.qualname;
        layout.code.code_type = code_type;
        // The first thread of the first interpreter points back to it.
        let at = |base: u64, offset: u32| {
            let address = read(base.wrapping_add(offset.into()))?;
            is_pointer(address)
                .then_some(address)
                .ok_or(Absent::NotRunning)
        };
        let interpreter = at(runtime, layout.python.interpreters_head)?;
        let thread = at(interpreter, layout.python.threads_head)?;
        if at(thread, layout.thread_interpreter)? != interpreter {
            return Err(Absent::NotRunning);
        }
        Ok(Self {
            python: layout.python,
            code: layout.code,
            version,
        })
    }
}

/// Whether a file may be an interpreter: `python3.11`, `libpython3.11.so.1.0`. Extension modules are called after their
/// interpreter too, such as `_ssl.cpython-311-x86_64-linux-gnu.so`.
pub(super) fn may_hold(mapping: &Mapping) -> bool {
    let name = mapping.module();
    mapping.is_file() && name.contains("python") && !name.contains(".cpython-")
}
