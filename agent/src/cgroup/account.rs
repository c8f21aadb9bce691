//! The kernel's own accounts of cgroups that are read again and again, through directories that stay open.

use std::{fs, os::unix::fs::MetadataExt as _};

use super::{
    cpu::{self, CpuLimits, Periods},
    directory::{Handles, OpenDirectory},
    error::CgroupError,
    file::{CgroupFiles, FileReader},
    hierarchy::Hierarchies,
    memory::{self, MemoryCounts},
    mount::{Mount, Version},
    pressure::{self, Pressure},
};

/// What is read in a hierarchy of its own on v1.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Cpu,
    Usage,
    Memory,
    Pressure,
}

const SUBJECTS: usize = 4;

/// A cgroup whose directories are kept open; none is before it is first read.
#[derive(Debug, Default)]
pub(crate) struct OpenCgroup {
    directories: [Option<OpenDirectory>; SUBJECTS],
}

impl OpenCgroup {
    /// Keeps no file of it open any more, only directories.
    pub(crate) fn close_files(&mut self) {
        for directory in self.directories.iter_mut().flatten() {
            directory.close_files();
        }
    }
}

/// Something that a cgroup's files say, and which cgroup that was: the inode of its directory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Said<T> {
    pub(crate) what: T,
    pub(crate) inode: Option<u64>,
}

/// Reads the accounts of cgroups. Each method gives `None` where the cgroup has gone or has no such account,
/// and an error where a file is there and cannot be read. `keep` says whether its files shall stay open,
/// which makes the next reading cheaper: some 5 µs a file instead of 15.
#[derive(Debug)]
pub(crate) struct AccountReader {
    reader: FileReader,
    hierarchies: Hierarchies,
    handles: Handles,
}

impl AccountReader {
    pub(crate) fn new(hierarchies: Hierarchies, handles: Handles) -> Self {
        Self {
            reader: FileReader::new(),
            hierarchies,
            handles,
        }
    }

    /// Files that were opened, or read through a descriptor that was kept.
    pub(crate) fn files_read(&self) -> u64 {
        self.reader.opened()
    }

    /// What bandwidth control has done to it. One file.
    ///
    /// # Errors
    ///
    /// If a file is there and cannot be read.
    pub(crate) fn periods(
        &mut self,
        cgroup: &mut OpenCgroup,
        path: &str,
        keep: bool,
    ) -> Result<Option<Said<Periods>>, CgroupError> {
        self.read(Subject::Cpu, cgroup, path, keep, |files, _| {
            cpu::periods(files)
        })
    }

    /// Quota and weight. Two files on v2, three on v1, which are never kept: they change rarely.
    ///
    /// # Errors
    ///
    /// If a file is there and cannot be read.
    pub(crate) fn cpu_limits(
        &mut self,
        cgroup: &mut OpenCgroup,
        path: &str,
    ) -> Result<Option<Said<CpuLimits>>, CgroupError> {
        self.read(Subject::Cpu, cgroup, path, false, |files, version| {
            cpu::limits(files, version).map(Some)
        })
    }

    /// CPU time of it and its children, nanoseconds. v2 counts in microseconds; zero there is `None`, too:
    /// where v1 is mounted beside it, its cgroup of the same path may be one that the container's processes
    /// are not in. One file.
    ///
    /// # Errors
    ///
    /// If a file is there and cannot be read.
    pub(crate) fn usage_ns(
        &mut self,
        cgroup: &mut OpenCgroup,
        path: &str,
        keep: bool,
    ) -> Result<Option<Said<u64>>, CgroupError> {
        self.read(Subject::Usage, cgroup, path, keep, cpu::usage_ns)
    }

    /// Memory. Three files on v2, four on v1.
    ///
    /// # Errors
    ///
    /// If a file is there and cannot be read.
    pub(crate) fn memory(
        &mut self,
        cgroup: &mut OpenCgroup,
        path: &str,
        keep: bool,
    ) -> Result<Option<Said<MemoryCounts>>, CgroupError> {
        self.read(Subject::Memory, cgroup, path, keep, memory::counts)
    }

