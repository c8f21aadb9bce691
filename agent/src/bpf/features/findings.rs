//! What the host's features mean: what works, what does not, and how to change that.

use std::io;

use serde::Serialize;

use super::{Capabilities, HostFeatures, Limit, Lockdown, Psi};
use crate::bpf::{
    btf::BtfError,
    layout::{Resolved, Verdict},
};

/// How it stands with one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It works.
    Ok,
    /// It works with a part missing or at a risk.
    Warn,
    /// It does not work.
    Missing,
}

/// One line of `ctrscope check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about: `btf`, `program sched_switch`, `CAP_BPF`, ...
    pub subject: String,
    /// How it stands.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// How to get what is lacking; `None` where nothing is.
    pub fix: Option<String>,
}

fn finding(
    subject: impl Into<String>,
    status: Status,
    detail: impl Into<String>,
    fix: &str,
) -> Finding {
    Finding {
        subject: subject.into(),
        status,
        detail: detail.into(),
        fix: (!fix.is_empty()).then(|| fix.to_owned()),
    }
}

fn ok(subject: impl Into<String>, detail: impl Into<String>) -> Finding {
    finding(subject, Status::Ok, detail, "")
}

/// Judges a host, in the order in which lacks should be mended.
#[must_use]
pub fn findings(host: &HostFeatures, resolved: Result<&Resolved, &BtfError>) -> Vec<Finding> {
    let mut all = vec![kernel(host)];
    match resolved {
        Ok(resolved) => {
            all.push(ok("btf", describe_btf(host)));
            let programs = resolved.subjects.all();
            all.extend(programs.map(|(name, verdict)| program(name, verdict)));
        }
        Err(error) => all.push(btf(error)),
    }
    all.extend(sched_info(host));
    match &host.capabilities {
        Some(capabilities) => all.extend(privileges(host, *capabilities)),
        None => all.push(finding(
            "capabilities",
            Status::Warn,
            "unknown: no CapEff in /proc/self/status",
            "mount procfs on /proc",
        )),
    }
    all.extend(memlock(host));
    all.extend(lockdown(host));
    all.extend(kernel_symbols(host));
    all.extend(settings(host));
    all.push(psi(host));
    all.push(ok(
        "tracefs",
        if host.tracefs {
            "mounted"
        } else {
            "not mounted; no program needs it"
        },
    ));
    all.push(cpus(host));
    all.push(runtimes(host));
    all
}

/// What profiles lack on this host, each with its fix: names, and the certainty that it is safe.
#[must_use]
pub fn profile_lacks(host: &HostFeatures) -> Vec<String> {
    let mut all = vec![kernel(host)];
    if let Some(has) = host.capabilities {
        all.extend(names(has));
    }
    all.extend(kernel_symbols(host));
    all.into_iter()
        .filter(|finding| finding.status != Status::Ok)
        .map(|finding| {
            let fix = finding.fix.unwrap_or_default();
            format!("{}: {} (fix: {fix})", finding.subject, finding.detail)
        })
        .collect()
}

/// Puts in front of the kernel's refusal what of this host is behind it, where that is known.
#[must_use]
pub fn explain(refusal: &str, host: &HostFeatures) -> String {
    // The verifier's words change from release to release.
    let reads_by_helper = refusal.contains("probe_read")
        && ["unknown func", "cannot use helper", "Use a helper allowed"]
            .iter()
            .any(|words| refusal.contains(words));
    let is_denied = refusal.contains("Operation not permitted") || refusal.contains("os error 1)");
    let is_locked = host.lockdown == Some(Lockdown::Confidentiality);
    let cause = if is_locked && (reads_by_helper || is_denied) {
        Some(
            "lockdown=confidentiality refuses helpers that read kernel memory: boot with lockdown=integrity",
        )
    } else if reads_by_helper {
        Some(
            "the kernel refuses helpers that read its memory, as lockdown=confidentiality does: boot with lockdown=integrity",
        )
    } else if is_denied && memlock(host).is_some_and(|finding| finding.status != Status::Ok) {
        Some(
            "RLIMIT_MEMLOCK is too low for the maps: run the agent with CAP_SYS_RESOURCE, or under ulimit -l unlimited",
        )
    } else if is_denied {
        Some(
            "the capabilities are there, so a seccomp filter or a security module refuses bpf(2): allow it",
        )
    } else {
        None
    };
    match cause {
        Some(cause) => format!("{cause} ({refusal})"),
        None => refusal.to_owned(),
    }
}

