//! A cgroup tree of plain files, for tests.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::{
    hierarchy::{Hierarchies, Mode},
    mount::{Mount, Version},
};

pub(crate) struct Tree {
    root: TempDir,
    pub(crate) hierarchies: Hierarchies,
}

impl Tree {
    /// A pure v2 host with all controllers.
    pub(crate) fn v2() -> Self {
        let root = tempfile::tempdir().unwrap();
        let unified = Some(mount(root.path().to_owned(), Version::V2));
        let hierarchies = Hierarchies {
            mode: Mode::V2,
            cpu: unified.clone(),
            cpuacct: unified.clone(),
            blkio: unified.clone(),
            memory: unified.clone(),
            cpuset: unified.clone(),
            unified,
        };
        Self { root, hierarchies }
    }

    /// A v1 host with one mount for each controller.
    pub(crate) fn v1() -> Self {
        let root = tempfile::tempdir().unwrap();
        let v1 = |name: &str| {
            let mount_point = root.path().join(name);
            fs::create_dir(&mount_point).unwrap();
            Some(mount(mount_point, Version::V1))
        };
        let hierarchies = Hierarchies {
            mode: Mode::V1,
            cpu: v1("cpu"),
            cpuacct: v1("cpuacct"),
            blkio: v1("blkio"),
            memory: v1("memory"),
            cpuset: v1("cpuset"),
            unified: None,
        };
        Self { root, hierarchies }
    }

    /// Where a path of the tree is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// Writes a file, its directories included.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }
}

fn mount(mount_point: PathBuf, version: Version) -> Mount {
    Mount {
        mount_point,
        version,
        root: "/".to_owned(),
    }
}
