//! `setup`: installs what the other commands need and the machine lacks.
//!
//! The eBPF object needs a compiler with the library source of the very same version, and a linker
//! for BPF. A Debian that carries such a set (`rustc-web`) gives it by apt; any other machine gets
//! it from rustup. Nothing is done for what is already there, which takes well under a second to see.

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Result, bail};

use crate::{architecture::Architecture, step};

pub(crate) mod cross;
pub(crate) mod fuzzer;
pub(crate) mod inferno;
mod programs;
mod readers;

/// Packages of the matched set on Debian: compiler, cargo, library source, LLVM for the linker.
const DEBIAN_TOOLCHAIN: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev"];
/// The LLVM of [`DEBIAN_TOOLCHAIN`].
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
/// `bpf-linker` for [`DEBIAN_LLVM`].
const LINKER_FOR_DEBIAN: &str = "0.13.0";
/// `bpf-linker` that finds the LLVM inside a rustup toolchain.
const LINKER_FOR_RUSTUP: &str = "0.10.3";

/// Install what is missing to build and run ctrscope here; do nothing for what is there.
///
/// The compiler for eBPF comes from apt where Debian carries a set with its library source, else
/// from rustup (nightly with rust-src); bpf-linker from cargo. What needs root goes through sudo.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Also what `cargo xtask test` needs
    #[arg(long)]
    pub(crate) test: bool,
    /// Also what `cargo xtask accuracy` compares with, records and makes disks with: libbpf-tools, e2fsprogs, and
    /// programs of Debian, which are unpacked below target/ and not installed
    #[arg(long)]
    pub(crate) accuracy: bool,
    /// Also what `cargo xtask repeat` loads the machine with: stress-ng
    #[arg(long)]
    pub(crate) load: bool,
    /// Also what `cargo xtask bench` compares with: libbpf-tools, bpftrace, bpftool, perf, inferno
    #[arg(long)]
    pub(crate) bench: bool,
    /// Also what `cargo xtask vm` runs its machines with: busybox, tools for their disks, libbpf-tools, perf
    #[arg(long)]
    pub(crate) vm: bool,
    /// Also what `cargo xtask build --target` needs: cross compiler, C library, Rust library
    #[arg(long, value_name = "ARCHITECTURE")]
    pub(crate) target: Option<Architecture>,
}

/// A program that some command runs.
struct Requirement {
    /// What it is, and what to ask another package manager for.
    name: &'static str,
    /// Debian package.
    package: &'static str,
    present: fn() -> bool,
}

const ALWAYS: [Requirement; 3] = [
    Requirement {
        name: "a C compiler",
        package: "gcc",
        present: || on_path("cc"),
    },
    Requirement {
        name: "the static C library",
        package: "libc6-dev",
        present: has_static_libc,
    },
    Requirement {
        name: "runc",
        package: "runc",
        present: || on_path("runc"),
    },
];

/// Until Debian 12 it was a part of the engine's package.
const DOCKER_CLIENT: &str = "docker-cli";

const FOR_TEST: [Requirement; 12] = [
    Requirement {
        name: "bpftool",
        package: "bpftool",
        present: || on_path("bpftool"),
    },
    Requirement {
        name: "ip",
        package: "iproute2",
        present: || on_path("ip"),
    },
    Requirement {
        name: "tmux",
        package: "tmux",
        present: || on_path("tmux"),
    },
    Requirement {
        name: "containerd with ctr",
        package: "containerd",
        present: || on_path("containerd") && on_path("ctr"),
    },
    Requirement {
        name: "the Docker Engine",
        package: "docker.io",
        present: || on_path("dockerd"),
    },
    Requirement {
        name: "Docker's client",
        package: DOCKER_CLIENT,
        present: || on_path("docker"),
    },
    Requirement {
        name: "podman",
        package: "podman",
        present: || on_path("podman"),
    },
    Requirement {
        name: "Go, whose pprof reads profiles",
        package: "golang-go",
        present: || on_path("go"),
    },
    Requirement {
        name: "npm",
        package: "npm",
        present: || readers::schema().exists() || on_path("npm"),
    },
    Requirement {
        name: "strip",
        package: "binutils",
        present: || on_path("strip"),
    },
    Requirement {
        name: "python3, whose stacks are walked",
        package: "python3",
        present: || on_path("python3"),
    },
    Requirement {
        name: "python3 with venv",
        package: "python3-venv",
        present: || {
            readers::validator().exists() || succeeds("python3", &["-c", "import ensurepip, venv"])
        },
    },
];

const FOR_ACCURACY: [Requirement; 3] = [RUNQLAT, PERF, MKFS];

const FOR_LOAD: [Requirement; 1] = [Requirement {
    name: "stress-ng",
    package: "stress-ng",
    present: || on_path("stress-ng"),
}];

const PERF: Requirement = Requirement {
    name: "perf",
    package: "linux-perf",
    present: || on_path("perf"),
};

