//! A daemon that a test started, and the folder that it works in.

use std::{
    ffi::CString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::wait_until;

/// Longest that a daemon takes to start or to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Removed on drop, with what is still mounted at the places named: daemons leave mounts behind where
/// containers could live on.
pub(crate) struct Folder {
    directory: TempDir,
    mounts: &'static [&'static str],
}

impl Folder {
    pub(crate) fn new(prefix: &str, mounts: &'static [&'static str]) -> Result<Self> {
        Ok(Self {
            directory: tempfile::Builder::new().prefix(prefix).tempdir()?,
            mounts,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What the daemons in it have said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// Starts a daemon that works here.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Daemon> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path().join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| {
                let program = command.get_program().to_string_lossy();
                format!("cannot run {program}: `cargo xtask setup --test` installs it")
            })?;
        Ok(Daemon(child))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for mount in self.mounts {
            if let Ok(path) = CString::new(self.path().join(mount).into_os_string().into_vec()) {
                // SAFETY: a path that ends in NUL; a failure means that nothing is mounted there.
                unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
            }
        }
    }
}

/// A daemon; ended on drop.
pub(crate) struct Daemon(Child);

impl Daemon {
    /// Ends it without a chance to tidy up.
    pub(crate) fn crash(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None))
            && let Ok(pid) = i32::try_from(self.0.id())
        {
            // SAFETY: a signal to a child that has not been waited for, so the id is still its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        let ended = wait_until(PATIENCE, "the daemon ends", || {
            Ok(self.0.try_wait()?.map(|_| ()))
        });
        if ended.is_err() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
