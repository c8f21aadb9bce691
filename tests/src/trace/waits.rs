//! Whose every wait was: who had the CPU while a task waited for it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
};

use super::{Event, Traced};

/// What a container's tasks waited, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// How often.
    pub count: u64,
    /// In all.
    pub ns: u64,
    /// While a container had the CPU, by its name; its own too.
    pub by: BTreeMap<String, u64>,
    /// While any other task had it.
    pub others_ns: u64,
    /// While it was idle.
    pub idle_ns: u64,
    /// On another CPU than the one that it ran on then.
    pub migrated_ns: u64,
    /// Before the first switch of that CPU.
    pub unknown_ns: u64,
}

/// What each had of a CPU so far, by its number: those of containers, of any other task, of idleness.
#[derive(Clone)]
struct Had {
    ns: Vec<u64>,
    /// Who has it now, and since when.
    now: Option<(usize, u64)>,
}

impl Had {
    fn until(&self, at: u64) -> Vec<u64> {
        let mut ns = self.ns.clone();
        if let Some((who, since)) = self.now {
            ns[who] += at.saturating_sub(since);
        }
        ns
    }
}

/// A wait that goes on.
struct Wait {
    since: u64,
    /// Where, and since when there.
    cpu: u32,
    here: u64,
    /// What each had had of that CPU when it began there.
    before: Vec<u64>,
}

/// Splits each wait that ends in a window over who had that CPU meanwhile, for containers given by name with the tasks
/// of each.
#[must_use]
pub fn split_waits(
    events: &[Traced],
    window: &Range<u64>,
    containers: &HashMap<String, Vec<u32>>,
) -> HashMap<String, Waited> {
    let mut names: Vec<&str> = containers.keys().map(String::as_str).collect();
    names.sort_unstable();
    let (others, idle) = (names.len(), names.len() + 1);
    let mut of = HashMap::from([(0, idle)]);
    for (number, name) in names.iter().enumerate() {
        of.extend(containers[*name].iter().map(|tid| (*tid, number)));
    }
    let who = |task: u32| of.get(&task).copied().unwrap_or(others);
    let empty = Had {
        ns: vec![0; names.len() + 2],
        now: None,
    };
    let mut cpus: HashMap<u32, Had> = HashMap::new();
    let mut running: HashSet<u32> = HashSet::new();
    let mut waits: HashMap<u32, Wait> = HashMap::new();
    let mut sums: HashMap<String, Waited> = HashMap::new();
    for &Traced { at, cpu, event } in events {
        match event {
            Event::Wakeup { task, target } => {
                // Of one that has not left the CPU yet, or that is runnable already, it is none.
                if who(task) < others && !running.contains(&task) && !waits.contains_key(&task) {
                    let had = cpus.entry(target).or_insert_with(|| empty.clone());
                    waits.insert(task, begin(had, target, at, at));
                }
            }
            Event::Migrate { task, target } => {
                if let Some(wait) = waits.get_mut(&task) {
                    let had = cpus.entry(target).or_insert_with(|| empty.clone());
                    *wait = begin(had, target, at, wait.since);
                }
            }
            Event::Switch {
                previous,
                is_runnable,
                next,
            } => {
                let had = cpus.entry(cpu).or_insert_with(|| empty.clone());
                had.ns = had.until(at);
                had.now = Some((who(next), at));
                running.remove(&previous);
                running.insert(next);
                if is_runnable && who(previous) < others {
                    waits.insert(previous, begin(had, cpu, at, at));
                }
                let Some(wait) = waits.remove(&next).filter(|_| window.contains(&at)) else {
                    continue;
                };
                let sum = sums.entry(names[who(next)].to_owned()).or_default();
                sum.count += 1;
                sum.ns += at - wait.since;
                if wait.cpu != cpu {
                    sum.migrated_ns += at - wait.since;
                    continue;
                }
                sum.migrated_ns += wait.here - wait.since;
                let mut unknown = at - wait.here;
                for (number, (now, before)) in had.ns.iter().zip(&wait.before).enumerate() {
                    let part = now - before;
                    unknown -= part.min(unknown);
                    if number == others {
                        sum.others_ns += part;
                    } else if number == idle {
                        sum.idle_ns += part;
                    } else if part > 0 {
                        *sum.by.entry(names[number].to_owned()).or_default() += part;
                    }
                }
                sum.unknown_ns += unknown;
            }
        }
    }
    sums
}