const RUNQLAT: Requirement = Requirement {
    name: "libbpf-tools (runqlat)",
    package: "libbpf-tools",
    present: || on_path("runqlat"),
};

const FOR_BENCH: [Requirement; 5] = [
    Requirement {
        name: "bpftool",
        package: "bpftool",
        present: || on_path("bpftool"),
    },
    RUNQLAT,
    Requirement {
        name: "bpftrace",
        package: "bpftrace",
        present: || on_path("bpftrace"),
    },
    Requirement {
        name: "Debian's python3, which is recorded",
        package: "python3",
        present: || Path::new("/usr/bin/python3").exists(),
    },
    PERF,
];

const MKFS: Requirement = Requirement {
    name: "mkfs.ext4",
    package: "e2fsprogs",
    present: || on_path("mkfs.ext4"),
};

const FOR_VM: [Requirement; 7] = [
    PERF,
    RUNQLAT,
    Requirement {
        name: "a static busybox",
        package: "busybox-static",
        present: || on_path("busybox"),
    },
    MKFS,
    Requirement {
        name: "depmod",
        package: "kmod",
        present: || on_path("depmod"),
    },
    Requirement {
        name: "xz",
        package: "xz-utils",
        present: || on_path("xz"),
    },
    Requirement {
        name: "zstd",
        package: "zstd",
        present: || on_path("zstd"),
    },
];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let start = Instant::now();
    let mut apt = Apt::default();
    let mut installed = false;
    installed |= install_requirements(arguments, &mut apt)?;
    installed |= install_toolchain(&mut apt)?;
    if arguments.test {
        installed |= install_components()?;
        installed |= readers::install(&mut apt)?;
    }
    if arguments.bench {
        installed |= inferno::install()?;
    }
    if arguments.accuracy {
        installed |= programs::install()?;
    }
    if let Some(architecture) = arguments.target
        && Some(architecture) != Architecture::host()
    {
        installed |= cross::install(architecture, &mut apt)?;
    }
    if !installed {
        let seconds = start.elapsed().as_secs_f64();
        println!("setup: all that is needed is installed ... {seconds:.1} s");
    }
    if !Path::new("/sys/kernel/tracing/events").exists() {
        println!("note: tracefs is not mounted at /sys/kernel/tracing; ctrscope does not need it");
    }
    Ok(ExitCode::SUCCESS)
}

/// apt, its lists refreshed at most once.
#[derive(Default)]
struct Apt {
    updated: bool,
}

impl Apt {
    fn available() -> bool {
        on_path("apt-get")
    }

    fn update(&mut self) -> Result<()> {
        if !self.updated {
            let mut command = step::as_root("apt-get");
            command.args(["-q", "update"]);
            step::run("refresh the package lists", "apt-update", &mut command)?;
            self.updated = true;
        }
        Ok(())
    }

    fn install(&mut self, packages: &[&str]) -> Result<()> {
        self.update()?;
        let mut command = step::as_root("env");
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "install"])
            .args(["-y", "--no-install-recommends"])
            .args(packages);
        let what = format!("install {} (apt)", packages.join(" "));
        let _no_services = NoServices::new();
        step::run(&what, "apt-install", &mut command)
    }

    /// Whether the lists offer a package.
    fn offers(package: &str) -> bool {
        let policy = Command::new("apt-cache").args(["policy", package]).output();
        policy.is_ok_and(|output| {
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .filter_map(|line| line.trim().strip_prefix("Candidate: "))
                .any(|candidate| candidate != "(none)")
        })
    }
}

/// Keeps packages from starting their services (the Docker Engine is one) while they are installed: the
/// programs alone are wanted. Where somebody has a policy of their own, it stays.
struct NoServices(bool);

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Self {
        if Path::new(Self::POLICY).exists() {
            return Self(false);
        }
        let script = format!(
            "printf '#!/bin/sh\\nexit 101\\n' > {0} && chmod 755 {0}",
            Self::POLICY
        );
        let made = step::as_root("sh").args(["-c", &script]).status();
        Self(made.is_ok_and(|status| status.success()))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.0 {
            let _ = step::as_root("rm").args(["-f", Self::POLICY]).status();
        }
    }
}

fn install_requirements(arguments: &Arguments, apt: &mut Apt) -> Result<bool> {
    let mut wanted: Vec<&Requirement> = ALWAYS.iter().collect();
    if arguments.test {
        wanted.extend(&FOR_TEST);
    }
    if arguments.accuracy {
        wanted.extend(&FOR_ACCURACY);
    }
    if arguments.load {
        wanted.extend(&FOR_LOAD);
    }
    if arguments.bench {
        wanted.extend(&FOR_BENCH);
    }
    if arguments.vm {
        wanted.extend(&FOR_VM);
    }
    let missing: Vec<&Requirement> = wanted
        .into_iter()
        .filter(|requirement| !(requirement.present)())
        .collect();
    install_missing(&missing, apt)
}

