//! The CPUs that a cgroup may run on.
//!
//! v2: `cpuset.cpus.effective`; v1: `cpuset.effective_cpus`, and `cpuset.cpus` before 3.17. A cgroup whose
//! parent does not hand the controller down has that of the nearest ancestor that has one.

use super::{
    error::CgroupError,
    file::{CgroupFiles, FileReader},
    hierarchy::Hierarchies,
    mount::Version,
    path_of_parent,
};
use crate::host::parse_cpu_list;

/// Reads the CPUs that a cgroup may run on, ascending; `None` without a cpuset controller. One file, and
/// one more for each ancestor that is asked in its place.
///
/// # Errors
///
/// If a file is there and cannot be read.
pub fn read_cpuset(
    reader: &mut FileReader,
    hierarchies: &Hierarchies,
    cgroup_path: &str,
) -> Result<Option<Vec<u32>>, CgroupError> {
    let Some(mount) = &hierarchies.cpuset else {
        return Ok(None);
    };
    let names: &[&str] = match mount.version {
        Version::V2 => &["cpuset.cpus.effective"],
        Version::V1 => &["cpuset.effective_cpus", "cpuset.cpus"],
    };
    let mut path = Some(cgroup_path);
    while let Some(cgroup) = path {
        let Some(mut files) = CgroupFiles::new(reader, mount, cgroup) else {
            return Ok(None);
        };
        for name in names {
            let cpus = files.read(name)?.and_then(parse_cpu_list);
            // An empty list is one that is not set yet.
            if let Some(cpus) = cpus.filter(|cpus| !cpus.is_empty()) {
                return Ok(Some(cpus));
            }
        }
        path = path_of_parent(cgroup);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::fake::Tree;

    fn read(tree: &Tree, path: &str) -> Option<Vec<u32>> {
        read_cpuset(&mut FileReader::new(), &tree.hierarchies, path).unwrap()
    }

    #[test]
    fn a_cgroup_without_the_controller_has_its_ancestors_cpus() {
        let v2 = Tree::v2();
        v2.write("cpuset.cpus.effective", "0-7\n");
        v2.write("pod/cpuset.cpus.effective", "2-3,6\n");
        v2.write("pod/web/cgroup.procs", "");
        assert_eq!(read(&v2, "/pod/web"), Some(vec![2, 3, 6]));
        assert_eq!(read(&v2, "/other/web"), Some((0..8).collect()));
    }

    #[test]
    fn v1_has_effective_cpus_and_plain_ones_on_old_kernels() {
        let v1 = Tree::v1();
        v1.write("cpuset/web/cpuset.cpus", "0-3\n");
        assert_eq!(read(&v1, "/web"), Some(vec![0, 1, 2, 3]));
        v1.write("cpuset/web/cpuset.effective_cpus", "1\n");
        assert_eq!(read(&v1, "/web"), Some(vec![1]));
        // A cgroup of v1 has no CPUs until they are written.
        v1.write("cpuset/cpuset.cpus", "0-1\n");
        v1.write("cpuset/new/cpuset.cpus", "\n");
        assert_eq!(read(&v1, "/new"), Some(vec![0, 1]));
    }

    #[test]
    fn without_a_controller_nothing_is_known() {
        assert_eq!(read(&Tree::v1(), "/web"), None);
        let mut v2 = Tree::v2();
        v2.write("cpuset.cpus.effective", "0\n");
        v2.hierarchies.cpuset = None;
        assert_eq!(read(&v2, "/"), None);
    }
}
