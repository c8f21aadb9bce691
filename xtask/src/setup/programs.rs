//! Programs that the long run records (`tests/e2e/accuracy/flamegraphs.rs`): a root file system below `target/`
//! with what Debian has of them and all that they need. Nothing is installed, so no service is started and the
//! machine's package manager never hears of them. 250 MB to fetch.

use std::fs;

use anyhow::{Context as _, Result};

use super::Apt;
use crate::{architecture::Architecture, private_apt::PrivateApt, step};

/// What is asked for by name; the rest are their dependencies. The shell is a dependency of nothing, since every
/// Debian has one.
const PACKAGES: [&str; 11] = [
    "coreutils",
    "dash",
    "default-jdk-headless",
    "nginx",
    "nodejs",
    "postgresql",
    "python3",
    "redis-server",
    "redis-tools",
    "ruby",
    "wrk",
];

/// Unpacks what is missing.
pub(super) fn install() -> Result<bool> {
    let directory = step::target_directory().join("programs");
    // Written last: what was interrupted is done again.
    let stamp = directory.join("packages");
    let packages = PACKAGES.map(str::to_owned);
    if fs::read_to_string(&stamp).is_ok_and(|there| there == packages.join("\n")) {
        return Ok(false);
    }
    let Some(architecture) = Architecture::host().filter(|_| Apt::available()) else {
        println!("note: without apt, what records programs of Debian skips itself");
        return Ok(false);
    };
    let _ = fs::remove_file(&stamp);
    let apt = PrivateApt::new(&directory.join("apt"), architecture, None)?;
    // A source that does not answer makes it fail; what matters is whether the packages are found.
    if let Err(error) = apt.refresh() {
        println!("    {error:#}");
    }
    apt.unpack_with_dependencies(&packages, &directory.join("root"))?;
    fs::write(&stamp, packages.join("\n"))
        .with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(true)
}
