//! The daemon as a process: what it leaves behind, and how it ends.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    process::{Command, Stdio},
    time::Duration,
};

use ctrscope_tests::{
    Agent, AgentCommand, agent::describe, agent::signal, binaries, bpf, http, wait_until,
};
use tempfile::NamedTempFile;

/// The kernel frees programs and maps after a grace period of its own.
const FREED_PATIENCE: Duration = Duration::from_secs(60);

/// For a start and an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Programs and maps that an agent holds in the kernel.
pub(crate) struct Held {
    programs: BTreeSet<u64>,
    maps: BTreeSet<u64>,
}

impl Held {
    /// Those of an agent that runs.
    pub(crate) fn of(agent: &Agent) -> Self {
        let (programs, maps) = bpf::held(agent.pid()).unwrap();
        assert!(!programs.is_empty() && !maps.is_empty(), "{}", agent.log());
        assert!(programs.is_subset(&alive("prog")));
        Self { programs, maps }
    }

    /// Waits until the kernel has none of them any more.
    pub(crate) fn wait_freed(&self, patience: Duration) {
        wait_until(patience, "the kernel frees programs and maps", || {
            let left = self.programs.intersection(&alive("prog")).count()
                + self.maps.intersection(&alive("map")).count();
            Ok((left == 0).then_some(()))
        })
        .unwrap();
    }
}

/// Ids that the kernel has.
fn alive(kind: &str) -> BTreeSet<u64> {
    bpf::alive(kind)
        .unwrap()
        .iter()
        .filter_map(|object| object["id"].as_u64())
        .collect()
}

#[test]
fn kill_leaves_no_program_and_no_map_and_a_second_start_works() {
    let mut agent = Agent::start(&[]).unwrap();
    let held = Held::of(&agent);
    agent.signal(libc::SIGKILL);
    agent.wait().unwrap();
    // At once, while the kernel may still be freeing the first one's.
    let second = Agent::start(&[]).unwrap();
    held.wait_freed(FREED_PATIENCE);
    assert_eq!(second.get("/healthz").unwrap().status, 200);
}

#[test]
fn sigterm_sigint_and_sighup_end_it_cleanly_and_are_told() {
    for (signal, name) in [
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGHUP, "SIGHUP"),
    ] {
        let mut agent = Agent::start(&[]).unwrap();
        agent.signal(signal);
        let status = agent.wait().unwrap();
        assert!(
            status.success(),
            "signal {signal}: {status}\n{}",
            agent.log()
        );
        let log = agent.log();
        assert!(log.contains("ending") && log.contains(name), "{log}");
    }
}

#[test]
fn a_daemon_that_was_started_by_nohup_outlives_its_terminal() {
    let file = NamedTempFile::new().unwrap();
    let binary = binaries::agent().unwrap();
    let mut daemon = Command::new("nohup")
        .arg(binary)
        .args(["run", "--listen", "127.0.0.1:0", "--address-file"])
        .arg(file.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let answer = wait_until(PATIENCE, "the address", || {
        let address = std::fs::read_to_string(file.path())?;
        Ok(address.trim().parse().ok())
    })
    .and_then(|address| {
        signal(&daemon, libc::SIGHUP);
        // A signal that it watched for would have been delivered before the answer to a later request.
        http::get(address, "/metrics", PATIENCE)?;
        http::get(address, "/healthz", PATIENCE)
    });
    signal(&daemon, libc::SIGTERM);
    let status = wait_until(PATIENCE, "the end", || Ok(daemon.try_wait()?));
    if status.is_err() {
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    assert_eq!(answer.unwrap().status, 200);
    assert!(status.unwrap().success());
}

#[test]
fn a_port_alone_and_a_name_are_served_and_asked() {
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    for listen in [":0", "localhost:0"] {
        let agent = Agent::start_on(listen).unwrap();
        let port = agent.address().port();
        let mut hosts = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
        hosts.extend(has_ipv6.then_some(IpAddr::from(Ipv6Addr::LOCALHOST)));
        for host in hosts {
            let answer = http::get(SocketAddr::from((host, port)), "/readyz", PATIENCE).unwrap();
            assert_eq!(answer.status, 200, "{listen} at {host}");
        }
        for server in [format!(":{port}"), format!("localhost:{port}")] {
            let arguments = ["--server", &server, "top", "--json"];
            let output = AgentCommand::run(&arguments, PATIENCE).unwrap();
            assert!(output.status.success(), "{server}: {}", describe(&output));
        }
    }
}

#[test]
fn a_scrape_is_well_formed_and_names_the_agent_itself() {
    let agent = Agent::start(&[]).unwrap();
    let metrics = agent.metrics().unwrap();
    assert_eq!(metrics.malformed, Vec::<String>::new());
    assert!(
        metrics
            .samples
            .iter()
            .any(|sample| sample.name == "ctrscope_container_cpu_seconds_total")
    );
    for sample in &metrics.samples {
        assert!(sample.name.starts_with("ctrscope_"), "{}", sample.name);
    }
    let status = agent.get("/status").unwrap();
    assert_eq!(status.status, 200);
    assert!(status.text().contains("sched"));
}
