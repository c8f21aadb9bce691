//! Code made at run time, as by a JIT.

use std::{fs, io, mem, ptr};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{ThreadOptions, Worker, cpu::workers};

/// Name of the code in the map file.
pub const JIT_FUNCTION: &str = "LazyCompile:~spin /srv/app.js:7";

/// Counts its argument down to zero, then returns.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0x48, 0xff, 0xcf, // dec rdi
    0x75, 0xfb, // jnz -5
    0xc3, // ret
];
/// Counts its argument down to zero, then returns.
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0x00, 0x04, 0x00, 0xf1, // subs x0, x0, #1
    0xe1, 0xff, 0xff, 0x54, // b.ne -4
    0xc0, 0x03, 0x5f, 0xd6, // ret
];

/// Rounds of one call: about a millisecond.
const ROUNDS: u64 = 2_000_000;

/// Makes the code, names it as the perf-map convention says, and calls it.
pub(crate) fn jit(options: &ThreadOptions) -> Result<Vec<Worker>> {
    let spin = make()?;
    let address = spin as usize;
    let path = format!("/tmp/perf-{}.map", std::process::id());
    let line = format!("{address:x} {:x} {JIT_FUNCTION}\n", CODE.len());
    fs::write(&path, line).with_context(|| format!("cannot write {path}"))?;
    Ok(workers(options, || {
        Box::new(move |until| {
            while !until.is_over() {
                spin(ROUNDS);
            }
            Ok(json!({}))
        })
    }))
}

fn make() -> Result<extern "C" fn(u64)> {
    const LENGTH: usize = 4096;
    // SAFETY: new memory at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            LENGTH,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error()).context("no memory for code");
    }
    // SAFETY: the code is shorter than the mapping.
    unsafe { ptr::copy_nonoverlapping(CODE.as_ptr(), start.cast(), CODE.len()) };
    // SAFETY: the mapping made above. Changing the protection also makes new code visible to fetches
    // where caches are apart: the kernel flushes them when the page becomes executable.
    if unsafe { libc::mprotect(start, LENGTH, libc::PROT_READ | libc::PROT_EXEC) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot make memory executable");
    }
    // SAFETY: a function of this signature begins there; the memory is never unmapped.
    Ok(unsafe { mem::transmute::<*mut libc::c_void, extern "C" fn(u64)>(start) })
}
