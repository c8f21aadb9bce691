//! Whether anybody else used the CPUs.

use std::{fmt, fs};

use crate::Group;

/// Most of all CPUs' time that the hypervisor may take: with more, a virtual CPU stands still for
/// longer than a slice, and the kernel's accounts disagree with each other.
const MOST_STEAL: f64 = 0.05;
/// Most of all CPUs' time that others may use: kernel threads and what a host always runs stay below
/// half of it, and a neighbour that fills a CPU of four is above.
const MOST_OTHERS: f64 = 0.15;
/// `USER_HZ` is 100 on every architecture that Rust knows.
const TICK_NS: u64 = 10_000_000;

/// Parts of all CPUs' time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    /// Taken by the hypervisor.
    pub steal: f64,
    /// Used by neither the test nor its agent nor its containers.
    pub others: f64,
}

impl Shares {
    /// Whether that is too much to measure.
    pub(super) fn is_disturbed(&self) -> bool {
        self.steal > MOST_STEAL || self.others > MOST_OTHERS
    }

    pub(super) fn highest(self, other: &Self) -> Self {
        Self {
            steal: self.steal.max(other.steal),
            others: self.others.max(other.others),
        }
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the hypervisor took {:.1} % and others {:.1} % of the CPUs",
            self.steal * 100.0,
            self.others * 100.0
        )
    }
}

/// Time that was used since boot, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    machine: Machine,
    /// By the test, its agent and its containers.
    own_ns: u64,
}

impl Usage {
    pub(super) fn now(agent_pid: u32, group: &Group) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        // A container's init was a child of runc's, which was one of this process': what it used before
        // it was moved into its cgroup is in neither account, which is some milliseconds.
        let own_ns = process_ns(&read("/proc/self/stat"), true)
            + process_ns(&read(&format!("/proc/{agent_pid}/stat")), false)
            + group.cpu_usage_ns();
        Self {
            machine: Machine::parse(&read("/proc/stat")),
            own_ns,
        }
    }

    pub(super) fn shares_since(&self, begin: &Self) -> Shares {
        let all = self.machine.all_ns.saturating_sub(begin.machine.all_ns);
        let busy = self.machine.busy_ns.saturating_sub(begin.machine.busy_ns);
        let steal = self.machine.steal_ns.saturating_sub(begin.machine.steal_ns);
        let own = self.own_ns.saturating_sub(begin.own_ns);
        // At least a tick, so that nothing is divided by nothing.
        let of_all = |part: u64| part as f64 / all.max(TICK_NS) as f64;
        Shares {
            steal: of_all(steal),
            others: of_all(busy.saturating_sub(own)),
        }
    }
}

/// The first line of `/proc/stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Machine {
    all_ns: u64,
    busy_ns: u64,
    steal_ns: u64,
}

impl Machine {
    /// `cpu user nice system idle iowait irq softirq steal guest guest_nice`, in ticks; what guests used is
    /// part of user and nice.
    fn parse(stat: &str) -> Self {
        let ticks: Vec<u64> = stat
            .lines()
            .find_map(|line| line.strip_prefix("cpu "))
            .unwrap_or_default()
            .split_whitespace()
            .take(8)
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let sum = |fields: &[usize]| -> u64 {
            let of = |&field: &usize| ticks.get(field).copied().unwrap_or(0);
            fields.iter().map(of).sum::<u64>() * TICK_NS
        };
        Self {
            all_ns: ticks.iter().sum::<u64>() * TICK_NS,
            busy_ns: sum(&[0, 1, 2, 5, 6]),
            steal_ns: sum(&[7]),
        }
    }
}

/// CPU time of a process by its `/proc/<pid>/stat`, with that of children it has waited for if asked.
/// 0 for one that is gone.
fn process_ns(stat: &str, with_children: bool) -> u64 {
    // The name may hold anything, spaces and brackets too. After it: state is field 3.
    let Some((_, rest)) = stat.rsplit_once(") ") else {
        return 0;
    };
    // Fields 14 to 17: utime, stime, cutime, cstime.
    let count = if with_children { 4 } else { 2 };
    let ticks = rest.split(' ').skip(11).take(count);
    ticks.map(|field| field.parse().unwrap_or(0)).sum::<u64>() * TICK_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_proc_stat_is_taken_apart() {
        let text = "cpu  10 20 30 400 50 6 7 80 5 5\ncpu0 1 2 3 4 5 6 7 8 9 9\nintr 5\n";
        let machine = Machine::parse(text);
        assert_eq!(machine.all_ns, 603 * TICK_NS);
        assert_eq!(machine.busy_ns, 73 * TICK_NS);
        assert_eq!(machine.steal_ns, 80 * TICK_NS);
        assert_eq!(Machine::parse("nonsense"), Machine::default());
    }

    #[test]
    fn a_process_is_found_behind_any_name() {
        let text = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1 0 99\n";
        assert_eq!(process_ns(text, false), 120 * TICK_NS);
        assert_eq!(process_ns(text, true), 127 * TICK_NS);
        assert_eq!(process_ns("", true), 0);
    }

    #[test]
    fn what_is_ones_own_is_not_that_of_others() {
        let usage = |all, busy, steal, own| Usage {
            machine: Machine {
                all_ns: all * TICK_NS,
                busy_ns: busy * TICK_NS,
                steal_ns: steal * TICK_NS,
            },
            own_ns: own * TICK_NS,
        };
        let begin = usage(1_000, 500, 10, 100);
        let shares = usage(2_000, 1_100, 50, 500).shares_since(&begin);
        assert_eq!((shares.steal, shares.others), (0.04, 0.2));
        assert!(shares.is_disturbed());
        let shares = usage(2_000, 1_100, 50, 560).shares_since(&begin);
        assert!(!shares.is_disturbed(), "{shares}");
        let shares = usage(2_000, 1_100, 61, 700).shares_since(&begin);
        assert!(shares.others == 0.0 && shares.is_disturbed(), "{shares}");
        assert_eq!(begin.shares_since(&begin), Shares::default());
    }

    #[test]
    fn this_machine_has_both_files() {
        let group = Group::new("ctrscope-quiet").unwrap();
        let usage = Usage::now(std::process::id(), &group);
        assert!(usage.machine.busy_ns > 0 && usage.machine.all_ns > usage.machine.busy_ns);
    }
}
