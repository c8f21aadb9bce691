//! Cgroups that a container makes inside its own.

use std::{fs, time::Duration};

use ctrscope_tests::{Agent, Container, ContainerSpec, cgroup::hierarchies};

use crate::observe::{entry, group, snapshot, wait_seen};

const PATIENCE: Duration = Duration::from_secs(30);

/// As systemd or a build tool does inside a container: a cgroup below its own, and its processes in
/// that. What runs there is the container's, by the same name.
#[test]
fn cgroups_made_inside_a_container_count_as_the_container() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let work = ["burn", "--threads", "2", "--seconds", "3"];
    let spec = ContainerSpec::new("nested", &work).gated().held();
    let container = Container::start(&group, &spec).unwrap();
    let before = wait_seen(&agent, &container).sched.unwrap().on_cpu_ns;
    let usage = container.cpu_usage_ns().unwrap();
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
    let inner = format!("{}/inner/worker", container.cgroup());
    assert!(cgroups.contains(&inner), "{cgroups}");

    container.open_gate().unwrap();
    container.wait_report(PATIENCE).unwrap();
    let usage = container.cpu_usage_ns().unwrap() - usage;
    let seen = wait_seen(&agent, &container).sched.unwrap().on_cpu_ns - before;
    println!("agent {seen} ns, kernel {usage} ns");
    assert!(usage > 1_000_000_000);
    assert!((seen as f64 - usage as f64).abs() <= usage as f64 * 0.01 + 5e6);
    let snapshot = snapshot(&agent);
    assert!(entry(&snapshot, &inner).is_none(), "the child has an entry");
    let parent = format!("{}/inner", container.cgroup());
    assert!(entry(&snapshot, &parent).is_none());
}
