//! What the CPUs did on which a container ran: softirqs of a network card hit those that run on its CPU,
//! and nobody else.

use std::{collections::HashMap, mem::offset_of, sync::atomic::Ordering};

use ctrscope_ebpf::sched::SchedSlot;

use crate::{
    bpf::KernelSide,
    diagnosis::facts::CpuTimeFacts,
    host::CpuTicks,
    reading::{RanOnReading, cpu_times},
};

/// Nanoseconds of a unit in which time on a CPU is remembered, so that 32 bits hold 73 minutes.
const UNIT_NS: u64 = 1 << 10;

/// How long the tasks of a slot have been on each CPU, by its number, modulo 32 bits.
#[derive(Debug)]
pub(in crate::engine) struct OnCpus {
    slot: u32,
    /// In units of [`UNIT_NS`].
    units: Box<[u32]>,
}

impl OnCpus {
    /// What the kernel side has counted by now. Reads one word for each CPU.
    pub(in crate::engine) fn of(kernel: &KernelSide, slot: u32) -> Self {
        let word = offset_of!(SchedSlot, on_cpu_ns) / size_of::<u64>();
        let sizes = kernel.sizes();
        let units = (0..sizes.cpus).map(|cpu| {
            let index = (cpu * sizes.slots + slot) as usize;
            let on_cpu_ns = kernel.sched().word(index, word);
            let ns = on_cpu_ns.map_or(0, |ns| ns.load(Ordering::Relaxed));
            (ns / UNIT_NS) as u32
        });
        Self {
            slot,
            units: units.collect(),
        }
    }
}

/// Counts what the CPUs did, weighted with how long each container was on them.
#[derive(Debug, Default)]
pub(super) struct RanOnCounter {
    last_ticks: Vec<CpuTicks>,
    /// What the CPUs did since the last reading.
    times: Vec<CpuTimeFacts>,
    /// Time on each CPU of each slot at the last reading, modulo 32 bits: 4 bytes a slot and CPU.
    last: HashMap<u32, Box<[u32]>>,
    now: HashMap<u32, Box<[u32]>>,
}

impl RanOnCounter {
    /// A reading begins, at which the CPUs had done this.
    pub(super) fn begin(&mut self, ticks: &[CpuTicks]) {
        self.times = cpu_times(&self.last_ticks, ticks);
        self.last_ticks = ticks.to_vec();
    }

    /// Adds what the CPUs did on which a slot's tasks ran since the last reading. A slot that was another
    /// container's has been zeroed in between, and is at worst taken for having run where that did, once.
    pub(super) fn add(&mut self, on_cpus: &OnCpus, sum: RanOnReading) -> RanOnReading {
        self.add_times(on_cpus.slot, on_cpus.units.clone(), sum)
    }

    fn add_times(&mut self, slot: u32, now: Box<[u32]>, mut sum: RanOnReading) -> RanOnReading {
        if let Some(last) = self.last.get(&slot) {
            for time in &self.times {
                let at = |times: &[u32]| times.get(time.cpu as usize).copied().unwrap_or(0);
                let units = at(&now).wrapping_sub(at(last));
                let seconds = (u64::from(units) * UNIT_NS) as f64 / 1e9;
                sum.weight += seconds;
                sum.idle += seconds * time.idle_ratio;
                sum.irq += seconds * time.irq_ratio;
                sum.softirq += seconds * time.softirq_ratio;
                sum.steal += seconds * time.steal_ratio;
            }
        }
        self.now.insert(slot, now);
        sum
    }

    /// The reading is over; slots that had no container in it are forgotten.
    pub(super) fn finish(&mut self) {
        self.last = std::mem::take(&mut self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(cpu: u32, idle: u64, softirq: u64) -> CpuTicks {
        CpuTicks {
            cpu,
            idle,
            softirq,
            ..CpuTicks::default()
        }
    }

    fn units(seconds: f64) -> u32 {
        (seconds * 1e9 / UNIT_NS as f64) as u32
    }

    #[test]
    fn what_a_cpu_did_counts_by_the_time_there() {
        let mut counter = RanOnCounter::default();
        counter.begin(&[ticks(0, 0, 0), ticks(1, 0, 0)]);
        let at_first = [units(5.0), units(7.0)];
        let sum = counter.add_times(3, Box::new(at_first), RanOnReading::default());
        assert_eq!(sum, RanOnReading::default());
        counter.finish();

        // CPU 0 was in softirqs half of the time, CPU 1 idle. Three quarters of a second were on CPU 0,
        // a quarter on CPU 1, whose counter wraps.
        counter.begin(&[ticks(0, 250, 250), ticks(1, 500, 0)]);
        let now = [units(5.75), units(7.25)];
        let sum = counter.add_times(3, Box::new(now), sum);
        assert!((sum.weight - 1.0).abs() < 1e-5, "{sum:?}");
        assert!((sum.softirq - 0.375).abs() < 1e-5, "{sum:?}");
        assert!((sum.idle - 0.625).abs() < 1e-5, "{sum:?}");
        counter.finish();

        // It goes on with what there was, over a counter that wraps.
        counter.begin(&[ticks(0, 250, 350), ticks(1, 600, 0)]);
        counter.last.insert(3, Box::new([u32::MAX - 9, 0]));
        let more = counter.add_times(3, Box::new([units(1.0) - 10, 0]), sum);
        assert!((more.weight - sum.weight - 1.0).abs() < 1e-5, "{more:?}");
        assert!((more.softirq - sum.softirq - 1.0).abs() < 1e-5, "{more:?}");
    }

    #[test]
    fn a_slot_without_a_container_is_forgotten() {
        let mut counter = RanOnCounter::default();
        counter.begin(&[ticks(0, 0, 0)]);
        counter.add_times(3, Box::new([1]), RanOnReading::default());
        counter.finish();
        counter.begin(&[ticks(0, 0, 0)]);
        counter.finish();
        assert!(counter.last.is_empty());
    }
}
