//! The cgroup namespace that paths are read in.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What the link of the kernel's first cgroup namespace says: its inode is fixed (`PROC_CGROUP_INIT_INO`,
/// <https://github.com/torvalds/linux/blob/v6.12/include/linux/proc_ns.h>).
const FIRST: &str = "cgroup:[4026531835]";
/// Processes that are looked at.
const MOST_LOOKS: usize = 4_096;

/// Moves the calling thread, and so those that it starts, into the cgroup namespace of PID 1. Says whether
/// that is another one than its own was.
///
/// The kernel shows the paths of `/proc/PID/cgroup` and the roots of the mount table as seen from the root of
/// the reader's namespace, with `..` for what lies above: an engine gives each container a namespace of its
/// own, and there the cgroups of all others are `/../ID` without a beginning
/// (<https://man7.org/linux/man-pages/man7/cgroup_namespaces.7.html>). What is mounted, and which cgroup the
/// thread is in, stay as they are. In a container with a PID namespace of its own this is the namespace that
/// it has already.
///
/// Where PID 1 may not be looked at, because it has a capability more than this process, any process in the
/// kernel's first namespace serves. Costs two reads of a link, else one for each process until then.
///
/// # Errors
///
/// There is no namespace that may be looked at, or it cannot be entered, which takes `CAP_SYS_ADMIN`.
pub fn enter_that_of_init(proc_root: &Path) -> io::Result<bool> {
    let link = |process: &str| proc_root.join(process).join("ns/cgroup");
    let own = link("self").read_link()?;
    if own == Path::new(FIRST) {
        return Ok(false);
    }
    let init = link("1");
    let target = match init.read_link() {
        Ok(namespace) if namespace == own => return Ok(false),
        Ok(_) => init,
        Err(error) => in_the_first(proc_root)?.ok_or(error)?,
    };
    let namespace = File::open(target)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ControlGroup))?;
    Ok(true)
}

/// The link of a process that is in the first namespace.
fn in_the_first(proc_root: &Path) -> io::Result<Option<PathBuf>> {
    let processes = fs::read_dir(proc_root)?.filter_map(Result::ok);
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let links = processes
        .filter(|entry| entry.file_name().to_str().is_some_and(is_process))
        .map(|entry| entry.path().join("ns/cgroup"));
    let mut links = links.take(MOST_LOOKS);
    Ok(links.find(|link| link.read_link().is_ok_and(|to| to == Path::new(FIRST))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Processes and the namespaces that they are in.
    fn processes(all: &[(&str, &str)]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (process, namespace) in all {
            let directory = proc.path().join(process).join("ns");
            fs::create_dir_all(&directory).unwrap();
            symlink(namespace, directory.join("cgroup")).unwrap();
        }
        proc
    }

    #[test]
    fn whoever_is_in_the_namespace_of_init_stays_there() {
        for all in [
            &[("self", FIRST)][..],
            &[("self", "cgroup:[9]"), ("1", "cgroup:[9]")],
        ] {
            let proc = processes(all);
            assert!(!enter_that_of_init(proc.path()).unwrap(), "{all:?}");
        }
    }

    #[test]
    fn another_process_serves_where_init_may_not_be_looked_at() {
        let proc = processes(&[
            ("self", "cgroup:[9]"),
            ("7", "cgroup:[8]"),
            ("23", FIRST),
            ("irq", FIRST),
        ]);
        let found = in_the_first(proc.path()).unwrap();
        assert_eq!(found, Some(proc.path().join("23/ns/cgroup")));
        // A link to nothing: no namespace is entered by a test.
        assert!(enter_that_of_init(proc.path()).is_err());
    }

    #[test]
    fn without_any_namespace_there_is_none_to_enter() {
        for all in [&[][..], &[("self", "cgroup:[9]"), ("7", "cgroup:[8]")]] {
            let proc = processes(all);
            let error = enter_that_of_init(proc.path()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{all:?}");
        }
    }
}
