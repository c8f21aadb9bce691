//! On-CPU stacks, by perf events that exist only while somebody records.
//!
//! Stacks are stored whole under their 64-bit hash. `bpf_get_stackid` would drop or confuse those
//! whose 32-bit hash meets in one bucket (36 of 2,100 in a test with 765 live stacks).

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel,
        generated::{bpf_get_current_task, bpf_get_stack},
    },
    macros::perf_event,
    programs::PerfEventContext,
};
use ctrscope_ebpf::{
    counter,
    profile::{
        MAX_FRAMES, Program, ProgramKey, SampleKey, Stack, by_thread, is_open, is_warming,
        one_more_ask, program_id, session_of, session_slot,
    },
    slot,
    walk::{self, Ask},
};

use crate::{
    atomic::add_u64,
    kernel::layout,
    maps::{
        CPU_SLOTS, EVENTS, PROGRAMS, PYTHON_STACKS, SAMPLES, SESSIONS, STACK_SCRATCH, STACKS, count,
    },
};

/// `BPF_F_USER_STACK`, `BPF_NOEXIST` and `BPF_ANY`, `include/uapi/linux/bpf.h`.
const BPF_F_USER_STACK: u64 = 1 << 8;
const BPF_NOEXIST: u64 = 1;
const BPF_ANY: u64 = 0;

/// What a stack is of: the tables where it is stored are two.
const NATIVE: u32 = 0;
const PYTHON: u32 = 1;
/// Set in what [`store_stack`] returns where the stack was not there before.
const IS_NEW: u64 = 1;

/// Cgroups that are looked at for the owner of a task: its own, and those above while nothing is known of it.
const OWNER_LEVELS: u32 = 4;

/// Shortest time between two questions for one program, nanoseconds: a tenth of a second.
const ASK_INTERVAL_NS: u64 = 100_000_000;

#[perf_event]
pub fn profile_sample(ctx: PerfEventContext) -> u32 {
    let _ = try_profile_sample(&ctx);
    0
}

#[inline(always)]
fn try_profile_sample(ctx: &PerfEventContext) -> Option<()> {
    let pid_tgid = bpf_get_current_pid_tgid();
    // The idle task.
    if pid_tgid == 0 {
        return None;
    }
    // SAFETY: the context of a perf event's program.
    let session =
        session_of(unsafe { core::ptr::read_volatile(&raw const (*ctx.ctx).sample_period) });
    let word = SESSIONS.get(session).copied().unwrap_or(0);
    if !is_open(word) {
        return None;
    }
    // SAFETY: it takes nothing.
    let task = unsafe { bpf_get_current_task() };
    let owner = owner(task)?;
    let wanted = session_slot(word);
    if wanted != slot::IDLE && slot::slot(owner) != wanted {
        return None;
    }
    let program = program((pid_tgid >> 32) as u32, task);
    if is_warming(word) {
        if program.mm != 0 && walk::region_first(program.region) == 0 {
            ask(&program, 0);
        }
        return None;
    }
    count(counter::SAMPLES);
    let kernel = store_kernel_stack(ctx, session);
    let (user, stop) = if program.mm == 0 {
        (0, walk::STOP_ABSENT)
    } else {
        store_user_stack(ctx, session, task, &program)
    };
    let key = SampleKey {
        user,
        kernel,
        python: store_python_stack(session, task, &program, pid_tgid as u32),
        slot: slot::slot(owner),
        program: program.key,
        tid: if by_thread(word) { pid_tgid as u32 } else { 0 },
        session,
        stop,
    };
    if let Some(counted) = SAMPLES.get_ptr_mut(key) {
        // SAFETY: the pointer comes from the map. Two CPUs may take the same sample at once.
        unsafe { add_u64(counted, 1) };
    } else if SAMPLES.insert(key, 1, BPF_NOEXIST).is_err() {
        // Another CPU inserted it between the two, or there is no room.
        match SAMPLES.get_ptr_mut(key) {
            // SAFETY: as above.
            Some(counted) => unsafe { add_u64(counted, 1) },
            None => count(counter::SAMPLES_FULL),
        }
    }
    Some(())
}

