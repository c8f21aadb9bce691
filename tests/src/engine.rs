//! What the engines with Docker's command line have in common: an image, and how a container of it is asked for.

use std::{
    fs,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail};

use crate::{binaries, daemon::Folder};

/// The image: the workload program and nothing else.
const IMAGE: &str = "ctrscope-workload:test";

/// Packs the image, and gives the arguments that import it.
pub(crate) fn import(folder: &Folder) -> Result<[String; 3]> {
    let root = folder.path().join("image");
    fs::create_dir(&root)?;
    fs::copy(binaries::workload()?, root.join("workload"))?;
    let archive = folder.path().join("image.tar");
    let status = Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&root)
        .arg(".")
        .status()
        .context("cannot run tar")?;
    if !status.success() {
        bail!("tar: {status}");
    }
    let archive = archive.to_string_lossy().into_owned();
    Ok(["import".to_owned(), archive, IMAGE.to_owned()])
}

/// The arguments that start a container of it.
pub(crate) fn run<'a>(name: &'a str, options: &[&'a str], workload: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["run", "--detach", "--network", "none", "--name", name];
    arguments.extend(options);
    arguments.extend([IMAGE, "/workload"]);
    arguments.extend(workload);
    arguments
}

/// What a command of `tool` printed; what it said if it failed.
pub(crate) fn printed(tool: &str, arguments: &[&str], output: &Output) -> Result<String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{tool} {}: {said}", arguments.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