fn install_missing(missing: &[&Requirement], apt: &mut Apt) -> Result<bool> {
    if missing.is_empty() {
        return Ok(false);
    }
    let names: Vec<&str> = missing.iter().map(|requirement| requirement.name).collect();
    if !Apt::available() {
        bail!(
            "missing: {}. Install them with this machine's package manager, then run \
             `cargo xtask setup` again",
            names.join(", ")
        );
    }
    let mut packages: Vec<&str> = missing
        .iter()
        .map(|requirement| requirement.package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    apt.update()?;
    packages.retain(|package| *package != DOCKER_CLIENT || Apt::offers(package));
    apt.install(&packages)?;
    if let Some(still) = missing.iter().find(|requirement| !(requirement.present)()) {
        bail!(
            "package {} is installed, but {} is still not found on PATH",
            still.package,
            still.name
        );
    }
    Ok(true)
}

/// A toolchain that can build the eBPF object: its name in rustup.
fn toolchain() -> Option<&'static str> {
    ["bpf", "nightly"]
        .into_iter()
        .find(|toolchain| has_library_source(toolchain))
}

fn has_library_source(toolchain: &str) -> bool {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout);
        output.status.success()
            && Path::new(sysroot.trim())
                .join("lib/rustlib/src/rust/library/core/Cargo.toml")
                .exists()
    })
}

fn install_toolchain(apt: &mut Apt) -> Result<bool> {
    if !on_path("rustup") {
        bail!(
            "rustup is not on PATH. The cargo of a distribution alone cannot build the eBPF object, \
             which needs a second compiler with its library source: install rustup (package `rustup` \
             of your distribution, or https://rustup.rs), then run `cargo xtask setup` again. With a \
             ready object, CTRSCOPE_EBPF_OBJECT=<file> cargo build needs neither"
        );
    }
    let mut installed = false;
    let toolchain = match toolchain() {
        Some(toolchain) => toolchain,
        None => {
            installed = true;
            install_compiler(apt)?
        }
    };
    if !succeeds("bpf-linker", &["--version"]) {
        installed = true;
        install_linker(toolchain, apt)?;
    }
    Ok(installed)
}

fn install_compiler(apt: &mut Apt) -> Result<&'static str> {
    if Apt::available() {
        apt.update()?;
        if DEBIAN_TOOLCHAIN.into_iter().all(Apt::offers) {
            apt.install(&DEBIAN_TOOLCHAIN)?;
            step::run(
                "link it as rustup toolchain `bpf`",
                "rustup-link",
                Command::new("rustup").args(["toolchain", "link", "bpf", "/usr"]),
            )?;
            if !has_library_source("bpf") {
                bail!(
                    "toolchain `bpf` (linked to /usr) has no library source after its installation"
                );
            }
            return Ok("bpf");
        }
    }
    step::run(
        "install toolchain nightly with rust-src (rustup)",
        "rustup-nightly",
        Command::new("rustup").args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]),
    )?;
    Ok("nightly")
}

fn install_linker(toolchain: &str, apt: &mut Apt) -> Result<()> {
    let mut command = step::cargo();
    command.args(["install", "bpf-linker", "--locked", "--force"]);
    let version = if toolchain == "bpf" {
        if !Path::new(DEBIAN_LLVM).join("bin/llvm-config").exists() {
            apt.install(&DEBIAN_TOOLCHAIN)?;
        }
        command
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", DEBIAN_LLVM);
        LINKER_FOR_DEBIAN
    } else {
        LINKER_FOR_RUSTUP
    };
    command.args(["--version", version]);
    step::run(
        &format!("build bpf-linker {version} (cargo install)"),
        "bpf-linker",
        &mut command,
    )?;
    if !succeeds("bpf-linker", &["--version"]) {
        bail!(
            "bpf-linker is installed, but not found: add cargo's bin directory (~/.cargo/bin) to PATH"
        );
    }
    Ok(())
}

/// rustfmt and clippy, for the lint steps of `test`.
fn install_components() -> Result<bool> {
    let missing: Vec<&str> = [("rustfmt", "fmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(_, command)| !succeeds("cargo", &[command, "--version"]))
        .map(|(component, _)| component)
        .collect();
    if missing.is_empty() {
        return Ok(false);
    }
    let mut command = Command::new("rustup");
    command.args(["component", "add"]).args(&missing);
    let what = format!("install {} (rustup)", missing.join(" "));
    step::run(&what, "rustup-components", &mut command)?;
    Ok(true)
}

fn has_static_libc() -> bool {
    // A musl target needs no C library of the system.
    if cfg!(target_env = "musl") {
        return true;
    }
    let output = Command::new("cc").arg("-print-file-name=libc.a").output();
    // The compiler echoes the bare name where it finds no such file.
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains('/'))
}

/// Whether a program is found on PATH, or where Debian puts administrators' programs.
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
