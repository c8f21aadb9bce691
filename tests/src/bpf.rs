//! Programs and maps of an agent, as the kernel has them. Another agent's are left out.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::wait_until;

/// `bpftool` stops where an object goes while it lists: then it is asked again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ids of the programs and maps that a process holds, from its file descriptors.
///
/// # Errors
///
/// The process is gone.
pub fn held(pid: u32) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    let directory = format!("/proc/{pid}/fdinfo");
    for entry in fs::read_dir(&directory)
        .with_context(|| format!("cannot list {directory}"))?
        .flatten()
    {
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let id = |key: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(key))?;
            value.trim().parse::<u64>().ok()
        };
        programs.extend(id("prog_id:"));
        maps.extend(id("map_id:"));
    }
    Ok((programs, maps))
}

/// All that the kernel has of a kind: `prog` or `map`.
///
/// # Errors
///
/// There is no `bpftool`, or it shows none for a minute.
pub fn alive(kind: &str) -> Result<Vec<Value>> {
    wait_until(PATIENCE, "bpftool shows all", || {
        let shown = bpftool(&[kind, "show"])?;
        Ok(shown.and_then(|shown| shown.as_array().cloned()))
    })
}

/// What a map of a process holds, by the name of the map.
///
/// # Errors
///
/// The process is gone or has no such map; there is no `bpftool`.
pub fn dump(pid: u32, name: &str) -> Result<Value> {
    let (_, maps) = held(pid)?;
    let id = alive("map")?
        .iter()
        .filter(|map| map["name"] == name)
        .filter_map(|map| map["id"].as_u64())
        .find(|id| maps.contains(id))
        .with_context(|| format!("the process {pid} has no map {name}"))?
        .to_string();
    wait_until(PATIENCE, "bpftool dumps the map", || {
        bpftool(&["map", "dump", "id", &id])
    })
}

/// `None` where it failed.
fn bpftool(arguments: &[&str]) -> Result<Option<Value>> {
    let output = Command::new("bpftool")
        .arg("--json")
        .args(arguments)
        .output()
        .context("cannot run bpftool")?;
    if !output.status.success() {
        return Ok(None);
    }
    let json = serde_json::from_slice(&output.stdout).context("bpftool printed no JSON")?;
    Ok(Some(json))
}
