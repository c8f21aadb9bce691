//! What the numbers were measured on and with.

use std::{fs, process::Command};

use super::{load, report::Table};

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
