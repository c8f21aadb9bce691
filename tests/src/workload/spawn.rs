//! Children that live a few milliseconds, or less.

use std::{
    io,
    process::{Command, Stdio},
    ptr, thread,
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

/// Forks children that end at once.
pub(crate) fn fork(count: u64) -> Vec<Worker> {
    vec![Box::new(move |until| {
        let mut children = 0u64;
        while children < count && !until.is_over() {
            // SAFETY: the child calls nothing but `_exit`, which is safe in a child of many threads.
            let pid = unsafe { libc::fork() };
            match pid {
                // SAFETY: as above.
                0 => unsafe { libc::_exit(0) },
                pid if pid > 0 => {
                    // SAFETY: our own child; its status is not asked for.
                    unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
                }
                _ => return Err(io::Error::last_os_error()).context("cannot fork"),
            }
            children += 1;
        }
        Ok(json!({ "children": children }))
    })]
}
