//! Scheduler numbers against `schedstat`, `status` and the cgroup's CPU account.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ctrscope_tests::{
    Agent, Container, ContainerSpec, Group, binaries, measure::leniency, skip, wait_until,
};
use serde_json::Value;

use crate::observe::{Reading, assert_sched_agrees, entry, group, snapshot};

/// Work of some seconds, on a CPU that others use too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Containers that run side by side. What one suffers must not show up on another, or a sum is off.
pub(crate) struct SideBySide {
    containers: Vec<Container>,
    before: Vec<Reading>,
}

impl SideBySide {
    /// Starts them, and reads both views while they wait for their gates.
    pub(crate) fn start(agent: &Agent, group: &Arc<Group>, specs: &[ContainerSpec]) -> Self {
        let containers: Vec<Container> = specs
            .iter()
            .map(|spec| Container::start(group, &spec.clone().gated().held()).unwrap())
            .collect();
        let before = containers
            .iter()
            .map(|container| Reading::take(agent, container))
            .collect();
        Self { containers, before }
    }

    /// Lets them work to their ends; gives their reports.
    pub(crate) fn work(&self) -> Vec<Value> {
        for container in &self.containers {
            container.open_gate().unwrap();
        }
        let reports = self.containers.iter();
        reports
            .map(|container| container.wait_report(PATIENCE).unwrap())
            .collect()
    }

    /// Hands over each one's name, what was read before its work, and what is read now.
    pub(crate) fn compare(&self, agent: &Agent, mut compare: impl FnMut(&str, &Reading, &Reading)) {
        for (container, before) in self.containers.iter().zip(&self.before) {
            compare(container.name(), before, &Reading::take(agent, container));
        }
    }
}

/// Three threads that share a CPU run, wait for it and take it from each other.
#[test]
fn a_container_agrees_with_the_kernel() {
    let agent = Agent::start(&[]).unwrap();
    let burn = ["burn", "--threads", "3", "--seconds", "2", "--cpu", "0"];
    let run = SideBySide::start(&agent, &group(), &[ContainerSpec::new("burn", &burn)]);
    run.work();
    run.compare(&agent, assert_sched_agrees);
}

/// Time asleep is at least half of what the threads asked for: one that is preempted on its way to sleep
/// is runnable while its time passes already. Waiting for a disk is what none of them does; it is not
/// nothing where the machine has to read pages of theirs again.
#[test]
fn time_asleep_is_no_time_waiting_for_a_disk() {
    /// Of each sleep, milliseconds.
    const SLEEP_MS: u64 = 20;
    let agent = Agent::start(&[]).unwrap();
    let sleep = SLEEP_MS.to_string();
    let mut work = vec!["sleep-burn", "--threads", "2", "--seconds", "1"];
    work.extend(["--burn-ms", "1", "--sleep-ms", &sleep]);
    let run = SideBySide::start(&agent, &group(), &[ContainerSpec::new("sleeper", &work)]);
    let reports = run.work();
    let workers = reports[0]["workers"].as_array().unwrap();
    let bursts = workers.iter().map(|worker| worker["bursts"].as_u64());
    let asked_ns = bursts.map(Option::unwrap).sum::<u64>() * SLEEP_MS * 1_000_000;
    run.compare(&agent, |name, before, after| {
        assert_sched_agrees(name, before, after);
        let (new, old) = (after.sched(), before.sched());
        let sleep_ns = new.off_cpu_sleep_ns - old.off_cpu_sleep_ns;
        let disk_ns = new.off_cpu_io_ns - old.off_cpu_io_ns;
        println!("{name}: asked to sleep {asked_ns} ns, slept {sleep_ns} ns, disk {disk_ns} ns");
        assert!(sleep_ns >= asked_ns / 2 && disk_ns <= sleep_ns);
    });
}

