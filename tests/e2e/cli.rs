//! The commands, against a daemon and without one.

mod flame;
mod output;

use std::{
    fs,
    net::TcpListener,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use ctrscope_tests::{
    Agent, AgentCommand, Container, ContainerSpec, Group, agent::describe, binaries, skip,
    wait_until,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::observe::{group, wait_seen};

/// Loading programs may take long on a busy machine, recording some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the commands get their numbers from.
pub(crate) enum Source<'a> {
    Daemon(&'a Agent),
    Local,
}

impl Source<'_> {
    /// Runs a command to its end.
    fn run(&self, arguments: &[&str]) -> Output {
        let server;
        let mut all = match self {
            Self::Daemon(agent) => {
                server = agent.address().to_string();
                vec!["--server", server.as_str()]
            }
            Self::Local => vec!["--local"],
        };
        all.extend(arguments);
        AgentCommand::run(&all, PATIENCE).unwrap()
    }

    /// Runs a command that must succeed; gives its standard output.
    pub(crate) fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            describe(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Cores that `top` says a container uses.
pub(crate) fn cores(source: &Source, container: &Container) -> f64 {
    let name = container.cgroup().trim_start_matches('/');
    let top = source.stdout(&["top"]);
    let mut lines = top.lines();
    assert!(lines.next().unwrap().starts_with("CONTAINER"), "{top}");
    assert!(!top.contains('\x1b'), "escape codes without a terminal");
    let row = lines.find(|line| line.starts_with(name));
    let row = row.unwrap_or_else(|| panic!("no row of {name}:\n{top}"));
    row.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What `runqlat` says of a second of a container.
pub(crate) fn latencies(source: &Source, container: &Container) -> Value {
    let name = container.cgroup().trim_start_matches('/');
    let runqlat = source.stdout(&["runqlat", "1", "1", "-c", name, "--json"]);
    let json: Value = serde_json::from_str(runqlat.lines().next().unwrap()).unwrap();
    assert_eq!(json["container"], name, "{json}");
    json
}

/// Two threads that compute on one CPU, so that one of them always waits.
pub(crate) fn burning(group: &Arc<Group>) -> Container {
    let burn = ["burn", "--threads", "2", "--cpu", "0"];
    Container::start(group, &ContainerSpec::new("burning", &burn)).unwrap()
}

/// All commands that measure, on a container that burns. What one of them says of a short time on a busy
/// machine may be nothing; then it is asked again.
fn commands_answer(source: &Source, container: &Container) {
    let name = container.cgroup().trim_start_matches('/');

    wait_until(PATIENCE, "cores in use", || {
        Ok((cores(source, container) > 0.0).then_some(()))
    })
    .unwrap();
    wait_until(PATIENCE, "latencies", || {
        let json = latencies(source, container);
        assert!(json["seconds"].as_f64().unwrap() > 0.0, "{json}");
        Ok((json["count"].as_u64().unwrap() > 0).then_some(()))
    })
    .unwrap();

    let biolat = source.stdout(&["biolat", "1", "1"]);
    assert!(biolat.contains("whole host"), "{biolat}");

    let directory = TempDir::new().unwrap();
    let file = directory.path().join("flame.svg");
    let path = file.to_str().unwrap();
    let output = wait_until(PATIENCE, "a flame graph with the hot function", || {
        let output = source.run(&["flame", "-c", name, "--seconds", "1", "-o", path]);
        assert!(output.status.success(), "{}", describe(&output));
        let svg = fs::read_to_string(&file)?;
        assert!(svg.contains("<svg"), "{svg}");
        Ok(svg.contains("hot_fifty").then_some(output))
    })
    .unwrap();
    let said = describe(&output);
    assert!(said.contains(path) && said.contains("samples"), "{said}");
    assert!(
        !said.contains('\r') && !said.contains('\x1b'),
        "a progress bar: {said}"
    );

    let short = &name[..name.len() - 1];
    for command in [
        &["runqlat", "1", "1", "-c", short][..],
        &["flame", "--seconds", "1", "-c", short, "-o", path],
    ] {
        let output = source.run(command);
        let said = describe(&output);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(
            said.contains(name),
            "{command:?} names nothing near: {said}"
        );
    }
}

#[test]
fn commands_ask_the_daemon() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let container = burning(&group);
    wait_seen(&agent, &container);
    commands_answer(&Source::Daemon(&agent), &container);
}

#[test]
fn commands_measure_by_themselves() {
    let group = group();
    let container = burning(&group);
    commands_answer(&Source::Local, &container);
    // Where no daemon answers, without being told.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let output = AgentCommand::run(&["--server", &address, "top"], PATIENCE).unwrap();
    assert!(output.status.success(), "{}", describe(&output));
    assert!(describe(&output).contains(container.cgroup().trim_start_matches('/')));
}

#[test]
fn who_names_the_container_of_a_process() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let container = Container::start(&group, &ContainerSpec::new("mine", &["burn"])).unwrap();
    wait_seen(&agent, &container);
    let pid = container.pid().to_string();
    for source in [Source::Daemon(&agent), Source::Local] {
        let json: Value = serde_json::from_str(&source.stdout(&["who", &pid, "--json"])).unwrap();
        let name = container.cgroup().trim_start_matches('/');
        assert_eq!(json["container"], name, "{json}");
        // It is process 1 of its pid namespace.
        assert_eq!(json["container_pid"], 1, "{json}");
        assert!(source.stdout(&["who", &pid]).contains(name));
        // And back.
        let back = source.stdout(&["who", "--container", name, "1", "--json"]);
        let back: Value = serde_json::from_str(&back).unwrap();
        assert_eq!(back["pid"].to_string(), pid, "{back}");
        assert_eq!(back["container"], name, "{back}");
    }
    let output = Source::Daemon(&agent).run(&["who", "2147483647"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        describe(&output).contains("2147483647"),
        "{}",
        describe(&output)
    );
}

#[test]
fn check_says_what_this_host_offers() {
    let output = Source::Local.run(&["check", "--json"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(findings.iter().any(|finding| finding["subject"] == "btf"));
    let missing = findings
        .iter()
        .any(|finding| finding["status"] == "missing");
    assert_eq!(output.status.code(), Some(i32::from(missing)));
    for finding in findings.iter().filter(|finding| finding["status"] != "ok") {
        assert!(finding["fix"].is_string(), "no fix: {finding}");
    }
    let bad = Source::Local.run(&["check", "--btf", "/no/such/btf"]);
    assert_eq!(bad.status.code(), Some(1), "{}", describe(&bad));
    assert!(describe(&bad).contains("/no/such/btf"));
}

/// A tmux server of its own; ended on drop.
struct Tmux(String);

impl Tmux {
    fn start(command: &str) -> Option<Self> {
        let tmux = Self(format!("ctrscope-test-{}", std::process::id()));
        let arguments = [
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "180",
            "-y",
            "40",
        ];
        let output = tmux.command().args(arguments).arg(command).output().ok()?;
        assert!(output.status.success(), "{}", describe(&output));
        Some(tmux)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.0]);
        command
    }

    /// What the terminal shows.
    fn screen(&self) -> String {
        let output = self
            .command()
            .args(["capture-pane", "-p"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether a program has the alternate screen.
    fn is_alternate(&self) -> bool {
        let arguments = ["display-message", "-p", "#{alternate_on}"];
        let output = self.command().args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim() == "1"
    }

    fn press(&self, key: &str) {
        assert!(
            self.command()
                .args(["send-keys", key])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").output();
    }
}

#[test]
fn the_live_table_shows_a_container_and_gives_the_terminal_back() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let container = Container::start(&group, &ContainerSpec::new("live", &["burn"])).unwrap();
    wait_seen(&agent, &container);
    let name = container.cgroup().trim_start_matches('/');
    // The shell stays, so that what it shows afterwards can be seen.
    let command = format!(
        "echo before; {} --server {} top; echo ended with $?; sleep 60",
        binaries::agent().unwrap().display(),
        agent.address()
    );
    let Some(tmux) = Tmux::start(&command) else {
        skip("tmux is not installed");
        return;
    };
    let wait_for = |what: &str, shown: &dyn Fn(&str) -> bool| {
        let seen = wait_until(PATIENCE, what, || {
            let screen = tmux.screen();
            Ok(shown(&screen).then_some(screen))
        });
        seen.unwrap_or_else(|error| panic!("{error:#}:\n{}", tmux.screen()))
    };
    wait_for("the row", &|screen| screen.contains(name));
    assert!(tmux.is_alternate());
    tmux.press("n");
    wait_for("the row, sorted by name", &|screen| screen.contains(name));
    tmux.press("q");
    let screen = wait_for("the end", &|screen| screen.contains("ended with 0"));
    assert!(!tmux.is_alternate());
    assert!(
        screen.contains("before") && !screen.contains(name),
        "{screen}"
    );
}

/// As bash itself asks, with the script that the binary gives it.
#[test]
fn bash_completes_names_of_containers() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let work = ["burn", "--seconds", "600"];
    let container = Container::start(&group, &ContainerSpec::new("typed", &work)).unwrap();
    wait_seen(&agent, &container);
    let name = container.cgroup().trim_start_matches('/');
    let binary = binaries::agent().unwrap();
    let script = "source <(COMPLETE=bash ctrscope); COMP_WORDS=(ctrscope \"$@\"); COMP_CWORD=$#; \
        COMP_TYPE=9; _clap_complete_ctrscope ctrscope \"${!#}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let complete = |words: &[&str]| -> Vec<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let folder = binary.parent().unwrap().display();
        let output = Command::new("bash")
            .args(["-c", script, "bash"])
            .args(words)
            .env("PATH", format!("{folder}:{path}"))
            .env("CTRSCOPE_SERVER", agent.address().to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", describe(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    let typed = &name[..name.len() - 2];
    for words in [
        &["runqlat", "-c", typed][..],
        &["flame", "--container", typed],
        &["who", "-c", typed],
        &["diagnose", typed],
        &["neighbours", typed],
    ] {
        assert_eq!(complete(words), [name], "{words:?}");
    }
    assert_eq!(complete(&["runq"]), ["runqlat"]);
}
