//! Block I/O: from a request's start through its issue to its completion.
//!
//! A request is charged to the blkcg of its first bio, read at issue: the block layer merges no two
//! bios of different blkcgs (`blk_cgroup_mergeable`, `block/blk-merge.c`). Never to the current task,
//! which is often a kernel worker or whoever was interrupted.
//!
//! What is completed and was not seen to be issued has its bio still (`blk_update_request`,
//! `block/blk-mq.c`, traces before it takes the bios off), so all is known of it but the queue time.
//!
//! # Flushes
//!
//! Whoever asks for a flush (`fsync`) has a request for it, which is never issued: it waits until a flush
//! that the block layer makes up, and that serves all who wait, has come back from the device
//! (`block/blk-flush.c`). The one that is asked for is counted, with the time until then. The one that is made
//! up has no bio, belongs to nobody and is not.
//!
//! Whose requests were in front of it is in [`super::device`].

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext};
use ctrscope_ebpf::{
    block::{
        self, BlockSlot, DISCARD, FAILED, FLUSH, HOLDS_PLACE_NS, InFlight, OPERATIONS, READ, WRITE,
        issued_again,
    },
    counter, histogram, slot,
};

use crate::{
    atomic::{add_u32, add_u64},
    kernel::{self, Kernel, layout, load},
    maps::{BLOCK, GENERATIONS, REQUESTS, count},
    probes::{device, sched::bounded},
};

/// `REQ_OP_MASK`, `include/linux/blk_types.h`.
const REQ_OP_MASK: u32 = 0xff;
/// `REQ_OP_FLUSH`, in the same place: a flush that the block layer has made up.
const REQ_OP_FLUSH: u32 = 2;

/// The operation of a request; `None` for passthrough, zone management, and the flush that the block layer
/// makes up. Reads, writes, flushes and discards have had the numbers 0 to 3 since 4.8; the others' come from
/// BTF.
#[inline(always)]
fn operation(cmd_flags: u32) -> Option<usize> {
    let op = cmd_flags & REQ_OP_MASK;
    if op == 0 {
        Some(READ)
    } else if op == 1 || op == layout!(op_write_zeroes) || op == layout!(op_zone_append) {
        Some(WRITE)
    } else if op == 3 || op == layout!(op_secure_erase) {
        Some(DISCARD)
    } else {
        None
    }
}

/// Address of a field of a slot.
macro_rules! field {
    ($slot:expr, $field:ident) => {{
        let slot: *mut BlockSlot = $slot;
        &raw mut (*slot).$field
    }};
}

#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_rq_issue(ctx: BtfTracePointContext) -> i32 {
    let _ = try_block_rq_issue(&ctx);
    0
}

/// The place of a request in the table.
#[inline(always)]
fn entry(number: u64) -> Option<*mut InFlight> {
    REQUESTS.get_ptr_mut(block::place(number))
}

/// Owner of a bio.
#[inline(always)]
fn owner(bio: Kernel) -> u32 {
    if layout!(block_has_blkcg) != 0 && !bio.is_null() {
        let css = kernel::bio_css(bio);
        if !css.is_null() {
            return kernel::owner(slot::SUBSYSTEM_BLOCK, css, 0);
        }
    }
    slot::owner(slot::OTHER, slot::KIND_UNKNOWN)
}

/// How often a slot has been given away.
#[inline(always)]
fn generation(owner: u32) -> u32 {
    match GENERATIONS.get_ptr(slot::slot(owner)) {
        // SAFETY: the pointer comes from the map; one aligned word.
        Some(generation) => unsafe { core::ptr::read_volatile(generation) as u32 },
        None => 0,
    }
}

