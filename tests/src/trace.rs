//! Every switch and wake-up of the scheduler, one by one, as `perf` records them: an account of preemptions and
//! of blocked time that the kernel itself does not keep.

mod waits;

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

pub use self::waits::{Waited, split_waits};
use crate::wait_until;

/// Tracefs where it is not mounted, in a mount namespace that ends with the command.
const WITH_TRACEFS: &str = "test -d /sys/kernel/tracing/events || \
                            mount -t tracefs nodev /sys/kernel/tracing || exit 1; exec \"$@\"";
const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: [&str; 4] = [
    "sched:sched_switch",
    "sched:sched_wakeup",
    "sched:sched_wakeup_new",
    "sched:sched_migrate_task",
];

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// When, monotonic clock, nanoseconds.
    pub at: u64,
    /// On which CPU.
    pub cpu: u32,
    /// What.
    pub event: Event,
}

/// What happened to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A CPU went from one task to another.
    Switch {
        /// Who left.
        previous: u32,
        /// Whether it was still runnable.
        is_runnable: bool,
        /// Who came.
        next: u32,
    },
    /// A task became runnable.
    Wakeup {
        /// Which.
        task: u32,
        /// CPU that it is to run on.
        target: u32,
    },
    /// A task goes to another CPU; if it is asleep, it is about to be woken there.
    Migrate {
        /// Which.
        task: u32,
        /// To which CPU.
        target: u32,
    },
}

/// A recording that goes on.
pub struct Recording {
    perf: Child,
    directory: TempDir,
}

impl Recording {
    /// Begins to record the whole host.
    ///
    /// # Errors
    ///
    /// `perf` does not run here.
    pub fn start() -> Result<Self> {
        let directory = TempDir::new_in("/var/tmp")?;
        let mut perf = with_tracefs();
        perf.args([
            "perf",
            "record",
            "--quiet",
            "--all-cpus",
            "-m",
            "2048",
            "-k",
            "mono",
        ])
        .args(EVENTS.iter().flat_map(|event| ["-e", event]))
        .arg("-o")
        .arg(directory.path().join("data"));
        let perf = perf
            .stdout(Stdio::null())
            .spawn()
            .context("perf does not run here")?;
        let mut recording = Self { perf, directory };
        // It opens the file first and the events then; its own switches are the first that it writes.
        wait_until(PATIENCE, "perf records", || {
            ensure!(recording.perf.try_wait()?.is_none(), "perf has ended");
            let length = recording.data().metadata().map_or(0, |data| data.len());
            Ok((length > 4096).then_some(()))
        })?;
        Ok(recording)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Ends it; what was recorded, in the order of time. `None` where events were lost.
    ///
    /// # Errors
    ///
    /// `perf` fails.
    pub fn stop(mut self) -> Result<Option<Vec<Traced>>> {
        // SAFETY: our own child, which has not been waited for.
        unsafe { libc::kill(self.perf.id().cast_signed(), libc::SIGINT) };
        self.perf.wait()?;
        let mut script = with_tracefs()
            .args(["perf", "script", "--ns", "--show-lost-events"])
            .args(["-F", "tid,cpu,time,event,trace", "-i"])
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("perf script does not run here")?;
        let mut is_complete = true;
        let mut events = Vec::new();
        // Line by line: a second of two tasks that wake each other has a hundred megabytes of them.
        let mut lines = BufReader::new(script.stdout.take().context("perf script has no output")?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            is_complete &= !text.contains("PERF_RECORD_LOST");
            events.extend(parse(&text));
            line.clear();
        }
        script.wait()?;
        if !is_complete {
            return Ok(None);
        }
        events.sort_by_key(|one| one.at);
        ensure!(!events.is_empty(), "perf recorded nothing");
        Ok(Some(events))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

fn with_tracefs() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", WITH_TRACEFS, "sh"]);
    command
}

/// A line of `perf script`.
fn parse(line: &str) -> Option<Traced> {
    let (head, event) = line.split_once(": ")?;
    // Names of events are padded to one width.
    let event = event.trim_start().strip_prefix("sched:")?;
    let mut head = head.split_whitespace().rev();
    let (seconds, nanoseconds) = head.next()?.split_once('.')?;
    let at = seconds.parse::<u64>().ok()? * 1_000_000_000 + nanoseconds.parse::<u64>().ok()?;
    let cpu = head.next()?.strip_prefix('[')?.strip_suffix(']')?;
    // Names may have spaces and look like anything; the last field of a kind is the kernel's.
    let field = |name: &str| {
        let (_, value) = event.rsplit_once(&format!(" {name}="))?;
        value.split_whitespace().next()
    };
    let number = |name: &str| field(name)?.parse::<u32>().ok();
    let (kind, _) = event.split_once(':')?;
    let event = match kind {
        "sched_wakeup" | "sched_wakeup_new" => Event::Wakeup {
            task: number("pid")?,
            target: number("target_cpu")?,
        },
        "sched_migrate_task" => Event::Migrate {
            task: number("pid")?,
            target: number("dest_cpu")?,
        },
        _ => Event::Switch {
            previous: number("prev_pid")?,
            is_runnable: field("prev_state")?.starts_with('R'),
            next: number("next_pid")?,
        },
    };
    let cpu = cpu.parse().ok()?;
    Some(Traced { at, cpu, event })
}

/// Who took a CPU from whom, as far as these tests can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A task of the same container.
    Myself,
    /// One of another.
    Container,
    /// Anybody else.
    Other,
}

/// What a container's tasks suffered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suffered {
    /// Preemptions, by [`By`].
    pub preemptions: [u64; 3],
    /// Time from those until the task ran again, nanoseconds, by [`By`].
    pub preempted_wait_ns: [u64; 3],
    /// Time from leaving a CPU blocked until being woken, of those that have run again since, nanoseconds.
    pub blocked_ns: u64,
}

