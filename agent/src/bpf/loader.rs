//! Loads the programs, attaches them, and holds them: when this value is dropped, or the process
//! ends in whatever way, they are gone.

use std::{
    collections::BTreeMap,
    mem::offset_of,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader, Endianness,
    maps::{MapData, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, PerfEvent, Program, RawTracePoint},
};
use ctrscope_ebpf::{
    block::{BLOCK_PAIRS, BlockSlot, OPERATIONS},
    counter,
    layout::Layout,
    ledger::{PAIRS, PairSlot, THROTTLED_QUEUES},
    sched::{CpuState, SchedSlot},
    slot,
};

use super::{BpfError, KernelEvent, layout::Resolved, mapped::MappedArray, object, syscall};
use crate::snapshot::{KernelMap, KernelProgram, LossCounter};

/// A program that is attached to a BTF tracepoint of its own name.
struct Entry {
    name: &'static str,
    collector: &'static str,
}

/// Every program that is attached for as long as the agent runs.
const ENTRIES: &[Entry] = &[
    // First the events, so that no cgroup made between two attachments stays unknown.
    Entry {
        name: "cgroup_mkdir",
        collector: "cgroup",
    },
    Entry {
        name: "cgroup_rmdir",
        collector: "cgroup",
    },
    Entry {
        name: "cgroup_notify_populated",
        collector: "cgroup",
    },
    Entry {
        name: "sched_process_exit",
        collector: "sched",
    },
    Entry {
        name: "sched_switch",
        collector: "sched",
    },
    Entry {
        name: "block_rq_complete",
        collector: "block",
    },
    Entry {
        name: "block_rq_issue",
        collector: "block",
    },
];

/// What some kernels need beside `sched_switch`, and others do not have.
const MIGRATE: Entry = Entry {
    name: "sched_migrate_task",
    collector: "sched",
};

/// Pointers that [`Layout`] reaches the kernel by.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Wire<T>(pub(super) T);

// SAFETY: `Pod` of the shared crate promises the same: no padding, any bit pattern is a value.
unsafe impl<T: ctrscope_ebpf::Pod> aya::Pod for Wire<T> {}

/// Sizes that depend on the host and on configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Slots, the one for everything else included.
    pub(crate) slots: u32,
    /// CPUs that can ever be there: the highest possible number plus one.
    pub(crate) cpus: u32,
}

impl Sizes {
    /// Entries of the task table: a power of two, so that 64 threads per CPU and slot of 1,024
    /// collide rarely; 2 MiB on small machines.
    fn tasks(self) -> u32 {
        (self.cpus.saturating_mul(2_048))
            .next_power_of_two()
            .clamp(65_536, 1 << 20)
    }
}

/// The programs in the kernel, and the maps that they share with user space.
pub(crate) struct KernelSide {
    ebpf: Ebpf,
    sched: MappedArray<SchedSlot>,
    cpus: MappedArray<CpuState>,
    pairs: MappedArray<PairSlot>,
    block: MappedArray<BlockSlot>,
    block_pairs: MappedArray<PairSlot>,
    generations: MappedArray<u64>,
    cpu_slots: Arc<MappedArray<u64>>,
    block_slots: MappedArray<u64>,
    events: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    programs: Vec<KernelProgram>,
    clock_readable: bool,
    profile: Result<(), String>,
    sizes: Sizes,
}

/// The programs of a host on which there is no kernel side, each with the reason.
pub(crate) fn unattached_programs(reason: &str) -> Vec<KernelProgram> {
    ENTRIES
        .iter()
        .map(|entry| kernel_program(entry, Err(reason.to_owned())))
        .chain([clock_program(Err(reason.to_owned()))])
        .collect()
}

fn kernel_program(entry: &Entry, outcome: Result<(), String>) -> KernelProgram {
    KernelProgram {
        name: entry.name.into(),
        hook: format!("tp_btf/{}", entry.name),
        collector: entry.collector.into(),
        attached: outcome.is_ok(),
        reason: outcome.err().unwrap_or_default(),
        ..KernelProgram::default()
    }
}

fn clock_program(outcome: Result<(), String>) -> KernelProgram {
    KernelProgram {
        name: "read_clock".into(),
        hook: "run on demand".into(),
        collector: "sched".into(),
        attached: outcome.is_ok(),
        reason: outcome.err().unwrap_or_default(),
        ..KernelProgram::default()
    }
}

