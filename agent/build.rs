//! Builds the eBPF object from `agent-ebpf` and leaves it at `$OUT_DIR/ctrscope-ebpf`, where the
//! agent embeds it.
//!
//! With `CTRSCOPE_EBPF_OBJECT=<file>` that file is taken instead and no BPF toolchain is needed.
//! Whatever is missing is one error that names `cargo xtask setup`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya_build::{Package, Toolchain};

/// Package and binary of the kernel side; also the name of the object in `OUT_DIR`.
const EBPF_PACKAGE: &str = "ctrscope-ebpf";
/// Names a ready object.
const OBJECT_VARIABLE: &str = "CTRSCOPE_EBPF_OBJECT";
/// Toolchains that can build the object, the preferred one first. `bpf` is what `cargo xtask setup`
/// links to a distribution's compiler.
const TOOLCHAINS: [&str; 2] = ["bpf", "nightly"];

fn main() {
    if let Err(error) = embed_object() {
        // Fails the build by itself. A failing exit code would make cargo print everything that
        // this script and the inner cargo said once more, around the one message that counts.
        println!("cargo::error={error:#}");
    }
}

fn embed_object() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT_VARIABLE}");
    match env::var_os(OBJECT_VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => copy_object(Path::new(&path)),
        None => build_object(),
    }
}

fn copy_object(given: &Path) -> Result<()> {
    // A build script runs in its package, but the user named the file from elsewhere.
    if given.is_relative() {
        bail!(
            "{OBJECT_VARIABLE} must be an absolute path, not {}",
            given.display()
        );
    }
    println!("cargo::rerun-if-changed={}", given.display());
    let object = fs::read(given)
        .with_context(|| format!("cannot read {} ({OBJECT_VARIABLE})", given.display()))?;
    check_object(&object)
        .with_context(|| format!("cannot embed {} ({OBJECT_VARIABLE})", given.display()))?;
    let target = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    fs::write(target.join(EBPF_PACKAGE), object).context("cannot write the eBPF object")
}

/// Refuses what cannot be an eBPF object: 64-bit ELF for machine 247 (`EM_BPF`).
fn check_object(object: &[u8]) -> Result<()> {
    const EM_BPF: u16 = 247;
    let Some(header) = object.get(..20) else {
        bail!("it is too short for an ELF file");
    };
    if !header.starts_with(b"\x7fELF\x02") {
        bail!("it is not a 64-bit ELF file");
    }
    let machine = match header[5] {
        1 => u16::from_le_bytes([header[18], header[19]]),
        _ => u16::from_be_bytes([header[18], header[19]]),
    };
    if machine != EM_BPF {
        bail!("it is an ELF file for machine {machine}, not for eBPF ({EM_BPF})");
    }
    Ok(())
}

fn build_object() -> Result<()> {
    let toolchain = find_toolchain().and_then(|toolchain| {
        if runs(Command::new("bpf-linker").arg("--version")) {
            Ok(toolchain)
        } else {
            Err(anyhow!("bpf-linker is not on PATH"))
        }
    });
    let toolchain = match toolchain {
        Ok(toolchain) => toolchain,
        Err(missing) => bail!(
            "cannot build the eBPF object: {missing}. Run `cargo xtask setup`, or set \
             {OBJECT_VARIABLE} to a ready object."
        ),
    };

    // SAFETY: nothing else runs in this process yet, so no thread reads the environment meanwhile.
    unsafe {
        // The library source is built with the package, which stable compilers refuse otherwise.
        env::set_var("RUSTC_BOOTSTRAP", "1");
    }
    // SAFETY: as above.
    unsafe {
        // aya-build turns each progress line of the inner cargo into a warning; errors still come.
        env::set_var("CARGO_TERM_QUIET", "true");
    }
    let manifest = env::var("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?;
    let root = format!("{manifest}/../agent-ebpf");
    let package = Package {
        name: EBPF_PACKAGE,
        root_dir: &root,
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(toolchain)).map_err(|error| {
        anyhow!(
            "the eBPF programs did not build: {}. Where that speaks of the linker or of the \
             standard library, run `cargo xtask setup`.",
            reason(&error)
        )
    })
}

fn reason(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    // The command line and status of the inner cargo are nothing that the reader could act on.
    if text.contains("failed: ExitStatus") {
        "the compiler's messages are the warnings above".to_owned()
    } else {
        text.replace('\n', " ")
    }
}

/// The first toolchain that works and has the library source that belongs to it.
fn find_toolchain() -> Result<&'static str> {
    if !runs(Command::new("rustup").arg("--version")) {
        bail!("rustup is not on PATH");
    }
    TOOLCHAINS
        .into_iter()
        .find(|toolchain| has_library_source(toolchain))
        .ok_or_else(|| {
            anyhow!("neither toolchain `bpf` nor `nightly` with the library source is installed")
        })
}

fn has_library_source(toolchain: &str) -> bool {
    let sysroot = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        // The rustc that cargo names for this script is another one.
        .env_remove("RUSTC")
        .stderr(Stdio::null())
        .output();
    match sysroot {
        Ok(output) if output.status.success() => {
            let sysroot = String::from_utf8_lossy(&output.stdout);
            Path::new(sysroot.trim())
                .join("lib/rustlib/src/rust/library/core/Cargo.toml")
                .exists()
        }
        _ => false,
    }
}

fn runs(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
