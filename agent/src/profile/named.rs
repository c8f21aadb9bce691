//! Samples to stacks with names: what every format is written from.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    frame_name::{INLINED_SUFFIX, JIT_SUFFIX, KERNEL_SUFFIX, UNKNOWN, clean},
    kind::{ProfileType, Split},
    merge::{self, is_interpreter, merge},
    numbers::Numbers,
    raw::{Asked, Owner, ProfileLosses, PythonFrame, PythonStack, RawProfile},
    symbolize::{StackState, Symbolizer},
};
use ctrscope_ebpf::profile::{MAX_FRAMES, ProgramKey};

/// Stands at the root side of a stack whose walk ended in garbage.
pub(super) const BROKEN: &str = "[broken stack]";
/// Stands at the root side of a stack that is deeper than the limit.
pub(super) const TRUNCATED: &str = "[truncated]";

/// Most inlined functions of a stack: a file can claim 64 for each of its frames. The innermost are shown.
const MAX_INLINED: usize = 256;

/// Module of kernel frames.
pub(super) const KERNEL_MODULE: &str = "[kernel]";

/// Most bytes of names of Python functions; later ones are unknown.
const MAX_PYTHON_BYTES: usize = 8 << 20;

/// Where a frame's name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// A file.
    Native,
    /// A function that a compiler has put into the one before it; its name ends with [`INLINED_SUFFIX`].
    Inlined,
    /// Code of a just-in-time compiler; its name ends with [`JIT_SUFFIX`].
    Jit,
    /// A Python function; behind its name stand file and line in parentheses.
    Python,
    /// The kernel; its name ends with [`KERNEL_SUFFIX`].
    Kernel,
    /// No code: it says what is missing of the stack.
    Marker,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Name, cleaned ([`super::frame_name`]).
    pub name: Arc<str>,
    /// Name of the file; `[kernel]` and the like where there is none. Of a Python function the path of its source.
    pub module: Arc<str>,
    /// Line of the source, from 1 on; 0 is not known.
    pub line: u32,
    /// Of a Python function its name alone, else empty.
    pub function: Arc<str>,
    /// Where its name comes from.
    pub kind: FrameKind,
}

impl Frame {
    /// One that says what is missing.
    pub(super) fn marker(name: &str) -> Self {
        Self {
            name: name.into(),
            module: "".into(),
            line: 0,
            function: "".into(),
            kind: FrameKind::Marker,
        }
    }

    /// One of a Python function.
    fn python(frame: &PythonFrame) -> Self {
        Self {
            name: clean(&frame.label()).into(),
            module: Arc::clone(&frame.file),
            line: frame.line,
            function: Arc::clone(&frame.function),
            kind: FrameKind::Python,
        }
    }

    /// Its name without the mark of its kind.
    #[must_use]
    pub fn plain_name(&self) -> &str {
        let suffix = match self.kind {
            FrameKind::Kernel => KERNEL_SUFFIX,
            FrameKind::Jit => JIT_SUFFIX,
            FrameKind::Inlined => INLINED_SUFFIX,
            FrameKind::Native | FrameKind::Marker => "",
            FrameKind::Python => return &self.function,
        };
        self.name.strip_suffix(suffix).unwrap_or(&self.name)
    }
}

/// One stack with names, and what was counted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedStack {
    /// Index of its container in [`Profile::owners`].
    pub owner: u32,
    /// Name of its process, cleaned.
    pub process: Arc<str>,
    /// Its process; 0 where processes of one name are together.
    pub tgid: u32,
    /// Name of its thread, cleaned; empty where threads are not told apart.
    pub thread: Arc<str>,
    /// Its thread; 0 where threads are not told apart.
    pub tid: u32,
    /// Indexes of its frames in [`Profile::frames`], the outermost first, user frames then kernel
    /// frames.
    pub frames: Box<[u32]>,
    /// How often.
    pub count: u64,
    /// How long together, nanoseconds.
    pub ns: u64,
}

