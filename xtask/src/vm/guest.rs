//! One boot: starts the emulator, follows its console, gives what the guest said.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{Cell, image, packages::Kernel};
use crate::{architecture::Architecture, interrupt};

/// From power-on to the last test; a guest that says nothing more for [`SILENCE`] has hung.
const LONGEST: Duration = Duration::from_secs(1800);
/// No test is silent for as long.
const SILENCE: Duration = Duration::from_secs(300);
/// How often an interruption is looked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// Boots until one gets to the first process. The emulator's threads can run an instruction that another
/// has just replaced: a boot of Linux 7.3 was seen to end early, with an int3 of the kernel's own
/// patching that nobody expects any more.
const ATTEMPTS: usize = 3;
/// Size of the disk, sparse.
const DISK_BYTES: u64 = 2 << 30;

/// What a boot is for.
pub(crate) struct Plan<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: &'a Path,
    pub(crate) cell: &'a Cell,
}

/// What a guest said.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) passed: Vec<String>,
    pub(crate) failed: Vec<String>,
    /// Test and reason.
    pub(crate) skipped: Vec<(String, String)>,
    pub(crate) rss_kib: Option<u64>,
    pub(crate) peak_kib: Option<u64>,
    pub(crate) maps_bytes: Option<u64>,
    /// v1 controllers that the kernel does not have.
    pub(crate) absent: Vec<String>,
    /// Whether the first process ran.
    pub(crate) booted: bool,
    /// Exit code of the tests; `None` if the guest never got there.
    pub(crate) exit: Option<i32>,
    pub(crate) seconds: f64,
    pub(crate) log: PathBuf,
}

impl Outcome {
    pub(crate) fn is_ok(&self) -> bool {
        self.exit == Some(0) && self.failed.is_empty() && !self.passed.is_empty()
    }

    /// Takes a line of the console.
    fn read(&mut self, line: &str, current: &mut Option<String>) {
        if let Some(rest) = line.strip_prefix("vm: ") {
            let (key, value) = rest.split_once(' ').unwrap_or((rest, ""));
            match key {
                "kernel" => self.booted = true,
                "rss_kib" => self.rss_kib = value.parse().ok(),
                "peak_kib" => self.peak_kib = value.parse().ok(),
                "maps_bytes" => self.maps_bytes = value.parse().ok(),
                "absent" => self.absent.push(value.to_owned()),
                "exit" => self.exit = value.parse().ok(),
                _ => {}
            }
            return;
        }
        let mut rest = line;
        if let Some(named) = line.strip_prefix("test ")
            && let Some((name, tail)) = named.split_once(" ... ")
        {
            *current = Some(name.to_owned());
            rest = tail;
        }
        let Some(name) = current.clone() else {
            return;
        };
        // The reason and the verdict may stand on lines of their own.
        if let Some(reason) = rest.strip_prefix("skipped: ") {
            self.skipped.push((name, reason.to_owned()));
        } else if rest == "ok" {
            // A test that skipped itself is no test that passed.
            if !self.skipped.iter().any(|(skipped, _)| *skipped == name) {
                self.passed.push(name);
            }
            *current = None;
        } else if rest == "FAILED" {
            self.failed.push(name);
            *current = None;
        }
    }
}

/// Boots, runs, and gives what was said. `show` gets each line of the tests.
///
/// # Errors
///
/// The emulator is missing or cannot start; an interruption. What goes wrong inside is an outcome.
pub(crate) fn run(directory: &Path, plan: &Plan<'_>) -> Result<Outcome> {
    let name = plan.cell.name();
    let environment = format!(
        "LAYOUT={}\nTESTS='{}'\nEXPECTED_SKIPS='{}'\nTOLERANCE=2\n",
        plan.cell.layout,
        plan.cell.tests.join(" "),
        plan.cell.expected_skips().join(";"),
    );
    let initramfs = Temporary(directory.join(format!("{name}.initramfs")));
    image::with_file(plan.initramfs, "run.env", &environment, &initramfs.0)?;
    let disk = Temporary(directory.join(format!("{name}.disk")));
    File::create(&disk.0)?.set_len(DISK_BYTES)?;
    let status = Command::new("mkfs.ext4")
        .arg("-qF")
        .arg(&disk.0)
        .status()
        .context("cannot run mkfs.ext4: it is in the package e2fsprogs")?;
    if !status.success() {
        bail!("mkfs.ext4: {status}");
    }
    let log = directory.join(format!("{name}.log"));
    let mut console =
        File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut attempt = || boot(plan, &initramfs.0, &disk.0, &mut console);
    let mut outcome = attempt()?;
    for _ in 1..ATTEMPTS {
        if outcome.booted {
            break;
        }
        print!("did not boot, again ... ");
        outcome = attempt()?;
    }
    outcome.log = log;
    Ok(outcome)
}

