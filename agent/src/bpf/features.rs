//! What this host offers, probed once: facts here, what they mean in [`findings`].
//!
//! Reads files of `/proc` and `/sys` only, changes nothing, needs no privilege; below 1 ms. A file
//! that is not there or not readable gives `None`, never a guess. Programs and maps are not tried
//! here: the loader does that, and says what the kernel answered.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{host::parse_cpu_list, runtime::search};

mod findings;
#[cfg(test)]
mod tests;

pub use findings::{Finding, Status, explain, findings, profile_lacks, sampling_fix};

/// Where to look.
#[derive(Clone, Debug)]
pub struct Roots {
    /// The host's `/`.
    pub host: PathBuf,
    /// `/proc`, in which `self` is this process.
    pub proc: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            host: "/".into(),
            proc: "/proc".into(),
            sys: "/sys".into(),
        }
    }
}

/// What this host offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostFeatures {
    /// Kernel release, `uname -r`.
    pub kernel_release: Option<String>,
    /// Size of the kernel's BTF, bytes; `None` where it shows none.
    pub btf_bytes: Option<u64>,
    /// Whether the kernel keeps run delays (`CONFIG_SCHED_INFO`), by this process's own.
    pub sched_info: Option<bool>,
    /// This process's effective capabilities.
    pub capabilities: Option<Capabilities>,
    /// Whether tracefs is mounted where it belongs.
    pub tracefs: bool,
    /// Pressure stall information of the host.
    pub psi: Psi,
    /// Lockdown mode; `None` where the kernel has no lockdown or securityfs is not mounted.
    pub lockdown: Option<Lockdown>,
    /// `kernel.perf_event_paranoid`
    pub perf_event_paranoid: Option<i32>,
    /// `kernel.kptr_restrict`
    pub kptr_restrict: Option<i32>,
    /// `kernel.bpf_stats_enabled`
    pub bpf_stats_enabled: Option<bool>,
    /// `net.core.bpf_jit_enable`; absent where the kernel always compiles.
    pub bpf_jit_enable: Option<i32>,
    /// CPUs that can exist.
    pub cpus_possible: Option<Vec<u32>>,
    /// CPUs that run.
    pub cpus_online: Option<Vec<u32>>,
    /// Soft limit of locked memory.
    pub memlock: Option<Limit>,
    /// Sockets of container runtimes.
    pub runtime_sockets: Vec<RuntimeSocket>,
    /// Whether programs of perf events may read memory of users.
    pub reads_user_memory: bool,
    /// What is known to go wrong on this kernel.
    pub warnings: Vec<String>,
}

impl HostFeatures {
    /// Probes the host.
    #[must_use]
    pub fn probe(roots: &Roots) -> Self {
        let proc = |path: &str| read(&roots.proc.join(path));
        let sys = |path: &str| read(&roots.sys.join(path));
        let number = |path: &str| proc(path).and_then(|text| text.trim().parse::<i32>().ok());
        let cpus = |path: &str| sys(path).and_then(|text| parse_cpu_list(&text));
        let kernel_release = proc("sys/kernel/osrelease").map(|text| text.trim().to_owned());
        let version = proc("version").unwrap_or_default();
        let reads_user_memory = kernel_release
            .as_deref()
            .is_some_and(|release| reads_user_memory(release, &version));
        let warnings = if reads_user_memory || kernel_release.is_none() {
            Vec::new()
        } else {
            vec![NO_USER_MEMORY.to_owned()]
        };
        Self {
            kernel_release,
            btf_bytes: fs::metadata(roots.sys.join("kernel/btf/vmlinux"))
                .ok()
                .map(|metadata| metadata.len()),
            sched_info: proc("self/schedstat").and_then(|text| parse_sched_info(&text)),
            capabilities: proc("self/status").and_then(|text| Capabilities::parse(&text)),
            tracefs: ["kernel/tracing/events", "kernel/debug/tracing/events"]
                .iter()
                .any(|path| roots.sys.join(path).is_dir()),
            psi: Psi::probe(&roots.proc.join("pressure/cpu")),
            lockdown: sys("kernel/security/lockdown").and_then(|text| Lockdown::parse(&text)),
            perf_event_paranoid: number("sys/kernel/perf_event_paranoid"),
            kptr_restrict: number("sys/kernel/kptr_restrict"),
            bpf_stats_enabled: number("sys/kernel/bpf_stats_enabled").map(|value| value != 0),
            bpf_jit_enable: number("sys/net/core/bpf_jit_enable"),
            cpus_possible: cpus("devices/system/cpu/possible"),
            cpus_online: cpus("devices/system/cpu/online"),
            memlock: proc("self/limits").and_then(|text| Limit::parse_memlock(&text)),
            runtime_sockets: runtime_sockets(&roots.host),
            reads_user_memory,
            warnings,
        }
    }

    /// Kernel version, major and minor.
    #[must_use]
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        parse_version(self.kernel_release.as_deref()?)
    }
}

