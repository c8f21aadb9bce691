//! What lies above a mount that shows a part of a hierarchy.
//!
//! The kernel tells a cgroup by its path from the root of the hierarchy. In the node of a nested cluster (kind,
//! docker in docker) the agent's PID 1 is in a cgroup namespace that begins at the node's own cgroup, and so are
//! the mounts: nothing there says what the path from the root begins with. The first cgroup that is made below it
//! does: the end of its path is found in the mount, with the id that the kernel tells.

use std::{fs, os::unix::fs::MetadataExt as _};

use crate::cgroup::Mount;

/// The kernfs id of the root of a hierarchy (`KERNFS_ROOT_INO` was 1 up to 5.4, and the first id that is given
/// is 1 since: `kernfs_create_root`, fs/kernfs/dir.c).
const ROOT_ID: u64 = 1;

/// What paths of events begin with that those of the mount do not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Above {
    /// Nothing: both begin at the same cgroup.
    Nothing,
    /// Not known yet.
    Unknown,
    /// This.
    Known(String),
}

/// Where a cgroup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// In the mount, at this path.
    Inside(&'a str),
    /// Elsewhere in the hierarchy.
    Outside,
    /// Nobody can tell.
    Unknown,
}

impl Above {
    /// What lies above a mount. Costs a `stat`.
    pub(super) fn of(mount: &Mount) -> Self {
        let id = fs::metadata(&mount.mount_point).map(|root| root.ino());
        let is_part = mount.is_of_unknown_root() && id.is_ok_and(|id| id != ROOT_ID);
        if is_part {
            Self::Unknown
        } else {
            Self::Nothing
        }
    }

    /// Where a cgroup is of which the kernel tells id and path. As long as nothing is known, that costs a `stat`
    /// for each component of the path.
    pub(super) fn place<'a>(&mut self, mount: &Mount, id: u64, path: &'a str) -> Place<'a> {
        if *self == Self::Unknown {
            *self = learn(mount, id, path).map_or(Self::Unknown, Self::Known);
        }
        match self {
            Self::Nothing => Place::Inside(path),
            Self::Unknown => Place::Unknown,
            Self::Known(above) => match path.strip_prefix(above.as_str()) {
                Some(below) if below.starts_with('/') => Place::Inside(below),
                _ => Place::Outside,
            },
        }
    }
}

/// The beginning of a path that leads to the mount. An id is one cgroup's for as long as that lives, so what has
/// it is no other one.
fn learn(mount: &Mount, id: u64, path: &str) -> Option<String> {
    let mut ends = path.match_indices('/').map(|(at, _)| path.split_at(at));
    ends.find_map(|(above, below)| {
        let found = fs::symlink_metadata(mount.directory(below)?).ok()?;
        (found.ino() == id).then(|| above.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Version;

    fn mount(root: &str) -> (tempfile::TempDir, Mount) {
        let directory = tempfile::tempdir().unwrap();
        let mount = Mount {
            mount_point: directory.path().to_owned(),
            version: Version::V2,
            root: root.to_owned(),
        };
        (directory, mount)
    }

    fn make(mount: &Mount, path: &str) -> u64 {
        let directory = mount.directory(path).unwrap();
        fs::create_dir_all(&directory).unwrap();
        fs::metadata(directory).unwrap().ino()
    }

    #[test]
    fn the_first_cgroup_that_is_found_tells_what_lies_above() {
        let (_directory, mount) = mount("/");
        let mut above = Above::of(&mount);
        let id = make(&mount, "/pods/a");
        for (id, path) in [
            // Gone, or elsewhere, whatever it is called.
            (id + 1_000, "/docker/node/pods/b"),
            (id + 1_000, "/pods/a"),
        ] {
            assert_eq!(above.place(&mount, id, path), Place::Unknown);
        }
        let path = "/docker/node/pods/a";
        assert_eq!(above.place(&mount, id, path), Place::Inside("/pods/a"));
        assert_eq!(above, Above::Known("/docker/node".to_owned()));
        for (path, place) in [
            ("/docker/node/pods/b", Place::Inside("/pods/b")),
            ("/docker/node", Place::Outside),
            ("/docker/node2/pods/b", Place::Outside),
            ("/pods/a", Place::Outside),
        ] {
            assert_eq!(above.place(&mount, 7, path), place, "{path}");
        }
    }

    #[test]
    fn paths_of_a_mount_that_says_what_it_shows_stay_as_they_are() {
        let (_directory, mount) = mount("/docker/node");
        let mut above = Above::of(&mount);
        let path = "/docker/node/pods/a";
        assert_eq!(above.place(&mount, 7, path), Place::Inside(path));
    }

    #[test]
    fn paths_of_a_mount_that_is_not_there_stay_as_they_are() {
        let (directory, mount) = mount("/");
        drop(directory);
        assert_eq!(Above::of(&mount), Above::Nothing);
    }
}
