//! Keys and values of the block I/O subject.

use crate::{histogram::BUCKETS, ledger::PairSlot};

pub mod device;

/// Requests that read.
pub const READ: usize = 0;
/// Requests that write, zeroes and zone appends among them.
pub const WRITE: usize = 1;
/// Flushes of the device's cache that somebody asked for and waits for. One flush that the block layer
/// sends to the device may serve several of them.
pub const FLUSH: usize = 2;
/// Discards and secure erases.
pub const DISCARD: usize = 3;
/// Number of the above.
pub const OPERATIONS: usize = 4;

shared_counters! {
    /// What one container's requests of one operation came to, in the array `BLOCK` at
    /// `slot * 4 + operation`.
    ///
    /// Shared by all CPUs and written by atomic additions: block requests are rare enough beside
    /// context switches, and the memory does not grow with the CPUs.
    pub struct BlockSlot [512] {
        /// Latency of each request, queue time included.
        pub latency_buckets: [u32; BUCKETS],
        /// Requests completed in error.
        pub errors: u32,
        /// Zero.
        pub reserved: u32,
        /// Sum of the latencies, queue time included, in nanoseconds.
        pub latency_ns: u64,
        /// The part of it before the request was issued to the device, in nanoseconds.
        pub queue_ns: u64,
        /// Requests completed.
        pub operations: u64,
        /// Bytes completed.
        pub bytes: u64,
        /// The part of the latency that was waited for requests of others ([`device`]), in nanoseconds.
        pub others_ns: u64,
        /// Latency of requests of which that is not known, in nanoseconds.
        pub unknown_ns: u64,
        /// Room for what is to come; zero.
        pub reserved2: [u64; 8],
    }
}

/// In [`InFlight::operation`]: a part of the request failed.
pub const FAILED: u32 = 1 << 31;

shared! {
    /// A request at the device, in the direct-mapped array `REQUESTS` at [`place`] of its number.
    pub struct InFlight [48] {
        /// Its number, a function of its address; 0 where there is none.
        pub number: u64,
        /// When it was started (queued), monotonic nanoseconds.
        pub started_at: u64,
        /// When it was issued to the device, monotonic nanoseconds.
        pub issued_at: u64,
        /// Owner ([`crate::slot::owner`]) of its first bio's blkcg.
        pub owner: u32,
        /// Operation, an index into the above, with [`FAILED`].
        pub operation: u32,
        /// Bytes of it, those completed so far among them.
        pub bytes: u32,
        /// Bytes completed so far by partial completions.
        pub completed_bytes: u32,
        /// What `GENERATIONS` had for the owner's slot: another number means that it is another's now.
        pub generation: u32,
        /// Zero.
        pub reserved: u32,
    }
}

/// Entries of `REQUESTS`, as a power of two. Requests are allocated once for each tag of each queue, so a
/// few thousand addresses come back again and again.
pub const REQUESTS_ORDER: u32 = 14;
/// The same as a number.
pub const REQUESTS_ENTRIES: u32 = 1 << REQUESTS_ORDER;

/// Where a request has its place: the upper bits of its number times 2^64 over the golden ratio
/// (Fibonacci hashing, Knuth, The Art of Computer Programming 3, 6.4). The lower bits of an address say little.
#[inline(always)]
pub const fn place(number: u64) -> u32 {
    ((number >> 5).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - REQUESTS_ORDER)) as u32
}

/// Longest that a request that is issued holds its place against another one: after that its completion
/// was unseen, nanoseconds. Drivers give requests up
/// after 30 s unless they say otherwise (`rq_timeout`, `blk_mq_init_allocated_queue`, `block/blk-mq.c`).
pub const HOLDS_PLACE_NS: u64 = 30_000_000_000;

/// Pairs of who waited for whose requests, in the array `BLOCK_PAIRS`; those of all CPUs, at
/// [`crate::ledger::pair_place`] of CPU 0.
pub const BLOCK_PAIRS: u32 = crate::ledger::PAIRS;

/// Whether a place is a pair's, or becomes its: then its time is added there, by whoever asks. Two CPUs that ask for a
/// free place at once may count one wait for the other's pair.
#[inline(always)]
pub const fn is_place_of(pair: &mut PairSlot, key: u64) -> bool {
    if pair.key == 0 {
        pair.key = key;
    }
    pair.key == key
}

/// What has been completed of a request that a driver gave back and that is issued again, and all of it,
/// bytes. `earlier` and `completed` are what was known of it, `remaining` is what is issued now: what went
/// meanwhile was completed, seen or not, and what came to it was merged.
#[inline(always)]
pub const fn issued_again(earlier: u32, completed: u32, remaining: u32) -> (u32, u32) {
    let gone = earlier.saturating_sub(remaining);
    let completed = if gone > completed { gone } else { completed };
    (completed, completed.wrapping_add(remaining))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_in_the_table_and_neighbours_do_not_share_one() {
        assert!(place(u64::MAX) < REQUESTS_ENTRIES);
        // Requests of a hardware queue lie side by side, some 300 to 700 bytes apart.
        let base = 0xffff_8881_0000_0000_u64;
        for size in [320, 448, 704] {
            let mut places: [u32; 256] =
                core::array::from_fn(|tag| place(base + size * tag as u64));
            places.sort_unstable();
            let shared = places.windows(2).filter(|pair| pair[0] == pair[1]).count();
            assert!(shared < 8, "{shared} of 256 at {size}");
        }
    }

    #[test]
    fn a_request_that_is_issued_again_keeps_what_was_completed() {
        // Given back for want of room.
        assert_eq!(issued_again(4096, 0, 4096), (0, 4096));
        // After a part.
        assert_eq!(issued_again(8192, 4096, 4096), (4096, 8192));
        // After a part that no tracepoint showed.
        assert_eq!(issued_again(8192, 0, 4096), (4096, 8192));
        // After another one was merged to the rest.
        assert_eq!(issued_again(8192, 4096, 16384), (4096, 20480));
    }
}
