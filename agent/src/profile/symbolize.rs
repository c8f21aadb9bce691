//! Addresses to names.
//!
//! | frame | name |
//! |---|---|
//! | in a file | function from its symbol table, demangled; else `file+0xoffset`, offset into the file |
//! | in the vDSO | function; else `[vdso]+0xoffset` |
//! | in generated code | name from the perf map, `_[j]` appended; else `[anon]` |
//! | outside every executable mapping | the stack is cut there: [`UserStack::state`] |
//! | in the kernel | function from kallsyms, `_[k]` appended; else `[kernel]+0xoffset_[k]` |
//!
//! A file of a container is reached through `/proc/PID/map_files`, which is the very file that is
//! mapped, deleted or not (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE); else by its path inside
//! `/proc/PID/root` (`open_in_root.rs`). Nothing is looked up by a container's
//! path on the host.
//!
//! On request an address in a file is expanded into the functions that were inlined there (`inlined.rs`).
//!
//! An unnamed kernel address is shown by its low 21 bits only: they are the same on every boot, so
//! they tell functions apart and nothing about where the kernel is.
//!
//! Cost on a virtual machine of two CPUs, release build: 45 ms for the kernel, once, and again for addresses in
//! modules (most of it is the kernel writing `/proc/kallsyms`, 122,000 lines); 25 to 40 µs a user
//! address, reading the tables included (725 addresses in node, its perf map, python3, libc and a
//! C++ program: 26 ms; 1,218 in rustc, whose library has 150 MB: 28 ms). Memory rises by 8 to 12 MB
//! while the largest table is looked at; 1.2 MB of it are left after the profile was folded.

mod files;
mod inlined;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ctrscope_ebpf::profile::{MAX_FRAMES, ProgramKey};
use tracing::debug;

use super::{
    demangle::demangle,
    elf::{self, inlined::Chain},
    frame_name::{JIT_SUFFIX, KERNEL_SUFFIX, UNKNOWN, clean},
    image::{FileIdentity, Images},
    interner::Interner,
    maps::Mapping,
    named::{Frame, FrameKind, KERNEL_MODULE},
    numbers::Numbers,
    open_in_root::open_regular_in_root,
    process::{self, Process},
    raw::{RawProfile, RawSample, WalkEnd},
    symbols::SymbolCache,
};

/// Most distinct addresses that are named; later ones are shown as offsets.
const MAX_ADDRESSES: usize = 1 << 16;
/// Most bytes of symbol tables read for a profile.
const MAX_TABLE_BYTES: u64 = 1 << 30;
/// Longest that symbol tables are searched for a profile.
const MAX_TABLE_TIME: Duration = Duration::from_secs(20);
/// Longest that perf maps are read for a profile.
const MAX_PERF_MAP_TIME: Duration = Duration::from_secs(5);
/// Ways to open a file that are tried: its mappings in that many processes.
const MAX_OPENERS: usize = 4;

/// Names the frames of one profile.
///
/// Made when a recording has ended, of what was found out of its processes while they lived. It blocks on files, so
/// it belongs on a thread of its own. Its caches have no eviction: each is bounded
/// (65,536 addresses, 8 MiB of names), and what does not
/// fit is shown as if it could not be named, and counted as a miss. Symbol tables and perf maps are
/// read one file at a time and dropped.
#[derive(Debug)]
pub struct Symbolizer {
    proc_root: PathBuf,
    processes: HashMap<ProgramKey, Process>,
    vdso: Images,
    cache: Arc<Mutex<SymbolCache>>,
    with_inlined: bool,
}

/// A user stack that was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackState {
    /// There is none.
    Absent,
    /// Every frame is in executable memory and the walk came to the outermost.
    Complete,
    /// The same of a walk by frame pointers alone, which can pass over frames and end too early.
    Pointers,
    /// The walk left executable memory, or could not go on. The frames before that
    /// are kept.
    Cut,
    /// It is as deep as the limit ([`MAX_FRAMES`]).
    Truncated,
    /// The process was gone before its mappings were read.
    Unmapped,
}

