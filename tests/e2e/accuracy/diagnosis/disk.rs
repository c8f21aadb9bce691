//! What a container waits for that waits for the disk.

use std::path::Path;

use ctrscope::diagnosis::verdict::{Resource, Verdict};
use ctrscope_tests::{
    ContainerSpec,
    measure::{Trial, measured},
};
use tempfile::TempDir;

use super::{Expected, Scene};

/// Limit on what is written, bytes a second.
const WRITE_LIMIT: u64 = 4 << 20;

fn data() -> TempDir {
    TempDir::new_in("/var/tmp").unwrap()
}

/// One that reads block after block, past the page cache.
fn reader(data: &Path) -> ContainerSpec {
    let read = [
        "read-direct",
        "--file",
        "/data/read",
        "--size",
        "67108864",
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
