//! CPUs: lists of them, their times, the load.

/// Most CPUs taken from a list; the largest kernel configurations have 8,192.
const MAX_CPUS: usize = 65_536;

/// Parses a list of CPUs as the kernel writes it: `0-3,8`. `None` for anything else.
#[must_use]
pub fn parse_cpu_list(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || (last - first) as usize >= MAX_CPUS - cpus.len().min(MAX_CPUS) {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Time of one CPU, in ticks of `USER_HZ`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTicks {
    /// Its number.
    pub cpu: u32,
    /// Idle, waiting for I/O included. It may go back by some ticks (fs/proc/stat.c).
    pub idle: u64,
    /// Tasks: user, niced and kernel; guests are in user.
    pub task: u64,
    /// Hardware interrupts.
    pub irq: u64,
    /// Software interrupts.
    pub softirq: u64,
    /// Taken by the hypervisor.
    pub steal: u64,
}

/// Parses the lines of the CPUs in `/proc/stat`: those that are online, in the order of their numbers.
#[must_use]
pub fn parse_cpu_ticks(text: &str) -> Vec<CpuTicks> {
    let mut cpus = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("cpu") else {
            // They come first.
            break;
        };
        let mut fields = rest.split_ascii_whitespace();
        // The sum of all has no number.
        if rest.starts_with(' ') {
            continue;
        }
        let Some(cpu) = fields.next().and_then(|cpu| cpu.parse().ok()) else {
            continue;
        };
        let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
        let &[user, nice, system, idle, iowait, irq, softirq, steal, ..] = ticks.as_slice() else {
            continue;
        };
        if cpus.len() == MAX_CPUS {
            break;
        }
        cpus.push(CpuTicks {
            cpu,
            idle: idle.saturating_add(iowait),
            task: user.saturating_add(nice).saturating_add(system),
            irq,
            softirq,
            steal,
        });
    }
    cpus
}

/// Parses `/proc/loadavg`: the averages over 1, 5 and 15 minutes.
#[must_use]
pub fn parse_load(text: &str) -> Option<[f64; 3]> {
    let mut fields = text.split_ascii_whitespace();
    let mut next = || {
        fields
            .next()?
            .parse()
            .ok()
            .filter(|load: &f64| load.is_finite())
    };
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // The origins of these are in `fixtures/host/README.md`.
    const STAT: &str = include_str!("../../fixtures/host/stat_6_18");

    #[test]
    fn each_cpu_has_its_times() {
        let cpus = parse_cpu_ticks(STAT);
        assert_eq!(cpus.len(), 2);
        let expected = CpuTicks {
            cpu: 1,
            idle: 74_983 + 4_822,
            task: 334_195 + 64_942,
            irq: 0,
            softirq: 1_047,
            steal: 712,
        };
        assert_eq!(cpus[1], expected);
    }

    #[test]
    fn a_cpu_that_is_offline_is_left_out() {
        let text = "cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu3 0 0 0 9 0 0 0 0\nintr 1\ncpu9 1 1 1 1 1 1 1 1\n";
        let numbers: Vec<u32> = parse_cpu_ticks(text).iter().map(|cpu| cpu.cpu).collect();
        assert_eq!(numbers, [0, 3]);
    }

    #[test]
    fn a_load_is_three_numbers() {
        assert_eq!(
            parse_load("3.18 4.26 6.57 3/132 7550\n"),
            Some([3.18, 4.26, 6.57])
        );
        for text in ["", "1 2", "1 x 3", "1 inf 3", "nan 1 1"] {
            assert_eq!(parse_load(text), None, "{text}");
        }
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_cpu_list("0"), Some(vec![0]));
        assert_eq!(parse_cpu_list("\n"), Some(vec![]));
        for bad in [
            "a",
            "3-1",
            "0-",
            "-1",
            "0-4294967295",
            "0-60000,0-60000",
            "1;2",
        ] {
            assert_eq!(parse_cpu_list(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in "(cpu[0-9]{0,3}( [0-9]{1,20}){0,10}\n|.{0,20}\n){0,5}") {
            for cpu in parse_cpu_ticks(&text) {
                let numbers = text.lines().filter_map(|line| line.strip_prefix("cpu"));
                let mut numbers = numbers.filter_map(|rest| rest.split(' ').next()?.parse().ok());
                prop_assert!(numbers.any(|number: u32| number == cpu.cpu));
            }
            let _ = parse_load(&text);
            let _ = parse_cpu_list(&text);
        }

        #[test]
        fn a_list_comes_back(cpus in proptest::collection::btree_set(0u32..2_000, 0..50)) {
            let text: Vec<String> = cpus.iter().map(u32::to_string).collect();
            prop_assert_eq!(parse_cpu_list(&text.join(",")), Some(cpus.into_iter().collect()));
        }
    }
}
