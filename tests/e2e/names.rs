//! Names: what a container's runtime says of it, however short it lived.

mod cri;
mod workloads;

use std::{fs, io::Read as _, os::unix::net::UnixListener, path::Path, time::Duration};

use ctrscope_tests::{Agent, Metrics, docker::Docker, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const CPU: &str = "ctrscope_container_cpu_seconds_total";

fn agent_with(docker: &Docker, options: &[&str]) -> Agent {
    agent_at(&docker.socket(), options)
}

fn agent_at(socket: &Path, options: &[&str]) -> Agent {
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
fn cpu_of(metrics: &Metrics, name: &str) -> Option<f64> {
    metrics.value(CPU, &[("container", name)])
}

fn wait_exit(agent: &Agent, name: &str) -> Metrics {
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

#[test]
fn a_container_that_is_gone_has_its_name_image_exit_and_numbers() {
    let docker = Docker::start().unwrap();
    let agent = agent_with(&docker, &[]);
    let options = ["--rm", "--label", "com.docker.compose.project=shop"];
    let id = docker
        .start_container("brief", &options, &["burn", "--seconds", "1"])
        .unwrap();
    let metrics = wait_exit(&agent, "brief");
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
    let burned = cpu_of(&metrics, "brief").unwrap();
    println!("burned {burned:.3} s in one that had 1 s");
    assert!(burned > 0.05, "{burned}");
    // No series was ever called by the id.
    assert_eq!(cpu_of(&metrics, &id[..12]), None);
}

#[test]
fn a_container_made_again_goes_on_in_its_series() {
    let docker = Docker::start().unwrap();
    let agent = agent_with(&docker, &["--retention", "2s"]);
    let mut last = 0.0;
    let mut sum_of_ends = 0.0;
    for round in 0..3 {
        let before = last;
        docker
            .start_container("again", &["--rm"], &["burn", "--seconds", "1"])
            .unwrap();
        // Longer than the retention of the one before, whose end must not show.
        let watched = std::time::Instant::now();
        wait_until(PATIENCE, "two retentions passed", || {
            if let Some(now) = cpu_of(&agent.metrics()?, "again") {
                assert!(now >= last, "round {round}: {last} fell to {now}");
                last = now;
            } else {
                assert!(round == 0 || watched.elapsed() > Duration::from_secs(2));
            }
            Ok((watched.elapsed() > Duration::from_millis(2_500)).then_some(()))
        })
        .unwrap();
        assert!(last > before + 0.05, "round {round}: {before} and {last}");
        sum_of_ends = last;
    }
    println!("three containers of one name: {sum_of_ends:.3} s");
}

#[test]
fn an_engine_that_crashes_loses_no_series_and_no_counts() {
    let mut docker = Docker::start().unwrap();
    let agent = agent_with(&docker, &[]);
    docker
        .start_container("steady", &[], &["burn", "--seconds", "60"])
        .unwrap();
    let before = wait_until(PATIENCE, "it is named", || {
        Ok(cpu_of(&agent.metrics()?, "steady"))
    })
    .unwrap();
    docker.crash_and_restart().unwrap();
    wait_until(PATIENCE, "it goes on", || {
        let after = cpu_of(&agent.metrics()?, "steady").expect("its series is gone");
        assert!(after >= before, "{before} and {after}");
        Ok((after > before).then_some(()))
    })
    .unwrap();
    // And it is asked again.
    docker
        .start_container("later", &[], &["burn", "--seconds", "1"])
        .unwrap();
    wait_until(PATIENCE, "the next one is named", || {
        Ok(cpu_of(&agent.metrics()?, "later"))
    })
    .unwrap();
    let connections = runtimes(&agent)[0]["connections"].as_u64().unwrap();
    assert!(connections >= 2, "{connections}");
}

#[test]
fn what_is_excluded_is_in_other() {
    let docker = Docker::start().unwrap();
    let agent = agent_with(&docker, &["--exclude", "label.tier=noise"]);
    let burn = ["burn", "--seconds", "60"];
    docker
        .start_container("noisy", &["--label", "tier=noise"], &burn)
        .unwrap();
    docker
        .start_container("wanted", &["--label", "tier=front"], &burn)
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

#[test]
fn sockets_that_are_none_cost_nothing_and_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let hanging = folder.path().join("hangs.sock");
    let listener = UnixListener::bind(&hanging).unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            held.push(stream);
        }
    });
    let garbage = folder.path().join("docker-garbage.sock");
    let listener = UnixListener::bind(&garbage).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = std::io::Write::write_all(&mut stream, &[0xff; 65_536]);
        }
    });
    let file = folder.path().join("docker.sock");
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
    let began = std::time::Instant::now();
    assert!(agent.stop().unwrap().success());
    assert!(
        began.elapsed() < PATIENCE,
        "it ends although a socket hangs"
    );
}