impl KernelSide {
    /// Loads and attaches what this kernel allows. What it does not allow is in
    /// [`programs`](Self::programs) with its reason; an error means that nothing works at all.
    ///
    /// # Errors
    ///
    /// The object, the maps or the ring buffer could not be made: no privilege, or no eBPF.
    pub(crate) fn load(
        btf_path: &Path,
        resolved: &Resolved,
        sizes: Sizes,
    ) -> Result<Self, BpfError> {
        raise_memlock_limit();
        let btf = AyaBtf::parse_file(btf_path, Endianness::default()).map_err(|source| {
            BpfError::Btf {
                path: btf_path.into(),
                source: Box::new(source),
            }
        })?;
        let layout = Wire(Layout {
            slots: sizes.slots,
            task_mask: sizes.tasks() - 1,
            ..resolved.layout
        });
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("LAYOUT", &layout, true)
            .map_max_entries("SCHED", sizes.slots * sizes.cpus)
            .map_max_entries("CPUS", sizes.cpus)
            .map_max_entries("STRETCHES", sizes.cpus)
            .map_max_entries("THROTTLES", sizes.cpus * THROTTLED_QUEUES)
            .map_max_entries("PAIRS", sizes.cpus * PAIRS)
            .map_max_entries("TASKS", sizes.tasks())
            .map_max_entries("BLOCK", sizes.slots * OPERATIONS as u32)
            .map_max_entries("GENERATIONS", sizes.slots)
            .load(object::bytes())
            .map_err(|source| BpfError::Load {
                source: Box::new(source),
            })?;

        let mut take = |name: &'static str| ebpf.take_map(name).ok_or(BpfError::NoMap { name });
        let sched = MappedArray::new("SCHED", take("SCHED")?, sizes.slots * sizes.cpus)?;
        let cpus = MappedArray::new("CPUS", take("CPUS")?, sizes.cpus)?;
        let pairs = MappedArray::new("PAIRS", take("PAIRS")?, sizes.cpus * PAIRS)?;
        let block = MappedArray::new("BLOCK", take("BLOCK")?, sizes.slots * OPERATIONS as u32)?;
        let block_pairs = MappedArray::new("BLOCK_PAIRS", take("BLOCK_PAIRS")?, BLOCK_PAIRS)?;
        let generations = MappedArray::new("GENERATIONS", take("GENERATIONS")?, sizes.slots)?;
        let cpu_slots = MappedArray::new("CPU_SLOTS", take("CPU_SLOTS")?, slot::TABLE_ENTRIES)?;
        let block_slots =
            MappedArray::new("BLOCK_SLOTS", take("BLOCK_SLOTS")?, slot::TABLE_ENTRIES)?;
        let events = RingBuf::try_from(take("EVENTS")?).map_err(|source| BpfError::Map {
            name: "EVENTS",
            source: Box::new(source),
        })?;
        let counters =
            PerCpuArray::try_from(take("COUNTERS")?).map_err(|source| BpfError::Map {
                name: "COUNTERS",
                source: Box::new(source),
            })?;

        let mut side = Self {
            ebpf,
            sched,
            cpus,
            pairs,
            block,
            block_pairs,
            generations,
            cpu_slots: Arc::new(cpu_slots),
            block_slots,
            events,
            counters,
            programs: Vec::new(),
            clock_readable: false,
            profile: Ok(()),
            sizes,
        };
        for entry in ENTRIES {
            let outcome = match resolved.verdict(entry.name) {
                Ok(()) => side.attach(entry.name, &btf),
                Err(missing) => Err(missing),
            };
            side.programs.push(kernel_program(entry, outcome));
        }
        if resolved.layout.task_sched_delayed != 0 {
            let outcome = side.attach(MIGRATE.name, &btf);
            side.programs.push(kernel_program(&MIGRATE, outcome));
        }
        let clock = side.load_clock_reader();
        side.clock_readable = clock.is_ok();
        side.programs.push(clock_program(clock));
        side.profile = match resolved.verdict("profile") {
            Ok(()) => side.try_profile(),
            Err(missing) => Err(missing),
        };
        syscall::release_free_memory();
        Ok(side)
    }

