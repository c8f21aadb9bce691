//! SIGTERM and SIGINT, waited for rather than handled.

use std::{io, mem::MaybeUninit, ptr, time::Duration};

/// The signals that end the workload, blocked in every thread.
pub(crate) struct Signals(libc::sigset_t);

impl Signals {
    /// Blocks them in this thread and in those it starts from now on.
    pub(crate) fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initializes the set that it is given.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: initialized by the call above.
        let mut set = unsafe { set.assume_init() };
        for signal in [libc::SIGTERM, libc::SIGINT] {
            // SAFETY: a valid set and a valid signal.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: a valid set; the old mask is not asked for.
        let result =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        Ok(Self(set))
    }

    /// Waits for one of them; false when none came in time.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        // SAFETY: a valid set and time; the information about the signal is not asked for.
        unsafe { libc::sigtimedwait(&raw const self.0, ptr::null_mut(), &raw const timeout) > 0 }
    }

    /// Waits for one of them.
    pub(crate) fn wait_forever(&self) {
        // An interruption by anything else begins the wait again.
        // SAFETY: a valid set; the information about the signal is not asked for.
        while unsafe { libc::sigwaitinfo(&raw const self.0, ptr::null_mut()) } < 0 {}
    }
}
