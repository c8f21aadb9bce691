//! Work on the CPU.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    mem,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{ThreadOptions, Worker, hot::Hot};

/// Busy loops with known shares.
pub(crate) fn burn(options: &ThreadOptions) -> Vec<Worker> {
    workers(options, || {
        Box::new(|until| {
            let mut hot = Hot::default();
            while !until.is_over() {
                hot.step();
            }
            Ok(json!({ "hot_ns": hot.spent_ns }))
        })
    })
}

/// Bursts and sleeps.
pub(crate) fn sleep_burn(options: &ThreadOptions, burst: Duration, sleep: Duration) -> Vec<Worker> {
    let burst_ns = u64::try_from(burst.as_nanos()).unwrap_or(u64::MAX);
    workers(options, || {
        Box::new(move |until| {
            let mut hot = Hot::default();
            let mut bursts = 0u64;
            while !until.is_over() {
                hot.burst(burst_ns);
                bursts += 1;
                thread::sleep(sleep);
            }
            Ok(json!({ "bursts": bursts }))
        })
    })
}

/// Two threads, a byte to and fro.
pub(crate) fn pingpong(options: &ThreadOptions) -> Result<Vec<Worker>> {
    let cpu = options.cpu;
    let (mut ping_out, mut ping_in) = std::io::pipe().context("cannot make a pipe")?;
    let (mut pong_out, mut pong_in) = std::io::pipe().context("cannot make a pipe")?;
    let caller: Worker = Box::new(move |until| {
        pin(cpu)?;
        let mut loops = 0u64;
        let mut byte = [0];
        while !until.is_over() {
            ping_in.write_all(&byte)?;
            pong_out.read_exact(&mut byte)?;
            loops += 1;
        }
        // Dropping its end of the pipe ends the other thread.
        drop(ping_in);
        Ok(json!({ "loops": loops }))
    });
    let echo: Worker = Box::new(move |_| {
        pin(cpu)?;
        let mut byte = [0];
        while ping_out.read(&mut byte)? == 1 {
            pong_in.write_all(&byte)?;
        }
        Ok(json!({}))
    });
    Ok(vec![caller, echo])
}

/// One end of [`pingpong`] over two FIFOs, so that the other can be in another container. The one that begins ends it.
pub(crate) fn pass(
    read: &Path,
    write: &Path,
    is_first: bool,
    options: &ThreadOptions,
) -> Result<Vec<Worker>> {
    const END: u8 = 1;
    let cpu = options.cpu;
    let open = |path: &Path| {
        // For reading and writing: neither waits for the other end (fifo(7)).
        let fifo = File::options().read(true).write(true).open(path);
        fifo.with_context(|| format!("cannot open {}", path.display()))
    };
    let (mut from, mut to) = (open(read)?, open(write)?);
    let end: Worker = Box::new(move |until| {
        pin(cpu)?;
        let mut byte = [0];
        let mut loops = 0u64;
        while !is_first || !until.is_over() {
            if is_first {
                to.write_all(&byte)?;
            }
            from.read_exact(&mut byte)?;
            if byte[0] == END {
                break;
            }
            if !is_first {
                to.write_all(&byte)?;
            }
            loops += 1;
        }
        if is_first {
            to.write_all(&[END])?;
        }
        Ok(json!({ "loops": loops }))
    });
    Ok(vec![end])
}

pub(crate) fn workers(options: &ThreadOptions, worker: impl Fn() -> Worker) -> Vec<Worker> {
    (0..options.threads.max(1))
        .map(|_| {
            let (cpu, work) = (options.cpu, worker());
            let pinned: Worker = Box::new(move |until| {
                pin(cpu)?;
                work(until)
            });
            pinned
        })
        .collect()
}

/// Binds the calling thread to a CPU.
fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    anyhow::ensure!(cpu < size_of_val(&set) * 8, "no CPU {cpu}");
    // SAFETY: `cpu` is within the set, checked above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: a valid set of that size; 0 is the calling thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if result != 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("cannot use CPU {cpu}"));
    }
    Ok(())
}