/// The monotonic clock, nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid struct; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Sums up what ended in a window by container, given by name with the tasks of each. A preemption is of the
/// moment when it happens, a time of that when its task runs again.
#[must_use]
pub fn sum_up(
    events: &[Traced],
    window: &Range<u64>,
    containers: &HashMap<String, Vec<u32>>,
) -> HashMap<String, Suffered> {
    let of: HashMap<u32, &str> = containers
        .iter()
        .flat_map(|(name, tids)| tids.iter().map(|tid| (*tid, name.as_str())))
        .collect();
    let mut sums: HashMap<String, Suffered> = HashMap::new();
    // How a task left, and when it was woken.
    let mut away: HashMap<u32, (u64, Option<By>, Option<u64>)> = HashMap::new();
    for &Traced { at, event, .. } in events {
        match event {
            Event::Migrate { .. } => {}
            Event::Wakeup { task, .. } => {
                if let Some((_, None, woken @ None)) = away.get_mut(&task) {
                    *woken = Some(at);
                }
            }
            Event::Switch {
                previous,
                is_runnable,
                next,
            } => {
                if let Some(name) = of.get(&previous) {
                    let by = match of.get(&next) {
                        Some(other) if other == name => By::Myself,
                        Some(_) => By::Container,
                        None => By::Other,
                    };
                    if is_runnable && window.contains(&at) {
                        let sum = sums.entry((*name).to_owned()).or_default();
                        sum.preemptions[by as usize] += 1;
                    }
                    away.insert(previous, (at, is_runnable.then_some(by), None));
                }
                if let Some(name) = of.get(&next)
                    && let Some((left, by, woken)) = away.remove(&next)
                    && window.contains(&at)
                {
                    let sum = sums.entry((*name).to_owned()).or_default();
                    match (by, woken) {
                        (Some(by), _) => sum.preempted_wait_ns[by as usize] += at - left,
                        (None, Some(woken)) => sum.blocked_ns += woken - left,
                        // A wake-up by an interrupt of an idle CPU, which some hosts do not trace: it ran at once.
                        (None, None) => sum.blocked_ns += at - left,
                    }
                }
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// perf 6.1 on kernel 6.18.
    const TRACE: &str = "\
25412 [000]  3305.213182029: sched:sched_wakeup: comm=a pid=9 pid=18 prio=0 target_cpu=000
   18 [000]  3305.213187267:       sched:sched_switch: prev_comm=lto cgu.13 prev_pid=18 prev_prio=0 prev_state=S ==> next_comm=swapper/0 next_pid=0 next_prio=120
25401 [001]  3305.216280997: sched:sched_switch: prev_comm=x prev_pid=25401 prev_prio=120 prev_state=R+ ==> next_comm=y next_pid=7 next_prio=120
    7 [001]  3305.216290000: sched:sched_migrate_task: comm=z pid=9 prio=120 orig_cpu=0 dest_cpu=1
";

    #[test]
    fn lines_are_read_whatever_names_hold() {
        let events: Vec<_> = TRACE.lines().filter_map(parse).collect();
        let wakeup = Traced {
            at: 3_305_213_182_029,
            cpu: 0,
            event: Event::Wakeup {
                task: 18,
                target: 0,
            },
        };
        assert_eq!(events[0], wakeup);
        let migration = Traced {
            at: 3_305_216_290_000,
            cpu: 1,
            event: Event::Migrate { task: 9, target: 1 },
        };
        assert_eq!(events[3], migration);
        let switches: Vec<_> = events[1..3].iter().map(|one| one.event).collect();
        let switch = |previous, is_runnable, next| Event::Switch {
            previous,
            is_runnable,
            next,
        };
        assert_eq!(switches, [switch(18, false, 0), switch(25401, true, 7)]);
    }

    #[test]
    fn times_go_to_who_took_the_cpu_and_to_what_was_waited_for() {
        let switch = |previous, is_runnable, next| Event::Switch {
            previous,
            is_runnable,
            next,
        };
        let wakeup = |task| Event::Wakeup { task, target: 0 };
        let events = [
            (10, switch(1, true, 2)),
            (20, switch(2, true, 3)),
            (50, switch(3, false, 1)),
            (55, wakeup(3)),
            // One that is runnable already.
            (57, wakeup(3)),
            (60, switch(1, true, 9)),
            (70, switch(9, false, 2)),
            (75, switch(2, false, 3)),
            // Asleep to the end.
            (90, switch(3, true, 1)),
        ];
        let events = events.map(|(at, event)| Traced { at, cpu: 0, event });
        let containers = HashMap::from([("a".to_owned(), vec![1, 2]), ("b".to_owned(), vec![3])]);
        let sums = sum_up(&events, &(0..100), &containers);
        let a = Suffered {
            preemptions: [1, 1, 1],
            preempted_wait_ns: [40, 50, 30],
            blocked_ns: 0,
        };
        assert_eq!(sums["a"], a);
        let b = Suffered {
            preemptions: [0, 1, 0],
            preempted_wait_ns: [0, 0, 0],
            blocked_ns: 5,
        };
        assert_eq!(sums["b"], b);
        // What began before counts when it ends.
        let late = sum_up(&events, &(56..71), &containers);
        let a = Suffered {
            preemptions: [0, 0, 1],
            preempted_wait_ns: [0, 50, 0],
            blocked_ns: 0,
        };
        assert_eq!((late["a"], late.len()), (a, 1));
    }
}
