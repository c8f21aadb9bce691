//! The sampler: a copy of the object with only what sampling needs, for all recordings of the agent.
//!
//! It shares nothing with the programs that always run but what it copies from their slot table. While
//! nobody records no perf event exists, so nothing of it runs. Recordings are sessions of it: each has
//! perf events of its own, whose period says which session a sample is for, and entries of its own in
//! the tables of samples and stacks.

mod session;

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering, fence},
    },
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap as BpfHashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::{PerfEvent, ProgramError},
};
use ctrscope_ebpf::{
    layout::Layout,
    profile::{self, Program, ProgramKey, SampleKey, Stack},
    python::{Python, THREAD_ENTRIES},
    slot,
    walk::{Ask, Mapping},
};

pub(crate) use self::session::{ProfileSession, SessionSample};
use super::{
    BpfError,
    layout::Resolved,
    loader::{Wire, describe, map_memory, raise_memlock_limit, read_counters},
    mapped::MappedArray,
    object, syscall,
};
use crate::snapshot::{KernelMap, LossCounter};

/// Distinct stacks of all sessions, and as many of Python functions: 16 MiB each.
const STACKS: u32 = 16_384;
/// Distinct samples (stack pair, program, container, end) of all sessions.
const SAMPLES: u32 = 32_768;
/// Programs that are known at a time.
const PROGRAMS: u32 = 8_192;
/// Those of them that have a Python interpreter whose frames are walked.
const PYTHONS: u32 = 1_024;
/// Mappings of them: 2.6 MB.
pub(crate) const MAPPINGS: u32 = 1 << 16;
/// Rows of unwind tables: 16 MB. A whole machine that compiled had 2.8 million.
pub(crate) const ROWS: u32 = 4 << 20;
/// Words of their page indexes: 4 MB, a gigabyte of code.
pub(crate) const INDEX_WORDS: u32 = 1 << 20;
/// Bytes of the ring of questions.
const RING: u32 = 64 << 10;
/// How long a walk can take at most, where the kernel has no way to wait for all that run: it is in an interrupt.
const LONGEST_WALK: Duration = Duration::from_millis(500);

/// The slot table of the programs that always run.
pub(crate) type SharedSlots = Arc<MappedArray<u64>>;

/// What the sampler holds that one thread at a time may use.
struct Guarded {
    ebpf: Ebpf,
    stacks: Stacks,
    /// Those of Python functions.
    python_stacks: Stacks,
    samples: BpfHashMap<MapData, Wire<SampleKey>, u64>,
    /// Sessions that are open, by bit.
    open: u32,
}

/// Stacks by their hash.
struct Stacks(BpfHashMap<MapData, u64, Wire<Stack>>);

impl Stacks {
    fn get(&self, hash: u64) -> Option<Arc<[u64]>> {
        let stack = self.0.get(&hash, 0).ok()?.0;
        let length = usize::try_from(stack.length).ok()?;
        stack.frames.get(..length).map(Arc::from)
    }

    fn remove(&mut self, hash: u64) {
        let _ = self.0.remove(&hash);
    }

    fn clear(&mut self) {
        let left: Vec<u64> = self.0.keys().flatten().collect();
        for hash in left {
            self.remove(hash);
        }
    }
}

/// The programs and maps of all sessions.
pub(crate) struct Sampler {
    guarded: Mutex<Guarded>,
    sessions: MappedArray<u64>,
    slots: MappedArray<u64>,
    shared_slots: SharedSlots,
    counters: PerCpuArray<MapData, u64>,
    programs: Mutex<BpfHashMap<MapData, Wire<ProgramKey>, Wire<Program>>>,
    pythons: Mutex<BpfHashMap<MapData, Wire<ProgramKey>, Wire<Python>>>,
    mappings: MappedArray<Mapping>,
    rows: MappedArray<u64>,
    index: MappedArray<u64>,
    maps: Vec<KernelMap>,
}

/// Questions of the kernel side for the mappings of programs.
pub(crate) struct Asks {
    ring: RingBuf<MapData>,
}

impl Asks {
    /// The next one, if there is one.
    pub(crate) fn next(&mut self) -> Option<Ask> {
        loop {
            let record = self.ring.next()?;
            if record.len() == size_of::<Ask>() {
                // SAFETY: of that size, and any bit pattern is a value.
                return Some(unsafe { record.as_ptr().cast::<Ask>().read_unaligned() });
            }
        }
    }

