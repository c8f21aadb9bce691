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
use ctrscope_tests::{Agent, AgentCommand, Group, binaries, wait_until, without::Without};
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
    let users_name = format!("user@1000.service/{}", &id[..12]);
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
    assert!(found.counters.cpu.is_some(), "its files are found");
    let told = who(&["--server", &agent.address().to_string()]);
    assert_eq!(told["container_id"], id.as_str());
}
