//! `ctrscope who`: from a process id of the host to its container. By `/proc` alone; a daemon, where
//! one runs, adds the names that only it knows.

use std::{fs, io, io::Write, path::Path};

use serde::Serialize;

use super::{CommandError, Outcome, host};
use crate::{
    cli::WhoArgs,
    config::Config,
    resolve::display_name,
    snapshot::{Container, Kind, Snapshot},
    terminal::printable,
};

/// What a cgroup path says about its container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupIdentity {
    /// What it is.
    pub kind: Kind,
    /// Runtime; empty where unknown.
    pub runtime: String,
    /// The runtime's id; empty where there is none.
    pub container_id: String,
    /// Name as far as the path has one.
    pub name: String,
    /// The container's own cgroup: the path, or the ancestor of it that the runtime made.
    pub owner_path: String,
}

/// What the files of a process say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Process {
    tgid: i32,
    command: String,
    /// Its thread id in its innermost PID namespace; `None` where the kernel does not say.
    own_pid: Option<i32>,
    /// Cgroup path of each hierarchy, with its controllers (empty for v2).
    cgroups: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Answer {
    pid: i32,
    tgid: i32,
    command: String,
    container: String,
    container_pid: Option<i32>,
    kind: Kind,
    runtime: String,
    container_id: String,
    image: String,
    cgroups: Vec<String>,
}

pub(super) fn who(
    arguments: &WhoArgs,
    config: &Config,
    snapshot: Option<&Snapshot>,
    out: &mut dyn Write,
) -> Result<Outcome, CommandError> {
    let process = read_process(&config.proc_root, arguments.pid)?;
    let answer = answer(arguments.pid, process, snapshot, host::identify);
    let text = if arguments.json {
        let json = serde_json::to_string_pretty(&answer)
            .map_err(|error| CommandError::output(error.into()))?;
        format!("{json}\n")
    } else {
        render(&answer)
    };
    out.write_all(text.as_bytes())
        .map_err(CommandError::output)?;
    Ok(Outcome::Done)
}

fn read_process(proc_root: &Path, pid: i32) -> Result<Process, CommandError> {
    let folder = proc_root.join(pid.to_string());
    let read = |name: &str| {
        fs::read(folder.join(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => CommandError::Nothing(format!(
                    "no process {pid} on this host; `who` wants the process id as the host sees it \
                     (in a container, run ctrscope with the host's PID namespace)"
                )),
                _ => CommandError::io(format!("read {}", folder.join(name).display()), error),
            })
    };
    Ok(parse_process(&read("status")?, &read("cgroup")?))
}

fn parse_process(status: &str, cgroup: &str) -> Process {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    Process {
        tgid: field("Tgid")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        command: field("Name").unwrap_or_default().to_owned(),
        own_pid: field("NSpid")
            .and_then(|text| text.split_ascii_whitespace().last())
            .and_then(|text| text.parse().ok()),
        cgroups: cgroup
            .lines()
            .filter_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
            })
            .collect(),
    }
}

/// Joins what `/proc` says with what the cgroup path means and with what the daemon knows.
fn answer(
    pid: i32,
    process: Process,
    snapshot: Option<&Snapshot>,
    identify: impl Fn(&str) -> Option<CgroupIdentity>,
) -> Answer {
    let identity = process
        .cgroups
        .iter()
        .filter_map(|(_, path)| identify(path))
        .max_by_key(|identity| !identity.container_id.is_empty());
    let known = snapshot.and_then(|snapshot| find(snapshot, &process, identity.as_ref()));
    let identity = identity.unwrap_or_default();
    let mut answer = Answer {
        pid,
        tgid: process.tgid,
        command: process.command,
        container: identity.name,
        container_pid: process.own_pid,
        kind: identity.kind,
        runtime: identity.runtime,
        container_id: identity.container_id,
        image: String::new(),
        cgroups: process
            .cgroups
            .into_iter()
            .map(|(controllers, path)| match controllers.as_str() {
                "" => path,
                _ => format!("{controllers}:{path}"),
            })
            .collect(),
    };
    if let Some(Container { identity, .. }) = known {
        answer.container = display_name(identity);
        answer.kind = identity.kind;
        answer.runtime = identity.runtime.clone();
        answer.container_id = identity.container_id.clone();
        answer.image = identity.image.clone();
    }
    answer
}

