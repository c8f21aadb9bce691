//! `build`: the binaries, static, so that they run in any container and on any distribution.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    architecture::Architecture,
    setup::{self, cross},
    step,
};

/// What a build leaves in `target/<triple>/<profile>/`.
const BINARIES: [&str; 2] = ["ctrscope", "ctrscope-workload"];
/// The end-to-end tests, as cargo calls them.
const E2E: &str = "e2e";

/// Build the agent and the workload as static release binaries.
///
/// They are left in target/<triple>/release/. Frame pointers are on, so that the agent can be
/// profiled with itself.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build for this architecture instead of this machine's; installs what that needs
    #[arg(long, value_name = "ARCHITECTURE")]
    target: Option<Architecture>,
    /// Also the end-to-end tests, as a static binary that runs without this repository
    #[arg(long)]
    tests: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let target = match arguments.target {
        Some(architecture) => Target::of(architecture)?,
        None => Target::host()?,
    };
    if arguments.tests {
        let tests = build_tests(&target, Profile::Release)?;
        println!("copied to another machine, they run there as root, beside runc:");
        println!(
            "    CTRSCOPE_BIN={} CTRSCOPE_WORKLOAD={} {} --test-threads=1",
            file_name(&tests.built.agent),
            file_name(&tests.built.workload),
            file_name(&tests.e2e)
        );
    } else {
        build_for(&target, Profile::Release)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How a file is called from the directory that it was copied to.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    format!("./{}", name.to_string_lossy())
}

/// How it is optimized; profiles of the root `Cargo.toml`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// What users get.
    Release,
    /// What the test command builds, all of it alike.
    Quick,
}

impl Profile {
    /// As cargo calls it, and the directory that it builds to.
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Quick => "quick",
        }
    }
}

/// Where the binaries are.
pub(crate) struct Built {
    pub(crate) agent: PathBuf,
    pub(crate) workload: PathBuf,
}

/// Where the binaries and the end-to-end tests are, all static.
pub(crate) struct Tests {
    pub(crate) built: Built,
    pub(crate) e2e: PathBuf,
}

/// What is built for.
pub(crate) struct Target {
    triple: String,
    /// `None` where it is this machine's.
    cross: Option<cross::Cross>,
}

impl Target {
    pub(crate) fn host() -> Result<Self> {
        Ok(Self {
            triple: host_triple()?,
            cross: None,
        })
    }

    /// Installs what building for an architecture needs.
    pub(crate) fn of(architecture: Architecture) -> Result<Self> {
        if Some(architecture) == Architecture::host() {
            return Self::host();
        }
        setup::run(&setup::Arguments {
            target: Some(architecture),
            ..setup::Arguments::default()
        })?;
        let cross = cross::find(architecture)?;
        Ok(Self {
            triple: cross.triple.to_owned(),
            cross: Some(cross),
        })
    }

    /// A command of cargo with a profile and this target's linker and flags.
    pub(crate) fn cargo(&self, subcommand: &str, profile: Profile) -> Command {
        let mut command = self
            .cross
            .as_ref()
            .map_or_else(step::cargo, cross::Cross::cargo);
        command.args([subcommand, "--profile", profile.name()]);
        command.args(["--target", &self.triple]);
        // Of the target alone: build scripts and macros are built without them.
        let mut flags = vec![
            "-Ctarget-feature=+crt-static".to_owned(),
            "-Cforce-frame-pointers=yes".to_owned(),
        ];
        if let Some(cross) = &self.cross {
            self.configure(&mut command, "linker", &cross.linker.into());
            flags.extend(cross.flags());
        }
        self.configure(&mut command, "rustflags", &flags.into());
        command.env_remove("RUSTFLAGS");
        command
    }

    /// Sets a key of cargo's configuration for this target. A list keeps paths with spaces whole.
    fn configure(&self, command: &mut Command, key: &str, value: &serde_json::Value) {
        command
            .arg("--config")
            .arg(format!("target.{}.{key}={value}", self.triple));
    }
}

pub(crate) fn build() -> Result<Built> {
    build_for(&Target::host()?, Profile::Release)
}

/// Builds agent and workload.
pub(crate) fn build_for(target: &Target, profile: Profile) -> Result<Built> {
    let mut command = target.cargo("build", profile);
    command.args(["--package", "ctrscope", "--package", "ctrscope-tests"]);
    for binary in BINARIES {
        command.args(["--bin", binary]);
    }
    let what = format!("build the binaries ({})", profile.name());
    step::run(&what, "build", &mut command)?;
    let built = find(&target.triple, profile);
    for binary in [&built.agent, &built.workload] {
        check_static(binary)?;
    }
    Ok(built)
}

/// Builds agent, workload and the end-to-end tests, for a machine without this repository; with the profile
/// of the tests also all unit tests, so that no dependency is built with one set of features for these and
/// another one for those.
pub(crate) fn build_tests(target: &Target, profile: Profile) -> Result<Tests> {
    const LOG: &str = "build-tests";
    let mut command = target.cargo("build", profile);
    match profile {
        Profile::Quick => {
            command.args(["--workspace", "--bins", "--tests"]);
        }
        Profile::Release => {
            command.args(["--package", "ctrscope", "--package", "ctrscope-tests"]);
            for binary in BINARIES {
                command.args(["--bin", binary]);
            }
            command.args(["--test", E2E]);
        }
    }
    command.arg("--message-format=json-render-diagnostics");
    let what = format!("build binaries and tests ({})", profile.name());
    step::run(&what, LOG, &mut command)?;
    let log = step::log(LOG);
    let text = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let e2e = executable(&String::from_utf8_lossy(&text))
        .context("cargo did not say where it put the end-to-end tests")?;
    let built = find(&target.triple, profile);
    for binary in [&built.agent, &built.workload, &e2e] {
        check_static(binary)?;
    }
    Ok(Tests { built, e2e })
}

/// Where cargo put the end-to-end tests, of its messages.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == E2E)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// Says what was built, and refuses what would need files of the machine it runs on.
fn check_static(binary: &Path) -> Result<()> {
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
    Ok(())
}

/// The binaries of an earlier build.
pub(crate) fn built_already() -> Result<Built> {
    let built = find(&host_triple()?, Profile::Release);
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

fn find(triple: &str, profile: Profile) -> Built {
    let directory = step::target_directory().join(triple);
    let directory = directory.join(profile.name());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_are_found_among_what_cargo_says() {
        let text = "   Compiling a v1\n\
             {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"a\"},\"executable\":\"/t/a\"}\n\
             {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"e2e\"},\"executable\":\"/t/e2e-1\"}\n";
        assert_eq!(executable(text), Some(PathBuf::from("/t/e2e-1")));
        assert_eq!(executable("nothing"), None);
    }
}
