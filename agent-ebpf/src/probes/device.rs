//! Whose requests were in front: what is decided is in [`ctrscope_ebpf::block::device`], here is where it stands.

use ctrscope_ebpf::{
    block::{
        BlockSlot, FLUSH, OPERATIONS,
        device::{DEVICES as MOST_DEVICES, Device, Served, device_place},
        is_place_of,
    },
    counter,
    ledger::{PairSlot, beside, pair_key, pair_place},
    slot,
};

use crate::{
    atomic::{add_u32, add_u64},
    kernel::{self, Kernel, layout, load},
    maps::{BLOCK, BLOCK_PAIRS, DEVICES, SERVED, count},
};

/// In place of a request's: what was noted for the device's last flush.
const OF_FLUSH: u32 = u32::MAX;
/// In place of what was waited for others: it is not known.
const UNKNOWN: u64 = u64::MAX;

/// Adds to a counter of a device, which lies in the map.
#[inline(always)]
fn add_ticks(counter: &mut u32, ticks: u32) {
    // SAFETY: inside the map's value, aligned.
    unsafe { add_u32(counter, ticks) }
}

/// A device whose number is this, by its index.
#[inline(always)]
fn at(index: u32, number: u64) -> Option<*mut Device> {
    let device = DEVICES.get_ptr_mut(index)?;
    // SAFETY: the pointer comes from the map; one aligned word.
    (unsafe { (*device).number } == number).then_some(device)
}

/// The number of a request's queue.
#[inline(always)]
pub(super) fn queue_number(request: Kernel) -> u64 {
    kernel::number(load(request, layout!(request_queue)))
}

/// The device of a queue, if it has a place.
#[inline(always)]
fn find(number: u64) -> Option<(u32, *mut Device)> {
    let first = device_place(number);
    if let Some(device) = at(first, number) {
        return Some((first, device));
    }
    let second = beside(first);
    Some((second, at(second, number)?))
}

/// The same; gives it a place, if there is one.
#[inline(always)]
fn find_or_begin(request: Kernel, now: u64) -> Option<(u32, *mut Device)> {
    let number = queue_number(request);
    if let Some(found) = find(number) {
        return Some(found);
    }
    let first = device_place(number);
    if let Some(device) = begin(first, number, now) {
        return Some((first, device));
    }
    let second = beside(first);
    if let Some(device) = begin(second, number, now) {
        return Some((second, device));
    }
    count(counter::DEVICES_FULL);
    None
}

/// Gives a place to a device, if it is free. Two that take it at once leave it to one of them.
#[inline(always)]
fn begin(index: u32, number: u64, now: u64) -> Option<*mut Device> {
    let device = DEVICES.get_ptr_mut(index)?;
    // SAFETY: the pointer comes from the map; other CPUs may write the words of it, each of which is whole.
    unsafe {
        if !(*device).is_free(now) {
            return None;
        }
        (*device).begin(number, now);
    }
    Some(device)
}

/// Notes for a request that is issued now what its device has served so far.
#[inline(always)]
pub(super) fn issued(request: Kernel, place: u32, now: u64) {
    let Some(served) = SERVED.get_ptr_mut(place) else {
        return;
    };
    // SAFETY: pointers into maps; what other CPUs add to the device meanwhile is in or not.
    unsafe {
        match find_or_begin(request, now) {
            Some((index, device)) => (*served).note(index, &*device, now),
            None => (*served).device = MOST_DEVICES,
        }
    }
}

/// The same for a flush that the block layer made up.
#[inline(always)]
pub(super) fn flush_issued(request: Kernel, now: u64) {
    if let Some((index, device)) = find_or_begin(request, now) {
        // SAFETY: as above.
        unsafe { (*device).note_flush(index, now) };
    }
}

/// A request that completes, in one number: its place in the table of requests, its operation and its owner's slot.
#[inline(always)]
pub(super) fn whose(place: u32, operation: u32, slot: u32) -> u64 {
    u64::from(place) << 32 | u64::from(operation) << 16 | u64::from(slot)
}

/// Where it is counted.
#[inline(always)]
fn stats(whose: u64) -> Option<*mut BlockSlot> {
    let (operation, slot) = ((whose >> 16) as u32 & 0xffff, whose as u32 & 0xffff);
    BLOCK.get_ptr_mut(slot * OPERATIONS as u32 + operation)
}

/// Such a flush completes. A global function, which the kernel proves by itself: a verifier would follow all of it after
/// each way that there is to what calls it. So are those below.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flush_completed(queue: u64, now: u64) -> u32 {
    if let Some((_, device)) = find(queue) {
        // SAFETY: the pointer comes from the map; as in `begin`.
        unsafe { (*device).flushed(now, add_ticks) };
    }
    0
}

/// A request completes: charges its device's time, and puts its latency under whose requests it waited for. A global
/// function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn completed(whose: u64, issued_at: u64, latency_ns: u64, now: u64) -> u32 {
    let (place, slot) = ((whose >> 32) as u32, whose as u32 & 0xffff);
    let mut others_ns = UNKNOWN;
    if let Some(served) = SERVED.get_ptr(place) {
        // SAFETY: the pointer comes from the map.
        let (index, at) = unsafe { ((*served).device, (*served).at) };
        if let Some(device) = DEVICES.get_ptr_mut(index) {
            // SAFETY: the pointer comes from the map; as in `begin`.
            unsafe {
                if at >= (*device).since {
                    let ticks = (*device).complete(issued_at, now);
                    charge_device(index, slot, ticks, now);
                    others_ns = split(place, index, slot, ticks, latency_ns, now);
                }
            }
        }
    }
    count_wait(whose, others_ns, latency_ns);
    0
}

