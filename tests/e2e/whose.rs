//! Whose name it is: cgroups that users make, units of one name, paths in other cgroup namespaces.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::chown, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use ctrscope::snapshot::Container;
use ctrscope_tests::{
    Agent, AgentCommand, Group,
    agent::{CGROUPS_ELSEWHERE, Surroundings},
    binaries, wait_until,
    without::Without,
};
use serde_json::Value;

use crate::observe::{entry, group, snapshot};

const PATIENCE: Duration = Duration::from_secs(60);
const CPU: &str = "ctrscope_container_cpu_seconds_total";
const INFO: &str = "ctrscope_container_info";
/// A user without any rights.
const USER: u32 = 1_000;
const MANAGER: &str = "user.slice/user-1000.slice/user@1000.service";

/// A process that goes with its handle.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Burns in a cgroup.
fn burn_in(directories: &[PathBuf]) -> Process {
    let mut command = Command::new(binaries::workload().unwrap());
    let process = command.args(["burn", "--seconds", "600"]).spawn().unwrap();
    let process = Process(process);
    enter(directories, process.0.id());
    process
}

fn enter(directories: &[PathBuf], pid: u32) {
    for directory in directories {
        fs::write(directory.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

/// An id that no other test has.
fn id_of(group: &Group, digit: char) -> String {
    let number: String = group
        .path()
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut id = number.get(..number.len().min(63)).unwrap().to_owned();
    id.insert(0, digit);
    id.extend(std::iter::repeat_n(digit, 64 - id.len()));
    id
}

/// As any process of a user's session can: makes a cgroup of a container's name in what is delegated to that
/// user, and moves there.
fn burn_as_user_in(manager: &[PathBuf], session: &[PathBuf], name: &str) -> Process {
    for directory in manager.iter().chain(session) {
        chown(directory, Some(USER), Some(USER)).unwrap();
        for file in ["cgroup.procs", "tasks", "cgroup.subtree_control"] {
            let _ = chown(directory.join(file), Some(USER), Some(USER));
        }
    }
    let script = "read _; burn=$1; name=$2; shift 2; for directory; do \
        mkdir \"$directory/$name\" && echo $$ >\"$directory/$name/cgroup.procs\" || exit 1; done; \
        exec \"$burn\" burn --seconds 600";
    let mut process = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(binaries::workload().unwrap())
        .arg(name)
        .args(manager)
        .current_dir("/")
        .uid(USER)
        .gid(USER)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    enter(session, process.id());
    process.stdin.take().unwrap().write_all(b"go\n").unwrap();
    Process(process)
}

fn on_cpu_ns(agent: &Agent, cgroup: &str) -> Option<u64> {
    entry(&snapshot(agent), cgroup)?.on_cpu_ns()
}

fn wait_entry(agent: &Agent, cgroup: &str) -> Container {
    wait_until(PATIENCE, "its entry is there", || {
        let snapshot = snapshot(agent);
        let found = entry(&snapshot, cgroup).filter(|one| one.on_cpu_ns() > Some(100_000_000));
        Ok(found.cloned())
    })
    .unwrap()
}

/// Its time when two snapshots agree in it: the last switch of a process can come after its end.
fn wait_still(agent: &Agent, cgroup: &str) -> u64 {
    let mut last = None;
    wait_until(PATIENCE, "its time stands still", || {
        let snapshot = snapshot(agent);
        let used = entry(&snapshot, cgroup).and_then(Container::on_cpu_ns);
        match last {
            // The same one, given out again.
            Some((at, _)) if at == snapshot.taken_at_ns => Ok(None),
            Some((_, before)) if before == used => Ok(used),
            _ => {
                last = Some((snapshot.taken_at_ns, used));
                Ok(None)
            }
        }
    })
    .unwrap()
}

/// Whoever may make cgroups can give one the name of a container of the system: it is another container, adds
/// nothing to the numbers of that one, and does not keep it alive.
#[test]
fn a_users_cgroup_of_a_containers_id_is_another_container() {
    let group = group();
    let id = id_of(&group, '7');
    let name = format!("docker-{id}.scope");
    let systems = group.make(&format!("system.slice/{name}")).unwrap();
    let manager = group.make(MANAGER).unwrap();
    let session = group.make(&format!("{MANAGER}/session")).unwrap();
    let agent = Agent::start(&[]).unwrap();
    let systems_path = format!("{}/system.slice/{name}", group.path());
    let users_path = format!("{}/{MANAGER}/{name}", group.path());

    let burner = burn_in(&systems);
    let theirs = wait_entry(&agent, &systems_path);
    assert_eq!(theirs.identity.container, id[..12]);
    drop(burner);
    let used = wait_still(&agent, &systems_path);

    let _burner = burn_as_user_in(&manager, &session, &name);
    let users = wait_entry(&agent, &users_path);
    // Below the group's cgroup it is no manager by its path: the owner of the directory tells.
    let above = users_path
        .trim_start_matches('/')
        .rsplit_once('/')
        .unwrap()
        .0;
    let users_name = format!("{above}/{}", &id[..12]);
    assert_eq!(users.identity.container, users_name);
    assert_eq!(users.identity.container_id, id);
    assert_eq!(
        on_cpu_ns(&agent, &systems_path),
        Some(used),
        "somebody else's time is in it"
    );
    let metrics = agent.metrics().unwrap();
    assert!(metrics.value(CPU, &[("container", &users_name)]) > Some(0.0));
    assert!(metrics.value(CPU, &[("container", &id[..12])]).is_some());

    for directory in &systems {
        ctrscope_tests::cgroup::remove(directory).unwrap();
    }
    let exited = wait_until(PATIENCE, "the system's has ended", || {
        let snapshot = snapshot(&agent);
        let ended =
            entry(&snapshot, &systems_path).is_none_or(|one| one.exited_at_unix_ms.is_some());
        Ok(ended.then(|| entry(&snapshot, &users_path).and_then(|one| one.exited_at_unix_ms)))
    });
    assert_eq!(exited.unwrap(), None, "the user's lives");
}

/// Each has series of its own, and the labels that all series have lead to one info.
#[test]
fn units_of_one_name_are_told_apart_and_joined_with_one_info_each() {
    let group = group();
    let agent = Agent::start(&[]).unwrap();
    let units = [
        ("system.slice/dbus.service", "dbus.service"),
        (
            "user.slice/user-1000.slice/user@1000.service/app.slice/dbus.service",
            "user@1000.service/dbus.service",
        ),
        (
            "user.slice/user-1001.slice/user@1001.service/app.slice/dbus.service",
            "user@1001.service/dbus.service",
        ),
    ];
    let _burners = units.map(|(path, _)| burn_in(&group.make(path).unwrap()));
    for (path, name) in units {
        let cgroup = format!("{}/{path}", group.path());
        let found = wait_entry(&agent, &cgroup);
        // A host may have one of that name itself.
        if name != "dbus.service" || found.identity.container == name {
            assert_eq!(found.identity.container, name);
        }
        let metrics = agent.metrics().unwrap();
        let labels = [("container", found.identity.container.as_str())];
        assert!(metrics.value(CPU, &labels) > Some(0.0), "{name}");
        assert_eq!(metrics.sum(INFO, &labels), 1.0, "{name}");
        let info = [labels[0], ("cgroup", cgroup.as_str())];
        assert_eq!(metrics.value(INFO, &info), Some(1.0), "{name}");
    }
}

/// A service with `User=` and `Delegate=yes` has a cgroup that is its user's, and no path shows that.
#[test]
fn a_services_cgroup_of_a_containers_id_is_another_container() {
    let group = group();
    let id = id_of(&group, '9');
    let systems = format!("system.slice/docker-{id}.scope");
    let burner = burn_in(&group.make(&systems).unwrap());
    let service = group.make("system.slice/app.service").unwrap();
    for directory in &service {
        chown(directory, Some(USER), Some(USER)).unwrap();
    }
    let users = format!("docker-{id}.scope");
    let _made = burn_as_user_in(&service, &service, &users);
    let agent = Agent::start(&[]).unwrap();
    let path = format!("{}/{systems}", group.path());
    let systems = wait_entry(&agent, &path);
    let users = format!("{}/system.slice/app.service/{users}", group.path());
    let users = wait_entry(&agent, &users);
    let short: String = id.chars().take(12).collect();
    assert_eq!(systems.identity.container, short);
    let unit = format!("{}/system.slice/app.service", group.path());
    let expected = format!("{}/{short}", unit.trim_start_matches('/'));
    assert_eq!(users.identity.container, expected);
    // What the user burns is not the container's.
    drop(burner);
    let still = wait_still(&agent, &path);
    assert!(on_cpu_ns(&agent, &users.identity.cgroup) > Some(0));
    assert_eq!(on_cpu_ns(&agent, &path), Some(still));
}

/// Engines give containers cgroup namespaces, and an agent that runs in one sees all others as `/../…`.
#[test]
fn paths_are_read_as_init_sees_them() {
    let group = group();
    let id = id_of(&group, '8');
    let own = group.make("docker/agent").unwrap();
    let burner = burn_in(&group.make(&format!("docker/{id}")).unwrap());
    let above = Without::new().cgroups_above(&own);
    let who = |arguments: &[&str]| -> Value {
        let pid = burner.0.id().to_string();
        let arguments = [arguments, &["who", &pid, "--json"]].concat();
        let output = AgentCommand::run_without(&above, &arguments, PATIENCE).unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    let path = format!("{}/docker/{id}", group.path());
    let told = who(&["--local"]);
    assert_eq!(
        (&told["container_id"], &told["kind"]),
        (&id.clone().into(), &"container".into())
    );
    let cgroups = told["cgroups"].as_array().unwrap();
    assert!(
        cgroups
            .iter()
            .any(|one| one.as_str().unwrap().ends_with(&path)),
        "{told}"
    );
    assert!(!told.to_string().contains("/.."), "{told}");

    let agent = Agent::start_without(&above, &[]).unwrap();
    let found = wait_entry(&agent, &path);
    assert_eq!(found.identity.container_id, id);
    assert!(found.gauges.cpu_weight.is_some(), "its files are found");
    let told = who(&["--server", &agent.address().to_string()]);
    assert_eq!(told["container_id"], id.as_str());
}

/// As the DaemonSet runs: the host's processes, and its cgroups somewhere else.
#[test]
fn an_agent_in_a_container_finds_the_hosts_cgroups_elsewhere() {
    let group = group();
    let id = id_of(&group, 'a');
    let path = format!("docker/{id}");
    let _there = burn_in(&group.make(&path).unwrap());
    let arguments = ["--cgroup-root", CGROUPS_ELSEWHERE];
    let agent =
        Agent::start_in_container(&group, "agent", Surroundings::HostPid, &arguments).unwrap();
    let path = format!("{}/{path}", group.path());
    let found = wait_entry(&agent, &path);
    assert_eq!(found.identity.container_id, id);
    assert!(found.gauges.cpu_weight.is_some(), "its files are found");
    // One that is made now is told by the kernel, by its path from the root.
    let later = format!("docker/{}", id_of(&group, 'b'));
    let _later = burn_in(&group.make(&later).unwrap());
    let found = wait_entry(&agent, &format!("{}/{later}", group.path()));
    assert!(found.gauges.cpu_weight.is_some(), "its files are found");
}

/// A node of kind, or docker in docker: a cgroup namespace and a PID namespace begin at the node, and the kernel
/// tells paths that begin above it.
#[test]
fn an_agent_in_a_nested_node_sees_the_nodes_containers_by_the_nodes_paths() {
    let group = group();
    let id = |digit| id_of(&group, digit);
    let there = format!("docker/{}", id('c'));
    let node = format!("docker/{}", id('d'));
    let agent = Agent::start_in_container(&group, &node, Surroundings::Node, &[]).unwrap();
    let _there = burn_in(&group.make(&format!("{node}/{there}")).unwrap());
    let path = format!("/{there}");
    let found = wait_entry(&agent, &path);
    assert_eq!(found.identity.container_id, id('c'));
    let wait_files = |path: &str| {
        wait_until(PATIENCE, "its files are found", || {
            let found = wait_entry(&agent, path);
            Ok(found.gauges.cpu_weight.is_some().then_some(found))
        })
        .unwrap()
    };
    wait_files(&path);
    // What is beside the node is counted, and is nobody's here.
    let beside = id('e');
    let _beside = burn_in(&group.make(&format!("docker/{beside}")).unwrap());
    let later = format!("docker/{}", id('f'));
    let _later = burn_in(&group.make(&format!("{node}/{later}")).unwrap());
    wait_files(&format!("/{later}"));
    let all = snapshot(&agent).containers;
    let is_beside = |one: &&Container| one.identity.cgroup.contains(&beside);
    assert!(all.iter().find(is_beside).is_none(), "{all:?}");
    let outside = |one: &&Container| one.identity.cgroup.contains(&group.path());
    assert!(all.iter().find(outside).is_none(), "{all:?}");
}