fn begin(had: &Had, cpu: u32, here: u64, since: u64) -> Wait {
    Wait {
        since,
        cpu,
        here,
        before: had.until(here),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch(at: u64, cpu: u32, previous: u32, is_runnable: bool, next: u32) -> Traced {
        let event = Event::Switch {
            previous,
            is_runnable,
            next,
        };
        Traced { at, cpu, event }
    }

    /// Of a waker on another CPU.
    fn wakeup(at: u64, task: u32, target: u32) -> Traced {
        let event = Event::Wakeup { task, target };
        Traced { at, cpu: 7, event }
    }

    fn migration(at: u64, task: u32, target: u32) -> Traced {
        let event = Event::Migrate { task, target };
        Traced { at, cpu: 7, event }
    }

    /// `a` has the tasks 1 and 2, `b` 3.
    fn split(events: &[Traced], window: &Range<u64>) -> HashMap<String, Waited> {
        let containers = HashMap::from([("a".to_owned(), vec![1, 2]), ("b".to_owned(), vec![3])]);
        split_waits(events, window, &containers)
    }

    fn by(parts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        let parts = parts.iter().map(|(name, ns)| ((*name).to_owned(), *ns));
        parts.collect()
    }

    #[test]
    fn a_wait_is_split_over_all_who_had_the_cpu_meanwhile() {
        let events = [
            switch(10, 0, 1, true, 2),
            switch(20, 0, 2, true, 3),
            switch(50, 0, 3, false, 9),
            switch(60, 0, 9, false, 0),
            switch(65, 0, 0, true, 1),
        ];
        let a = Waited {
            count: 1,
            ns: 55,
            by: by(&[("a", 10), ("b", 30)]),
            others_ns: 10,
            idle_ns: 5,
            ..Waited::default()
        };
        // That of 2 has not ended.
        assert_eq!(
            split(&events, &(0..100)),
            HashMap::from([("a".to_owned(), a)])
        );
        assert!(split(&events, &(0..65)).is_empty());
    }

    #[test]
    fn a_wait_begins_with_the_wakeup_of_a_task_that_sleeps() {
        let events = [
            switch(10, 0, 3, false, 1),
            // It has not left yet.
            wakeup(12, 1, 0),
            wakeup(15, 3, 0),
            // It is runnable already.
            wakeup(17, 3, 0),
            switch(20, 0, 1, false, 3),
        ];
        let b = Waited {
            count: 1,
            ns: 5,
            by: by(&[("a", 5)]),
            ..Waited::default()
        };
        assert_eq!(
            split(&events, &(0..100)),
            HashMap::from([("b".to_owned(), b)])
        );
    }

    #[test]
    fn what_was_waited_on_another_cpu_is_told_apart() {
        let events = [
            switch(5, 1, 0, true, 3),
            switch(10, 0, 1, true, 2),
            migration(30, 1, 1),
            switch(40, 1, 3, false, 1),
            // Of one that is moved when it is woken, there was none before.
            migration(50, 3, 0),
            wakeup(51, 3, 0),
            switch(60, 0, 2, false, 3),
        ];
        let a = Waited {
            count: 1,
            ns: 30,
            by: by(&[("b", 10)]),
            migrated_ns: 20,
            ..Waited::default()
        };
        let b = Waited {
            count: 1,
            ns: 9,
            by: by(&[("a", 9)]),
            ..Waited::default()
        };
        let expected = HashMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        assert_eq!(split(&events, &(0..100)), expected);
    }

    #[test]
    fn before_the_first_switch_of_a_cpu_nobody_is_known_to_have_it() {
        let events = [
            wakeup(10, 3, 0),
            switch(20, 0, 9, true, 8),
            switch(25, 0, 8, false, 3),
        ];
        let b = Waited {
            count: 1,
            ns: 15,
            others_ns: 5,
            unknown_ns: 10,
            ..Waited::default()
        };
        assert_eq!(
            split(&events, &(0..100)),
            HashMap::from([("b".to_owned(), b)])
        );
    }
}
