//! Measuring more than once, and only while nobody disturbs: what the long run's verdicts come from.
//!
//! A test that compares numbers runs its body in tries. What a try watches says how much of the CPUs
//! the hypervisor and others took meanwhile. A try that was disturbed is inconclusive: its numbers are
//! thrown away and it is made again, and it never counts as passed. Of the conclusive tries the median
//! is judged. Without `CTRSCOPE_TRIES` there is one try, whatever others do.

mod quiet;
mod verdict;

use std::{cell::RefCell, fs, io::Write as _, thread};

use serde_json::json;

pub use self::quiet::Shares;
use self::{
    quiet::Usage,
    verdict::{Judged, Record, judge},
};
use crate::Group;

/// How many conclusive tries are asked for.
const TRIES: &str = "CTRSCOPE_TRIES";
/// Names a file to which results are appended, one JSON object a line.
const RESULTS: &str = "CTRSCOPE_RESULTS";
/// How often tolerances apply.
const LENIENCY: &str = "CTRSCOPE_TOLERANCE";
/// Tries for each conclusive one that is asked for: a machine that disturbs two of three is not one to
/// measure on.
const TRIES_FOR_EACH: usize = 3;

/// How often the tolerances apply: `CTRSCOPE_TOLERANCE`, for emulated machines; else once.
#[must_use]
pub fn leniency() -> u64 {
    let value = std::env::var(LENIENCY).unwrap_or_default();
    value.parse().unwrap_or(1)
}

/// One run of a body.
#[derive(Default)]
pub struct Trial {
    records: RefCell<Vec<Record>>,
    watched: RefCell<Vec<Shares>>,
    skip_reason: RefCell<Option<String>>,
}

impl Trial {
    /// Begins a stretch in which only this test, its agent and the group's containers should run.
    /// It ends when the guard is dropped.
    #[must_use]
    pub fn watch<'a>(&'a self, agent_pid: u32, group: &'a Group) -> Watch<'a> {
        Watch {
            trial: self,
            agent_pid,
            group,
            begin: Usage::now(agent_pid, group),
        }
    }

    /// Records what the agent says and what the account says, which may differ by `allowed`, as often as
    /// [`leniency`] says.
    pub fn near(&self, what: &str, seen: f64, account: f64, allowed: f64) {
        let allowed = allowed * leniency() as f64;
        self.record(Record::near(what, seen, account, allowed));
    }

    /// Records a value that may be at most `bound`, whatever the leniency is.
    pub fn at_most(&self, what: &str, value: f64, bound: f64) {
        self.record(Record::at_most(what, value, bound));
    }

    /// Says that the test cannot run here, and why. The caller returns after it.
    ///
    /// The test ends with that if this is the first try and nobody disturbed it: what made it skip may be
    /// the disturbance, and earlier tries may have found something. Another try of that kind is
    /// inconclusive.
    pub fn skip(&self, reason: &str) {
        *self.skip_reason.borrow_mut() = Some(reason.to_owned());
    }

    fn record(&self, record: Record) {
        println!("{record}");
        self.records.borrow_mut().push(record);
    }

    /// The highest shares of all that it watched.
    fn shares(&self) -> Shares {
        let watched = self.watched.borrow();
        watched.iter().fold(Shares::default(), Shares::highest)
    }
}

/// A watched stretch of a try.
pub struct Watch<'a> {
    trial: &'a Trial,
    agent_pid: u32,
    group: &'a Group,
    begin: Usage,
}

impl Watch<'_> {
    /// Ends the stretch.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // After a failed assertion nothing is judged, and the agent may be gone.
        if thread::panicking() {
            return;
        }
        let shares = Usage::now(self.agent_pid, self.group).shares_since(&self.begin);
        println!("while it was watched: {shares}");
        self.trial.watched.borrow_mut().push(shares);
    }
}

/// What the tries of a test came to.
struct Tries {
    conclusive: Vec<Trial>,
    disturbed: Vec<Shares>,
}

/// Makes tries until `wanted` of them are conclusive, or there were three times as many. `None` where a
/// try said that the test cannot run here.
fn make_tries(wanted: usize, is_strict: bool, mut body: impl FnMut(&Trial)) -> Option<Tries> {
    let mut tries = Tries {
        conclusive: Vec::new(),
        disturbed: Vec::new(),
    };
    while tries.conclusive.len() < wanted
        && tries.conclusive.len() + tries.disturbed.len() < wanted * TRIES_FOR_EACH
    {
        let trial = Trial::default();
        body(&trial);
        let shares = trial.shares();
        let is_first = tries.conclusive.is_empty() && tries.disturbed.is_empty();
        if let Some(reason) = trial.skip_reason.take() {
            if is_first && !(is_strict && shares.is_disturbed()) {
                crate::skip(&reason);
                return None;
            }
            println!("inconclusive, it cannot be measured now: {reason}");
            tries.disturbed.push(shares);
            continue;
        }
        assert!(
            !trial.watched.borrow().is_empty(),
            "a try of this test watches nothing"
        );
        assert!(
            !trial.records.borrow().is_empty(),
            "a try of this test records nothing"
        );
        if is_strict && shares.is_disturbed() {
            println!("inconclusive, its numbers do not count: {shares}");
            tries.disturbed.push(shares);
        } else {
            tries.conclusive.push(trial);
        }
    }
    Some(tries)
}

