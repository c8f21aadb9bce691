//! What holds a container back, who does, and who does not: scenes with real containers, each judged in several
//! windows. `cargo xtask accuracy` writes what came out into `docs/diagnosis.md`.

mod cpu;
mod disk;
mod memory;

use std::{env, fs::OpenOptions, io::Write as _, num::NonZero, sync::Arc, thread, time::Duration};

use ctrscope::diagnosis::{
    ContainerDiagnosis, Diagnosis, WaitMatrix,
    verdict::{Asked, Finding, Party, Resource, Verdict},
};
use ctrscope_tests::{Agent, Container, ContainerSpec, Group, measure::Trial};
use serde_json::json;

use crate::observe::{group, wait_seen};

/// Length of a window, seconds.
const WINDOW: u32 = 3;
const WINDOWS: usize = 10;
/// Part of the windows that may have another verdict. None may have a wrong culprit.
const OTHERWISE: f64 = 0.1;
/// Names the file to which each scene appends what was said, a JSON object a line (`xtask/src/scenes.rs`).
const SCENES: &str = "CTRSCOPE_SCENES";

/// What is to be said of a container.
struct Expected<'a> {
    resource: Resource,
    /// All of its findings on the resource, in their order.
    verdicts: &'a [Verdict],
    /// Evidence that must be there, and be on the side of its threshold that speaks for the verdict.
    evidence: &'a [&'a str],
    /// Names of those that are to blame.
    culprits: &'a [&'a str],
    /// Names of those that must be exonerated.
    innocent: &'a [&'a str],
    /// What the first remedy must name.
    remedy: &'a str,
}

impl Default for Expected<'_> {
    fn default() -> Self {
        Self {
            resource: Resource::Cpu,
            verdicts: &[],
            evidence: &[],
            culprits: &[],
            innocent: &[],
            remedy: "",
        }
    }
}

/// How the windows of a scene came out.
#[derive(Default)]
struct Windows {
    all: usize,
    otherwise: usize,
    wrong: usize,
}

impl Windows {
    fn add(&mut self, (is_right, is_wrong): (bool, bool)) {
        self.all += 1;
        self.otherwise += usize::from(!is_right);
        self.wrong += usize::from(is_wrong);
    }

