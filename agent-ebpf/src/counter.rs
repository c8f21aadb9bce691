//! Counters of what the programs could not do, each exported under its name.

/// Declares the counters: their indexes in the per-CPU array `COUNTERS`, and their label values.
macro_rules! counters {
    ($($(#[$meta:meta])* $constant:ident = $name:literal $kind:literal,)*) => {
        #[allow(
            non_camel_case_types,
            clippy::upper_case_acronyms,
            reason = "the variants only number the constants"
        )]
        enum Index { $($constant,)* }

        $($(#[$meta])* pub const $constant: u32 = Index::$constant as u32;)*

        /// Each counter's kind (`lost`, `discarded` or `evicted`) and reason, in the order of the
        /// indexes.
        pub const NAMES: &[(&str, &str)] = &[$(($kind, $name),)*];
    };
}

counters! {
    /// A wait that would be negative, by clocks of two CPUs.
    RUN_QUEUE_NEGATIVE = "run_queue_negative" "discarded",
    /// An off-CPU time that would be negative or longer than the task's absence.
    OFF_CPU_NEGATIVE = "off_cpu_negative" "discarded",
    /// A task took over another task's entry in `TASKS`.
    TASK_COLLISION = "task_table_collision" "evicted",
    /// A task left a CPU on which it had not been seen to arrive: the tracepoint passed over a switch.
    SWITCH_UNSEEN = "switch_unseen" "lost",
    /// A task got the CPU whose wait began at a time that the kernel lost: the wait is not counted.
    WAIT_BEGIN_LOST = "wait_begin_lost" "lost",
    /// A css id beyond the slot table: counted as other.
    SLOT_TABLE_FULL = "slot_table_full" "lost",
    /// An event found the ring buffer full.
    EVENT_RING_FULL = "event_ring_full" "lost",
    /// A cgroup's last task ended, and so many others' did at once that it was not told.
    END_UNTOLD = "cgroup_end_untold" "lost",
    /// A request found its place in the table of requests in flight taken: its queue time is not counted.
    REQUESTS_FULL = "block_requests_full" "lost",
    /// A request was issued to a device that found its place taken: whose requests were in front of it is not known.
    DEVICES_FULL = "block_devices_full" "lost",
    /// A request completed before it was issued, by clocks of two CPUs.
    BLOCK_NEGATIVE = "block_latency_negative" "discarded",
    /// A request's completion was not seen: its operation and bytes are counted, its latency is not.
    COMPLETION_UNSEEN = "block_completion_unseen" "lost",
    /// A stack found the table of stacks full.
    STACKS_FULL = "profile_stacks_full" "lost",
    /// A stack of Python functions found the table of those full.
    PYTHON_STACKS_FULL = "profile_python_stacks_full" "lost",
    /// A sample found the table of samples full.
    SAMPLES_FULL = "profile_samples_full" "lost",
    /// A program found the table of programs full.
    PROGRAMS_FULL = "profile_programs_full" "lost",
    /// User space was not asked for the mappings of a program: the ring was full.
    ASK_RING_FULL = "profile_ask_ring_full" "lost",
    /// User space was not asked for the names of a stack of Python functions, since its program had asked for too many:
    /// they are named at the end if they are still there.
    PYTHON_UNASKED = "profile_python_unasked" "lost",
    /// A stack could not be walked at all.
    STACK_UNREADABLE = "profile_stack_unreadable" "lost",
    /// A stack was cut at the depth limit.
    STACK_TRUNCATED = "profile_stack_truncated" "lost",
    /// A sample has no Python functions: among those that were looked at its thread was not, and the next one looks on.
    PYTHON_SEARCH = "profile_python_search" "lost",
    /// A sample of a cgroup that has no entry in the session's slot table yet.
    SAMPLE_UNKNOWN = "profile_cgroup_unknown" "lost",
    /// Samples taken.
    SAMPLES = "profile_samples" "taken",
}

/// Number of counters.
pub const COUNT: u32 = NAMES.len() as u32;
