//! Numbers with what they were compared with, and questions that such comparisons answer.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What a number counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Things.
    #[default]
    Count,
    /// Things a second.
    PerSecond,
    /// A part of a whole, 0 to 1.
    Ratio,
    /// How many times as much.
    Factor,
    /// Seconds.
    Seconds,
    /// CPUs' worth of time.
    Cores,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
}

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// At least the threshold.
    AtLeast,
    /// More than the threshold.
    Above,
    /// At most the threshold.
    AtMost,
    /// Less than the threshold.
    Below,
}

impl Relation {
    /// Whether it holds.
    #[must_use]
    pub fn holds(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::AtLeast => value >= threshold,
            Self::Above => value > threshold,
            Self::AtMost => value <= threshold,
            Self::Below => value < threshold,
        }
    }
}

/// The threshold that a number was compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// How.
    pub relation: Relation,
    /// The threshold.
    pub threshold: f64,
    /// Its key in the configuration's table `diagnosis`; empty where it is none of those.
    pub key: Cow<'static, str>,
    /// The result; `None` where the number is absent.
    pub holds: Option<bool>,
}

/// A number that an answer rests on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What it is.
    pub name: Cow<'static, str>,
    /// Of what or whom, where that is not the container or the host: a cgroup, a device, a CPU.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub of: String,
    /// The number; `None` where it was not measured.
    pub value: Option<f64>,
    /// What it counts.
    pub unit: Unit,
    /// What it was compared with; `None` where it only explains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
}

impl Evidence {
    /// A number that explains.
    #[must_use]
    pub fn new(name: &'static str, unit: Unit, value: impl Into<Option<f64>>) -> Self {
        Self {
            name: Cow::Borrowed(name),
            of: String::new(),
            // JSON has no word for the others, and no comparison of them means anything.
            value: value.into().filter(|value| value.is_finite()),
            unit,
            compared: None,
        }
    }

    /// Of whom it is.
    #[must_use]
    pub fn of(mut self, whom: impl Into<String>) -> Self {
        self.of = whom.into();
        self
    }

    /// Compares it.
    #[must_use]
    pub fn is(mut self, relation: Relation, (key, threshold): (&'static str, f64)) -> Self {
        // A threshold that is computed may be none; then nothing is known.
        let value = self.value.filter(|_| threshold.is_finite());
        self.compared = Some(Compared {
            relation,
            threshold: if threshold.is_finite() {
                threshold
            } else {
                0.0
            },
            key: Cow::Borrowed(key),
            holds: value.map(|value| relation.holds(value, threshold)),
        });
        self
    }

    /// Whether the comparison holds; `None` where it is absent or not compared.
    #[must_use]
    pub fn holds(&self) -> Option<bool> {
        self.compared.as_ref()?.holds
    }

    /// How far the number is from its threshold: 0 at it, 1 where it is twice or half as much, or
    /// further. From a threshold of 0 everything is far: it happened or it did not.
    fn distance(&self) -> Option<f64> {
        let (value, threshold) = (self.value?, self.compared.as_ref()?.threshold);
        if threshold <= 0.0 || value <= 0.0 {
            return Some(1.0);
        }
        Some((value / threshold).log2().abs().min(1.0))
    }
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Yes.
    Yes,
    /// No.
    No,
    /// What would answer is not measured.
    Unknown,
}

/// How comparisons make an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logic {
    /// All must hold. One that does not hold answers no, even where another is not known.
    All,
    /// One must hold. One that holds answers yes, even where another is not known.
    Any,
}

/// A question that was asked, with what answered it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Its name.
    pub name: Cow<'static, str>,
    /// The question.
    pub question: Cow<'static, str>,
    /// The answer.
    pub answer: Answer,
    /// How the compared numbers make it.
    pub logic: Logic,
    /// The numbers; those without a comparison explain, and take no part in the answer.
    pub evidence: Vec<Evidence>,
}

impl Asked {
    /// Asks whether all comparisons hold. Without any the answer is unknown.
    #[must_use]
    pub fn all(name: &'static str, question: &'static str, evidence: Vec<Evidence>) -> Self {
        Self::new(name, question, Logic::All, evidence)
    }

    /// Asks whether one comparison holds. Without any the answer is no: there is nothing that could.
    #[must_use]
    pub fn any(name: &'static str, question: &'static str, evidence: Vec<Evidence>) -> Self {
        Self::new(name, question, Logic::Any, evidence)
    }