/// The same of a request that was not seen to be issued, of which nobody knows whom it waited for, and of one that asked
/// for a flush, which the block layer made up. A global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn completed_unissued(whose: u64, queue: u64, latency_ns: u64, now: u64) -> u32 {
    let slot = whose as u32 & 0xffff;
    let started_at = now - latency_ns;
    let mut others_ns = UNKNOWN;
    if let Some((index, device)) = find(queue) {
        if (whose >> 16) as u32 & 0xffff != FLUSH as u32 {
            // SAFETY: as above.
            let ticks = unsafe { (*device).complete(started_at, now) };
            charge_device(index, slot, ticks, now);
        // SAFETY: as above.
        } else if let Some(ticks) = unsafe { (*device).take_flush(started_at, add_ticks) } {
            if ticks != 0 {
                charge_device(index, slot, ticks, now);
            }
            others_ns = split(OF_FLUSH, index, slot, ticks, latency_ns, now);
        }
    }
    count_wait(whose, others_ns, latency_ns);
    0
}

/// What has no entry of its own is not split.
#[inline(always)]
fn split(place: u32, index: u32, slot: u32, own_ticks: u32, latency_ns: u64, now: u64) -> u64 {
    if slot == slot::OTHER {
        return UNKNOWN;
    }
    split_wait(whose(place, index, slot), own_ticks, latency_ns, now)
}

#[inline(always)]
fn count_wait(whose: u64, others_ns: u64, latency_ns: u64) {
    let Some(stats) = stats(whose) else {
        return;
    };
    // SAFETY: inside the map's value; other CPUs write too, hence the atomics.
    unsafe {
        if others_ns == UNKNOWN {
            add_u64(&raw mut (*stats).unknown_ns, latency_ns);
        } else if others_ns != 0 {
            add_u64(&raw mut (*stats).others_ns, others_ns);
        }
    }
}

/// Charges time of a device to an owner. A global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn charge_device(index: u32, slot: u32, ticks: u32, now: u64) -> u32 {
    if let Some(device) = DEVICES.get_ptr_mut(index) {
        // SAFETY: the pointer comes from the map; as in `begin`.
        unsafe { (*device).charge(slot, ticks, now, add_ticks) };
    }
    0
}

/// What was noted for a request at a place, or for its device's last flush.
#[inline(always)]
fn noted(place: u32, device: *const Device) -> Option<*const Served> {
    if place == OF_FLUSH {
        // SAFETY: inside the map's value.
        return Some(unsafe { &raw const (*device).flush });
    }
    SERVED.get_ptr(place)
}

/// Counts what a request of an owner waited for each other one; gives the sum. `whose` is as above, with the device in
/// place of the operation. A global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn split_wait(whose: u64, own_ticks: u32, latency_ns: u64, now: u64) -> u64 {
    let Some(device) = DEVICES.get_ptr((whose >> 16) as u32 & 0xffff) else {
        return UNKNOWN;
    };
    let Some(served) = noted((whose >> 32) as u32, device) else {
        return UNKNOWN;
    };
    let times = [u64::from(own_ticks), latency_ns, now];
    // SAFETY: pointers into maps; what other CPUs add meanwhile is in or not.
    let waited = unsafe { (*served).waited(&*device, whose as u32 & 0xffff, times) };
    let Some(waited) = waited else {
        return UNKNOWN;
    };
    if waited.factor != 0 {
        tell_parts(whose, waited.factor);
    }
    waited.others_ns
}

/// Counts the part of each other owner. A global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_parts(whose: u64, factor: u64) -> u32 {
    let slot = whose as u32 & 0xffff;
    let Some(device) = DEVICES.get_ptr((whose >> 16) as u32 & 0xffff) else {
        return 0;
    };
    let Some(served) = noted((whose >> 32) as u32, device) else {
        return 0;
    };
    // SAFETY: as above.
    unsafe {
        (*served).parts(&*device, slot, factor, |culprit, ns| {
            if culprit != slot::OTHER {
                waited_for(slot, culprit, ns);
            }
        });
    }
    0
}

/// Counts what was waited for somebody. A global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn waited_for(victim: u32, culprit: u32, ns: u64) -> u32 {
    let (victim, culprit) = (u64::from(victim), u64::from(culprit));
    let key = pair_key(victim, culprit);
    let place = pair_place(0, victim, culprit);
    if let (Some(first), Some(second)) = (
        BLOCK_PAIRS.get_ptr_mut(place),
        BLOCK_PAIRS.get_ptr_mut(beside(place)),
    ) {
        // SAFETY: pointers into the map; keys are words of their own, and sums are added to atomically.
        unsafe {
            if is_place_of(&mut *first, key) {
                add_u64(&raw mut (*first).ns, ns);
            } else if is_place_of(&mut *second, key) {
                add_u64(&raw mut (*second).ns, ns);
            } else {
                lose(second, ns);
            }
        }
    }
    0
}

#[inline(always)]
unsafe fn lose(pair: *mut PairSlot, ns: u64) {
    // SAFETY: by the caller.
    unsafe { add_u64(&raw mut (*pair).lost_ns, ns) }
}
