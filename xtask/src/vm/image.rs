//! The initramfs of a test machine: the agent, the workload, the tests, runc, busybox and modules.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::packages::Kernel;
use crate::{architecture::Architecture, build, step};

/// Programs that every machine has.
const PROGRAMS: [&str; 2] = ["runc", "bpftool"];
/// Programs that only machines of this machine's architecture have.
const PROGRAMS_OF_HOST: [&str; 3] = ["perf", "runqlat", "strip"];
/// Where programs lie below the root of a file system.
const DIRECTORIES: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];
/// Module directories from which the disk and its file system work, with all that those need.
const MODULES: [&str; 7] = [
    "kernel/fs/ext4",
    "kernel/fs/jbd2",
    "kernel/fs/mbcache.ko",
    "kernel/drivers/virtio",
    "kernel/drivers/block/virtio_blk.ko",
    "kernel/lib",
    "kernel/crypto",
];

/// Where the programs come from that are not built here.
pub(crate) enum Programs {
    /// Those that are installed, with the libraries that `ldd` names.
    OfThisMachine,
    /// Those in a root of their own, whose libraries lie there beside them.
    Unpacked(PathBuf),
}

impl Programs {
    /// The file of a program.
    fn find(&self, name: &str) -> Result<PathBuf> {
        match self {
            Self::OfThisMachine => program(name),
            Self::Unpacked(root) => DIRECTORIES
                .iter()
                .map(|directory| root.join(directory).join(name))
                .find(|path| path.is_file())
                .with_context(|| format!("{name} is not below {}", root.display())),
        }
    }

