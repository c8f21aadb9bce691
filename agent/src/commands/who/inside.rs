//! The way back: from a process id inside a container to that of the host.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{Process, read_process};
use crate::{
    cgroup::{FileReader, Membership, identify, read_memberships, read_status},
    commands::CommandError,
    resolve::{display_name, resolve_container},
    snapshot::{Identity, Snapshot},
    source::SourceError,
    terminal::printable,
};

/// Threads of a container that are looked at.
const MOST_THREADS: usize = 65_536;
/// Ids and names that a message lists.
const MOST_LISTED: usize = 10;

/// Which container is meant.
enum Wanted<'a> {
    /// A container that the daemon knows.
    Known(&'a Identity),
    /// A name, an id or the beginning of one, or a cgroup path, to be found in the cgroup paths.
    Named(&'a str),
}

/// How well a cgroup path fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Prefix,
    Exact,
}

/// A process or thread of the container that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    pid: u32,
    /// From the host's pid namespace down to its own.
    ids: Vec<u32>,
}

impl Wanted<'_> {
    /// The container of these cgroups by its key, if it is one that is meant.
    fn fit(&self, memberships: &[Membership]) -> Option<(Fit, String)> {
        memberships
            .iter()
            .filter_map(|membership| {
                let path = membership.path.as_str();
                match self {
                    Self::Known(identity) if identity.container_id.is_empty() => {
                        let rest = path.strip_prefix(identity.cgroup.as_str())?;
                        let is_inside = rest.is_empty() || rest.starts_with('/');
                        (is_inside && identity.cgroup.len() > 1)
                            .then(|| (Fit::Exact, identity.cgroup.clone()))
                    }
                    // The same id elsewhere can be somebody else's.
                    Self::Known(identity) => identify(path)
                        .may_be(&identify(&identity.cgroup))
                        .then(|| (Fit::Exact, identity.container_id.clone())),
                    Self::Named(query) => {
                        let found = identify(path);
                        let id = found.container_id.as_deref().unwrap_or_default();
                        let bare = |path: &str| path.trim_matches('/').to_owned();
                        let is_exact = found.name == *query
                            || id == *query
                            || bare(&found.owner_path) == bare(query);
                        let fit = if is_exact {
                            Fit::Exact
                        } else if id.starts_with(query) {
                            Fit::Prefix
                        } else {
                            return None;
                        };
                        let outer = found.enclosing.into_iter().chain(found.prefix);
                        let key: Vec<String> = outer.chain([found.entity_key]).collect();
                        Some((fit, key.join(" ")))
                    }
                }
            })
            .max()
    }
}

/// The process or thread of the host that has the id `pid` in the pid namespace of a container. That
/// namespace is the one of its first process: the outermost below the host's in which any of its processes is
/// the first, for some of them may have made further ones, and some may be the engine's (a runtime on its way
/// in, the supervisor of systemd-nspawn). Without such a process it is the outermost that any has, and with the
/// host's own namespace the two ids are one.
///
/// Costs two small files for each process of the host, and one for each thread of the container where
/// `pid` is no process.
///
/// # Errors
///
/// No container or more than one is meant, it has no such process, or `proc_root` cannot be read.
pub(super) fn find_inside(
    proc_root: &Path,
    query: &str,
    pid: u32,
    snapshot: Option<&Snapshot>,
) -> Result<(u32, Process), CommandError> {
    let query = query.trim();
    if query.trim_matches('/').is_empty() {
        return Err(CommandError::Nothing(
            "the container is empty; give a name, an id, or a cgroup path".to_owned(),
        ));
    }
    let wanted = match snapshot.map(|snapshot| (snapshot, resolve_container(snapshot, query))) {
        Some((_, Err(error @ SourceError::AmbiguousContainer { .. }))) => {
            return Err(CommandError::Nothing(error.to_string()));
        }
        Some((snapshot, Ok(index))) => match snapshot.containers.get(index) {
            Some(container) => Wanted::Known(&container.identity),
            None => Wanted::Named(query),
        },
        Some((_, Err(_))) | None => Wanted::Named(query),
    };
    let members = members(proc_root, &wanted, query)?;
    let first = members
        .iter()
        .filter_map(|member| {
            let below = member.ids.iter().skip(1);
            below
                .zip(2..)
                .find_map(|(&id, level)| (id == 1).then_some(level))
        })
        .min();
    let outermost = || members.iter().map(|member| member.ids.len()).min();
    let level: usize = first.or_else(outermost).unwrap_or(1);
    let has_id = |member: &Member| member.ids.get(level - 1) == Some(&pid);
    let found = members
        .iter()
        .find(|member| has_id(member))
        .map(|member| member.pid)
        .or_else(|| thread_of(proc_root, &members, has_id));
    match found {
        Some(found) => Ok((found, read_process(proc_root, found)?)),
        None => {
            let name = match &wanted {
                Wanted::Known(identity) => display_name(identity),
                Wanted::Named(query) => (*query).to_owned(),
            };
            let mut inside: Vec<u32> = members
                .iter()
                .filter_map(|member| member.ids.get(level - 1).copied())
                .collect();
            inside.sort_unstable();
            Err(CommandError::Nothing(format!(
                "no process {pid} inside {}; its processes are {}",
                printable(&name),
                listed(inside.iter().map(ToString::to_string))
            )))
        }
    }
}

