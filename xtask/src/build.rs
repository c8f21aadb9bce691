//! `build`: the release binaries, static, so that they run in any container and on any distribution.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::step;

/// What `build` leaves in `target/<triple>/release/`.
const BINARIES: [&str; 2] = ["ctrscope", "ctrscope-workload"];

/// Build the agent and the workload as static release binaries.
///
/// They are left in target/<triple>/release/. Frame pointers are on, so that the agent can be
/// profiled with itself.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: &Arguments) -> Result<ExitCode> {
    build()?;
    Ok(ExitCode::SUCCESS)
}

/// Where the release binaries are.
pub(crate) struct Built {
    pub(crate) agent: PathBuf,
    pub(crate) workload: PathBuf,
}

pub(crate) fn build() -> Result<Built> {
    let triple = host_triple()?;
    let mut command = step::cargo();
    command
        .args(["build", "--release", "--target", &triple])
        .args(["--package", "ctrscope", "--package", "ctrscope-tests"]);
    for binary in BINARIES {
        command.args(["--bin", binary]);
    }
    link_statically(&mut command, &triple);
    step::run("build the release binaries", "build", &mut command)?;
    let built = find(&triple);
    for binary in [&built.agent, &built.workload] {
        let size = fs::metadata(binary)
            .with_context(|| format!("cannot find {}", binary.display()))?
            .len();
        if is_dynamic(binary)? {
            bail!(
                "{} is not static: it asks for a dynamic loader",
                binary.display()
            );
        }
        println!(
            "    {} ({:.1} MB, static)",
            binary.display(),
            size as f64 / 1e6
        );
    }
    Ok(built)
}

/// Makes what a cargo command builds for `triple` static, with frame pointers.
pub(crate) fn link_statically(command: &mut Command, triple: &str) {
    // The variable of the target alone: build scripts and macros are built without it.
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        triple.to_uppercase().replace('-', "_")
    );
    command
        .env(
            flags,
            "-C target-feature=+crt-static -C force-frame-pointers=yes",
        )
        .env_remove("RUSTFLAGS");
}

/// The binaries of an earlier build.
pub(crate) fn built_already() -> Result<Built> {
    let built = find(&host_triple()?);
    for binary in [&built.agent, &built.workload] {
        if !binary.exists() {
            bail!(
                "{} does not exist; run `cargo xtask build`",
                binary.display()
            );
        }
    }
    Ok(built)
}

fn find(triple: &str) -> Built {
    let directory = step::target_directory().join(triple).join("release");
    Built {
        agent: directory.join(BINARIES[0]),
        workload: directory.join(BINARIES[1]),
    }
}

pub(crate) fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .current_dir(step::repository())
        .output()
        .context("cannot run rustc")?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc -vV names no host")
}

/// Whether an ELF file has a `PT_INTERP` header, which names the dynamic loader.
fn is_dynamic(path: &Path) -> Result<bool> {
    const PT_INTERP: u32 = 3;
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4096).read_to_end(&mut head))
        .with_context(|| format!("cannot read {}", path.display()))?;
    // Offsets of the 64-bit ELF header: e_phoff, e_phentsize, e_phnum.
    let number = |offset: usize, length: usize| -> Option<usize> {
        let bytes = head.get(offset..offset.checked_add(length)?)?;
        let value = bytes
            .iter()
            .rev()
            .fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    };
    let headers = || {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|index| number(start + index * size, 4))
            .collect::<Option<Vec<_>>>()
    };
    let types = headers().with_context(|| format!("{} is no ELF file", path.display()))?;
    Ok(types.contains(&(PT_INTERP as usize)))
}