/// Runs a body until it has as many conclusive tries as `CTRSCOPE_TRIES` asks for, and judges the medians of
/// what they recorded.
///
/// # Panics
///
/// A median is not within what is allowed; too few tries were conclusive; the body panicked.
pub fn measured(body: impl FnMut(&Trial)) {
    let asked = std::env::var(TRIES).ok();
    let wanted = asked.as_deref().map_or(1, |text| {
        let count: usize = text.parse().expect("CTRSCOPE_TRIES is a number");
        count.max(1)
    });
    let Some(tries) = make_tries(wanted, asked.is_some(), body) else {
        return;
    };
    let shares = |all: &[Shares]| {
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        all.join("; ")
    };
    assert!(
        tries.conclusive.len() >= wanted,
        "inconclusive: only {} of {} tries were undisturbed, {wanted} are asked for; the others saw {}",
        tries.conclusive.len(),
        tries.conclusive.len() + tries.disturbed.len(),
        shares(&tries.disturbed)
    );
    let records: Vec<Vec<Record>> = tries
        .conclusive
        .iter()
        .map(|trial| trial.records.borrow().clone())
        .collect();
    let judged = judge(&records);
    let highest = tries
        .conclusive
        .iter()
        .fold(Shares::default(), |all, trial| all.highest(&trial.shares()));
    write_results(&judged, tries.disturbed.len(), highest);
    let failed: Vec<String> = judged
        .iter()
        .filter(|one| !one.is_within())
        .map(ToString::to_string)
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Appends what was judged to the file that `CTRSCOPE_RESULTS` names.
fn write_results(judged: &[Judged], inconclusive: usize, shares: Shares) {
    let Some(path) = std::env::var_os(RESULTS) else {
        return;
    };
    let thread = thread::current();
    let mut text = String::new();
    for one in judged {
        let line = json!({
            "test": thread.name().unwrap_or("unknown"),
            "what": one.what,
            "seen": one.median.seen,
            // Null for a value that has a bound only.
            "account": one.median.account,
            "allowed": one.median.allowed,
            // JSON has no infinity.
            "median_ratio": one.median.ratio().min(f64::MAX),
            "tries": one.all.len(),
            "inconclusive": inconclusive,
            "steal": shares.steal,
            "others": shares.others,
        });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    let written = fs::File::options()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Shares = Shares {
        steal: 0.01,
        others: 0.02,
    };
    const DISTURBED: Shares = Shares {
        steal: 0.2,
        others: 0.02,
    };

    fn watch(trial: &Trial, shares: Shares) {
        trial.at_most("anything", 0.0, 1.0);
        trial.watched.borrow_mut().push(shares);
    }

    #[test]
    fn a_disturbed_try_is_made_again_and_its_numbers_do_not_count() {
        let mut count = 0;
        let tries = make_tries(2, true, |trial| {
            count += 1;
            watch(trial, if count == 1 { DISTURBED } else { QUIET });
            trial.at_most("number of the try", f64::from(count), 9.0);
        })
        .unwrap();
        assert_eq!((tries.conclusive.len(), tries.disturbed.len()), (2, 1));
        let seen: Vec<f64> = tries
            .conclusive
            .iter()
            .map(|trial| trial.records.borrow()[1].seen)
            .collect();
        assert_eq!(seen, [2.0, 3.0]);
    }

    #[test]
    fn a_machine_that_always_disturbs_ends_the_tries() {
        let tries = make_tries(2, true, |trial| watch(trial, DISTURBED)).unwrap();
        assert_eq!((tries.conclusive.len(), tries.disturbed.len()), (0, 6));
    }

    #[test]
    fn one_disturbed_stretch_disturbs_the_whole_try() {
        let tries = make_tries(1, true, |trial| {
            watch(trial, DISTURBED);
            watch(trial, QUIET);
        })
        .unwrap();
        assert_eq!((tries.conclusive.len(), tries.disturbed.len()), (0, 3));
    }

    #[test]
    fn where_no_tries_are_asked_for_one_counts_whatever_others_do() {
        let tries = make_tries(1, false, |trial| watch(trial, DISTURBED)).unwrap();
        assert_eq!((tries.conclusive.len(), tries.disturbed.len()), (1, 0));
    }

    #[test]
    fn a_skip_ends_the_tries() {
        let mut count = 0;
        let tries = make_tries(3, true, |trial| {
            count += 1;
            trial.skip("not on this kernel");
        });
        assert!(tries.is_none() && count == 1);
    }

    #[test]
    fn a_skip_of_a_later_or_disturbed_try_is_inconclusive() {
        for first in [QUIET, DISTURBED] {
            let mut count = 0;
            let tries = make_tries(2, true, |trial| {
                count += 1;
                watch(trial, if count == 1 { first } else { QUIET });
                if first == DISTURBED || count > 1 {
                    trial.skip("no CPU was idle");
                }
            });
            let conclusive = usize::from(first == QUIET);
            match tries {
                Some(tries) => assert_eq!(tries.conclusive.len(), conclusive),
                None => panic!("skipped after {count} tries"),
            }
        }
    }

    #[test]
    #[should_panic(expected = "watches nothing")]
    fn a_try_that_watches_nothing_is_a_mistake() {
        make_tries(1, true, |_| {});
    }
}
