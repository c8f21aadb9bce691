//! What a piece of work costs. Not the time that it takes: a thread that the scheduler puts off, or that waits
//! for a lock, costs nothing meanwhile.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of the calling thread since its start; some 300 ns, a system call.
pub(super) fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use std::{hint::black_box, thread};

    use super::*;

    #[test]
    fn sleep_costs_nothing_and_work_does() {
        let slept = Duration::from_millis(200);
        let before = thread_cpu_time();
        thread::sleep(slept);
        let asleep = thread_cpu_time() - before;
        assert!(asleep < slept, "{asleep:?}");
        let before = thread_cpu_time();
        let mut sum = 0_u64;
        while thread_cpu_time() - before < Duration::from_millis(5) {
            sum = black_box(sum.wrapping_add(1));
        }
        assert!(sum > 0);
    }
}