/// A user stack that was judged, with what is kept of it.
#[derive(Clone, Debug)]
pub struct UserStack<'a> {
    /// Whether it can be trusted.
    pub state: StackState,
    /// Frames that are kept, innermost first.
    pub frames: &'a [u64],
}

/// The names of one profile.
#[derive(Debug)]
pub struct Names {
    user: HashMap<(ProgramKey, u64), u32>,
    kernel: HashMap<u64, u32>,
    /// Functions that were inlined, the outermost first.
    inlined: HashMap<(ProgramKey, u64), Box<[u32]>>,
    frames: Numbers<Frame>,
    unknown: u32,
    unknown_kernel: u32,
    /// Distinct addresses that have a name.
    pub symbol_hits: u64,
    /// Distinct addresses that have none.
    pub symbol_misses: u64,
    /// Files of whose inlined functions some were left out.
    pub inlined_left_out: u64,
}

impl Default for Names {
    fn default() -> Self {
        let mut frames = Numbers::default();
        let unknown = frames.of(&Frame::marker(UNKNOWN));
        let unknown_kernel = frames.of(&Frame {
            name: format!("[kernel]{KERNEL_SUFFIX}").into(),
            module: KERNEL_MODULE.into(),
            line: 0,
            function: "".into(),
            kind: FrameKind::Kernel,
        });
        Self {
            user: HashMap::new(),
            kernel: HashMap::new(),
            inlined: HashMap::new(),
            frames,
            unknown,
            unknown_kernel,
            symbol_hits: 0,
            symbol_misses: 0,
            inlined_left_out: 0,
        }
    }
}

impl Names {
    /// All frames.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        self.frames.list()
    }

    /// All frames.
    #[must_use]
    pub fn into_frames(self) -> Vec<Frame> {
        self.frames.into_list()
    }

    /// Number of any frame.
    pub fn number(&mut self, frame: &Frame) -> u32 {
        self.frames.of(frame)
    }

    /// Number of a user frame in [`frames`](Self::frames); `index` is its place in the stack, 0 the
    /// innermost.
    #[must_use]
    pub fn user(&self, program: ProgramKey, index: usize, address: u64) -> u32 {
        self.user
            .get(&(program, lookup_address(index, address)))
            .copied()
            .unwrap_or(self.unknown)
    }

    /// Number of a kernel frame, whose name has the [`KERNEL_SUFFIX`].
    #[must_use]
    pub fn kernel(&self, index: usize, address: u64) -> u32 {
        self.kernel
            .get(&lookup_address(index, address))
            .copied()
            .unwrap_or(self.unknown_kernel)
    }
}

/// All frames but the innermost are return addresses: the call is one byte before.
fn lookup_address(index: usize, address: u64) -> u64 {
    if index == 0 {
        address
    } else {
        address.saturating_sub(1)
    }
}

/// What holds code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Module {
    /// A file that is open.
    Image(FileIdentity),
    /// One that is not, by device and inode.
    File((u32, u32), u64),
    /// The vDSO: one for all processes.
    Vdso,
    /// Generated code of a process.
    Anonymous(ProgramKey),
}

/// A module and the places in it that are asked for.
#[derive(Debug, Default)]
struct Wanted {
    /// Processes that have it mapped, and where.
    openers: Vec<(ProgramKey, Mapping)>,
    /// Offsets, with the name once it is found.
    offsets: BTreeMap<u64, Option<Arc<str>>>,
    /// What DWARF says of them, where that is asked for.
    chains: HashMap<u64, Chain>,
}

/// An address of a process: where it is.
#[derive(Debug)]
struct Place {
    module: Module,
    module_name: Arc<str>,
    offset: u64,
    fallback: Arc<str>,
}

impl Default for Symbolizer {
    fn default() -> Self {
        Self::new()
    }
}

impl Symbolizer {
    /// Makes one that reads `/proc`.
    #[must_use]
    pub fn new() -> Self {
        Self::with_proc("/proc")
    }