fn kernel(host: &HostFeatures) -> Finding {
    let Some(release) = &host.kernel_release else {
        let fix = "mount procfs on /proc";
        return finding("kernel", Status::Warn, "release unknown", fix);
    };
    if host
        .kernel_version()
        .is_some_and(|version| version < (5, 8))
    {
        return finding(
            "kernel",
            Status::Warn,
            format!("{release}: older than 5.8, which brought BPF ring buffers"),
            "boot a kernel of 5.8 or later",
        );
    }
    if host.warnings.is_empty() {
        return ok("kernel", release);
    }
    finding(
        "kernel",
        Status::Warn,
        format!("{release}: {}", host.warnings.join("; ")),
        "boot a kernel of 6.4 or later for whole stacks of code without frame pointers",
    )
}

fn describe_btf(host: &HostFeatures) -> String {
    host.btf_bytes.map_or_else(
        || "from a file; the kernel shows none".to_owned(),
        |bytes| format!("the kernel's, {bytes} bytes"),
    )
}

fn btf(error: &BtfError) -> Finding {
    let mut detail = error.to_string();
    let fix = match error {
        BtfError::NoKernelBtf { path } => {
            detail = format!(
                "the kernel has no BTF at {}: no program can be loaded, only cgroup files are collected",
                path.display()
            );
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, or give a file with this kernel's BTF by --btf FILE"
        }
        BtfError::Read { source, .. } => {
            detail = format!("{detail}: {source}");
            "make the file readable to the agent"
        }
        BtfError::Malformed { .. } => {
            "give the unchanged BTF of this very kernel, as /sys/kernel/btf/vmlinux shows it"
        }
    };
    finding("btf", Status::Missing, detail, fix)
}

fn program(name: &str, verdict: &Verdict) -> Finding {
    let subject = format!("program {name}");
    if !verdict.missing.is_empty() {
        let detail = format!("the kernel lacks {}", verdict.missing.join(", "));
        return finding(subject, Status::Missing, detail, &remedy(&verdict.missing));
    }
    if !verdict.reduced.is_empty() {
        let detail = format!(
            "works in part; the kernel lacks {}",
            verdict.reduced.join(", ")
        );
        return finding(subject, Status::Warn, detail, &remedy(&verdict.reduced));
    }
    ok(subject, "the kernel has all it needs")
}

/// The kernel options that would bring what is missing.
fn remedy(lacks: &[String]) -> String {
    let mut options = Vec::new();
    let mut unknown = false;
    for lack in lacks {
        let has = |part| lack.contains(part);
        // A field that is there and differs is no matter of configuration.
        let option = if has(" (") {
            None
        } else if has("sched_info") {
            Some("CONFIG_SCHED_INFO=y (by CONFIG_SCHEDSTATS or CONFIG_TASK_DELAY_ACCT)")
        } else if has("cfs_rq") {
            Some("CONFIG_FAIR_GROUP_SCHED=y")
        } else if has("sched_task_group") || has("task_group.") || has("cpu_cgrp_id") {
            Some("CONFIG_CGROUP_SCHED=y")
        } else if has("blkcg") || has("blkg") || has("io_cgrp_id") {
            Some("CONFIG_BLK_CGROUP=y")
        } else if has("cgroup") {
            Some("CONFIG_CGROUPS=y")
        } else if has("tracepoint ") {
            Some("CONFIG_TRACEPOINTS=y and, for block requests, CONFIG_BLOCK=y")
        } else {
            None
        };
        match option {
            Some(option) if !options.contains(&option) => options.push(option),
            Some(_) => {}
            None => unknown = true,
        }
    }
    let mut remedies = Vec::new();
    if !options.is_empty() {
        remedies.push(format!("boot a kernel built with {}", options.join(", ")));
    }
    if unknown {
        remedies.push("report this line with the kernel's release".to_owned());
    }
    remedies.join("; ")
}

fn sched_info(host: &HostFeatures) -> Option<Finding> {
    let subject = "sched_info";
    Some(if host.sched_info? {
        ok(subject, "the kernel keeps run delays")
    } else {
        finding(
            subject,
            Status::Missing,
            "the kernel keeps no run delays: no run queue latency",
            "boot a kernel built with CONFIG_SCHEDSTATS=y, or one with CONFIG_TASK_DELAY_ACCT=y with delayacct",
        )
    })
}

