//! What building for aarch64 on another machine needs: a linker, the static C library, and Rust's
//! standard library for it.
//!
//! The dependencies hold no C code, so the cross compiler only links. The standard library is taken
//! where it is already, else from the packages that the compiler for eBPF came from, else from
//! rustup. The packages are unpacked below `target/`: this machine's package manager never hears of
//! the other architecture.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{Apt, Requirement, install_missing, on_path};
use crate::{architecture::Architecture, private_apt::PrivateApt, step};

/// Where binaries for aarch64 are built to.
const TRIPLE: &str = "aarch64-unknown-linux-gnu";
/// Compiler driver that links them.
const LINKER: &str = "aarch64-linux-gnu-gcc";
/// Package of the standard library that belongs to the compiler of toolchain `bpf`.
const DEBIAN_LIBRARY: &str = "libstd-rust-web-dev";

const FOR_AARCH64: [Requirement; 2] = [
    Requirement {
        name: "a cross compiler for aarch64 (aarch64-linux-gnu-gcc)",
        package: "gcc-aarch64-linux-gnu",
        present: || on_path(LINKER),
    },
    Requirement {
        name: "the static C library for aarch64",
        package: "libc6-dev-arm64-cross",
        present: || {
            let output = Command::new(LINKER).arg("-print-file-name=libc.a").output();
            // The compiler echoes the bare name where it finds no such file.
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains('/'))
        },
    },
];

/// How to build for another architecture.
pub(crate) struct Cross {
    pub(crate) triple: &'static str,
    pub(crate) linker: &'static str,
    library: Library,
}

/// Where the standard library of the other architecture is.
enum Library {
    /// In the toolchain that builds everything else.
    InToolchain,
    /// In a directory of its own, for the compiler of toolchain `bpf`.
    Unpacked(PathBuf),
}

impl Cross {
    /// cargo of the toolchain that has the library.
    pub(crate) fn cargo(&self) -> Command {
        match &self.library {
            Library::InToolchain => step::cargo(),
            Library::Unpacked(_) => {
                let mut command = Command::new("rustup");
                command
                    .args(["run", "bpf", "cargo"])
                    .current_dir(step::repository())
                    // They name the compiler of the toolchain that runs us.
                    .env_remove("RUSTC")
                    .env_remove("CARGO");
                command
            }
        }
    }

    /// Flags of the compiler, for this target alone.
    pub(crate) fn flags(&self) -> Option<String> {
        match &self.library {
            Library::InToolchain => None,
            Library::Unpacked(sysroot) => Some(format!("--sysroot={}", sysroot.display())),
        }
    }
}

/// How to build for `architecture`, if all that it needs is there.
///
/// # Errors
///
/// Something is missing, or it is none that is built for from elsewhere.
pub(crate) fn find(architecture: Architecture) -> Result<Cross> {
    refuse_other(architecture)?;
    let library = find_library()?.context(
        "the standard library for aarch64 is missing; run `cargo xtask setup --target aarch64`",
    )?;
    Ok(Cross {
        triple: TRIPLE,
        linker: LINKER,
        library,
    })
}

/// Installs what is missing; says whether anything was.
pub(super) fn install(architecture: Architecture, apt: &mut Apt) -> Result<bool> {
    refuse_other(architecture)?;
    let missing: Vec<&Requirement> = FOR_AARCH64
        .iter()
        .filter(|requirement| !(requirement.present)())
        .collect();
    let installed = install_missing(&missing, apt)?;
    if find_library()?.is_some() {
        return Ok(installed);
    }
    match debian_version() {
        Some(version) => unpack_library(architecture, &version)?,
        None => step::run(
            "install the standard library for aarch64 (rustup)",
            "rustup-target",
            Command::new("rustup").args(["target", "add", TRIPLE]),
        )?,
    }
    if find_library()?.is_none() {
        bail!("the standard library for aarch64 is installed, but the compiler does not find it");
    }
    Ok(true)
}

fn refuse_other(architecture: Architecture) -> Result<()> {
    if architecture != Architecture::Aarch64 {
        bail!(
            "{} is built on {0} machines only; aarch64 can be built on others",
            architecture.name()
        );
    }
    Ok(())
}

fn find_library() -> Result<Option<Library>> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TRIPLE])
        .current_dir(step::repository())
        .stderr(Stdio::null())
        .output()
        .context("cannot run rustc")?;
    let directory = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && holds_library(Path::new(directory.trim())) {
        return Ok(Some(Library::InToolchain));
    }
    let Some(version) = debian_version() else {
        return Ok(None);
    };
    let sysroot = sysroot(&version)?;
    let libraries = sysroot.join("lib/rustlib").join(TRIPLE).join("lib");
    Ok(holds_library(&libraries).then_some(Library::Unpacked(sysroot)))
}

fn holds_library(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libstd-") && name.ends_with(".rlib")
        })
    })
}

/// Version of this machine's own packages, if toolchain `bpf` is made of them: the other library
/// must be of the very same one.
fn debian_version() -> Option<String> {
    if super::toolchain() != Some("bpf") || !Apt::available() {
        return None;
    }
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Version}", DEBIAN_LIBRARY])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !version.is_empty()).then_some(version)
}

fn directory() -> Result<PathBuf> {
    let directory = step::target_directory().join("xtask/aarch64");
    std::path::absolute(&directory).with_context(|| format!("no path to {}", directory.display()))
}

fn sysroot(version: &str) -> Result<PathBuf> {
    Ok(directory()?.join(format!("library-{version}/usr")))
}

fn unpack_library(architecture: Architecture, version: &str) -> Result<()> {
    let directory = directory()?;
    let apt = PrivateApt::new(&directory.join("apt"), architecture, None)?;
    apt.refresh()?;
    apt.unpack(
        &[format!("{DEBIAN_LIBRARY}={version}")],
        &directory.join(format!("library-{version}")),
    )
}
