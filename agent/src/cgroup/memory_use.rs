//! Memory of any cgroup, a container's own or one above it: its limits and what they did, and what
//! reclaim cost it.
//!
//! v2: `memory.max`, `memory.high`, `memory.current`, `memory.events.local` (5.2), `memory.events`,
//! `memory.stat`, `memory.swap.current`. v1: `memory.limit_in_bytes`, `memory.usage_in_bytes`,
//! `memory.failcnt`, `memory.oom_control`, `memory.stat`; it has nothing like `memory.high`, and does not
//! tell who reclaimed.

use super::{
    error::CgroupError,
    file::{CgroupFiles, FileReader, keyed_number},
    hierarchy::Hierarchies,
    memory::{parse_memory_limit, parse_oom_kills},
    mount::Version,
};

/// Limits on the memory of a cgroup and how often they were met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Usage now, bytes.
    pub usage_bytes: Option<u64>,
    /// The limit, bytes; `None` for none.
    pub limit_bytes: Option<u64>,
    /// Where tasks are slowed down, bytes; `None` for nowhere.
    pub high_bytes: Option<u64>,
    /// Times that this cgroup's own limit was hit and reclaim began.
    pub limit_hits: Option<u64>,
    /// Times that tasks were slowed down for this cgroup's own mark.
    pub high_hits: Option<u64>,
}

/// What memory a cgroup has and what it cost to have it, all below it included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStat {
    /// Inactive file pages now, bytes.
    pub inactive_file_bytes: Option<u64>,
    /// Dirty pages and those under writeback now, bytes.
    pub dirty_bytes: Option<u64>,
    /// Swap used now, bytes; v2 has it in a file of its own.
    pub swap_bytes: Option<u64>,
    /// Pages that had been reclaimed and were needed again, file and anonymous.
    pub refaults: Option<u64>,
    /// Major page faults.
    pub major_faults: Option<u64>,
    /// Pages reclaimed from it by tasks that needed them at once (v2, since 6.0).
    pub direct_reclaim_pages: Option<u64>,
}

/// Parses `memory.stat` of v2, in one pass.
#[must_use]
pub fn parse_memory_stat_v2(text: &str) -> MemoryStat {
    let mut stat = MemoryStat::default();
    for (key, value) in pairs(text) {
        match key {
            "inactive_file" => stat.inactive_file_bytes = Some(value),
            "file_dirty" | "file_writeback" => add(&mut stat.dirty_bytes, value),
            // Before 5.9 anonymous pages were not counted, and the name had no suffix.
            "workingset_refault" | "workingset_refault_anon" | "workingset_refault_file" => {
                add(&mut stat.refaults, value);
            }
            "pgmajfault" => stat.major_faults = Some(value),
            "pgsteal_direct" => stat.direct_reclaim_pages = Some(value),
            _ => {}
        }
    }
    stat
}

/// Parses `memory.stat` of v1, in one pass: the sums that include children.
#[must_use]
pub fn parse_memory_stat_v1(text: &str) -> MemoryStat {
    let mut stat = MemoryStat::default();
    for (key, value) in pairs(text) {
        match key {
            "total_inactive_file" => stat.inactive_file_bytes = Some(value),
            "total_dirty" | "total_writeback" => add(&mut stat.dirty_bytes, value),
            "total_swap" => stat.swap_bytes = Some(value),
            "total_workingset_refault"
            | "total_workingset_refault_anon"
            | "total_workingset_refault_file" => add(&mut stat.refaults, value),
            "total_pgmajfault" => stat.major_faults = Some(value),
            _ => {}
        }
    }
    stat
}