/// Owner of a task by the sampler's slot table, which is brought up to date ten times a second. A perf event's program has no typed
/// pointer to start from on every kernel, so the three fields are read by helper.
#[inline(always)]
fn owner(task: u64) -> Option<u32> {
    let group: u64 = read(task, layout!(task_sched_task_group))?;
    let mut css = group + u64::from(layout!(task_group_css));
    let mut level = 0;
    while level < OWNER_LEVELS {
        let id: u32 = read(css, layout!(css_id))?;
        let serial: u64 = read(css, layout!(css_serial))?;
        let known = CPU_SLOTS.get(id).copied().unwrap_or(0);
        if slot::entry_serial(known) == serial {
            let owner = slot::entry_owner(known);
            // What is not known yet is a part of the container that it is in, or a container of its own.
            if level == 0 || slot::kind(owner) == slot::KIND_CONTAINER {
                return Some(owner);
            }
            break;
        }
        css = read(css, layout!(css_parent))?;
        if css == 0 {
            break;
        }
        level += 1;
    }
    count(counter::SAMPLE_UNKNOWN);
    Some(slot::owner(slot::OTHER, slot::KIND_UNKNOWN))
}

/// Reads a field through an untyped address.
#[inline(always)]
pub(super) fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// What the current process runs.
pub(super) struct Current {
    pub(super) key: ProgramKey,
    /// Its entry in `PROGRAMS`; null where there was no room.
    entry: *mut Program,
    /// Where its mappings are, read once: the entry may become another program's while it is looked at.
    pub(super) region: u64,
    /// Its address space; 0 is none.
    mm: u64,
    is_python: bool,
    start_ns: u64,
}

/// Looks the current process up by what it runs, enters it if it is new, and counts a sample.
#[inline(always)]
fn program(tgid: u32, task: u64) -> Current {
    let leader: u64 = read(task, layout!(task_group_leader)).unwrap_or(task);
    let start_ns: u64 = read(leader, layout!(task_start_boottime)).unwrap_or(0);
    let exec_offset = layout!(task_self_exec_id);
    let exec_id = if exec_offset == 0 {
        0
    } else {
        read(task, exec_offset).unwrap_or(0)
    };
    let key = ProgramKey {
        tgid,
        id: program_id(start_ns, exec_id),
    };
    let mm: u64 = read(task, layout!(task_mm)).unwrap_or(0);
    let mut entry = PROGRAMS.get_ptr_mut(key);
    if entry.is_none() {
        let new = Program {
            comm: read(leader, layout!(task_comm)).unwrap_or([0; 16]),
            start_ns,
            start_stack: start_stack(mm),
            ..Program::ZERO
        };
        // Another CPU may have entered it meanwhile.
        let _ = PROGRAMS.insert(key, new, BPF_NOEXIST);
        entry = PROGRAMS.get_ptr_mut(key);
    }
    let mut current = Current {
        key,
        entry: core::ptr::null_mut(),
        region: 0,
        mm,
        is_python: false,
        start_ns,
    };
    match entry {
        Some(entry) => {
            // SAFETY: the pointer comes from the map.
            unsafe {
                add_u64(&raw mut (*entry).samples, 1);
                // In the midst of an `exec` it is not there yet.
                let stack = &raw mut (*entry).start_stack;
                if core::ptr::read_volatile(stack) == 0 {
                    core::ptr::write_volatile(stack, start_stack(mm));
                }
                current.region = core::ptr::read_volatile(&raw const (*entry).region);
                current.is_python = core::ptr::read_volatile(&raw const (*entry).is_python) != 0;
            }
            current.entry = entry;
        }
        None => count(counter::PROGRAMS_FULL),
    }
    current
}

