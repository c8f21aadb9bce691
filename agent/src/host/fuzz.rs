//! Fuzz targets: files of the machine in `/proc` and `/sys`.

use super::*;
use crate::fuzz::{Target, text};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("host_cpu", cpu),
    Target::new("host_memory", memory),
    Target::new("host_disk", disk),
    Target::new("host_network", network),
];

/// Lists of CPUs, `/proc/stat` and `/proc/loadavg`.
fn cpu(bytes: &[u8]) {
    let file = text(bytes);
    if let Some(cpus) = parse_cpu_list(&file) {
        assert!(cpus.len() <= 65_536);
    }
    let ticks = parse_cpu_ticks(&file);
    assert!(ticks.len() <= file.lines().count());
    assert!(parse_load(&file).is_none_or(|load| load.iter().all(|one| one.is_finite())));
}

/// `/proc/meminfo` and `/proc/vmstat`.
fn memory(bytes: &[u8]) {
    let file = text(bytes);
    let sample = parse_meminfo(&file);
    assert!(sample.total_bytes.is_none() || file.contains("MemTotal"));
    let _ = parse_vmstat(&file).slowdown_bytes(4096);
}

/// `/proc/diskstats`.
fn disk(bytes: &[u8]) {
    let file = text(bytes);
    for disk in parse_diskstats(&file) {
        assert!(!disk.name.is_empty() && !disk.name.contains([' ', '\t', '\n']));
    }
}

/// `/proc/PID/net/dev`, `snmp`, `snmp6` and `netstat`.
fn network(bytes: &[u8]) {
    let file = text(bytes);
    for interface in parse_net_dev(&file) {
        assert!(!interface.name.contains('\n') && interface.name.trim() == interface.name);
    }
    let mut sample = NetworkSample::default();
    parse_snmp(&file, &mut sample);
    parse_snmp6(&file, &mut sample);
    parse_netstat(&file, &mut sample);
}
