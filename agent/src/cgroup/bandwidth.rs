//! Quota, burst, weight and CPU time of any cgroup, a container's own or one above it.
//!
//! v2: `cpu.max`, `cpu.max.burst` (5.14), `cpu.stat`, `cpu.weight`. v1: `cpu.cfs_quota_us`,
//! `cpu.cfs_period_us`, `cpu.cfs_burst_us` (5.14), `cpu.stat`, `cpu.shares`, `cpuacct.usage`. The kernel
//! counts the throttling of each quota at the cgroup that has it.

use super::{
    cpu::{parse_cpu_stat, weight_of_shares},
    error::CgroupError,
    file::{CgroupFiles, FileReader},
    hierarchy::Hierarchies,
    mount::Version,
};

/// CPU control of a cgroup; what the kernel or the cgroup does not have is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bandwidth {
    /// Its quota, and what that did; `None` where there is none.
    pub quota: Option<Quota>,
    /// Weight on the scale of v2, 1 to 10,000; 0 where its tasks are to run when nobody else does
    /// (`cpu.idle`).
    pub weight: Option<u64>,
    /// Time on CPUs of all below it, nanoseconds.
    pub usage_ns: Option<u64>,
}

/// A quota, and what it did since its cgroup was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quota {
    /// CPU time in a period, in cores.
    pub cores: f64,
    /// What may be saved up beyond it, nanoseconds of CPU time.
    pub burst_ns: u64,
    /// Enforcement periods that elapsed.
    pub periods: u64,
    /// Periods in which it was throttled.
    pub throttled_periods: u64,
    /// Time throttled, summed over CPUs, nanoseconds.
    pub throttled_ns: u64,
}

/// Reads the CPU control of a cgroup; `None` if it vanished, or is not in the hierarchy of the cpu
/// controller. Two files on v2 and three on v1, two to three more where there is a quota; `with_usage`
/// adds one on v1.
///
/// # Errors
///
/// If a file is there and cannot be read.
pub fn read_bandwidth(
    reader: &mut FileReader,
    hierarchies: &Hierarchies,
    cgroup_path: &str,
    with_usage: bool,
) -> Result<Option<Bandwidth>, CgroupError> {
    let Some(mount) = &hierarchies.cpu else {
        return Ok(None);
    };
    let Some(mut files) = CgroupFiles::new(reader, mount, cgroup_path) else {
        return Ok(None);
    };
    if mount.version == Version::V2 {
        return read_v2(&mut files);
    }
    let Some(shares) = files.read_number("cpu.shares")? else {
        return Ok(None);
    };
    let mut bandwidth = Bandwidth {
        quota: read_v1_quota(&mut files)?,
        weight: Some(weight_of_shares(shares)),
        usage_ns: None,
    };
    if with_usage
        && let Some(mount) = hierarchies
            .cpuacct
            .as_ref()
            .filter(|mount| mount.version == Version::V1)
        && let Some(mut files) = CgroupFiles::new(reader, mount, cgroup_path)
    {
        bandwidth.usage_ns = files.read_number("cpuacct.usage")?;
    }
    Ok(Some(bandwidth))
}

fn read_v2(files: &mut CgroupFiles<'_>) -> Result<Option<Bandwidth>, CgroupError> {
    let Some(stat) = files.read("cpu.stat")?.map(parse_cpu_stat) else {
        return Ok(None);
    };
    let mut bandwidth = Bandwidth {
        quota: None,
        weight: files.read_number("cpu.weight")?,
        usage_ns: stat.usage_usec.map(|usec| usec.saturating_mul(1000)),
    };
    if let (Some(periods), Some(throttled_periods), Some(throttled_ns)) =
        (stat.periods, stat.throttled_periods, stat.throttled_ns)
        && let Some(cores) = files.read("cpu.max")?.and_then(super::parse_cpu_max)
    {
        let burst_usec: Option<u64> = files.read_number("cpu.max.burst")?;
        bandwidth.quota = Some(Quota {
            cores,
            burst_ns: burst_usec.unwrap_or(0).saturating_mul(1000),
            periods,
            throttled_periods,
            throttled_ns,
        });
    }
    Ok(Some(bandwidth))
}

