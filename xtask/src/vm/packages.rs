//! Kernels as Debian packages: downloaded with a private apt state and unpacked, never installed.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{architecture::Architecture, private_apt::PrivateApt, step};

/// Releases that carry the kernels, oldest first. One that a mirror has no longer is passed over.
const SUITES: [&str; 6] = [
    "bullseye",
    "bookworm",
    "trixie",
    "trixie-backports",
    "sid",
    "experimental",
];
/// The newest kernel of all, among the names that are asked for.
pub(crate) const NEWEST: &str = "newest";
/// What a machine of another architecture runs beside what is built here.
const PROGRAMS: [&str; 3] = ["busybox-static", "runc", "bpftool"];

/// A kernel, unpacked.
pub(crate) struct Kernel {
    /// Its release, as `uname -r` gives it.
    pub(crate) release: String,
    /// The image, compressed or not.
    pub(crate) image: PathBuf,
    /// `lib/modules/<release>`
    pub(crate) modules: PathBuf,
}

/// Packages for the machines of one architecture, kept between runs.
pub(crate) struct Cache {
    directory: PathBuf,
    architecture: Architecture,
    apt: PrivateApt,
    /// The lists are refreshed at most once in a run.
    updated: bool,
}

impl Cache {
    /// # Errors
    ///
    /// This machine's apt names no mirror of Debian, or the file system is full.
    pub(crate) fn new(architecture: Architecture) -> Result<Self> {
        let directory =
            std::path::absolute(step::target_directory().join("vm"))?.join(architecture.name());
        let mirror = mirror()?;
        let sources: String = SUITES
            .iter()
            .map(|suite| format!("deb {mirror} {suite} main\n"))
            .collect();
        Ok(Self {
            apt: PrivateApt::new(&directory.join("apt"), architecture, Some(&sources))?,
            directory,
            architecture,
            updated: false,
        })
    }

    /// Gives a kernel by the beginning of its version, such as `6.1`, or [`NEWEST`]; from the cache
    /// if it was fetched before.
    ///
    /// # Errors
    ///
    /// No release of Debian that the machine's mirror has carries one, or apt fails.
    pub(crate) fn kernel(&mut self, wanted: &str) -> Result<Kernel> {
        if wanted != NEWEST && wanted.split('.').any(|part| part.parse::<u32>().is_err()) {
            bail!("{wanted} is no kernel version: give two numbers, such as 6.1, or {NEWEST}");
        }
        let directory = self.directory.join("kernels").join(wanted);
        if let Ok(kernel) = find(&directory) {
            return Ok(kernel);
        }
        self.refresh();
        let release = self.choose(wanted)?;
        self.apt.unpack(&self.packages(&release)?, &directory)?;
        find(&directory)
    }

    /// The root of a file system that holds what a machine of another architecture runs beside what
    /// is built here; from the cache if it was fetched before.
    ///
    /// # Errors
    ///
    /// As of [`Self::kernel`].
    pub(crate) fn programs(&mut self) -> Result<PathBuf> {
        let directory = self.directory.join("programs");
        if !directory.exists() {
            self.refresh();
            let packages = PROGRAMS.map(str::to_owned);
            self.apt.unpack_with_dependencies(&packages, &directory)?;
        }
        Ok(directory)
    }

    fn refresh(&mut self) {
        if self.updated {
            return;
        }
        // A suite that is gone makes it fail; what matters is whether the package is found.
        if let Err(error) = self.apt.refresh() {
            println!("    {error:#}");
        }
        self.updated = true;
    }