/// Reads the limits of a cgroup; `None` if it vanished or has no such files, as the root of v2. Two to
/// four files.
///
/// # Errors
///
/// If a file is there and cannot be read.
pub fn read_memory_limits(
    reader: &mut FileReader,
    hierarchies: &Hierarchies,
    cgroup_path: &str,
) -> Result<Option<MemoryLimits>, CgroupError> {
    let Some(mount) = &hierarchies.memory else {
        return Ok(None);
    };
    let Some(mut files) = CgroupFiles::new(reader, mount, cgroup_path) else {
        return Ok(None);
    };
    let is_v2 = mount.version == Version::V2;
    let name = if is_v2 {
        "memory.max"
    } else {
        "memory.limit_in_bytes"
    };
    let Some(limit_bytes) = files.read(name)?.map(parse_memory_limit) else {
        return Ok(None);
    };
    let mut limits = MemoryLimits {
        limit_bytes,
        ..MemoryLimits::default()
    };
    if is_v2 {
        limits.high_bytes = files.read("memory.high")?.and_then(parse_memory_limit);
    }
    if limits.limit_bytes.is_none() && limits.high_bytes.is_none() {
        return Ok(Some(limits));
    }
    if is_v2 {
        limits.usage_bytes = files.read_number("memory.current")?;
        // `memory.events` counts what happened below as well, and so does not say whose limit it was.
        let events = files.read("memory.events.local")?;
        limits.limit_hits = events.and_then(|events| keyed_number(events, "max"));
        limits.high_hits = events.and_then(|events| keyed_number(events, "high"));
    } else {
        limits.usage_bytes = files.read_number("memory.usage_in_bytes")?;
        limits.limit_hits = files.read_number("memory.failcnt")?;
    }
    Ok(Some(limits))
}

/// What a cgroup's memory is and what it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Usage less inactive file pages now, bytes.
    pub working_set_bytes: Option<u64>,
    /// The rest of its account.
    pub stat: MemoryStat,
    /// Tasks of it killed for want of memory.
    pub oom_kills: Option<u64>,
}

/// Reads the memory of a cgroup; `None` if it vanished or has no such files. Three files on v1, four
/// on v2.
///
/// # Errors
///
/// If a file is there and cannot be read.
pub fn read_memory_use(
    reader: &mut FileReader,
    hierarchies: &Hierarchies,
    cgroup_path: &str,
) -> Result<Option<MemoryUse>, CgroupError> {
    let Some(mount) = &hierarchies.memory else {
        return Ok(None);
    };
    let Some(mut files) = CgroupFiles::new(reader, mount, cgroup_path) else {
        return Ok(None);
    };
    let is_v2 = mount.version == Version::V2;
    let (usage, events) = if is_v2 {
        ("memory.current", "memory.events")
    } else {
        ("memory.usage_in_bytes", "memory.oom_control")
    };
    let Some(usage_bytes) = files.read_number::<u64>(usage)? else {
        return Ok(None);
    };
    let parse = if is_v2 {
        parse_memory_stat_v2
    } else {
        parse_memory_stat_v1
    };
    let mut stat = files.read("memory.stat")?.map(parse).unwrap_or_default();
    if is_v2 {
        stat.swap_bytes = files.read_number("memory.swap.current")?;
    }
    Ok(Some(MemoryUse {
        // The two files are read one after the other, so the part may exceed the whole.
        working_set_bytes: stat
            .inactive_file_bytes
            .map(|inactive| usage_bytes.saturating_sub(inactive)),
        stat,
        oom_kills: files.read(events)?.and_then(parse_oom_kills),
    }))
}