/// Declares the capabilities that matter here, by their bits in `include/uapi/linux/capability.h`.
macro_rules! capabilities {
    ($($(#[$meta:meta])* $field:ident = $name:literal $bit:literal,)*) => {
        /// Capabilities that matter here.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Capabilities {
            $($(#[$meta])* pub $field: bool,)*
        }

        impl Capabilities {
            fn from_bits(bits: u64) -> Self {
                Self { $($field: bits & (1 << $bit) != 0,)* }
            }

            /// Each with its name and whether this process has it.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, bool)> {
                vec![$(($name, self.$field),)*]
            }
        }
    };
}

capabilities! {
    /// Read files whatever their mode: other users' binaries, for symbols.
    dac_read_search = "CAP_DAC_READ_SEARCH" 2,
    /// Look into other processes: their mappings and mounted files.
    sys_ptrace = "CAP_SYS_PTRACE" 19,
    /// Stands for `bpf` and `perfmon`, before 5.8 the only way.
    sys_admin = "CAP_SYS_ADMIN" 21,
    /// Raise limits: locked memory before 5.11.
    sys_resource = "CAP_SYS_RESOURCE" 24,
    /// See kernel addresses.
    syslog = "CAP_SYSLOG" 34,
    /// Attach to tracepoints and perf events of the whole host (5.8).
    perfmon = "CAP_PERFMON" 38,
    /// Make maps and load programs (5.8).
    bpf = "CAP_BPF" 39,
}

impl Capabilities {
    /// Parses `/proc/<pid>/status`.
    pub(super) fn parse(status: &str) -> Option<Self> {
        let bits = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(bits.trim(), 16)
            .ok()
            .map(Self::from_bits)
    }

    /// Whether this process may load programs.
    #[must_use]
    pub fn can_load(&self) -> bool {
        self.bpf || self.sys_admin
    }

    /// Whether this process may attach them to the whole host.
    #[must_use]
    pub fn can_trace(&self) -> bool {
        self.perfmon || self.sys_admin
    }
}

/// Pressure stall information.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Psi {
    /// It can be read.
    Available,
    /// The kernel has it, switched off (`psi=0`).
    Disabled,
    /// The kernel does not have it.
    #[default]
    Absent,
    /// This process may not read it.
    Forbidden,
}

impl Psi {
    fn probe(path: &Path) -> Self {
        // Opening fails with EOPNOTSUPP where it is switched off.
        match fs::read(path) {
            Ok(_) => Self::Available,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Absent,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Self::Forbidden,
            Err(_) => Self::Disabled,
        }
    }
}

/// What the kernel withholds even from root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// Nothing.
    None,
    /// Changing the kernel.
    Integrity,
    /// Reading its memory, too.
    Confidentiality,
}

impl Lockdown {
    /// Parses `none [integrity] confidentiality`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once('[')?;
        match rest.split_once(']')?.0 {
            "none" => Some(Self::None),
            "integrity" => Some(Self::Integrity),
            "confidentiality" => Some(Self::Confidentiality),
            _ => None,
        }
    }
}

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// None.
    Unlimited,
    /// So many bytes.
    Bytes(u64),
}

impl Limit {
    /// Parses `/proc/<pid>/limits`.
    pub(super) fn parse_memlock(limits: &str) -> Option<Self> {
        let rest = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max locked memory"))?;
        match rest.split_whitespace().next()? {
            "unlimited" => Some(Self::Unlimited),
            bytes => bytes.parse().ok().map(Self::Bytes),
        }
    }
}

/// A socket of a container runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuntimeSocket {
    /// `containerd`, `k3s`, `k0s`, `microk8s`, `crio`, `docker` or `podman`.
    pub runtime: &'static str,
    /// Where it is.
    pub path: PathBuf,
}

fn runtime_sockets(host: &Path) -> Vec<RuntimeSocket> {
    search(host)
        .into_iter()
        .map(|place| RuntimeSocket {
            runtime: place.runtime,
            path: place.path,
        })
        .collect()
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Whether the third number of `/proc/<pid>/schedstat`, dispatches, moves; the kernel writes three
/// zeroes where it keeps none, and who reads this was dispatched.
pub(super) fn parse_sched_info(schedstat: &str) -> Option<bool> {
    let dispatches = schedstat.split_whitespace().nth(2)?;
    dispatches.parse::<u64>().ok().map(|count| count > 0)
}

/// Major and minor of a release: `6.1.0-18-amd64` is (6, 1).
pub(super) fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

const NO_USER_MEMORY: &str = "kernels 5.19 to 6.3 can lock up where a program that runs in an interrupt reads \
                              memory of users: user stacks are walked by frame pointers alone";

/// Whether programs of perf events may read memory of users. From 5.19 on the check of hardened copies takes a lock
/// that the interrupted code may hold, until it is no longer asked: 6.4 (d319f344561d), 6.3.10 and 6.1.36. A
/// distribution may name the stable release in `/proc/version` alone.
fn reads_user_memory(release: &str, version: &str) -> bool {
    let Some(kernel) = parse_version(release) else {
        return true;
    };
    if !((5, 19)..(6, 4)).contains(&kernel) {
        return true;
    }
    let first_mended = match kernel {
        (6, 1) => 36,
        (6, 3) => 10,
        _ => return false,
    };
    let prefix = format!("{}.{}.", kernel.0, kernel.1);
    let words = version.split_ascii_whitespace().chain([release]);
    let stable = words.filter_map(|word| {
        let digits = word.strip_prefix(&prefix)?;
        let end = digits.find(|c: char| !c.is_ascii_digit());
        digits[..end.unwrap_or(digits.len())].parse::<u32>().ok()
    });
    stable.max().is_some_and(|stable| stable >= first_mended)
}
