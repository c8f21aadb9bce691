//! What keeps a container off the CPU.

use std::{fs, sync::Arc};

use ctrscope::diagnosis::verdict::{Resource, Verdict};
use ctrscope_tests::{
    Cable, Container, ContainerSpec,
    measure::{Trial, measured},
};

use super::{Expected, Scene, Windows, busy, cpus, light, next_window, other_cpus, settle};

#[test]
fn capped_by_its_own_quota() {
    measured(|trial| {
        let scene = Scene::start([busy("victim", "2").quota(30_000, 100_000), light("light")]);
        let expected = Expected {
            verdicts: &[Verdict::CapThrottled],
            evidence: &["throttled_periods_ratio"],
            remedy: "quota",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

#[test]
fn capped_by_the_quota_of_its_pod() {
    measured(|trial| {
        let scene = Scene::start([
            busy("victim", "2").pod("pod"),
            light("sibling").pod("pod"),
            light("light"),
        ]);
        limit_pod(scene.container("victim"));
        let expected = Expected {
            verdicts: &[Verdict::CapThrottled],
            evidence: &["throttled_periods_ratio", "wait_ratio"],
            remedy: "/pod",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

/// Gives the cgroup above a container 0.3 cores.
fn limit_pod(container: &Container) {
    let directory = container.cgroup_path("cpu").unwrap();
    let pod = directory.parent().expect("the pod");
    if pod.join("cpu.max").exists() {
        fs::write(pod.join("cpu.max"), "30000 100000").unwrap();
    } else {
        fs::write(pod.join("cpu.cfs_period_us"), "100000").unwrap();
        fs::write(pod.join("cpu.cfs_quota_us"), "30000").unwrap();
    }
}

/// The rest of the machine is busy as well, and not to blame.
fn with_innocent(trial: &Trial, rest: impl IntoIterator<Item = ContainerSpec>) -> Option<Scene> {
    let Some(others) = other_cpus() else {
        trial.skip("one CPU");
        return None;
    };
    let threads = (cpus() - 1).to_string();
    let innocent = busy("innocent", &threads).cpus(&others);
    Some(Scene::start(rest.into_iter().chain([innocent])))
}

#[test]
fn limited_by_its_share_beside_one_bully() {
    measured(|trial| {
        let victim = busy("victim", "1").shares(512).cpus("0");
        let bully = busy("bully", "2").shares(2_048).cpus("0");
        let Some(scene) = with_innocent(trial, [victim, bully]) else {
            return;
        };
        let expected = Expected {
            verdicts: &[Verdict::ShareLimited],
            evidence: &["wait_ratio", "wait_for_others_ratio"],
            culprits: &["bully"],
            innocent: &["innocent"],
            remedy: "weight",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

#[test]
fn limited_by_twenty_small_neighbours_none_of_which_is_the_culprit() {
    measured(|trial| {
        let names: Vec<String> = (0..20).map(|index| format!("small{index}")).collect();
        let small = names.iter().map(|name| busy(name, "1").shares(128));
        let scene = Scene::start(small.chain([busy("victim", &cpus().to_string()).shares(256)]));
        let expected = Expected {
            verdicts: &[Verdict::ShareLimited],
            evidence: &["wait_ratio", "wait_for_others_ratio"],
            remedy: "weight",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

#[test]
fn confined_to_one_cpu_while_others_idle() {
    measured(|trial| {
        if cpus() < 2 {
            trial.skip("one CPU");
            return;
        }
        let scene = Scene::start([busy("victim", "2").cpus("0")]);
        let expected = Expected {
            verdicts: &[Verdict::CpusetLimited],
            evidence: &["idlest_cpu_of_it_ratio", "other_cpus_idle_ratio"],
            remedy: "cpuset",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

#[test]
fn alone_on_a_full_machine() {
    measured(|trial| {
        let scene = Scene::start([busy("victim", &(3 * cpus()).to_string())]);
        let expected = Expected {
            verdicts: &[Verdict::PhysicalCpu],
            evidence: &["wait_ratio"],
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

#[test]
fn not_bound_by_the_cpu_because_it_sleeps() {
    measured(|trial| {
        let sleeps = ["sleep-burn", "--burn-ms", "2", "--sleep-ms", "38"];
        let scene = Scene::start([ContainerSpec::new("victim", &sleeps)]);
        let expected = Expected {
            verdicts: &[Verdict::NotCpuBound],
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

#[test]
fn throttled_and_beside_a_noisy_neighbour() {
    measured(|trial| {
        // Less than its share beside the bully, which is a fifth of a CPU.
        let victim = busy("victim", "2").quota(10_000, 100_000).shares(512);
        let bully = busy("bully", "3").shares(2_048).cpus("0");
        let Some(scene) = with_innocent(trial, [victim.cpus("0"), bully]) else {
            return;
        };
        let expected = Expected {
            verdicts: &[Verdict::CapThrottled, Verdict::ShareLimited],
            evidence: &["throttled_periods_ratio", "wait_for_others_ratio"],
            culprits: &["bully"],
            innocent: &["innocent"],
            remedy: "quota",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

/// Its pressure rises as beside a neighbour, and there is none.
#[test]
fn throttled_beside_one_that_is_busy_and_innocent() {
    measured(|trial| {
        let victim = busy("victim", "2").quota(30_000, 100_000).cpus("0");
        let Some(scene) = with_innocent(trial, [victim]) else {
            return;
        };
        let expected = Expected {
            verdicts: &[Verdict::CapThrottled],
            evidence: &["throttled_periods_ratio"],
            remedy: "quota",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
        // Which is the scene: pressure, where it is measured, that says as much as a neighbour's would.
        let said = scene.diagnosis("victim");
        let asked = &said.resource(Resource::Cpu).expect("the CPU").asked;
        let mut evidence = asked.iter().flat_map(|one| &one.evidence);
        let pressure = evidence.find(|one| one.name == "cpu_pressure_ratio");
        if let Some(pressure) = pressure.and_then(|one| one.value) {
            trial.near(
                "victim: part of the window with pressure",
                pressure,
                0.9,
                0.2,
            );
        }
    });
}

/// The packets of a flood are taken on the CPU that it has.
#[test]
fn kept_from_running_by_interrupts() {
    measured(|trial| {
        if cpus() < 2 {
            trial.skip("one CPU");
            return;
        }
        let cable = Cable::new().unwrap();
        // Receive packet steering: the first CPU.
        let steer = "echo 1 > /sys/class/net/eth0/queues/rx-0/rps_cpus";
        cable.shell(1, steer).unwrap();
        let to = format!("{}:9", cable.address(1));
        let flood = ContainerSpec::new("flood", &["flood", "--to", &to]);
        let scene = Scene::start([
            busy("victim", "1").cpus("0"),
            flood.network(&cable.namespace(0)).cpus("1"),
        ]);
        let expected = Expected {
            verdicts: &[Verdict::NotThrottled],
            evidence: &["interrupt_ratio"],
            remedy: "interrupt",
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

/// Ten times it has what others leave, and then one comes that has a claim to it.
#[test]
fn bursting_and_then_squeezed_by_a_newcomer() {
    const ROUNDS: usize = 10;
    measured(|trial| {
        let threads = cpus().to_string();
        let claims = busy("reserve", "1").shares(8_192).gated();
        let mut scene = Scene::start([busy("victim", &threads).shares(512), claims]);
        settle();
        let expected = Expected {
            verdicts: &[Verdict::ShareLimited],
            evidence: &["wait_ratio", "wait_for_others_ratio"],
            remedy: "weight",
            ..Expected::default()
        };
        let mut windows = Windows::default();
        for round in 0..ROUNDS {
            let group = Arc::clone(&scene.group);
            let watch = trial.watch(scene.agent.pid(), &group);
            next_window();
            next_window();
            let alone = scene.diagnosis("victim");
            let newcomer = format!("newcomer{round}");
            scene.add(&busy(&newcomer, &(2 * cpus()).to_string()).shares(8_192));
            settle();
            next_window();
            let beside = scene.diagnosis("victim");
            watch.end();

            let name = scene.label(&newcomer);
            let is_told = alone.bursting.is_some()
                && alone.squeezed.is_none()
                && beside
                    .squeezed
                    .as_ref()
                    .is_some_and(|one| one.newcomer == name);
            let expected = Expected {
                culprits: &[&newcomer],
                ..expected
            };
            let (is_right, is_wrong) = scene.compare(&beside, "victim", &expected);
            if !is_told {
                println!("alone: {:?} {:?}", alone.bursting, alone.squeezed);
                println!("beside {name}: {:?} {:?}", beside.bursting, beside.squeezed);
            }
            windows.add((is_right && is_told, is_wrong));
            scene.containers.pop();
        }
        windows.end(trial, "victim", &expected);
    });
}

#[test]
fn nothing_is_said_of_an_idle_one() {
    measured(|trial| {
        let scene = Scene::start([busy("victim", "1").gated()]);
        let expected = Expected {
            verdicts: &[Verdict::Idle],
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}
