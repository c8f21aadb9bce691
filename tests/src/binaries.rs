//! Where the binaries under test are.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The repository.
#[must_use]
pub fn repository() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The static agent: `CTRSCOPE_BIN`, else the one that `cargo xtask build` left.
///
/// # Errors
///
/// It is not there.
pub fn agent() -> Result<PathBuf> {
    find("CTRSCOPE_BIN", "ctrscope")
}

/// The static workload: `CTRSCOPE_WORKLOAD`, else the one that `cargo xtask build` left.
///
/// # Errors
///
/// It is not there.
pub fn workload() -> Result<PathBuf> {
    find("CTRSCOPE_WORKLOAD", "ctrscope-workload")
}

/// Where cargo and `cargo xtask setup` put what they make.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// `prometheus` or `promtool`: what `cargo xtask setup --test` unpacked, else what is on PATH. Whether that is
/// there shows when it is run.
#[must_use]
pub fn prometheus(program: &str) -> PathBuf {
    let unpacked = target().join("prometheus/usr/bin").join(program);
    if unpacked.exists() {
        unpacked
    } else {
        PathBuf::from(program)
    }
}

/// The root of a file system with programs of Debian, which `cargo xtask setup --accuracy` unpacked; `None` where
/// it has not.
#[must_use]
pub fn programs() -> Option<PathBuf> {
    let programs = target().join("programs");
    let root = std::path::absolute(programs.join("root")).ok()?;
    programs.join("packages").exists().then_some(root)
}

fn find(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        if !path.exists() {
            bail!("{} ({variable}) does not exist", path.display());
        }
        return Ok(path);
    }
    let target = target();
    // target/<triple>/release/<name>; the newest, should there be several.
    let newest = std::fs::read_dir(&target)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("release").join(name)))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max();
    match newest {
        Some((_, path)) => Ok(path),
        None => bail!(
            "no {name} under {}: run `cargo xtask build` or set {variable}",
            target.display()
        ),
    }
}
