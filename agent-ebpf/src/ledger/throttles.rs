//! When a quota, its own or one above, kept the tasks of a cgroup from running.

/// Times of throttling kept of each run queue.
pub const KEPT_THROTTLES: usize = 4;
/// Run queues of each CPU whose throttling is kept; a power of two.
pub const THROTTLED_QUEUES: u32 = 512;

/// Begin and end of times of throttling, scheduler clock; nothing where both are alike.
pub type Times = [[u64; 2]; KEPT_THROTTLES];

shared! {
    /// When the tasks of a cgroup were last throttled on a CPU, by its quota or one above, in the array `THROTTLES` at
    /// `cpu * 512 +` [`throttles_place`] or beside it: the queue of the two that was not used for longer has to go.
    ///
    /// The kernel only says how long its queue was throttled in sum, once it no longer is: `cfs_rq`'s
    /// `throttled_clock_self_time` (6.6 and later), `throttled_clock_pelt_time` (5.19) or `throttled_clock_task_time`
    /// (`tg_unthrottle_up`, `kernel/sched/fair.c`).
    pub struct Throttles [104] {
        /// A number of the `cfs_rq`, a function of its address.
        pub queue: u64,
        /// What that was throttled in sum when one of its tasks last left or got the CPU, nanoseconds.
        pub total_ns: u64,
        /// When the last of its tasks left the CPU because it was throttled; 0 where it left for another reason.
        pub left_at: u64,
        /// Number of the next of the times that are kept.
        pub next: u64,
        /// When a task last left it.
        pub used_at: u64,
        /// The times.
        pub times: Times,
    }
}

/// Where a queue of a CPU stands, by its number. A container has one for each of its cgroups.
#[inline(always)]
#[must_use]
pub const fn throttles_place(queue: u64) -> u32 {
    // Two are 64 bytes apart at least. Fibonacci hashing.
    let hash = (queue >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> (64 - THROTTLED_QUEUES.trailing_zeros())) as u32
}

/// How much of the time from `begin` to `end` is in none of the times.
#[inline(always)]
#[must_use]
pub fn outside(times: &Times, begin: u64, end: u64) -> u64 {
    end.saturating_sub(begin)
        .saturating_sub(inside(times, begin, end))
}

/// How much of the time from `begin` to `end` is in the times.
#[inline(always)]
#[must_use]
pub fn inside(times: &Times, begin: u64, end: u64) -> u64 {
    let mut sum = 0;
    let mut i = 0;
    while i < KEPT_THROTTLES {
        let [from, to] = times[i];
        let from = if from > begin { from } else { begin };
        let to = if to < end { to } else { end };
        if to > from {
            sum += to - from;
        }
        i += 1;
    }
    sum
}

impl Throttles {
    /// Notes that a task leaves the CPU.
    #[inline(always)]
    pub fn left(&mut self, queue: u64, total_ns: u64, now: u64, is_throttled: bool) {
        if self.queue == queue {
            // Of a task that got the CPU unseen; when an empty queue was throttled nobody knows now.
            self.got(total_ns, now, now, true);
        } else {
            self.queue = queue;
            self.next = 0;
            self.times = [[0; 2]; KEPT_THROTTLES];
        }
        self.total_ns = total_ns;
        self.used_at = now;
        self.left_at = if is_throttled { now } else { 0 };
    }

    /// Notes that a task of the same queue gets the CPU now that was queued at `queued`. What was added to the sum began when the last task
    /// left, if it left for that; else the queue was empty, and it began with the first task that was queued
    /// (`check_enqueue_throttle`, `kernel/sched/fair.c`). Before 6.6 the kernel counts an empty queue as well
    /// (`counts_empty`), and then when it began is not known.
    #[inline(always)]
    pub fn got(&mut self, total_ns: u64, queued: u64, now: u64, counts_empty: bool) {
        if self.total_ns == total_ns {
            return;
        }
        let length = total_ns.wrapping_sub(self.total_ns);
        self.total_ns = total_ns;
        let begin = if self.left_at != 0 {
            self.left_at
        } else if counts_empty {
            // It may have been throttled at any time since.
            return;
        } else {
            queued
        };
        self.left_at = 0;
        let end = begin.wrapping_add(length);
        let place = self.next as usize & (KEPT_THROTTLES - 1);
        self.times[place] = [begin, if end < now { end } else { now }];
        self.next = self.next.wrapping_add(1);
    }

    /// How much of a wait the times that are kept have.
    #[inline(always)]
    #[must_use]
    pub fn part_of(&self, queued: u64, now: u64) -> u64 {
        inside(&self.times, queued, now)
    }
}
