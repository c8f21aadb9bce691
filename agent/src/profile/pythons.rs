//! Python functions of the programs that are sampled, named while the programs live.

use std::{collections::HashMap, path::Path, sync::Arc, time::Instant};

use ctrscope_ebpf::{
    profile::{MAX_FRAMES, ProgramKey},
    python::Python,
};

use super::{
    process::Process,
    python::{Absent, Codes, Interpreter, Interpreters, ProcessMemory, PyFrame},
    raw::{PythonFrame, PythonStack},
};

/// Most programs with an interpreter that live: each has two files open.
const MAX_LIVING: usize = 1_024;
/// Most programs that are remembered, ended ones included.
const MAX_KNOWN: usize = 4_096;
/// Most bytes of stacks that are kept until their recording ends, and that are handed out then; names that several
/// frames share count for each.
const MAX_BYTES: usize = 16 << 20;

/// A program that was looked into.
#[derive(Debug)]
enum Known {
    /// It has no interpreter that can be walked.
    Without,
    With(Box<With>),
}

#[derive(Debug)]
struct With {
    interpreter: Interpreter,
    /// `None` where it has ended.
    memory: Option<ProcessMemory>,
    /// Stacks by their hash, with their bytes.
    stacks: HashMap<u64, (Arc<PythonStack>, usize)>,
}

/// A stack that is asked for: of which program, its hash, and its words.
pub(crate) type WantedStack = (ProgramKey, u64, Arc<[u64]>);

/// All of them. What it reads of processes may be on file systems that never answer: it belongs on a thread of its
/// own, that nobody waits for without an end.
#[derive(Debug, Default)]
pub(crate) struct Pythons {
    interpreters: Interpreters,
    codes: Codes,
    known: HashMap<ProgramKey, Known>,
    living: usize,
    kept: usize,
}

impl Pythons {
    /// Looks for the interpreter of a program; gives what the kernel side must know of one that was not known before.
    /// `is_new` says that its mappings are not those of the last time.
    pub(crate) fn look(
        &mut self,
        proc_root: &Path,
        key: ProgramKey,
        process: &Process,
        is_new: bool,
    ) -> Option<Python> {
        match self.known.get(&key) {
            Some(Known::With(_)) => return None,
            Some(Known::Without) if !is_new => return None,
            _ if self.living >= MAX_LIVING || self.known.len() >= MAX_KNOWN => return None,
            _ => {}
        }
        let found = ProcessMemory::open(proc_root, key.tgid, process)
            .map_err(|_| Absent::Unreadable)
            .and_then(|memory| Ok((self.interpreters.find(process, &memory)?, memory)));
        match found {
            Ok((interpreter, memory)) => {
                self.living += 1;
                tracing::debug!(
                    tgid = key.tgid,
                    version = ?interpreter.version.minor(),
                    "Python is walked"
                );
                let with = With {
                    interpreter,
                    memory: Some(memory),
                    stacks: HashMap::new(),
                };
                self.known.insert(key, Known::With(Box::new(with)));
                Some(interpreter.python)
            }
            Err(absent) => {
                tracing::trace!(tgid = key.tgid, %absent, "no Python");
                if absent.is_final() {
                    self.known.insert(key, Known::Without);
                }
                None
            }
        }
    }

    /// A program has ended: nothing more is to be read of it. What was named stays.
    pub(crate) fn ended(&mut self, key: ProgramKey) {
        if let Some(Known::With(with)) = self.known.get_mut(&key)
            && with.memory.take().is_some()
        {
            self.living -= 1;
        }
    }

    /// Names a stack that was just met, of these words.
    pub(crate) fn met(&mut self, key: ProgramKey, hash: u64, words: &[u64]) {
        if self.kept >= MAX_BYTES {
            return;
        }
        if let Some(Known::With(with)) = self.known.get_mut(&key)
            && let Some(stack) = named(&mut self.codes, key, with, words)
        {
            let bytes = bytes(&stack);
            self.kept += bytes;
            // What a recording that was broken off has left is of other functions, perhaps.
            if let Some((_, before)) = with.stacks.insert(hash, (Arc::new(stack), bytes)) {
                self.kept -= before;
            }
        }
    }

    /// Hands out stacks by their hash, which nobody will ask for again. Those that were not met are named now, until the
    /// deadline.
    pub(crate) fn take(
        &mut self,
        wanted: &[WantedStack],
        deadline: Instant,
    ) -> HashMap<u64, Arc<PythonStack>> {
        let mut taken = HashMap::new();
        let mut left = MAX_BYTES;
        for (key, hash, words) in wanted {
            let Some(Known::With(with)) = self.known.get_mut(key) else {
                continue;
            };
            let stack = match with.stacks.remove(hash) {
                Some((stack, bytes)) => {
                    self.kept -= bytes;
                    Some((stack, bytes))
                }
                None if Instant::now() >= deadline => None,
                None => named(&mut self.codes, *key, with, words).map(|stack| {
                    let bytes = bytes(&stack);
                    (Arc::new(stack), bytes)
                }),
            };
            if let Some((stack, bytes)) = stack
                && bytes <= left
            {
                left -= bytes;
                taken.insert(*hash, stack);
            }
        }
        taken
    }

    /// Forgets all programs; code objects stay for the next time.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
        (self.living, self.kept) = (0, 0);
    }
}

/// Memory that a stack takes if nobody shares its names.
fn bytes(stack: &PythonStack) -> usize {
    let frames = stack.runs.iter().flatten();
    let names = frames.map(|frame| frame.function.len() + frame.file.len());
    names
        .map(|bytes| bytes + size_of::<PythonFrame>())
        .sum::<usize>()
        + size_of_val(&*stack.unread)
        + size_of::<PythonStack>()
}

fn named(codes: &mut Codes, key: ProgramKey, with: &With, words: &[u64]) -> Option<PythonStack> {
    let memory = with.memory.as_ref()?;
    let runs = codes.runs(key, &with.interpreter.code, memory, words);
    let frame = |frame: PyFrame| PythonFrame {
        function: frame.qualname,
        file: frame.file,
        line: frame.line,
    };
    Some(PythonStack {
        unread: runs.iter().flat_map(|run| run.unread.clone()).collect(),
        runs: runs
            .into_iter()
            .map(|run| run.frames.into_iter().map(frame).collect())
            .collect(),
        is_truncated: words.len() >= MAX_FRAMES,
    })
}
