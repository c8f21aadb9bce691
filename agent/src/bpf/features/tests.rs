use std::{os::unix::net::UnixListener, path::Path};

use super::*;
use crate::bpf::{
    btf::{self, Btf, BtfError},
    layout::{self, Resolved, Subjects},
};

/// A directory tree of files.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            let path = tree.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        tree
    }

    fn probe(&self) -> HostFeatures {
        let host = self.0.path().to_owned();
        HostFeatures::probe(&Roots {
            proc: host.join("proc"),
            sys: host.join("sys"),
            host,
        })
    }
}

/// Captured on a 6.18 kernel (local version cut off the release), root without `CAP_SYS_RESOURCE`; no runtime, securityfs not mounted.
const CAPTURED: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.18.44\n"),
    ("proc/self/schedstat", "0 57325 1\n"),
    (
        "proc/self/status",
        "Name:\tcat\nCapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapEff:\t000001fffeffffff\n",
    ),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max locked memory         8388608              8388608              bytes     \n",
    ),
    (
        "proc/pressure/cpu",
        "some avg10=2.38 avg60=6.75 avg300=12.18 total=300512304\n",
    ),
    ("proc/sys/kernel/perf_event_paranoid", "2\n"),
    ("proc/sys/kernel/kptr_restrict", "0\n"),
    ("proc/sys/kernel/bpf_stats_enabled", "0\n"),
    ("proc/sys/net/core/bpf_jit_enable", "1\n"),
    ("sys/devices/system/cpu/possible", "0-1\n"),
    ("sys/devices/system/cpu/online", "0-1\n"),
];

fn all_programs() -> Resolved {
    Resolved {
        layout: ctrscope_ebpf::layout::Layout::ZERO,
        subjects: Subjects::default(),
    }
}

#[track_caller]
fn of<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
    findings
        .iter()
        .find(|finding| finding.subject == subject)
        .unwrap()
}

#[test]
fn a_captured_host_is_read() {
    let host = Tree::new(CAPTURED).probe();
    assert_eq!(host.kernel_version(), Some((6, 18)));
    assert_eq!(host.sched_info, Some(true));
    let has = host.capabilities.unwrap();
    assert!(has.bpf && has.perfmon && has.sys_admin && has.sys_ptrace && has.syslog);
    assert!(has.dac_read_search && !has.sys_resource);
    assert_eq!(host.memlock, Some(Limit::Bytes(8_388_608)));
    assert_eq!(host.psi, Psi::Available);
    assert_eq!(host.lockdown, None);
    assert_eq!(
        (host.perf_event_paranoid, host.kptr_restrict),
        (Some(2), Some(0))
    );
    assert_eq!(
        (host.bpf_stats_enabled, host.bpf_jit_enable),
        (Some(false), Some(1))
    );
    assert_eq!(host.cpus_possible, Some(vec![0, 1]));
    assert_eq!(host.btf_bytes, None);
    assert!(!host.tracefs && host.runtime_sockets.is_empty() && host.warnings.is_empty());
    let findings = findings(&host, Ok(&all_programs()));
    let lacks: Vec<_> = findings
        .iter()
        .filter(|finding| finding.status != Status::Ok)
        .collect();
    assert_eq!(lacks.len(), 1, "{lacks:?}");
    assert_eq!(lacks[0].subject, "container runtimes");
}

#[test]
fn an_empty_host_gives_nothing_and_no_guess() {
    let host = Tree::new(&[]).probe();
    assert_eq!(host, HostFeatures::default());
    let error = BtfError::NoKernelBtf {
        path: btf::KERNEL.into(),
    };
    let findings = findings(&host, Err(&error));
    assert_eq!(of(&findings, "btf").status, Status::Missing);
    assert_eq!(of(&findings, "cpus").status, Status::Missing);
    assert_eq!(of(&findings, "psi").status, Status::Warn);
}