    /// The release of the newest package of that version.
    fn choose(&self, wanted: &str) -> Result<String> {
        let names = self.apt.names("linux-image-")?;
        // Neither the debugging variant nor the like.
        let flavour = format!("-cloud-{}", self.architecture.debian());
        names
            .iter()
            .filter_map(|name| {
                let release = name.strip_prefix("linux-image-")?;
                let version = release.strip_suffix(&flavour)?;
                let rest = match wanted {
                    NEWEST => version
                        .starts_with(|c: char| c.is_ascii_digit())
                        .then_some("-"),
                    _ => version.strip_prefix(wanted),
                }?;
                (rest.is_empty() || rest.starts_with(['.', '-', '+'])).then_some(version)
            })
            .max_by(|a, b| compare_versions(a, b))
            .map(|version| format!("{version}{flavour}"))
            .with_context(|| {
                format!(
                    "no Debian release that the mirror has carries Linux {wanted} for {}",
                    self.architecture.name()
                )
            })
    }

    /// The packages that a release is made of: until 6.x one, from then on also its parts.
    fn packages(&self, release: &str) -> Result<Vec<String>> {
        let mut packages = vec![format!("linux-image-{release}")];
        for part in ["linux-binary-", "linux-modules-"] {
            let name = format!("{part}{release}");
            if self.apt.names(&name)?.contains(&name) {
                packages.push(name);
            }
        }
        Ok(packages)
    }
}

/// What an unpacked package holds.
fn find(directory: &Path) -> Result<Kernel> {
    let entries = |path: PathBuf| -> Vec<PathBuf> {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect()
    };
    let modules = ["lib/modules", "usr/lib/modules"]
        .into_iter()
        .flat_map(|path| entries(directory.join(path)))
        .next()
        .with_context(|| format!("no modules below {}", directory.display()))?;
    // From 7.x on it lies among the modules.
    let image = [directory.join("boot"), modules.clone()]
        .into_iter()
        .flat_map(entries)
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
        })
        .with_context(|| format!("no kernel image below {}", directory.display()))?;
    let release = modules
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(Kernel {
        release,
        image,
        modules,
    })
}

/// The Debian mirror that this machine uses, with its signing options, as the middle of a `deb` line.
pub(super) fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    for entry in fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
    {
        files.extend(entry.map(|entry| entry.path()));
    }
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| parse_mirror(&text))
        .context(
            "apt of this machine names no Debian mirror: the kernels come as packages of Debian, so \
             run this on Debian",
        )
}

/// Finds the main archive (its address ends in `/debian`) in a list of either format.
fn parse_mirror(text: &str) -> Option<String> {
    let is_archive = |uri: &str| uri.trim_end_matches('/').ends_with("/debian");
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (format!("[{options}] "), rest),
            None => (String::new(), rest),
        };
        let uri = rest.split_whitespace().next()?;
        if is_archive(uri) {
            return Some(format!("{options}{uri}"));
        }
    }
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        let Some(uri) =
            field("URIs").and_then(|uris| uris.split_whitespace().find(|uri| is_archive(uri)))
        else {
            continue;
        };
        let options = match field("Signed-By") {
            Some(key) if key.starts_with('/') => format!("[signed-by={key}] "),
            _ => String::new(),
        };
        return Some(format!("{options}{uri}"));
    }
    None
}

/// Compares by the numbers in them.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit())
            .filter_map(|part| part.parse().ok())
            .collect()
    };
    numbers(a).cmp(&numbers(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(
            compare_versions("6.1.0-47-cloud", "6.1.0-5-cloud"),
            Ordering::Greater
        );
        assert_eq!(
            compare_versions("7.2.13+deb14-cloud", "7.3-cloud"),
            Ordering::Less
        );
    }

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let old =
            "# x\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main\n";
        assert_eq!(
            parse_mirror(old).unwrap(),
            "[arch=amd64 signed-by=/k.gpg] http://mirror.test/debian"
        );
        let new = "Types: deb\nURIs: http://mirror.test/debian-security\nSuites: a\n\n\
                   Types: deb\n# was elsewhere\nURIs: http://mirror.test/debian/\nSuites: b\n\
                   Signed-By: /k.gpg\n";
        assert_eq!(
            parse_mirror(new).unwrap(),
            "[signed-by=/k.gpg] http://mirror.test/debian/"
        );
        assert_eq!(
            parse_mirror("deb http://mirror.test/ubuntu jammy main"),
            None
        );
    }
}