    /// Becomes readable when there is one.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Sampler {
    /// Loads it.
    ///
    /// # Errors
    ///
    /// The kernel refuses the object or the program.
    pub(crate) fn load(
        resolved: &Resolved,
        shared_slots: SharedSlots,
    ) -> Result<(Self, Asks), BpfError> {
        if let Err(reason) = resolved.verdict("profile") {
            return Err(BpfError::Unsupported {
                what: "sampling stacks",
                reason,
            });
        }
        raise_memlock_limit();
        let layout = Wire(Layout {
            slots: 1,
            ..resolved.layout
        });
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("LAYOUT", &layout, true)
            .map_max_entries("BLOCK_SLOTS", 1)
            .map_max_entries("REQUESTS", 1)
            .map_max_entries("SERVED", 1)
            .map_max_entries("DEVICES", 1)
            .map_max_entries("BLOCK_PAIRS", 1)
            .map_max_entries("GENERATIONS", 1)
            .map_max_entries("EVENTS", RING)
            .map_max_entries("STACKS", STACKS)
            .map_max_entries("PYTHON_STACKS", STACKS)
            .map_max_entries("SAMPLES", SAMPLES)
            .map_max_entries("PROGRAMS", PROGRAMS)
            .map_max_entries("PYTHONS", PYTHONS)
            .map_max_entries("PYTHON_THREADS", THREAD_ENTRIES)
            .map_max_entries("MAPPINGS", MAPPINGS)
            .map_max_entries("UNWIND_ROWS", ROWS / 2)
            .map_max_entries("UNWIND_INDEX", INDEX_WORDS / 2)
            .load(object::bytes())
            .map_err(|source| BpfError::Load {
                source: Box::new(source),
            })?;
        let maps = ebpf.maps().filter_map(kernel_map).collect();
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or(BpfError::NoMap { name });
        let slots = MappedArray::new("CPU_SLOTS", take("CPU_SLOTS")?, slot::TABLE_ENTRIES)?;
        let sessions = MappedArray::new("SESSIONS", take("SESSIONS")?, profile::SESSIONS)?;
        let mappings = MappedArray::new("MAPPINGS", take("MAPPINGS")?, MAPPINGS)?;
        let rows = MappedArray::new("UNWIND_ROWS", take("UNWIND_ROWS")?, ROWS / 2)?;
        let index = MappedArray::new("UNWIND_INDEX", take("UNWIND_INDEX")?, INDEX_WORDS / 2)?;
        let stacks = Stacks(convert("STACKS", take("STACKS")?)?);
        let python_stacks = Stacks(convert("PYTHON_STACKS", take("PYTHON_STACKS")?)?);
        let samples = convert("SAMPLES", take("SAMPLES")?)?;
        let programs = convert("PROGRAMS", take("PROGRAMS")?)?;
        let pythons = convert("PYTHONS", take("PYTHONS")?)?;
        let counters = convert("COUNTERS", take("COUNTERS")?)?;
        let ring = convert("EVENTS", take("EVENTS")?)?;
        let program: &mut PerfEvent = ebpf
            .program_mut("profile_sample")
            .ok_or(BpfError::NoMap {
                name: "profile_sample",
            })?
            .try_into()
            .map_err(|error: ProgramError| refused(&error))?;
        program.load().map_err(|error| refused(&error))?;
        let sampler = Self {
            guarded: Mutex::new(Guarded {
                ebpf,
                stacks,
                python_stacks,
                samples,
                open: 0,
            }),
            sessions,
            slots,
            shared_slots,
            counters,
            programs: Mutex::new(programs),
            pythons: Mutex::new(pythons),
            mappings,
            rows,
            index,
            maps,
        };
        syscall::release_free_memory();
        Ok((sampler, Asks { ring }))
    }

    fn guarded(&self) -> MutexGuard<'_, Guarded> {
        // What a thread that panicked left is whole: each call into the kernel is.
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the agent has decided about cgroups since the last call. Costs about 50 µs.
    fn refresh(&self) {
        for index in 0..self.slots.len() {
            if let (Some(mine), Some(theirs)) =
                (self.slots.word(index, 0), self.shared_slots.word(index, 0))
            {
                let entry = theirs.load(Ordering::Relaxed);
                if mine.load(Ordering::Relaxed) != entry {
                    mine.store(entry, Ordering::Relaxed);
                }
            }
        }
    }

    /// What the kernel side knows of a program.
    pub(crate) fn program(&self, key: ProgramKey) -> Option<Program> {
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.get(&Wire(key), 0).ok().map(|program| program.0)
    }

    /// All programs that the kernel side has met and that were not forgotten. Two system calls for each.
    pub(crate) fn programs(&self) -> Vec<(ProgramKey, Program)> {
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let programs = programs.iter().flatten();
        programs.map(|(key, program)| (key.0, program.0)).collect()
    }

    /// Tells the kernel side where the mappings of a program are, and when it may ask for it again.
    pub(crate) fn publish(&self, key: ProgramKey, region: u64, ask_after_ns: u64) {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(known) = programs.get(&Wire(key), 0) {
            let program = Program {
                region,
                ask_after_ns,
                ..known.0
            };
            // Only if it is still there.
            let _ = programs.insert(Wire(key), Wire(program), BPF_EXIST);
        }
    }

