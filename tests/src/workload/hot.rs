//! Three functions whose shares of CPU time are known.
//!
//! They only compute: the clock is read by their caller, so that no sample falls into the vDSO below
//! them, where a walk by frame pointers loses the caller. The caller picks whichever function is
//! furthest behind its share, which keeps the shares exact whatever the machine does, and calls it for
//! a random time: calls of one length make an order that repeats, and a sampler whose period is a
//! multiple of that repetition meets the same function again and again.

use std::hint::black_box;

/// Names of the functions and their shares of CPU time.
pub const HOT_FUNCTIONS: [(&str, f64); 3] =
    [("hot_fifty", 0.5), ("hot_thirty", 0.3), ("hot_twenty", 0.2)];

/// Rounds of a call in the mean: about a millisecond, beside which two readings of the clock are little
/// even where they are slow (emulated, they took a fifth of calls of a fifth of the length).
const ROUNDS: u64 = 1_000_000;

/// Rounds of a part of a burst: about 5 µs.
const BURST_ROUNDS: u64 = 4_000;

/// Random lengths of calls, evenly spread from half of the mean to one and a half.
pub(crate) struct Lengths(u64);

impl Default for Lengths {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Lengths {
    /// Rounds of the next call.
    pub(crate) fn next(&mut self) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ROUNDS / 2 + (self.0 >> 32) % ROUNDS
    }
}

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
    lengths: Lengths,
    seed: u64,
}

impl Hot {
    /// The one that is furthest behind its share.
    fn behind(&self) -> usize {
        let progress = |index: usize| self.spent_ns[index] as f64 / HOT_FUNCTIONS[index].1;
        (0..HOT_FUNCTIONS.len())
            .min_by(|&a, &b| progress(a).total_cmp(&progress(b)))
            .unwrap_or(0)
    }

    /// Calls the one that is furthest behind.
    pub(crate) fn step(&mut self) {
        let behind = self.behind();
        let function = [hot_fifty, hot_thirty, hot_twenty][behind];
        let rounds = self.lengths.next();
        let start = thread_cpu_ns();
        self.seed = function(self.seed, rounds);
        self.spent_ns[behind] += thread_cpu_ns().saturating_sub(start);
    }

    /// Computes for that much CPU time in one function, to about 10 µs.
    pub(crate) fn burst(&mut self, cpu_ns: u64) {
        let start = thread_cpu_ns();
        loop {
            self.seed = hot_fifty(self.seed, BURST_ROUNDS);
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
        while hot.spent_ns.iter().sum::<u64>() < 300_000_000 {
            hot.step();
        }
        let total: u64 = hot.spent_ns.iter().sum();
        for (spent, (name, share)) in hot.spent_ns.iter().zip(HOT_FUNCTIONS) {
            let measured = *spent as f64 / total as f64;
            assert!((measured - share).abs() < 0.03, "{name}: {measured}");
        }
    }

    /// A sampler of 99 Hz on machines of many speeds, those among them on which its period is a multiple
    /// of how long the functions take in turn.
    #[test]
    fn shares_hold_for_a_sampler_at_any_speed_of_the_machine() {
        const PERIOD_NS: u64 = 1_000_000_000 / 99;
        const SAMPLES: u64 = 4_000;
        for call_ns in (500_000..3_000_000).step_by(12_500) {
            let mut hot = Hot::default();
            let mut sampled = [0u64; 3];
            let (mut now_ns, mut next_sample_ns) = (0, PERIOD_NS);
            while next_sample_ns <= SAMPLES * PERIOD_NS {
                let function = hot.behind();
                let length_ns = hot.lengths.next() * call_ns / ROUNDS;
                hot.spent_ns[function] += length_ns;
                now_ns += length_ns;
                while next_sample_ns <= now_ns {
                    sampled[function] += 1;
                    next_sample_ns += PERIOD_NS;
                }
            }
            for (count, (name, share)) in sampled.iter().zip(HOT_FUNCTIONS) {
                let measured = *count as f64 / SAMPLES as f64;
                let error = (measured - share).abs();
                assert!(error < 0.035, "{name}: {measured} at {call_ns} ns a call");
            }
        }
    }
}
