//! What `/proc` says of a process: its cgroups, its name and its ids in other pid namespaces.

use std::path::Path;

use super::{error::CgroupError, file::FileReader, name::text_of};

/// A pod's sandbox holds one process, and rarely an init beside it.
const MAX_PAUSE_PROCESSES: usize = 4;

/// The cgroup of a process in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Kernel id of the hierarchy; 0 is the unified one.
    pub hierarchy: u32,
    /// Its v1 controllers; empty for the unified hierarchy.
    pub controllers: Vec<String>,
    /// Path of the cgroup.
    pub path: String,
}

impl Membership {
    /// Whether this is the hierarchy that carries a v1 controller.
    #[must_use]
    pub fn has_v1_controller(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// What a process is called and which ids it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessStatus {
    /// Its name (`comm`), at most 15 bytes, with the escapes of the kernel (`\n`, `\\`).
    pub name: String,
    /// Its tgid; `None` where the kernel did not tell.
    pub tgid: Option<u32>,
    /// Its ids from the reader's pid namespace down to its own; empty before kernel 4.1.
    pub namespace_pids: Vec<u32>,
}

impl ProcessStatus {
    /// Its pid inside its own pid namespace, i.e. in its container.
    #[must_use]
    pub fn container_pid(&self) -> Option<u32> {
        self.namespace_pids.last().copied()
    }
}

/// Parses the text of `/proc/PID/cgroup`. Lines that do not parse are passed over.
///
/// The unified hierarchy marks a removed cgroup of a zombie with ` (deleted)`; the mark is left out.
#[must_use]
pub fn parse_memberships(text: &str) -> Vec<Membership> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let hierarchy = fields.next()?.parse().ok()?;
            let controllers = fields.next()?;
            let path = fields.next()?;
            Some(Membership {
                hierarchy,
                controllers: controllers
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect(),
                path: path.strip_suffix(" (deleted)").unwrap_or(path).to_owned(),
            })
        })
        .collect()
}

/// Parses the text of `/proc/PID/status`.
#[must_use]
pub fn parse_status(text: &str) -> ProcessStatus {
    let mut status = ProcessStatus::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match key {
            "Name" => value
                .strip_prefix('\t')
                .unwrap_or(value)
                .clone_into(&mut status.name),
            "Tgid" => status.tgid = value.trim().parse().ok(),
            "NSpid" => {
                status.namespace_pids = value
                    .split_ascii_whitespace()
                    .map_while(|pid| pid.parse().ok())
                    .collect();
            }
            _ => {}
        }
    }
    status
}

/// The cgroups of a process; `None` if it is gone.
///
/// # Errors
///
/// If the file is there and cannot be read.
pub fn read_memberships(
    reader: &mut FileReader,
    proc_root: &Path,
    pid: u32,
) -> Result<Option<Vec<Membership>>, CgroupError> {
    let path = proc_root.join(pid.to_string()).join("cgroup");
    let bytes = reader.read_bytes(&path)?;
    Ok(bytes.map(|bytes| parse_memberships(&text_of(bytes))))
}

/// Name and ids of a process; `None` if it is gone.
///
/// # Errors
///
/// If the file is there and cannot be read.
pub fn read_status(
    reader: &mut FileReader,
    proc_root: &Path,
    pid: u32,
) -> Result<Option<ProcessStatus>, CgroupError> {
    let path = proc_root.join(pid.to_string()).join("status");
    // The kernel cuts a name in the middle of a character.
    let bytes = reader.read_bytes(&path)?;
    Ok(bytes.map(|bytes| parse_status(&String::from_utf8_lossy(bytes))))
}

