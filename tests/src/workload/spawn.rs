//! Children that live a few milliseconds.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::json;

use super::Worker;

/// Starts this program again and again to burn two milliseconds.
pub(crate) fn spawn(pause: Duration) -> Vec<Worker> {
    vec![Box::new(move |until| {
        let mut children = 0u64;
        while !until.is_over() {
            Command::new("/proc/self/exe")
                .args(["burn", "--seconds", "0.002"])
                .stdout(Stdio::null())
                .status()
                .context("cannot start a child")?;
            children += 1;
            thread::sleep(pause);
        }
        Ok(json!({ "children": children }))
    })]
}
