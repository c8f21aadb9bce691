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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ctrscope_ebpf::python::{LAST_OF_RUN, STR_HASH, word};

    use super::*;
    use crate::profile::python::Memory as _;

    const PROC: &str = "/proc";
    const CODE_TYPE: u64 = 0x1234_5670;
    const KEY: ProgramKey = ProgramKey { tgid: 7, id: 1 };

    /// Objects as 3.11 has them, in the memory of this process, which is read as that of another would be.
    #[repr(C, align(16))]
    struct Objects {
        code: [u64; 24],
        name: [u8; 1_024],
        file: [u8; 8_192],
    }

    fn put_str(into: &mut [u8], text: &[u8]) {
        into[16..24].copy_from_slice(&(text.len() as u64).to_le_bytes());
        let hash = STR_HASH as usize;
        into[hash..hash + 8].copy_from_slice(&7_u64.to_le_bytes());
        // Of one byte a character, compact, and ASCII.
        into[32..36].copy_from_slice(&(1_u32 << 2 | 1 << 5 | 1 << 6).to_le_bytes());
        into[48..48 + text.len()].copy_from_slice(text);
    }

    impl Objects {
        fn of(name: &[u8], file: &[u8]) -> Box<Self> {
            let mut objects = Box::new(Self {
                code: [0; 24],
                name: [0; 1_024],
                file: [0; 8_192],
            });
            put_str(&mut objects.name, name);
            put_str(&mut objects.file, file);
            objects.code[1] = CODE_TYPE;
            objects.code[112 / 8] = objects.file.as_ptr() as u64;
            objects.code[128 / 8] = objects.name.as_ptr() as u64;
            objects
        }

        fn word(&self) -> u64 {
            word(self.code.as_ptr() as u64, 0, true)
        }
    }

    /// This process, as one that has an interpreter.
    fn pythons() -> Pythons {
        let own = std::process::id();
        let process = Process::read(Path::new(PROC), own).unwrap();
        let memory = ProcessMemory::open(Path::new(PROC), own, &process).unwrap();
        let with = With {
            interpreter: Interpreter::made(CODE_TYPE),
            memory: Some(memory),
            stacks: HashMap::new(),
        };
        let mut pythons = Pythons::default();
        pythons.known.insert(KEY, Known::With(Box::new(with)));
        pythons.living = 1;
        pythons
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(600)
    }

    fn wanted(hash: u64, words: &[u64]) -> WantedStack {
        (KEY, hash, Arc::from(words))
    }

    fn names(stack: &PythonStack) -> Vec<&str> {
        let frames = stack.runs.iter().flatten();
        frames.map(|frame| &*frame.function).collect()
    }

    #[test]
    fn a_stack_is_named_when_it_is_met_and_handed_out_once() {
        let mut pythons = pythons();
        let objects = Objects::of(b"f", b"/a.py");
        pythons.met(KEY, 8, &[objects.word()]);
        assert!(pythons.kept > 0);
        // It may be gone by the end.
        pythons.ended(KEY);
        pythons.ended(KEY);
        assert_eq!(pythons.living, 0);
        let words = [objects.word()];
        let mut taken = pythons.take(&[wanted(8, &words), wanted(9, &words)], later());
        assert_eq!(names(&taken.remove(&8).unwrap()), ["f"]);
        assert!(taken.is_empty());
        assert_eq!(pythons.kept, 0);
        assert!(pythons.take(&[wanted(8, &words)], later()).is_empty());
    }

    #[test]
    fn a_stack_that_takes_the_place_of_another_counts_alone() {
        let mut pythons = pythons();
        let objects = Objects::of(b"f", b"/a.py");
        pythons.met(KEY, 8, &[objects.word()]);
        let before = pythons.kept;
        pythons.met(KEY, 8, &[objects.word()]);
        assert_eq!(pythons.kept, before);
    }

    #[test]
    fn after_the_deadline_nothing_is_read_any_more() {
        let mut pythons = pythons();
        let objects = Objects::of(b"f", b"/a.py");
        let words = [objects.word()];
        pythons.met(KEY, 8, &words);
        let all = [wanted(10, &words), wanted(8, &words), wanted(12, &words)];
        let taken = pythons.take(&all, Instant::now());
        assert_eq!(taken.keys().collect::<Vec<_>>(), [&8]);
        assert_eq!(pythons.take(&all, later()).len(), 3);
    }

    #[test]
    fn what_is_forgotten_has_no_names() {
        let mut pythons = pythons();
        let objects = Objects::of(b"f", b"/a.py");
        pythons.met(KEY, 8, &[objects.word()]);
        pythons.forget();
        assert_eq!((pythons.kept, pythons.living), (0, 0));
        let words = [objects.word()];
        assert!(pythons.take(&[wanted(8, &words)], later()).is_empty());
        pythons.met(KEY, 8, &words);
        assert_eq!(pythons.kept, 0);
    }

    #[test]
    fn no_more_is_kept_and_handed_out_than_there_is_room_for() {
        let mut pythons = pythons();
        // The longest that there may be, in as many frames as there may be.
        let objects = Objects::of(&[b'n'; 900], &[b'f'; 8_000]);
        let words = vec![objects.word(); MAX_FRAMES];
        let hashes: Vec<u64> = (1..200).map(|hash| hash * 2).collect();
        for hash in &hashes {
            pythons.met(KEY, *hash, &words);
        }
        let all: Vec<WantedStack> = hashes.iter().map(|hash| wanted(*hash, &words)).collect();
        let Some(Known::With(with)) = pythons.known.get(&KEY) else {
            unreachable!();
        };
        let one = with.stacks.values().map(|(_, bytes)| *bytes).max().unwrap();
        assert!(one > MAX_FRAMES * 4_096 && one < MAX_FRAMES * 5_000);
        assert!(pythons.kept >= MAX_BYTES && pythons.kept < MAX_BYTES + one);
        let taken = pythons.take(&all, later());
        let bytes: usize = taken.values().map(|stack| bytes(stack)).sum();
        assert!(bytes <= MAX_BYTES && bytes > MAX_BYTES - one);
        assert_eq!(pythons.kept, 0);
        assert!(taken.values().all(|stack| stack.is_truncated));
    }

    #[test]
    fn words_may_be_anything_and_any_number() {
        let mut pythons = pythons();
        let objects = Objects::of(b"f", b"/a.py");
        let nowhere = word(0x10, 3, false);
        let mut words = vec![LAST_OF_RUN, nowhere, objects.word(), u64::MAX, nowhere];
        words.resize(100_000, u64::MAX - 1);
        let taken = pythons.take(&[wanted(8, &words)], later());
        let stack = taken.get(&8).unwrap();
        assert_eq!(names(stack)[..3], ["[unknown]", "f", "[unknown]"]);
        assert_eq!(stack.unread[0], 0x10);
        assert!(stack.unread.len() < 2_000 && names(stack).len() < 2_000);
        assert!(stack.is_truncated);
        let none = pythons.take(&[wanted(10, &[])], later());
        assert_eq!(*none[&10], PythonStack::default());
    }

    #[test]
    fn programs_beyond_the_limit_are_not_looked_into() {
        let own = std::process::id();
        let process = Process::read(Path::new(PROC), own).unwrap();
        let other = ProgramKey { tgid: own, id: 1 };
        let mut pythons = pythons();
        pythons.living = MAX_LIVING;
        assert!(
            pythons
                .look(Path::new(PROC), other, &process, true)
                .is_none()
        );
        assert!(!pythons.known.contains_key(&other));
        // One of them has ended: this one is looked into, and has no interpreter.
        pythons.ended(KEY);
        assert!(
            pythons
                .look(Path::new(PROC), other, &process, true)
                .is_none()
        );
        assert!(matches!(pythons.known.get(&other), Some(Known::Without)));
        let Some(Known::With(with)) = pythons.known.get(&KEY) else {
            unreachable!();
        };
        assert!(
            with.memory
                .as_ref()
                .is_none_or(|memory| memory.word(0).is_none())
        );
    }
}
