//! Memory of the machine: `/proc/meminfo` and `/proc/vmstat`.

/// Of `/proc/meminfo`, bytes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeminfoSample {
    /// All of it.
    pub total_bytes: Option<u64>,
    /// What could be had without swapping.
    pub available_bytes: Option<u64>,
    /// Swap.
    pub swap_total_bytes: Option<u64>,
    /// Swap free.
    pub swap_free_bytes: Option<u64>,
    /// Dirty pages and those under writeback.
    pub dirty_bytes: Option<u64>,
    /// Memory that failed.
    pub corrupted_bytes: Option<u64>,
}

/// Parses `/proc/meminfo`.
#[must_use]
pub fn parse_meminfo(text: &str) -> MeminfoSample {
    let mut sample = MeminfoSample::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let place = match key {
            "MemTotal" => &mut sample.total_bytes,
            "MemAvailable" => &mut sample.available_bytes,
            "SwapTotal" => &mut sample.swap_total_bytes,
            "SwapFree" => &mut sample.swap_free_bytes,
            "Dirty" | "Writeback" => &mut sample.dirty_bytes,
            "HardwareCorrupted" => &mut sample.corrupted_bytes,
            _ => continue,
        };
        let number = value.trim().strip_suffix(" kB").map(str::parse::<u64>);
        if let Some(Ok(kib)) = number {
            let bytes = kib.saturating_mul(1024);
            *place = Some(place.unwrap_or(0).saturating_add(bytes));
        }
    }
    sample
}

/// Of `/proc/vmstat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmstatSample {
    /// Pages reclaimed by tasks that needed memory at once.
    pub direct_reclaim_pages: Option<u64>,
    /// Times that a task had to do that.
    pub direct_reclaims: Option<u64>,
    /// Tasks killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Dirty pages above which writers are slowed down, and those above which writeback begins, now.
    dirty_threshold_pages: Option<u64>,
    background_threshold_pages: Option<u64>,
}

impl VmstatSample {
    /// Dirty pages from which on the kernel slows writers down, bytes: halfway between the two thresholds
    /// (`dirty_freerun_ceiling`, mm/page-writeback.c).
    #[must_use]
    pub fn slowdown_bytes(&self, page_bytes: u64) -> Option<u64> {
        let sum = self
            .dirty_threshold_pages?
            .checked_add(self.background_threshold_pages?)?;
        (sum / 2).checked_mul(page_bytes)
    }
}

/// Parses `/proc/vmstat`. Kernels before 4.8 count by zone.
#[must_use]
pub fn parse_vmstat(text: &str) -> VmstatSample {
    let mut sample = VmstatSample::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ') else {
            continue;
        };
        let place = match key {
            "pgsteal_direct" => &mut sample.direct_reclaim_pages,
            "oom_kill" => &mut sample.oom_kills,
            "nr_dirty_threshold" => &mut sample.dirty_threshold_pages,
            "nr_dirty_background_threshold" => &mut sample.background_threshold_pages,
            key if key.starts_with("allocstall") => &mut sample.direct_reclaims,
            _ => continue,
        };
        if let Ok(value) = value.trim().parse::<u64>() {
            *place = Some(place.unwrap_or(0).saturating_add(value));
        }
    }
    sample
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMINFO: &str = include_str!("../../fixtures/host/meminfo_6_18");
    const VMSTAT: &str = include_str!("../../fixtures/host/vmstat_6_18");

    #[test]
    fn kibibytes_become_bytes() {
        let expected = MeminfoSample {
            total_bytes: Some(24_684_096 << 10),
            available_bytes: Some(23_103_332 << 10),
            swap_total_bytes: Some(0),
            swap_free_bytes: Some(0),
            dirty_bytes: Some(132_536 << 10),
            // Built without CONFIG_MEMORY_FAILURE.
            corrupted_bytes: None,
        };
        assert_eq!(parse_meminfo(MEMINFO), expected);
        let broken =
            parse_meminfo("HardwareCorrupted:     8 kB\nDirty: 5\nWriteback: x kB\n: 1 kB\n");
        assert_eq!(broken.corrupted_bytes, Some(8192));
        assert_eq!(broken.dirty_bytes, None);
    }

    #[test]
    fn reclaim_and_thresholds_are_found() {
        let sample = parse_vmstat(VMSTAT);
        assert_eq!(sample.direct_reclaim_pages, Some(26_548));
        assert_eq!(sample.direct_reclaims, Some(41 + 173));
        assert_eq!(sample.oom_kills, Some(0));
        assert_eq!(
            sample.slowdown_bytes(4096),
            Some((1_106_533 + 552_591) / 2 * 4096)
        );
        assert_eq!(parse_vmstat("").slowdown_bytes(4096), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(
            text in "((nr_dirty_threshold|pgsteal_direct|allocstall_x|Dirty:|Writeback:) [0-9]{0,20}( kB)?\n|.{0,20}\n){0,8}"
        ) {
            let _ = parse_meminfo(&text);
            let _ = parse_vmstat(&text).slowdown_bytes(65_536);
        }
    }
}