fn add(sum: &mut Option<u64>, value: u64) {
    *sum = Some(sum.unwrap_or(0).saturating_add(value));
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cgroup::fake::Tree;

    // The origins of these are in `fixtures/cgroup/README.md`.
    const STAT_V1: &str = include_str!("../../fixtures/cgroup/memory_stat_v1_6_18");

    #[test]
    fn v1_has_sums_with_children_and_does_not_tell_who_reclaimed() {
        let expected = MemoryStat {
            inactive_file_bytes: Some(12_111_003_648),
            dirty_bytes: Some(916_914_176),
            swap_bytes: Some(0),
            refaults: Some(10_461_136),
            major_faults: Some(48_574),
            direct_reclaim_pages: None,
        };
        assert_eq!(parse_memory_stat_v1(STAT_V1), expected);
    }

    #[test]
    fn a_limit_of_v2_has_its_own_hits() {
        let v2 = Tree::v2();
        v2.write("pod/memory.max", "67108864\n");
        v2.write("pod/memory.high", "60000000\n");
        v2.write("pod/memory.current", "59998208\n");
        v2.write(
            "pod/memory.events",
            "low 0\nhigh 900\nmax 800\noom 3\noom_kill 2\n",
        );
        v2.write(
            "pod/memory.events.local",
            "low 0\nhigh 9\nmax 8\noom 0\noom_kill 0\n",
        );
        let mut reader = FileReader::new();
        let mut read = |path: &str| read_memory_limits(&mut reader, &v2.hierarchies, path).unwrap();
        let expected = MemoryLimits {
            usage_bytes: Some(59_998_208),
            limit_bytes: Some(67_108_864),
            high_bytes: Some(60_000_000),
            limit_hits: Some(8),
            high_hits: Some(9),
        };
        assert_eq!(read("/pod"), Some(expected));
        assert_eq!(read("/gone"), None);
        // Before 5.2 nobody knows whose limit it was.
        std::fs::remove_file(v2.path("pod/memory.events.local")).unwrap();
        let old = read("/pod").unwrap();
        assert_eq!((old.limit_hits, old.high_hits), (None, None));
        v2.write("pod/memory.max", "max\n");
        v2.write("pod/memory.high", "max\n");
        assert_eq!(read("/pod"), Some(MemoryLimits::default()));
    }

    #[test]
    fn a_limit_of_v1_has_its_failures() {
        let v1 = Tree::v1();
        v1.write("memory/pod/memory.limit_in_bytes", "67108864\n");
        v1.write("memory/pod/memory.usage_in_bytes", "67104768\n");
        v1.write("memory/pod/memory.failcnt", "42\n");
        let mut reader = FileReader::new();
        let found = read_memory_limits(&mut reader, &v1.hierarchies, "/pod").unwrap();
        let expected = MemoryLimits {
            usage_bytes: Some(67_104_768),
            limit_bytes: Some(67_108_864),
            limit_hits: Some(42),
            ..MemoryLimits::default()
        };
        assert_eq!(found, Some(expected));
        v1.write("memory/pod/memory.limit_in_bytes", "9223372036854771712\n");
        let found = read_memory_limits(&mut reader, &v1.hierarchies, "/pod").unwrap();
        assert_eq!(found, Some(MemoryLimits::default()));
    }

    #[test]
    fn both_versions_tell_what_is_used() {
        let v1 = Tree::v1();
        v1.write("memory/web/memory.usage_in_bytes", "12111003748\n");
        v1.write("memory/web/memory.stat", STAT_V1);
        v1.write(
            "memory/web/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        );
        let mut reader = FileReader::new();
        let found = read_memory_use(&mut reader, &v1.hierarchies, "/web").unwrap();
        let found = found.unwrap();
        assert_eq!(
            (found.working_set_bytes, found.oom_kills),
            (Some(100), Some(2))
        );
        let v2 = Tree::v2();
        v2.write("web/memory.current", "5000\n");
        v2.write("web/memory.stat", "inactive_file 1000\npgsteal_direct 7\n");
        v2.write("web/memory.swap.current", "4096\n");
        v2.write("web/memory.events", "max 1\noom_kill 3\n");
        let found = read_memory_use(&mut reader, &v2.hierarchies, "/web").unwrap();
        let expected = MemoryUse {
            working_set_bytes: Some(4_000),
            stat: MemoryStat {
                inactive_file_bytes: Some(1_000),
                swap_bytes: Some(4_096),
                direct_reclaim_pages: Some(7),
                ..MemoryStat::default()
            },
            oom_kills: Some(3),
        };
        assert_eq!(found, Some(expected));
        assert_eq!(
            read_memory_use(&mut reader, &v2.hierarchies, "/gone").unwrap(),
            None
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(
            text in "((total_)?(workingset_refault(_anon|_file)?|file_dirty|dirty|writeback|pgmajfault) [0-9]{0,20}\n|.{0,20}\n){0,8}"
        ) {
            let _ = parse_memory_stat_v1(&text);
            let _ = parse_memory_stat_v2(&text);
        }
    }
}