/// Where the stack of an address space began; 0 is not known.
#[inline(always)]
fn start_stack(mm: u64) -> u64 {
    let offset = layout!(mm_start_stack);
    if mm == 0 || offset == 0 {
        return 0;
    }
    read(mm, offset).unwrap_or(0)
}

/// Asks user space to look at a program, a few times a second.
#[inline(always)]
fn ask(current: &Current, address: u64) {
    if current.entry.is_null() {
        return;
    }
    // SAFETY: it takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the pointer comes from the map.
    unsafe {
        let after = &raw mut (*current.entry).ask_after_ns;
        if now < core::ptr::read_volatile(after) {
            return;
        }
        core::ptr::write_volatile(after, now + ASK_INTERVAL_NS);
    }
    let asked = Ask {
        tgid: current.key.tgid,
        program: current.key.id,
        address,
        start_ns: current.start_ns,
        python: 0,
    };
    put(asked);
}

#[inline(always)]
fn put(asked: Ask) {
    if EVENTS.output::<Ask>(asked, 0).is_err() {
        count(counter::ASK_RING_FULL);
    }
}

#[inline(always)]
fn store_kernel_stack(ctx: &PerfEventContext, session: u32) -> u64 {
    let Some(stack) = STACK_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    if walk_by_pointers(ctx, stack, 0) {
        store(u64::from(session), NATIVE).0
    } else {
        0
    }
}

/// Walks the user stack and stores it; returns its hash, or 0 where there is none, and how the walk ended.
#[inline(always)]
fn store_user_stack(
    ctx: &PerfEventContext,
    session: u32,
    task: u64,
    current: &Current,
) -> (u64, u32) {
    let Some(stack) = STACK_SCRATCH.get_ptr_mut(0) else {
        return (0, walk::STOP_ABSENT);
    };
    #[cfg(bpf_target_arch = "x86_64")]
    let stop = if walk::region_first(current.region) != 0 {
        super::walk::walk(ctx, stack, task, current)
    } else {
        walk::STOP_POINTERS
    };
    #[cfg(not(bpf_target_arch = "x86_64"))]
    let stop = walk::STOP_POINTERS;
    if matches!(
        stop,
        walk::STOP_POINTERS | walk::STOP_NO_REGISTERS | walk::STOP_32_BIT
    ) {
        if !walk_by_pointers(ctx, stack, BPF_F_USER_STACK) {
            return (0, walk::STOP_ABSENT);
        }
        if stop == walk::STOP_POINTERS {
            ask(current, 0);
        }
    } else if stop & walk::STOP_MASK == walk::STOP_UNMAPPED {
        // SAFETY: the scratch is this CPU's.
        let length = unsafe { core::ptr::read_volatile(&raw const (*stack).length) };
        let last = if length as usize > MAX_FRAMES || length == 0 {
            0
        } else {
            // SAFETY: within the frames.
            unsafe {
                core::ptr::read_volatile(
                    (&raw const (*stack).frames)
                        .cast::<u64>()
                        .add(length as usize - 1),
                )
            }
        };
        ask(current, last);
    }
    let _ = task;
    (store(u64::from(session), NATIVE).0, stop)
}

/// Stores the Python functions of the current thread, and asks user space for the names of those that are new: code that
/// is made for a moment is soon gone. Returns their hash, or 0 where there are none. The hash is of one program
/// alone: others that were forked with it have the same code at the same addresses.
#[inline(always)]
fn store_python_stack(session: u32, task: u64, current: &Current, tid: u32) -> u64 {
    #[cfg(bpf_target_arch = "x86_64")]
    if current.is_python
        && let Some(stack) = STACK_SCRATCH.get_ptr_mut(0)
        && let Some(digest) = super::python::walk(stack, task, current.key, tid)
    {
        let seed = (u64::from(current.key.id) << 32 | u64::from(current.key.tgid))
            ^ u64::from(session)
            ^ digest;
        let (hash, is_new) = store(seed, PYTHON);
        if is_new && may_ask_for_names(current) {
            put(Ask {
                tgid: current.key.tgid,
                program: current.key.id,
                address: 0,
                start_ns: current.start_ns,
                python: hash,
            });
        }
        return hash;
    }
    let _ = (session, task, current, tid);
    0
}

