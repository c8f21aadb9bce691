//! What holds a container back, who does, and who does not: scenes with real containers, each judged in several
//! windows.

use std::{num::NonZero, sync::Arc, thread, time::Duration};

use ctrscope::diagnosis::{
    ContainerDiagnosis, Diagnosis,
    verdict::{Finding, Party, Resource, Verdict},
};
use ctrscope_tests::{
    Agent, Container, ContainerSpec, Group,
    measure::{Trial, measured},
};

use crate::observe::{group, wait_seen};

/// Length of a window, seconds.
const WINDOW: u32 = 3;
const WINDOWS: usize = 10;
/// Part of the windows that may have another verdict. None may have a wrong culprit.
const OTHERWISE: f64 = 0.1;

/// What is to be said of a container.
#[derive(Default)]
struct Expected<'a> {
    /// All of its findings on the CPU, in their order.
    verdicts: &'a [Verdict],
    /// Names of those that are to blame.
    culprits: &'a [&'a str],
    /// Names of those that must be exonerated.
    innocent: &'a [&'a str],
    /// What the first remedy must name.
    remedy: &'a str,
}

/// An agent and the containers of a scene.
struct Scene {
    agent: Agent,
    group: Arc<Group>,
    containers: Vec<Container>,
}

impl Scene {
    fn start(specs: impl IntoIterator<Item = ContainerSpec>) -> Self {
        let agent = Agent::start(&[]).unwrap();
        let group = group();
        let start = |spec| Container::start(&group, &spec).unwrap();
        let containers: Vec<Container> = specs.into_iter().map(start).collect();
        for container in &containers {
            wait_seen(&agent, container);
        }
        Self {
            agent,
            group,
            containers,
        }
    }

    fn container(&self, name: &str) -> &Container {
        let mut all = self.containers.iter();
        all.find(|one| one.name() == name)
            .expect("a container of the scene")
    }

    /// The diagnosis of a container over the last seconds.
    fn diagnosis(&self, container: &Container) -> ContainerDiagnosis {
        let id = container.cgroup().trim_start_matches('/');
        let path = format!("/api/v1/diagnosis/{id}?window={WINDOW}");
        let answer = self.agent.get(&path).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut diagnosis: Diagnosis = serde_json::from_str(&answer.text()).unwrap();
        diagnosis.containers.pop().expect("one container")
    }

    /// Judges a container in each of the windows.
    fn judge(&self, trial: &Trial, name: &str, expected: &Expected<'_>) {
        let container = self.container(name);
        // Until there are readings of this scene alone.
        thread::sleep(Duration::from_secs(u64::from(WINDOW) + 2));
        let watch = trial.watch(self.agent.pid(), &self.group);
        let (mut otherwise, mut wrong) = (0, 0);
        for _ in 0..WINDOWS {
            thread::sleep(Duration::from_secs(WINDOW.into()));
            let said = self.diagnosis(container);
            let cpu = said.resource(Resource::Cpu).expect("the CPU");
            let (is_right, is_wrong) = self.compare(&cpu.findings, expected);
            if !is_right {
                for finding in &cpu.findings {
                    println!("{name}: {:?}: {}", finding.verdict, finding.summary);
                    println!("{name}: {:?}", finding.remedies);
                }
            }
            otherwise += usize::from(!is_right);
            wrong += usize::from(is_wrong);
        }
        watch.end();
        trial.at_most(
            &format!(
                "{name}: part of the windows with another verdict than {:?}",
                expected.verdicts
            ),
            otherwise as f64 / WINDOWS as f64,
            OTHERWISE,
        );
        trial.at_most(
            &format!("{name}: windows with a wrong culprit"),
            wrong as f64,
            0.0,
        );
    }

    /// Whether the findings are those that are expected, and whether somebody is wrongly blamed.
    fn compare(&self, findings: &[Finding], expected: &Expected<'_>) -> (bool, bool) {
        let labels = |names: &[&str]| -> Vec<String> {
            let all = names.iter().map(|name| self.container(name).cgroup());
            all.map(|cgroup| cgroup.trim_start_matches('/').to_owned())
                .collect()
        };
        let verdicts: Vec<Verdict> = findings.iter().map(|one| one.verdict).collect();
        let named = |of: fn(&Finding) -> &Vec<Party>| -> Vec<String> {
            let parties = findings.iter().flat_map(of);
            parties.map(|party| party.name.clone()).collect()
        };
        let (culprits, innocent) = (named(|one| &one.culprits), named(|one| &one.exonerated));
        let guilty = labels(expected.culprits);
        let is_wrong = culprits.iter().any(|name| !guilty.contains(name));
        let remedy = findings.first().and_then(|one| one.remedies.first());
        let is_right = verdicts == expected.verdicts
            && guilty.iter().all(|name| culprits.contains(name))
            && labels(expected.innocent)
                .iter()
                .all(|name| innocent.contains(name))
            && remedy.map_or(expected.remedy.is_empty(), |text| {
                text.contains(expected.remedy)
            });
        (is_right && !is_wrong, is_wrong)
    }
}

/// CPUs online.
fn cpus() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

fn busy(name: &str, threads: &str) -> ContainerSpec {
    ContainerSpec::new(name, &["burn", "--threads", threads])
}

/// One that runs a twentieth of the time.
fn light(name: &str) -> ContainerSpec {
    ContainerSpec::new(
        name,
        &[
            "sleep-burn",
            "--threads",
            "1",
            "--burn-ms",
            "2",
            "--sleep-ms",
            "38",
        ],
    )
}

#[test]
fn capped_by_its_own_quota() {
    measured(|trial| {
        let scene = Scene::start([busy("victim", "2").quota(30_000, 100_000), light("light")]);
        let expected = Expected {
            verdicts: &[Verdict::CapThrottled],
            remedy: "quota",
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
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
    });
}

#[test]
fn not_bound_by_the_cpu_because_it_sleeps() {
    measured(|trial| {
        let scene = Scene::start([light("victim")]);
        let expected = Expected {
            verdicts: &[Verdict::NotCpuBound],
            ..Expected::default()
        };
        scene.judge(trial, "victim", &expected);
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