/// A file; removed on drop.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Has all that Debian's runc and glibc ask for; less what the emulator lacks and would warn of.
const X86_CPU: &str = "Haswell-v1,pcid=off,x2apic=off,tsc-deadline=off,hle=off,invpcid=off,rtm=off";

/// The emulator of an architecture without hardware virtualization, and its serial console.
fn emulator(architecture: Architecture) -> (Command, &'static str) {
    let (program, arguments, console): (_, &[&str], _) = match architecture {
        Architecture::X86_64 => ("qemu-system-x86_64", &["-cpu", X86_CPU], "ttyS0"),
        Architecture::Aarch64 => (
            "qemu-system-aarch64",
            &["-machine", "virt", "-cpu", "cortex-a72"],
            "ttyAMA0",
        ),
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(["-accel", "tcg,thread=multi", "-m", "2048", "-smp", "2"])
        .args(["-nographic", "-no-reboot", "-net", "none"]);
    (command, console)
}

/// The emulator; ended on drop.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots once; what the console says is added to `file`.
fn boot(plan: &Plan<'_>, initramfs: &Path, disk: &Path, file: &mut File) -> Result<Outcome> {
    let start = Instant::now();
    let (mut emulator, console) = emulator(plan.cell.architecture);
    let child = emulator
        .arg("-append")
        .arg(format!(
            "console={console} quiet panic=1 {}",
            plan.cell.append
        ))
        .arg("-kernel")
        .arg(&plan.kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-drive")
        .arg(format!(
            "file={},format=raw,if=virtio,cache=unsafe",
            disk.display()
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("cannot run the emulator: run `cargo xtask setup --vm`")?;
    let mut machine = Machine(child);
    let console = machine.0.stdout.take().context("no console")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });

    let mut outcome = Outcome::default();
    let mut current = None;
    let mut heard = Instant::now();
    loop {
        interrupt::check()?;
        // Also of a guest that complains without end.
        if start.elapsed() > LONGEST || heard.elapsed() > SILENCE {
            writeln!(file, "ended: it took too long")?;
            break;
        }
        match lines.recv_timeout(INTERVAL) {
            Ok(line) => {
                heard = Instant::now();
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches('\r');
                writeln!(file, "[{:6.1}] {line}", start.elapsed().as_secs_f64())?;
                outcome.read(line, &mut current);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    // Cut off in the middle of a test: that one is to blame.
    if outcome.exit.is_none()
        && let Some(name) = current
    {
        outcome.failed.push(name);
    }
    outcome.seconds = start.elapsed().as_secs_f64();
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_read() {
        let mut outcome = Outcome::default();
        let mut current = None;
        for line in [
            "vm: kernel 6.1.0",
            "vm: rss_kib 21000",
            "vm: absent v1 controller memory",
            "test sched::one ... ok",
            "test block::two ... skipped: no disk",
            "ok",
            "test block::three ... FAILED",
            "test result: FAILED. 1 passed",
            "vm: exit 101",
        ] {
            outcome.read(line, &mut current);
        }
        assert!(outcome.booted);
        assert_eq!(outcome.rss_kib, Some(21_000));
        assert_eq!(outcome.passed, ["sched::one"]);
        assert_eq!(outcome.failed, ["block::three"]);
        assert_eq!(outcome.skipped.len(), 1);
        assert_eq!(outcome.exit, Some(101));
        assert!(!outcome.is_ok());
    }
}
