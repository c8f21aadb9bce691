//! Names: what a container's runtime says of it, however short it lived.

pub(crate) mod cri;
mod podman;

use std::{fs, io::Read as _, os::unix::net::UnixListener, path::Path, time::Duration};

use ctrscope_tests::{Agent, Metrics, docker::Docker, wait_until};
use serde_json::Value;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const CPU: &str = "ctrscope_container_cpu_seconds_total";
const BRIEF: [&str; 3] = ["burn", "--seconds", "1"];
/// For longer than the test.
const BURN: [&str; 3] = ["burn", "--seconds", "600"];

pub(crate) fn agent_with(docker: &Docker, options: &[&str]) -> Agent {
    agent_at(&docker.socket(), options)
}

pub(crate) fn agent_at(socket: &Path, options: &[&str]) -> Agent {
    let socket = socket.to_string_lossy().into_owned();
    let mut arguments = vec!["--runtime-socket", socket.as_str()];
    arguments.extend(options);
    let agent = Agent::start(&arguments).unwrap();
    wait_until(PATIENCE, "the runtime is connected", || {
        Ok(runtimes(&agent)[0]["connected"]
            .as_bool()
            .unwrap_or(false)
            .then_some(()))
    })
    .unwrap();
    agent
}

fn runtimes(agent: &Agent) -> Value {
    let status: Value = serde_json::from_str(&agent.get("/status").unwrap().text()).unwrap();
    status["agent"]["runtimes"].clone()
}

/// CPU seconds of the series of a container.
pub(crate) fn cpu_of(metrics: &Metrics, name: &str) -> Option<f64> {
    metrics.value(CPU, &[("container", name)])
}

pub(crate) fn wait_exit(agent: &Agent, name: &str) -> Metrics {
    wait_until(PATIENCE, "the exit is seen", || {
        let metrics = agent.metrics()?;
        let exited = metrics.value(
            "ctrscope_container_exited_timestamp_seconds",
            &[("container", name)],
        );
        Ok(exited.is_some().then_some(metrics))
    })
    .unwrap()
}

/// An engine is started once, for all that is looked at here.
#[test]
fn containers_of_docker_are_named_and_go_on_when_the_engine_crashes() {
    let mut docker = Docker::start().unwrap();
    let agent = agent_with(&docker, &["--exclude", "label.tier=noise"]);
    one_that_is_gone_has_its_name_image_exit_and_numbers(&docker, &agent);
    what_is_excluded_is_in_other(&docker, &agent);
    one_made_again_goes_on_in_its_series(&docker, &agent);
    a_crash_loses_nothing(&mut docker, &agent);
}

fn one_that_is_gone_has_its_name_image_exit_and_numbers(docker: &Docker, agent: &Agent) {
    let options = [
        "--rm",
        "--label",
        "com.docker.compose.project=shop",
        "--label",
        "com.docker.compose.service=web",
    ];
    let id = docker.start_container("brief", &options, &BRIEF).unwrap();
    let metrics = wait_exit(agent, "brief");
    let info = [
        ("container", "brief"),
        ("container_id", id.as_str()),
        ("image", "ctrscope-workload:test"),
        ("runtime", "docker"),
    ];
    assert_eq!(metrics.value("ctrscope_container_info", &info), Some(1.0));
    // The runtime tells it by an event of its own, which may come after the end of the cgroup.
    let exit = wait_until(PATIENCE, "the exit code is told", || {
        let labels = [("container", "brief")];
        Ok(agent
            .metrics()?
            .value("ctrscope_container_last_exit_code", &labels))
    })
    .unwrap();
    assert_eq!(exit, 0.0);
    assert!(cpu_of(&metrics, "brief") > Some(0.0));
    // No series was ever called by the id.
    assert_eq!(cpu_of(&metrics, &id[..12]), None);
    // By its labels it is of a service.
    let workload = [("workload", "shop/web"), ("workload_kind", "compose")];
    let total = metrics.value("ctrscope_workload_cpu_seconds_total", &workload);
    assert!(total > Some(0.0), "{total:?}");
}

