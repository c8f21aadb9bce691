//! The latency histogram as user space keeps it: 64-bit, cumulative, with quantiles.

use ctrscope_ebpf::histogram::{BUCKETS, FIRST_BOUND_LOG2, SCHEMA};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Latencies in the buckets of [`ctrscope_ebpf::histogram`], with their sum.
///
/// In JSON it is `{"sum_ns": n, "buckets": [[index, count], ...]}`, empty buckets left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: Box::new([0; BUCKETS]),
            sum_ns: 0,
        }
    }
}

impl Histogram {
    /// Upper bound of a bucket, in seconds; infinite for the last.
    #[must_use]
    pub fn upper_bound_seconds(index: usize) -> f64 {
        if index + 1 >= BUCKETS {
            return f64::INFINITY;
        }
        let steps = f64::from(1u32 << SCHEMA);
        f64::powf(2.0, f64::from(FIRST_BOUND_LOG2) + index as f64 / steps)
    }

    /// Counts one duration.
    pub fn record(&mut self, ns: u64) {
        self.buckets[ctrscope_ebpf::histogram::bucket(ns)] += 1;
        self.sum_ns += ns;
    }

    /// Adds `count` to a bucket; an index out of range counts in the last.
    pub fn add_to_bucket(&mut self, index: usize, count: u64) {
        self.buckets[index.min(BUCKETS - 1)] += count;
    }

    /// Adds to the sum of durations.
    pub fn add_to_sum(&mut self, ns: u64) {
        self.sum_ns += ns;
    }

    /// Adds another histogram to this one.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *mine += theirs;
        }
        self.sum_ns += other.sum_ns;
    }

    /// What was added since `earlier`; a bucket that went backwards counts as empty.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        for (mine, theirs) in difference.buckets.iter_mut().zip(earlier.buckets.iter()) {
            *mine = mine.saturating_sub(*theirs);
        }
        difference.sum_ns = self.sum_ns.saturating_sub(earlier.sum_ns);
        difference
    }

    /// Counts by bucket.
    #[must_use]
    pub fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }

    /// Number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Sum of the durations, in nanoseconds.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Number of durations up to and including `2^log2` seconds: a power of two is always a bound.
    #[must_use]
    pub fn count_up_to_log2(&self, log2: i32) -> u64 {
        let octaves = log2 - FIRST_BOUND_LOG2;
        let Ok(octaves) = usize::try_from(octaves) else {
            return 0;
        };
        let last = (octaves << SCHEMA).min(BUCKETS - 1);
        self.buckets[..=last].iter().sum()
    }

    /// The `q`-quantile in seconds, interpolated inside its bucket on the logarithmic scale; `None`
    /// while empty. In the last bucket, which has no upper bound, its lower bound.
    #[must_use]
    pub fn quantile_seconds(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * count as f64;
        let mut below = 0u64;
        for (index, &in_bucket) in self.buckets.iter().enumerate() {
            if in_bucket > 0 && (below + in_bucket) as f64 >= rank {
                let upper = Self::upper_bound_seconds(index);
                if index == 0 {
                    return Some(upper * rank / in_bucket as f64);
                }
                let lower = Self::upper_bound_seconds(index - 1);
                if upper.is_infinite() {
                    return Some(lower);
                }
                let part = (rank - below as f64) / in_bucket as f64;
                return Some(lower * (upper / lower).powf(part));
            }
            below += in_bucket;
        }
        None
    }
}

#[derive(Serialize, Deserialize)]
struct Wire {
    sum_ns: u64,
    buckets: Vec<(usize, u64)>,
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let buckets = self
            .buckets
            .iter()
            .copied()
            .enumerate()
            .filter(|&(_, count)| count > 0);
        Wire {
            sum_ns: self.sum_ns,
            buckets: buckets.collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let mut histogram = Self {
            sum_ns: wire.sum_ns,
            ..Self::default()
        };
        for (index, count) in wire.buckets {
            let bucket = histogram
                .buckets
                .get_mut(index)
                .ok_or_else(|| D::Error::custom(format!("no histogram bucket {index}")))?;
            *bucket = count;
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_two_is_a_bound_and_counts_what_lies_below() {
        let mut histogram = Histogram::default();
        for ns in [100, 10_000, 1_000_000, 100_000_000, 60_000_000_000] {
            histogram.record(ns);
        }
        assert_eq!(histogram.count_up_to_log2(-20), 1);
        assert_eq!(histogram.count_up_to_log2(-10), 2);
        assert_eq!(histogram.count_up_to_log2(-9), 3);
        assert_eq!(histogram.count_up_to_log2(4), 4);
        assert_eq!(histogram.count(), 5);
    }

    #[test]
    fn a_quantile_lies_within_a_tenth_of_the_truth() {
        let mut histogram = Histogram::default();
        for step in 1..=10_000u64 {
            histogram.record(step * 1_000);
        }
        for (q, truth) in [(0.5, 5e-3), (0.9, 9e-3), (0.99, 9.9e-3)] {
            let found = histogram.quantile_seconds(q).expect("it is not empty");
            assert!(
                (found / truth - 1.0).abs() < 0.1,
                "{q}: {found} instead of {truth}"
            );
        }
        assert_eq!(Histogram::default().quantile_seconds(0.5), None);
    }

    #[test]
    fn json_leaves_empty_buckets_out_and_comes_back_whole() {
        let mut histogram = Histogram::default();
        histogram.record(5_000);
        let json = serde_json::to_string(&histogram).expect("it serializes");
        assert_eq!(json, r#"{"sum_ns":5000,"buckets":[[10,1]]}"#);
        let back: Histogram = serde_json::from_str(&json).expect("it parses");
        assert_eq!(back, histogram);
        assert!(serde_json::from_str::<Histogram>(r#"{"sum_ns":0,"buckets":[[98,1]]}"#).is_err());
    }

    #[test]
    fn subtraction_gives_what_was_added_between() {
        let mut earlier = Histogram::default();
        earlier.record(1_000);
        let mut later = earlier.clone();
        later.record(9_000);
        assert_eq!(later.since(&earlier).count(), 1);
        assert_eq!(later.since(&earlier).sum_ns(), 9_000);
    }
}