/// Whether these processes, all of one container, make it the sandbox of a Kubernetes pod: there is at
/// least one, and each is called `pause`.
///
/// A process that is gone or cannot be read counts against it: better an entry too many than a container
/// taken for a sandbox.
#[must_use]
pub fn is_pause(reader: &mut FileReader, proc_root: &Path, pids: &[u32]) -> bool {
    if pids.is_empty() || pids.len() > MAX_PAUSE_PROCESSES {
        return false;
    }
    pids.iter().all(|pid| {
        let path = proc_root.join(pid.to_string()).join("comm");
        matches!(reader.read(&path), Ok(Some(name)) if name.trim_end() == "pause")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_hierarchy_of_a_process_is_parsed() {
        // Kernel 4.15, systemd 237, Docker 20.10.
        let text = "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/a:b\n0::/x y\n";
        let found = parse_memberships(text);
        assert_eq!(found.len(), 4);
        assert!(found[1].has_v1_controller("cpuacct"));
        assert_eq!(found[2].path, "/docker/a:b");
        assert_eq!(found[3].hierarchy, 0);
        assert!(found[3].controllers.is_empty());
        assert_eq!(found[3].path, "/x y");
    }

    #[test]
    fn what_is_no_utf8_costs_nothing_that_comes_after_it() {
        let proc = tempfile::tempdir().unwrap();
        let process = proc.path().join("7");
        fs::create_dir(&process).unwrap();
        fs::write(process.join("cgroup"), b"3:cpu:/a\xff\n0::/b\n").unwrap();
        fs::write(
            process.join("status"),
            b"Name:\tjob-\xe5\nTgid:\t7\nNSpid:\t7\t1\n",
        )
        .unwrap();
        let mut reader = FileReader::new();
        let cgroups = read_memberships(&mut reader, proc.path(), 7)
            .unwrap()
            .unwrap();
        assert_eq!(cgroups[0].path, text_of(b"/a\xff"));
        assert_eq!(cgroups[1].path, "/b");
        let status = read_status(&mut reader, proc.path(), 7).unwrap().unwrap();
        assert_eq!((status.tgid, status.container_pid()), (Some(7), Some(1)));
    }

    #[test]
    fn a_removed_cgroup_keeps_its_path() {
        assert_eq!(
            parse_memberships("0::/system.slice/x.service (deleted)\n")[0].path,
            "/system.slice/x.service"
        );
    }

    #[test]
    fn broken_lines_are_passed_over() {
        assert_eq!(
            parse_memberships("\n:\n::\nx::/\n-1::/\n7:cpu\n99999999999::/a\n"),
            []
        );
    }

    #[test]
    fn the_last_namespace_pid_is_the_one_in_the_container() {
        // Kernel 6.8.
        let status = parse_status(
            "Name:\tweb server\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t4711\nNgid:\t0\nPid:\t4713\nNStgid:\t4711\t1\nNSpid:\t4713\t3\n",
        );
        assert_eq!(status.name, "web server");
        assert_eq!(status.tgid, Some(4711));
        assert_eq!(status.namespace_pids, [4713, 3]);
        assert_eq!(status.container_pid(), Some(3));
    }

    #[test]
    fn a_status_without_the_keys_is_empty() {
        assert_eq!(
            parse_status("nothing\n:\nTgid:\tx\n"),
            ProcessStatus::default()
        );
    }

    #[test]
    fn a_sandbox_is_a_cgroup_of_pause_processes_only() {
        let proc_root = tempfile::tempdir().unwrap();
        for (pid, name) in [(10, "pause"), (11, "nginx"), (12, "pause")] {
            let directory = proc_root.path().join(pid.to_string());
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("comm"), format!("{name}\n")).unwrap();
        }
        let mut reader = FileReader::new();
        let mut check = |pids: &[u32]| is_pause(&mut reader, proc_root.path(), pids);
        assert!(check(&[10]));
        assert!(check(&[10, 12]));
        assert!(!check(&[10, 11]));
        assert!(!check(&[10, 99]));
        assert!(!check(&[]));
        assert!(!check(&[10; 5]));
    }

    #[test]
    fn a_process_that_is_gone_is_none() {
        let proc_root = tempfile::tempdir().unwrap();
        let mut reader = FileReader::new();
        assert_eq!(read_status(&mut reader, proc_root.path(), 7).unwrap(), None);
        assert_eq!(
            read_memberships(&mut reader, proc_root.path(), 7).unwrap(),
            None
        );
    }
}