    /// Has the kernel side forget a program.
    pub(crate) fn forget(&self, key: ProgramKey) {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = programs.remove(&Wire(key));
        let mut pythons = self.pythons.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = pythons.remove(&Wire(key));
    }

    /// Tells the kernel side where the interpreter of a program keeps its frames. Where there is no room, it has none.
    pub(crate) fn publish_python(&self, key: ProgramKey, python: &Python) {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was forgotten meanwhile would stay for good.
        let Ok(known) = programs.get(&Wire(key), 0) else {
            return;
        };
        let mut pythons = self.pythons.lock().unwrap_or_else(PoisonError::into_inner);
        if pythons.insert(Wire(key), Wire(*python), 0).is_ok() {
            let program = Program {
                is_python: 1,
                ..known.0
            };
            let _ = programs.insert(Wire(key), Wire(program), BPF_EXIST);
        }
    }

    /// A stack of Python functions by its hash.
    pub(crate) fn python_stack(&self, hash: u64) -> Option<Arc<[u64]>> {
        self.guarded().python_stacks.get(hash)
    }

    /// Writes a mapping. What says that there is a table is written last: a walk that meets it half-written must not
    /// use it.
    pub(crate) fn write_mapping(&self, at: u32, mapping: &Mapping) {
        let words: [u64; size_of::<Mapping>() / 8] = [
            mapping.start,
            mapping.end,
            mapping.bias,
            u64::from(mapping.index) | u64::from(mapping.pages) << 32,
            u64::from(mapping.first_page) | u64::from(mapping.kind) << 32,
        ];
        for (word, value) in words.into_iter().enumerate() {
            if let Some(place) = self.mappings.word(at as usize, word) {
                place.store(value, Ordering::Release);
            }
        }
    }

    /// Writes rows of a table.
    pub(crate) fn write_rows(&self, at: u32, rows: &[u32]) {
        write_words(&self.rows, at, rows);
    }

    /// Writes words of a page index.
    pub(crate) fn write_index(&self, at: u32, words: &[u32]) {
        write_words(&self.index, at, words);
    }

    /// Waits until no walk runs that has begun before: what was taken out of all mappings by then is read by nobody any
    /// more. Takes some ten milliseconds.
    pub(crate) fn wait_for_walks(&self) {
        fence(Ordering::SeqCst);
        if syscall::wait_for_programs().is_err() {
            std::thread::sleep(LONGEST_WALK);
        }
    }

    /// The maps and the kernel memory that each holds, which is all taken when they are made.
    pub(crate) fn maps(&self) -> &[KernelMap] {
        &self.maps
    }

    /// What was lost by all sessions, in the order of [`ctrscope_ebpf::counter::NAMES`].
    pub(crate) fn losses(&self) -> Vec<LossCounter> {
        read_counters(&self.counters)
    }
}

/// A map by the kernel's own account. The programs that always run have others of the same names.
fn kernel_map((name, map): (&str, &Map)) -> Option<KernelMap> {
    let (Map::Array(data) | Map::HashMap(data) | Map::PerCpuArray(data) | Map::RingBuf(data)) = map
    else {
        return None;
    };
    let (capacity, bytes) = map_memory(data.fd().as_fd())?;
    // Those of one entry are scratch, or of the other programs.
    (capacity > 1).then(|| KernelMap {
        name: format!("PROFILE_{name}"),
        capacity,
        bytes,
    })
}

/// Writes into an array whose values hold two words each. The halves are written by themselves: the other one may be of
/// another table that is being read.
fn write_words(array: &MappedArray<u64>, at: u32, words: &[u32]) {
    for (index, word) in (at as usize..).zip(words) {
        if let Some(pair) = array.word(index / 2, 0) {
            // SAFETY: a half of an aligned word that lives as long as the array.
            let half = unsafe { AtomicU32::from_ptr(pair.as_ptr().cast::<u32>().add(index % 2)) };
            half.store(*word, Ordering::Relaxed);
        }
    }
}

/// `BPF_EXIST`, `include/uapi/linux/bpf.h`.
const BPF_EXIST: u64 = 2;

fn program(ebpf: &mut Ebpf) -> Result<&mut PerfEvent, BpfError> {
    ebpf.program_mut("profile_sample")
        .ok_or(BpfError::NoMap {
            name: "profile_sample",
        })?
        .try_into()
        .map_err(|error: ProgramError| refused(&error))
}

fn refused(error: &dyn std::error::Error) -> BpfError {
    BpfError::Unsupported {
        what: "sampling stacks",
        reason: describe(error),
    }
}

fn convert<T: TryFrom<Map, Error = aya::maps::MapError>>(
    name: &'static str,
    map: Map,
) -> Result<T, BpfError> {
    T::try_from(map).map_err(|source| BpfError::Map {
        name,
        source: Box::new(source),
    })
}
