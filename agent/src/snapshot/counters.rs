//! Counters of containers added up, for a name that had several.

use serde::{Deserialize, Serialize};

use super::{BlockStats, Container, CpuControl, Memory, Pressure, SchedStats};

/// What containers counted that are gone. It only goes up; what is `None` was not measured of any.
/// Gauges in it are `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Scheduler.
    pub sched: Option<SchedStats>,
    /// Block I/O.
    pub block: Option<BlockStats>,
    /// Time on CPUs by the kernel's own account, nanoseconds.
    pub cpu_usage_ns: Option<u64>,
    /// CPU bandwidth control.
    pub cpu: Option<CpuControl>,
    /// Memory events.
    pub memory: Option<Memory>,
    /// Pressure.
    pub pressure: Option<Pressure>,
}

impl Counters {
    /// Adds what others counted.
    pub fn add(&mut self, other: &Self) {
        let theirs = Shared {
            sched: &other.sched,
            block: &other.block,
            cpu_usage_ns: other.cpu_usage_ns,
            cpu: &other.cpu,
            memory: &other.memory,
            pressure: &other.pressure,
        };
        Sums {
            sched: &mut self.sched,
            block: &mut self.block,
            cpu_usage_ns: &mut self.cpu_usage_ns,
            cpu: &mut self.cpu,
            memory: &mut self.memory,
            pressure: &mut self.pressure,
        }
        .add(&theirs);
    }
}

impl Container {
    /// Adds another container's counters to this one's, with those of its predecessors. Gauges stay as
    /// they are.
    pub fn add_counters(&mut self, other: &Self) {
        let theirs = Shared {
            sched: &other.sched,
            block: &other.block,
            cpu_usage_ns: other.cpu_usage_ns,
            cpu: &other.cpu,
            memory: &other.memory,
            pressure: &other.pressure,
        };
        self.sums().add(&theirs);
        if let Some(former) = &other.former {
            self.add_former(former);
        }
    }

    /// Adds counters of containers that are gone to this one's.
    pub fn add_former(&mut self, former: &Counters) {
        let theirs = Shared {
            sched: &former.sched,
            block: &former.block,
            cpu_usage_ns: former.cpu_usage_ns,
            cpu: &former.cpu,
            memory: &former.memory,
            pressure: &former.pressure,
        };
        self.sums().add(&theirs);
    }

    fn sums(&mut self) -> Sums<'_> {
        Sums {
            sched: &mut self.sched,
            block: &mut self.block,
            cpu_usage_ns: &mut self.cpu_usage_ns,
            cpu: &mut self.cpu,
            memory: &mut self.memory,
            pressure: &mut self.pressure,
        }
    }
}

struct Shared<'a> {
    sched: &'a Option<SchedStats>,
    block: &'a Option<BlockStats>,
    cpu_usage_ns: Option<u64>,
    cpu: &'a Option<CpuControl>,
    memory: &'a Option<Memory>,
    pressure: &'a Option<Pressure>,
}

struct Sums<'a> {
    sched: &'a mut Option<SchedStats>,
    block: &'a mut Option<BlockStats>,
    cpu_usage_ns: &'a mut Option<u64>,
    cpu: &'a mut Option<CpuControl>,
    memory: &'a mut Option<Memory>,
    pressure: &'a mut Option<Pressure>,
}

impl Sums<'_> {
    fn add(self, other: &Shared<'_>) {
        if let Some(theirs) = other.sched {
            add_sched(self.sched.get_or_insert_default(), theirs);
        }
        if let Some(theirs) = other.block {
            add_block(self.block.get_or_insert_default(), theirs);
        }
        *self.cpu_usage_ns = plus(*self.cpu_usage_ns, other.cpu_usage_ns);
        if let Some(theirs) = other.cpu {
            let mine = self.cpu.get_or_insert_default();
            mine.periods += theirs.periods;
            mine.throttled_periods += theirs.throttled_periods;
            mine.throttled_ns += theirs.throttled_ns;
        }
        if let Some(theirs) = other.memory {
            let mine = self.memory.get_or_insert_default();
            mine.oom_kills = plus(mine.oom_kills, theirs.oom_kills);
            mine.limit_hits = plus(mine.limit_hits, theirs.limit_hits);
        }
        if let Some(theirs) = other.pressure {
            let mine = self.pressure.get_or_insert_default();
            for (mine, theirs) in [
                (&mut mine.cpu, &theirs.cpu),
                (&mut mine.memory, &theirs.memory),
                (&mut mine.io, &theirs.io),
            ] {
                if let Some(theirs) = theirs {
                    let mine = mine.get_or_insert_default();
                    mine.waiting_usec += theirs.waiting_usec;
                    mine.stalled_usec += theirs.stalled_usec;
                }
            }
        }
    }
}

fn add_sched(mine: &mut SchedStats, theirs: &SchedStats) {
    mine.run_queue.add(&theirs.run_queue);
    mine.on_cpu_ns += theirs.on_cpu_ns;
    mine.off_cpu_sleep_ns += theirs.off_cpu_sleep_ns;
    mine.off_cpu_disk_ns += theirs.off_cpu_disk_ns;
    mine.voluntary += theirs.voluntary;
    mine.involuntary += theirs.involuntary;
    mine.process_exits += theirs.process_exits;
    for (mine, theirs) in mine.preemptions.iter_mut().zip(theirs.preemptions) {
        *mine += theirs;
    }
    let waits = mine.preempted_wait_ns.iter_mut();
    for (mine, theirs) in waits.zip(theirs.preempted_wait_ns) {
        *mine += theirs;
    }
}

fn add_block(mine: &mut BlockStats, theirs: &BlockStats) {
    for (mine, theirs) in mine.operations.iter_mut().zip(&theirs.operations) {
        mine.latency.add(&theirs.latency);
        mine.queue_ns += theirs.queue_ns;
        mine.bytes += theirs.bytes;
        mine.count += theirs.count;
        mine.errors += theirs.errors;
    }
}

/// `None` where neither is known.
fn plus(mine: Option<u64>, theirs: Option<u64>) -> Option<u64> {
    match (mine, theirs) {
        (Some(mine), Some(theirs)) => Some(mine + theirs),
        (mine, theirs) => mine.or(theirs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_and_gauges_are_not() {
        let old = Container {
            cpu_usage_ns: Some(5),
            memory: Some(Memory {
                working_set_bytes: Some(100),
                oom_kills: Some(1),
                ..Memory::default()
            }),
            ..Container::default()
        };
        let mut former = Counters::default();
        for _ in 0..2 {
            let mut one = Container::default();
            one.add_counters(&old);
            former.add(&Counters {
                cpu_usage_ns: one.cpu_usage_ns,
                memory: one.memory,
                ..Counters::default()
            });
        }
        let mut new = Container {
            cpu_usage_ns: Some(1),
            ..Container::default()
        };
        new.add_former(&former);
        assert_eq!(new.cpu_usage_ns, Some(11));
        let memory = new.memory.expect("it was measured of the old ones");
        assert_eq!(
            (memory.oom_kills, memory.working_set_bytes),
            (Some(2), None)
        );
        assert_eq!(new.sched, None);
    }
}
