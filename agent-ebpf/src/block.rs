//! Keys and values of the block I/O subject.

use crate::histogram::BUCKETS;

/// Requests that read.
pub const READ: usize = 0;
/// Requests that write, zeroes and zone appends among them.
pub const WRITE: usize = 1;
/// Cache flushes; they carry no bio, so they belong to no container.
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
        /// Room for what is to come; zero.
        pub reserved2: [u64; 10],
    }
}

/// In [`InFlight::operation`]: a part of the request failed.
pub const FAILED: u32 = 1 << 31;

shared! {
    /// A request at the device, in the hash `REQUESTS` by the request's address.
    pub struct InFlight [32] {
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
    }
}
