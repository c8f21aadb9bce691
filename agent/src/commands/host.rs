//! Where the commands meet the rest of the agent: how a local source is made, and what a host offers.

use std::{path::Path, sync::Arc};

use super::Finding;
use crate::{
    bpf::{
        btf::{self, Btf},
        features::{HostFeatures, Roots, Status, findings as judge, sampling_fix},
        layout::resolve,
        try_cpu_clock,
    },
    cgroup::{DiscoverOptions, Hierarchies},
    config::Config,
    daemon::engine_options,
    engine::{Agent, EngineError},
    host::{SAMPLE_RATE_SETTING, sample_rate_limit},
    observer::Observer,
    source::{DEFAULT_PROFILE_FREQUENCY, Source, SourceError},
};

/// The limit of samples per second that kernels begin with (`DEFAULT_MAX_SAMPLE_RATE`,
/// `kernel/events/core.c`).
const DEFAULT_LIMIT: u32 = 100_000;

/// Loads the programs into this kernel, for as long as the source lives.
///
/// # Errors
///
/// [`SourceError::Unsupported`] that names the fix.
pub fn local_source(config: &Config) -> Result<Box<dyn Source>, SourceError> {
    match Agent::start(engine_options(config)) {
        Ok(agent) => {
            let observer = Observer::new(Arc::new(agent), config.diagnosis.clone());
            Ok(Box::new(observer))
        }
        Err(EngineError::Privilege) => Err(SourceError::Unsupported(
            "ctrscope needs root or CAP_BPF+CAP_PERFMON to load programs; run it with sudo, or start \
             the daemon once with `sudo ctrscope run`"
                .to_owned(),
        )),
        Err(error) => Err(SourceError::Failed {
            context: "start to measure".to_owned(),
            source: Box::new(error),
        }),
    }
}

/// What this host offers.
#[must_use]
pub fn findings(config: &Config) -> Vec<Finding> {
    let options = engine_options(config);
    let features = HostFeatures::probe(&Roots {
        proc: options.proc_root.clone(),
        ..Roots::default()
    });
    let path = options.btf.as_deref().unwrap_or(Path::new(btf::KERNEL));
    let resolved = Btf::from_file(path).map(|btf| resolve(&btf));
    let mut findings = judge(&features, resolved.as_ref());
    findings.push(perf_events(&features));
    findings.extend(sample_rate_limit(&options.proc_root).map(sample_rate));
    findings.push(cgroups(config));
    findings
}

/// Whether this process may sample CPUs.
fn perf_events(features: &HostFeatures) -> Finding {
    let cpu = features.cpus_online.as_ref().and_then(|cpus| cpus.first());
    let (status, detail, fix) = match try_cpu_clock(cpu.copied().unwrap_or(0)) {
        Ok(()) => (Status::Ok, "a CPU can be sampled".to_owned(), None),
        Err(error) => (
            Status::Missing,
            format!("perf_event_open: {error}: no profiles"),
            Some(sampling_fix(&error, features).to_owned()),
        ),
    };
    Finding {
        subject: "perf events".to_owned(),
        status,
        detail,
        fix,
    }
}

/// Whether profiles get the rate that they are recorded at unless another is asked for.
fn sample_rate(limit: u32) -> Finding {
    let setting = format!("{SAMPLE_RATE_SETTING} is {limit}");
    let (status, detail, fix) = if limit < DEFAULT_PROFILE_FREQUENCY {
        let detail = format!(
            "{setting}: profiles are sampled at {limit} Hz and not at {DEFAULT_PROFILE_FREQUENCY}"
        );
        let fix = format!(
            "sysctl {SAMPLE_RATE_SETTING}={DEFAULT_LIMIT}; where the kernel lowers it again by itself, \
             samples take too long"
        );
        (Status::Warn, detail, Some(fix))
    } else {
        (Status::Ok, setting, None)
    };
    Finding {
        subject: "sample rate".to_owned(),
        status,
        detail,
        fix,
    }
}

/// How the cgroup hierarchies are mounted.
fn cgroups(config: &Config) -> Finding {
    let options = engine_options(config);
    let discover = DiscoverOptions {
        cgroup_root: options.cgroup_root,
    };
    let found = Hierarchies::discover(&options.proc_root.join("self/mountinfo"), &discover);
    let (status, detail, fix) = match found {
        Ok(found) => {
            let offered = [
                ("cpu", found.cpu.is_some()),
                ("io", found.blkio.is_some()),
                ("memory", found.memory.is_some()),
                ("pressure", found.unified.is_some()),
            ];
            let list = |wanted: bool| {
                let names: Vec<_> = offered
                    .iter()
                    .filter(|(_, there)| *there == wanted)
                    .map(|(name, _)| *name)
                    .collect();
                names.join(", ")
            };
            let lacking = list(false);
            let detail = format!("{}; with {}", found.mode.name(), list(true));
            if lacking.is_empty() {
                (Status::Ok, detail, None)
            } else {
                let fix =
                    "mount these controllers, or boot with systemd.unified_cgroup_hierarchy=1";
                (
                    Status::Warn,
                    format!("{detail}; without {lacking}"),
                    Some(fix.to_owned()),
                )
            }
        }
        Err(error) => (
            Status::Missing,
            crate::error_chain::error_chain(&error),
            Some(
                "mount the host's cgroup file systems and name the place with --cgroup-root".into(),
            ),
        ),
    };
    Finding {
        subject: "cgroups".to_owned(),
        status,
        detail,
        fix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_the_usual_rate_is_a_warning_with_its_setting() {
        let low = sample_rate(60);
        assert_eq!(low.status, Status::Warn);
        assert_eq!(
            low.detail,
            "kernel.perf_event_max_sample_rate is 60: profiles are sampled at 60 Hz and not at 99"
        );
        let fix = low.fix.expect("a fix");
        assert!(
            fix.starts_with("sysctl kernel.perf_event_max_sample_rate=100000"),
            "{fix}"
        );
        let enough = sample_rate(99);
        assert_eq!((enough.status, enough.fix), (Status::Ok, None));
    }
}
