//! The one latency histogram: where its buckets lie and how a duration finds its own.
//!
//! Four buckets per power of two, on boundaries that are powers of `2^(1/4)` *seconds*, so that they
//! are exactly those of a Prometheus native histogram of schema 2 and, every fourth or eighth of
//! them, of a classic one: nothing is re-binned on the way out. A bucket is at most 19 % wide, hence
//! a quantile read from it is at most 9 % off its middle. Schema 1 would save 192 bytes per
//! container and CPU and be twice as wrong; schema 3 would not fit a kilobyte for two.
//!
//! A duration is scaled to units of `2^-30` s (0.93 ns) by one multiplication, whose error is under
//! one part in ten million.

/// Buckets per power of two, as the exponent Prometheus calls schema.
pub const SCHEMA: u32 = 2;

/// Power of two, in seconds, of the first bucket's upper bound: `2^-20` s, about 1 µs.
pub const FIRST_BOUND_LOG2: i32 = -20;

/// Power of two, in seconds, of the last finite upper bound: `2^4` s.
pub const LAST_BOUND_LOG2: i32 = 4;

/// Number of buckets: one up to the first bound, four per power of two, one beyond the last bound.
pub const BUCKETS: usize =
    2 + ((LAST_BOUND_LOG2 - FIRST_BOUND_LOG2) as usize) * (1 << SCHEMA as usize);

/// Below this many nanoseconds a scaled duration fits 32 bits.
const SHORT_NS: u64 = 4_000_000_000;

/// From this many nanoseconds on (68 s) a duration is beyond the last bound without being scaled,
/// which could overflow.
const LONG_NS: u64 = 1 << 36;

/// `2^30 / 10^9` in 20-bit fixed point.
const SCALE: u64 = 1_125_900;

/// `2^31 * 2^(1/4)`, `2^31 * 2^(2/4)`, `2^31 * 2^(3/4)`, rounded up.
const QUARTERS: [u32; 3] = [2_553_802_834, 3_037_000_500, 3_611_622_603];

/// Converts nanoseconds to units of `2^-30` s.
#[inline(always)]
const fn scaled(ns: u64) -> u64 {
    (ns * SCALE) >> 20
}

/// Position of the highest bit set; `value` is not 0.
///
/// BPF has no instruction for it, and none that compares without a branch, which a CPU cannot foresee where waits
/// differ: five steps of arithmetic.
#[inline(always)]
fn log2(value: u32) -> u32 {
    let mut rest = value as u64;
    let mut log2 = 0;
    let mut width = 16;
    while width > 1 {
        let step = is_above(rest, (1 << width) - 1) * width;
        rest >>= step;
        log2 |= step;
        width /= 2;
    }
    (log2 | (rest >> 1)) as u32
}

/// 1 where a number is above another one, both below 2^63; without a branch.
#[inline(always)]
fn is_above(a: u64, b: u64) -> u64 {
    let difference = b.wrapping_sub(a);
    #[cfg(target_arch = "bpf")]
    {
        let mut sign = difference;
        // SAFETY: one register operation, which LLVM does not see through: it would make a branch of it again.
        unsafe {
            core::arch::asm!("{0} >>= 63", inout(reg) sign, options(pure, nomem, nostack));
        }
        sign
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        difference >> 63
    }
}

/// Returns the bucket of a duration in nanoseconds. Upper bounds are inclusive, as Prometheus' `le`, to
/// the nanosecond.
#[inline(always)]
pub fn bucket(ns: u64) -> usize {
    if ns >= SHORT_NS {
        return long_bucket(ns);
    }
    let units = scaled(ns) as u32;
    if units <= 1 << (30 + FIRST_BOUND_LOG2) {
        return 0;
    }
    octave_bucket(units, 0)
}

/// [`bucket`] for durations of seconds: four bits of the mantissa are dropped to fit 32.
fn long_bucket(ns: u64) -> usize {
    if ns >= LONG_NS || scaled(ns) >> (30 + LAST_BOUND_LOG2) != 0 {
        return BUCKETS - 1;
    }
    octave_bucket((scaled(ns) >> 4) as u32, 4)
}

/// The bucket of a value above the first bound; `dropped` low bits of it are missing.
#[inline(always)]
fn octave_bucket(value: u32, dropped: u32) -> usize {
    let log2 = log2(value);
    let mantissa = value << (31 - log2);
    let quarter = (is_above(mantissa as u64 + 1, QUARTERS[0] as u64)
        + is_above(mantissa as u64 + 1, QUARTERS[1] as u64)
        + is_above(mantissa as u64 + 1, QUARTERS[2] as u64)) as u32;
    let octave = log2 + dropped - FIRST_BOUND_UNITS_LOG2;
    (1 + (octave << SCHEMA) + quarter) as usize
}

/// The first bound in units of `2^-30` s, as a power of two.
const FIRST_BOUND_UNITS_LOG2: u32 = (30 + FIRST_BOUND_LOG2).cast_unsigned();

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn upper_bound_ns(index: usize) -> f64 {
        f64::powf(2.0, f64::from(FIRST_BOUND_LOG2) + index as f64 / 4.0) * 1e9
    }

    #[test]
    fn a_duration_just_below_and_just_above_each_bound_falls_on_its_two_sides() {
        for index in 0..BUCKETS - 1 {
            let bound = upper_bound_ns(index);
            let below = (bound * 0.998) as u64;
            let above = (bound * 1.002) as u64 + 2;
            assert_eq!(bucket(below), index, "below bound {index} ({bound} ns)");
            assert_eq!(bucket(above), index + 1, "above bound {index} ({bound} ns)");
        }
    }

    #[test]
    fn buckets_never_go_down_as_durations_go_up() {
        let mut last = 0;
        let mut ns = 0u64;
        while ns < 40_000_000_000 {
            let now = bucket(ns);
            assert!(now >= last && now < BUCKETS);
            last = now;
            ns += 1 + ns / 301;
        }
        assert_eq!(last, BUCKETS - 1);
    }

    #[test]
    fn extremes_stay_inside() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
