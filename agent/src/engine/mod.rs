//! The engine: kernel side, registry and files, brought together into snapshots.
//!
//! One thread owns an [`Engine`]; everybody else talks to it through an [`Agent`].

mod core;
mod cost;
mod error;
mod facts;
mod files;
mod handle;
mod profile;
mod profile_totals;
mod profiler;
mod python_names;
mod tree;

pub use error::EngineError;
pub use handle::Agent;

use std::{path::PathBuf, time::Duration};

use crate::{runtime::RuntimeOptions, selection::Selection};

/// What an engine is started with.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where procfs is mounted.
    pub proc_root: PathBuf,
    /// Where the host's cgroup mounts are, if not where the mount table says.
    pub cgroup_root: Option<PathBuf>,
    /// A file with this kernel's type information; `None` takes the kernel's own. Without that of the
    /// kernel the engine runs on cgroup files alone, a file that is given must be usable.
    pub btf: Option<PathBuf>,
    /// Most containers with series of their own.
    pub max_containers: u32,
    /// How long an exited container is kept.
    pub retention: Duration,
    /// Longest time between two collections.
    pub interval: Duration,
    /// Which containers have series of their own, as far as there are places.
    pub selection: Selection,
    /// Where container runtimes are asked for names; `None` asks none.
    pub runtimes: Option<RuntimeOptions>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            proc_root: "/proc".into(),
            cgroup_root: None,
            btf: None,
            max_containers: 1_000,
            retention: Duration::from_secs(300),
            interval: Duration::from_secs(5),
            selection: Selection::default(),
            runtimes: None,
        }
    }
}
