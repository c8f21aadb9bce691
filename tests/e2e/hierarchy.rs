//! Cgroups that a container makes inside its own.

use std::{fs, time::Duration};

use ctrscope_tests::{Agent, Container, ContainerSpec, cgroup::hierarchies};

use crate::observe::{Reading, assert_sched_agrees, entry, group, snapshot};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// As systemd or a build tool does inside a container: a cgroup below its own, and its processes in
/// that.
pub(crate) fn move_inside(container: &Container) {
    for hierarchy in hierarchies().unwrap() {
        let own = hierarchy
            .mount
            .join(container.cgroup().trim_start_matches('/'));
        // Processes of a v2 cgroup move freely as long as it hands no controller down.
        let child = own.join("inner/worker");
        if own.exists() && fs::create_dir_all(&child).is_ok() {
            if child.join("cpuset.cpus").exists() {
                for (directory, parent) in [
                    (own.join("inner"), &own),
                    (child.clone(), &own.join("inner")),
                ] {
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        let text = fs::read_to_string(parent.join(file)).unwrap();
                        fs::write(directory.join(file), text).unwrap();
                    }
                }
            }
            fs::write(child.join("cgroup.procs"), container.pid().to_string()).unwrap();
        }
    }
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
    let inner = inner(container);
    assert!(cgroups.contains(&inner), "{cgroups}");
}

/// Where the processes are after [`move_inside`].
fn inner(container: &Container) -> String {
    format!("{}/inner/worker", container.cgroup())
}

/// Asserts that no cgroup below the container's own has an entry.
pub(crate) fn assert_one_entry(agent: &Agent, container: &Container) {
    let snapshot = snapshot(agent);
    for below in [inner(container), format!("{}/inner", container.cgroup())] {
        assert!(entry(&snapshot, &below).is_none(), "{below} has an entry");
    }
}

/// What runs in a cgroup below a container's is the container's, by the same name.
#[test]
fn cgroups_made_inside_a_container_count_as_the_container() {
    /// Some times what agent and kernel may differ by, so that time that is missing shows.
    const ENOUGH_NS: u64 = 20_000_000;
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let work = ["burn", "--threads", "2", "--seconds", "2"];
    let spec = ContainerSpec::new("nested", &work).gated().held();
    let container = Container::start(&group, &spec).unwrap();
    let before = Reading::take(&agent, &container);
    move_inside(&container);
    container.open_gate().unwrap();
    container.wait_report(PATIENCE).unwrap();
    let after = Reading::take(&agent, &container);
    assert!(after.usage_since(&before) > ENOUGH_NS);
    assert_sched_agrees(container.name(), &before, &after);
    assert_one_entry(&agent, &container);
}
