//! Every map: capacity, who writes, who reads, and what happens when it is full.
//!
//! The loader overrides capacities that depend on the host (CPUs, container limit); the numbers here
//! only have to be valid. A profile session loads the same object with the maps it does not use
//! shrunk to one entry.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use ctrscope_ebpf::{
    block::{
        BLOCK_PAIRS as MOST_BLOCK_PAIRS, BlockSlot, InFlight, REQUESTS_ENTRIES,
        device::{DEVICES as MOST_DEVICES, Device, Served},
    },
    counter,
    ledger::{PairSlot, Stretches, THROTTLED_QUEUES, Throttles},
    profile::{Program, ProgramKey, SESSIONS as MOST_SESSIONS, SampleKey, Stack},
    python::{Python, PythonThread},
    sched::{CpuState, SchedSlot, TaskState},
    slot,
    walk::Mapping,
};

/// User space may map the array's memory (`include/uapi/linux/bpf.h`; 5.5 and later).
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Cpu css id → [`slot::entry`]. Written here when a css is first seen and by user space when it
/// has decided; read by `sched_switch` and, in a session, by `profile_sample`. Ids beyond it count
/// as other and in `SLOT_TABLE_FULL`.
#[map]
pub static CPU_SLOTS: Array<u64> = Array::with_max_entries(slot::TABLE_ENTRIES, BPF_F_MMAPABLE);

/// The same for block css ids; read by `block_rq_issue`, and by `block_rq_complete` for what it has not seen
/// issued.
#[map]
pub static BLOCK_SLOTS: Array<u64> = Array::with_max_entries(slot::TABLE_ENTRIES, BPF_F_MMAPABLE);

/// `cpu * slots + slot` → what the container did there. Written by `sched_switch` on that CPU,
/// read by user space through its mapping, zeroed by it when a slot is given away. Cannot be full:
/// slots are handed out by user space, and what gets none is counted in slot 0.
#[map]
pub static SCHED: Array<SchedSlot> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// CPU → its state. Written by `sched_switch`, `read_clock`, and user space (owner of a slice that
/// began before its cgroup was known). One entry per possible CPU.
#[map]
pub static CPUS: Array<CpuState> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// `pid & mask` → what is remembered of a task. Written by `sched_switch` and `sched_migrate_task`; a task takes over the
/// entry of another one, which is counted in `TASK_COLLISION` and costs the other its migrated
/// wait and its off-CPU time, once. Mappable so that no entry is in two lines of the cache.
#[map]
pub static TASKS: Array<TaskState> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// CPU → its last slices. Written and read by `sched_switch` on that CPU. One entry per possible CPU. Mappable so that
/// it begins with a page, and each stretch with a line of the cache.
#[map]
pub static STRETCHES: Array<Stretches> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// `cpu * 512 +` a hash of a run queue, or beside it → when a cgroup's tasks were throttled there. Written and read by
/// `sched_switch` on that CPU; of the two in a place the one that was not used for longer goes, which costs the waits of
/// its tasks that slept before the quota's part.
#[map]
pub static THROTTLES: Array<Throttles> = Array::with_max_entries(THROTTLED_QUEUES, 0);

/// `cpu * 4096 + place of the pair` → who waited for whom. Written by `sched_switch` on that CPU, read by user space
/// through its mapping, which clears those that rest. One that finds its place taken is counted in `lost` of
/// whoever has it.
#[map]
pub static PAIRS: Array<PairSlot> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// `slot * 4 + operation` → block I/O. Written by `block_rq_complete` atomically, read by user
/// space through its mapping. Cannot be full, as `SCHED`.
#[map]
pub static BLOCK: Array<BlockSlot> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Place of a request's number → request at the device. One that finds its place taken is counted at its
/// completion as if it had never waited in a queue, and in `REQUESTS_FULL`. An entry whose completion was never
/// seen is counted, without latency, when its place is used again, and in `COMPLETION_UNSEEN`. An array and
/// no hash: that costs twice as much (ARCHITECTURE.md).
#[map]
pub static REQUESTS: Array<InFlight> = Array::with_max_entries(REQUESTS_ENTRIES, 0);

/// Place of a request in `REQUESTS` → what its device had served of whom when it was issued. Written by `block_rq_issue`,
/// read by `block_rq_complete`. Beside that table and not in it: a request that is issued again keeps what it has here.
#[map]
pub static SERVED: Array<Served> = Array::with_max_entries(REQUESTS_ENTRIES, 0);