/// A profile with names, and what is known about its quality.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// What was measured.
    pub profile_type: ProfileType,
    /// How finely stacks are told apart.
    pub split: Split,
    /// Containers.
    pub owners: Vec<Arc<Owner>>,
    /// Distinct frames.
    pub frames: Vec<Frame>,
    /// Distinct stacks.
    pub stacks: Vec<NamedStack>,
    /// Sum of the stacks' counts.
    pub count: u64,
    /// Sum of the stacks' times, nanoseconds.
    pub ns: u64,
    /// Counts by the state of the user stack.
    pub user_stacks: StackCounts,
    /// Of those that were cut, why: [`ctrscope_ebpf::walk::STOPS`].
    pub cuts: BTreeMap<&'static str, u64>,
    /// Distinct addresses that have a name, and distinct places in Python functions that have one.
    pub symbol_hits: u64,
    /// Distinct addresses that have none, and distinct Python functions that could not be read.
    pub symbol_misses: u64,
    /// What was left out of inlined functions.
    pub inlined_left_out: InlinedLeftOut,
    /// When it began, milliseconds since the epoch.
    pub began_unix_ms: u64,
    /// How long it took, seconds.
    pub seconds: f64,
    /// Samples per second and CPU, Hz; 0 where every event is counted.
    pub frequency: u32,
    /// What was asked for.
    pub asked: Asked,
    /// What is missing.
    pub losses: ProfileLosses,
}

/// Of what inlined functions were left out because of a bound; nothing where none were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InlinedLeftOut {
    /// Files whose debug information is too large, or took too long.
    pub files: u64,
    /// Distinct stacks with more than are shown of one.
    pub stacks: u64,
}

/// Counts by the state of the user stack ([`StackState`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackCounts {
    /// No user stack: kernel threads.
    pub absent: u64,
    /// Walked to the outermost frame.
    pub complete: u64,
    /// Walked by frame pointers alone, which can pass over frames and end too early.
    pub pointers: u64,
    /// Cut where the walk left executable memory, or could not go on.
    pub cut: u64,
    /// As deep as the limit.
    pub truncated: u64,
    /// Of processes that were gone before their mappings were read.
    pub unmapped: u64,
}

impl StackCounts {
    fn add(&mut self, state: StackState, count: u64) {
        let counter = match state {
            StackState::Absent => &mut self.absent,
            StackState::Complete => &mut self.complete,
            StackState::Pointers => &mut self.pointers,
            StackState::Cut => &mut self.cut,
            StackState::Truncated => &mut self.truncated,
            StackState::Unmapped => &mut self.unmapped,
        };
        *counter = counter.saturating_add(count);
    }
}

impl Profile {
    /// The share of distinct addresses, and of Python functions, that have a name, 0 to 1; `None` without any.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share for display")]
    pub fn symbol_ratio(&self) -> Option<f64> {
        let all = self.symbol_hits + self.symbol_misses;
        (all > 0).then(|| self.symbol_hits as f64 / all as f64)
    }

    /// Says that inlined functions are missing.
    pub(super) fn inlined_note(&self) -> Option<String> {
        let InlinedLeftOut { files, stacks } = self.inlined_left_out;
        let some = |count: u64, what: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            _ => Some(format!("{count} {what}s")),
        };
        let parts = [some(files, "file"), some(stacks, "stack")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let whose = parts.join(" and ");
        (!parts.is_empty()).then(|| format!("inlined functions of {whose} left out"))
    }

    /// What is drawn of a stack: its count or its time.
    #[must_use]
    pub fn value(&self, stack: &NamedStack) -> u64 {
        if self.profile_type.draws_counts() {
            stack.count
        } else {
            stack.ns
        }
    }

    /// The frames that stand below a stack's own, the outermost first: container, process, thread. A
    /// number follows a name as `-1`: after a space it would be read as a count.
    pub(super) fn roots(&self, stack: &NamedStack) -> Vec<String> {
        let owner = self.owners.get(stack.owner as usize);
        let mut roots = vec![owner.map_or_else(String::new, |owner| clean(&owner.label()))];
        roots.push(match self.split {
            Split::Name => stack.process.to_string(),
            Split::Process | Split::Thread => format!("{}-{}", stack.process, stack.tgid),
        });
        if self.split == Split::Thread {
            roots.push(format!("{}-{}", stack.thread, stack.tid));
        }
        roots
    }
}

