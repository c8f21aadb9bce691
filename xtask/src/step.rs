//! Steps: one line each with the seconds taken, output in a log file, its tail on failure.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

/// Lines of the log shown when a step fails.
const TAIL_LINES: usize = 40;

/// The repository.
pub(crate) fn repository() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// `target/`, or what `CARGO_TARGET_DIR` says.
pub(crate) fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || repository().join("target"),
        // A relative one is relative to where the user called from; cargo runs us there too.
        PathBuf::from,
    )
}

/// The cargo that called us, at the root of the repository.
pub(crate) fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(repository());
    command
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    // SAFETY: no argument, no failure.
    unsafe { libc::geteuid() == 0 }
}

/// `program` as root: itself, or through sudo with the environment kept.
pub(crate) fn as_root(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.arg("-E").arg(program);
        command
    }
}

/// Prints what is done, does it, prints the seconds it took.
///
/// # Errors
///
/// That of `action`.
pub(crate) fn timed<T>(what: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("{what} ... ");
    // A progress line that cannot be written is not worth failing for.
    let _ = std::io::stdout().flush();
    let start = Instant::now();
    let result = action();
    let seconds = start.elapsed().as_secs_f64();
    match &result {
        Ok(_) => println!("{seconds:.1} s"),
        Err(_) => println!("failed after {seconds:.1} s"),
    }
    result
}

/// Where the output of a step is.
pub(crate) fn log(name: &str) -> PathBuf {
    target_directory().join("xtask").join(format!("{name}.log"))
}

/// Runs a command as a step; its output goes to `target/xtask/<log>.log`.
///
/// # Errors
///
/// The command could not be started or failed; the tail of the log has been printed then.
pub(crate) fn run(what: &str, log: &str, command: &mut Command) -> Result<()> {
    let path = self::log(log);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let status = timed(what, || {
        let status = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        if !status.success() {
            bail!("{status}");
        }
        Ok(())
    });
    if let Err(error) = status {
        print_file(&path);
        bail!(
            "{what}: {error:#}; the whole output is in {}",
            path.display()
        );
    }
    Ok(())
}

/// Prints the end of a log.
pub(crate) fn print_file(path: &Path) {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // What cargo says to programs is no news to people.
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("{\"reason\":"))
        .collect();
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        eprintln!("    {line}");
    }
}