/// Whether the names of another stack may be asked for: a program that makes new functions all the time would fill the
/// ring, and others would have no tables.
#[inline(always)]
#[cfg(bpf_target_arch = "x86_64")]
fn may_ask_for_names(current: &Current) -> bool {
    if current.entry.is_null() {
        return false;
    }
    // SAFETY: the first takes nothing, and the pointer comes from the map.
    let (now_ns, asks) = unsafe {
        let asks = core::ptr::read_volatile(&raw const (*current.entry).python_asks);
        (bpf_ktime_get_ns(), asks)
    };
    let Some(asks) = one_more_ask(asks, now_ns) else {
        count(counter::PYTHON_UNASKED);
        return false;
    };
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(&raw mut (*current.entry).python_asks, asks) };
    true
}

/// Has the kernel walk a stack by frame pointers; says whether there is one.
#[inline(always)]
fn walk_by_pointers(ctx: &PerfEventContext, stack: *mut Stack, flags: u64) -> bool {
    // SAFETY: the scratch is this CPU's, and the perf event's program does not interrupt itself.
    unsafe {
        let frames = (&raw mut (*stack).frames).cast::<u64>();
        let bytes = bpf_get_stack(ctx.as_ptr(), frames.cast(), (MAX_FRAMES * 8) as u32, flags);
        if bytes <= 0 {
            // A kernel thread has no user stack, a task in user mode no kernel stack: both say so by
            // `-EINVAL` or no frames. Anything else is a walk that failed.
            if bytes < 0 && bytes != -22 {
                count(counter::STACK_UNREADABLE);
            }
            return false;
        }
        let length = bytes as u64 / 8;
        (*stack).length = length;
        if length as usize == MAX_FRAMES {
            count(counter::STACK_TRUNCATED);
        }
        true
    }
}

/// Stores the stack in the scratch under its hash; says also whether it is a new one. The hash is even, never 0, and
/// begins with the seed.
#[inline(always)]
fn store(seed: u64, kind: u32) -> (u64, bool) {
    let stored = store_stack(seed, kind);
    (stored & !IS_NEW, stored & IS_NEW != 0)
}

/// The same in one word. A global function, which the kernel proves by itself, once for all kinds of stacks.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn store_stack(seed: u64, kind: u32) -> u64 {
    let Some(stack) = STACK_SCRATCH.get_ptr(0) else {
        return 0;
    };
    // SAFETY: the scratch is this CPU's, and the perf event's program does not interrupt itself.
    unsafe {
        let frames = (&raw const (*stack).frames).cast::<u64>();
        let length = core::ptr::read_volatile(&raw const (*stack).length);
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325 ^ seed;
        let mut i = 0;
        while i < MAX_FRAMES {
            if i as u64 >= length {
                break;
            }
            let frame = core::ptr::read_volatile(frames.add(i));
            hash = (hash ^ frame).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
            i += 1;
        }
        let hash = if hash & !IS_NEW == 0 {
            2
        } else {
            hash & !IS_NEW
        };
        if kind == PYTHON {
            if PYTHON_STACKS.get_ptr(hash).is_some() {
                return hash;
            }
            if PYTHON_STACKS.insert(hash, &*stack, BPF_ANY).is_err() {
                count(counter::PYTHON_STACKS_FULL);
                return hash;
            }
        } else {
            if STACKS.get_ptr(hash).is_some() {
                return hash;
            }
            if STACKS.insert(hash, &*stack, BPF_ANY).is_err() {
                count(counter::STACKS_FULL);
                return hash;
            }
        }
        hash | IS_NEW
    }
}
