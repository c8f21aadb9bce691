//! Containers of a real podman, by its API.

use ctrscope_tests::{Agent, Metrics, podman::Podman, wait_until};

use super::{BURN, PATIENCE, agent_at, cpu_of, runtimes, wait_exit};

/// What it ends with where the time that it should run for is no number.
const NO_NUMBER: [&str; 3] = ["burn", "--seconds", "x"];
const BRIEF: [&str; 3] = ["burn", "--seconds", "0.5"];

/// A podman is started once, for all that is looked at here.
#[test]
fn containers_of_podman_are_named_and_go_on_when_the_service_restarts() {
    let mut podman = Podman::start().unwrap();
    let agent = agent_at(&podman.socket(), &[]);
    assert_eq!(runtimes(&agent)[0]["runtime"], "podman");
    one_that_is_gone_has_its_name_image_exit_and_numbers(&podman, &agent);
    one_that_failed_has_its_code(&podman, &agent);
    a_restart_loses_nothing(&mut podman, &agent);
}

fn exit_code(agent: &Agent, name: &str) -> f64 {
    // It is told by an event of its own, which may come after the end of the cgroup.
    wait_until(PATIENCE, "the exit code is told", || {
        let labels = [("container", name)];
        Ok(agent
            .metrics()?
            .value("ctrscope_container_last_exit_code", &labels))
    })
    .unwrap()
}

fn one_that_is_gone_has_its_name_image_exit_and_numbers(podman: &Podman, agent: &Agent) {
    let options = [
        "--rm",
        "--label",
        "com.docker.compose.project=shop",
        "--label",
        "com.docker.compose.service=web",
    ];
    let id = podman.start_container("brief", &options, &BRIEF).unwrap();
    let metrics = wait_exit(agent, "brief");
    let info = [
        ("container", "brief"),
        ("container_id", id.as_str()),
        ("image", "localhost/ctrscope-workload:test"),
        ("runtime", "podman"),
    ];
    assert_eq!(metrics.value("ctrscope_container_info", &info), Some(1.0));
    assert_eq!(exit_code(agent, "brief"), 0.0);
    // What it was told to burn, less what a busy host kept from it.
    assert!(cpu_of(&metrics, "brief") > Some(0.1));
    // No series was ever called by the id.
    assert_eq!(cpu_of(&metrics, &id[..12]), None);
    let workload = [("workload", "shop/web"), ("workload_kind", "compose")];
    let total = metrics.value("ctrscope_workload_cpu_seconds_total", &workload);
    assert!(total > Some(0.0), "{total:?}");
}

fn one_that_failed_has_its_code(podman: &Podman, agent: &Agent) {
    podman.start_container("failed", &[], &NO_NUMBER).unwrap();
    let code = podman.run(&["wait", "failed"]).unwrap();
    let code: f64 = code.trim().parse().unwrap();
    assert!(code > 0.0);
    assert_eq!(exit_code(agent, "failed"), code);
}

/// While the service is away and after it is back, series and counts go on; one that was started meanwhile
/// and one that comes later are named.
fn a_restart_loses_nothing(podman: &mut Podman, agent: &Agent) {
    podman.start_container("wanted", &[], &BURN).unwrap();
    let mut last = wait_until(PATIENCE, "it is named", || {
        Ok(cpu_of(&agent.metrics()?, "wanted"))
    })
    .unwrap();
    let mut goes_on = |metrics: &Metrics| {
        let now = cpu_of(metrics, "wanted").expect("its series is gone");
        assert!(now >= last, "{last} fell to {now}");
        let grew = now > last;
        last = now;
        grew
    };
    let is_connected = |agent: &Agent| runtimes(agent)[0]["connected"] == true;
    podman.crash().unwrap();
    wait_until(PATIENCE, "it goes on without the service", || {
        let grew = goes_on(&agent.metrics()?);
        Ok((grew && !is_connected(agent)).then_some(()))
    })
    .unwrap();
    podman.start_container("meanwhile", &[], &BURN).unwrap();
    podman.restart().unwrap();
    podman.start_container("later", &[], &BRIEF).unwrap();
    wait_until(PATIENCE, "all are named", || {
        let metrics = agent.metrics()?;
        goes_on(&metrics);
        let named = |name| cpu_of(&metrics, name).is_some();
        Ok((named("meanwhile") && named("later") && is_connected(agent)).then_some(()))
    })
    .unwrap();
    wait_until(PATIENCE, "it goes on with the service", || {
        Ok(goes_on(&agent.metrics()?).then_some(()))
    })
    .unwrap();
    let connections = runtimes(agent)[0]["connections"].as_u64().unwrap();
    assert!(connections >= 2, "{connections}");
}
