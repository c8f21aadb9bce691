//! What goes into the registry and what comes out of it.

use crate::{
    bpf::{CssId, Subsystem},
    cgroup,
};

/// A moment, on both clocks that matter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Milliseconds since the epoch.
    pub(crate) unix_ms: u64,
    /// Monotonic nanoseconds.
    pub(crate) ns: u64,
}

/// A cgroup by the id of its hierarchy and its own kernfs id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CgroupKey {
    /// Hierarchy; 0 is the unified one.
    pub(crate) hierarchy: u32,
    /// Kernfs id.
    pub(crate) id: u64,
}

/// An entry to be written into a slot table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotWrite {
    /// Which table.
    pub(crate) subsystem: Subsystem,
    /// Where, and for which css.
    pub(crate) css: CssId,
    /// [`slot::owner`]; `None` takes the entry back, so that the css is reported anew when it is
    /// next seen.
    pub(crate) owner: Option<u32>,
    /// Whether the kernel side shall report the css when it is next seen.
    pub(crate) report: Report,
}

/// Whether a css shall be reported when it next runs or does I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// No.
    No,
    /// Yes, unless the kernel side has seen it already: then it was reported.
    First,
    /// Yes, also if it was reported before.
    Again,
}

/// Limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegistryLimits {
    /// Entities with numbers of their own that are kept, live and exited.
    pub(crate) entities: usize,
    /// Slots, the one for everything else included.
    pub(crate) slots: u32,
    /// Cgroups whose paths are remembered.
    pub(crate) cgroups: usize,
    /// How long an exited container is kept, nanoseconds.
    pub(crate) retention_ns: u64,
}

/// Where a cgroup is, and who could make it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// Its path.
    pub(crate) path: &'a str,
    /// The user to whom the tree is delegated in which its container or unit is; `None` if only the system can
    /// make cgroups there.
    pub(crate) user: Option<u32>,
}

impl Origin<'_> {
    /// Whether somebody without privileges could make it.
    pub(crate) fn is_users(&self) -> bool {
        is_unprivileged(self.user)
    }
}

/// Whether a user is one without privileges.
pub(crate) fn is_unprivileged(user: Option<u32>) -> bool {
    user.is_some_and(|uid| uid != 0)
}

/// A path as it stands: below a user's manager it is that user's, else the system's.
impl<'a, T: AsRef<str> + ?Sized> From<&'a T> for Origin<'a> {
    fn from(path: &'a T) -> Self {
        let path = path.as_ref();
        Self {
            path,
            user: cgroup::user_of(path),
        }
    }
}
