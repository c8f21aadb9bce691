//! Network namespaces of containers, each read once, by one of its processes.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::kept;
use crate::{
    cgroup::{FileReader, Mount, processes},
    host::{NetworkSample, read_namespace, read_namespace_id},
};

/// Cgroups that are looked through for a process of a container that has none in its own.
const MOST_LOOKED_AT: usize = 16;

/// Reads network namespaces.
#[derive(Debug)]
pub(super) struct NetworkReader {
    proc_root: PathBuf,
    mount: Option<Mount>,
    /// A process of each container whose namespace is known, and that namespace.
    processes: HashMap<Arc<str>, (u32, u64)>,
    /// What each namespace of the last reading had done.
    samples: HashMap<u64, NetworkSample>,
    /// The host's.
    host: Option<u64>,
    /// Namespaces of this reading, and a process of each that is to be read.
    due: HashMap<u64, u32>,
    kept: HashSet<u64>,
    kept_paths: HashSet<Arc<str>>,
    /// Whether containers had processes and none of them was to be seen.
    sees_none: bool,
    looked: bool,
    seen: bool,
}

impl NetworkReader {
    pub(super) fn new(proc_root: PathBuf, mount: Option<Mount>) -> Self {
        Self {
            proc_root,
            mount,
            processes: HashMap::new(),
            samples: HashMap::new(),
            host: None,
            due: HashMap::new(),
            kept: HashSet::new(),
            kept_paths: HashSet::new(),
            sees_none: false,
            looked: false,
            seen: false,
        }
    }

    /// What is missing, and the fix.
    pub(super) fn lack(&self) -> Option<&'static str> {
        if self.host.is_none() {
            return Some(
                "the first process of the host is not to be seen, so that its network and those of \
                 containers are not told apart: run the agent in the host's pid namespace, or give the \
                 host's procfs by --proc-root",
            );
        }
        self.sees_none.then_some(
            "no process of any container is to be seen, so that their networks are not known: run the \
             agent in the host's pid namespace, or give the host's procfs by --proc-root",
        )
    }

    /// A reading begins.
    pub(super) fn begin(&mut self, host: Option<u64>) {
        self.host = host;
        self.due.clear();
        self.kept.clear();
        self.kept_paths.clear();
        (self.looked, self.seen) = (false, false);
    }

    /// The namespace of a container, which is then read; `None` where none of its processes is to be
    /// seen.
    pub(super) fn of_container(&mut self, reader: &mut FileReader, path: &Arc<str>) -> Option<u64> {
        // The pid may be another process's by now: then it is in another namespace, or it does not
        // matter.
        let known = self.processes.get(path).copied();
        let known = known.filter(|&(pid, id)| read_namespace_id(&self.proc_root, pid) == Some(id));
        let (pid, id) = match known {
            Some(known) => known,
            None => {
                let mount = self.mount.as_ref()?;
                let pid = any_process(reader, &mount.directory(path)?)?;
                self.looked = true;
                let id = read_namespace_id(&self.proc_root, pid)?;
                self.processes.insert(Arc::clone(path), (pid, id));
                (pid, id)
            }
        };
        (self.looked, self.seen) = (true, true);
        self.due.insert(id, pid);
        Some(id)
    }

    /// What is known of a container's namespace stands.
    pub(super) fn keep(&mut self, path: &Arc<str>, id: Option<u64>) {
        if let Some(id) = id {
            self.kept.insert(id);
            self.kept_paths.insert(Arc::clone(path));
        }
    }

    /// Reads the namespaces, and gives all that are known.
    pub(super) fn finish(
        &mut self,
        reader: &mut FileReader,
        failures: &mut u64,
    ) -> HashMap<u64, NetworkSample> {
        if self.looked {
            self.sees_none = !self.seen;
        }
        for (&id, &pid) in &self.due {
            let last = self.samples.get(&id);
            let sample = read_namespace(reader, &self.proc_root, pid, last);
            if let Some(sample) = kept(sample, failures) {
                self.samples.insert(id, sample);
            }
        }
        self.samples.retain(|id, _| self.kept.contains(id));
        self.processes
            .retain(|path, _| self.kept_paths.contains(path));
        self.samples.clone()
    }
}

