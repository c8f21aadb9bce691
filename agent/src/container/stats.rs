//! The one place that turns the kernel side's cumulative, wrapping counters into 64-bit ones.

use ctrscope_ebpf::{
    Wrapping as _,
    block::{BlockSlot, OPERATIONS},
    histogram::BUCKETS,
    sched::SchedSlot,
};

use crate::snapshot::{BlockOperation, BlockStats, Counted as _, Histogram, SchedStats};

/// A slot's scheduler counters summed over the CPUs, modulo their width: sums of wrapping counters
/// wrap as one counter does.
#[derive(Clone, Debug)]
pub(crate) struct RawSched(Box<SchedSlot>);

impl Default for RawSched {
    fn default() -> Self {
        Self(Box::new(SchedSlot::ZERO))
    }
}

impl RawSched {
    /// Adds what one CPU counted.
    pub(crate) fn add(&mut self, slot: &SchedSlot) {
        self.0.wrapping_plus(slot);
    }

    fn is_zero(&self) -> bool {
        *self.0 == SchedSlot::ZERO
    }

    fn since(&self, earlier: &Self) -> SchedStats {
        let mut added = *self.0;
        added.wrapping_minus(&earlier.0);
        SchedStats {
            run_queue: histogram(&added.run_queue_buckets, added.run_queue_ns),
            on_cpu_ns: added.on_cpu_ns,
            off_cpu_sleep_ns: added.off_cpu_sleep_ns,
            off_cpu_io_ns: added.off_cpu_io_ns,
            off_cpu_uninterruptible_ns: added.off_cpu_uninterruptible_ns,
            voluntary: added.voluntary.into(),
            involuntary: added.involuntary.into(),
            preemptions: added.preemptions.map(u64::from),
            preempted_wait_ns: added.preempted_wait_ns,
            causes_ns: added.causes_ns,
            process_exits: added.process_exits.into(),
        }
    }
}

/// What was counted since an earlier reading of the same slot.
fn block_since(now: &BlockSlot, earlier: &BlockSlot) -> BlockOperation {
    let mut added = *now;
    added.wrapping_minus(earlier);
    BlockOperation {
        latency: histogram(&added.latency_buckets, added.latency_ns),
        queue_ns: added.queue_ns,
        others_ns: added.others_ns,
        unknown_ns: added.unknown_ns,
        bytes: added.bytes,
        count: added.operations,
        errors: added.errors.into(),
    }
}

fn histogram(buckets: &[u32; BUCKETS], sum_ns: u64) -> Histogram {
    let mut histogram = Histogram::default();
    for (index, &count) in buckets.iter().enumerate() {
        histogram.add_to_bucket(index, count.into());
    }
    histogram.add_to_sum(sum_ns);
    histogram
}

/// Cumulative numbers of one container, over all the slots and lives it had.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accumulated {
    sched: SchedStats,
    last_sched: RawSched,
    /// What the kernel side's mark was at the last reading.
    mark: u64,
    block: BlockStats,
    last_block: [Option<Box<BlockSlot>>; OPERATIONS],
    reported_on_cpu_ns: u64,
    ran: bool,
    did_io: bool,
}

impl Accumulated {
    /// Whether the slot has counted anything since this was last asked, by a mark that changes with what it
    /// counts; 0 is that of one that has counted nothing. Then it is to be read.
    pub(crate) fn has_moved_to(&mut self, mark: u64) -> bool {
        std::mem::replace(&mut self.mark, mark) != mark
    }

    /// Takes in a reading of the slot, whose counters began at zero when the slot was given.
    pub(crate) fn update_sched(&mut self, now: RawSched) {
        // Most do nothing between two readings.
        if *now.0 != *self.last_sched.0 {
            self.sched.add(&now.since(&self.last_sched));
            self.ran |= !now.is_zero();
            self.last_sched = now;
        }
    }

    /// Takes in a reading of one operation's counters.
    pub(crate) fn update_block(&mut self, operation: usize, now: &BlockSlot) {
        let (Some(total), Some(last)) = (
            self.block.operations.get_mut(operation),
            self.last_block.get_mut(operation),
        ) else {
            return;
        };
        if last.as_deref().unwrap_or(&BlockSlot::ZERO) == now {
            return;
        }
        total.add(&block_since(
            now,
            last.as_deref().unwrap_or(&BlockSlot::ZERO),
        ));
        self.did_io = true;
        *last = Some(Box::new(*now));
    }