/// The processes of the one container that is meant; at least one.
fn members(
    proc_root: &Path,
    wanted: &Wanted<'_>,
    query: &str,
) -> Result<Vec<Member>, CommandError> {
    let mut reader = FileReader::new();
    let mut found: BTreeMap<(Fit, String), Vec<Member>> = BTreeMap::new();
    let pids = numbered(proc_root)
        .map_err(|error| CommandError::io(format!("read {}", proc_root.display()), error))?;
    for pid in pids {
        // One that cannot be read, or has gone, is none of it as far as can be seen.
        let Ok(Some(memberships)) = read_memberships(&mut reader, proc_root, pid) else {
            continue;
        };
        if let Some(key) = wanted.fit(&memberships)
            && let Ok(Some(status)) = read_status(&mut reader, proc_root, pid)
            && !status.namespace_pids.is_empty()
        {
            found.entry(key).or_default().push(Member {
                pid,
                ids: status.namespace_pids,
            });
        }
    }
    let best = found.keys().map(|(fit, _)| *fit).max();
    found.retain(|(fit, _), _| Some(*fit) == best);
    if found.len() > 1 {
        let keys = listed(found.keys().map(|(_, key)| key.clone()));
        return Err(CommandError::Nothing(format!(
            "{} can mean several containers: {}",
            printable(query),
            printable(&keys)
        )));
    }
    found.into_values().next().ok_or_else(|| {
        CommandError::Nothing(format!(
            "no process of this host is in a container {}; `ctrscope top` lists the containers, and \
             names that only a runtime knows need a running daemon",
            printable(query)
        ))
    })
}

/// The first thread of these processes that has the id that is looked for.
fn thread_of(
    proc_root: &Path,
    members: &[Member],
    has_id: impl Fn(&Member) -> bool,
) -> Option<u32> {
    let mut reader = FileReader::new();
    members
        .iter()
        .flat_map(|member| {
            let tasks = proc_root.join(member.pid.to_string()).join("task");
            let threads = numbered(&tasks).unwrap_or_default();
            threads.into_iter().map(move |tid| (tasks.clone(), tid))
        })
        .take(MOST_THREADS)
        .find_map(|(tasks, tid): (PathBuf, u32)| {
            let ids = read_status(&mut reader, &tasks, tid).ok()??.namespace_pids;
            has_id(&Member { pid: tid, ids }).then_some(tid)
        })
}

