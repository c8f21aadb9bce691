//! Who could make a cgroup.
//!
//! A path does not show where a tree is delegated to somebody without privileges, but for the managers of users:
//! the directory above a cgroup belongs to whoever may make it (systemd gives that of a service with `User=` and
//! `Delegate=yes` to the user, <https://systemd.io/CGROUP_DELEGATION>).

use std::{fs, os::unix::fs::MetadataExt as _};

use crate::cgroup::{self, Mount, identify};

/// The user in whose tree the container, unit or cgroup is that a path is of; `None` if it is the system's: of
/// the user to whom the root of the mount belongs. What is made inside of a container is that container's affair.
///
/// Costs a `stat` or two, but for what is directly below the root.
pub(super) fn user_of(mount: &Mount, path: &str) -> Option<u32> {
    let found = identify(path);
    if let Some(user) = cgroup::user_of(&found.owner_path) {
        return Some(user);
    }
    if found.enclosing.is_some() {
        return None;
    }
    let mut above = found.owner_path.as_str();
    // It may have gone, and what was made around it for it alone.
    let owner = loop {
        (above, _) = above.rsplit_once('/')?;
        if above.is_empty() {
            return None;
        }
        if let Ok(directory) = fs::symlink_metadata(mount.directory(above)?) {
            break directory.uid();
        }
    };
    let system = fs::symlink_metadata(&mount.mount_point).ok()?.uid();
    (owner != system).then_some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Version;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_users_manager_is_told_by_its_path_and_the_rest_by_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let mount = Mount {
            mount_point: directory.path().to_owned(),
            version: Version::V2,
            root: "/".to_owned(),
        };
        fs::create_dir_all(directory.path().join("system.slice/app.service")).unwrap();
        let of = |path: &str| user_of(&mount, &path.replace("ID", ID));
        assert_eq!(
            of("/user.slice/user-1000.slice/user@1000.service/docker-ID.scope"),
            Some(1_000)
        );
        // All of it belongs to whom the root of the mount belongs to, also what is above one that has gone.
        for path in [
            "/docker-ID.scope",
            "/system.slice/app.service/docker-ID.scope",
            "/system.slice/gone.service/docker-ID.scope",
            "/nowhere/x",
            "/",
            "",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
        // A link leads nowhere.
        let link = directory.path().join("link.service");
        std::os::unix::fs::symlink("/proc/1", link).unwrap();
        assert_eq!(of("/link.service/docker-ID.scope"), None);
    }
}
