//! What reads our files in the tests as others read them: the Kubernetes schema for the DaemonSet, that
//! of speedscope for its profiles, Prometheus for the metrics and rules.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{Apt, on_path};
use crate::step;

/// Checks the DaemonSet against the Kubernetes schema, and brings a checker of any JSON schema.
const KUBERNETES_VALIDATE: &str = "kubernetes-validate";
/// The viewer, for the schema of its files.
const SPEEDSCOPE: &str = "speedscope@1.25.0";

/// Installs what is missing.
pub(super) fn install(apt: &mut Apt) -> Result<bool> {
    let validator = install_validator()?;
    let prometheus = install_prometheus(apt)?;
    Ok(install_schema()? || validator || prometheus)
}

/// The server and its tool; unpacked and not installed, for the package would start a service, and brings the
/// libraries of a web page. 19 MB.
fn install_prometheus(apt: &mut Apt) -> Result<bool> {
    const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];
    let directory = step::target_directory().join("prometheus");
    let is_there = |program: &&str| directory.join("usr/bin").join(program).exists();
    if PROGRAMS.iter().all(is_there) || PROGRAMS.into_iter().all(on_path) {
        return Ok(false);
    }
    if !Apt::available() {
        bail!(
            "missing: prometheus and promtool, which read the metrics in the tests. Put them on PATH, \
             then run `cargo xtask setup --test` again"
        );
    }
    apt.update()?;
    fs::create_dir_all(&directory)?;
    step::run(
        "unpack prometheus (apt)",
        "prometheus",
        Command::new("sh").current_dir(&directory).args([
            "-ec",
            "rm -f *.deb; apt-get -q -o APT::Sandbox::User=root download prometheus; \
             dpkg-deb --extract prometheus_*.deb .; rm prometheus_*.deb",
        ]),
    )?;
    Ok(true)
}

/// The schema of speedscope's files.
pub(super) fn schema() -> PathBuf {
    step::target_directory().join("speedscope/package/dist/release/file-format-schema.json")
}

/// The package is 280 KB; of it the schema alone is unpacked.
fn install_schema() -> Result<bool> {
    if schema().exists() {
        return Ok(false);
    }
    let directory = step::target_directory().join("speedscope");
    fs::create_dir_all(&directory)?;
    step::run(
        &format!("fetch {SPEEDSCOPE} (npm)"),
        "speedscope",
        Command::new("sh").current_dir(&directory).args([
            "-ec",
            "npm pack --silent \"$0\"; tar -xzf speedscope-*.tgz \
             package/dist/release/file-format-schema.json; rm speedscope-*.tgz",
            SPEEDSCOPE,
        ]),
    )
    .context("the check of profiles for speedscope needs its schema")?;
    Ok(true)
}

/// The Kubernetes schema check, in a virtual environment of its own.
pub(super) fn validator() -> PathBuf {
    step::target_directory().join("venv/bin/kubernetes-validate")
}

fn install_validator() -> Result<bool> {
    if validator().exists() {
        return Ok(false);
    }
    let environment = step::target_directory().join("venv");
    step::run(
        "make a Python environment in target/venv",
        "venv",
        Command::new("python3")
            .args(["-m", "venv"])
            .arg(&environment),
    )?;
    step::run(
        &format!("install {KUBERNETES_VALIDATE} (pip)"),
        "pip",
        Command::new(environment.join("bin/pip"))
            .args(["install", "--disable-pip-version-check"])
            .arg(KUBERNETES_VALIDATE),
    )
    .context("the check of deploy/daemonset.yaml needs it")?;
    Ok(true)
}
