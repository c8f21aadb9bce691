//! Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes.

use std::{
    fs,
    path::PathBuf,
    process,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{CommandError, EXIT_INTERRUPTED};
use crate::{signals::EndSignals, source::Cancel};

/// A file that was made and has nothing in it yet: where the process ends at once, so does that.
static UNUSED_FILE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Says which file goes with the process, should that end at once.
pub(super) fn goes_with_the_process(path: Option<PathBuf>) {
    *UNUSED_FILE.lock().unwrap_or_else(PoisonError::into_inner) = path;
}

const POLL: Duration = Duration::from_millis(50);

/// Returns a flag that the first SIGINT, SIGTERM or SIGHUP sets. The second ends the process at once.
pub(super) fn cancel_on_signals() -> Result<Cancel, CommandError> {
    let cancel = Cancel::default();
    let failed = |error| CommandError::io("watch for signals", error);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let mut signals = {
        let _inside = runtime.enter();
        EndSignals::new().map_err(failed)?
    };
    let flag = cancel.clone();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    signals.next().await;
                    if flag.is_cancelled() {
                        let unused = UNUSED_FILE.lock();
                        if let Some(path) = &*unused.unwrap_or_else(PoisonError::into_inner) {
                            let _ = fs::remove_file(path);
                        }
                        process::exit(i32::from(EXIT_INTERRUPTED));
                    }
                    flag.cancel();
                }
            });
        })
        .map_err(failed)?;
    Ok(cancel)
}

/// Sleeps until the deadline, or less if cancelled.
pub(super) fn wait_until(deadline: Instant, cancel: &Cancel) {
    while !cancel.is_cancelled() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(POLL));
    }
}