    /// Copies `names` into `to`, with the libraries that they need.
    fn install(&self, names: &[&str], to: &Path) -> Result<()> {
        for name in names {
            let source = self.find(name)?;
            install(&source, &to.join("usr/bin").join(name))?;
            if matches!(self, Self::OfThisMachine) {
                for library in libraries(&source)? {
                    let target = to.join(library.strip_prefix("/")?);
                    if !target.exists() {
                        install(&library, &target)?;
                    }
                }
            }
        }
        if let Self::Unpacked(root) = self {
            // One directory for all: the loader looks there for libraries, the kernel for the loader.
            for directory in shared_directories(root) {
                for entry in fs::read_dir(&directory)? {
                    let entry = entry?;
                    let name = entry.file_name();
                    if name.to_string_lossy().contains(".so") && entry.path().is_file() {
                        install(&entry.path(), &to.join("lib").join(name))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Directories with libraries below the root of a file system: `lib`, and that of its architecture.
fn shared_directories(root: &Path) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for parent in ["lib", "usr/lib"].map(|directory| root.join(directory)) {
        // With merged directories one is a link to the other.
        if !parent.is_dir() || parent.is_symlink() {
            continue;
        }
        let entries = fs::read_dir(&parent).into_iter().flatten().flatten();
        let of_architecture = entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu"));
        directories.extend(of_architecture);
        directories.push(parent);
    }
    directories
}

/// Writes the initramfs for a kernel and gives its path.
///
/// # Errors
///
/// A program is missing, or the file system is full.
pub(crate) fn build(
    directory: &Path,
    kernel: &Kernel,
    architecture: Architecture,
    built: &build::Tests,
    programs: &Programs,
) -> Result<PathBuf> {
    let root = directory.join("root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(root.join("bin"))?;
    let init = step::repository().join("tests/vm/init");
    install(&init, &root.join("init"))?;
    // It is static.
    install(&programs.find("busybox")?, &root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/sh"))?;
    for (source, name) in [
        (&built.built.agent, "ctrscope"),
        (&built.built.workload, "ctrscope-workload"),
        (&built.e2e, "e2e"),
    ] {
        install(source, &root.join("usr/bin").join(name))?;
    }
    if architecture == Architecture::X86_64 {
        compile("frames.c", "-fomit-frame-pointer", &root)?;
        compile("inlined.c", "-g", &root)?;
    }
    programs.install(&PROGRAMS, &root)?;
    if matches!(programs, Programs::OfThisMachine) {
        programs.install(&PROGRAMS_OF_HOST, &root)?;
    }
    modules(kernel, architecture, &root)?;
    let image = directory.join("initramfs");
    archive(&root, &image)?;
    fs::remove_dir_all(&root)?;
    Ok(image)
}

/// Compiles a program of the end-to-end tests, to `ctrscope-` and its name: there is no compiler in the machine.
fn compile(source: &str, option: &str, root: &Path) -> Result<()> {
    let name = source.trim_end_matches(".c");
    let status = Command::new("cc")
        .args(["-O2", option, "-static", "-o"])
        .arg(root.join(format!("usr/bin/ctrscope-{name}")))
        .arg(step::repository().join("tests/e2e").join(source))
        .status()
        .context("cannot start cc")?;
    if !status.success() {
        bail!("cc could not compile tests/e2e/{source}: {status}");
    }
    Ok(())
}

/// Appends one file to a copy of an image: the kernel unpacks archives one after the other.
///
/// # Errors
///
/// The file system is full.
pub(crate) fn with_file(image: &Path, name: &str, text: &str, to: &Path) -> Result<()> {
    let root = to.with_extension("extra");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    fs::write(root.join(name), text)?;
    let extra = to.with_extension("extra.cpio");
    archive(&root, &extra)?;
    let mut bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    // Each archive begins at a multiple of 4 (initramfs buffer format).
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(fs::read(&extra)?);
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))?;
    fs::remove_file(extra)?;
    fs::remove_dir_all(root)?;
    Ok(())
}

fn archive(root: &Path, to: &Path) -> Result<()> {
    let output = fs::File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let status = Command::new("sh")
        .args(["-c", "find . | busybox cpio -o -H newc"])
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null())
        .status()
        .context("cannot run busybox cpio")?;
    if !status.success() {
        bail!("busybox cpio: {status}");
    }
    Ok(())
}

fn install(source: &Path, target: &Path) -> Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(source, target).with_context(|| format!("cannot copy {}", source.display()))?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Finds a program, also where only root looks.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed: run `cargo xtask setup --vm`"))
}

/// What `ldd` names for a program; nothing for a static one.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

/// Copies the modules, uncompressed, and writes their index.
fn modules(kernel: &Kernel, architecture: Architecture, root: &Path) -> Result<()> {
    let target = root.join("lib/modules").join(&kernel.release);
    fs::create_dir_all(&target)?;
    for name in [
        "modules.builtin",
        "modules.order",
        "modules.builtin.modinfo",
    ] {
        let source = kernel.modules.join(name);
        if source.exists() {
            fs::copy(source, target.join(name))?;
        }
    }
    let ours = match architecture {
        Architecture::X86_64 => ["kernel/arch/x86/crypto", "kernel/arch/x86/lib"],
        Architecture::Aarch64 => ["kernel/arch/arm64/crypto", "kernel/arch/arm64/lib"],
    };
    for path in MODULES.into_iter().chain(ours) {
        for suffix in ["", ".xz", ".zst"] {
            let source = kernel.modules.join(format!("{path}{suffix}"));
            if source.exists() {
                copy_modules(&source, &target.join(format!("{path}{suffix}")))?;
            }
        }
    }
    let status = Command::new(program("depmod")?)
        .arg("-b")
        .arg(root)
        .arg(&kernel.release)
        .stderr(Stdio::null())
        .status()
        .context("cannot run depmod")?;
    if !status.success() {
        bail!("depmod: {status}");
    }
    Ok(())
}

fn copy_modules(source: &Path, target: &Path) -> Result<()> {
    if source.is_dir() {
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            copy_modules(&entry.path(), &target.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let tool = match source.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("ko") => return install(source, target),
        _ => return Ok(()),
    };
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let output = Command::new(tool)
        .arg("-dc")
        .arg(source)
        .output()
        .with_context(|| format!("cannot run {tool}"))?;
    if !output.status.success() {
        bail!("{tool} -dc {}: {}", source.display(), output.status);
    }
    fs::write(target.with_extension(""), output.stdout)?;
    Ok(())
}