    /// Makes one that reads another directory as if it were `/proc`.
    #[must_use]
    pub fn with_proc(proc_root: impl Into<PathBuf>) -> Self {
        Self {
            proc_root: proc_root.into(),
            processes: HashMap::new(),
            vdso: Images::default(),
            cache: Arc::default(),
            with_inlined: false,
        }
    }

    /// Uses names that were found before, and keeps those that are found now.
    pub(crate) fn cached(mut self, cache: &Arc<Mutex<SymbolCache>>) -> Self {
        self.cache = Arc::clone(cache);
        self
    }

    /// Expands addresses into the functions that were inlined there, if asked to.
    #[must_use]
    pub fn with_inlined(mut self, with_inlined: bool) -> Self {
        self.with_inlined = with_inlined;
        self
    }

    fn cache(&self) -> MutexGuard<'_, SymbolCache> {
        // Each change is whole before anything can panic.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was found out of a process.
    pub(crate) fn know(&mut self, program: ProgramKey, process: Process) {
        self.processes.insert(program, process);
    }

    /// Looks at a process that lives; says whether it does.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn remember(&mut self, tgid: u32) -> bool {
        let process = Process::read(&self.proc_root, tgid);
        let key = ProgramKey { tgid, id: 0 };
        process.is_ok_and(|process| {
            self.know(key, process);
            true
        })
    }

    /// Name of a process: its comm, or `[exited PID]` when nothing is known of it.
    #[must_use]
    pub fn process_name(&self, program: ProgramKey) -> String {
        self.processes.get(&program).map_or_else(
            || format!("[exited {}]", program.tgid),
            |known| clean(&known.comm),
        )
    }

    /// Name of a thread: its comm, or `[exited TID]` when it was gone before it was looked at.
    #[must_use]
    pub fn thread_name(&self, tgid: u32, tid: u32) -> String {
        process::thread_comm(&self.proc_root, tgid, tid)
            .map_or_else(|_| format!("[exited {tid}]"), |comm| clean(&comm))
    }

    /// Judges a user stack.
    #[must_use]
    pub fn user_stack<'a>(&self, sample: &'a RawSample) -> UserStack<'a> {
        let all: &[u64] = &sample.user;
        let end = all.iter().rposition(|&address| address != 0);
        let all = end.map_or(&all[..0], |last| &all[..=last]);
        if all.is_empty() {
            return UserStack {
                state: StackState::Absent,
                frames: all,
            };
        }
        let Some(process) = self
            .processes
            .get(&sample.program)
            .filter(|process| !process.mappings.is_empty())
        else {
            return UserStack {
                state: StackState::Unmapped,
                frames: &all[..0],
            };
        };
        let kept = all
            .iter()
            .enumerate()
            .take_while(|&(index, &address)| {
                process.mapping(lookup_address(index, address)).is_some()
            })
            .count();
        UserStack {
            state: match sample.end {
                _ if kept < all.len() => StackState::Cut,
                WalkEnd::Depth => StackState::Truncated,
                WalkEnd::Pointers if kept >= MAX_FRAMES => StackState::Truncated,
                WalkEnd::Pointers => StackState::Pointers,
                WalkEnd::Outermost => StackState::Complete,
                WalkEnd::Cut(_) => StackState::Cut,
            },
            frames: &all[..kept],
        }
    }

    /// Names every frame of a profile.
    ///
    /// Never fails: what cannot be named is shown by where it is.
    pub fn resolve(&mut self, raw: &RawProfile) -> Names {
        let mut interner = Interner::default();
        let mut names = Names::default();
        self.resolve_user(raw, &mut interner, &mut names);
        self.resolve_kernel(raw, &mut interner, &mut names);
        names
    }

    fn resolve_user(&mut self, raw: &RawProfile, interner: &mut Interner, names: &mut Names) {
        let mut places = HashMap::new();
        let mut wanted: HashMap<Module, Wanted> = HashMap::new();
        for sample in &raw.samples {
            for (index, &address) in self.user_stack(sample).frames.iter().enumerate() {
                let address = lookup_address(index, address);
                let key = (sample.program, address);
                if places.len() >= MAX_ADDRESSES || places.contains_key(&key) {
                    continue;
                }
                if let Some(mapping) = self
                    .processes
                    .get(&sample.program)
                    .and_then(|process| process.mapping(address))
                {
                    let place = place(sample.program, address, mapping, interner);
                    let module = wanted.entry(place.module.clone()).or_default();
                    module.offsets.insert(place.offset, None);
                    let mut openers = module.openers.iter();
                    let known = openers.any(|(program, _)| *program == sample.program);
                    if !known && module.openers.len() < MAX_OPENERS {
                        module.openers.push((sample.program, mapping.clone()));
                    }
                    places.insert(key, place);
                }
            }
        }

        let mut budget = elf::Budget {
            bytes: MAX_TABLE_BYTES,
            deadline: Instant::now() + MAX_TABLE_TIME,
        };
        for (module, wanted) in &mut wanted {
            let opener = wanted.openers.first().map(|(_, mapping)| mapping);
            let file = match (module, opener) {
                (Module::Anonymous(_), _) | (_, None) => continue,
                (Module::Vdso, Some(mapping)) => self
                    .vdso
                    .of(&self.proc_root, mapping)
                    .and_then(|vdso| vdso.ok_or_else(|| io::ErrorKind::NotFound.into())),
                (Module::Image(_), Some(mapping)) => mapping
                    .image
                    .clone()
                    .ok_or_else(|| io::ErrorKind::NotFound.into()),
                (Module::File(..), _) => self.open_module(&wanted.openers),
            };
            let root = self.living_root(&wanted.openers);
            let found = file.map_err(elf::ElfError::from).and_then(|image| {
                let offsets: Vec<u64> = wanted.offsets.keys().copied().collect();
                let known = self.cache().of_file(image.identity, &offsets);
                let pairs = offsets.iter().zip(&known);
                let missing = pairs.filter(|(_, known)| known.is_none());
                let missing: Vec<u64> = missing.map(|(offset, _)| *offset).collect();
                let keep = |name: &str| interner.symbol(&demangle(name), "");
                let (is_of_all, root) = (*module == Module::Vdso, root);
                let fresh = match root.filter(|_| !is_of_all) {
                    // The vDSO is everybody's: a debug file of one container would name it for all.
                    None => elf::resolve(&image.file, &missing, &mut budget, keep),
                    Some((root, path)) => {
                        let debug_files = elf::DebugFiles {
                            binary: Path::new(&*path),
                            open: &mut |path| open_regular_in_root(&root, path),
                        };
                        elf::resolve_with(&image.file, debug_files, &missing, &mut budget, keep)
                    }
                }?;
                let fresh: Vec<_> = missing.into_iter().zip(fresh).collect();
                if budget.is_left() && !interner.is_full() {
                    self.cache().keep(image.identity, &fresh);
                }
                let mut fresh = fresh.into_iter().map(|(_, name)| name);
                let name = |known: Option<_>| known.unwrap_or_else(|| fresh.next().flatten());
                Ok(known.into_iter().map(name).collect::<Vec<_>>())
            });
            match found {
                Ok(found) => {
                    for (slot, symbol) in wanted.offsets.values_mut().zip(found) {
                        *slot = symbol;
                    }
                }
                Err(error) => {
                    let path = wanted.openers.first().map(|(_, mapping)| &*mapping.path);
                    debug!(?path, %error, "no symbols");
                }
            }
        }

        if self.with_inlined {
            names.inlined_left_out = self.expand(&mut wanted, interner);
        }
        let chain_of = |place: &Place| wanted.get(&place.module)?.chains.get(&place.offset);
        let mut unnamed: HashMap<ProgramKey, BTreeSet<u64>> = HashMap::new();
        for (&(program, address), place) in &places {
            let symbol = wanted
                .get(&place.module)
                .and_then(|module| module.offsets.get(&place.offset)?.clone());
            match symbol {
                Some(name) => {
                    names.symbol_hits += 1;
                    let frame = Frame {
                        name,
                        module: Arc::clone(&place.module_name),
                        line: 0,
                        function: "".into(),
                        kind: FrameKind::Native,
                    };
                    names.put((program, address), frame, chain_of(place));
                }
                None => {
                    unnamed.entry(program).or_default().insert(address);
                }
            }
        }
        let deadline = Instant::now() + MAX_PERF_MAP_TIME;
        for (program, addresses) in unnamed {
            let addresses: Vec<u64> = addresses.into_iter().collect();
            let found = self
                .read_perf_map(program, &addresses, deadline)
                .unwrap_or_default();
            for (index, address) in addresses.into_iter().enumerate() {
                let symbol = found
                    .get(index)
                    .and_then(|name| interner.symbol(name.as_deref()?, JIT_SUFFIX));
                if symbol.is_some() {
                    names.symbol_hits += 1;
                } else {
                    names.symbol_misses += 1;
                }
                let Some(place) = places.get(&(program, address)) else {
                    continue;
                };
                let (kind, chain) = if symbol.is_some() {
                    (FrameKind::Jit, None)
                } else {
                    (FrameKind::Native, chain_of(place))
                };
                let frame = Frame {
                    name: symbol.unwrap_or_else(|| Arc::clone(&place.fallback)),
                    module: Arc::clone(&place.module_name),
                    line: 0,
                    function: "".into(),
                    kind,
                };
                names.put((program, address), frame, chain);
            }
        }
    }

    fn resolve_kernel(&self, raw: &RawProfile, interner: &mut Interner, names: &mut Names) {
        let frames = raw
            .samples
            .iter()
            .flat_map(|sample| sample.kernel.iter().enumerate())
            .filter(|&(_, &address)| address != 0)
            .map(|(index, &address)| lookup_address(index, address));
        let mut addresses = BTreeSet::new();
        for address in frames {
            if addresses.len() < MAX_ADDRESSES {
                addresses.insert(address);
            }
        }
        if addresses.is_empty() {
            return;
        }
        let kernel: Arc<str> = KERNEL_MODULE.into();
        let addresses: Vec<u64> = addresses.into_iter().collect();
        let found = self
            .cache()
            .of_kernel(&self.proc_root, &addresses)
            .unwrap_or_else(|error| {
                debug!(%error, "no kernel symbols");
                Vec::new()
            });
        for (index, address) in addresses.into_iter().enumerate() {
            let symbol = found
                .get(index)
                .and_then(|name| interner.symbol(name.as_deref()?, KERNEL_SUFFIX));
            let name = match symbol {
                Some(symbol) => {
                    names.symbol_hits += 1;
                    symbol
                }
                None => {
                    names.symbol_misses += 1;
                    format!("[kernel]+{:#x}{KERNEL_SUFFIX}", address & 0x1f_ffff).into()
                }
            };
            let frame = names.frames.of(&Frame {
                name,
                module: Arc::clone(&kernel),
                line: 0,
                function: "".into(),
                kind: FrameKind::Kernel,
            });
            names.kernel.insert(address, frame);
        }
    }
}

/// Where an address is, and what to call it without a symbol.
fn place(program: ProgramKey, address: u64, mapping: &Mapping, interner: &mut Interner) -> Place {
    let in_mapping = address.saturating_sub(mapping.start);
    let (module, offset) = if mapping.is_file() {
        let module = match &mapping.image {
            Some(image) => Module::Image(image.identity),
            None => Module::File(mapping.device, mapping.inode),
        };
        (module, in_mapping.wrapping_add(mapping.offset))
    } else if &*mapping.path == "[vdso]" {
        (Module::Vdso, in_mapping)
    } else {
        (Module::Anonymous(program), address)
    };
    let name = clean(mapping.module());
    let fallback = if matches!(module, Module::Anonymous(_)) {
        name
    } else {
        clean(&format!("{name}+{offset:#x}"))
    };
    Place {
        module,
        module_name: interner.keep(clean(mapping.module())),
        offset,
        fallback: interner.keep(fallback),
    }
}

#[cfg(test)]
mod tests;