/// A task that blocks before the scheduler owes it time stays on its run queue for a moment (`sched_delayed`, 6.12 and
/// later). One that is moved to another CPU then is noted there as waiting, although it sleeps on.
#[test]
fn a_task_that_is_moved_while_it_falls_asleep_does_not_wait() {
    const THREADS: u32 = 8;
    /// Of each sleep, milliseconds.
    const SLEEP_MS: u64 = 200;
    /// What the first thread may wait, which sleeps until the others are done, and what they may before and after their work.
    const BESIDE: Duration = Duration::from_millis(500);
    /// Until one was moved in that moment.
    const TRIES: usize = 10;
    let Some(other_cpu) = cpus().into_iter().find(|cpu| *cpu != 0) else {
        skip("a task is moved between two CPUs, and there is one");
        return;
    };
    let agent = Agent::start(&[]).unwrap();
    let status = agent.get("/status").unwrap().text();
    let has_such_tasks = status.contains("sched_migrate_task");
    // They want more than a CPU, so that some have had more than their share when they block.
    let (threads, sleep) = (THREADS.to_string(), SLEEP_MS.to_string());
    let mut work = vec!["sleep-burn", "--threads", &threads, "--seconds", "3"];
    work.extend(["--cpu", "0", "--burn-ms", "40", "--sleep-ms", &sleep]);
    for _ in 0..TRIES {
        let spec = ContainerSpec::new("sleeper", &work);
        let run = SideBySide::start(&agent, &group(), &[spec]);
        let (container, before) = (&run.containers[0], &run.before[0]);
        let is_over = AtomicBool::new(false);
        let begin = Instant::now();
        let (reports, moved) = thread::scope(|scope| {
            let mover = scope.spawn(|| move_who_blocks(container, other_cpu, &is_over));
            let reports = run.work();
            is_over.store(true, Ordering::Relaxed);
            (reports, mover.join().unwrap())
        });
        let elapsed = begin.elapsed() * THREADS;
        let workers = reports[0]["workers"].as_array().unwrap();
        let bursts = workers.iter().map(|worker| worker["bursts"].as_u64());
        let asked = Duration::from_millis(bursts.map(Option::unwrap).sum::<u64>() * SLEEP_MS);
        let after = Reading::take(&agent, container);
        let since = |of: fn(&Reading) -> u64| Duration::from_nanos(of(&after) - of(before));
        let waited = since(|reading| reading.sched().run_queue.sum_ns());
        let ran = since(|reading| reading.sched().on_cpu_ns);
        let by_kernel = after.delay_since(before);
        println!(
            "moved {moved} times; of {elapsed:?} they asked to sleep {asked:?}, ran {ran:?}, waited {waited:?}, by the \
             kernel {by_kernel:?}"
        );
        // Whatever else runs here: who sleeps does not wait.
        assert!(waited + ran + asked <= elapsed + BESIDE);
        let has_happened = by_kernel >= waited + Duration::from_millis(SLEEP_MS);
        if has_happened || !has_such_tasks {
            return;
        }
    }
    panic!("none was ever moved while it was blocked and on its run queue");
}

/// CPUs that this process may run on.
fn cpus() -> Vec<usize> {
    // SAFETY: a set of that size, which the call fills.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(
            libc::sched_getaffinity(0, size_of_val(&set), &raw mut set),
            0
        );
        set
    };
    // SAFETY: within the set.
    (0..libc::CPU_SETSIZE as usize)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect()
}

/// Puts a task on a CPU; one that has ended is passed over.
fn pin(tid: u32, cpu: usize) {
    // SAFETY: a set of that size; the number is within it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(tid.cast_signed(), size_of_val(&set), &raw const set);
    }
}

/// Moves all threads of a container but the first from the first CPU to another one at once when they have blocked, and back
/// when they run again. How often it did.
fn move_who_blocks(container: &Container, other_cpu: usize, is_over: &AtomicBool) -> usize {
    let is_blocked = |tid: u32| {
        let stat = fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or("").trim_start();
        state.starts_with('S')
    };
    let mut were_blocked: HashMap<u32, bool> = HashMap::new();
    let mut moved = 0;
    while !is_over.load(Ordering::Relaxed) {
        if were_blocked.is_empty() {
            // They begin when the gate opens.
            let tids = container.tids().unwrap_or_default();
            let tids = tids.into_iter().filter(|tid| *tid != container.pid());
            were_blocked = tids.map(|tid| (tid, true)).collect();
        }
        for (tid, was_blocked) in &mut were_blocked {
            let is_blocked = is_blocked(*tid);
            if is_blocked != *was_blocked {
                pin(*tid, if is_blocked { other_cpu } else { 0 });
                moved += usize::from(is_blocked);
            }
            *was_blocked = is_blocked;
        }
    }
    moved
}

/// A parent that waits in `vfork` sleeps uninterruptibly and asks no disk for anything.
#[test]
fn a_parent_that_waits_in_vfork_does_not_wait_for_io() {
    const CHILDREN: u64 = 5;
    const LIVE_MS: u64 = 200;
    let agent = Agent::start(&[]).unwrap();
    let (children, live) = (CHILDREN.to_string(), LIVE_MS.to_string());
    let work = ["vfork", "--count", &children, "--live-ms", &live];
    let run = SideBySide::start(&agent, &group(), &[ContainerSpec::new("parent", &work)]);
    let reports = run.work();
    assert_eq!(reports[0]["workers"][0]["children"], CHILDREN);
    let asked_ns = CHILDREN * LIVE_MS * 1_000_000;
    run.compare(&agent, |name, before, after| {
        let (new, old) = (after.sched(), before.sched());
        let waited_ns = new.off_cpu_uninterruptible_ns - old.off_cpu_uninterruptible_ns;
        let io_ns = new.off_cpu_io_ns - old.off_cpu_io_ns;
        println!(
            "{name}: waited {waited_ns} of {asked_ns} ns for its children, for I/O {io_ns} ns"
        );
        assert!(waited_ns >= asked_ns);
        // It may have to read pages of its program again.
        assert!(io_ns < asked_ns / 2);
    });
}