/// What makes two stacks one: container, process by name and number, thread likewise, frames.
type StackKey = (u32, Arc<str>, u32, Arc<str>, u32, Box<[u32]>);

/// Names a profile. Stacks that have the same names are added up.
#[must_use]
pub fn name(raw: &RawProfile, symbolizer: &mut Symbolizer, split: Split) -> Profile {
    let mut names = symbolizer.resolve(raw);
    let mut profile = Profile {
        profile_type: raw.profile_type,
        split,
        symbol_hits: names.symbol_hits,
        symbol_misses: names.symbol_misses,
        inlined_left_out: InlinedLeftOut {
            files: names.inlined_left_out,
            stacks: 0,
        },
        began_unix_ms: raw.began_unix_ms,
        seconds: raw.seconds,
        frequency: raw.frequency,
        asked: raw.asked,
        losses: raw.losses,
        ..Profile::default()
    };
    let mut marker = |name: &str| names.number(&Frame::marker(name));
    let broken = marker(BROKEN);
    let truncated = marker(TRUNCATED);
    let unknown = marker(UNKNOWN);
    let kernel_truncated = marker(&format!("{TRUNCATED}{KERNEL_SUFFIX}"));
    // Python functions that have a name, and code objects that have none.
    let mut python_functions: HashSet<u32> = HashSet::new();
    let mut unread: HashSet<(ProgramKey, u64)> = HashSet::new();
    let mut python_bytes = 0;
    let mut pythons: HashMap<*const PythonStack, Vec<Vec<u32>>> = HashMap::new();

    let mut owners = Numbers::default();
    let mut processes: HashMap<ProgramKey, Arc<str>> = HashMap::new();
    let mut threads: HashMap<u32, Arc<str>> = HashMap::new();
    let nameless: Arc<str> = "".into();
    let mut stacks: HashMap<StackKey, (u64, u64)> = HashMap::new();
    let mut line: Vec<u32> = Vec::new();
    let mut native: Vec<u32> = Vec::new();
    for sample in raw.samples.iter().filter(|sample| sample.count > 0) {
        line.clear();
        let user = symbolizer.user_stack(sample);
        match user.state {
            StackState::Absent | StackState::Complete | StackState::Pointers => {}
            StackState::Cut => line.push(broken),
            StackState::Truncated => line.push(truncated),
            StackState::Unmapped => line.push(unknown),
        }
        native.clear();
        let expanded = names.expanded(sample.program, user.frames, MAX_INLINED);
        profile.inlined_left_out.stacks += u64::from(expanded < user.frames.len());
        for (index, &address) in user.frames.iter().enumerate().rev() {
            native.push(names.user(sample.program, index, address));
            if index < expanded {
                native.extend_from_slice(names.inlined(sample.program, index, address));
            }
        }
        if let Some(python) = &sample.python {
            let runs = pythons.entry(Arc::as_ptr(python)).or_insert_with(|| {
                let codes = python.unread.iter().map(|code| (sample.program, *code));
                unread.extend(codes);
                let mut number = |frame: &PythonFrame| {
                    if python_bytes > MAX_PYTHON_BYTES {
                        return unknown;
                    }
                    let frame = Frame::python(frame);
                    let before = names.frames().len();
                    let number = names.number(&frame);
                    if &*frame.function != UNKNOWN {
                        python_functions.insert(number);
                    }
                    if names.frames().len() > before {
                        python_bytes +=
                            frame.name.len() + frame.function.len() + frame.module.len();
                    }
                    number
                };
                let run = |run: &Vec<PythonFrame>| run.iter().map(&mut number).collect();
                let mut runs: Vec<Vec<u32>> = python.runs.iter().map(run).collect();
                if python.is_truncated
                    && let Some(outermost) = runs.last_mut()
                {
                    outermost.push(truncated);
                }
                runs
            });
            let kind = |frame: u32| match names.frames().get(frame as usize) {
                Some(frame) if frame.kind == FrameKind::Inlined => merge::Kind::Inlined,
                Some(frame) if is_interpreter(&frame.name) => merge::Kind::Loop,
                _ => merge::Kind::Other,
            };
            let are_whole = user.state == StackState::Complete && !python.is_truncated;
            merge(&native, kind, runs, are_whole, &mut line);
        } else {
            line.extend_from_slice(&native);
        }
        if sample.kernel.len() >= MAX_FRAMES {
            line.push(kernel_truncated);
        }
        for (index, &address) in sample.kernel.iter().enumerate().rev() {
            if address != 0 {
                line.push(names.kernel(index, address));
            }
        }
        let state = match (&sample.python, user.state) {
            (Some(python), StackState::Complete | StackState::Pointers) if python.is_truncated => {
                StackState::Truncated
            }
            (_, state) => state,
        };
        profile.user_stacks.add(state, sample.count);
        if user.state == StackState::Cut {
            let cuts = profile.cuts.entry(sample.end.cut()).or_default();
            *cuts = cuts.saturating_add(sample.count);
        }
        profile.count = profile.count.saturating_add(sample.count);
        profile.ns = profile.ns.saturating_add(sample.ns);
        let process = processes
            .entry(sample.program)
            .or_insert_with(|| symbolizer.process_name(sample.program).into());
        let thread = if split == Split::Thread {
            threads.entry(sample.tid).or_insert_with(|| {
                symbolizer
                    .thread_name(sample.program.tgid, sample.tid)
                    .into()
            })
        } else {
            &nameless
        };
        let key = (
            owners.of(&sample.owner),
            Arc::clone(process),
            if split == Split::Name {
                0
            } else {
                sample.program.tgid
            },
            Arc::clone(thread),
            if split == Split::Thread {
                sample.tid
            } else {
                0
            },
            line.as_slice().into(),
        );
        let (count, ns) = stacks.entry(key).or_default();
        *count = count.saturating_add(sample.count);
        *ns = ns.saturating_add(sample.ns);
    }
    profile.symbol_hits += python_functions.len() as u64;
    profile.symbol_misses += unread.len() as u64;
    profile.owners = owners.into_list();
    profile.frames = names.into_frames();
    profile.stacks = stacks
        .into_iter()
        .map(
            |((owner, process, tgid, thread, tid, frames), (count, ns))| NamedStack {
                owner,
                process,
                tgid,
                thread,
                tid,
                frames,
                count,
                ns,
            },
        )
        .collect();
    profile
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{RawSample, WalkEnd};
    use ctrscope_ebpf::python;

    #[test]
    fn python_functions_that_could_not_be_read_are_misses() {
        let frame = |function: &str, line| PythonFrame {
            function: function.into(),
            file: "/a.py".into(),
            line,
        };
        let nameless = PythonFrame {
            function: UNKNOWN.into(),
            file: "".into(),
            line: 0,
        };
        let named = PythonStack {
            runs: vec![vec![frame("f", 1), frame("f", 2), nameless.clone()]],
            unread: vec![0x1000],
            is_truncated: false,
        };
        // Of the other stack nothing was read in time: one of its functions is known to have no name already.
        let codes = [0x1000, 0x2000, 0x2000];
        let words = codes.map(|code| python::word(code, 3, true));
        let sample = |program: ProgramKey, python: PythonStack| RawSample {
            owner: Arc::default(),
            program,
            tid: 0,
            user: Arc::from([]),
            end: WalkEnd::Outermost,
            kernel: Arc::from([]),
            python: Some(Arc::new(python)),
            count: 1,
            ns: 1,
        };
        let [one, other] = [1, 2].map(|tgid| ProgramKey { tgid, id: 1 });
        let raw = RawProfile {
            samples: vec![
                sample(one, named.clone()),
                sample(one, PythonStack::unread(&words)),
                // Another program has other functions at the same addresses.
                sample(other, named),
            ],
            ..RawProfile::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let mut symbolizer = Symbolizer::with_proc(folder.path());
        let profile = name(&raw, &mut symbolizer, Split::Process);
        assert_eq!((profile.symbol_hits, profile.symbol_misses), (2, 3));
    }
}
