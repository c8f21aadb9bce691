//! The one place that turns the kernel side's cumulative, wrapping counters into 64-bit ones.

use ctrscope_ebpf::{
    block::{BlockSlot, OPERATIONS},
    histogram::BUCKETS,
    sched::{BY_COUNT, SchedSlot},
};

use crate::snapshot::{BlockStats, Counters, SchedStats};

/// A slot's scheduler counters summed over the CPUs, modulo their width: sums of wrapping counters
/// wrap as one counter does.
#[derive(Clone, Debug)]
pub(crate) struct RawSched {
    buckets: Box<[u32; BUCKETS]>,
    run_queue_ns: u64,
    on_cpu_ns: u64,
    off_cpu_sleep_ns: u64,
    off_cpu_disk_ns: u64,
    preempted_wait_ns: [u64; BY_COUNT],
    preemptions: [u32; BY_COUNT],
    voluntary: u32,
    involuntary: u32,
    process_exits: u32,
}

impl Default for RawSched {
    fn default() -> Self {
        Self {
            buckets: Box::new([0; BUCKETS]),
            run_queue_ns: 0,
            on_cpu_ns: 0,
            off_cpu_sleep_ns: 0,
            off_cpu_disk_ns: 0,
            preempted_wait_ns: [0; BY_COUNT],
            preemptions: [0; BY_COUNT],
            voluntary: 0,
            involuntary: 0,
            process_exits: 0,
        }
    }
}

impl RawSched {
    /// Adds what one CPU counted.
    pub(crate) fn add(&mut self, slot: &SchedSlot) {
        for (sum, value) in self.buckets.iter_mut().zip(slot.run_queue_buckets) {
            *sum = sum.wrapping_add(value);
        }
        for (sum, value) in [
            (&mut self.run_queue_ns, slot.run_queue_ns),
            (&mut self.on_cpu_ns, slot.on_cpu_ns),
            (&mut self.off_cpu_sleep_ns, slot.off_cpu_sleep_ns),
            (&mut self.off_cpu_disk_ns, slot.off_cpu_disk_ns),
        ] {
            *sum = sum.wrapping_add(value);
        }
        for (sum, value) in self
            .preempted_wait_ns
            .iter_mut()
            .zip(slot.preempted_wait_ns)
        {
            *sum = sum.wrapping_add(value);
        }
        for (sum, value) in self.preemptions.iter_mut().zip(slot.preemptions) {
            *sum = sum.wrapping_add(value);
        }
        for (sum, value) in [
            (&mut self.voluntary, slot.voluntary),
            (&mut self.involuntary, slot.involuntary),
            (&mut self.process_exits, slot.process_exits),
        ] {
            *sum = sum.wrapping_add(value);
        }
    }

    fn is_zero(&self) -> bool {
        self.on_cpu_ns == 0
            && self.run_queue_ns == 0
            && self.voluntary == 0
            && self.involuntary == 0
            && self.buckets.iter().all(|&count| count == 0)
    }
}

/// A slot's block counters of one operation.
#[derive(Clone, Debug)]
pub(crate) struct RawBlock {
    buckets: Box<[u32; BUCKETS]>,
    errors: u32,
    latency_ns: u64,
    queue_ns: u64,
    operations: u64,
    bytes: u64,
}

impl From<&BlockSlot> for RawBlock {
    fn from(slot: &BlockSlot) -> Self {
        Self {
            buckets: Box::new(slot.latency_buckets),
            errors: slot.errors,
            latency_ns: slot.latency_ns,
            queue_ns: slot.queue_ns,
            operations: slot.operations,
            bytes: slot.bytes,
        }
    }
}

/// Cumulative numbers of one container, over all the slots and lives it had.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accumulated {
    sched: SchedStats,
    last_sched: RawSched,
    block: BlockStats,
    last_block: [Option<RawBlock>; OPERATIONS],
    reported_on_cpu_ns: u64,
    ran: bool,
    did_io: bool,
}