#[test]
fn every_lack_names_its_fix() {
    let tree = Tree::new(&[
        ("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
        ("proc/self/schedstat", "0 0 0\n"),
        ("proc/self/status", "CapEff:\t0000000000000000\n"),
        ("proc/sys/kernel/perf_event_paranoid", "3\n"),
        ("proc/sys/kernel/kptr_restrict", "2\n"),
        ("proc/sys/kernel/bpf_stats_enabled", "1\n"),
        ("proc/sys/net/core/bpf_jit_enable", "0\n"),
        (
            "sys/kernel/security/lockdown",
            "none integrity [confidentiality]\n",
        ),
    ]);
    let host = tree.probe();
    let btf = Btf::parse(btf::builder::Builder::new().bytes()).unwrap();
    let findings = findings(&host, Ok(&layout::resolve(&btf)));
    for finding in &findings {
        assert_eq!(
            finding.fix.is_some(),
            finding.status != Status::Ok,
            "{finding:?}"
        );
    }
    for (subject, status, fix) in [
        ("kernel", Status::Warn, "6.4"),
        (
            "program sched_switch",
            Status::Missing,
            "CONFIG_SCHED_INFO=y",
        ),
        ("program block_rq_issue", Status::Missing, "CONFIG_BLOCK=y"),
        ("sched_info", Status::Missing, "CONFIG_SCHEDSTATS=y"),
        ("CAP_BPF", Status::Missing, "CAP_BPF"),
        ("CAP_PERFMON", Status::Missing, "CAP_PERFMON"),
        ("CAP_SYS_PTRACE", Status::Warn, "CAP_SYS_PTRACE"),
        ("lockdown", Status::Warn, "lockdown=integrity"),
        ("kernel symbols", Status::Warn, "kptr_restrict=1"),
        ("perf_event_paranoid", Status::Missing, "CAP_PERFMON"),
        ("bpf_stats_enabled", Status::Warn, "bpf_stats_enabled=0"),
        ("bpf_jit_enable", Status::Warn, "bpf_jit_enable=1"),
    ] {
        let finding = of(&findings, subject);
        assert_eq!(finding.status, status, "{finding:?}");
        assert!(finding.fix.as_ref().unwrap().contains(fix), "{finding:?}");
    }
}

#[test]
fn a_patched_refusal_to_sample_is_told_from_others() {
    let host = |level: &str, capabilities: &str| {
        Tree::new(&[
            ("proc/sys/kernel/perf_event_paranoid", level),
            ("proc/self/status", &format!("CapEff:\t{capabilities}\n")),
        ])
        .probe()
    };
    let perfmon = format!("{:016x}", 1_u64 << 38);
    for (error, level, capabilities, fix) in [
        (
            libc::EACCES,
            "3\n",
            perfmon.as_str(),
            "perf_event_paranoid=2",
        ),
        (libc::EACCES, "3\n", "0", "CAP_PERFMON"),
        (libc::EPERM, "3\n", &perfmon, "seccomp"),
        (libc::ENOSYS, "2\n", &perfmon, "CONFIG_PERF_EVENTS=y"),
    ] {
        let error = io::Error::from_raw_os_error(error);
        let found = sampling_fix(&error, &host(level, capabilities));
        assert!(
            found.contains(fix),
            "{error} {level} {capabilities}: {found}"
        );
    }
    let findings = findings(&host("3\n", &perfmon), Ok(&all_programs()));
    let paranoid = of(&findings, "perf_event_paranoid");
    assert!(paranoid.detail.contains("CAP_SYS_ADMIN"), "{paranoid:?}");
}

#[test]
fn locked_memory_matters_only_where_maps_count() {
    let limits = "Max locked memory         65536   65536   bytes\n";
    for (release, capabilities, status) in [
        ("5.10.0-28-amd64", "0", Status::Warn),
        ("5.10.0-28-amd64", "1000000", Status::Ok),
        ("5.15.0", "0", Status::Ok),
    ] {
        let host = Tree::new(&[
            ("proc/sys/kernel/osrelease", release),
            ("proc/self/limits", limits),
            ("proc/self/status", &format!("CapEff:\t{capabilities}\n")),
        ])
        .probe();
        let findings = findings(&host, Ok(&all_programs()));
        assert_eq!(
            of(&findings, "memlock").status,
            status,
            "{release} {capabilities}"
        );
    }
    assert_eq!(
        Limit::parse_memlock("Max locked memory unlimited unlimited bytes"),
        Some(Limit::Unlimited)
    );
}

/// As the verifier of 6.1 says it.
const NO_HELPER: &str = "the BPF_PROG_LOAD syscall returned Invalid argument (os error 22). Verifier output: \
                         unknown func bpf_probe_read_kernel#113";
/// The end of what that of 7.3 says.
const NOT_ALLOWED: &str = ">>> 18 | (85) call bpf_probe_read#4 | Suggestion: | Use a helper allowed for \
                           this program type, or move the logic to a compatible program type.";
const DENIED: &str = "failed to create map: Operation not permitted (os error 1)";

#[test]
fn a_refusal_is_explained_by_what_is_known_of_the_host() {
    let unknown = HostFeatures::default();
    let locked = HostFeatures {
        lockdown: Some(Lockdown::Confidentiality),
        ..HostFeatures::default()
    };
    let open = HostFeatures {
        lockdown: Some(Lockdown::Integrity),
        ..HostFeatures::default()
    };
    let short_of_memory = HostFeatures {
        kernel_release: Some("5.10.0".to_owned()),
        memlock: Some(Limit::Bytes(65_536)),
        ..HostFeatures::default()
    };
    for (host, refusal, named) in [
        (&locked, NO_HELPER, "lockdown=integrity"),
        (&locked, NOT_ALLOWED, "lockdown=integrity"),
        (&locked, DENIED, "lockdown=integrity"),
        // Without securityfs the helper tells it.
        (&unknown, NO_HELPER, "lockdown=integrity"),
        (&short_of_memory, DENIED, "RLIMIT_MEMLOCK"),
        (&open, DENIED, "seccomp"),
    ] {
        let text = explain(refusal, host);
        assert!(text.contains(named) && text.contains(refusal), "{text}");
    }
    assert_eq!(explain("no space left", &open), "no space left");
    assert_eq!(explain("no space left", &locked), "no space left");
    assert_eq!(explain("", &locked), "");
}

#[test]
fn profiles_tell_what_they_lack() {
    assert_eq!(profile_lacks(&Tree::new(CAPTURED).probe()), [""; 0]);
    let host = Tree::new(&[
        ("proc/sys/kernel/osrelease", "5.19.17\n"),
        ("proc/self/status", "CapEff:\t000000c000000000\n"),
        ("proc/sys/kernel/kptr_restrict", "1\n"),
    ])
    .probe();
    let lacks = profile_lacks(&host);
    for (lack, named) in lacks.iter().zip([
        "boot a kernel of 6.4",
        "run the agent with CAP_SYS_PTRACE",
        "run the agent with CAP_DAC_READ_SEARCH",
        "run the agent with CAP_SYSLOG",
    ]) {
        assert!(lack.contains(named), "{lacks:?}");
    }
    assert_eq!(lacks.len(), 4, "{lacks:?}");
}

#[test]
fn sockets_are_found_below_the_hosts_root_and_plain_files_are_none() {
    let tree = Tree::new(&[
        ("run/containerd/placeholder", ""),
        ("run/docker.sock", "not a socket"),
        ("sys/kernel/tracing/events/enable", "0"),
    ]);
    let path = tree.0.path().join("run/containerd/containerd.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let host = tree.probe();
    assert_eq!(
        host.runtime_sockets,
        [RuntimeSocket {
            runtime: "containerd",
            path
        }]
    );
    assert!(host.tracefs);
}

#[test]
fn versions_and_lockdown_are_parsed() {
    assert_eq!(parse_version("6.1.0-18-amd64"), Some((6, 1)));
    assert_eq!(parse_version("7.2-rc1"), Some((7, 2)));
    assert_eq!(parse_version("6"), None);
    assert_eq!(parse_version("linux"), None);
    let debian = "Linux version 6.1.0-18-amd64 (x@debian.org) #1 SMP Debian 6.1.76-1 (2024-02-01)";
    let early = "Linux version 6.1.0-9-amd64 (x@debian.org) #1 SMP Debian 6.1.27-1 (2023-05-08)";
    for (release, version, may) in [
        ("5.10.0", "", true),
        ("5.18.0", "", true),
        ("5.19.1", "", false),
        ("6.0.0", "", false),
        ("6.1.35", "", false),
        ("6.1.36", "", true),
        ("6.1.0-18-amd64", debian, true),
        ("6.1.0-9-amd64", early, false),
        ("6.2.0-39-generic", "", false),
        ("6.3.9", "", false),
        ("6.3.10", "", true),
        ("6.4.0", "", true),
        ("7.2-rc1", "", true),
        ("linux", "", true),
    ] {
        assert_eq!(reads_user_memory(release, version), may, "{release}");
    }
    assert_eq!(
        Lockdown::parse("[none] integrity confidentiality"),
        Some(Lockdown::None)
    );
    assert_eq!(
        Lockdown::parse("none [integrity] confidentiality"),
        Some(Lockdown::Integrity)
    );
    assert_eq!(Lockdown::parse(""), None);
}

#[test]
fn a_damaged_btf_file_is_named() {
    let tree = Tree::new(&[("x.btf", "garbage")]);
    let error = Btf::from_file(&tree.0.path().join("x.btf")).unwrap_err();
    let findings = findings(&HostFeatures::default(), Err(&error));
    let finding = of(&findings, "btf");
    assert!(
        finding.detail.contains("x.btf") && finding.fix.is_some(),
        "{finding:?}"
    );
}

#[test]
fn this_host_is_probed() {
    let host = HostFeatures::probe(&Roots::default());
    assert!(host.kernel_version().is_some());
    assert!(host.capabilities.is_some());
    assert!(
        host.cpus_online
            .as_ref()
            .is_some_and(|cpus| !cpus.is_empty())
    );
    let resolved = Btf::from_file(Path::new(btf::KERNEL)).map(|btf| layout::resolve(&btf));
    for finding in findings(&host, resolved.as_ref()) {
        println!("{}", serde_json::to_string(&finding).unwrap());
    }
}
