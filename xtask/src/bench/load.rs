//! What is run to be measured: `perf bench sched pipe`, tools, workloads. All of it ends with its guard.

use std::{
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ctrscope_tests::wait_until;

use super::{bpf, cgroups::Cgroup};
use crate::interrupt;

/// How long a tool may take to load its programs.
const LOAD_PATIENCE: Duration = Duration::from_secs(30);
/// How long a load may take to get going.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to put a thousand processes into their cgroups, each in five hierarchies.
const SETTLE_PATIENCE: Duration = Duration::from_secs(120);
/// Starts a process for each list of directories, which ends with `--`, and puts it into those cgroups.
const SETTLE: &str = "while [ $# -gt 0 ]; do sleep infinity & \
                      while [ \"$1\" != -- ]; do echo $! >\"$1/cgroup.procs\" || exit 1; shift; done; \
                      shift; done; wait";
/// Enters the cgroups given by their directories up to `--`, then becomes the rest of its arguments.
const ENTER: &str = "while [ \"$1\" != -- ]; do echo $$ >\"$1/cgroup.procs\" || exit 1; shift; done; \
                     shift; exec \"$@\"";

/// A process and its children. Dropping it kills them.
pub(super) struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts a command as the leader of a process group, its output thrown away.
    pub(super) fn start(what: &str, command: &mut Command) -> Result<Self> {
        command.stdout(Stdio::null());
        Self::start_as_is(what, command)
    }

    fn start_as_is(what: &str, command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        Ok(Self {
            child,
            what: what.to_owned(),
        })
    }

    /// Its pid.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    ///
    /// It has ended.
    pub(super) fn expect_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended too early: {status}", self.what),
            None => Ok(()),
        }
    }

    /// Waits until it has loaded programs and its set of them no longer grows.
    fn wait_loaded(&mut self) -> Result<()> {
        let what = format!("programs of {}", self.what);
        let (mut last, mut since) = (0, Instant::now());
        wait_until(LOAD_PATIENCE, &what, || {
            interrupt::check()?;
            self.expect_alive()?;
            let loaded = bpf::ids_of(self.child.id()).len();
            if loaded != last {
                (last, since) = (loaded, Instant::now());
            }
            Ok((loaded > 0 && since.elapsed() > Duration::from_millis(500)).then_some(()))
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: the process group is that of our own child, which has not been waited for.
        unsafe { libc::kill(-self.child.id().cast_signed(), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

/// libbpf-tools' `runqlat`, collecting its one histogram of the whole host.
pub(super) fn runqlat() -> Result<Process> {
    libbpf_tool("runqlat")
}

/// libbpf-tools' `biolatency`, collecting its one histogram of the whole host.
pub(super) fn biolatency() -> Result<Process> {
    libbpf_tool("biolatency")
}

fn libbpf_tool(name: &str) -> Result<Process> {
    let mut tool = Process::start(name, &mut Command::new(tool_path(name)))?;
    tool.wait_loaded()?;
    Ok(tool)
}

/// The histogram of run queue latency as bpftrace's own example does it.
pub(super) const BPFTRACE_PROGRAM: &str = "\
tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @q[args->pid] = nsecs; } \
tracepoint:sched:sched_switch { \
if (args->prev_state == 0) { @q[args->prev_pid] = nsecs; } \
$start = @q[args->next_pid]; \
if ($start) { @usecs = hist((nsecs - $start) / 1000); } \
delete(@q[args->next_pid]); }";

/// bpftrace with [`BPFTRACE_PROGRAM`].
pub(super) fn bpftrace() -> Result<Process> {
    // It needs tracefs. Where that is not mounted it is, in a mount namespace that ends with it.
    let script = "test -d /sys/kernel/tracing/events || \
                  mount -t tracefs nodev /sys/kernel/tracing || exit 1; exec bpftrace -e \"$0\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, BPFTRACE_PROGRAM]);
    let mut tool = Process::start("bpftrace", &mut command)?;
    tool.wait_loaded()?;
    Ok(tool)
}

/// A program, also where Debian puts administrators' ones.
pub(super) fn tool_path(name: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    found.map_or_else(|| name.to_owned(), |path| path.display().to_string())
}

/// The CPU on which the ping-pong is pinned: the last one, for interrupts often go to the first.
pub(super) fn pinned_cpu() -> Result<usize> {
    let cpus = std::thread::available_parallelism()?.get();
    Ok(cpus - 1)
}

/// `perf bench sched pipe`, pinned. Its weight is raised so that whatever else runs there costs little.
fn pipe_arguments(loops: u64) -> Result<Vec<String>> {
    let words = format!(
        "nice -n -20 taskset -c {} perf bench sched pipe -l {loops}",
        pinned_cpu()?
    );
    Ok(words.split(' ').map(str::to_owned).collect())
}

/// Microseconds of one loop of the ping-pong: two messages, two context switches.
pub(super) fn pipe_usec(loops: u64) -> Result<f64> {
    let arguments = pipe_arguments(loops)?;
    let mut command = Command::new(&arguments[0]);
    command.args(&arguments[1..]).stdout(Stdio::piped());
    let mut process = Process::start_as_is("perf bench sched pipe", &mut command)?;
    let mut output = process.child.stdout.take().context("no output of perf")?;
    let ended = wait_until(Duration::from_secs(120), "end of perf bench", || {
        interrupt::check()?;
        Ok(process.child.try_wait()?)
    })?;
    let mut text = String::new();
    // All of it fits into the pipe.
    output.read_to_string(&mut text)?;
    if !ended.success() {
        bail!("perf bench sched pipe: {ended}: {text}");
    }
    parse_usec(&text).with_context(|| format!("perf bench said no usecs/op: {text}"))
}

fn parse_usec(text: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.trim().strip_suffix("usecs/op"))
        .and_then(|value| value.trim().parse().ok())
}

/// A ping-pong without end between two processes, each in a cgroup.
pub(super) fn pipe_between(first: &Cgroup, second: &Cgroup) -> Result<Process> {
    // Bounded all the same: should nobody end it, it ends after an hour or so.
    let mut command = entered(first.directories(), &pipe_arguments(500_000_000)?);
    let mut process = Process::start("perf bench sched pipe", &mut command)?;
    let members = first.processes()?;
    let other = wait_until(START_PATIENCE, "second process of perf bench", || {
        process.expect_alive()?;
        let members = std::fs::read_to_string(&members)?;
        let mut others = members
            .lines()
            .filter_map(|line| line.parse::<u32>().ok())
            .filter(|&pid| pid != process.pid() && is_perf(pid));
        Ok(others.next())
    })?;
    for directory in second.directories() {
        let file = directory.join("cgroup.procs");
        std::fs::write(&file, other.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    process.expect_alive()?;
    Ok(process)
}

fn is_perf(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .is_ok_and(|name| name.trim().contains("perf") || name.trim() == "sched-pipe")
}

/// The workload in a cgroup.
pub(super) fn workload(binary: &Path, cgroup: &Cgroup, arguments: &str) -> Result<Process> {
    // Heavier than whatever else runs there, as the ping-pong is.
    let mut words: Vec<String> = ["nice", "-n", "-20"].map(str::to_owned).to_vec();
    words.push(binary.display().to_string());
    words.extend(arguments.split(' ').map(str::to_owned));
    let mut process = Process::start("the workload", &mut entered(cgroup.directories(), &words))?;
    // It has entered the cgroups once the shell has become the workload.
    let comm = format!("/proc/{}/comm", process.pid());
    wait_until(START_PATIENCE, "start of the workload", || {
        process.expect_alive()?;
        let name = std::fs::read_to_string(&comm).unwrap_or_default();
        Ok(name.starts_with("ctrscope-wor").then_some(()))
    })?;
    Ok(process)
}

/// Processes that do nothing, one in each of the cgroups.
pub(super) fn sleepers(cgroups: &[Cgroup]) -> Result<Process> {
    let mut command = Command::new("sh");
    command.args(["-c", SETTLE, "sh"]);
    for cgroup in cgroups {
        command.args(cgroup.directories()).arg("--");
    }
    let mut process = Process::start("the sleepers", &mut command)?;
    let last = cgroups
        .last()
        .and_then(|cgroup| cgroup.directories().last());
    let last = last.context("no cgroup")?.join("cgroup.procs");
    wait_until(SETTLE_PATIENCE, "a process in each cgroup", || {
        interrupt::check()?;
        process.expect_alive()?;
        let members = std::fs::read_to_string(&last)?;
        Ok((!members.is_empty()).then_some(()))
    })?;
    Ok(process)
}

fn entered(directories: &[std::path::PathBuf], words: &[String]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", ENTER, "sh"])
        .args(directories)
        .arg("--")
        .args(words);
    command
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_time_of_a_loop_is_read_from_perf() {
        let text = "# Running 'sched/pipe' benchmark:\n\n     Total time: 0.010 [sec]\n\n\
                    \x20   4.255100 usecs/op\n         954 ops/sec\n";
        assert_eq!(super::parse_usec(text), Some(4.2551));
        assert_eq!(super::parse_usec("usecs/op"), None);
    }
}
