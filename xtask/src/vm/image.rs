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
use crate::step;

/// Programs of this machine that the tests run, with the libraries they are linked to.
const PROGRAMS: [&str; 4] = ["runc", "bpftool", "runqlat", "strip"];
/// Module directories from which the disk and its file system work, with all that those need.
const MODULES: [&str; 9] = [
    "kernel/fs/ext4",
    "kernel/fs/jbd2",
    "kernel/fs/mbcache.ko",
    "kernel/drivers/virtio",
    "kernel/drivers/block/virtio_blk.ko",
    "kernel/lib",
    "kernel/crypto",
    "kernel/arch/x86/crypto",
    "kernel/arch/x86/lib",
];

/// What goes into every image.
pub(crate) struct Binaries {
    pub(crate) agent: PathBuf,
    pub(crate) workload: PathBuf,
    pub(crate) tests: PathBuf,
}

/// Writes the initramfs for a kernel and gives its path.
///
/// # Errors
///
/// A program is missing, or the file system is full.
pub(crate) fn build(directory: &Path, kernel: &Kernel, binaries: &Binaries) -> Result<PathBuf> {
    let root = directory.join("root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(root.join("bin"))?;
    let init = step::repository().join("tests/vm/init");
    install(&init, &root.join("init"))?;
    install_program(&program("busybox")?, &root.join("bin/busybox"), &root)?;
    symlink("busybox", root.join("bin/sh"))?;
    for (source, name) in [
        (&binaries.agent, "ctrscope"),
        (&binaries.workload, "ctrscope-workload"),
        (&binaries.tests, "e2e"),
    ] {
        install(source, &root.join("usr/bin").join(name))?;
    }
    for name in PROGRAMS {
        install_program(&program(name)?, &root.join("usr/bin").join(name), &root)?;
    }
    modules(kernel, &root)?;
    let image = directory.join("initramfs");
    archive(&root, &image)?;
    fs::remove_dir_all(&root)?;
    Ok(image)
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

/// A program of this machine, with the libraries that it is linked to.
fn install_program(source: &Path, target: &Path, root: &Path) -> Result<()> {
    install(source, target)?;
    for library in libraries(source)? {
        let target = root.join(library.strip_prefix("/")?);
        if !target.exists() {
            install(&library, &target)?;
        }
    }
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
fn modules(kernel: &Kernel, root: &Path) -> Result<()> {
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
    for path in MODULES {
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
