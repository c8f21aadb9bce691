//! Walk of a cgroup hierarchy, and the processes of a cgroup.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt},
    path::Path,
};

use super::{error::CgroupError, file::FileReader, mount::Mount, name::text_of};

/// Bytes of `cgroup.procs` that tell whether there is any process.
const FIRST_BYTES: usize = 32;

/// A cgroup's directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CgroupDir {
    /// The cgroup id: the inode of the directory, which is its kernfs id and what
    /// `bpf_get_current_cgroup_id` returns.
    pub id: u64,
    /// Path of the cgroup, `/` for the root of the hierarchy.
    pub path: String,
}

/// Bounds of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkLimits {
    /// Levels below the mount.
    pub depth: usize,
    /// Cgroups.
    pub count: usize,
}

impl Default for WalkLimits {
    /// 32 levels (nested Kubernetes has about 15) and 65,536 cgroups.
    fn default() -> Self {
        Self {
            depth: 32,
            count: 65_536,
        }
    }
}

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// The cgroups, parents before their children.
    pub directories: Vec<CgroupDir>,
    /// Whether a limit left cgroups out, or an error other than that they vanished: what is not found may
    /// still be there.
    pub truncated: bool,
}

/// Lists the cgroups of a mounted hierarchy, level by level, so that a limit cuts off the deepest.
///
/// One `stat` for each cgroup, and one directory read for each that has children. Symbolic links are not
/// followed; cgroups that vanish during the walk or cannot be read are left out.
///
/// # Errors
///
/// If the mount point itself cannot be read.
pub fn walk(mount: &Mount, limits: WalkLimits) -> Result<Walk, CgroupError> {
    let read_error = |source| CgroupError::Read {
        path: mount.mount_point.clone(),
        source,
    };
    let root = fs::metadata(&mount.mount_point).map_err(read_error)?;
    let prefix = mount.visible_root();
    let mut found = Walk::default();
    if limits.count == 0 {
        found.truncated = true;
        return Ok(found);
    }
    found.directories.push(CgroupDir {
        id: root.ino(),
        path: if prefix.is_empty() { "/" } else { prefix }.to_owned(),
    });
    // Indices of the cgroups whose children are next, with their depths.
    let mut level = vec![0];
    for depth in 0.. {
        let mut next = Vec::new();
        for parent in level {
            // The mount point can be read, or the walk is an error; the others may have vanished.
            match add_children(mount, parent, &mut found, &mut next, limits, depth) {
                Err(error) if depth == 0 => return Err(read_error(error)),
                Err(error) => found.truncated |= !has_vanished(&error),
                Ok(()) => {}
            }
        }
        if next.is_empty() {
            break;
        }
        level = next;
    }
    Ok(found)
}

/// Whether a directory could not be read because it is not there any more: kernfs answers `ENODEV` where
/// it was removed while it was open.
fn has_vanished(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Adds the child cgroups of one cgroup; those that have children of their own go into `next`.
fn add_children(
    mount: &Mount,
    parent: usize,
    found: &mut Walk,
    next: &mut Vec<usize>,
    limits: WalkLimits,
    depth: usize,
) -> io::Result<()> {
    let Some(parent) = found
        .directories
        .get(parent)
        .map(|parent| parent.path.clone())
    else {
        return Ok(());
    };
    let Some(directory) = mount.directory(&parent) else {
        return Ok(());
    };
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if depth >= limits.depth || found.directories.len() >= limits.count {
            found.truncated = true;
            return Ok(());
        }
        // Does not follow symbolic links.
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) => {
                found.truncated |= !has_vanished(&error);
                continue;
            }
        };
        let name = entry.file_name();
        let name = text_of(name.as_bytes());
        // kernfs counts a directory's children in its links; a file system that does not has 1.
        if metadata.nlink() != 2 {
            next.push(found.directories.len());
        }
        found.directories.push(CgroupDir {
            id: metadata.ino(),
            path: format!("{}/{name}", parent.trim_end_matches('/')),
        });
    }
    Ok(())
}

/// Whether a cgroup itself, without its children, has any process. Reads a few bytes only.
///
/// `directory` is the cgroup's directory ([`Mount::directory`]). A vanished cgroup has none.
///
/// # Errors
///
/// If the file is there and cannot be read.
pub fn has_processes(directory: &Path) -> Result<bool, CgroupError> {
    let mut reader = FileReader::with_limit(FIRST_BYTES);
    if reader.holds_any(&directory.join("cgroup.procs"))? {
        return Ok(true);
    }
    // A threaded cgroup has threads of processes that belong to a cgroup above it.
    reader.holds_any(&directory.join("cgroup.threads"))
}

