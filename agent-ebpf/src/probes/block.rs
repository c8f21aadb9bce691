//! Block I/O: from a request's start through its issue to its completion.
//!
//! A request is charged to the blkcg of its first bio, read at issue: the block layer merges no two
//! bios of different blkcgs (`blk_cgroup_mergeable`, `block/blk-merge.c`), and at completion the bio
//! is gone. Never to the current task, which is often a kernel worker or whoever was interrupted.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext};
use ctrscope_ebpf::{
    block::{BlockSlot, DISCARD, FAILED, FLUSH, InFlight, OPERATIONS, READ, WRITE},
    counter, histogram, slot,
};

use crate::{
    atomic::{add_u32, add_u64},
    kernel::{self, Kernel, layout, load},
    maps::{BLOCK, BLOCK_SLOTS, REQUESTS, count},
    probes::sched::bounded,
};

/// `REQ_OP_MASK`, `include/linux/blk_types.h`.
const REQ_OP_MASK: u32 = 0xff;

/// The operation of a request; `None` for passthrough and zone management. Reads, writes, flushes
/// and discards have had the numbers 0 to 3 since 4.8; the others' come from BTF.
#[inline(always)]
fn operation(cmd_flags: u32) -> Option<usize> {
    let op = cmd_flags & REQ_OP_MASK;
    if op == 0 {
        Some(READ)
    } else if op == 1 || op == layout!(op_write_zeroes) || op == layout!(op_zone_append) {
        Some(WRITE)
    } else if op == 2 {
        Some(FLUSH)
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

#[inline(always)]
fn try_block_rq_issue(ctx: &BtfTracePointContext) -> Option<()> {
    let request: Kernel = if layout!(issue_request_argument) != 0 {
        ctx.arg(1)
    } else {
        ctx.arg(0)
    };
    let Some(operation) = operation(load(request, layout!(request_cmd_flags))) else {
        close_unseen(request);
        return None;
    };
    let issued_at = unsafe { bpf_ktime_get_ns() };
    let started_at: u64 = load(request, layout!(request_start_time));
    // The start may be of another CPU's clock, but no request is issued before it.
    let issued_at = issued_at.max(started_at);
    let bio: Kernel = load(request, layout!(request_bio));
    let mut owner = slot::owner(slot::OTHER, slot::KIND_UNKNOWN);
    if layout!(block_has_blkcg) != 0 && !bio.is_null() {
        let css = kernel::bio_css(bio);
        if !css.is_null() {
            owner = kernel::owner(&BLOCK_SLOTS, slot::SUBSYSTEM_BLOCK, css, 0);
        }
    }
    let mut in_flight = InFlight {
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
    };
    if let Some(found) = REQUESTS.get_ptr_mut(request as u64) {
        // SAFETY: the pointer comes from the map; a request is at one place at a time.
        let earlier = unsafe { *found };
        if is_another(started_at, &earlier) {
            completion_unseen(&earlier);
        } else if in_flight.bytes.wrapping_add(earlier.completed_bytes) == earlier.bytes {
            // The driver gave it back, for want of room or with a part done, and the rest is issued.
            in_flight.completed_bytes = earlier.completed_bytes;
            in_flight.bytes = earlier.bytes;
            in_flight.operation = earlier.operation;
        }
        // SAFETY: as above.
        unsafe { *found = in_flight };
        return Some(());
    }
    if REQUESTS.insert(request as u64, in_flight, 0).is_err() {
        count(counter::REQUESTS_FULL);
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

/// Closes what stands at the address of a request that is not kept: the request that was there before
/// has completed unseen.
#[inline(always)]
fn close_unseen(request: Kernel) {
    let key = request as u64;
    let Some(found) = REQUESTS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: the pointer comes from the map; a request is at one place at a time.
    let earlier = unsafe { *found };
    let _ = REQUESTS.remove(key);
    completion_unseen(&earlier);
}

/// Counts a request that has completed unseen: no tracepoint fires for an interrupt that comes while
/// tracing is off on its CPU. Seen on a para-virtual guest (6.18, PVM), where `/proc/interrupts` had
/// up to one in a hundred more than `irq_handler_entry`; any tracer misses those.
#[inline(always)]
fn completion_unseen(request: &InFlight) {
    count(counter::COMPLETION_UNSEEN);
    let Some(stats) = BLOCK.get_ptr_mut(place(request)) else {
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

/// Where a request is counted in `BLOCK`.
#[inline(always)]
fn place(request: &InFlight) -> u32 {
    slot::slot(request.owner) * OPERATIONS as u32 + (request.operation & !FAILED)
}

#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_rq_complete(ctx: BtfTracePointContext) -> i32 {
    let _ = try_block_rq_complete(&ctx);
    0
}

#[inline(always)]
fn try_block_rq_complete(ctx: &BtfTracePointContext) -> Option<()> {
    let request: Kernel = ctx.arg(0);
    let key = request as u64;
    let error = ctx.arg::<u64>(1) as u32;
    let bytes = u64::from(ctx.arg::<u64>(2) as u32);
    let found = REQUESTS.get_ptr_mut(key)?;
    let started_at = load(request, layout!(request_start_time));
    // SAFETY: the pointer comes from the map; a request completes on one CPU at a time.
    if is_another(started_at, unsafe { &*found }) {
        // One that is never issued: a flush without data, which completes when the device's own flush
        // has (`blk_flush_complete_seq`, `block/blk-flush.c`).
        close_unseen(request);
        return Some(());
    }
    // A request may complete in parts, some of which may fail; `__data_len` is what remained before this
    // one, and while it is more than that the request goes on (`blk_update_request`, `block/blk-mq.c`).
    let remaining = u64::from(load::<u32>(request, layout!(request_data_len)));
    // SAFETY: as above.
    let in_flight = unsafe {
        if bytes < remaining {
            (*found).completed_bytes += bytes as u32;
            if error != 0 && bytes != 0 {
                (*found).operation |= FAILED;
            }
            return Some(());
        }
        *found
    };
    let _ = REQUESTS.remove(key);
    let mut done = u64::from(in_flight.completed_bytes) + bytes;
    if bytes == 0 && error == 0 && done < u64::from(in_flight.bytes) {
        if load::<Kernel>(request, layout!(request_bio)).is_null() {
            // Its bios were taken for another path of the device, and are issued there
            // (`nvme_failover_req`, `drivers/nvme/host/multipath.c`).
            return Some(());
        }
        // The completion of its data was unseen, and this is that of the flush after it
        // (`blk_flush_restore_request`, `block/blk-flush.c`).
        done = u64::from(in_flight.bytes);
    }
    let now = unsafe { bpf_ktime_get_ns() };
    if now < in_flight.issued_at {
        count(counter::BLOCK_NEGATIVE);
        return None;
    }
    let latency = now - in_flight.started_at;
    let stats = BLOCK.get_ptr_mut(place(&in_flight))?;
    let bucket = bounded(histogram::bucket(latency));
    // SAFETY: all of it lies inside the map's value; other CPUs write too, hence the atomics.
    unsafe {
        let buckets = (&raw mut (*stats).latency_buckets).cast::<u32>();
        add_u32(buckets.add(bucket), 1);
        add_u64(field!(stats, latency_ns), latency);
        add_u64(
            field!(stats, queue_ns),
            in_flight.issued_at - in_flight.started_at,
        );
        add_u64(field!(stats, operations), 1);
        add_u64(field!(stats, bytes), done);
        if error != 0 || in_flight.operation & FAILED != 0 {
            add_u32(&raw mut (*stats).errors, 1);
        }
    }
    Some(())
}
