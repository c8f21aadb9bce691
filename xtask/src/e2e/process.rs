//! A test as a process, and all that it started.
//!
//! A test that is killed runs no guard. What it started is found by a mark in the environment, which
//! agents, engines and their shims inherit, by descent from those, and by cgroups that carry the test's
//! process id.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use ctrscope_tests::cgroup::hierarchies;

use crate::step;

/// Set for each test, and inherited by what it starts.
const MARK: &str = "CTRSCOPE_TEST_RUN";
/// Rounds of killing, and the pause after each: what forks meanwhile is found in the next.
const ROUNDS: usize = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// A running test; ended on drop, with all that it started.
pub(super) struct Test {
    child: Child,
    mark: String,
    is_over: bool,
}

impl Test {
    /// Starts it in a process group of its own: a Ctrl-C is for whoever runs the tests.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{MARK}={}-{number}", std::process::id());
        let value = mark.split_once('=').map_or("", |(_, value)| value);
        let child = command.env(MARK, value).process_group(0).spawn()?;
        Ok(Self {
            child,
            mark,
            is_over: false,
        })
    }

    /// Waits that long for its end.
    pub(super) fn wait(&mut self, time: Duration) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_none() {
            thread::sleep(time);
        }
        self.is_over = status.is_some();
        Ok(status)
    }

    /// Kills it and what it started, and removes its cgroups.
    pub(super) fn end(&mut self) {
        let mut seen = BTreeSet::from([self.child.id()]);
        let mut pids = BTreeSet::new();
        for _ in 0..ROUNDS {
            pids = self.started(&mut seen);
            if pids.is_empty() {
                break;
            }
            let mut kill = step::as_root("kill");
            kill.arg("-KILL").args(pids.iter().map(u32::to_string));
            // What has ended meanwhile is no failure.
            let _ = kill.stdout(Stdio::null()).stderr(Stdio::null()).status();
            thread::sleep(PAUSE);
        }
        if !pids.is_empty() {
            println!("still running, though killed: {pids:?}");
        }
        for directory in cgroups(&seen) {
            let mut remove = step::as_root("find");
            remove
                .arg(directory)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
            let _ = remove.stderr(Stdio::null()).status();
        }
        self.is_over = true;
    }

    /// What of it still runs, itself among it; added to all that was `seen` of it.
    ///
    /// Without root the environment of others cannot be read, and the child is `sudo`: then descent and
    /// the cgroups of descendants tell.
    fn started(&mut self, seen: &mut BTreeSet<u32>) -> BTreeSet<u32> {
        let is_running = matches!(self.child.try_wait(), Ok(None));
        let processes = processes();
        let mut found: BTreeSet<u32> = processes
            .iter()
            .filter(|(pid, _)| is_marked(*pid, &self.mark))
            .map(|(pid, _)| *pid)
            .collect();
        found.extend(is_running.then(|| self.child.id()));
        // Parents come before their children but where process ids have wrapped around.
        loop {
            let before = found.len();
            for (pid, parent) in &processes {
                if found.contains(parent) {
                    found.insert(*pid);
                }
            }
            if found.len() == before {
                break;
            }
        }
        seen.extend(&found);
        for directory in cgroups(seen) {
            found.extend(members(&directory));
        }
        found
    }
}

/// Cgroups at the top of each hierarchy that such processes have made.
fn cgroups(pids: &BTreeSet<u32>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies().unwrap_or_default() {
        for entry in fs::read_dir(&hierarchy.mount)
            .into_iter()
            .flatten()
            .flatten()
        {
            let maker = parse_maker(&entry.file_name().to_string_lossy());
            if maker.is_some_and(|maker| pids.contains(&maker)) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Whose a cgroup is: `ctrscope-<what>-<pid>` or `ctrscope-<what>-<pid>-<n>`.
fn parse_maker(name: &str) -> Option<u32> {
    let name = name.strip_prefix("ctrscope-")?;
    let (before, last) = name.rsplit_once('-')?;
    let last = last.parse().ok()?;
    let maker = before.rsplit('-').next()?.parse();
    Some(maker.unwrap_or(last))
}

impl Drop for Test {
    fn drop(&mut self) {
        if !self.is_over {
            self.end();
        }
    }
}

/// Process ids with those of their parents.
fn processes() -> Vec<(u32, u32)> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parse_parent(&stat)?))
        })
        .collect()
}

/// Field 4 of `/proc/<pid>/stat`; the name before it may have spaces and brackets.
fn parse_parent(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}

fn is_marked(pid: u32, mark: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == mark.as_bytes())
}

/// Processes of a cgroup and of those below it.
fn members(directory: &PathBuf) -> BTreeSet<u32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut found: BTreeSet<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(members(&entry.path()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_behind_any_name() {
        assert_eq!(parse_parent("12 (a) b) (c) S 7 12 12 0"), Some(7));
        assert_eq!(parse_parent("12 (a)"), None);
    }

    #[test]
    fn a_cgroup_names_the_process_that_made_it() {
        assert_eq!(parse_maker("ctrscope-test-12345-7"), Some(12345));
        assert_eq!(parse_maker("ctrscope-test-7"), Some(7));
        assert_eq!(parse_maker("ctrscope-some-tests-7"), Some(7));
        assert_eq!(parse_maker("ctrscope-7"), None);
        assert_eq!(parse_maker("ctrscope-demo"), None);
        assert_eq!(parse_maker("docker-7"), None);
    }

    #[test]
    fn what_a_test_started_ends_with_it() {
        let mut command = Command::new("sh");
        // The one in the middle ends, so that its child is nobody's descendant any more.
        command.args(["-c", "setsid sh -c 'sleep 600 & sleep 600' & sleep 600"]);
        let mut test = Test::start(&mut command).unwrap();
        let mut seen = BTreeSet::new();
        while test.started(&mut seen).len() < 4 {
            assert!(test.wait(Duration::from_millis(10)).unwrap().is_none());
        }
        test.end();
        assert!(test.started(&mut seen).is_empty());
    }
}