impl Accumulated {
    /// Takes in a reading of the slot, whose counters began at zero when the slot was given.
    pub(crate) fn update_sched(&mut self, now: RawSched) {
        let last = &self.last_sched;
        let sched = &mut self.sched;
        for (index, (now, last)) in now.buckets.iter().zip(last.buckets.iter()).enumerate() {
            let added = now.wrapping_sub(*last);
            if added != 0 {
                sched.run_queue.add_to_bucket(index, u64::from(added));
            }
        }
        sched
            .run_queue
            .add_to_sum(now.run_queue_ns.wrapping_sub(last.run_queue_ns));
        sched.on_cpu_ns += now.on_cpu_ns.wrapping_sub(last.on_cpu_ns);
        sched.off_cpu_sleep_ns += now.off_cpu_sleep_ns.wrapping_sub(last.off_cpu_sleep_ns);
        sched.off_cpu_disk_ns += now.off_cpu_disk_ns.wrapping_sub(last.off_cpu_disk_ns);
        sched.voluntary += u64::from(now.voluntary.wrapping_sub(last.voluntary));
        sched.involuntary += u64::from(now.involuntary.wrapping_sub(last.involuntary));
        sched.process_exits += u64::from(now.process_exits.wrapping_sub(last.process_exits));
        for by in 0..BY_COUNT {
            sched.preemptions[by] +=
                u64::from(now.preemptions[by].wrapping_sub(last.preemptions[by]));
            sched.preempted_wait_ns[by] +=
                now.preempted_wait_ns[by].wrapping_sub(last.preempted_wait_ns[by]);
        }
        self.ran |= !now.is_zero();
        self.last_sched = now;
    }

    /// Takes in a reading of one operation's counters.
    pub(crate) fn update_block(&mut self, operation: usize, now: &BlockSlot) {
        let (Some(total), Some(last)) = (
            self.block.operations.get_mut(operation),
            self.last_block.get_mut(operation),
        ) else {
            return;
        };
        if last.is_none() && now.operations == 0 {
            return;
        }
        let raw = RawBlock::from(now);
        match last {
            Some(last) => {
                for (index, (now, last)) in raw.buckets.iter().zip(last.buckets.iter()).enumerate()
                {
                    let added = now.wrapping_sub(*last);
                    if added != 0 {
                        total.latency.add_to_bucket(index, u64::from(added));
                    }
                }
                total
                    .latency
                    .add_to_sum(raw.latency_ns.wrapping_sub(last.latency_ns));
                total.queue_ns += raw.queue_ns.wrapping_sub(last.queue_ns);
                total.bytes += raw.bytes.wrapping_sub(last.bytes);
                total.count += raw.operations.wrapping_sub(last.operations);
                total.errors += u64::from(raw.errors.wrapping_sub(last.errors));
            }
            None => {
                for (index, &count) in raw.buckets.iter().enumerate() {
                    if count != 0 {
                        total.latency.add_to_bucket(index, u64::from(count));
                    }
                }
                total.latency.add_to_sum(raw.latency_ns);
                total.queue_ns += raw.queue_ns;
                total.bytes += raw.bytes;
                total.count += raw.operations;
                total.errors += u64::from(raw.errors);
            }
        }
        self.did_io = true;
        *last = Some(raw);
    }

    /// Adds what another one counted.
    pub(crate) fn absorb(&mut self, other: &Self) {
        let mut theirs = Counters {
            sched: Some(other.sched.clone()),
            block: Some(other.block.clone()),
            ..Counters::default()
        };
        theirs.add(&Counters {
            sched: Some(std::mem::take(&mut self.sched)),
            block: Some(std::mem::take(&mut self.block)),
            ..Counters::default()
        });
        self.sched = theirs.sched.unwrap_or_default();
        self.block = theirs.block.unwrap_or_default();
        self.ran |= other.ran;
        self.did_io |= other.did_io;
    }

    /// A number that changes whenever something was counted.
    pub(crate) fn activity(&self) -> u64 {
        let requests = self.block.operations.iter().map(|one| one.count);
        let switches = self.sched.voluntary + self.sched.involuntary;
        requests.fold(
            self.sched.on_cpu_ns.wrapping_add(switches),
            u64::wrapping_add,
        )
    }

    /// The slot is gone: the next reading is of another one, which begins at zero.
    pub(crate) fn detach(&mut self) {
        self.last_sched = RawSched::default();
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
        stats.update_block(0, &slot);
        let read = &stats.block().operations[0];
        assert_eq!(
            (read.count, read.bytes, read.latency.count()),
            (3, 12288, 3)
        );
        stats.update_block(9, &slot);
    }
}