    /// Limit on memory, bytes; the inner `None` for none. One file, which is never kept.
    ///
    /// # Errors
    ///
    /// If a file is there and cannot be read.
    pub(crate) fn memory_limit(
        &mut self,
        cgroup: &mut OpenCgroup,
        path: &str,
    ) -> Result<Option<Said<Option<u64>>>, CgroupError> {
        self.read(Subject::Memory, cgroup, path, false, |files, version| {
            memory::limit(files, version).map(Some)
        })
    }

    /// Pressure. Three files.
    ///
    /// # Errors
    ///
    /// If a file is there and cannot be read.
    pub(crate) fn pressure(
        &mut self,
        cgroup: &mut OpenCgroup,
        path: &str,
        keep: bool,
    ) -> Result<Option<Said<Pressure>>, CgroupError> {
        self.read(Subject::Pressure, cgroup, path, keep, |files, _| {
            pressure::of_cgroup(files)
        })
    }

    fn read<T>(
        &mut self,
        subject: Subject,
        cgroup: &mut OpenCgroup,
        path: &str,
        keep: bool,
        read: impl Fn(&mut CgroupFiles<'_>, Version) -> Result<Option<T>, CgroupError>,
    ) -> Result<Option<Said<T>>, CgroupError> {
        let Self {
            reader,
            hierarchies,
            handles,
        } = self;
        let Some((mount, place)) = mount_of(hierarchies, subject) else {
            return Ok(None);
        };
        let Some(place) = cgroup.directories.get_mut(place) else {
            return Ok(None);
        };
        let version = mount.version;
        let keep = keep.then_some(&*handles);
        if let Some(directory) = place.as_mut() {
            let inode = Some(directory.inode());
            let mut files = CgroupFiles::through(reader, directory, keep, (mount, path));
            if let Some(what) = read(&mut files, version)? {
                return Ok(Some(Said { what, inode }));
            }
        }
        // It has gone, and may have been made again.
        let former = place.as_ref().map(OpenDirectory::inode);
        let Some(mut directory) = OpenDirectory::open(mount, path, handles) else {
            *place = None;
            return read_by_path(reader, mount, path, read);
        };
        let inode = Some(directory.inode());
        if former == inode {
            return Ok(None);
        }
        let mut files = CgroupFiles::through(reader, &mut directory, keep, (mount, path));
        let what = read(&mut files, version);
        *place = Some(directory);
        Ok(what?.map(|what| Said { what, inode }))
    }
}

/// The mount of a subject, and the place of its directory: on v2 all have one.
fn mount_of(hierarchies: &Hierarchies, subject: Subject) -> Option<(&Mount, usize)> {
    let all = [
        &hierarchies.cpu,
        &hierarchies.cpuacct,
        &hierarchies.memory,
        &hierarchies.unified,
    ];
    let mount = all.get(subject as usize)?.as_ref()?;
    let is_same = |other: &&Option<Mount>| other.as_ref() == Some(mount);
    Some((mount, all.iter().position(is_same)?))
}

/// Without a directory that is kept: there is none, or no more descriptors may be.
fn read_by_path<T>(
    reader: &mut FileReader,
    mount: &Mount,
    path: &str,
    read: impl Fn(&mut CgroupFiles<'_>, Version) -> Result<Option<T>, CgroupError>,
) -> Result<Option<Said<T>>, CgroupError> {
    // Looked up before it is read: where it is made again between the two, the next reading tells.
    let directory = mount.directory(path);
    let Some(Ok(metadata)) = directory.map(fs::metadata) else {
        return Ok(None);
    };
    let Some(mut files) = CgroupFiles::new(reader, mount, path) else {
        return Ok(None);
    };
    let inode = Some(metadata.ino());
    Ok(read(&mut files, mount.version)?.map(|what| Said { what, inode }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::fake::Tree;

    const KEPT: [(usize, bool); 3] = [(0, true), (64, false), (64, true)];

    fn reader(tree: &Tree, handles: usize) -> AccountReader {
        AccountReader::new(tree.hierarchies.clone(), Handles::new(handles))
    }

    #[test]
    fn both_versions_give_the_same_control_with_and_without_descriptors() {
        let v2 = Tree::v2();
        v2.write(
            "web/cpu.stat",
            "usage_usec 298210471\nnr_periods 120\nnr_throttled 7\nthrottled_usec 350123\n",
        );
        v2.write("web/cpu.max", "200000 100000\n");
        v2.write("web/cpu.weight", "100\n");
        let v1 = Tree::v1();
        v1.write(
            "cpu/web/cpu.stat",
            "nr_periods 120\nnr_throttled 7\nthrottled_time 350123000\n",
        );
        v1.write("cpu/web/cpu.cfs_quota_us", "200000\n");
        v1.write("cpu/web/cpu.cfs_period_us", "100000\n");
        v1.write("cpu/web/cpu.shares", "1024\n");
        v1.write("cpuacct/web/cpuacct.usage", "298210471000\n");
        for (handles, keep) in KEPT {
            for tree in [&v2, &v1] {
                let mut accounts = reader(tree, handles);
                let mut web = OpenCgroup::default();
                for _ in 0..2 {
                    let periods = accounts.periods(&mut web, "/web", keep).unwrap().unwrap();
                    let expected = Periods {
                        periods: 120,
                        throttled_periods: 7,
                        throttled_ns: 350_123_000,
                    };
                    assert_eq!(periods.what, expected);
                    let limits = accounts.cpu_limits(&mut web, "/web").unwrap().unwrap();
                    assert_eq!(limits.what.quota_cores, Some(2.0));
                    assert_eq!(limits.what.weight, Some(100));
                    let usage = accounts.usage_ns(&mut web, "/web", keep).unwrap();
                    assert_eq!(usage.map(|usage| usage.what), Some(298_210_471_000));
                    assert!(periods.inode.is_some());
                }
            }
        }
    }

    #[test]
    fn a_cgroup_without_the_controller_or_outside_has_no_control() {
        let v2 = Tree::v2();
        v2.write("web/cpu.stat", "usage_usec 0\nuser_usec 0\nsystem_usec 0\n");
        for (handles, keep) in KEPT {
            let mut accounts = reader(&v2, handles);
            for path in ["/web", "/gone", "/../web"] {
                let mut cgroup = OpenCgroup::default();
                for _ in 0..2 {
                    let periods = accounts.periods(&mut cgroup, path, keep).unwrap();
                    assert_eq!(periods, None, "{path}");
                    let usage = accounts.usage_ns(&mut cgroup, path, keep).unwrap();
                    assert_eq!(usage, None, "{path}");
                    let pressure = accounts.pressure(&mut cgroup, path, keep).unwrap();
                    assert_eq!(pressure, None, "{path}");
                }
            }
        }
    }

    #[test]
    fn a_cgroup_that_is_made_again_is_told_from_the_former() {
        let tree = Tree::v2();
        let stat = |periods| format!("nr_periods {periods}\nnr_throttled 0\nthrottled_usec 0\n");
        for (handles, keep) in KEPT {
            tree.write("web/cpu.stat", &stat(5));
            let mut accounts = reader(&tree, handles);
            let mut web = OpenCgroup::default();
            let mut told = |web: &mut OpenCgroup| {
                let said = accounts.periods(web, "/web", keep).unwrap();
                said.map(|said| (said.what.periods, said.inode.unwrap()))
            };
            let (periods, inode) = told(&mut web).unwrap();
            assert_eq!(periods, 5);
            // Kept aside, so that the file system does not use its inode again.
            fs::rename(tree.path("web"), tree.path("former")).unwrap();
            fs::remove_file(tree.path("former/cpu.stat")).unwrap();
            web.close_files();
            assert_eq!(told(&mut web), None);
            tree.write("web/cpu.stat", &stat(2));
            let (periods, again) = told(&mut web).unwrap();
            assert!(periods == 2 && again != inode);
            fs::remove_dir_all(tree.path("web")).unwrap();
            fs::remove_dir_all(tree.path("former")).unwrap();
        }
    }
}
