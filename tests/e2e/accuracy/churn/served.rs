//! Thousands of containers of pods, one after the other, whose names a runtime tells: plain cgroups where
//! CRI-O has them, and containers of runc, both described by a CRI of the test's own.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ctrscope_tests::{
    Agent, Container, ContainerSpec, Group, Metrics, bpf, cgroup,
    cri::{Cri, Served},
    wait_until,
};
use serde_json::Value;

use super::{gauge, own_memory, start_blink};
use crate::{names::agent_at, observe::group};

const PATIENCE: Duration = Duration::from_secs(60);
/// Made at least.
const ALL: usize = 2_000;
/// Containers that are there at a time.
const ALIVE: usize = 100;
/// Of plain cgroups.
const A_SECOND: u32 = 50;
/// Who start containers at the same time.
const STARTERS: usize = 2;
/// `--max-containers`: those alive, those of the retention, and what else the host has.
const MOST: usize = 300;
const RETENTION: &str = "1s";
const SCRAPE: Duration = Duration::from_secs(1);
/// Of all.
const NAMED: f64 = 0.99;
/// What memory may have grown by in a round and still count as staying. What an allocator keeps, the readings
/// of the last minute and what is remembered of containers that are gone, which has its bounds, come with the
/// first rounds; what leaks comes with each.
const GROWTH: f64 = 0.1;
const GROWTH_BYTES: f64 = 1e6;
/// Containers after which it must have stayed.
const MOST_MADE: usize = 4 * ALL;
/// What else may come up on the host meanwhile, and the group's parents.
const OTHERS: f64 = 4.0;
/// Of the CPU time by the cgroups' own account, what is used while a process is moved from one cgroup to
/// another, hierarchy after hierarchy, and by runc before it is in one.
const TOLERANCE: f64 = 0.05;

const WORKLOAD: [(&str, &str); 2] = [("namespace", "churn"), ("workload", "blink")];

/// Who the container of that number is.
fn described(index: usize) -> Served {
    let labels = [("app.kubernetes.io/name", "blink")];
    Served {
        id: format!("{:032x}{index:032x}", std::process::id()),
        name: "blink".to_owned(),
        namespace: "churn".to_owned(),
        pod: format!("blink-{index}"),
        uid: format!("00000000-0000-4000-8000-{index:012x}"),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

/// The cgroup of its pod, from the group's own.
fn pod_cgroup(container: &Served) -> String {
    format!("kubepods/besteffort/pod{}", container.uid)
}

/// What scrapes have shown.
#[derive(Default)]
struct Seen {
    scrapes: usize,
    /// The latest value of every counter, those of series that are gone included.
    counters: HashMap<String, f64>,
    backwards: Vec<String>,
    /// Most containers at once with series of their own.
    most: usize,
    most_bytes: usize,
    highest_memory: f64,
}

impl Seen {
    fn take(&mut self, agent: &Agent) {
        let text = agent.get("/metrics").unwrap().text();
        let mut kinds: HashMap<&str, &str> = HashMap::new();
        let mut containers = 0;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                kinds.extend(rest.split_once(' '));
            }
            let Some((series, value)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))
            else {
                continue;
            };
            let name = series.split('{').next().unwrap();
            let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|end| {
                name.strip_suffix(end)
                    .is_some_and(|of| kinds.get(of) == Some(&"histogram"))
            });
            if kinds.get(name) == Some(&"counter") || of_histogram {
                let value: f64 = value.parse().unwrap();
                let before = self.counters.insert(series.to_owned(), value);
                if before.is_some_and(|before| value < before) {
                    self.backwards
                        .push(format!("{series}: {before:?}, {value}"));
                }
            }
            if name == "ctrscope_container_cpu_seconds_total"
                && !series.contains("container=\"_other\"")
            {
                containers += 1;
            }
        }
        self.scrapes += 1;
        self.most = self.most.max(containers);
        self.most_bytes = self.most_bytes.max(text.len());
        self.highest_memory = self.highest_memory.max(own_memory(agent));
    }
}

/// Entries of the tables by which the kernel side finds a slot: those that lead to one of its own.
fn entries(agent: &Agent) -> f64 {
    let leads = |entry: &&Value| {
        // The lower 16 bits, in the order of the host.
        let bytes = entry["value"].as_array();
        bytes.is_some_and(|bytes| bytes.iter().take(2).any(|byte| byte != "0x00"))
    };
    let count = |table| {
        let dump = bpf::dump(agent.pid(), table).unwrap();
        let entries = dump.as_array().expect("entries of a table");
        assert!(!entries.is_empty());
        entries.iter().filter(leads).count() as f64
    };
    count("CPU_SLOTS") + count("BLOCK_SLOTS")
}

/// What is to be as it was once all are gone.
struct State {
    metrics: Metrics,
    memory: f64,
    entries: f64,
}

impl State {
    fn of(agent: &Agent) -> Self {
        Self {
            memory: own_memory(agent),
            entries: entries(agent),
            metrics: agent.metrics().unwrap(),
        }
    }

    fn slots(&self) -> f64 {
        gauge(&self.metrics, "ctrscope_slots_used")
    }

    fn count(&self, name: &str) -> f64 {
        self.metrics.value(name, &[]).expect(name)
    }
}

