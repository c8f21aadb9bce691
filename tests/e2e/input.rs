//! Bad input: each a clear message that names the fix, the right status or exit code, and the daemon
//! goes on.

use std::{io::Write as _, net::TcpListener, os::unix::process::CommandExt as _, time::Duration};

use ctrscope_tests::{Agent, AgentCommand, agent::describe};
use tempfile::NamedTempFile;

/// A command that is refused ends at once; loading programs first may take long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn bad_requests_are_refused_and_the_daemon_goes_on() {
    let mut agent = Agent::start(&[]).unwrap();
    let profile = "/api/v1/profile?";
    for (path, status, named) in [
        (
            format!("{profile}container=no-such-container&seconds=1"),
            404,
            "no-such-container",
        ),
        (format!("{profile}seconds=0"), 400, "seconds"),
        (format!("{profile}seconds=100000"), 400, "seconds"),
        (format!("{profile}seconds=-1"), 400, "seconds"),
        (format!("{profile}seconds=many"), 400, "seconds"),
        (format!("{profile}seconds=1&format=gif"), 400, "format"),
        (format!("{profile}seconds=1&type=gpu"), 400, "type"),
        (
            "/api/v1/containers/no-such-container".to_owned(),
            404,
            "no-such-container",
        ),
        ("/no/such/path".to_owned(), 404, ""),
    ] {
        let answer = agent.get(&path).unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(answer.text().contains(named), "{path}: {}", answer.text());
        if !named.is_empty() {
            let json: Result<serde_json::Value, _> = serde_json::from_slice(&answer.body);
            assert!(
                json.is_ok(),
                "{path}: the error is no JSON: {}",
                answer.text()
            );
        }
    }
    assert!(agent.is_alive().unwrap());
    assert_eq!(agent.get("/readyz").unwrap().status, 200);
}

/// Runs `ctrscope`, which must fail and name all of `named`.
fn refused(arguments: &[&str], named: &[&str]) {
    let output = AgentCommand::run(arguments, PATIENCE).unwrap();
    let text = describe(&output);
    assert!(
        !output.status.success(),
        "{arguments:?} was accepted: {text}"
    );
    assert!(
        output.status.code().is_some(),
        "{arguments:?}: {}",
        output.status
    );
    for named in named {
        assert!(
            text.contains(named),
            "{arguments:?} does not name {named:?}: {text}"
        );
    }
    assert!(!text.contains("panicked"), "{arguments:?}: {text}");
}

#[test]
fn an_unknown_configuration_key_is_named_with_its_line() {
    let mut file = NamedTempFile::new().unwrap();
    write!(file, "listen = \"127.0.0.1:0\"\nretenton = \"5m\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    refused(&["run", "--config", path], &["retenton", "2"]);
    refused(
        &["run", "--config", "/no/such/file.toml"],
        &["/no/such/file.toml"],
    );
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(&["run", "--listen", &address], &[&address, "--listen"]);
}

#[test]
fn bad_flags_are_named() {
    refused(&["run", "--listen", "nonsense"], &["listen"]);
    refused(&["run", "--retention", "soon"], &["retention"]);
    refused(&["run", "--no-such-flag"], &["--no-such-flag"]);
    refused(&["no-such-command"], &["no-such-command"]);
}

#[test]
fn a_bad_btf_file_is_named() {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(b"this is no BTF").unwrap();
    let path = file.path().to_str().unwrap();
    refused(&["run", "--listen", "127.0.0.1:0", "--btf", path], &[path]);
    refused(
        &["run", "--listen", "127.0.0.1:0", "--btf", "/no/such/btf"],
        &["/no/such/btf"],
    );
}

#[test]
fn an_unreadable_cgroup_mount_is_named() {
    let path = "/no/such/cgroup";
    refused(
        &["run", "--listen", "127.0.0.1:0", "--cgroup-root", path],
        &[path],
    );
}

#[test]
fn without_root_it_says_so() {
    let mut command = AgentCommand::command().unwrap();
    // The user `nobody` on every distribution; it need not exist. The binary must be readable to it,
    // so it is copied to where anyone may go.
    let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let copy = directory.path().join("ctrscope");
    std::fs::copy(command.get_program(), &copy).unwrap();
    command = std::process::Command::new(copy);
    let output = command
        .args(["run", "--listen", "127.0.0.1:0"])
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let text = describe(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("root") || text.contains("CAP_BPF"), "{text}");
}