/// The entries of a directory whose names are numbers, in order.
fn numbered(directory: &Path) -> std::io::Result<Vec<u32>> {
    let mut numbers: Vec<u32> = fs::read_dir(directory)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let rest = items.len().saturating_sub(MOST_LISTED);
    let shown: Vec<String> = items.take(MOST_LISTED).collect();
    let shown = shown.join(", ");
    if rest == 0 {
        shown
    } else {
        format!("{shown} and {rest} more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Container, Kind};

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "01ff456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// A proc file system of these processes: pid, path of the cgroup, ids.
    fn proc_of(processes: &[(u32, &str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (pid, path, ids) in processes {
            let own = folder.path().join(pid.to_string());
            fs::create_dir(&own).unwrap();
            fs::write(own.join("cgroup"), format!("4:cpu:{path}\n0::{path}\n")).unwrap();
            let status = format!("Name:\tx\nTgid:\t{pid}\nNSpid:\t{ids}\n");
            fs::write(own.join("status"), &status).unwrap();
        }
        folder
    }

    fn thread(proc_root: &Path, pid: u32, tid: u32, ids: &str) {
        let own = proc_root.join(format!("{pid}/task/{tid}"));
        fs::create_dir_all(&own).unwrap();
        let status = format!("Name:\tx\nTgid:\t{pid}\nNSpid:\t{ids}\n");
        fs::write(own.join("status"), &status).unwrap();
        // By its own number it is there as well.
        let direct = proc_root.join(tid.to_string());
        if !direct.exists() {
            fs::create_dir(&direct).unwrap();
            fs::copy(
                proc_root.join(format!("{pid}/cgroup")),
                direct.join("cgroup"),
            )
            .unwrap();
            fs::write(direct.join("status"), status).unwrap();
        }
    }

    fn pid_of(proc_root: &Path, query: &str, pid: u32) -> Result<u32, String> {
        find_inside(proc_root, query, pid, None)
            .map(|(pid, _)| pid)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_id_inside_leads_to_the_process_of_the_host() {
        let path = format!("/docker/{ID}");
        let other = format!("/docker/{OTHER}");
        let folder = proc_of(&[
            (1, "/", "1"),
            (100, &path, "100\t1"),
            (107, &path, "107\t8"),
            (120, &format!("{path}/child"), "120\t9\t1"),
            (200, &other, "200\t1"),
            (208, &other, "208\t8"),
        ]);
        let root = folder.path();
        assert_eq!(pid_of(root, ID, 8), Ok(107));
        assert_eq!(
            pid_of(root, "012", 1),
            Ok(100),
            "not the 1 of a further namespace"
        );
        assert_eq!(pid_of(root, "01f", 8), Ok(208));
        assert_eq!(pid_of(root, "012", 9), Ok(120));
        assert_eq!(
            pid_of(root, "012", 77).unwrap_err(),
            "no process 77 inside 012; its processes are 1, 8, 9"
        );
        let several = pid_of(root, "01", 1).unwrap_err();
        assert!(
            several.starts_with("01 can mean several containers: "),
            "{several}"
        );
        let none = pid_of(root, "abc", 1).unwrap_err();
        assert!(
            none.starts_with("no process of this host is in a container abc;"),
            "{none}"
        );
        assert!(
            pid_of(root, " / ", 1)
                .unwrap_err()
                .starts_with("the container is empty")
        );
    }

    #[test]
    fn a_thread_is_found_too() {
        let path = format!("/docker/{ID}");
        let folder = proc_of(&[(100, &path, "100\t1")]);
        thread(folder.path(), 100, 100, "100\t1");
        thread(folder.path(), 100, 105, "105\t6");
        // In a real one the directory of a thread is not listed.
        fs::remove_dir_all(folder.path().join("105")).unwrap();
        let error = pid_of(folder.path(), ID, 6).unwrap_err();
        assert!(
            error.contains("105"),
            "found, and gone when it is read: {error}"
        );
        thread(folder.path(), 100, 105, "105\t6");
        assert_eq!(pid_of(folder.path(), ID, 6), Ok(105));
    }

    #[test]
    fn with_the_hosts_namespace_both_ids_are_one() {
        let folder = proc_of(&[(300, "/mine/web", "300"), (301, "/mine/web/x", "301")]);
        assert_eq!(pid_of(folder.path(), "mine/web", 300), Ok(300));
    }

    #[test]
    fn the_daemon_knows_names() {
        let path = format!("/kubepods/burstable/pod1/{ID}");
        let folder = proc_of(&[(100, &path, "100\t1"), (107, &path, "107\t8")]);
        let identity = Identity {
            namespace: "shop".to_owned(),
            pod: "web-0".to_owned(),
            container: "nginx".to_owned(),
            container_id: ID.to_owned(),
            cgroup: path,
            kind: Kind::Container,
            ..Identity::default()
        };
        let snapshot = Snapshot {
            containers: vec![Container {
                identity: identity.into(),
                ..Container::default()
            }],
            ..Snapshot::default()
        };
        for query in ["nginx", "shop/web-0/nginx", "0123"] {
            let found = find_inside(folder.path(), query, 8, Some(&snapshot)).unwrap();
            assert_eq!(found.0, 107, "{query}");
        }
    }
}
