//! Made-up facts: a quiet machine on which everything is measured, to be changed by a test.

use std::sync::Arc;

use super::facts::{
    ContainerFacts, ControllerMount, ControllerMounts, CpuTimeFacts, DeviceUse, DiskDeviceFacts,
    DiskFacts, Entitlement, HostFacts, HostMemoryFacts, HostPressure, InterfaceFacts, MemoryFacts,
    MemoryLimitFacts, Neighbour, NetworkFacts, QuotaFacts, WaitedFor, WaitedForDisk, WindowFacts,
};
use crate::snapshot::{Identity, Kind};

/// Length of the windows, seconds.
pub(crate) const SECONDS: f64 = 60.0;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const MIB: u64 = 1 << 20;

/// A window of a machine with as many CPUs, each idle for that part of it and else busy with tasks.
pub(crate) fn window(cpus: u32, idle: f64, containers: Vec<ContainerFacts>) -> WindowFacts {
    WindowFacts {
        seconds: SECONDS,
        ended_at_unix_ms: 1_800_000_000_000,
        host: host(cpus, idle),
        containers,
    }
}

fn host(cpus: u32, idle: f64) -> HostFacts {
    let mount = |name: &str| {
        Some(ControllerMount {
            path: format!("/sys/fs/cgroup{name}"),
            is_v2: name.is_empty(),
        })
    };
    HostFacts {
        cpus: (0..cpus)
            .map(|cpu| CpuTimeFacts {
                cpu,
                idle_ratio: idle,
                task_ratio: 1.0 - idle,
                ..CpuTimeFacts::default()
            })
            .collect(),
        load: Some([f64::from(cpus) * (1.0 - idle); 3]),
        memory: HostMemoryFacts {
            total_bytes: Some(32 * GIB),
            available_bytes: Some(20 * GIB),
            swap_total_bytes: Some(0),
            swap_free_bytes: Some(0),
            direct_reclaim_pages: Some(0),
            oom_kills: Some(0),
            dirty_bytes: Some(MIB),
            dirty_threshold_bytes: Some(4 * GIB),
            corrupted_bytes: Some(0),
        },
        disks: [(
            "vda".to_owned(),
            DiskDeviceFacts {
                number: (254, 0),
                normal_latency_seconds: Some(0.0002),
                ..DiskDeviceFacts::default()
            },
        )]
        .into(),
        interfaces: [(
            "eth0".to_owned(),
            InterfaceFacts {
                bytes_per_second: Some(1_250_000_000),
                ..InterfaceFacts::default()
            },
        )]
        .into(),
        pressure: HostPressure {
            cpu_waiting: Some(0.0),
            memory_waiting: Some(0.0),
            memory_stalled: Some(0.0),
            io_waiting: Some(0.0),
            io_stalled: Some(0.0),
        },
        controllers: ControllerMounts {
            cpu: mount(""),
            cpuset: mount(""),
            memory: mount(""),
            io: mount(""),
        },
    }
}

/// A container that does nothing, of which everything is measured.
pub(crate) fn container(name: &str) -> ContainerFacts {
    let mut container = ContainerFacts {
        identity: Arc::new(Identity {
            container: name.to_owned(),
            container_id: format!("{name}-id"),
            kind: Kind::Container,
            cgroup: format!("/{name}"),
            runtime: "docker".to_owned(),
            ..Identity::default()
        }),
        ..ContainerFacts::default()
    };
    let cpu = &mut container.cpu;
    cpu.used_seconds = Some(0.0);
    cpu.waited_seconds = Some(0.0);
    cpu.waits = Some(0);
    cpu.sleep_seconds = Some(0.0);
    cpu.io_wait_seconds = Some(0.0);
    cpu.blocked_seconds = Some(0.0);
    cpu.voluntary = Some(0);
    cpu.involuntary = Some(0);
    cpu.pressure_ratio = Some(0.0);
    cpu.entitlement = Some(Entitlement {
        weight: 100,
        guaranteed_cores: 4.0,
        fair_cores: 4.0,
        obtained_cores: 0.0,
        needed_weight: None,
    });
    cpu.waited_for = Some(WaitedFor::default());
    container.memory = MemoryFacts {
        working_set_bytes: Some(100 * MIB),
        limits: Vec::new(),
        refaults: Some(0),
        major_faults: Some(0),
        direct_reclaim_pages: Some(0),
        direct_reclaim_seconds: None,
        oom_kills: Some(0),
        pressure_ratio: Some(0.0),
        stalled_ratio: Some(0.0),
        swap_bytes: Some(0),
    };
    container.disk = DiskFacts {
        requests: Some(0),
        bytes: Some(0),
        latency_seconds: Some(0.0),
        queue_seconds: Some(0.0),
        errors: Some(0),
        pressure_ratio: Some(0.0),
        stalled_ratio: Some(0.0),
        dirty_bytes: Some(0),
        waited_for: Some(WaitedForDisk::default()),
        ..DiskFacts::default()
    };
    container.network = Some(NetworkFacts {
        sent_segments: Some(0),
        retransmitted_segments: Some(0),
        listen_drops: Some(0),
        udp_receive_errors: Some(0),
        ..NetworkFacts::default()
    });
    container
}

