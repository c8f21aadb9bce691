//! The signals that end the process in order: SIGINT, SIGTERM and SIGHUP.
//!
//! SIGHUP comes where a terminal closes, and ends what runs in it. Whoever starts the process with it
//! ignored, as nohup does, has it go on. The configuration is read at the start alone: a daemon whose
//! configuration changed is started again.

use std::io;

use procfs::process::Process;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the process.
pub(crate) struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl EndSignals {
    /// Watches for them from now on. Needs a runtime.
    ///
    /// # Errors
    ///
    /// The system refuses it.
    pub(crate) fn new() -> io::Result<Self> {
        let hangup = if is_hangup_ignored() {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    /// The name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = hangup => "SIGHUP",
        }
    }
}

/// Whether the process was started with SIGHUP ignored. Read of its own `/proc`: where that cannot be read, it
/// was not.
fn is_hangup_ignored() -> bool {
    const SIGHUP_BIT: u64 = 1 << (libc::SIGHUP - 1);
    Process::myself()
        .and_then(|process| process.status())
        .is_ok_and(|status| status.sigign & SIGHUP_BIT != 0)
}