    fn new(
        name: &'static str,
        question: &'static str,
        logic: Logic,
        evidence: Vec<Evidence>,
    ) -> Self {
        let compared: Vec<Option<bool>> = evidence
            .iter()
            .filter(|one| one.compared.is_some())
            .map(Evidence::holds)
            .collect();
        let some = |wanted| compared.contains(&Some(wanted));
        let answer = match logic {
            Logic::All if some(false) => Answer::No,
            Logic::All if compared.is_empty() || compared.contains(&None) => Answer::Unknown,
            Logic::All => Answer::Yes,
            Logic::Any if some(true) => Answer::Yes,
            Logic::Any if compared.contains(&None) => Answer::Unknown,
            Logic::Any => Answer::No,
        };
        Self {
            name: Cow::Borrowed(name),
            question: Cow::Borrowed(question),
            answer,
            logic,
            evidence,
        }
    }

    /// Whether the answer is yes.
    #[must_use]
    pub fn is_yes(&self) -> bool {
        self.answer == Answer::Yes
    }

    /// How clear the answer is: the distance from its threshold of the number that decides. Of all that
    /// must hold that is the nearest; of those of which one is enough, the furthest.
    #[must_use]
    pub fn clearness(&self) -> f64 {
        let decides = match self.answer {
            Answer::Yes => true,
            Answer::No => false,
            Answer::Unknown => return 0.0,
        };
        let distances = self
            .evidence
            .iter()
            .filter(|one| one.holds() == Some(decides))
            .filter_map(Evidence::distance);
        // Where one is enough for this answer, the clearest of them is as clear as the answer.
        if decides == (self.logic == Logic::Any) {
            distances.fold(0.0, f64::max)
        } else {
            distances.fold(1.0, f64::min)
        }
    }

    /// The number of a name.
    #[must_use]
    pub fn evidence(&self, name: &str) -> Option<&Evidence> {
        self.evidence.iter().find(|one| one.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: impl Into<Option<f64>>, threshold: f64) -> Evidence {
        Evidence::new("x", Unit::Count, value).is(Relation::AtLeast, ("key", threshold))
    }

    fn all(evidence: Vec<Evidence>) -> Answer {
        Asked::all("a", "a?", evidence).answer
    }

    fn any(evidence: Vec<Evidence>) -> Answer {
        Asked::any("a", "a?", evidence).answer
    }

    #[test]
    fn what_is_not_known_never_makes_a_yes() {
        let (yes, no, unknown) = (number(2.0, 1.0), number(0.5, 1.0), number(None, 1.0));
        let two = |a: &Evidence, b: &Evidence| vec![a.clone(), b.clone()];
        assert_eq!(all(two(&yes, &yes)), Answer::Yes);
        assert_eq!(all(two(&yes, &no)), Answer::No);
        assert_eq!(all(two(&yes, &unknown)), Answer::Unknown);
        assert_eq!(all(two(&no, &unknown)), Answer::No);
        assert_eq!(any(two(&no, &yes)), Answer::Yes);
        assert_eq!(any(two(&no, &unknown)), Answer::Unknown);
        assert_eq!(any(two(&yes, &unknown)), Answer::Yes);
        assert_eq!(any(two(&no, &no)), Answer::No);
        assert_eq!(all(vec![]), Answer::Unknown);
        assert_eq!(any(vec![]), Answer::No);
    }

    #[test]
    fn a_number_without_a_comparison_takes_no_part() {
        let explains = Evidence::new("x", Unit::Count, None);
        assert_eq!(all(vec![number(2.0, 1.0), explains]), Answer::Yes);
    }

    #[test]
    fn a_number_that_is_none_is_absent() {
        assert_eq!(all(vec![number(f64::NAN, 1.0)]), Answer::Unknown);
        assert_eq!(any(vec![number(f64::INFINITY, 1.0)]), Answer::Unknown);
    }

    #[test]
    fn clearness_is_that_of_the_number_that_decides() {
        let near = number(1.0, 1.0);
        let far = number(8.0, 1.0);
        let below = number(0.25, 1.0);
        let clear = |asked: Asked| asked.clearness();
        assert_eq!(
            clear(Asked::all("a", "a?", vec![near.clone(), far.clone()])),
            0.0
        );
        assert_eq!(clear(Asked::any("a", "a?", vec![near.clone(), far])), 1.0);
        assert_eq!(clear(Asked::all("a", "a?", vec![near, below])), 1.0);
        assert_eq!(clear(Asked::all("a", "a?", vec![number(None, 1.0)])), 0.0);
        let happened = Evidence::new("x", Unit::Count, 1.0).is(Relation::Above, ("", 0.0));
        assert_eq!(clear(Asked::any("a", "a?", vec![happened])), 1.0);
    }
}
