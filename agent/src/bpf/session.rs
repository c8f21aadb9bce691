//! A profile session: its own copy of the object with only what sampling needs, for as long as
//! somebody records.
//!
//! Sessions share nothing with the programs that always run, so while none is open no sampling
//! program is attached and no map for stacks exists, and several sessions do not see each other.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap as BpfHashMap, Map, MapData, PerCpuArray},
    programs::{
        PerfEvent, ProgramError,
        perf_event::{
            PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy, SoftwareEvent,
        },
    },
};
use ctrscope_ebpf::{
    layout::Layout,
    profile::{SampleKey, Stack},
    slot,
};

use super::{
    BpfError,
    layout::Resolved,
    loader::{Wire, describe, raise_memlock_limit, read_counters},
    mapped::MappedArray,
    object, syscall,
};
use crate::snapshot::LossCounter;

/// Distinct stacks that a session can hold: 8 MiB of them.
const STACKS: u32 = 8_192;
/// Distinct samples (stack pair, process, container) that a session can hold.
const SAMPLES: u32 = 32_768;

/// The slot table of the programs that always run.
pub(crate) type SharedSlots = Arc<MappedArray<u64>>;

/// What a session counted at one place.
#[derive(Clone, Debug)]
pub(crate) struct SessionSample {
    pub(crate) slot: u32,
    pub(crate) tgid: u32,
    /// 0 where threads are not told apart.
    pub(crate) tid: u32,
    /// Innermost first; `None` where the stack was lost.
    pub(crate) user: Option<Arc<[u64]>>,
    /// Innermost first; `None` where the stack was lost.
    pub(crate) kernel: Option<Arc<[u64]>>,
    pub(crate) count: u64,
}

/// Sampling in progress; ends when dropped.
pub(crate) struct ProfileSession {
    ebpf: Ebpf,
    slots: MappedArray<u64>,
    shared_slots: SharedSlots,
    stacks: BpfHashMap<MapData, u64, Wire<Stack>>,
    samples: BpfHashMap<MapData, Wire<SampleKey>, u64>,
    counters: PerCpuArray<MapData, u64>,
    links: Vec<PerfEventLinkId>,
}

impl ProfileSession {
    /// Starts to sample `only_slot`, or every slot, on the CPUs given.
    ///
    /// # Errors
    ///
    /// The kernel refuses the object, the program or the perf events.
    pub(crate) fn start(
        resolved: &Resolved,
        shared_slots: SharedSlots,
        only_slot: Option<u32>,
        frequency: u32,
        by_thread: bool,
        cpus: &[u32],
    ) -> Result<Self, BpfError> {
        if let Err(reason) = resolved.verdict("profile") {
            return Err(BpfError::Unsupported {
                what: "sampling stacks",
                reason,
            });
        }
        raise_memlock_limit();
        let layout = Wire(Layout {
            slots: 1,
            profile_slot: only_slot.unwrap_or(slot::IDLE),
            profile_threads: u32::from(by_thread),
            ..resolved.layout
        });
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("LAYOUT", &layout, true)
            .map_max_entries("BLOCK_SLOTS", 1)
            .map_max_entries("REQUESTS", 1)
            .map_max_entries("GENERATIONS", 1)
            .map_max_entries("EVENTS", 4096)
            .map_max_entries("STACKS", STACKS)
            .map_max_entries("SAMPLES", SAMPLES)
            .load(object::bytes())
            .map_err(|source| BpfError::Load {
                source: Box::new(source),
            })?;
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or(BpfError::NoMap { name });
        let slots = MappedArray::new("CPU_SLOTS", take("CPU_SLOTS")?, slot::TABLE_ENTRIES)?;
        let stacks = convert("STACKS", take("STACKS")?)?;
        let samples = convert("SAMPLES", take("SAMPLES")?)?;
        let counters = convert("COUNTERS", take("COUNTERS")?)?;
        let mut session = Self {
            ebpf,
            slots,
            shared_slots,
            stacks,
            samples,
            counters,
            links: Vec::new(),
        };
        session.refresh();
        session.attach(frequency, cpus)?;
        syscall::release_free_memory();
        Ok(session)
    }

    fn attach(&mut self, frequency: u32, cpus: &[u32]) -> Result<(), BpfError> {
        let refused = |error: &dyn std::error::Error| BpfError::Unsupported {
            what: "sampling stacks",
            reason: describe(error),
        };
        let program: &mut PerfEvent = self
            .ebpf
            .program_mut("profile_sample")
            .ok_or(BpfError::NoMap {
                name: "profile_sample",
            })?
            .try_into()
            .map_err(|error: ProgramError| refused(&error))?;
        program.load().map_err(|error| refused(&error))?;
        for &cpu in cpus {
            let link = program.attach(
                PerfEventConfig::Software(SoftwareEvent::CpuClock),
                PerfEventScope::AllProcessesOneCpu { cpu },
                SamplePolicy::Frequency(u64::from(frequency)),
                false,
            );
            match link {
                Ok(link) => self.links.push(link),
                // The rate is above what the kernel allows: so it will be on the next CPU.
                Err(ProgramError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::EINVAL) =>
                {
                    return Err(refused(&error));
                }
                // A CPU may go offline between the list and here.
                Err(error) if self.links.is_empty() && Some(&cpu) == cpus.last() => {
                    return Err(refused(&error));
                }
                Err(error) => tracing::debug!(cpu, error = %describe(&error), "cpu not sampled"),
            }
        }
        Ok(())
    }

    /// Takes over what the agent has decided about cgroups since the last call. Costs about 50 µs.
    pub(crate) fn refresh(&self) {
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

    /// Stops sampling; what was counted stays readable.
    pub(crate) fn stop(&mut self) {
        if let Some(program) = self.ebpf.program_mut("profile_sample") {
            let program: Result<&mut PerfEvent, _> = program.try_into();
            if let Ok(program) = program {
                for link in self.links.drain(..) {
                    let _ = program.detach(link);
                }
            }
        }
    }

    /// Processes sampled so far.
    pub(crate) fn tgids(&self) -> Vec<u32> {
        let mut tgids: Vec<u32> = self
            .samples
            .keys()
            .flatten()
            .map(|key| key.0.tgid)
            .collect();
        tgids.sort_unstable();
        tgids.dedup();
        tgids
    }

    /// All that was counted.
    pub(crate) fn samples(&self) -> Vec<SessionSample> {
        let mut known: HashMap<u64, Option<Arc<[u64]>>> = HashMap::new();
        let mut stack = |hash: u64| -> Option<Arc<[u64]>> {
            if hash == 0 {
                return Some(Arc::from([]));
            }
            known
                .entry(hash)
                .or_insert_with(|| {
                    let stack = self.stacks.get(&hash, 0).ok()?.0;
                    let length = usize::try_from(stack.length).ok()?;
                    stack.frames.get(..length).map(Arc::from)
                })
                .clone()
        };
        self.samples
            .iter()
            .flatten()
            .map(|(key, count)| SessionSample {
                slot: key.0.slot,
                tgid: key.0.tgid,
                tid: key.0.tid,
                user: stack(key.0.user),
                kernel: stack(key.0.kernel),
                count,
            })
            .collect()
    }

    /// What was lost, in the order of [`ctrscope_ebpf::counter::NAMES`].
    pub(crate) fn losses(&self) -> Vec<LossCounter> {
        read_counters(&self.counters)
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