/// The container of a snapshot that has the process: by id, or by the longest cgroup path that leads
/// to it.
fn find<'a>(
    snapshot: &'a Snapshot,
    process: &Process,
    identity: Option<&CgroupIdentity>,
) -> Option<&'a Container> {
    let by_id = identity
        .filter(|identity| !identity.container_id.is_empty())
        .and_then(|identity| {
            snapshot
                .containers
                .iter()
                .find(|container| container.identity.container_id == identity.container_id)
        });
    by_id.or_else(|| {
        let leads_to = |cgroup: &str| {
            !cgroup.trim_matches('/').is_empty()
                && process.cgroups.iter().any(|(_, path)| {
                    path.strip_prefix(cgroup)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                })
        };
        snapshot
            .containers
            .iter()
            .filter(|container| container.exited_at_unix_ms.is_none())
            .filter(|container| leads_to(&container.identity.cgroup))
            .max_by_key(|container| container.identity.cgroup.len())
    })
}

fn render(answer: &Answer) -> String {
    let or_dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            printable(text).into_owned()
        }
    };
    let own_pid = answer.container_pid.map(|pid| pid.to_string());
    let kind = match answer.kind {
        Kind::Container => "container",
        Kind::Sandbox => "sandbox of a pod",
        Kind::Service => "systemd unit",
        Kind::Cgroup => "plain cgroup",
        Kind::Other => "summed with others",
    };
    let mut text = String::new();
    for (title, value) in [
        ("process", format!("{} ({})", answer.pid, answer.command)),
        ("tgid", answer.tgid.to_string()),
        ("container", answer.container.clone()),
        ("pid inside", own_pid.unwrap_or_default()),
        ("kind", kind.to_owned()),
        ("runtime", answer.runtime.clone()),
        ("id", answer.container_id.clone()),
        ("image", answer.image.clone()),
    ] {
        text.push_str(&format!("{title:<12}{}\n", or_dash(&value)));
    }
    for (position, cgroup) in answer.cgroups.iter().enumerate() {
        let title = if position == 0 { "cgroup" } else { "" };
        text.push_str(&format!("{title:<12}{}\n", or_dash(cgroup)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Identity;

    // Of a runc container on kernel 5.15, shortened.
    const STATUS: &str =
        "Name:\tnginx\nUmask:\t0022\nTgid:\t4242\nPid:\t4243\nNSpid:\t4243\t17\t8\n";
    const CGROUP: &str = "5:cpu,cpuacct:/docker/beef03/worker\n0::/docker/beef03/worker\n";

    fn identify(path: &str) -> Option<CgroupIdentity> {
        path.starts_with("/docker/").then(|| CgroupIdentity {
            kind: Kind::Container,
            runtime: "docker".to_owned(),
            container_id: "beef03".to_owned(),
            name: "beef03".to_owned(),
            owner_path: "/docker/beef03".to_owned(),
        })
    }

    fn snapshot(id: &str) -> Snapshot {
        Snapshot {
            containers: vec![Container {
                identity: Identity {
                    container: "web".to_owned(),
                    container_id: id.to_owned(),
                    cgroup: "/docker/beef03".to_owned(),
                    runtime: "docker".to_owned(),
                    image: "nginx:1".to_owned(),
                    kind: Kind::Container,
                    ..Identity::default()
                },
                ..Container::default()
            }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_own_pid_is_that_of_the_innermost_namespace() {
        let process = parse_process(STATUS, CGROUP);
        assert_eq!(process.own_pid, Some(8));
        assert_eq!(process.tgid, 4242);
        assert_eq!(process.cgroups.len(), 2);
        assert_eq!(parse_process("", ""), Process::default());
    }

    #[test]
    fn the_path_alone_names_the_container_and_the_daemon_knows_better() {
        let process = parse_process(STATUS, CGROUP);
        let alone = answer(4243, process.clone(), None, identify);
        assert_eq!(alone.container, "beef03");
        let snapshot = snapshot("beef03");
        let text = render(&answer(4243, process, Some(&snapshot), identify));
        assert_eq!(
            text,
            "process     4243 (nginx)
tgid        4242
container   web
pid inside  8
kind        container
runtime     docker
id          beef03
image       nginx:1
cgroup      cpu,cpuacct:/docker/beef03/worker
            /docker/beef03/worker
"
        );
    }

    #[test]
    fn a_child_cgroup_belongs_to_its_container_even_without_an_id() {
        let process = parse_process(STATUS, CGROUP);
        let snapshot = snapshot("");
        let found = answer(4243, process.clone(), Some(&snapshot), |_| None);
        assert_eq!(found.container, "web");
        let mut elsewhere = process;
        elsewhere.cgroups = vec![(String::new(), "/docker/beef03x".to_owned())];
        let found = answer(4243, elsewhere, Some(&snapshot), |_| None);
        assert_eq!(found.container, "");
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = read_process(folder.path(), 7).expect_err("none");
        assert!(
            error.to_string().starts_with("no process 7 on this host"),
            "{error}"
        );
    }
}
