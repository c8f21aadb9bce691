//! CPU bandwidth control, weight and time of a cgroup.
//!
//! v2: `cpu.stat`, `cpu.max`, `cpu.weight`. v1: `cpu.stat`, `cpu.cfs_quota_us`, `cpu.cfs_period_us`,
//! `cpu.shares`, `cpuacct.usage`. Without `CONFIG_CFS_BANDWIDTH` or the controller there are no periods.

use super::{
    error::CgroupError,
    file::{CgroupFiles, keyed_number},
    mount::Version,
};

/// What bandwidth control has done to a cgroup. It only goes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Periods {
    /// Enforcement periods that elapsed.
    pub periods: u64,
    /// Periods in which it was throttled.
    pub throttled_periods: u64,
    /// Time throttled, summed over CPUs, nanoseconds.
    pub throttled_ns: u64,
}

/// What a cgroup is given of the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuLimits {
    /// Quota in cores; `None` where it has none.
    pub quota_cores: Option<f64>,
    /// Weight on the v2 scale (100 is the default); v1 shares are converted.
    pub weight: Option<u64>,
}

/// `cpu.stat` of either version; what a kernel or a cgroup does not keep is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStat {
    /// CPU time, microseconds (v2).
    pub usage_usec: Option<u64>,
    /// Enforcement periods that elapsed.
    pub periods: Option<u64>,
    /// Periods in which it was throttled.
    pub throttled_periods: Option<u64>,
    /// Time throttled, summed over CPUs, nanoseconds.
    pub throttled_ns: Option<u64>,
}

/// Parses `cpu.stat`: `throttled_usec` of v2, `throttled_time` (nanoseconds) of v1.
#[must_use]
pub fn parse_cpu_stat(text: &str) -> CpuStat {
    CpuStat {
        usage_usec: keyed_number(text, "usage_usec"),
        periods: keyed_number(text, "nr_periods"),
        throttled_periods: keyed_number(text, "nr_throttled"),
        throttled_ns: keyed_number(text, "throttled_usec")
            .map(|usec| usec.saturating_mul(1000))
            .or_else(|| keyed_number(text, "throttled_time")),
    }
}

/// Parses `cpu.max` of v2 (`QUOTA PERIOD` in microseconds, or `max PERIOD`) into cores; `None` for no limit.
#[must_use]
pub fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut fields = text.split_ascii_whitespace();
    let quota = fields.next()?.parse().ok()?;
    cores(quota, fields.next()?.parse().ok()?)
}

/// Quota and period of v1 in cores; a quota of -1 is no limit.
#[must_use]
pub fn parse_cfs_quota(quota: &str, period: &str) -> Option<f64> {
    cores(quota.trim().parse().ok()?, period.trim().parse().ok()?)
}

/// Shares of v1 on the scale of v2, as the kernel itself converts them: 1024 shares are a weight of 100.
///
/// Runtimes convert by formulas of their own when they write `cpu.weight` (runc for long mapped the ranges
/// end to end, 1024 to 39), so weights compare between containers of one host, not between hosts.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/sched/sched.h> (`sched_weight_to_cgroup`)
#[must_use]
pub fn weight_of_shares(shares: u64) -> u64 {
    (shares.saturating_mul(100).saturating_add(512) / 1024).clamp(1, 10_000)
}

fn cores(quota_usec: i64, period_usec: i64) -> Option<f64> {
    // Both are below 2^53 in any kernel, so the conversion is exact.
    (quota_usec > 0 && period_usec > 0).then(|| quota_usec as f64 / period_usec as f64)
}

/// Reads what bandwidth control has done to a cgroup; `None` if it vanished or has no such control (the root of
/// v2, the controller not enabled). One file.
///
/// The kernel counts the periods of a cgroup's own quota only: those of a limit on a parent are the
/// parent's.
pub(super) fn periods(files: &mut CgroupFiles<'_>) -> Result<Option<Periods>, CgroupError> {
    let Some(stat) = files.read("cpu.stat")?.map(parse_cpu_stat) else {
        return Ok(None);
    };
    let CpuStat {
        periods: Some(periods),
        throttled_periods: Some(throttled_periods),
        throttled_ns: Some(throttled_ns),
        ..
    } = stat
    else {
        return Ok(None);
    };
    Ok(Some(Periods {
        periods,
        throttled_periods,
        throttled_ns,
    }))
}

/// Reads quota and weight of a cgroup. Two files on v2, three on v1.
pub(super) fn limits(
    files: &mut CgroupFiles<'_>,
    version: Version,
) -> Result<CpuLimits, CgroupError> {
    Ok(match version {
        Version::V2 => CpuLimits {
            quota_cores: files.read("cpu.max")?.and_then(parse_cpu_max),
            weight: files.read_number("cpu.weight")?,
        },
        Version::V1 => {
            let quota = files.read_number::<i64>("cpu.cfs_quota_us")?;
            let period = files.read_number::<i64>("cpu.cfs_period_us")?;
            let shares = files.read_number("cpu.shares")?;
            CpuLimits {
                quota_cores: quota
                    .zip(period)
                    .and_then(|(quota, period)| cores(quota, period)),
                weight: shares.map(weight_of_shares),
            }
        }
    })
}

/// Reads the CPU time of a cgroup and its children, nanoseconds. One file.
pub(super) fn usage_ns(
    files: &mut CgroupFiles<'_>,
    version: Version,
) -> Result<Option<u64>, CgroupError> {
    match version {
        Version::V1 => files.read_number("cpuacct.usage"),
        Version::V2 => Ok(files
            .read("cpu.stat")?
            .and_then(|text| parse_cpu_stat(text).usage_usec)
            .filter(|&usec| usec > 0)
            .map(|usec| usec.saturating_mul(1000))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Kernel 6.18, v2.
    const STAT_V2: &str = "usage_usec 298210471\nuser_usec 218049746\nsystem_usec 80160724\nnice_usec 0\n\
        core_sched.force_idle_usec 0\nnr_periods 120\nnr_throttled 7\nthrottled_usec 350123\n\
        nr_bursts 0\nburst_usec 0\n";
    // Kernel 6.18, v1.
    const STAT_V1: &str =
        "nr_periods 120\nnr_throttled 7\nthrottled_time 350123456\nnr_bursts 0\nburst_time 0\n";

    #[test]
    fn throttled_time_is_in_nanoseconds_for_both_versions() {
        let v2 = parse_cpu_stat(STAT_V2);
        assert_eq!(v2.throttled_ns, Some(350_123_000));
        assert_eq!(v2.usage_usec, Some(298_210_471));
        let v1 = parse_cpu_stat(STAT_V1);
        assert_eq!(v1.throttled_ns, Some(350_123_456));
        assert_eq!(v1.periods, Some(120));
        assert_eq!(v1.throttled_periods, Some(7));
        assert_eq!(v1.usage_usec, None);
    }

    #[test]
    fn a_quota_is_in_cores_and_no_limit_is_none() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("100000 0"), None);
        assert_eq!(parse_cpu_max(""), None);
        assert_eq!(parse_cfs_quota("50000\n", "100000\n"), Some(0.5));
        assert_eq!(parse_cfs_quota("-1\n", "100000\n"), None);
    }

    #[test]
    fn shares_become_weights_as_in_the_kernel() {
        let cases = [
            (2, 1),
            (1024, 100),
            (512, 50),
            (2048, 200),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ];
        for (shares, weight) in cases {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }
}