#[inline(always)]
fn try_block_rq_issue(ctx: &BtfTracePointContext) -> Option<()> {
    let request: Kernel = if layout!(issue_request_argument) != 0 {
        ctx.arg(1)
    } else {
        ctx.arg(0)
    };
    let number = kernel::number(request);
    let found = entry(number)?;
    // SAFETY: the pointer comes from the map; a request is at one place at a time. Two that share one and are
    // issued at once on two CPUs may leave a mixture, which is at most one of them counted as another's.
    let earlier = unsafe { *found };
    let flags = load(request, layout!(request_cmd_flags));
    let Some(operation) = operation(flags) else {
        if earlier.number == number {
            close_unseen(found, &earlier);
        }
        if flags & REQ_OP_MASK == REQ_OP_FLUSH {
            device::flush_issued(request, unsafe { bpf_ktime_get_ns() });
        }
        return None;
    };
    let issued_at = unsafe { bpf_ktime_get_ns() };
    let started_at: u64 = load(request, layout!(request_start_time));
    // The start may be of another CPU's clock, but no request is issued before it.
    let issued_at = issued_at.max(started_at);
    let owner = owner(load(request, layout!(request_bio)));
    let mut in_flight = InFlight {
        number,
        // 0 where the queue keeps no I/O statistics: then queue time is unknown and counts as none.
        started_at: if started_at != 0 {
            started_at
        } else {
            issued_at
        },
        issued_at,
        owner,
        operation: operation as u32,
        bytes: load(request, layout!(request_data_len)),
        completed_bytes: 0,
        generation: generation(owner),
        reserved: 0,
    };
    let mut is_first = true;
    if earlier.number == number {
        if is_another(started_at, &earlier) {
            completion_unseen(&earlier);
        } else {
            is_first = false;
            // The driver gave it back, for want of room or with a part done, and the rest is issued.
            let (completed, bytes) =
                issued_again(earlier.bytes, earlier.completed_bytes, in_flight.bytes);
            in_flight.completed_bytes = completed;
            in_flight.bytes = bytes;
            in_flight.operation = earlier.operation;
        }
    } else if earlier.number != 0 {
        // Issued at nearly the same time, it may be the earlier one of the two.
        if issued_at.saturating_sub(earlier.issued_at) < HOLDS_PLACE_NS {
            count(counter::REQUESTS_FULL);
            return Some(());
        }
        completion_unseen(&earlier);
    }
    // SAFETY: as above.
    unsafe { *found = in_flight };
    if is_first {
        device::issued(request, block::place(number), issued_at);
    }
    Some(())
}

/// Whether the request at the address of an earlier one is another than that: no request is started
/// after its first issue. Where the queue keeps no I/O statistics the start is 0, and a merge or a plug's
/// cached time can put it earlier; another request is then taken for the same.
#[inline(always)]
fn is_another(started_at: u64, earlier: &InFlight) -> bool {
    started_at > earlier.issued_at
}

/// Closes an entry whose request is not there any more: it has completed unseen.
#[inline(always)]
fn close_unseen(found: *mut InFlight, earlier: &InFlight) {
    // SAFETY: the pointer comes from the map.
    unsafe { (*found).number = 0 };
    completion_unseen(earlier);
}

/// Counts a request that has completed unseen: no tracepoint fires for an interrupt that comes while
/// tracing is off on its CPU. Seen on a para-virtual guest (6.18, PVM), where `/proc/interrupts` had
/// up to one in a hundred more than `irq_handler_entry`; any tracer misses those.
#[inline(always)]
fn completion_unseen(request: &InFlight) {
    count(counter::COMPLETION_UNSEEN);
    let Some(stats) = BLOCK.get_ptr_mut(place(request, slot_now(request))) else {
        return;
    };
    // SAFETY: as in `try_block_rq_complete`.
    unsafe {
        add_u64(field!(stats, operations), 1);
        add_u64(field!(stats, bytes), u64::from(request.bytes));
        if request.operation & FAILED != 0 {
            add_u32(&raw mut (*stats).errors, 1);
        }
    }
}

/// The slot of a request's owner, if that still has it.
#[inline(always)]
fn slot_now(request: &InFlight) -> u32 {
    if request.generation == generation(request.owner) {
        slot::slot(request.owner)
    } else {
        slot::OTHER
    }
}

/// Where a request is counted in `BLOCK`.
#[inline(always)]
fn place(request: &InFlight, slot: u32) -> u32 {
    slot * OPERATIONS as u32 + (request.operation & !FAILED)
}

#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_rq_complete(ctx: BtfTracePointContext) -> i32 {
    let _ = try_block_rq_complete(&ctx);
    0
}