fn privileges(host: &HostFeatures, has: Capabilities) -> Vec<Finding> {
    // Older kernels know neither of the first two.
    let split = host
        .kernel_version()
        .is_none_or(|version| version >= (5, 8));
    let mut all = if split {
        vec![
            judge(
                "CAP_BPF",
                has.can_load(),
                Status::Missing,
                "no program can be loaded, only cgroup files are collected",
            ),
            judge(
                "CAP_PERFMON",
                has.can_trace(),
                Status::Missing,
                "no program can be attached, only cgroup files are collected",
            ),
        ]
    } else {
        vec![judge(
            "CAP_SYS_ADMIN",
            has.sys_admin,
            Status::Missing,
            "no program can be loaded",
        )]
    };
    all.extend(names(has));
    all
}

/// The capabilities that only names in profiles need.
fn names(has: Capabilities) -> [Finding; 2] {
    [
        judge(
            "CAP_SYS_PTRACE",
            has.sys_ptrace,
            Status::Warn,
            "profiles name no functions of other users' processes",
        ),
        judge(
            "CAP_DAC_READ_SEARCH",
            has.dac_read_search,
            Status::Warn,
            "profiles name no functions of binaries that only their owner may read",
        ),
    ]
}

fn judge(name: &str, granted: bool, status: Status, without: &str) -> Finding {
    if granted {
        return ok(name, "granted");
    }
    let fix = format!("run the agent with {name}");
    finding(name, status, format!("not granted: {without}"), &fix)
}

/// Before 5.11 maps counted as locked memory.
fn memlock(host: &HostFeatures) -> Option<Finding> {
    let Limit::Bytes(bytes) = host.memlock? else {
        return Some(ok("memlock", "unlimited"));
    };
    let counted = host
        .kernel_version()
        .is_some_and(|version| version < (5, 11));
    let may_raise = host.capabilities.is_some_and(|has| has.sys_resource);
    Some(if !counted {
        ok(
            "memlock",
            format!("{bytes} bytes; maps do not count since 5.11"),
        )
    } else if may_raise {
        ok("memlock", format!("{bytes} bytes; the agent may raise it"))
    } else {
        finding(
            "memlock",
            Status::Warn,
            format!("{bytes} bytes, and on this kernel maps count"),
            "run the agent with CAP_SYS_RESOURCE, or under ulimit -l unlimited",
        )
    })
}

fn lockdown(host: &HostFeatures) -> Option<Finding> {
    Some(match host.lockdown? {
        Lockdown::None => ok("lockdown", "none"),
        Lockdown::Integrity => ok("lockdown", "integrity; no program is refused by it"),
        Lockdown::Confidentiality => finding(
            "lockdown",
            Status::Warn,
            "confidentiality: helpers that read kernel memory are refused, so no profiles, no CPU time of \
             slices that still run, and cgroups are found by walks",
            "boot with lockdown=integrity",
        ),
    })
}

/// Who sees addresses in `/proc/kallsyms`: `kallsyms_show_value`, in
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/ksyms_common.c>; `CAP_SYS_ADMIN` does not
/// stand for `CAP_SYSLOG` there.
fn kernel_symbols(host: &HostFeatures) -> Option<Finding> {
    let subject = "kernel symbols";
    let restrict = host.kptr_restrict?;
    let syslog = host.capabilities.is_none_or(|has| has.syslog);
    let for_perf = restrict == 0 && host.perf_event_paranoid.is_some_and(|level| level <= 1);
    let setting = format!("kernel.kptr_restrict is {restrict}");
    Some(if restrict > 1 {
        let detail = format!("{setting}: profiles name no kernel functions");
        finding(
            subject,
            Status::Warn,
            detail,
            "sysctl kernel.kptr_restrict=1",
        )
    } else if syslog || for_perf {
        ok(subject, setting)
    } else {
        let detail =
            format!("{setting}, CAP_SYSLOG not granted: profiles name no kernel functions");
        finding(
            subject,
            Status::Warn,
            detail,
            "run the agent with CAP_SYSLOG",
        )
    })
}