/// Place of a request queue's number, or the one beside it → whose requests the device served. Written by
/// `block_rq_issue`, which gives the places, and `block_rq_complete`. A device that finds both taken is counted in
/// `DEVICES_FULL` with each request, and of those it is not known who was in front.
#[map]
pub static DEVICES: Array<Device> = Array::with_max_entries(MOST_DEVICES, 0);

/// Place of the pair → who waited for whose requests, on all CPUs. Written by `block_rq_complete` atomically, else as
/// `PAIRS`.
#[map]
pub static BLOCK_PAIRS: Array<PairSlot> = Array::with_max_entries(MOST_BLOCK_PAIRS, BPF_F_MMAPABLE);

/// Slot → how often it was given away, which user space counts. A request that was issued under another
/// number is counted in slot 0: whose it was has gone.
#[map]
pub static GENERATIONS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Events for user space. One that finds it full is counted in `EVENT_RING_FULL`; user space then
/// walks the cgroup tree.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Cgroups that were told to be empty: one word, `event::one_more`. Two CPUs that count at once may lose one.
#[map]
pub static EMPTIED: Array<u64> = Array::with_max_entries(1, 0);

/// What could not be done, by [`counter`] index.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

/// Hash of a stack, begun with the number of the session → the stack. Written by `profile_sample`; when full the sample keeps its hash,
/// renders as lost and is counted in `STACKS_FULL`. Preallocated: 5.10 refuses anything else in
/// programs of perf events.
#[map]
pub static STACKS: HashMap<u64, Stack> = HashMap::with_max_entries(1, 0);

/// The same for stacks of Python functions, which would leave no room for others: each program has its own. Counted in
/// `PYTHON_STACKS_FULL`.
#[map]
pub static PYTHON_STACKS: HashMap<u64, Stack> = HashMap::with_max_entries(1, 0);

/// Where samples were taken → how many. A sample that finds it full is counted in `SAMPLES_FULL`.
#[map]
pub static SAMPLES: HashMap<SampleKey, u64> = HashMap::with_max_entries(1, 0);

/// Place to put a stack together: a stack of 1 KiB does not fit a program's own 512 bytes.
#[map]
pub static STACK_SCRATCH: PerCpuArray<Stack> = PerCpuArray::with_max_entries(1, 0);

/// Sessions by number: [`ctrscope_ebpf::profile::session_word`], 0 where none records. Written by user space.
#[map]
pub static SESSIONS: Array<u64> = Array::with_max_entries(MOST_SESSIONS, BPF_F_MMAPABLE);

/// Programs that were sampled. Entered by `profile_sample`, which also counts and asks; user space writes where the
/// mappings are, and removes what has ended. One that finds it full is walked by frame pointers, has no name
/// unless it lives until user space looks, and is counted in `PROGRAMS_FULL`.
#[map]
pub static PROGRAMS: HashMap<ProgramKey, Program> = HashMap::with_max_entries(1, 0);

/// Mappings that hold code, by program: [`ctrscope_ebpf::walk::region`]. Written by user space.
#[map]
pub static MAPPINGS: Array<Mapping> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Rows of unwind tables ([`ctrscope_ebpf::unwind`]), two in each value: a value has 8 bytes at least. Written by user
/// space, which uses a place again only when nobody can be reading it.
#[map]
pub static UNWIND_ROWS: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Page indexes and wide words of the same, two in each value.
#[map]
pub static UNWIND_INDEX: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What a walk has at hand: one for each CPU.
#[cfg(bpf_target_arch = "x86_64")]
#[map]
pub static WALK_SCRATCH: PerCpuArray<crate::probes::Walk> = PerCpuArray::with_max_entries(1, 0);

/// Where the interpreters of programs keep the frames of Python functions. Written by user space; a program that finds no
/// room in it has no Python functions.
#[map]
pub static PYTHONS: HashMap<ProgramKey, Python> = HashMap::with_max_entries(1, 0);

/// Where the search for a thread's state in its interpreter stands, or what it found, by [`ctrscope_ebpf::python::thread_entry`].
/// Written by `profile_sample`. Two threads with one place take it from each other, and are searched for anew.
#[map]
pub static PYTHON_THREADS: Array<PythonThread> = Array::with_max_entries(1, 0);

/// What a walk of such frames has at hand: one for each CPU.
#[cfg(bpf_target_arch = "x86_64")]
#[map]
pub static PYTHON_SCRATCH: PerCpuArray<crate::probes::PythonWalk> =
    PerCpuArray::with_max_entries(1, 0);

/// Adds one to a counter.
#[inline(always)]
pub fn count(index: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the entry is this CPU's; an interrupt between load and store can lose one count,
        // never make one up.
        unsafe { *value += 1 }
    }
}
