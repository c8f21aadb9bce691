//! The flame graph of a program whose hot functions are known.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use ctrscope_tests::{
    Agent, Container, ContainerSpec, Group, container::WORKLOAD_PATH, wait_until,
    workload::hot::HOT_FUNCTIONS,
};

use crate::observe::{group, wait_seen};

/// For the answer to a recording of some seconds, and until what is waited for is in a recording.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a container whose functions are known.
pub(crate) fn hot(group: &Arc<Group>, threads: usize) -> Container {
    let threads = threads.to_string();
    let spec = ContainerSpec::new("hot", &["burn", "--threads", &threads]);
    Container::start(group, &spec).unwrap()
}

/// A process of the host that goes with its handle.
pub(crate) struct Beside(Child);

impl Beside {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command with the files and namespaces of the host, in the cgroups of a container that does little else.
pub(crate) fn beside(group: &Arc<Group>, command: &mut Command) -> (Container, Beside) {
    let little = ["sleep-burn", "--burn-ms", "1", "--sleep-ms", "500"];
    let container = Container::start(group, &ContainerSpec::new("beside", &little)).unwrap();
    let program = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let program = Beside(program);
    container.enter(program.pid()).unwrap();
    (container, program)
}

/// The name that a container has in a profile's first frame.
pub(crate) fn name(agent: &Agent, container: &Container) -> String {
    wait_seen(agent, container).identity.container.clone()
}

/// Parameters of a query for a recording of a container.
pub(crate) fn query(agent: &Agent, container: &Container, seconds: u32) -> String {
    let name = name(agent, container).replace('/', "%2F");
    format!("container={name}&seconds={seconds}")
}

/// Records a container.
pub(crate) fn record(agent: &Agent, container: &Container, format: &str, seconds: u32) -> String {
    let query = query(agent, container, seconds);
    let path = format!("/api/v1/profile?type=cpu&format={format}&{query}");
    let answer = agent.get_slow(&path, PATIENCE).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// Records a container for a second, and again until `is_complete`: beside others who want the CPUs it may
/// run too little for a sample of each function.
pub(crate) fn record_until(
    agent: &Agent,
    container: &Container,
    format: &str,
    is_complete: impl Fn(&str) -> bool,
) -> String {
    let mut last = String::new();
    wait_until(PATIENCE, "all that the profile is to have", || {
        last = record(agent, container, format, 1);
        Ok(is_complete(&last).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}:\n{last}"));
    last
}

/// Stacks of a folded profile and their samples.
pub(crate) fn stacks(folded: &str) -> impl Iterator<Item = (&str, u64)> {
    folded.lines().map(|line| {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        (stack, count.parse().unwrap())
    })
}

/// Whether a stack has a frame for which `is` holds.
pub(crate) fn has_frame(folded: &str, is: impl Fn(&str) -> bool) -> bool {
    stacks(folded).any(|(stack, _)| stack.split(';').any(&is))
}

/// Part of the samples that have a frame for which `is` holds.
pub(crate) fn share(folded: &str, is: impl Fn(&str) -> bool) -> f64 {
    let (mut with, mut all) = (0, 0);
    for (stack, count) in stacks(folded) {
        all += count;
        if stack.split(';').any(&is) {
            with += count;
        }
    }
    with as f64 / all.max(1) as f64
}

/// Asserts that all stacks begin with the container's name.
pub(crate) fn assert_rooted(folded: &str, name: &str) {
    for (stack, _) in stacks(folded) {
        assert_eq!(stack.split(';').next(), Some(name), "root frame of {stack}");
    }
}

#[test]
fn a_profile_names_the_hot_functions() {
    let agent = Agent::start(&[]).unwrap();
    // The binary is at a path that does not exist on the host.
    assert!(!Path::new(WORKLOAD_PATH).exists());
    let container = hot(&group(), 2);
    let folded = record_until(&agent, &container, "folded", |folded| {
        let mut functions = HOT_FUNCTIONS.iter();
        functions.all(|(function, _)| has_frame(folded, |frame| frame == *function))
    });
    assert_rooted(&folded, &name(&agent, &container));
    let svg = record_until(&agent, &container, "svg", |svg| svg.contains("hot_fifty"));
    assert!(svg.contains("<svg"), "{svg}");
}
