//! SIGINT, SIGTERM and SIGHUP, which only set a flag.
//!
//! So a command that was interrupted returns like one that ran to its end, and its guards clean up.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// What the shell expects of a program that ended on SIGINT.
const INTERRUPTED: u8 = 130;
/// How often a pause looks at the flag.
const INTERVAL: Duration = Duration::from_millis(50);

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// From now on signals set the flag.
pub(crate) fn catch() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(libc::c_int) = stop;
        // SAFETY: the handler only stores to an atomic, which is safe in a signal handler.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// # Errors
///
/// The flag is set.
pub(crate) fn check() -> Result<()> {
    if STOP.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps.
///
/// # Errors
///
/// The flag was set meanwhile.
pub(crate) fn pause(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(INTERVAL));
    }
}

/// The exit code for a result; an interruption is no failure to report.
///
/// # Errors
///
/// That of `result`, unless the flag is set.
pub(crate) fn exit_code(result: Result<()>) -> Result<ExitCode> {
    match result {
        Err(_) if STOP.load(Ordering::Relaxed) => {
            println!("\ninterrupted; everything that was started has been ended");
            Ok(ExitCode::from(INTERRUPTED))
        }
        result => result.map(|()| ExitCode::SUCCESS),
    }
}
