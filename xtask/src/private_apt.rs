//! apt with lists and a cache of its own: packages of other releases and other architectures are
//! downloaded and unpacked, never installed, and this machine's package manager never hears of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{architecture::Architecture, step};

/// Package lists of one architecture in a directory of their own.
pub(crate) struct PrivateApt {
    architecture: Architecture,
    directory: PathBuf,
    options: Vec<String>,
}

impl PrivateApt {
    /// Lists in `directory`, from this machine's own sources, or those of `sources` (lines of
    /// `sources.list`). They are what they were left as: see [`Self::refresh`].
    ///
    /// # Errors
    ///
    /// The file system is full.
    pub(crate) fn new(
        directory: &Path,
        architecture: Architecture,
        sources: Option<&str>,
    ) -> Result<Self> {
        // apt is run from other directories.
        let directory = std::path::absolute(directory)?;
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let part = directory.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("cannot create {}", part.display()))?;
        }
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok::<_, anyhow::Error>(path.display().to_string())
        };
        let name = architecture.debian();
        let mut options = vec![
            format!("APT::Architecture={name}"),
            format!("APT::Architectures={name}"),
            format!("Dir::State={}", directory.join("state").display()),
            // Nothing is installed as far as these lists go.
            format!("Dir::State::status={}", write("state/status", "")?),
            format!("Dir::Cache={}", directory.join("cache").display()),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // The user that apt changes to may not enter this directory.
            "APT::Sandbox::User=root".to_owned(),
            "Debug::NoLocking=true".to_owned(),
        ];
        if let Some(sources) = sources {
            options.push(format!(
                "Dir::Etc::sourcelist={}",
                write("sources.list", sources)?
            ));
            options.push("Dir::Etc::sourceparts=-".to_owned());
        }
        Ok(Self {
            architecture,
            directory,
            options,
        })
    }

    /// Downloads the lists.
    ///
    /// # Errors
    ///
    /// A source does not answer, or has nothing for this architecture; the others are there then.
    pub(crate) fn refresh(&self) -> Result<()> {
        let name = self.architecture.debian();
        step::run(
            &format!("refresh the package lists for {name}"),
            &format!("apt-update-{name}"),
            self.command("apt-get").arg("update"),
        )
    }

    /// Names of all packages that begin with `prefix`.
    ///
    /// # Errors
    ///
    /// There is no apt.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let output = self
            .command("apt-cache")
            .args(["pkgnames", prefix])
            .output()
            .context("cannot run apt-cache")?;
        Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Unpacks packages (`name` or `name=version`) into `whole`, which replaces what is there once
    /// it is complete.
    ///
    /// # Errors
    ///
    /// A package is not on the lists, a download fails, or the file system is full.
    pub(crate) fn unpack(&self, packages: &[String], whole: &Path) -> Result<()> {
        let downloads = self.emptied("downloads")?;
        let mut command = self.command("apt-get");
        command
            .current_dir(&downloads)
            .arg("download")
            .args(packages);
        self.fetch(packages, &mut command)?;
        extract(&downloads, whole)
    }

    /// Unpacks packages with all that they depend on into `whole`, as [`Self::unpack`] does.
    ///
    /// # Errors
    ///
    /// As of [`Self::unpack`].
    pub(crate) fn unpack_with_dependencies(&self, packages: &[String], whole: &Path) -> Result<()> {
        let downloads = self.emptied("cache/archives")?;
        fs::create_dir_all(downloads.join("partial"))?;
        let mut command = self.command("apt-get");
        command
            .args([
                "install",
                "--download-only",
                "--no-install-recommends",
                "-y",
            ])
            .args(packages);
        self.fetch(packages, &mut command)?;
        extract(&downloads, whole)
    }

    fn fetch(&self, packages: &[String], command: &mut Command) -> Result<()> {
        let name = self.architecture.debian();
        let what = format!("download {} for {name}", packages.join(", "));
        step::run(&what, &format!("apt-download-{name}"), command)
    }

    /// A directory without what an earlier, perhaps interrupted, download left.
    fn emptied(&self, name: &str) -> Result<PathBuf> {
        let directory = self.directory.join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-q");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

/// Unpacks all packages of a directory and removes them.
fn extract(downloads: &Path, whole: &Path) -> Result<()> {
    // Complete or not there at all: unpacked beside, then renamed.
    let mut partial = whole.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    for directory in [&partial, whole] {
        if directory.exists() {
            fs::remove_dir_all(directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let entries =
        fs::read_dir(downloads).with_context(|| format!("cannot read {}", downloads.display()))?;
    let mut found = false;
    for entry in entries {
        let package = entry?.path();
        if package
            .extension()
            .is_none_or(|extension| extension != "deb")
        {
            continue;
        }
        found = true;
        let status = Command::new("dpkg-deb")
            .arg("--extract")
            .args([&package, &partial])
            .status()
            .context("cannot run dpkg-deb")?;
        if !status.success() {
            bail!("dpkg-deb --extract {}: {status}", package.display());
        }
        fs::remove_file(&package)
            .with_context(|| format!("cannot remove {}", package.display()))?;
    }
    if !found {
        bail!("apt left no package in {}", downloads.display());
    }
    fs::rename(&partial, whole).with_context(|| format!("cannot make {}", whole.display()))
}