/// What waits for a disk waits for I/O by the kernel's own account of the cgroup. Only one thread does, so
/// that time of a task is time of the cgroup.
#[test]
fn time_for_a_disk_is_what_the_kernel_has_for_io() {
    let agent = Agent::start(&[]).unwrap();
    let data = tempfile::TempDir::new_in("/var/tmp").unwrap();
    let mut work = vec!["read-write-direct", "--file", "/data/file", "--random"];
    work.extend(["--size", "8388608", "--bytes", "8388608", "--block", "4096"]);
    let group = group();
    let spec = ContainerSpec::new("disk", &work).data(data.path());
    let run = SideBySide::start(&agent, &group, &[spec]);
    let pressure_ns = || {
        let path = run.containers[0].cgroup().trim_start_matches('/');
        let hierarchies = ctrscope_tests::cgroup::hierarchies().unwrap();
        let unified = hierarchies.iter().find(|one| one.controllers.is_none())?;
        let text = fs::read_to_string(unified.mount.join(path).join("io.pressure")).ok()?;
        let total = text.lines().next()?.split("total=").nth(1)?;
        Some(total.trim().parse::<u64>().unwrap() * 1_000)
    };
    let before_ns = pressure_ns();
    run.work();
    run.compare(&agent, |name, before, after| {
        let (new, old) = (after.sched(), before.sched());
        let io_ns = new.off_cpu_io_ns - old.off_cpu_io_ns;
        assert!(io_ns > 0);
        let Some((now_ns, before_ns)) = pressure_ns().zip(before_ns) else {
            skip("this kernel keeps no pressure for the cgroup");
            return;
        };
        let kernel_ns = now_ns - before_ns;
        println!("{name}: for I/O {io_ns} ns, by the kernel's pressure {kernel_ns} ns");
        // Pressure begins with the switch and ends with the wake-up, as the agent's time does, but by another
        // clock, which also runs while a hypervisor has the CPU.
        let allowed = leniency() * (kernel_ns / 5 + 20_000_000);
        assert!(io_ns.abs_diff(kernel_ns) <= allowed, "{io_ns} {kernel_ns}");
    });
}

/// A process goes on when another thread than its first calls `exec`, though the first one ends.
#[test]
fn a_process_that_another_thread_replaces_ends_once() {
    const CHILDREN: u64 = 20;
    let agent = Agent::start(&[]).unwrap();
    let children = CHILDREN.to_string();
    let work = ["spawn-replaced", "--count", &children];
    let run = SideBySide::start(&agent, &group(), &[ContainerSpec::new("parent", &work)]);
    run.work();
    run.compare(&agent, |_, before, after| {
        let exits = after.sched().process_exits - before.sched().process_exits;
        assert_eq!(exits, CHILDREN);
    });
}

/// A busy loop that is moved while it runs is charged to each of its cgroups what the kernel charges that,
/// also while it goes on without a switch.
#[test]
fn what_moves_while_it_runs_is_charged_to_both_cgroups() {
    const ENOUGH_NS: u64 = 600_000_000;
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let [from, to] = ["from", "to"].map(|name| group.make(name).unwrap());
    let mut command = Command::new(binaries::workload().unwrap());
    let burn = command.args(["burn", "--seconds", "600"]).spawn().unwrap();
    let burn = Process(burn);
    let path = |name: &str| format!("{}/{name}", group.path());
    let kernel_ns = |name: &str| group.cpu_usage_of(&path(name)).unwrap();
    let enter = |directories: &[PathBuf]| {
        for directory in directories {
            fs::write(directory.join("cgroup.procs"), burn.0.id().to_string()).unwrap();
        }
    };
    let agent_ns = |name: &str| {
        let seen = entry(&snapshot(&agent), &path(name))?.counters.on_cpu_ns();
        Some(seen.unwrap_or(0))
    };
    // The clock of a CPU that nothing else runs on goes on by ticks, of 10 ms at most.
    let slack_ns = leniency() * 30_000_000;
    let mut left = None;
    for (name, directories) in [("from", &from), ("to", &to)] {
        enter(directories);
        wait_until(PATIENCE, "enough of it runs there", || {
            Ok((kernel_ns(name) >= ENOUGH_NS).then_some(()))
        })
        .unwrap();
        let before_ns = kernel_ns(name);
        let seen_ns = wait_until(PATIENCE, "it is seen", || Ok(agent_ns(name))).unwrap();
        let after_ns = kernel_ns(name);
        println!("{name}: kernel {before_ns} to {after_ns} ns, agent {seen_ns} ns");
        assert!(seen_ns + slack_ns >= before_ns && seen_ns <= after_ns + slack_ns);
        if let Some(left) = left.replace(name) {
            let (kernel_ns, agent_ns) = (kernel_ns(left), agent_ns(left).unwrap());
            println!("{left}, which it left: kernel {kernel_ns} ns, agent {agent_ns} ns");
            assert!(agent_ns.abs_diff(kernel_ns) <= slack_ns);
        }
    }
}

/// A process that goes with its handle.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
