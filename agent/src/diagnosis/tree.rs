//! A tree while it is walked: what was asked, what was found, and how sure it is.
//!
//! # Confidence
//!
//! A finding rests on some of the questions that were asked. Its confidence is the product of three
//! numbers, each from a half to 1:
//!
//! - clearness: how far the numbers that decided are from their thresholds, that of the least clear
//!   question ([`Asked::clearness`]). At the threshold a half, at twice or half of it, or further, 1;
//! - completeness: the part of the questions' numbers that is measured here. None of them a half, all 1;
//! - length of the window: nothing a half, [`FULL_WINDOW_SECONDS`] or more 1.
//!
//! What a finding itself knows against it lowers it further ([`Draft::lowered`]).

use super::{
    verdict::{
        Answer, Asked, Confidence, Evidence, Finding, Level, Party, Resource, ResourceDiagnosis,
        Verdict,
    },
    view::View,
    words::label,
};

/// A window that is long enough: a hundred periods of a quota, a thousand ticks of each CPU's account.
const FULL_WINDOW_SECONDS: f64 = 10.0;

/// A finding without its confidence.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) summary: String,
    /// 0 to 1; anything else is brought into it.
    pub(super) severity: f64,
    pub(super) remedies: Vec<String>,
    pub(super) culprits: Vec<Party>,
    pub(super) others: Vec<Party>,
    pub(super) exonerated: Vec<Party>,
    /// What lowers its confidence: a factor, and why.
    pub(super) lowered: Vec<(f64, String)>,
}

impl Draft {
    /// A finding that is only a sentence.
    pub(super) fn of(summary: impl Into<String>) -> Self {
        Self {
            summary: summary.into(),
            ..Self::default()
        }
    }
}

/// A tree while it is walked.
pub(super) struct Tree<'a> {
    resource: Resource,
    view: &'a View<'a>,
    asked: Vec<Asked>,
    findings: Vec<Finding>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(resource: Resource, view: &'a View<'a>) -> Self {
        Self {
            resource,
            view,
            asked: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Asks, and keeps the question with its evidence.
    pub(super) fn ask(&mut self, question: impl FnOnce(&View<'a>) -> Asked) -> Answer {
        let asked = question(self.view);
        let answer = asked.answer;
        self.asked.push(asked);
        answer
    }

    /// Asks, and says whether the answer is yes.
    pub(super) fn yes(&mut self, question: impl FnOnce(&View<'a>) -> Asked) -> bool {
        self.ask(question) == Answer::Yes
    }

    /// Whether something was found so far.
    pub(super) fn found_any(&self) -> bool {
        !self.findings.is_empty()
    }

    /// Adds what was found. `rests_on` are the names of the questions that it follows from.
    pub(super) fn found(&mut self, verdict: Verdict, rests_on: &[&str], draft: Draft) {
        let confidence = self.confidence(rests_on, draft.lowered);
        self.findings.push(Finding {
            verdict,
            summary: draft.summary,
            severity: if draft.severity.is_finite() {
                draft.severity.clamp(0.0, 1.0)
            } else {
                0.0
            },
            confidence,
            remedies: draft.remedies,
            culprits: draft.culprits,
            others: draft.others,
            exonerated: draft.exonerated,
        });
    }

    fn confidence(&self, rests_on: &[&str], lowered: Vec<(f64, String)>) -> Confidence {
        let asked = || {
            let all = self.asked.iter();
            all.filter(|one| rests_on.contains(&one.name.as_ref()))
        };
        let mut lowered_by = Vec::new();
        let mut ratio = 1.0;
        let mut lower = |factor: f64, why: String| {
            ratio *= factor;
            lowered_by.push(why);
        };

        let least = asked().min_by(|a, b| a.clearness().total_cmp(&b.clearness()));
        if let Some(least) = least
            && least.clearness() < 1.0
        {
            let why = match least.answer {
                Answer::Unknown => format!("no answer to {:?}", least.question),
                _ => format!("close to the threshold: {:?}", least.question),
            };
            lower(half_and(least.clearness()), why);
        }

        let evidence = || asked().flat_map(|one| &one.evidence);
        let absent: Vec<&Evidence> = evidence().filter(|one| one.value.is_none()).collect();
        if !absent.is_empty() {
            let measured = 1.0 - absent.len() as f64 / evidence().count() as f64;
            let mut names: Vec<&str> = absent.iter().map(|one| one.name.as_ref()).collect();
            names.sort_unstable();
            names.dedup();
            lower(
                half_and(measured),
                format!("not measured: {}", names.join(", ")),
            );
        }

        let seconds = self.view.window.seconds.max(0.0);
        if seconds < FULL_WINDOW_SECONDS {
            lower(
                half_and(seconds / FULL_WINDOW_SECONDS),
                format!("a window of {seconds:.1} s only"),
            );
        }
        for (factor, why) in lowered {
            lower(factor.clamp(0.0, 1.0), why);
        }
        Confidence {
            ratio,
            level: match ratio {
                ratio if ratio >= 0.8 => Level::High,
                ratio if ratio >= 0.5 => Level::Medium,
                _ => Level::Low,
            },
            lowered_by,
        }
    }

    /// What the tree answers. Without any finding that is `otherwise`, unless questions that it rests on
    /// have no answer: then it is not known.
    pub(super) fn finish(
        mut self,
        otherwise: Verdict,
        rests_on: &[&str],
        draft: Draft,
    ) -> ResourceDiagnosis {
        if self.findings.is_empty() {
            let mut absent: Vec<String> = self
                .asked
                .iter()
                .filter(|one| one.answer == Answer::Unknown)
                .filter(|one| rests_on.contains(&one.name.as_ref()))
                .flat_map(|one| &one.evidence)
                .filter(|one| one.compared.is_some() && one.value.is_none())
                .map(|one| label(&one.name))
                .collect();
            absent.dedup();
            if absent.is_empty() {
                self.found(otherwise, rests_on, draft);
            } else {
                let summary = format!("not measured here: {}", absent.join(", "));
                self.found(Verdict::Unknown, rests_on, Draft::of(summary));
            }
        }
        ResourceDiagnosis {
            resource: self.resource,
            verdict: self
                .findings
                .first()
                .map_or(Verdict::Unknown, |first| first.verdict),
            findings: self.findings,
            asked: self.asked,
        }
    }
}

fn half_and(part: f64) -> f64 {
    0.5 + 0.5 * part.clamp(0.0, 1.0)
}
