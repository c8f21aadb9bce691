//! `ctrscope who`: from a process id of the host to its container, and from one inside a container to
//! that of the host. By `/proc` alone; a daemon, where one runs, adds the names that only it knows.

mod inside;

use std::{io::Write, path::Path};

use serde::Serialize;

use super::{CommandError, Outcome};
use crate::{
    cgroup::{
        CgroupError, FileReader, Membership, PathIdentity, ProcessStatus, identify,
        read_memberships, read_status,
    },
    cli::WhoArgs,
    config::Config,
    resolve::display_name,
    snapshot::{Container, Kind, Snapshot},
    terminal::printable,
};

/// What the files of a process say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Process {
    status: ProcessStatus,
    cgroups: Vec<Membership>,
}

impl Process {
    /// Its cgroup in the hierarchy of the cpu controller.
    fn counted(&self) -> Option<&Membership> {
        let v1 = self.cgroups.iter().find(|one| one.has_v1_controller("cpu"));
        v1.or_else(|| self.cgroups.iter().find(|one| one.hierarchy == 0))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Answer {
    pid: u32,
    tgid: Option<u32>,
    /// Set where what was asked for is a thread and no process.
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u32>,
    command: String,
    namespace: String,
    pod: String,
    container: String,
    container_pid: Option<u32>,
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
    let pid = u32::try_from(arguments.pid)
        .map_err(|_| CommandError::Nothing(format!("no process {}", arguments.pid)))?;
    let (pid, process) = match &arguments.container {
        Some(container) => inside::find_inside(&config.proc_root, container, pid, snapshot)?,
        None => (pid, read_process(&config.proc_root, pid)?),
    };
    let answer = answer(pid, process, snapshot);
    let text = if arguments.json {
        let json = serde_json::to_string_pretty(&answer)
            .map_err(|error| CommandError::output(error.into()))?;
        format!("{json}\n")
    } else {
        render(&answer)
    };
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(CommandError::output)?;
    Ok(Outcome::Done)
}

fn read_process(proc_root: &Path, pid: u32) -> Result<Process, CommandError> {
    let mut reader = FileReader::new();
    let failed = |error: CgroupError| {
        CommandError::io(format!("read process {pid}"), std::io::Error::other(error))
    };
    let status = read_status(&mut reader, proc_root, pid).map_err(failed)?;
    let cgroups = read_memberships(&mut reader, proc_root, pid).map_err(failed)?;
    match (status, cgroups) {
        (Some(status), Some(cgroups)) => Ok(Process { status, cgroups }),
        _ => Err(CommandError::Nothing(format!(
            "no process {pid} on this host; `who` wants the process id as the host sees it (in a \
             container, run ctrscope with the host's PID namespace)"
        ))),
    }
}

/// Joins what `/proc` says with what the cgroup path means and with what the daemon knows.
fn answer(pid: u32, process: Process, snapshot: Option<&Snapshot>) -> Answer {
    // An id beats a unit beats a plain cgroup; the root says nothing.
    let counted = process.counted();
    let identity = process
        .cgroups
        .iter()
        .filter_map(|membership| {
            let identity = identify(&membership.path);
            // Without an id a cgroup is what the cpu controller sees of it: that is what is counted.
            let says = identity.container_id.is_some() || Some(membership) == counted;
            (says && identity.kind != Kind::Other).then_some(identity)
        })
        .max_by_key(|identity| {
            (
                identity.container_id.is_some(),
                identity.kind != Kind::Cgroup,
            )
        });
    let known = snapshot.and_then(|snapshot| find(snapshot, &process, identity.as_ref()));
    let mut answer = Answer {
        pid,
        tgid: process.status.tgid,
        tid: process
            .status
            .tgid
            .is_some_and(|tgid| tgid != pid)
            .then_some(pid),
        container_pid: process.status.container_pid(),
        command: process.status.name,
        namespace: String::new(),
        pod: String::new(),
        container: String::new(),
        kind: Kind::Other,
        runtime: String::new(),
        container_id: String::new(),
        image: String::new(),
        cgroups: process
            .cgroups
            .into_iter()
            .map(|membership| match membership.controllers.join(",") {
                controllers if controllers.is_empty() => membership.path,
                controllers => format!("{controllers}:{}", membership.path),
            })
            .collect(),
    };
    if let Some(identity) = identity {
        answer.container = identity.name;
        answer.kind = identity.kind;
        answer.runtime = identity.runtime.to_owned();
        answer.container_id = identity.container_id.unwrap_or_default();
    }
    if let Some(Container { identity, .. }) = known {
        answer.container = display_name(identity);
        answer.namespace.clone_from(&identity.namespace);
        answer.pod.clone_from(&identity.pod);
        answer.kind = identity.kind;
        answer.runtime = identity.runtime.clone();
        answer.container_id = identity.container_id.clone();
        answer.image = identity.image.clone();
    }
    answer
}

/// The container of a snapshot that has the process: the one with the longest path that leads to its cgroup
/// in the hierarchy that is counted, else by the id in a path, for the path can differ between hierarchies.
fn find<'a>(
    snapshot: &'a Snapshot,
    process: &Process,
    identity: Option<&PathIdentity>,
) -> Option<&'a Container> {
    let leads_to = |cgroup: &str| {
        !cgroup.trim_matches('/').is_empty()
            && process.counted().is_some_and(|membership| {
                membership
                    .path
                    .strip_prefix(cgroup)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    };
    let by_path = snapshot
        .containers
        .iter()
        .filter(|container| container.exited_at_unix_ms.is_none())
        .filter(|container| leads_to(&container.identity.cgroup))
        .max_by_key(|container| container.identity.cgroup.len());
    by_path.or_else(|| {
        let identity = identity.filter(|one| one.container_id.is_some())?;
        let is_it = |one: &&Container| identify(&one.identity.cgroup).may_be(identity);
        snapshot.containers.iter().find(is_it)
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
    let number = |number: Option<u32>| number.map(|one| one.to_string()).unwrap_or_default();
    let (process, thread) = match (answer.tid, answer.tgid) {
        (Some(tid), Some(tgid)) => (tgid, number(Some(tid))),
        _ => (answer.pid, String::new()),
    };
    let kind = match answer.kind {
        Kind::Container => "container",
        Kind::Sandbox => "sandbox of a pod",
        Kind::Service => "systemd unit",
        Kind::Cgroup => "plain cgroup",
        Kind::Other => "summed with others",
    };
    let mut text = String::new();
    for (title, value) in [
        ("process", format!("{process} ({})", answer.command)),
        ("thread", thread),
        ("container", answer.container.clone()),
        ("pod", answer.pod.clone()),
        ("id inside", number(answer.container_pid)),
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
    use std::sync::Arc;

    use super::*;
    use crate::{cgroup::parse_memberships, snapshot::Identity};

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// A thread of a container whose path has an id, or of one whose path has none.
    fn process(path: &str) -> Process {
        Process {
            status: ProcessStatus {
                name: "nginx".to_owned(),
                tgid: Some(4242),
                namespace_pids: vec![4243, 17, 8],
            },
            cgroups: parse_memberships(&format!("5:cpu,cpuacct:{path}\n0::{path}\n")),
        }
    }

    fn snapshot(id: &str, cgroup: &str) -> Snapshot {
        Snapshot {
            containers: vec![Container {
                identity: Arc::new(Identity {
                    container: "web".to_owned(),
                    container_id: id.to_owned(),
                    cgroup: cgroup.to_owned(),
                    runtime: "docker".to_owned(),
                    image: "nginx:1".to_owned(),
                    kind: Kind::Container,
                    ..Identity::default()
                }),
                ..Container::default()
            }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_path_alone_names_the_container_and_the_daemon_knows_better() {
        let path = format!("/docker/{ID}/worker");
        let alone = answer(4243, process(&path), None);
        assert_eq!(alone.container, "0123456789ab");
        assert_eq!(alone.container_pid, Some(8));
        let snapshot = snapshot(ID, &format!("/docker/{ID}"));
        let text = render(&answer(4243, process(&path), Some(&snapshot)));
        assert_eq!(
            text,
            format!(
                "process     4242 (nginx)
thread      4243
container   web
pod         -
id inside   8
kind        container
runtime     docker
id          {ID}
image       nginx:1
cgroup      cpu,cpuacct:{path}
            {path}
"
            )
        );
    }

    #[test]
    fn an_id_in_a_users_tree_is_not_the_systems_container() {
        let manager = "/user.slice/user-1000.slice/user@1000.service";
        let path = format!("{manager}/docker-{ID}.scope");
        let of_the_system = snapshot(ID, &format!("/system.slice/docker-{ID}.scope"));
        let found = answer(4243, process(&path), Some(&of_the_system));
        assert_eq!(found.container, "user@1000.service/0123456789ab");
        // Another path in another hierarchy is.
        let elsewhere = format!("/docker/{ID}");
        let found = answer(4243, process(&elsewhere), Some(&of_the_system));
        assert_eq!((found.container.as_str(), found.tid), ("web", Some(4243)));
    }

    #[test]
    fn a_child_cgroup_belongs_to_its_container_even_without_an_id() {
        let snapshot = snapshot("", "/mine/web");
        let found = answer(4243, process("/mine/web/worker"), Some(&snapshot));
        assert_eq!(found.container, "web");
        let found = answer(4243, process("/mine/webx"), Some(&snapshot));
        assert_eq!(found.container, "mine/webx");
    }

    #[test]
    fn the_hierarchy_of_the_cpu_controller_decides() {
        let session = "/user.slice/user-1000.slice/session-3.scope";
        let both = |unified: &str| Process {
            cgroups: parse_memberships(&format!(
                "5:cpu,cpuacct:/mine/web\n1:name=systemd:{session}\n0::{unified}\n"
            )),
            ..Process::default()
        };
        let mut snapshot = snapshot("", "/mine/web");
        snapshot.containers.push(Container {
            identity: Arc::new(Identity {
                container: "session-3.scope".to_owned(),
                cgroup: session.to_owned(),
                kind: Kind::Service,
                ..Identity::default()
            }),
            ..Container::default()
        });
        for unified in ["/", session] {
            assert_eq!(answer(7, both(unified), None).container, "mine/web");
            assert_eq!(answer(7, both(unified), Some(&snapshot)).container, "web");
        }
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
