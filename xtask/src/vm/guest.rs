//! One boot: starts the emulator, follows its console, gives what the guest said.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{Cell, Row, emulator::Emulator, image, packages::Kernel};
use crate::{architecture::Architecture, interrupt};

/// From power-on to the last test; a guest that says nothing more for [`SILENCE`] has hung.
const LONGEST: Duration = Duration::from_secs(1800);
/// No test is silent for as long.
const SILENCE: Duration = Duration::from_secs(120);
/// How long a machine that hangs is listened to after it was asked where it is.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often an interruption is looked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// Boots until one comes to an end of its own: an emulated machine can stand still for reasons of the
/// emulator's (see `emulator.rs`).
const ATTEMPTS: usize = 3;
/// A CPU that stands still is the end at once, and the stack of each is on the console.
const KERNEL_PARAMETERS: &str = "loglevel=5 panic=1 sysctl.kernel.softlockup_panic=1 \
    sysctl.kernel.softlockup_all_cpu_backtrace=1";
/// Where a machine ended that ended in no test.
const BETWEEN: &str = "between two tests";
/// Size of the disk, sparse.
const DISK_BYTES: u64 = 2 << 30;

/// What a boot is for.
pub(crate) struct Plan<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: &'a Path,
    pub(crate) emulator: &'a Emulator,
    pub(crate) cell: &'a Cell,
    /// What is run, for whoever reads the console later.
    pub(crate) commit: Option<&'a str>,
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
    /// Where earlier boots ended so: a test, the boot, or between two tests.
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
    if let Some(commit) = plan.commit {
        writeln!(console, "{commit}")?;
    }
    let mut attempt = || boot(plan, &initramfs.0, &disk.0, &mut console);
    let mut outcome = attempt()?;
    let mut early = Vec::new();
    for _ in 1..ATTEMPTS {
        // What failed before is a verdict.
        if outcome.exit.is_some() || !outcome.failed.is_empty() {
            break;
        }
        let between = if outcome.passed.is_empty() {
            "the boot"
        } else {
            BETWEEN
        };
        let unfinished = outcome.unfinished.unwrap_or_else(|| between.to_owned());
        print!("ended early ({unfinished}), again ... ");
        early.push(unfinished);
        outcome = attempt()?;
    }
    // An end before the end is a failure, also between two tests.
    if outcome.exit.is_none() {
        let unfinished = outcome.unfinished.take();
        outcome
            .failed
            .push(unfinished.unwrap_or_else(|| "the machine ended early".to_owned()));
    }
    outcome.early = early;
    outcome.log = log;
    Ok(outcome)
}

/// What the console says of the last run of a cell; `None` where it did not end well.
pub(crate) fn last_run(directory: &Path, cell: &Cell) -> Option<Row> {
    let log = directory.join(format!("{}.log", cell.name()));
    let text = fs::read(&log).ok()?;
    let mut row = read_console(&String::from_utf8_lossy(&text), cell)?;
    row.outcome.log = log;
    row.outcome.is_ok().then_some(row)
}

