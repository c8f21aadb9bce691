//! A root file system as container engines make it: an overlay over a directory that stays as it is.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// An overlay. Dropping it unmounts it and removes what was written.
pub struct Overlay {
    directory: TempDir,
    mounted: bool,
}

impl Overlay {
    /// Mounts one over `lower`.
    ///
    /// # Errors
    ///
    /// The kernel has no overlay file system, or a path has a character that separates its options.
    pub fn over(lower: &Path) -> Result<Self> {
        let mut overlay = Self {
            directory: TempDir::with_prefix("ctrscope-overlay-")?,
            mounted: false,
        };
        let path = |name: &str| overlay.directory.path().join(name);
        for name in ["upper", "work", "merged"] {
            fs::create_dir(path(name))?;
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            path("upper").display(),
            path("work").display()
        );
        let options = CString::new(options)?;
        let point = overlay.point()?;
        let kind: &CStr = c"overlay";
        // SAFETY: strings that end with zero, the options of this file system among them.
        let result = unsafe {
            libc::mount(
                kind.as_ptr(),
                point.as_ptr(),
                kind.as_ptr(),
                0,
                options.as_ptr().cast(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("cannot mount an overlay over {}", lower.display()));
        }
        overlay.mounted = true;
        Ok(overlay)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("merged")
    }

    fn point(&self) -> Result<CString> {
        Ok(CString::new(self.path().as_os_str().as_bytes())?)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Ok(point) = self.point()
            && self.mounted
        {
            // SAFETY: a string that ends with zero.
            let result = unsafe { libc::umount2(point.as_ptr(), libc::MNT_DETACH) };
            if result != 0 {
                let error = io::Error::last_os_error();
                eprintln!("overlay left behind at {}: {error}", self.path().display());
            }
        }
    }
}
