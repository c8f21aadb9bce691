//! Children that live a few milliseconds, or less.

use std::{
    io,
    os::unix::process::CommandExt as _,
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

/// Waits in `vfork` for children that sleep.
pub(crate) fn vfork(count: u64, live: Duration) -> Vec<Worker> {
    vec![Box::new(move |until| {
        let sleep = libc::timespec {
            tv_sec: i64::try_from(live.as_secs())?,
            tv_nsec: i64::from(live.subsec_nanos()),
        };
        let mut children = 0u64;
        while children < count && !until.is_over() {
            // `CLONE_VFORK` without `CLONE_VM`: the parent waits, and the child has memory of its own.
            // SAFETY: the child calls nothing but the kernel, and has a stack: a copy of this one.
            let pid = unsafe {
                libc::syscall(
                    libc::SYS_clone,
                    libc::c_long::from(libc::CLONE_VFORK | libc::SIGCHLD),
                    0,
                    0,
                    0,
                    0,
                )
            };
            match pid {
                // SAFETY: as above.
                0 => unsafe {
                    libc::nanosleep(&raw const sleep, ptr::null_mut());
                    libc::_exit(0)
                },
                pid if pid > 0 => {
                    // SAFETY: our own child; its status is not asked for.
                    unsafe { libc::waitpid(i32::try_from(pid)?, ptr::null_mut(), 0) };
                }
                _ => return Err(io::Error::last_os_error()).context("cannot clone"),
            }
            children += 1;
        }
        Ok(json!({ "children": children }))
    })]
}

/// Starts children that call `exec` in another thread than their first.
pub(crate) fn spawn_replaced(count: u64) -> Vec<Worker> {
    vec![Box::new(move |until| {
        let mut children = 0u64;
        while children < count && !until.is_over() {
            let status = Command::new("/proc/self/exe")
                .arg("replaced")
                .stdout(Stdio::null())
                .status()
                .context("cannot start a child")?;
            anyhow::ensure!(status.success(), "a child ended with {status}");
            children += 1;
        }
        Ok(json!({ "children": children }))
    })]
}

/// Becomes another program. A worker is not the first thread.
pub(crate) fn replaced() -> Vec<Worker> {
    vec![Box::new(move |_| {
        let error = Command::new("/proc/self/exe")
            .args(["burn", "--seconds", "0.002"])
            .exec();
        Err(error).context("cannot become another program")
    })]
}
