//! Events that cross one by one: a cgroup made, emptied or removed, a css seen for the first time.

/// A css ran or did I/O for the first time, or under a reused id.
pub const CSS_SEEN: u32 = 1;
/// A cgroup was made.
pub const CGROUP_MADE: u32 = 2;
/// A cgroup was removed.
pub const CGROUP_REMOVED: u32 = 3;
/// The last task of a cgroup and of all below it has ended, or was moved elsewhere.
pub const CGROUP_EMPTIED: u32 = 4;

/// Cgroups that are told to be empty in a window of [`EMPTIED_WINDOW_ORDER`], at most. Whoever may make cgroups can empty
/// them as fast as tasks end, and each above them with each: they shall not fill the ring that tells of the
/// others.
pub const MOST_EMPTIED: u64 = 64;
/// Length of that window as a power of two, nanoseconds: an eighth of a second.
pub const EMPTIED_WINDOW_ORDER: u32 = 27;

/// Counts one more in a word that has the number of the window in its upper half, and how many in its lower.
#[inline(always)]
pub const fn one_more(word: u64, now_ns: u64) -> u64 {
    let window = (now_ns >> EMPTIED_WINDOW_ORDER) & 0xffff_ffff;
    if word >> 32 == window {
        word + 1
    } else {
        (window << 32) | 1
    }
}

/// Whether the last one that was counted is one too many.
#[inline(always)]
pub const fn is_too_many(word: u64) -> bool {
    word & 0xffff_ffff > MOST_EMPTIED
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_so_many_and_the_next_begins_anew() {
        let window = 1 << EMPTIED_WINDOW_ORDER;
        let mut word = 0;
        for number in 1..=MOST_EMPTIED + 5 {
            word = one_more(word, window * 7 + number);
            assert_eq!(is_too_many(word), number > MOST_EMPTIED);
        }
        word = one_more(word, window * 8);
        assert!(!is_too_many(word));
        assert_eq!(one_more(word, window * 8 + 1) & 0xffff_ffff, 2);
    }
}
