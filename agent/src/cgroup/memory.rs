//! Memory of a cgroup.
//!
//! v2: `memory.current`, `memory.stat`, `memory.max`, `memory.events`. v1: `memory.usage_in_bytes`,
//! `memory.stat`, `memory.limit_in_bytes`, `memory.oom_control` (kills since kernel 4.13),
//! `memory.failcnt`. Child cgroups are included, as the kernel charges them to their parents.

use super::{
    error::CgroupError,
    file::{CgroupFiles, keyed_number},
    mount::Version,
};

/// Memory of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryCounts {
    /// Usage less inactive file pages, bytes.
    pub working_set_bytes: Option<u64>,
    /// Tasks killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Times the limit was hit and reclaim began.
    pub limit_hits: Option<u64>,
}

/// v1 writes "no limit" as the largest multiple of the page size below 2^63; no machine has half of that.
const NO_LIMIT_BYTES: u64 = 1 << 62;

/// Parses the inactive file pages of `memory.stat`, bytes, children included.
#[must_use]
pub fn parse_inactive_file(text: &str) -> Option<u64> {
    // v1 has both keys, the plain one without children; v2 has the plain one with children.
    keyed_number(text, "total_inactive_file").or_else(|| keyed_number(text, "inactive_file"))
}

/// Parses `memory.max` or `memory.limit_in_bytes`; `None` for no limit.
#[must_use]
pub fn parse_memory_limit(text: &str) -> Option<u64> {
    text.trim()
        .parse()
        .ok()
        .filter(|&bytes: &u64| bytes < NO_LIMIT_BYTES)
}

/// Parses `memory.events` of v2 or `memory.oom_control` of v1 for the tasks killed for want of memory.
#[must_use]
pub fn parse_oom_kills(text: &str) -> Option<u64> {
    keyed_number(text, "oom_kill")
}

/// Reads the memory of a cgroup; `None` if it vanished or is the root of v2, which has no such files. Three
/// files on v2, four on v1.
pub(super) fn counts(
    files: &mut CgroupFiles<'_>,
    version: Version,
) -> Result<Option<MemoryCounts>, CgroupError> {
    let usage = match version {
        Version::V2 => "memory.current",
        Version::V1 => "memory.usage_in_bytes",
    };
    let Some(usage_bytes) = files.read_number::<u64>(usage)? else {
        return Ok(None);
    };
    let inactive_file_bytes = files.read("memory.stat")?.and_then(parse_inactive_file);
    let (oom_kills, limit_hits) = match version {
        Version::V2 => files.read("memory.events")?.map_or((None, None), |events| {
            (parse_oom_kills(events), keyed_number(events, "max"))
        }),
        Version::V1 => (
            files.read("memory.oom_control")?.and_then(parse_oom_kills),
            files.read_number("memory.failcnt")?,
        ),
    };
    Ok(Some(MemoryCounts {
        // The two files are read one after the other, so the part may exceed the whole.
        working_set_bytes: inactive_file_bytes.map(|inactive| usage_bytes.saturating_sub(inactive)),
        oom_kills,
        limit_hits,
    }))
}

/// Reads the limit of a cgroup, bytes; `None` for none. One file.
pub(super) fn limit(
    files: &mut CgroupFiles<'_>,
    version: Version,
) -> Result<Option<u64>, CgroupError> {
    let limit = match version {
        Version::V2 => "memory.max",
        Version::V1 => "memory.limit_in_bytes",
    };
    Ok(files.read(limit)?.and_then(parse_memory_limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{
        account::{AccountReader, OpenCgroup},
        directory::Handles,
        fake::Tree,
    };

    // Kernel 6.18, v1.
    const STAT_V1: &str = "cache 9748480\nrss 10305536\ninactive_file 0\nactive_file 749568\n\
        hierarchical_memory_limit 9223372036854771712\ntotal_cache 4704366592\n\
        total_inactive_file 2650087424\ntotal_active_file 2045280256\n";
    // Kernel 6.8, v2.
    const STAT_V2: &str = "anon 10305536\nfile 4704366592\nkernel 1048576\ninactive_anon 0\n\
        active_anon 1531904\ninactive_file 2650087424\nactive_file 2045280256\nunevictable 0\n";
    const EVENTS_V2: &str =
        "low 0\nhigh 0\nmax 42\noom 3\noom_kill 2\noom_group_kill 0\nsock_throttled 0\n";

    #[test]
    fn inactive_file_pages_include_children() {
        assert_eq!(parse_inactive_file(STAT_V1), Some(2_650_087_424));
        assert_eq!(parse_inactive_file(STAT_V2), Some(2_650_087_424));
        assert_eq!(parse_inactive_file("cache 1\n"), None);
    }

    #[test]
    fn no_limit_is_none_in_each_spelling() {
        // v2; v1 with pages of 4 KiB and of 64 KiB.
        for text in [
            "max\n",
            "9223372036854771712\n",
            "9223372036854710272\n",
            "-1\n",
            "",
        ] {
            assert_eq!(parse_memory_limit(text), None, "{text}");
        }
        assert_eq!(parse_memory_limit("536870912\n"), Some(536_870_912));
    }

    /// What is said of the cgroup `/web`, and its limit.
    fn read(tree: &Tree) -> Option<(MemoryCounts, Option<u64>)> {
        let mut accounts = AccountReader::new(tree.hierarchies.clone(), Handles::new(8));
        let mut web = OpenCgroup::default();
        let counts = accounts.memory(&mut web, "/web", true).unwrap()?;
        let limit = accounts.memory_limit(&mut web, "/web").unwrap()?;
        Some((counts.what, limit.what))
    }

    #[test]
    fn v2_and_v1_give_the_same_memory() {
        let counts = MemoryCounts {
            working_set_bytes: Some(1_000),
            oom_kills: Some(2),
            limit_hits: Some(42),
        };
        let expected = Some((counts, Some(536_870_912)));
        let v2 = Tree::v2();
        v2.write("web/memory.current", "2650088424\n");
        v2.write("web/memory.stat", STAT_V2);
        v2.write("web/memory.max", "536870912\n");
        v2.write("web/memory.events", EVENTS_V2);
        assert_eq!(read(&v2), expected);

        let v1 = Tree::v1();
        v1.write("memory/web/memory.usage_in_bytes", "2650088424\n");
        v1.write("memory/web/memory.stat", STAT_V1);
        v1.write("memory/web/memory.limit_in_bytes", "536870912\n");
        v1.write(
            "memory/web/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        );
        v1.write("memory/web/memory.failcnt", "42\n");
        assert_eq!(read(&v1), expected);
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_absent() {
        let v1 = Tree::v1();
        v1.write("memory/web/memory.usage_in_bytes", "5\n");
        // Kernel 4.4: no kills.
        v1.write(
            "memory/web/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\n",
        );
        assert_eq!(read(&v1), Some((MemoryCounts::default(), None)));
    }

    #[test]
    fn a_vanished_cgroup_is_none() {
        assert_eq!(read(&Tree::v2()), None);
    }
}
