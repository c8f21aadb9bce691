//! What tries recorded, and what their medians say.

use std::fmt;

/// A number and what it may be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) what: String,
    /// What the agent says.
    pub(super) seen: f64,
    /// What it is compared with; `None` where it only has a bound.
    pub(super) account: Option<f64>,
    /// Highest difference from the account; the bound where there is none.
    pub(super) allowed: f64,
}

impl Record {
    pub(super) fn near(what: &str, seen: f64, account: f64, allowed: f64) -> Self {
        Self {
            what: what.to_owned(),
            seen,
            account: Some(account),
            allowed,
        }
    }

    pub(super) fn at_most(what: &str, value: f64, bound: f64) -> Self {
        Self {
            what: what.to_owned(),
            seen: value,
            account: None,
            allowed: bound,
        }
    }

    /// The deviation in parts of what is allowed: up to 1 is within it. A number that is none is
    /// beyond all bounds, and nothing is within one that is negative.
    pub(super) fn ratio(&self) -> f64 {
        let deviation = match self.account {
            Some(account) => (self.seen - account).abs(),
            None => self.seen.max(0.0),
        };
        // `f64::max` would take the 0 in place of what is no number.
        if deviation.is_nan() || self.seen.is_nan() || self.allowed.is_nan() || self.allowed < 0.0 {
            f64::INFINITY
        } else if deviation == 0.0 {
            0.0
        } else {
            deviation / self.allowed
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, seen, allowed) = (&self.what, self.seen, self.allowed);
        match self.account {
            Some(account) => write!(
                f,
                "{what}: {seen}, account {account}, difference {} of {allowed}",
                (seen - account).abs()
            ),
            None => write!(f, "{what}: {seen} of at most {allowed}"),
        }
    }
}

/// All tries of one number.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) what: String,
    /// Of the try in the middle.
    pub(super) median: Record,
    pub(super) all: Vec<Record>,
}

impl Judged {
    pub(super) fn is_within(&self) -> bool {
        self.median.ratio() <= 1.0
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: the median is {:.3} times what is allowed",
            self.what,
            self.median.ratio()
        )?;
        for (index, record) in self.all.iter().enumerate() {
            write!(f, "\n    try {}: {record}", index + 1)?;
        }
        Ok(())
    }
}

/// Judges each number by the median of its ratios, in the order in which they were first recorded. Of an
/// even count the worse of the two in the middle is taken. What a try recorded more than once counts
/// with its worst.
pub(super) fn judge(tries: &[Vec<Record>]) -> Vec<Judged> {
    let mut judged: Vec<Judged> = Vec::new();
    for records in tries {
        let mut worst: Vec<&Record> = Vec::new();
        for record in records {
            match worst.iter_mut().find(|one| one.what == record.what) {
                Some(one) if one.ratio() < record.ratio() => *one = record,
                Some(_) => {}
                None => worst.push(record),
            }
        }
        for record in worst {
            match judged.iter_mut().find(|one| one.what == record.what) {
                Some(one) => one.all.push(record.clone()),
                None => judged.push(Judged {
                    what: record.what.clone(),
                    median: record.clone(),
                    all: vec![record.clone()],
                }),
            }
        }
    }
    for one in &mut judged {
        let mut sorted: Vec<&Record> = one.all.iter().collect();
        sorted.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
        if let Some(&median) = sorted.get(sorted.len() / 2) {
            one.median = median.clone();
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(seen: &[f64]) -> Vec<Vec<Record>> {
        let record = |&seen: &f64| vec![Record::near("bytes", seen, 100.0, 10.0)];
        seen.iter().map(record).collect()
    }

    #[test]
    fn a_deviation_is_in_parts_of_what_is_allowed() {
        let ratio = |seen| Record::near("", seen, 100.0, 10.0).ratio();
        assert_eq!((ratio(105.0), ratio(90.0), ratio(120.0)), (0.5, 1.0, 2.0));
        assert_eq!(Record::near("", 7.0, 7.0, 0.0).ratio(), 0.0);
        assert_eq!(Record::near("", 8.0, 7.0, 0.0).ratio(), f64::INFINITY);
        assert_eq!(Record::near("", f64::NAN, 7.0, 1.0).ratio(), f64::INFINITY);
        assert_eq!(Record::at_most("", f64::NAN, 1.0).ratio(), f64::INFINITY);
        assert_eq!(Record::at_most("", 3.0, 4.0).ratio(), 0.75);
        assert_eq!(Record::near("", 7.0, 7.0, -1.0).ratio(), f64::INFINITY);
        assert_eq!(Record::near("", 7.0, 8.0, f64::NAN).ratio(), f64::INFINITY);
        assert_eq!(Record::at_most("", -3.0, 4.0).ratio(), 0.0);
    }

    #[test]
    fn the_median_is_judged_and_not_the_best() {
        let judged = judge(&tries(&[100.0, 130.0, 125.0]));
        assert_eq!(judged[0].median.seen, 125.0);
        assert!(!judged[0].is_within());
        let judged = judge(&tries(&[100.0, 130.0, 91.0]));
        assert_eq!(judged[0].median.seen, 91.0);
        assert!(judged[0].is_within());
        // Of two the worse one.
        assert_eq!(judge(&tries(&[100.0, 111.0]))[0].median.seen, 111.0);
    }

    #[test]
    fn each_number_is_judged_for_itself_by_the_worst_of_each_try() {
        let one = vec![
            Record::at_most("a", 5.0, 1.0),
            Record::at_most("a", 0.5, 1.0),
            Record::at_most("b", 0.1, 1.0),
        ];
        let judged = judge(&[one]);
        let found: Vec<(&str, f64, bool)> = judged
            .iter()
            .map(|one| (one.what.as_str(), one.median.seen, one.is_within()))
            .collect();
        assert_eq!(found, [("a", 5.0, false), ("b", 0.1, true)]);
    }

    #[test]
    fn a_failure_names_every_try() {
        let text = judge(&tries(&[120.0, 130.0]))[0].to_string();
        assert!(
            text.contains("try 1: bytes: 120") && text.contains("try 2: bytes: 130"),
            "{text}"
        );
    }
}