/// What lets this process sample a CPU where `perf_event_open` refused that with `error`.
///
/// Mainline never answers `EACCES` to `CAP_PERFMON`. Debian and Ubuntu patch the call to ask for
/// `CAP_SYS_ADMIN` where `kernel.perf_event_paranoid` is above 2, which is their default; seen on
/// Debian's 7.3.
#[must_use]
pub fn sampling_fix(error: &io::Error, host: &HostFeatures) -> &'static str {
    let patched = error.raw_os_error() == Some(libc::EACCES)
        && host.capabilities.is_some_and(|has| has.can_trace())
        && host.perf_event_paranoid.is_some_and(above_mainline);
    if patched {
        "sysctl kernel.perf_event_paranoid=2, or run the agent with CAP_SYS_ADMIN: this distribution's \
         kernel asks for it above 2"
    } else {
        "run the agent with CAP_PERFMON, on a kernel built with CONFIG_PERF_EVENTS=y, under no seccomp \
         filter that refuses perf_event_open"
    }
}

/// Levels of `kernel.perf_event_paranoid` that mainline does not tell from 2.
fn above_mainline(level: i32) -> bool {
    level > 2
}

fn settings(host: &HostFeatures) -> Vec<Finding> {
    let mut all = Vec::new();
    if let Some(level) = host.perf_event_paranoid {
        let subject = "perf_event_paranoid";
        let may = host.capabilities.is_none_or(|has| has.can_trace());
        // Without the capability, a whole CPU may be sampled only below 1.
        let admin = host.capabilities.is_none_or(|has| has.sys_admin);
        all.push(if may && !admin && above_mainline(level) {
            let detail =
                format!("{level}: kernels of Debian and Ubuntu ask for CAP_SYS_ADMIN then");
            ok(
                subject,
                format!("{detail}; `perf events` says what this one does"),
            )
        } else if may {
            ok(
                subject,
                format!("{level}; the agent's capabilities override it"),
            )
        } else if level < 1 {
            ok(subject, level.to_string())
        } else {
            let detail = format!("{level}: no profiles without CAP_PERFMON");
            finding(
                subject,
                Status::Missing,
                detail,
                "run the agent with CAP_PERFMON",
            )
        });
    }
    match host.bpf_stats_enabled {
        Some(true) => all.push(finding(
            "bpf_stats_enabled",
            Status::Warn,
            "on: every program of this host costs about 57 ns more an event",
            "sysctl kernel.bpf_stats_enabled=0",
        )),
        Some(false) => all.push(ok("bpf_stats_enabled", "off")),
        None => {}
    }
    match host.bpf_jit_enable {
        Some(0) => all.push(finding(
            "bpf_jit_enable",
            Status::Warn,
            "off: programs are interpreted, at many times the cost",
            "sysctl net.core.bpf_jit_enable=1",
        )),
        Some(_) => all.push(ok("bpf_jit_enable", "on")),
        None => {}
    }
    all
}

fn psi(host: &HostFeatures) -> Finding {
    let subject = "psi";
    match host.psi {
        Psi::Available => ok(subject, "available"),
        Psi::Disabled => finding(
            subject,
            Status::Warn,
            "switched off: no pressure metrics",
            "boot with psi=1",
        ),
        Psi::Absent => finding(
            subject,
            Status::Warn,
            "not in this kernel: no pressure metrics",
            "boot a kernel built with CONFIG_PSI=y",
        ),
        Psi::Forbidden => finding(
            subject,
            Status::Warn,
            "not readable: no pressure metrics of the host",
            "let the agent read /proc/pressure",
        ),
    }
}

fn cpus(host: &HostFeatures) -> Finding {
    let subject = "cpus";
    match (&host.cpus_online, &host.cpus_possible) {
        (Some(online), Some(possible)) if !possible.is_empty() => ok(
            subject,
            format!("{} online of {} possible", online.len(), possible.len()),
        ),
        _ => finding(
            subject,
            Status::Missing,
            "unknown: maps cannot be sized",
            "mount sysfs on /sys",
        ),
    }
}

fn runtimes(host: &HostFeatures) -> Finding {
    let subject = "container runtimes";
    if host.runtime_sockets.is_empty() {
        return finding(
            subject,
            Status::Warn,
            "no socket found: containers go by their ids, without names and images",
            "let the agent reach the runtime's socket, such as /run/containerd/containerd.sock",
        );
    }
    let sockets: Vec<_> = host
        .runtime_sockets
        .iter()
        .map(|socket| format!("{} at {}", socket.runtime, socket.path.display()))
        .collect();
    ok(subject, sockets.join(", "))
}
