//! What a container waits for that waits for the disk.

use std::{path::Path, time::Duration};

use ctrscope::diagnosis::verdict::{Resource, Verdict};
use ctrscope_tests::{
    ContainerSpec, SlowDisk,
    measure::{Trial, measured},
    wait_until,
};
use tempfile::TempDir;

use super::{Expected, Scene, next_window, settle};

/// Limit on what is written, bytes a second.
const WRITE_LIMIT: u64 = 4 << 20;
/// How long a disk takes for a request as long as nothing is wrong with it: that of a cloud.
const NORMAL_DELAY: Duration = Duration::from_micros(500);
/// And then. It is slow from three times as long as normal.
const SLOW_DELAY: Duration = Duration::from_millis(10);
/// What is normal for a disk is known after a minute and a window.
const NORMAL_PATIENCE: Duration = Duration::from_secs(120);

fn data() -> TempDir {
    TempDir::new_in("/var/tmp").unwrap()
}

/// One that reads block after block, past the page cache.
fn reader(data: &Path) -> ContainerSpec {
    reader_of(data, 64 << 20)
}

/// The same of a file of so many bytes.
fn reader_of(data: &Path, bytes: u64) -> ContainerSpec {
    let bytes = bytes.to_string();
    let read = [
        "read-direct",
        "--file",
        "/data/read",
        "--size",
        &bytes,
        "--block",
        "4096",
        "--random",
    ];
    ContainerSpec::new("victim", &read).data(data)
}

/// Whether the devices of a container are known here.
fn has_devices(trial: &Trial, scene: &Scene) -> bool {
    let victim = scene.container("victim");
    let is_counted = victim.block_accounts().is_ok();
    if !is_counted {
        trial.skip("no hierarchy counts block I/O, or the directory for data is on no disk");
    }
    is_counted
}

#[test]
fn not_bound_by_the_cpu_because_it_waits_for_its_own_requests() {
    measured(|trial| {
        let data = data();
        let scene = Scene::start([reader(data.path())]);
        if !has_devices(trial, &scene) {
            return;
        }
        let cpu = Expected {
            verdicts: &[Verdict::NotCpuBound],
            ..Expected::default()
        };
        scene.judge(trial, "victim", &cpu);
        let expected = Expected {
            resource: Resource::Disk,
            verdicts: &[Verdict::DiskBound],
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

#[test]
fn capped_by_a_limit_on_what_it_writes() {
    measured(|trial| {
        let data = data();
        let write = [
            "write-direct",
            "--file",
            "/data/written",
            "--size",
            "67108864",
            "--block",
            "65536",
        ];
        let victim = ContainerSpec::new("victim", &write)
            .write_limit(WRITE_LIMIT)
            .data(data.path());
        let scene = Scene::start([victim]);
        if !has_devices(trial, &scene) {
            return;
        }
        let expected = Expected {
            resource: Resource::Disk,
            verdicts: &[Verdict::IoLimited],
            evidence: &["write_bytes_limit_ratio"],
            remedy: "limit",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

/// The neighbour writes blocks and waits for each to be on the device, in several threads.
#[test]
fn starved_by_a_neighbour_that_syncs_after_each_write() {
    measured(|trial| {
        let data = data();
        let write = [
            "write-buffered",
            "--file",
            "/data/synced",
            "--size",
            "67108864",
            "--block",
            "262144",
            "--fsync-every",
            "1",
            "--datasync",
            "--threads",
            "8",
        ];
        let bully = ContainerSpec::new("bully", &write).data(data.path());
        let scene = Scene::start([reader(data.path()), bully]);
        if !has_devices(trial, &scene) {
            return;
        }
        let expected = Expected {
            resource: Resource::Disk,
            verdicts: &[Verdict::IoNeighbour],
            evidence: &["busy_ratio"],
            culprits: &["bully"],
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

/// The device becomes twenty times slower while the container does what it always did.
#[test]
fn slowed_down_by_its_device() {
    measured(|trial| {
        if let Some(missing) = SlowDisk::lacks() {
            trial.skip(missing);
            return;
        }
        let disk = SlowDisk::new(NORMAL_DELAY).unwrap();
        let scene = Scene::start([reader_of(&disk.path(), 16 << 20)]);
        if !has_devices(trial, &scene) {
            return;
        }
        wait_normal(&scene);
        let normal = Expected {
            resource: Resource::Disk,
            verdicts: &[Verdict::DiskBound],
            ..Expected::default()
        };
        scene.judge(trial, "victim", &normal);
        disk.set_delay(SLOW_DELAY);
        let expected = Expected {
            resource: Resource::Disk,
            verdicts: &[Verdict::DeviceSlow],
            evidence: &["latency_for_each_in_queue_seconds"],
            remedy: "device",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

/// Until it is known what is normal for the disk of the container. It stays known: all ticks of the last hour
/// count, and those of the windows that are judged are fewer.
fn wait_normal(scene: &Scene) {
    settle();
    wait_until(NORMAL_PATIENCE, "the normal latency of a disk", || {
        next_window();
        let said = scene.diagnosis("victim");
        let asked = said.resource(Resource::Disk).map(|disk| &disk.asked);
        let mut evidence = asked.into_iter().flatten().flat_map(|one| &one.evidence);
        let is_known =
            evidence.any(|one| one.name == "normal_latency_seconds" && one.value.is_some());
        Ok(is_known.then_some(()))
    })
    .unwrap();
}
