//! SIGTERM and SIGINT, waited for together with a file: the main thread sleeps until there is
//! something to do, so that a workload that waits costs nothing and its accounts stand still.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
};

/// The signals that end the workload, blocked in every thread.
pub(crate) struct Signals(OwnedFd);

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
        // SAFETY: a valid set; -1 asks for a new descriptor.
        let descriptor = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Waits until `file` has something to read; false when one of the signals came first.
    pub(crate) fn wait_readable(&self, file: BorrowedFd<'_>) -> io::Result<bool> {
        self.poll(Some(file)).map(|signalled| !signalled)
    }

    /// Waits for one of them.
    pub(crate) fn wait_forever(&self) -> io::Result<()> {
        self.poll(None).map(|_| ())
    }

    /// Waits for a signal, or for something to read; whether it was a signal.
    fn poll(&self, file: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        let entry = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // A negative descriptor is passed over.
        let other = file.map_or(-1, |file| file.as_raw_fd());
        let mut polled = [entry(self.0.as_raw_fd()), entry(other)];
        loop {
            // SAFETY: two valid entries; -1 is no time limit.
            let ready = unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) };
            if ready > 0 {
                return Ok(polled[0].revents != 0);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}