fn what_is_excluded_is_in_other(docker: &Docker, agent: &Agent) {
    docker
        .start_container("noisy", &["--label", "tier=noise"], &BURN)
        .unwrap();
    docker
        .start_container("wanted", &["--label", "tier=front"], &BURN)
        .unwrap();
    let metrics = wait_until(PATIENCE, "both are judged", || {
        let metrics = agent.metrics()?;
        let excluded = metrics.value(
            "ctrscope_containers_in_other_total",
            &[("reason", "excluded")],
        );
        let is_there = cpu_of(&metrics, "wanted").is_some();
        Ok((excluded == Some(1.0) && is_there).then_some(metrics))
    })
    .unwrap();
    assert_eq!(cpu_of(&metrics, "noisy"), None);
    let other = cpu_of(&metrics, "_other").unwrap();
    wait_until(PATIENCE, "it counts as other", || {
        let now = cpu_of(&agent.metrics()?, "_other").unwrap();
        Ok((now > other + 0.1).then_some(()))
    })
    .unwrap();
}

/// While the one before is still remembered: the sum never falls, and the new one is in it.
fn one_made_again_goes_on_in_its_series(docker: &Docker, agent: &Agent) {
    docker.start_container("again", &[], &BRIEF).unwrap();
    let mut last = cpu_of(&wait_exit(agent, "again"), "again").unwrap();
    docker.run(&["wait", "again"]).unwrap();
    docker.run(&["rm", "again"]).unwrap();
    let id = docker.start_container("again", &[], &BURN).unwrap();
    let goal = last + 0.1;
    wait_until(PATIENCE, "the second one counts", || {
        let metrics = agent.metrics()?;
        let now = cpu_of(&metrics, "again").expect("its series is gone");
        assert!(now >= last, "{last} fell to {now}");
        last = now;
        let info = [("container", "again"), ("container_id", id.as_str())];
        let is_named = metrics.value("ctrscope_container_info", &info).is_some();
        Ok((is_named && now > goal).then_some(()))
    })
    .unwrap();
}

/// Series and counts go on, and containers that come later are named.
fn a_crash_loses_nothing(docker: &mut Docker, agent: &Agent) {
    let before = cpu_of(&agent.metrics().unwrap(), "wanted").unwrap();
    docker.crash_and_restart().unwrap();
    wait_until(PATIENCE, "it goes on", || {
        let after = cpu_of(&agent.metrics()?, "wanted").expect("its series is gone");
        assert!(after >= before, "{before} and {after}");
        Ok((after > before).then_some(()))
    })
    .unwrap();
    // And it is asked again.
    docker.start_container("later", &[], &BRIEF).unwrap();
    wait_until(PATIENCE, "the next one is named", || {
        Ok(cpu_of(&agent.metrics()?, "later"))
    })
    .unwrap();
    let connections = runtimes(agent)[0]["connections"].as_u64().unwrap();
    assert!(connections >= 2, "{connections}");
}

/// An agent that was given three sockets, each of which it has found to be none: one that hangs, one that
/// answers garbage, and a file. Gives also what it says of them.
pub(crate) fn agent_with_no_runtime(folder: &Path) -> (Agent, Vec<Value>) {
    let hanging = folder.join("hangs.sock");
    let listener = UnixListener::bind(&hanging).unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            held.push(stream);
        }
    });
    let garbage = folder.join("docker-garbage.sock");
    let listener = UnixListener::bind(&garbage).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = std::io::Write::write_all(&mut stream, &[0xff; 65_536]);
        }
    });
    let file = folder.join("docker.sock");
    fs::write(&file, "no socket").unwrap();
    let paths = [&hanging, &garbage, &file].map(|path| path.to_string_lossy().into_owned());
    let arguments: Vec<&str> = paths
        .iter()
        .flat_map(|path| ["--runtime-socket", path])
        .collect();
    let agent = Agent::start(&arguments).unwrap();
    let runtimes = wait_until(PATIENCE, "each is told", || {
        let runtimes = runtimes(&agent);
        let all = runtimes.as_array().cloned().unwrap_or_default();
        let failed = |one: &Value| one["failures"].as_u64() > Some(0);
        Ok((all.len() == 3 && all.iter().all(failed)).then_some(all))
    })
    .unwrap();
    (agent, runtimes)
}

#[test]
fn sockets_that_are_none_cost_nothing_and_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, runtimes) = agent_with_no_runtime(folder.path());
    for runtime in &runtimes {
        assert_eq!(runtime["connected"], false, "{runtime}");
        assert!(!runtime["reason"].as_str().unwrap().is_empty(), "{runtime}");
    }
    let metrics = agent.metrics().unwrap();
    assert!(cpu_of(&metrics, "_other").unwrap() > 0.0);
    let degraded = [("collector", "names"), ("state", "degraded")];
    assert_eq!(
        metrics.value("ctrscope_collector_state", &degraded),
        Some(1.0)
    );
    // It ends although a socket hangs.
    assert!(agent.stop().unwrap().success());
}