    /// Judges them, and leaves what the table of scenes says of them.
    fn end(&self, trial: &Trial, name: &str, expected: &Expected<'_>) {
        let verdicts: Vec<&str> = expected.verdicts.iter().map(|one| one.label()).collect();
        let verdicts = verdicts.join(", ");
        trial.at_most(
            &format!("{name}: part of the windows with another verdict than {verdicts}"),
            self.otherwise as f64 / self.all.max(1) as f64,
            OTHERWISE,
        );
        trial.at_most(
            &format!("{name}: windows with a wrong culprit"),
            self.wrong as f64,
            0.0,
        );
        let Some(path) = env::var_os(SCENES) else {
            return;
        };
        let test = thread::current().name().unwrap_or_default().to_owned();
        let line = json!({
            "scene": test.rsplit("::").next().unwrap_or_default(),
            "resource": expected.resource.label(),
            "verdicts": verdicts,
            "culprits": expected.culprits,
            "innocent": expected.innocent,
            "windows": self.all,
            "right": self.all - self.otherwise,
            "wrong_culprit": self.wrong,
        });
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        // In one piece: the tests run side by side in processes of their own.
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// An agent and the containers of a scene.
struct Scene {
    agent: Agent,
    group: Arc<Group>,
    containers: Vec<Container>,
}

impl Scene {
    fn start(specs: impl IntoIterator<Item = ContainerSpec>) -> Self {
        let mut scene = Self {
            agent: Agent::start(&[]).unwrap(),
            group: group(),
            containers: Vec::new(),
        };
        for spec in specs {
            scene.add(&spec);
        }
        for container in &scene.containers {
            wait_seen(&scene.agent, container);
        }
        scene
    }

    /// Another container.
    fn add(&mut self, spec: &ContainerSpec) {
        let container = Container::start(&self.group, spec).unwrap();
        self.containers.push(container);
    }

    fn container(&self, name: &str) -> &Container {
        let mut all = self.containers.iter();
        all.find(|one| one.name() == name)
            .expect("a container of the scene")
    }

    /// The diagnosis of a container over the last seconds.
    fn diagnosis(&self, name: &str) -> ContainerDiagnosis {
        let id = self.label(name);
        let path = format!("/api/v1/diagnosis/{id}?window={WINDOW}");
        let answer = self.agent.get(&path).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut diagnosis: Diagnosis = serde_json::from_str(&answer.text()).unwrap();
        diagnosis.containers.pop().expect("one container")
    }

    /// What a container waited for and whom, over the same seconds if it is asked right after the diagnosis.
    fn waits(&self, name: &str) -> WaitMatrix {
        let id = self.label(name);
        let path = format!("/api/v1/neighbours?container={id}&window={WINDOW}");
        let answer = self.agent.get(&path).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_str(&answer.text()).unwrap()
    }

    /// Prints what a container waited for and whom.
    fn print_waits(&self, name: &str) {
        let waits = self.waits(name);
        for victim in &waits.containers {
            println!(
                "{name}: waited {:.3} s in the {:.3} s to {}",
                victim.waited_seconds, victim.seconds, waits.ended_at_unix_ms
            );
            for one in &victim.causes {
                println!("{name}: for {}: {:.3} s", one.cause, one.seconds);
            }
            for one in &victim.neighbours {
                println!("{name}: for {}: {:.3} s", one.name, one.seconds);
            }
            println!(
                "{name}: for containers and services without a name: {:.3} s, {:.3} s",
                victim.unnamed.containers_seconds, victim.unnamed.system_seconds
            );
        }
    }

    /// What the diagnosis calls a container.
    fn label(&self, name: &str) -> String {
        let cgroup = self.container(name).cgroup();
        cgroup.trim_start_matches('/').to_owned()
    }

    /// Judges a container in each of the windows.
    fn judge(&self, trial: &Trial, name: &str, expected: &Expected<'_>) {
        settle();
        let watch = trial.watch(self.agent.pid(), &self.group);
        let mut windows = Windows::default();
        for _ in 0..WINDOWS {
            next_window();
            windows.add(self.compare(&self.diagnosis(name), name, expected));
        }
        watch.end();
        windows.end(trial, name, expected);
    }

    /// Whether what is said is what is expected, and whether somebody is wrongly blamed.
    fn compare(
        &self,
        said: &ContainerDiagnosis,
        name: &str,
        expected: &Expected<'_>,
    ) -> (bool, bool) {
        let labels =
            |names: &[&str]| -> Vec<String> { names.iter().map(|name| self.label(name)).collect() };
        let answer = said.resource(expected.resource).expect("the resource");
        let findings = &answer.findings;
        let verdicts: Vec<Verdict> = findings.iter().map(|one| one.verdict).collect();
        let named = |of: fn(&Finding) -> &Vec<Party>| -> Vec<String> {
            let parties = findings.iter().flat_map(of);
            parties.map(|party| party.name.clone()).collect()
        };
        let (culprits, innocent) = (named(|one| &one.culprits), named(|one| &one.exonerated));
        let guilty = labels(expected.culprits);
        let is_wrong = culprits.iter().any(|name| !guilty.contains(name));
        let remedy = findings.first().and_then(|one| one.remedies.first());
        let is_right = !is_wrong
            && verdicts == expected.verdicts
            && guilty.iter().all(|name| culprits.contains(name))
            && labels(expected.innocent)
                .iter()
                .all(|name| innocent.contains(name))
            && expected
                .evidence
                .iter()
                .all(|name| is_met(&answer.asked, name))
            && remedy.map_or(expected.remedy.is_empty(), |text| {
                text.contains(expected.remedy)
            });
        if !is_right {
            for finding in findings {
                println!("{name}: {:?}: {}", finding.verdict, finding.summary);
                println!("{name}: {:?}", finding.remedies);
            }
            println!("{name}: culprits {culprits:?}, exonerated {innocent:?}");
            for asked in &answer.asked {
                let evidence: Vec<_> = asked
                    .evidence
                    .iter()
                    .map(|one| (&one.name, one.value))
                    .collect();
                println!("{name}: {} {:?} {evidence:?}", asked.name, asked.answer);
            }
            self.print_waits(name);
        }
        (is_right, is_wrong)
    }
}

/// Whether evidence of a name was compared, and held.
fn is_met(asked: &[Asked], name: &str) -> bool {
    let mut all = asked.iter().flat_map(|one| &one.evidence);
    all.any(|one| one.name == name && one.holds() == Some(true))
}

/// Until there are readings of the present alone.
fn settle() {
    thread::sleep(Duration::from_secs(u64::from(WINDOW) + 2));
}

fn next_window() {
    thread::sleep(Duration::from_secs(WINDOW.into()));
}

/// CPUs online.
fn cpus() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// All CPUs but the first, as a cpuset; `None` where there is one.
fn other_cpus() -> Option<String> {
    (cpus() > 1).then(|| format!("1-{}", cpus() - 1))
}

fn busy(name: &str, threads: &str) -> ContainerSpec {
    ContainerSpec::new(name, &["burn", "--threads", threads])
}

/// One that runs a little of the time, at no multiple of a quota's periods.
fn light(name: &str) -> ContainerSpec {
    let burst = ["--burn-ms", "1", "--sleep-ms", "271"];
    ContainerSpec::new(
        name,
        &[&["sleep-burn", "--threads", "1"], &burst[..]].concat(),
    )
}