/// One that uses so many cores and waits for nothing.
pub(crate) fn running(name: &str, cores: f64) -> ContainerFacts {
    let mut container = container(name);
    container.cpu.used_seconds = Some(cores * SECONDS);
    if let Some(entitled) = &mut container.cpu.entitlement {
        entitled.obtained_cores = cores;
    }
    container.cpu.former_cores = vec![cores; 5];
    container
}

/// One that uses so many cores and waits so long, seconds, for whom is said.
pub(crate) fn waiting(name: &str, cores: f64, waited: WaitedFor) -> ContainerFacts {
    let mut container = running(name, cores);
    let all = waited.own_seconds
        + waited.idle_seconds
        + waited.kernel_seconds
        + waited.system_seconds
        + waited.containers.iter().map(|one| one.seconds).sum::<f64>()
        + waited.other_containers_seconds
        + waited.throttled_seconds
        + waited.migrated_seconds
        + waited.unattributed_seconds;
    let cpu = &mut container.cpu;
    cpu.waited_seconds = Some(all);
    cpu.waits = Some(6_000);
    cpu.involuntary = Some(6_000);
    cpu.pressure_ratio = Some((all / SECONDS).min(1.0));
    cpu.waited_for = Some(waited);
    container
}

/// A neighbour that was waited for.
pub(crate) fn held(name: &str, seconds: f64) -> Neighbour {
    Neighbour {
        name: name.to_owned(),
        seconds,
    }
}

/// A quota that throttled in this part of the window's 600 periods.
pub(crate) fn quota(cgroup: &str, is_own: bool, cores: f64, throttled: f64) -> QuotaFacts {
    QuotaFacts {
        cgroup: cgroup.to_owned(),
        is_own,
        quota_cores: cores,
        burst_seconds: 0.0,
        periods: 600,
        throttled_periods: (600.0 * throttled) as u64,
        throttled_seconds: SECONDS * throttled,
    }
}

/// A memory limit, and how often it was hit.
pub(crate) fn limit(cgroup: &str, bytes: u64, usage: u64, hits: u64) -> MemoryLimitFacts {
    MemoryLimitFacts {
        cgroup: cgroup.to_owned(),
        is_own: true,
        limit_bytes: Some(bytes),
        usage_bytes: Some(usage),
        limit_hits: Some(hits),
        ..MemoryLimitFacts::default()
    }
}

/// One that waits for I/O in this part of the window, and did this to `vda` each second.
pub(crate) fn reading(
    name: &str,
    pressure: f64,
    bytes_per_second: u64,
    reads_per_second: u64,
    latency: f64,
) -> ContainerFacts {
    let mut container = running(name, 0.1);
    let requests = reads_per_second * SECONDS as u64;
    let bytes = bytes_per_second * SECONDS as u64;
    container.cpu.io_wait_seconds = Some(pressure * SECONDS);
    let disk = &mut container.disk;
    disk.requests = Some(requests);
    disk.bytes = Some(bytes);
    disk.latency_seconds = Some(latency * requests as f64);
    disk.pressure_ratio = Some(pressure);
    disk.devices.insert(
        "vda".to_owned(),
        DeviceUse {
            read_bytes: bytes,
            reads: requests,
            ..DeviceUse::default()
        },
    );
    container
}

/// Sets the device's numbers from what the containers did to it.
pub(crate) fn device(window: &mut WindowFacts, busy: f64, in_flight: f64, latency: f64) {
    let used: Vec<DeviceUse> = window
        .containers
        .iter()
        .filter_map(|one| one.disk.devices.get("vda").copied())
        .collect();
    if let Some(disk) = window.host.disks.get_mut("vda") {
        disk.requests = used.iter().map(|one| one.reads + one.writes).sum();
        disk.bytes = used
            .iter()
            .map(|one| one.read_bytes + one.write_bytes)
            .sum();
        disk.busy_ratio = busy;
        disk.mean_in_flight = in_flight;
        disk.mean_latency_seconds = Some(latency);
    }
}
