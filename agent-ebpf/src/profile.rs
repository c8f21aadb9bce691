//! Keys and values of the profile subject.

/// Most frames kept of a stack, user and kernel each (`PERF_MAX_STACK_DEPTH`,
/// `include/uapi/linux/perf_event.h`).
pub const MAX_FRAMES: usize = 127;

shared! {
    /// A stack, in the hash `STACKS` by its 64-bit hash.
    pub struct Stack [1024] {
        /// Number of frames.
        pub length: u64,
        /// Return addresses, the innermost first.
        pub frames: [u64; MAX_FRAMES],
    }
}

shared! {
    /// Where samples were taken, in the hash `SAMPLES`, whose values are counts.
    pub struct SampleKey [32] {
        /// Hash of the user stack; 0 is none.
        pub user: u64,
        /// Hash of the kernel stack; 0 is none.
        pub kernel: u64,
        /// Slot of the container.
        pub slot: u32,
        /// The kernel's tgid.
        pub tgid: u32,
        /// The kernel's pid.
        pub tid: u32,
        /// Zero.
        pub reserved: u32,
    }
}