    fn attach(&mut self, name: &str, btf: &AyaBtf) -> Result<(), String> {
        let program: &mut BtfTracePoint = self
            .ebpf
            .program_mut(name)
            .ok_or_else(|| format!("the eBPF object has no program {name}"))?
            .try_into()
            .map_err(|error| format!("{error}"))?;
        program.load(name, btf).map_err(|error| describe(&error))?;
        program.attach().map_err(|error| describe(&error))?;
        Ok(())
    }

    fn load_clock_reader(&mut self) -> Result<(), String> {
        let program: &mut RawTracePoint = self
            .ebpf
            .program_mut("read_clock")
            .ok_or("the eBPF object has no program read_clock")?
            .try_into()
            .map_err(|error| format!("{error}"))?;
        program.load().map_err(|error| describe(&error))?;
        self.read_clocks()
            .map_err(|error| format!("BPF_PROG_TEST_RUN: {error}"))
    }

    /// Whether the kernel accepts the sampling program: loads it and takes it out again. Some 20 ms.
    fn try_profile(&mut self) -> Result<(), String> {
        let program: &mut PerfEvent = self
            .ebpf
            .program_mut("profile_sample")
            .ok_or("the eBPF object has no program profile_sample")?
            .try_into()
            .map_err(|error| format!("{error}"))?;
        program.load().map_err(|error| describe(&error))?;
        program.unload().map_err(|error| describe(&error))
    }

    /// Brings the clock in each CPU's state up to date. Costs 1 µs per CPU.
    pub(crate) fn read_clocks(&self) -> std::io::Result<()> {
        let Some(Program::RawTracePoint(program)) = self.ebpf.program("read_clock") else {
            return Ok(());
        };
        let fd = program.fd().map_err(std::io::Error::other)?;
        for cpu in 0..self.sizes.cpus {
            syscall::run_raw_tracepoint(fd.as_fd(), u64::from(cpu))?;
        }
        Ok(())
    }

    /// Whether the sampling program can be loaded here, and why not.
    pub(crate) fn profile(&self) -> &Result<(), String> {
        &self.profile
    }

    /// Whether [`read_clocks`](Self::read_clocks) works here.
    pub(crate) fn clock_readable(&self) -> bool {
        self.clock_readable
    }

    /// The next event, if there is one. One that does not decode is skipped.
    pub(crate) fn next_event(&mut self) -> Option<KernelEvent> {
        loop {
            let record = self.events.next()?;
            if let Some(event) = KernelEvent::decode(&record) {
                return Some(event);
            }
        }
    }

    /// Becomes readable when there is an event.
    pub(crate) fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Scheduler counters of slots by CPU.
    pub(crate) fn sched(&self) -> &MappedArray<SchedSlot> {
        &self.sched
    }

    /// A number that changes with what a slot counts on a CPU, from four of its 72 words: the sum of what only goes up
    /// with each slice and each wait, modulo its width. A wait of no time changes it at the end of the slice only.
    pub(crate) fn sched_mark(&self, index: usize) -> u64 {
        const WORDS: [usize; 4] = [
            offset_of!(SchedSlot, run_queue_ns) / 8,
            offset_of!(SchedSlot, on_cpu_ns) / 8,
            // Two counters of 32 bits each.
            offset_of!(SchedSlot, voluntary) / 8,
            offset_of!(SchedSlot, process_exits) / 8,
        ];
        const { assert!(offset_of!(SchedSlot, voluntary).is_multiple_of(8)) };
        const { assert!(offset_of!(SchedSlot, process_exits).is_multiple_of(8)) };
        let word = |word| self.sched.word(index, word);
        let words = WORDS.into_iter().filter_map(word);
        words.fold(0, |sum: u64, word| {
            sum.wrapping_add(word.load(Ordering::Relaxed))
        })
    }

    /// CPUs on which a switch has been seen: hosts have many more than are ever there.
    pub(crate) fn used_cpus(&self) -> impl Iterator<Item = u32> {
        const RUNNING: usize = offset_of!(CpuState, running) / 8;
        (0..self.sizes.cpus).filter(|&cpu| {
            let running = self.cpus.word(cpu as usize, RUNNING);
            running.is_some_and(|running| running.load(Ordering::Relaxed) != 0)
        })
    }

    /// Who waited for whom, by CPU.
    pub(crate) fn pairs(&self) -> &MappedArray<PairSlot> {
        &self.pairs
    }

    /// State of the CPUs.
    pub(crate) fn cpus(&self) -> &MappedArray<CpuState> {
        &self.cpus
    }