/// Tells who scrapes that there is nothing more to see, also where the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Has containers made, round after round, while the agent is scraped, until there were [`ALL`] and a round
/// takes no more memory, and compares with what was there before.
fn churn(round: usize, make: impl Fn(&Cri, &Arc<Group>, Range<usize>)) {
    let cri = Cri::start().unwrap();
    let most = MOST.to_string();
    let options = ["--retention", RETENTION, "--max-containers", most.as_str()];
    let agent = agent_at(&cri.socket(), &options);
    let group = group();
    let before = State::of(&agent);
    let seen = Mutex::new(Seen::default());
    let mut readings: Vec<f64> = Vec::new();
    let (mut made, mut took) = (0, Duration::ZERO);
    let after = loop {
        let start = Instant::now();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut next = Instant::now();
                while !is_over.load(Ordering::Relaxed) {
                    seen.lock().unwrap().take(&agent);
                    next += SCRAPE;
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            });
            let _over = Over(&is_over);
            make(&cri, &group, made..made + round);
        });
        made += round;
        took += start.elapsed();
        let after = wait_until(PATIENCE, "slots are given back", || {
            let metrics = agent.metrics()?;
            seen.lock().unwrap().take(&agent);
            let listed = metrics.sum("ctrscope_container_info", &[("namespace", "churn")]);
            let slots = gauge(&metrics, "ctrscope_slots_used");
            let settled = listed == 0.0 && slots <= before.slots() + OTHERS;
            Ok(settled.then(|| State::of(&agent)))
        })
        .unwrap();
        println!("{made} made, own memory: {:.2} MB", after.memory / 1e6);
        let highest = readings.iter().copied().reduce(f64::max);
        let stays =
            highest.is_some_and(|bytes| after.memory <= bytes * (1.0 + GROWTH) + GROWTH_BYTES);
        if made >= ALL && stays {
            break after;
        }
        readings.push(after.memory);
        assert!(made < MOST_MADE, "it grows and grows: {readings:?}");
    };
    let seen = seen.into_inner().unwrap();
    let risen = |name| after.count(name) - before.count(name);
    let (all, named) = (
        risen("ctrscope_containers_seen_total"),
        risen("ctrscope_containers_named_total"),
    );
    let total = |name| after.metrics.sum(name, &WORKLOAD);
    let cpu = total("ctrscope_workload_cpu_seconds_total");
    let account = group.cpu_usage_ns() as f64 / 1e9;
    println!(
        "{made} containers in {:.0} s, {} scrapes: {all} seen, {named} named; at most {} with series, {} bytes; \
         memory at first {:.2} MB, at most {:.2} MB; slots {}, {}; entries {}, {}; CPU {cpu:.3} s, by the cgroup \
         {account:.3} s",
        took.as_secs_f64(),
        seen.scrapes,
        seen.most,
        seen.most_bytes,
        before.memory / 1e6,
        seen.highest_memory / 1e6,
        before.slots(),
        after.slots(),
        before.entries,
        after.entries,
    );
    assert!(seen.backwards.is_empty(), "{:#?}", seen.backwards);
    assert_eq!(all, made as f64);
    assert!(named >= made as f64 * NAMED, "{named} named");
    assert!(seen.most <= MOST, "{} have series", seen.most);
    assert!(after.entries <= before.entries + OTHERS);
    assert_eq!(total("ctrscope_workload_containers"), 0.0);
    assert_eq!(total("ctrscope_workload_containers_started_total"), named);
    assert_eq!(total("ctrscope_workload_containers_exited_total"), named);
    assert!(
        (cpu / account - 1.0).abs() < TOLERANCE,
        "{cpu} of {account}"
    );
}

#[test]
fn churn_of_plain_cgroups_against_a_served_cri_socket() {
    churn(ALL, |cri, group, all| {
        let start = Instant::now();
        let first = all.start;
        in_turn(all, |index| {
            let before = u32::try_from(index - first).unwrap();
            let due = start + Duration::from_secs(1) / A_SECOND * before;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let served = described(index);
            cri.add(served.clone());
            let path = format!("{}/crio-{}", pod_cgroup(&served), served.id);
            let directories = group.make(&path).unwrap();
            let mut process = start_blink(&directories);
            move || {
                assert!(process.wait().unwrap().success());
                for directory in &directories {
                    cgroup::remove(directory.parent().unwrap()).unwrap();
                }
                cri.remove(&served.id);
            }
        });
    });
}

#[test]
fn churn_of_runc_containers_against_a_served_cri_socket() {
    churn(ALL / 4, |cri, group, all| {
        in_turn(all, |index| {
            let served = described(index);
            cri.add(served.clone());
            let name = format!("crio-{}", served.id);
            let spec =
                ContainerSpec::new(&name, &["burn", "--seconds", "0.01"]).pod(&pod_cgroup(&served));
            let container = Container::start(group, &spec).unwrap();
            move || {
                container.wait_end().unwrap();
                drop(container);
                for directory in group.directories() {
                    cgroup::remove(&directory.join(pod_cgroup(&served))).unwrap();
                }
                cri.remove(&served.id);
            }
        });
    });
}

/// Starts each of a round and ends it when [`ALIVE`] others have come after it; what starts one gives what
/// ends it.
fn in_turn<E: FnOnce()>(all: Range<usize>, start: impl Fn(usize) -> E + Sync) {
    let next = AtomicUsize::new(all.start);
    let work = || {
        let mut alive: VecDeque<E> = VecDeque::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= all.end {
                break;
            }
            alive.push_back(start(index));
            if alive.len() > ALIVE / STARTERS
                && let Some(end) = alive.pop_front()
            {
                end();
            }
        }
        alive.into_iter().for_each(|end| end());
    };
    thread::scope(|scope| {
        for _ in 0..STARTERS {
            scope.spawn(work);
        }
    });
}
