//! Where commands write: an output that is full, and a terminal that takes no escape codes.

use std::{
    fs::{File, OpenOptions},
    process::{Output, Stdio},
};

use ctrscope_tests::{
    Agent, AgentCommand, Container, ContainerSpec, agent::describe, binaries, skip, wait_until,
};
use tempfile::NamedTempFile;

use super::{PATIENCE, Tmux};
use crate::observe::{group, wait_seen};

/// Written between the commands on a dumb terminal and those on another, and after them.
const DUMB_END: &str = "end-of-dumb";
const END: &str = "end-of-all";

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// Runs a command with these outputs to its end.
fn run(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Output {
    let mut command = AgentCommand::command().unwrap();
    command.args(arguments).stdin(Stdio::null());
    command.stdout(stdout).stderr(stderr).output().unwrap()
}

#[test]
fn a_full_output_is_an_error_of_every_command() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let container = Container::start(&group, &ContainerSpec::new("full", &["burn"])).unwrap();
    wait_seen(&agent, &container);
    let name = container.cgroup().trim_start_matches('/');
    let server = agent.address().to_string();
    let pid = container.pid().to_string();
    let flame = ["flame", "--seconds", "1", "-c", name, "-o"];
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["run", "--help"],
        &["check"],
        &["check", "--json"],
        &["who", &pid],
        &["who", &pid, "--json"],
        &["top"],
        &["top", "--json"],
        &["diagnose"],
        &["diagnose", name],
        &["diagnose", "--json"],
        &["neighbours"],
        &["neighbours", name],
        &["neighbours", "--json"],
        &["runqlat", "1", "1"],
        &["biolat", "1", "1", "--json"],
        &[&flame[..], &["-"]].concat(),
    ] {
        let all = [&["--server", &server], arguments].concat();
        let output = run(&all, full().into(), Stdio::piped());
        let said = describe(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("standard output"), "{arguments:?}: {said}");
        assert!(said.contains("No space left"), "{arguments:?}: {said}");
    }
    let all = [&["--server", &server], &flame[..], &["/dev/full"]].concat();
    let output = run(&all, Stdio::piped(), Stdio::piped());
    let said = describe(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("write /dev/full"), "{said}");
    // What cannot be said is no reason to fail, and none to end.
    let file = NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let all = [&["--server", &server], &flame[..], &[path]].concat();
    let output = run(&all, Stdio::piped(), full().into());
    assert!(output.status.success(), "{output:?}");
    assert!(file.as_file().metadata().unwrap().len() > 0);
}

#[test]
fn a_daemon_whose_log_is_full_serves() {
    let file = NamedTempFile::new().unwrap();
    let mut daemon = AgentCommand::command()
        .unwrap()
        .args(["run", "--listen", "127.0.0.1:0", "--address-file"])
        .arg(file.path())
        .stdout(Stdio::null())
        .stderr(full())
        .spawn()
        .unwrap();
    let served = wait_until(PATIENCE, "the address", || {
        let address = std::fs::read_to_string(file.path())?;
        Ok(address.trim().parse().ok())
    })
    .and_then(|address| ctrscope_tests::http::get(address, "/healthz", PATIENCE));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(served.unwrap().status, 200);
}

#[test]
fn a_dumb_terminal_gets_what_a_pipe_gets() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let container = Container::start(&group, &ContainerSpec::new("dumb", &["burn"])).unwrap();
    wait_seen(&agent, &container);
    let name = container.cgroup().trim_start_matches('/');
    let directory = tempfile::tempdir().unwrap();
    let svg = directory.path().join("x.svg");
    let raw = directory.path().join("raw");
    // Both in one terminal: first as it is said of it, then as on others.
    let script = format!(
        "read line; c() {{ {} --server {} \"$@\"; }}; \
         all() {{ c top; c check; c runqlat 1 1; c diagnose; c flame --seconds 1 -c {name} -o {}; }}; \
         export TERM=dumb; all; echo {DUMB_END}; export TERM=xterm; all; echo {END}; sleep 60",
        binaries::agent().unwrap().display(),
        agent.address(),
        svg.display()
    );
    let Some(tmux) = Tmux::start(&format!("bash -c '{script}'")) else {
        skip("tmux is not installed");
        return;
    };
    let pipe = format!("cat > {}", raw.display());
    let output = tmux.command().args(["pipe-pane", &pipe]).output().unwrap();
    assert!(output.status.success(), "{}", describe(&output));
    tmux.press("Enter");
    let text = wait_until(PATIENCE, "the end of the commands", || {
        // The live table ends by a key.
        if tmux.is_alternate() {
            tmux.press("q");
        }
        let text = String::from_utf8_lossy(&std::fs::read(&raw).unwrap_or_default()).into_owned();
        Ok(text.contains(END).then_some(text))
    });
    let text = text.unwrap_or_else(|error| panic!("{error:#}:\n{}", tmux.screen()));
    let (dumb, other) = text.split_once(DUMB_END).unwrap();
    assert!(!dumb.contains('\x1b'), "{dumb:?}");
    assert!(dumb.contains(name) && dumb.contains("samples"), "{dumb}");
    assert!(svg.exists());
    // The same commands do write codes on another.
    assert!(other.contains('\x1b'), "{other:?}");
}
