//! Where the commands meet the rest of the agent: the one place that knows how a local source is made,
//! how the daemon is started, what a host offers, and what a cgroup path means.

use std::{fs, os::unix::fs::MetadataExt as _};

use super::{CgroupIdentity, CommandError, Finding};
use crate::{
    config::Config,
    source::{Source, SourceError},
};

/// Loads the programs into this kernel, for as long as the source lives.
///
/// # Errors
///
/// [`SourceError::Unsupported`] that names the fix.
pub fn local_source(config: &Config) -> Result<Box<dyn Source>, SourceError> {
    require_privilege(config)?;
    Err(SourceError::Unsupported(
        "this build loads no programs; start the daemon with `sudo ctrscope run`".to_owned(),
    ))
}

/// Runs the daemon until it is asked to end.
///
/// # Errors
///
/// Why it could not start.
pub fn serve(config: &Config) -> Result<(), CommandError> {
    require_privilege(config)?;
    Err(SourceError::Unsupported("this build has no daemon".to_owned()).into())
}

/// What this host offers.
#[must_use]
pub fn findings(_config: &Config) -> Vec<Finding> {
    Vec::new()
}

/// What a cgroup path means; `None` where no runtime is known to make such a path.
#[must_use]
pub fn identify(_cgroup_path: &str) -> Option<CgroupIdentity> {
    None
}

/// Says what to do where this process may not load programs.
fn require_privilege(config: &Config) -> Result<(), SourceError> {
    const CAP_PERFMON: u32 = 38;
    const CAP_BPF: u32 = 39;
    let effective = fs::read_to_string(config.proc_root.join("self/status"))
        .or_else(|_| fs::read_to_string("/proc/self/status"))
        .ok()
        .and_then(|status| effective_capabilities(&status));
    let is_root = fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    let allowed = match effective {
        Some(capabilities) => [CAP_PERFMON, CAP_BPF]
            .iter()
            .all(|capability| capabilities & (1 << capability) != 0),
        None => is_root,
    };
    // Kernels before 5.8 know neither capability and ask for CAP_SYS_ADMIN, which root has.
    if allowed || is_root {
        return Ok(());
    }
    Err(SourceError::Unsupported(
        "ctrscope needs root or CAP_BPF+CAP_PERFMON to load programs; run it with sudo, or start \
         the daemon once with `sudo ctrscope run`"
            .to_owned(),
    ))
}

/// The `CapEff` line of `/proc/PID/status`.
fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        let status = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        assert_eq!(effective_capabilities(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
