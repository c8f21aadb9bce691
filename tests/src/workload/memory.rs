//! Work on memory.

use std::{
    fs,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{Until, Worker};

const PAGE: usize = 4096;
/// Pages touched between two looks at the time.
const STRIDE: usize = 256;

/// Takes memory and keeps it.
pub(crate) fn allocate(bytes: usize) -> Vec<Worker> {
    vec![Box::new(move |until| {
        let mut memory: Vec<u8> = Vec::new();
        memory
            .try_reserve_exact(bytes)
            .context("cannot reserve memory")?;
        memory.resize(bytes, 0);
        touch(&mut memory, until);
        while !until.is_over() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(json!({ "bytes": memory.len() }))
    })]
}

/// Uses all of an allocation, page after page, until it is over: what does not fit has to come back
/// from swap, or does not come at all.
fn touch(memory: &mut [u8], until: &Until) {
    for pages in memory.chunks_mut(PAGE * STRIDE) {
        for page in pages.chunks_mut(PAGE) {
            if let Some(first) = page.first_mut() {
                *first = 1;
            }
        }
        if until.is_over() {
            return;
        }
    }
}

/// Starts children, one after the other, that take more memory than there is, until each is killed.
pub(crate) fn overcommit(bytes: usize, pause: Duration) -> Vec<Worker> {
    vec![Box::new(move |until| {
        let mut killed = 0u64;
        while !until.is_over() {
            let mut command = Command::new("/proc/self/exe");
            command.args(["allocate", "--bytes", &bytes.to_string()]);
            // SAFETY: only writes a file between fork and exec.
            unsafe {
                command.pre_exec(|| fs::write("/proc/self/oom_score_adj", "1000"));
            }
            let mut child = command.spawn().context("cannot start a child")?;
            let status = loop {
                if let Some(status) = child.try_wait().context("cannot wait for a child")? {
                    break status;
                }
                if until.is_over() {
                    let _ = child.kill();
                    break child.wait().context("cannot wait for a child")?;
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            match status.signal() {
                Some(libc::SIGKILL) => killed += 1,
                _ if until.is_over() => {}
                _ => bail!("a child ended by itself: {status}"),
            }
            std::thread::sleep(pause);
        }
        Ok(json!({ "killed": killed }))
    })]
}

/// Parses a number of bytes of this machine's size.
///
/// # Errors
///
/// It does not fit.
pub(crate) fn size(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).context("more memory than there are addresses")
}
