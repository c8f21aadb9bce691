//! Python functions of the programs that are sampled, named while the programs live.

use std::{collections::HashMap, path::Path, sync::Arc};

use ctrscope_ebpf::{
    profile::{MAX_FRAMES, ProgramKey},
    python::Python,
};

use super::{
    process::Process,
    python::{Absent, Codes, Interpreter, Interpreters, ProcessMemory, PyFrame},
    raw::{PythonFrame, PythonStack},
};

/// Most programs with an interpreter: each has a file open.
const MAX_PYTHONS: usize = 1_024;
/// Most frames of stacks that are kept until their recording ends, 40 bytes each; later ones are named at its end.
const MAX_KEPT_FRAMES: usize = 1 << 18;

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
    memory: ProcessMemory,
    /// Stacks by their hash.
    stacks: HashMap<u64, Arc<PythonStack>>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Pythons {
    interpreters: Interpreters,
    codes: Codes,
    known: HashMap<ProgramKey, Known>,
    count: usize,
    kept: usize,
}

impl Pythons {
    /// Looks for the interpreter of a program; gives what the kernel side must know of one that was not known before.
    /// `is_new` says that its mappings are not those of the last time.
    pub(super) fn look(
        &mut self,
        proc_root: &Path,
        key: ProgramKey,
        process: &Process,
        is_new: bool,
    ) -> Option<Python> {
        match self.known.get(&key) {
            Some(Known::With(_)) => return None,
            Some(Known::Without) if !is_new => return None,
            _ if self.count >= MAX_PYTHONS => return None,
            _ => {}
        }
        let found = ProcessMemory::open(proc_root, key.tgid, process)
            .map_err(|_| Absent::Unreadable)
            .and_then(|memory| Ok((self.interpreters.find(process, &memory)?, memory)));
        match found {
            Ok((interpreter, memory)) => {
                self.count += 1;
                tracing::debug!(
                    tgid = key.tgid,
                    version = ?interpreter.version.minor(),
                    "Python is walked"
                );
                let with = With {
                    interpreter,
                    memory,
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

    /// Names a stack that was just met, of these words.
    pub(super) fn met(&mut self, key: ProgramKey, hash: u64, words: &[u64]) {
        if self.kept + words.len() > MAX_KEPT_FRAMES {
            return;
        }
        if let Some(Known::With(with)) = self.known.get_mut(&key)
            && !with.stacks.contains_key(&hash)
        {
            let stack = named(&mut self.codes, key, with, words);
            self.kept += words.len();
            with.stacks.insert(hash, Arc::new(stack));
        }
    }

    /// Hands out a stack, which nobody will ask for again; one that was not met is named now.
    pub(super) fn take(
        &mut self,
        key: ProgramKey,
        hash: u64,
        words: &[u64],
    ) -> Option<Arc<PythonStack>> {
        let Some(Known::With(with)) = self.known.get_mut(&key) else {
            return None;
        };
        if let Some(stack) = with.stacks.remove(&hash) {
            self.kept = self.kept.saturating_sub(words.len());
            return Some(stack);
        }
        Some(Arc::new(named(&mut self.codes, key, with, words)))
    }

    /// Forgets all programs; code objects stay for the next time.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        (self.count, self.kept) = (0, 0);
    }
}

fn named(codes: &mut Codes, key: ProgramKey, with: &With, words: &[u64]) -> PythonStack {
    let runs = codes.runs(key, &with.interpreter.code, &with.memory, words);
    let frame = |frame: PyFrame| PythonFrame {
        function: frame.qualname,
        file: frame.file,
        line: frame.line,
    };
    PythonStack {
        runs: runs
            .into_iter()
            .map(|run| run.frames.into_iter().map(frame).collect())
            .collect(),
        is_truncated: words.len() >= MAX_FRAMES,
    }
}