    /// Adds what another one counted.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.sched.add(&other.sched);
        self.block.add(&other.block);
        self.ran |= other.ran;
        self.did_io |= other.did_io;
    }

    /// A number that changes whenever something was counted.
    pub(crate) fn activity(&self) -> u64 {
        let switches = self.sched.voluntary + self.sched.involuntary;
        self.sched
            .on_cpu_ns
            .wrapping_add(switches)
            .wrapping_add(self.block.count())
    }

    /// The slot is gone: the next reading is of another one, which begins at zero.
    pub(crate) fn detach(&mut self) {
        self.last_sched = RawSched::default();
        self.mark = 0;
        self.last_block = Default::default();
    }

    /// Scheduler counters, with `running_ns` of slices that have not ended added to the time on
    /// CPU. It never goes backwards, should a running slice turn out shorter than it was read.
    pub(crate) fn sched(&mut self, running_ns: u64) -> SchedStats {
        let mut sched = self.sched.clone();
        self.reported_on_cpu_ns = self.reported_on_cpu_ns.max(sched.on_cpu_ns + running_ns);
        sched.on_cpu_ns = self.reported_on_cpu_ns;
        sched
    }

    /// Block counters.
    pub(crate) fn block(&self) -> &BlockStats {
        &self.block
    }

    /// Whether it was ever seen to run.
    pub(crate) fn has_run(&self) -> bool {
        self.ran || self.reported_on_cpu_ns > 0
    }

    /// Whether it ever did I/O.
    pub(crate) fn did_io(&self) -> bool {
        self.did_io
    }

    /// Whether it ever ran or did I/O.
    pub(crate) fn was_active(&self) -> bool {
        self.ran || self.did_io
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(voluntary: u32, bucket: u32, on_cpu_ns: u64) -> RawSched {
        let mut slot = SchedSlot::ZERO;
        slot.voluntary = voluntary;
        slot.run_queue_buckets[7] = bucket;
        slot.on_cpu_ns = on_cpu_ns;
        let mut raw = RawSched::default();
        raw.add(&slot);
        raw
    }

    #[test]
    fn a_counter_that_wraps_goes_on_counting() {
        let mut stats = Accumulated::default();
        stats.update_sched(reading(u32::MAX - 1, u32::MAX, 5));
        stats.update_sched(reading(3, 4, 9));
        let sched = stats.sched(0);
        assert_eq!(sched.voluntary, u64::from(u32::MAX) + 4);
        assert_eq!(sched.run_queue.count(), u64::from(u32::MAX) + 5);
        assert_eq!(sched.on_cpu_ns, 9);
    }

    #[test]
    fn counters_of_several_cpus_that_wrap_on_their_own_sum_up_right() {
        let mut slot = SchedSlot::ZERO;
        slot.voluntary = u32::MAX;
        let mut raw = RawSched::default();
        raw.add(&slot);
        raw.add(&slot);
        let mut stats = Accumulated::default();
        stats.update_sched(raw);
        slot.voluntary = 1;
        let mut raw = RawSched::default();
        raw.add(&slot);
        raw.add(&slot);
        let before = stats.sched(0).voluntary;
        stats.update_sched(raw);
        assert_eq!(stats.sched(0).voluntary - before, 4);
    }

    #[test]
    fn a_second_slot_adds_to_the_first() {
        let mut stats = Accumulated::default();
        stats.update_sched(reading(10, 10, 100));
        stats.detach();
        stats.update_sched(reading(2, 2, 50));
        let sched = stats.sched(0);
        assert_eq!((sched.voluntary, sched.on_cpu_ns), (12, 150));
    }

    #[test]
    fn on_cpu_time_never_goes_backwards_when_a_running_slice_ends_short() {
        let mut stats = Accumulated::default();
        assert_eq!(stats.sched(1_000).on_cpu_ns, 1_000);
        stats.update_sched(reading(1, 1, 900));
        assert_eq!(stats.sched(0).on_cpu_ns, 1_000);
        stats.update_sched(reading(1, 1, 1_900));
        assert_eq!(stats.sched(0).on_cpu_ns, 1_900);
    }

    #[test]
    fn block_counters_start_with_the_first_request() {
        let mut stats = Accumulated::default();
        let mut slot = BlockSlot::ZERO;
        stats.update_block(0, &slot);
        assert!(!stats.was_active());
        slot.operations = 2;
        slot.bytes = 8192;
        slot.latency_buckets[3] = 2;
        stats.update_block(0, &slot);
        slot.operations = 3;
        slot.bytes = 12288;
        slot.latency_buckets[4] = 1;
        (slot.others_ns, slot.unknown_ns) = (7, 9);
        stats.update_block(0, &slot);
        let read = &stats.block().operations[0];
        assert_eq!((read.others_ns, read.unknown_ns), (7, 9));
        assert_eq!(
            (read.count, read.bytes, read.latency.count()),
            (3, 12288, 3)
        );
        stats.update_block(9, &slot);
    }

    #[test]
    fn a_slot_that_has_not_moved_need_not_be_read() {
        let mut stats = Accumulated::default();
        assert!(!stats.has_moved_to(0) && stats.has_moved_to(7));
        assert!(!stats.has_moved_to(7) && stats.has_moved_to(8));
        // Another slot begins at zero.
        stats.detach();
        assert!(!stats.has_moved_to(0) && stats.has_moved_to(8));
    }
}