/// A process of a container: of its own cgroup, or of one that it has made inside.
fn any_process(reader: &mut FileReader, directory: &Path) -> Option<u32> {
    let mut queue = vec![directory.to_owned()];
    let mut looked_at = 0;
    while let Some(directory) = queue.pop() {
        if let Some(&pid) = processes(reader, &directory, 1).ok()?.first() {
            return Some(pid);
        }
        let children = std::fs::read_dir(&directory).ok()?.flatten();
        let directories =
            children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let room = MOST_LOOKED_AT.saturating_sub(looked_at);
        for child in directories.take(room) {
            looked_at += 1;
            queue.push(child.path());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cgroup::Version;

    const DEV: &str = "h\nh\n  eth0: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n";

    /// Processes with a network each, and cgroups that name them.
    struct Host {
        root: tempfile::TempDir,
        networks: NetworkReader,
        reader: FileReader,
    }

    impl Host {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let mount = Mount {
                mount_point: root.path().join("cgroup"),
                version: Version::V2,
                root: "/".into(),
            };
            let networks = NetworkReader::new(root.path().join("proc"), Some(mount));
            Self {
                root,
                networks,
                reader: FileReader::new(),
            }
        }

        /// A process; those of one network share a file.
        fn process(&self, pid: u32, network: &str, cgroup: &str) {
            let file = self.root.path().join(network);
            if !file.exists() {
                fs::write(&file, DEV).unwrap();
            }
            let net = self.root.path().join(format!("proc/{pid}/net"));
            fs::create_dir_all(&net).unwrap();
            fs::hard_link(file, net.join("dev")).unwrap();
            let cgroup = self.root.path().join("cgroup").join(cgroup);
            fs::create_dir_all(&cgroup).unwrap();
            fs::write(cgroup.join("cgroup.procs"), format!("{pid}\n")).unwrap();
        }

        fn id(&self, pid: u32) -> Option<u64> {
            read_namespace_id(&self.root.path().join("proc"), pid)
        }

        fn read(&mut self, paths: &[&str]) -> (Vec<Option<u64>>, HashMap<u64, NetworkSample>) {
            let host = self.id(1);
            self.networks.begin(host);
            let ids = paths
                .iter()
                .map(|&path| {
                    let path: Arc<str> = Arc::from(path);
                    let id = self.networks.of_container(&mut self.reader, &path);
                    self.networks.keep(&path, id);
                    id
                })
                .collect();
            (ids, self.networks.finish(&mut self.reader, &mut 0))
        }
    }

    #[test]
    fn containers_of_a_pod_share_a_namespace_that_is_read_once() {
        let mut host = Host::new();
        host.process(1, "host", "init");
        host.process(10, "pod", "pod/a");
        host.process(11, "pod", "pod/b");
        host.process(12, "host", "agent");
        let (ids, samples) = host.read(&["/pod/a", "/pod/b", "/agent", "/gone"]);
        assert_eq!(ids, [host.id(10), host.id(10), host.id(1), None]);
        assert_eq!(samples.len(), 2);
        assert_eq!(host.networks.due.len(), 2);
        assert_eq!(samples[&host.id(10).unwrap()].sent_bytes, 200);
        assert_eq!(host.networks.lack(), None);
    }

    #[test]
    fn a_process_in_a_cgroup_inside_counts() {
        let mut host = Host::new();
        host.process(1, "host", "init");
        host.process(10, "own", "c/init.scope");
        fs::write(host.root.path().join("cgroup/c/cgroup.procs"), "").unwrap();
        assert_eq!(host.read(&["/c"]).0, [host.id(10)]);
    }

    #[test]
    fn a_pid_that_is_another_processs_now_is_looked_up_anew() {
        let mut host = Host::new();
        host.process(1, "host", "init");
        host.process(10, "own", "c");
        host.process(11, "foreign", "d");
        assert_eq!(host.read(&["/c"]).0, [host.id(10)]);
        // The process ended, its pid went to one of another namespace, and another one took its place.
        let foreign = host.root.path().join("foreign");
        let dev = host.root.path().join("proc/10/net/dev");
        fs::remove_file(&dev).unwrap();
        fs::hard_link(foreign, dev).unwrap();
        host.process(12, "own", "c");
        assert_eq!(host.read(&["/c"]).0, [host.id(12)]);
        // What no container is in any more is forgotten.
        let (_, samples) = host.read(&[]);
        assert_eq!((samples.len(), host.networks.processes.len()), (0, 0));
    }

    #[test]
    fn without_the_hosts_processes_the_lack_is_told() {
        let mut host = Host::new();
        host.process(10, "own", "c");
        host.read(&["/c"]);
        assert!(
            host.networks
                .lack()
                .is_some_and(|lack| lack.contains("first process"))
        );
        host.process(1, "host", "init");
        fs::remove_dir_all(host.root.path().join("proc/10")).unwrap();
        host.networks.processes.clear();
        assert_eq!(host.read(&["/c"]).0, [None]);
        assert!(
            host.networks
                .lack()
                .is_some_and(|lack| lack.contains("no process"))
        );
        // Where nothing was looked for, it stays as it was.
        host.read(&[]);
        assert!(host.networks.lack().is_some());
    }
}