fn read_v1_quota(files: &mut CgroupFiles<'_>) -> Result<Option<Quota>, CgroupError> {
    let Some(quota) = files.read_number::<i64>("cpu.cfs_quota_us")? else {
        return Ok(None);
    };
    if quota <= 0 {
        return Ok(None);
    }
    let period = files.read("cpu.cfs_period_us")?.map(str::to_owned);
    let cores = period.and_then(|period| super::parse_cfs_quota(&quota.to_string(), &period));
    let Some(cores) = cores else {
        return Ok(None);
    };
    let burst_usec: Option<u64> = files.read_number("cpu.cfs_burst_us")?;
    let stat = files.read("cpu.stat")?.map(parse_cpu_stat);
    let stat = stat.unwrap_or_default();
    let counts = stat.periods.zip(stat.throttled_periods);
    Ok(counts
        .zip(stat.throttled_ns)
        .map(|((periods, throttled_periods), throttled_ns)| Quota {
            cores,
            burst_ns: burst_usec.unwrap_or(0).saturating_mul(1000),
            periods,
            throttled_periods,
            throttled_ns,
        }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::fake::Tree;

    const STAT_V2: &str = "usage_usec 298210471\nuser_usec 218049746\nsystem_usec 80160724\n\
        nr_periods 120\nnr_throttled 7\nthrottled_usec 350123\nnr_bursts 0\nburst_usec 0\n";

    fn read(tree: &Tree, path: &str, with_usage: bool) -> Option<Bandwidth> {
        read_bandwidth(&mut FileReader::new(), &tree.hierarchies, path, with_usage).unwrap()
    }

    #[test]
    fn v2_and_v1_give_the_same() {
        let expected = Bandwidth {
            quota: Some(Quota {
                cores: 2.0,
                burst_ns: 20_000_000,
                periods: 120,
                throttled_periods: 7,
                throttled_ns: 350_123_000,
            }),
            weight: Some(100),
            usage_ns: Some(298_210_471_000),
        };
        let v2 = Tree::v2();
        v2.write("pod/cpu.stat", STAT_V2);
        v2.write("pod/cpu.max", "200000 100000\n");
        v2.write("pod/cpu.max.burst", "20000\n");
        v2.write("pod/cpu.weight", "100\n");
        assert_eq!(read(&v2, "/pod", true), Some(expected));

        let v1 = Tree::v1();
        v1.write("cpu/pod/cpu.shares", "1024\n");
        v1.write("cpu/pod/cpu.cfs_quota_us", "200000\n");
        v1.write("cpu/pod/cpu.cfs_period_us", "100000\n");
        v1.write("cpu/pod/cpu.cfs_burst_us", "20000\n");
        v1.write(
            "cpu/pod/cpu.stat",
            "nr_periods 120\nnr_throttled 7\nthrottled_time 350123000\n",
        );
        v1.write("cpuacct/pod/cpuacct.usage", "298210471000\n");
        assert_eq!(read(&v1, "/pod", true), Some(expected));
        let without = read(&v1, "/pod", false);
        assert_eq!(without.map(|found| found.usage_ns), Some(None));
    }

    #[test]
    fn a_kernel_without_bursts_has_none() {
        let v2 = Tree::v2();
        v2.write("pod/cpu.stat", STAT_V2);
        v2.write("pod/cpu.max", "50000 100000\n");
        let quota = read(&v2, "/pod", false).and_then(|found| found.quota);
        assert_eq!(
            quota.map(|quota| (quota.cores, quota.burst_ns)),
            Some((0.5, 0))
        );
    }

    #[test]
    fn no_quota_is_none_and_the_rest_stays() {
        let v2 = Tree::v2();
        v2.write("pod/cpu.stat", STAT_V2);
        v2.write("pod/cpu.max", "max 100000\n");
        v2.write("pod/cpu.weight", "0\n");
        let found = read(&v2, "/pod", false).unwrap();
        assert_eq!((found.quota, found.weight), (None, Some(0)));
        let v1 = Tree::v1();
        v1.write("cpu/pod/cpu.shares", "2\n");
        v1.write("cpu/pod/cpu.cfs_quota_us", "-1\n");
        let found = read(&v1, "/pod", true).unwrap();
        assert_eq!((found.quota, found.weight), (None, Some(1)));
    }

    #[test]
    fn without_the_controller_only_the_time_is_known() {
        let v2 = Tree::v2();
        v2.write("pod/cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n");
        let found = read(&v2, "/pod", false).unwrap();
        assert_eq!((found.quota, found.weight), (None, None));
        assert_eq!(found.usage_ns, Some(5_000));
        assert_eq!(read(&v2, "/gone", true), None);
        assert_eq!(read(&Tree::v1(), "/gone", true), None);
    }
}
