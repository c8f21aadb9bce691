//! On-CPU stacks, by a perf event that exists only while somebody records.
//!
//! Stacks are stored whole under their 64-bit hash. `bpf_get_stackid` would drop or confuse those
//! whose 32-bit hash meets in one bucket (36 of 2,100 in a test with 765 live stacks).

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_kernel,
        generated::{bpf_get_current_task, bpf_get_stack},
    },
    macros::perf_event,
    programs::PerfEventContext,
};
use ctrscope_ebpf::{
    counter,
    profile::{MAX_FRAMES, SampleKey},
    slot,
};

use crate::{
    atomic::add_u64,
    kernel::layout,
    maps::{CPU_SLOTS, SAMPLES, STACK_SCRATCH, STACKS, count},
};

/// `BPF_F_USER_STACK`, `BPF_NOEXIST` and `BPF_ANY`, `include/uapi/linux/bpf.h`.
const BPF_F_USER_STACK: u64 = 1 << 8;
const BPF_NOEXIST: u64 = 1;
const BPF_ANY: u64 = 0;

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
    let owner = current_owner()?;
    let wanted = layout!(profile_slot);
    if wanted != slot::IDLE && slot::slot(owner) != wanted {
        return None;
    }
    count(counter::SAMPLES);
    let key = SampleKey {
        user: store_stack(ctx, BPF_F_USER_STACK),
        kernel: store_stack(ctx, 0),
        slot: slot::slot(owner),
        tgid: (pid_tgid >> 32) as u32,
        tid: if layout!(profile_threads) != 0 {
            pid_tgid as u32
        } else {
            0
        },
        reserved: 0,
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

/// Owner of the current task by the session's slot table. A perf event's program has no typed
/// pointer to start from on every kernel, so the three fields are read by helper.
#[inline(always)]
fn current_owner() -> Option<u32> {
    // SAFETY: it takes nothing.
    let task = unsafe { bpf_get_current_task() };
    let group: u64 = read(task, layout!(task_sched_task_group))?;
    let css = group + u64::from(layout!(task_group_css));
    let id: u32 = read(css, layout!(css_id))?;
    let serial: u64 = read(css, layout!(css_serial))?;
    let known = CPU_SLOTS.get(id).copied().unwrap_or(0);
    if slot::entry_serial(known) == serial {
        return Some(slot::entry_owner(known));
    }
    count(counter::SAMPLE_UNKNOWN);
    Some(slot::owner(slot::OTHER, slot::KIND_UNKNOWN))
}

/// Reads a field through an untyped address.
#[inline(always)]
fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// Walks a stack and stores it; returns its hash, or 0 where there is none.
#[inline(always)]
fn store_stack(ctx: &PerfEventContext, flags: u64) -> u64 {
    let Some(stack) = STACK_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
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
            return 0;
        }
        let length = bytes as u64 / 8;
        (*stack).length = length;
        if length as usize == MAX_FRAMES {
            count(counter::STACK_TRUNCATED);
        }
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
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
        let hash = if hash == 0 { 1 } else { hash };
        if STACKS.get_ptr(hash).is_none() && STACKS.insert(hash, &*stack, BPF_ANY).is_err() {
            count(counter::STACKS_FULL);
        }
        hash
    }
}
