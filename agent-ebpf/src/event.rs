//! Events that cross one by one: a cgroup made, emptied or removed, a css seen for the first time.

/// A css ran or did I/O for the first time, or under a reused id.
pub const CSS_SEEN: u32 = 1;
/// A cgroup was made.
pub const CGROUP_MADE: u32 = 2;
/// A cgroup was removed.
pub const CGROUP_REMOVED: u32 = 3;
/// The last task of a cgroup and of all below it has ended, or was moved elsewhere.
pub const CGROUP_EMPTIED: u32 = 4;

/// Most bytes of a cgroup path that an event carries, its terminating zero included. Longer paths
/// are cut; user space then looks the cgroup up by its id.
pub const PATH_BYTES: usize = 512;

shared! {
    /// Identity of one css, as the kernel side sees it.
    pub struct Css [16] {
        /// `css->serial_nr`: never reused; 0 where the cgroup has no css of the subsystem.
        pub serial: u64,
        /// `css->id`: small, dense, reused.
        pub id: u32,
        /// Zero.
        pub reserved: u32,
    }
}

shared! {
    /// Start of every event, and the whole of [`CSS_SEEN`].
    pub struct Event [64] {
        /// `CSS_SEEN` and so on.
        pub kind: u32,
        /// `slot::SUBSYSTEM_*` for `CSS_SEEN`; hierarchy id for cgroup events.
        pub argument: u32,
        /// Kernfs id (inode of the cgroup's directory).
        pub cgroup_id: u64,
        /// `CSS_SEEN`: the css. Cgroup events: its cpu css.
        pub css: Css,
        /// `CSS_SEEN`: the css's parent. Cgroup events: its block css.
        pub second: Css,
        /// `CSS_SEEN`: how the css is counted meanwhile.
        pub owner: u32,
        /// Bytes of path that follow, its terminating zero included.
        pub path_bytes: u32,
        /// CPU on which it happened.
        pub cpu: u32,
        /// `CSS_SEEN` of the cpu controller: low half of the switch count that
        /// [`crate::sched::CpuState::running`] will show while the task that was seen runs.
        pub switches: u32,
    }
}

shared! {
    /// [`CGROUP_MADE`], [`CGROUP_REMOVED`] and [`CGROUP_EMPTIED`].
    pub struct CgroupEvent [576] {
        /// The common part.
        pub event: Event,
        /// The cgroup's path in its hierarchy, from its root.
        pub path: [u8; PATH_BYTES],
    }
}