/// The first `limit` processes of a cgroup itself, without its children; empty if it vanished or is
/// threaded. Processes outside of the reader's pid namespace are left out.
///
/// At most 64 KiB of the list are read, some 9,000 processes.
///
/// # Errors
///
/// If the file is there and cannot be read.
pub fn processes(
    reader: &mut FileReader,
    directory: &Path,
    limit: usize,
) -> Result<Vec<u32>, CgroupError> {
    let Some(text) = reader.read(&directory.join("cgroup.procs"))? else {
        return Ok(Vec::new());
    };
    Ok(text
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|&pid| pid != 0)
        .take(limit)
        .collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::cgroup::fake::Tree;

    fn tree() -> (Tree, Mount) {
        let tree = Tree::v2();
        for path in ["a.slice/b.service", "a.slice/c.service/child", "d"] {
            tree.write(&format!("{path}/cgroup.procs"), "");
        }
        let mount = tree.hierarchies.unified.clone().unwrap();
        (tree, mount)
    }

    fn paths(walk: &Walk) -> Vec<&str> {
        let mut paths: Vec<&str> = walk
            .directories
            .iter()
            .map(|dir| dir.path.as_str())
            .collect();
        paths.sort_unstable();
        paths
    }

    #[test]
    fn every_cgroup_is_found_with_its_inode() {
        let (tree, mount) = tree();
        let found = walk(&mount, WalkLimits::default()).unwrap();
        assert_eq!(
            paths(&found),
            [
                "/",
                "/a.slice",
                "/a.slice/b.service",
                "/a.slice/c.service",
                "/a.slice/c.service/child",
                "/d"
            ]
        );
        assert!(!found.truncated);
        for directory in &found.directories {
            let inode = fs::metadata(tree.path(directory.path.trim_start_matches('/')))
                .unwrap()
                .ino();
            assert_eq!(directory.id, inode);
        }
    }

    #[test]
    fn names_that_are_no_utf8_are_found_and_opened() {
        let (tree, mount) = tree();
        for name in [&b"bad\xff"[..], b"bad\xfe"] {
            let directory = tree.path("d").join(std::ffi::OsStr::from_bytes(name));
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("cgroup.procs"), name).unwrap();
        }
        let found = walk(&mount, WalkLimits::default()).unwrap();
        let odd: Vec<&CgroupDir> = found
            .directories
            .iter()
            .filter(|dir| dir.path.starts_with("/d/bad"))
            .collect();
        assert_eq!(odd.len(), 2);
        let mut names: Vec<String> = Vec::new();
        for dir in odd {
            let directory = mount.directory(&dir.path).unwrap();
            assert_eq!(fs::metadata(&directory).unwrap().ino(), dir.id);
            let name = fs::read(directory.join("cgroup.procs")).unwrap();
            assert!(directory.as_os_str().as_bytes().ends_with(&name));
            // As the kernel's event and `/proc/PID/cgroup` have it.
            assert_eq!(text_of(&[b"/d/", &name[..]].concat()), dir.path);
            names.push(crate::cgroup::identify(&dir.path).name);
        }
        names.sort_unstable();
        assert_eq!(names, ["d/bad\\xfe", "d/bad\\xff"]);
    }

    #[test]
    fn limits_cut_off_the_deepest_and_say_so() {
        let (_tree, mount) = tree();
        let shallow = walk(
            &mount,
            WalkLimits {
                depth: 1,
                count: 100,
            },
        )
        .unwrap();
        assert_eq!(paths(&shallow), ["/", "/a.slice", "/d"]);
        assert!(shallow.truncated);
        let few = walk(&mount, WalkLimits { depth: 9, count: 3 }).unwrap();
        assert_eq!(paths(&few), ["/", "/a.slice", "/d"]);
        assert!(few.truncated);
        let exact = walk(&mount, WalkLimits { depth: 3, count: 6 }).unwrap();
        assert!(!exact.truncated);
        let none = walk(&mount, WalkLimits { depth: 3, count: 0 }).unwrap();
        assert!(none.truncated && none.directories.is_empty());
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let (tree, mount) = tree();
        symlink(tree.path(""), tree.path("d/loop")).unwrap();
        let found = walk(&mount, WalkLimits::default()).unwrap();
        assert_eq!(found.directories.len(), 6);
    }

    #[test]
    fn paths_of_a_mounted_cgroup_start_at_the_root_of_the_hierarchy() {
        let (_tree, mut mount) = tree();
        mount.root = "/docker/abc".to_owned();
        let found = walk(&mount, WalkLimits::default()).unwrap();
        assert!(paths(&found).contains(&"/docker/abc/a.slice/b.service"));
        assert!(paths(&found).contains(&"/docker/abc"));
    }

    #[test]
    fn what_cannot_be_read_may_still_be_there() {
        for (error, vanished) in [
            (libc::ENOENT, true),
            (libc::ENODEV, true),
            (libc::EMFILE, false),
            (libc::EACCES, false),
            (libc::ENOMEM, false),
        ] {
            let error = io::Error::from_raw_os_error(error);
            assert_eq!(has_vanished(&error), vanished, "{error}");
        }
    }

    #[test]
    fn a_mount_point_that_is_not_there_is_an_error() {
        let (tree, mut mount) = tree();
        mount.mount_point = tree.path("gone");
        assert!(walk(&mount, WalkLimits::default()).is_err());
    }

    #[test]
    fn processes_are_listed_up_to_the_limit() {
        let (tree, _mount) = tree();
        tree.write("d/cgroup.procs", "12\n0\n345\n6\n");
        let mut reader = FileReader::new();
        assert_eq!(
            processes(&mut reader, &tree.path("d"), 2).unwrap(),
            [12, 345]
        );
        assert_eq!(
            processes(&mut reader, &tree.path("gone"), 2).unwrap(),
            [0; 0]
        );
        assert!(has_processes(&tree.path("d")).unwrap());
        assert!(!has_processes(&tree.path("a.slice/b.service")).unwrap());
        assert!(!has_processes(&tree.path("gone")).unwrap());
    }

    #[test]
    fn a_threaded_cgroup_has_processes() {
        let (tree, _mount) = tree();
        // On kernfs cgroup.procs of a threaded cgroup gives EOPNOTSUPP, which reads as absent.
        fs::remove_file(tree.path("d/cgroup.procs")).unwrap();
        tree.write("d/cgroup.threads", "77\n");
        assert!(has_processes(&tree.path("d")).unwrap());
    }
}