/// Reads a console with all attempts in it: the last one counts.
fn read_console(text: &str, cell: &Cell) -> Option<Row> {
    let mut commit = None;
    let mut release = None;
    let mut outcome = Outcome::default();
    let mut early = Vec::new();
    let mut current = None;
    for line in text.lines() {
        if line.starts_with("commit ") {
            commit = Some(line.to_owned());
        }
        // What the monitor said has no time in front.
        let Some((seconds, said)) = line
            .strip_prefix('[')
            .and_then(|line| line.split_once("] "))
            .and_then(|(time, said)| Some((time.trim().parse().ok()?, said)))
        else {
            continue;
        };
        if let Some(name) = said.strip_prefix("vm: kernel ") {
            if release.replace(name.to_owned()).is_some() {
                early.push(current.take().unwrap_or_else(|| BETWEEN.to_owned()));
            }
            outcome = Outcome::default();
            current = None;
        }
        outcome.seconds = seconds;
        outcome.read(said, &mut current);
    }
    outcome.early = early;
    Some(Row {
        cell: cell.clone(),
        release: release?,
        commit,
        outcome,
    })
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

/// What the emulator of an architecture is told, and its serial console.
fn machine(architecture: Architecture) -> (&'static [&'static str], &'static str) {
    match architecture {
        Architecture::X86_64 => (&["-cpu", X86_CPU], "ttyS0"),
        Architecture::Aarch64 => (&["-machine", "virt", "-cpu", "cortex-a72"], "ttyAMA0"),
    }
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
    let (arguments, console) = machine(plan.cell.architecture);
    let monitor = Temporary(initramfs.with_extension("monitor"));
    let child = plan
        .emulator
        .command()?
        .args(arguments)
        .args(["-accel", "tcg,thread=multi", "-m", "2048", "-smp", "2"])
        .args(["-display", "none", "-serial", "stdio"])
        .args(["-no-reboot", "-net", "none"])
        .arg("-append")
        .arg(format!(
            "console={console} {KERNEL_PARAMETERS} {}",
            plan.cell.append
        ))
        .arg("-monitor")
        .arg(format!("unix:{},server=on,wait=off", monitor.0.display()))
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
        .context("cannot run the emulator")?;
    let mut machine = Machine(child);
    let console = machine.0.stdout.take().context("no console")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || follow(console, |piece| sender.send(piece).is_ok()));

    let mut outcome = Outcome::default();
    let mut current = None;
    // Of the line that is not whole yet: the name of a test comes without a newline until it ends.
    let mut rest = Vec::new();
    let mut heard = Instant::now();
    loop {
        interrupt::check()?;
        // Also of a guest that complains without end.
        if start.elapsed() > LONGEST || heard.elapsed() > SILENCE {
            writeln!(file, "ended: it took too long")?;
            match last_words(&monitor.0) {
                Ok(text) => {
                    // Its prompt echoes the questions letter by letter.
                    for line in text.lines().filter(|line| !line.starts_with("(qemu)")) {
                        writeln!(file, "{line}")?;
                    }
                }
                Err(error) => writeln!(file, "the emulator does not say where it was: {error}")?,
            }
            // The kernel's answer goes on where the name of the test ended.
            outcome.read(&String::from_utf8_lossy(&rest), &mut current);
            rest.clear();
            while let Ok(piece) = lines.recv_timeout(LAST_WORDS) {
                if let Piece::Line(line) = piece {
                    file.write_all(&line)?;
                    writeln!(file)?;
                }
            }
            break;
        }
        match lines.recv_timeout(INTERVAL) {
            Ok(Piece::Rest(piece)) => {
                heard = Instant::now();
                rest = piece;
            }
            Ok(Piece::Line(line)) => {
                heard = Instant::now();
                rest.clear();
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches('\r');
                writeln!(file, "[{:6.1}] {line}", start.elapsed().as_secs_f64())?;
                outcome.read(line, &mut current);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    outcome.read(&String::from_utf8_lossy(&rest), &mut current);
    outcome.unfinished = current.filter(|_| outcome.exit.is_none());
    outcome.seconds = start.elapsed().as_secs_f64();
    Ok(outcome)
}

/// What a console said.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// A line, without its end.
    Line(Vec<u8>),
    /// All there is so far of a line whose end has not come.
    Rest(Vec<u8>),
}

/// Reads a console to its end, or until nobody takes what it said any more.
fn follow(mut console: impl io::Read, mut take: impl FnMut(Piece) -> bool) {
    /// A guest that never ends a line costs this much.
    const LONGEST_LINE: usize = 1 << 16;
    let mut rest = Vec::new();
    let mut part = [0; 4096];
    while let Ok(length @ 1..) = console.read(&mut part) {
        rest.extend_from_slice(&part[..length]);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = rest[..end].to_vec();
            rest.drain(..=end);
            if !take(Piece::Line(line)) {
                return;
            }
        }
        if rest.len() > LONGEST_LINE && !take(Piece::Line(std::mem::take(&mut rest))) {
            return;
        }
        if !rest.is_empty() && !take(Piece::Rest(rest.clone())) {
            return;
        }
    }
}

/// Asks the emulator for the registers of each CPU, and the kernel, by an interrupt that it does not
/// expect, for the stack of one.
fn last_words(monitor: &Path) -> io::Result<String> {
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
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_of_two_attempts_gives_the_last() {
        let cell = Cell::new("5.10", "v2", Architecture::X86_64, &["sched::"]);
        let text = "commit abc\n[   1.5] vm: kernel 5.10.0-32\n[   2.0] test sched::one ... \n\
                    ended: it took too long\nCPU#0\n\
                    [   1.4] vm: kernel 5.10.0-32\n[   1.9] vm: rss_kib 21000\n\
                    [   3.0] test sched::one ... ok\n[   4.5] vm: exit 0\n";
        let row = read_console(text, &cell).unwrap();
        assert_eq!(row.commit.as_deref(), Some("commit abc"));
        assert_eq!(row.release, "5.10.0-32");
        assert_eq!(row.outcome.passed, ["sched::one"]);
        assert_eq!(row.outcome.early, ["sched::one"]);
        assert_eq!(row.outcome.seconds, 4.5);
        assert!(row.outcome.is_ok());
        assert!(read_console("nothing\n[x] y\n", &cell).is_none());
    }

    #[test]
    fn the_name_of_a_test_is_told_before_its_line_ends() {
        let mut pieces = Vec::new();
        let console = &b"test a::b ... ok\ntest a::c ... "[..];
        follow(console, |piece| {
            pieces.push(piece);
            true
        });
        let rest = b"test a::c ... ".to_vec();
        let expected = [
            Piece::Line(b"test a::b ... ok".to_vec()),
            Piece::Rest(rest.clone()),
        ];
        assert_eq!(pieces, expected);
        let (mut outcome, mut current) = (Outcome::default(), None);
        outcome.read(&String::from_utf8_lossy(&rest), &mut current);
        assert_eq!(current.as_deref(), Some("a::c"));
        assert!(outcome.passed.is_empty() && outcome.failed.is_empty());
    }

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
