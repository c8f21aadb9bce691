//! One boot: starts the emulator, follows its console, gives what the guest said.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
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
const SILENCE: Duration = Duration::from_secs(150);
/// How long a machine that hangs is listened to after it was asked where it is.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often an interruption is looked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// Boots until one comes to an end of its own. The emulator's threads can run an instruction that another
/// has just replaced: a boot of Linux 7.3 was seen to end early with an int3 of the kernel's own
/// patching. And one of 5.10 stood still in the middle of the tests, with nothing on the console.
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
    /// The test in which the machine ended, where it did not come to an end of its own.
    unfinished: Option<String>,
    /// The tests in which earlier boots ended so.
    pub(crate) early: Vec<String>,
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
    let mut early = Vec::new();
    for _ in 1..ATTEMPTS {
        // What failed before is a verdict.
        if outcome.exit.is_some() || !outcome.failed.is_empty() {
            break;
        }
        let unfinished = outcome.unfinished.unwrap_or_else(|| "the boot".to_owned());
        print!("ended early in {unfinished}, again ... ");
        early.push(unfinished);
        outcome = attempt()?;
    }
    outcome.failed.extend(outcome.unfinished.take());
    outcome.early = early;
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
    let monitor = Temporary(initramfs.with_extension("monitor"));
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
            match last_words(&monitor.0) {
                Ok(text) => file.write_all(&text)?,
                Err(error) => writeln!(file, "the emulator does not say where it was: {error}")?,
            }
            while let Ok(line) = lines.recv_timeout(LAST_WORDS) {
                file.write_all(&line)?;
                writeln!(file)?;
            }
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
    outcome.unfinished = current.filter(|_| outcome.exit.is_none());
    outcome.seconds = start.elapsed().as_secs_f64();
    Ok(outcome)
}

/// Asks the emulator for the registers of each CPU, and the kernel, by an interrupt that it does not
/// expect, for the stack of one.
fn last_words(monitor: &Path) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(monitor)?;
    stream.set_read_timeout(Some(LAST_WORDS))?;
    stream.write_all(b"info registers -a\nnmi\n")?;
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&part[..length]),
            // It waits for the next question.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_read() {
        let mut outcome = Outcome::default();
        let mut current = None;
        for line in [
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
        assert_eq!(outcome.rss_kib, Some(21_000));
        assert_eq!(outcome.passed, ["sched::one"]);
        assert_eq!(outcome.failed, ["block::three"]);
        assert_eq!(outcome.skipped.len(), 1);
        assert_eq!(outcome.exit, Some(101));
        assert!(!outcome.is_ok());
    }
}
