//! qemu, unpacked and run from below `target/`: the release that is fit is not this machine's own.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::packages::mirror;
use crate::{architecture::Architecture, private_apt::PrivateApt, step};

/// Its qemu is 10.0. That of the release before, 7.2, runs instructions that another of its threads has
/// replaced: it notes which page it translates only after it has read it, so an int3 by which the kernel
/// patches a jump can stay for ever (qemu locks the page first since 8.1). In one of four runs of 5.10
/// a CPU then stood still with its run queue's lock, retrying an int3 that memory no longer had, and a
/// boot of 7.3 ended in a panic over one.
const SUITE: &str = "trixie";

/// An emulator of one architecture.
pub(crate) struct Emulator {
    root: PathBuf,
    program: &'static str,
    host: Architecture,
}

impl Emulator {
    /// Fetches it, or takes what was fetched before.
    ///
    /// # Errors
    ///
    /// This machine's apt names no mirror of Debian, apt fails, or the file system is full.
    pub(crate) fn fetch(guest: Architecture, host: Architecture) -> Result<Self> {
        let (package, program) = match guest {
            Architecture::X86_64 => ("qemu-system-x86", "qemu-system-x86_64"),
            Architecture::Aarch64 => ("qemu-system-arm", "qemu-system-aarch64"),
        };
        let directory = std::path::absolute(step::target_directory().join("vm/emulators"))?;
        let root = directory.join(guest.name());
        let emulator = Self {
            root,
            program,
            host,
        };
        if emulator.loader().is_none() {
            let sources = format!("deb {} {SUITE} main\n", mirror()?);
            let apt = PrivateApt::new(&directory.join("apt"), host, Some(&sources))?;
            apt.refresh()?;
            apt.unpack_with_dependencies(&[package.to_owned()], &emulator.root)?;
        }
        Ok(emulator)
    }

    /// The dynamic loader that came with it: nothing of this machine's libraries is used.
    fn loader(&self) -> Option<PathBuf> {
        let name = match self.host {
            Architecture::X86_64 => "ld-linux-x86-64.so.2",
            Architecture::Aarch64 => "ld-linux-aarch64.so.1",
        };
        self.libraries()
            .iter()
            .map(|directory| directory.join(name))
            .find(|path| path.exists())
    }

    fn libraries(&self) -> [PathBuf; 2] {
        let triplet = format!("{}-linux-gnu", self.host.name());
        ["usr/lib", "lib"].map(|lib| self.root.join(lib).join(&triplet))
    }

    /// A command that runs it, without arguments yet.
    ///
    /// # Errors
    ///
    /// What was unpacked is not whole.
    pub(crate) fn command(&self) -> Result<Command> {
        let loader = self
            .loader()
            .with_context(|| format!("no loader below {}: remove it", self.root.display()))?;
        let path = |path: &str| self.root.join(path);
        let libraries = self.libraries();
        let paths: Vec<_> = libraries
            .iter()
            .map(|path| path.to_string_lossy())
            .collect();
        let mut command = Command::new(loader);
        command
            .arg("--library-path")
            .arg(paths.join(":"))
            .arg(path("usr/bin").join(self.program))
            .arg("-L")
            .arg(path("usr/share/qemu"))
            .arg("-L")
            .arg(path("usr/share/seabios"))
            // Else it looks for sound in this machine's modules, which do not fit.
            .args(["-audiodev", "none,id=none"]);
        Ok(command)
    }
}