    /// Block counters of slots.
    pub(crate) fn block(&self) -> &MappedArray<BlockSlot> {
        &self.block
    }

    /// Who waited for whose block requests.
    pub(crate) fn block_pairs(&self) -> &MappedArray<PairSlot> {
        &self.block_pairs
    }

    /// How often each slot was given away.
    pub(crate) fn generations(&self) -> &MappedArray<u64> {
        &self.generations
    }

    /// The cpu controller's slot table.
    pub(crate) fn cpu_slots(&self) -> &Arc<MappedArray<u64>> {
        &self.cpu_slots
    }

    /// The block controller's slot table.
    pub(crate) fn block_slots(&self) -> &MappedArray<u64> {
        &self.block_slots
    }

    /// Sizes.
    pub(crate) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The programs, with their runs and times if the kernel counts them.
    pub(crate) fn programs(&self) -> Vec<KernelProgram> {
        let mut programs = self.programs.clone();
        for program in programs.iter_mut().filter(|program| program.attached) {
            let info = self
                .ebpf
                .program(&program.name)
                .and_then(|loaded| loaded.info().ok());
            if let Some(info) = info {
                program.runs = info.run_count();
                program.run_ns = u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX);
            }
        }
        programs
    }

    /// The maps and the kernel memory that each holds.
    pub(crate) fn maps(&self) -> Vec<KernelMap> {
        let mut maps = BTreeMap::new();
        let mut add = |name: &str, map: &MapData| {
            if let Some((capacity, bytes)) = map_memory(map.fd().as_fd()) {
                maps.insert(
                    name.to_owned(),
                    KernelMap {
                        name: name.to_owned(),
                        capacity,
                        bytes,
                    },
                );
            }
        };
        add("SCHED", self.sched.map());
        add("CPUS", self.cpus.map());
        add("PAIRS", self.pairs.map());
        add("BLOCK", self.block.map());
        add("BLOCK_PAIRS", self.block_pairs.map());
        add("GENERATIONS", self.generations.map());
        add("CPU_SLOTS", self.cpu_slots.map());
        add("BLOCK_SLOTS", self.block_slots.map());
        for (name, map) in self.ebpf.maps() {
            use aya::maps::Map;
            if let Map::Array(map) | Map::HashMap(map) | Map::PerCpuArray(map) = map {
                add(name, map);
            }
        }
        if let Some((capacity, bytes)) = map_memory(self.events.as_fd()) {
            maps.insert(
                "EVENTS".into(),
                KernelMap {
                    name: "EVENTS".into(),
                    capacity,
                    bytes,
                },
            );
        }
        maps.into_values().collect()
    }

    /// What was lost, discarded or evicted, in the order of [`counter::NAMES`].
    pub(crate) fn losses(&self) -> Vec<LossCounter> {
        read_counters(&self.counters)
    }
}

/// Sums the counters over the CPUs.
pub(super) fn read_counters(counters: &PerCpuArray<MapData, u64>) -> Vec<LossCounter> {
    (0u32..)
        .zip(counter::NAMES)
        .map(|(index, (kind, reason))| LossCounter {
            kind: (*kind).into(),
            reason: (*reason).into(),
            count: counters
                .get(&index, 0)
                .map_or(0, |values| values.iter().sum()),
        })
        .collect()
}

/// An error with its causes, in one line; the verifier's log shortened to its end.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    const LONGEST: usize = 600;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    let text = text.trim_end().replace('\n', " | ");
    match text.char_indices().rev().nth(LONGEST) {
        Some((start, _)) => format!("...{}", text.get(start..).unwrap_or_default()),
        None => text,
    }
}

/// Capacity and memory of a map by the kernel's own account, `fdinfo` (`bpf_map_show_fdinfo`,
/// `kernel/bpf/syscall.c`).
pub(super) fn map_memory(fd: BorrowedFd<'_>) -> Option<(u64, u64)> {
    use std::os::fd::AsRawFd as _;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    Some((field("max_entries:")?, field("memlock:")?))
}

/// Kernels before 5.11 charge map memory to this limit. Without `CAP_SYS_RESOURCE` it goes up to the
/// hard limit only; loading says itself if that does not do.
pub(super) fn raise_memlock_limit() {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a valid struct.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } == 0 {
        return;
    }
    let mut limit = unlimited;
    // SAFETY: a valid struct.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: a valid struct.
        unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    }
}
