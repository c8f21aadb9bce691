//! What the numbers were measured on and with.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use super::{load, report::Table};

/// What the CPUs have done since boot, in ticks.
pub(super) struct CpuTimes {
    idle: u64,
    all: u64,
}

impl CpuTimes {
    /// Reads `/proc/stat`.
    pub(super) fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&stat).context("/proc/stat has no times")
    }

    fn parse(stat: &str) -> Option<Self> {
        // user nice system idle iowait irq softirq steal; guest times are part of user and nice.
        let times: Option<Vec<u64>> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .take(8)
            .map(|ticks| ticks.parse().ok())
            .collect();
        let times = times?;
        Some(Self {
            idle: times.get(3)? + times.get(4)?,
            all: times.iter().sum(),
        })
    }

    /// Share of the CPUs that was not idle since an earlier reading.
    pub(super) fn busy_since(&self, earlier: &Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        let idle = self.idle.saturating_sub(earlier.idle);
        if all == 0 {
            return 0.0;
        }
        all.saturating_sub(idle) as f64 / all as f64
    }
}

/// Machine, kernel, tools, day.
pub(super) fn describe() -> Table {
    let mut table = Table::new(&["", "measured on"]);
    let file = |path: &str| {
        fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
    };
    let cpuinfo = file("/proc/cpuinfo");
    let of_cpu = |key: &str| {
        cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix(key)?.trim().strip_prefix(':'))
            .map_or("unknown", str::trim)
    };
    let virtual_machine = if of_cpu("flags").split(' ').any(|flag| flag == "hypervisor") {
        " (virtual machine)"
    } else {
        ""
    };
    let memory = file("/proc/meminfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<f64>()
                .ok()
        })
        .map_or("unknown".into(), |kib| {
            format!("{:.1} GB", kib * 1024.0 / 1e9)
        });
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let first_line = |program: &str, argument: &str| {
        Command::new(load::tool_path(program))
            .arg(argument)
            .output()
            .ok()
            .and_then(|output| {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                Some(text.lines().next()?.trim().to_owned())
            })
            .unwrap_or_else(|| "unknown".into())
    };
    let package = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", "libbpf-tools"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map_or("unknown".into(), |output| {
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
    let agent = std::env::var("CTRSCOPE_BIN")
        .map_or("unknown".into(), |agent| first_line(&agent, "--version"));
    for (name, value) in [
        ("CPU", format!("{}{virtual_machine}", of_cpu("model name"))),
        ("CPUs", cpus.to_string()),
        ("memory", memory),
        ("kernel", file("/proc/sys/kernel/osrelease")),
        ("ctrscope", agent),
        ("libbpf-tools", package),
        ("bpftrace", first_line("bpftrace", "--version")),
        ("perf", first_line("perf", "--version")),
        ("date", first_line("date", "--iso-8601")),
    ] {
        table.row([name.to_owned(), value]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::CpuTimes;

    #[test]
    fn waiting_for_a_disk_is_idle() {
        let before = CpuTimes::parse("cpu  10 0 10 100 0 0 0 0 0 0\ncpu0 1\n").unwrap();
        let after = CpuTimes::parse("cpu  12 0 13 110 5 0 0 0 0 0\n").unwrap();
        assert!((after.busy_since(&before) - 0.25).abs() < 1e-9);
        assert!(CpuTimes::parse("intr 1").is_none());
    }
}
