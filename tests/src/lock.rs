//! What the whole machine has once: one test at a time, of all processes.

use std::{fs::File, io, os::fd::AsRawFd as _};

/// Held until it is dropped, or its process ends.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody has the lock of that name, and takes it.
    pub(crate) fn take(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("ctrscope-test-{name}.lock"));
        // Stays for the next one: to remove it would give two processes a lock each.
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        loop {
            // SAFETY: an open descriptor.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } == 0 {
                return Ok(Self { _file: file });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}
