//! Three functions whose shares of CPU time are known.
//!
//! They only compute: the clock is read by their caller, so that no sample falls into the vDSO below
//! them, where a walk by frame pointers loses the caller. The caller picks whichever function is
//! furthest behind its share, which keeps the shares exact whatever the machine does.

use std::hint::black_box;

/// Names of the functions and their shares of CPU time.
pub const HOT_FUNCTIONS: [(&str, f64); 3] =
    [("hot_fifty", 0.5), ("hot_thirty", 0.3), ("hot_twenty", 0.2)];

/// Rounds of one call: a fraction of a millisecond.
const ROUNDS: u64 = 200_000;

macro_rules! hot_function {
    ($name:ident, $multiplier:literal, $rotation:literal) => {
        // The name must be found in a flame graph as it is. Each body has constants of its own, or the
        // compiler would merge them into one.
        #[doc = "Computes for a while."]
        #[inline(never)]
        // SAFETY: no other symbol of this program has the name.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(seed: u64, rounds: u64) -> u64 {
            let mut value = seed | 1;
            for round in 0..rounds {
                value = value.wrapping_mul($multiplier).rotate_left($rotation) ^ round;
            }
            black_box(value)
        }
    };
}

hot_function!(hot_fifty, 0x9E37_79B9_7F4A_7C15, 17);
hot_function!(hot_thirty, 0xC2B2_AE3D_27D4_EB4F, 23);
hot_function!(hot_twenty, 0x1656_67B1_9E37_79F9, 31);

/// CPU time of the calling thread.
pub(crate) fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid pointer to write to; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Calls the functions in turn so that their shares hold.
#[derive(Default)]
pub(crate) struct Hot {
    /// CPU time by function, nanoseconds.
    pub(crate) spent_ns: [u64; 3],
    seed: u64,
}

impl Hot {
    /// Calls the one that is furthest behind.
    pub(crate) fn step(&mut self) {
        let progress = |index: usize| self.spent_ns[index] as f64 / HOT_FUNCTIONS[index].1;
        let behind = (0..HOT_FUNCTIONS.len())
            .min_by(|&a, &b| progress(a).total_cmp(&progress(b)))
            .unwrap_or(0);
        let function = [hot_fifty, hot_thirty, hot_twenty][behind];
        let start = thread_cpu_ns();
        self.seed = function(self.seed, ROUNDS);
        self.spent_ns[behind] += thread_cpu_ns().saturating_sub(start);
    }

    /// Computes for that much CPU time in one function, to about 10 µs.
    pub(crate) fn burst(&mut self, cpu_ns: u64) {
        let start = thread_cpu_ns();
        loop {
            self.seed = hot_fifty(self.seed, ROUNDS / 50);
            let spent = thread_cpu_ns().saturating_sub(start);
            if spent >= cpu_ns {
                self.spent_ns[0] += spent;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_cpu_time_hold() {
        let mut hot = Hot::default();
        while hot.spent_ns.iter().sum::<u64>() < 100_000_000 {
            hot.step();
        }
        let total: u64 = hot.spent_ns.iter().sum();
        for (spent, (name, share)) in hot.spent_ns.iter().zip(HOT_FUNCTIONS) {
            let measured = *spent as f64 / total as f64;
            assert!((measured - share).abs() < 0.03, "{name}: {measured}");
        }
    }
}