#[inline(always)]
fn try_block_rq_complete(ctx: &BtfTracePointContext) -> Option<()> {
    let request: Kernel = ctx.arg(0);
    let error = ctx.arg::<u64>(1) as u32;
    let bytes = u64::from(ctx.arg::<u64>(2) as u32);
    let number = kernel::number(request);
    let found = entry(number)?;
    let started_at = load(request, layout!(request_start_time));
    // A request may complete in parts, some of which may fail; `__data_len` is what remained before this
    // one, and while it is more than that the request goes on (`blk_update_request`, `block/blk-mq.c`).
    let remaining = u64::from(load::<u32>(request, layout!(request_data_len)));
    // SAFETY: the pointer comes from the map; a request completes on one CPU at a time.
    let in_flight = unsafe { *found };
    if in_flight.number != number {
        return complete_unissued(request, error, bytes, remaining, started_at);
    }
    if is_another(started_at, &in_flight) {
        close_unseen(found, &in_flight);
        return complete_unissued(request, error, bytes, remaining, started_at);
    }
    if bytes < remaining {
        // SAFETY: as above.
        unsafe {
            (*found).completed_bytes = in_flight.completed_bytes.wrapping_add(bytes as u32);
            if error != 0 && bytes != 0 {
                (*found).operation |= FAILED;
            }
        }
        return Some(());
    }
    // SAFETY: as above.
    unsafe { (*found).number = 0 };
    let done = if error != 0 {
        u64::from(in_flight.completed_bytes) + bytes
    } else {
        if bytes == 0
            && in_flight.completed_bytes < in_flight.bytes
            && load::<Kernel>(request, layout!(request_bio)).is_null()
        {
            // Its bios were taken for another path of the device, and are issued there
            // (`nvme_failover_req`, `drivers/nvme/host/multipath.c`).
            return Some(());
        }
        // All of it, also where a part of it, or the completion of its data before that of the flush after it
        // (`blk_flush_restore_request`, `block/blk-flush.c`), was unseen.
        u64::from(in_flight.bytes)
    };
    let now = unsafe { bpf_ktime_get_ns() };
    if now < in_flight.issued_at {
        count(counter::BLOCK_NEGATIVE);
        return None;
    }
    let failed = error != 0 || in_flight.operation & FAILED != 0;
    let slot = slot_now(&in_flight);
    let stats = BLOCK.get_ptr_mut(place(&in_flight, slot))?;
    let latency_ns = now - in_flight.started_at;
    add_one(stats, latency_ns, done, failed);
    // SAFETY: as in `add_one`.
    unsafe {
        add_u64(
            field!(stats, queue_ns),
            in_flight.issued_at - in_flight.started_at,
        );
    }
    let operation = in_flight.operation & !FAILED;
    let whose = device::whose(block::place(number), operation, slot);
    device::completed(whose, in_flight.issued_at, latency_ns, now);
    Some(())
}

/// Counts what was not seen to be issued, or never is.
#[inline(always)]
fn complete_unissued(
    request: Kernel,
    error: u32,
    bytes: u64,
    remaining: u64,
    started_at: u64,
) -> Option<()> {
    let flags = load(request, layout!(request_cmd_flags));
    if flags & REQ_OP_MASK == REQ_OP_FLUSH {
        let queue = device::queue_number(request);
        device::flush_completed(queue, unsafe { bpf_ktime_get_ns() });
        return None;
    }
    let mut operation = operation(flags)?;
    let bio: Kernel = load(request, layout!(request_bio));
    if bio.is_null() {
        return None;
    }
    if bytes == 0 {
        if remaining != 0 {
            return None;
        }
        // The second completion of a request with data, after which there was a flush, has its bio again
        // (`blk_flush_restore_request`, `block/blk-flush.c`): it is counted, but for a flush that failed.
        if !load::<Kernel>(bio, layout!(bio_io_vec)).is_null() {
            if error != 0 {
                let place = slot::slot(owner(bio)) * OPERATIONS as u32 + operation as u32;
                let stats = BLOCK.get_ptr_mut(place)?;
                // SAFETY: as in `add_one`.
                unsafe { add_u32(&raw mut (*stats).errors, 1) };
            }
            return None;
        }
        operation = FLUSH;
    }
    let slot = slot::slot(owner(bio));
    let stats = BLOCK.get_ptr_mut(slot * OPERATIONS as u32 + operation as u32)?;
    if bytes < remaining {
        // SAFETY: as in `add_one`.
        unsafe { add_u64(field!(stats, bytes), bytes) };
        return Some(());
    }
    let now = unsafe { bpf_ktime_get_ns() };
    if started_at == 0 || now < started_at {
        // SAFETY: as in `add_one`.
        unsafe {
            add_u64(field!(stats, operations), 1);
            add_u64(field!(stats, bytes), bytes);
            if error != 0 {
                add_u32(&raw mut (*stats).errors, 1);
            }
        }
        return Some(());
    }
    let latency_ns = now - started_at;
    add_one(stats, latency_ns, bytes, error != 0);
    let whose = device::whose(0, operation as u32, slot);
    device::completed_unissued(whose, device::queue_number(request), latency_ns, now);
    Some(())
}

/// Counts a request.
#[inline(always)]
fn add_one(stats: *mut BlockSlot, latency: u64, bytes: u64, failed: bool) {
    let bucket = bounded(histogram::bucket(latency));
    // SAFETY: all of it lies inside the map's value; other CPUs write too, hence the atomics.
    unsafe {
        let buckets = (&raw mut (*stats).latency_buckets).cast::<u32>();
        add_u32(buckets.add(bucket), 1);
        add_u64(field!(stats, latency_ns), latency);
        add_u64(field!(stats, operations), 1);
        add_u64(field!(stats, bytes), bytes);
        if failed {
            add_u32(&raw mut (*stats).errors, 1);
        }
    }
}
