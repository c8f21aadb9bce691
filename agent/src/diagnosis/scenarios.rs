//! Every scenario on made-up facts: the verdicts in their order, the evidence that names them, who is to
//! blame and who is not.

mod cpu;
mod io;
mod others;
mod quota;

use super::{
    facts::WindowFacts,
    report::{ContainerDiagnosis, diagnose},
    thresholds::Thresholds,
    verdict::{Answer, Finding, Resource, Verdict},
};

/// What a scenario must give.
struct Expected<'a> {
    /// Of which resource.
    resource: Resource,
    /// All findings, in order.
    verdicts: &'a [Verdict],
    /// Questions and their answers; the first number of a question that answers yes must be there.
    asked: &'a [(&'a str, Answer)],
    /// Culprits of the findings, all of them.
    culprits: &'a [&'a str],
    /// Those who must be exonerated.
    exonerated: &'a [&'a str],
}

fn of(window: &WindowFacts, name: &str) -> ContainerDiagnosis {
    let diagnosis = diagnose(window, &Thresholds::default());
    let mut found = diagnosis.containers.into_iter();
    found.find(|one| one.name == name).expect(name)
}

fn check(window: &WindowFacts, name: &str, expected: &Expected<'_>) -> ContainerDiagnosis {
    let diagnosis = of(window, name);
    let tree = diagnosis.resource(expected.resource).expect("a tree");
    let verdicts: Vec<Verdict> = tree.findings.iter().map(|one| one.verdict).collect();
    assert_eq!(verdicts, expected.verdicts, "{tree:#?}");
    assert_eq!(tree.verdict, expected.verdicts[0]);
    for (question, answer) in expected.asked {
        let asked = tree
            .asked
            .iter()
            .find(|asked| asked.name == *question)
            .unwrap_or_else(|| panic!("{question} was not asked: {tree:#?}"));
        assert_eq!(asked.answer, *answer, "{asked:#?}");
        if *answer == Answer::Yes {
            let decides = asked.evidence.iter().find(|one| one.holds() == Some(true));
            assert!(decides.is_some_and(|one| one.value.is_some()), "{asked:#?}");
        }
    }
    let names = |of: fn(&Finding) -> &Vec<super::verdict::Party>| -> Vec<String> {
        let parties = tree.findings.iter().flat_map(of);
        parties.map(|party| party.name.clone()).collect()
    };
    assert_eq!(names(|one| &one.culprits), expected.culprits, "{tree:#?}");
    let exonerated = names(|one| &one.exonerated);
    for innocent in expected.exonerated {
        assert!(
            exonerated.iter().any(|one| one == innocent),
            "{innocent}: {tree:#?}"
        );
    }
    for finding in tree
        .findings
        .iter()
        .filter(|one| one.verdict.is_bottleneck())
    {
        assert!(!finding.remedies.is_empty(), "{finding:#?}");
        assert!(finding.severity > 0.0, "{finding:#?}");
        assert!(!finding.summary.is_empty());
    }
    diagnosis
}

fn bottleneck(diagnosis: &ContainerDiagnosis) -> Option<(Resource, Verdict)> {
    diagnosis.bottleneck.map(|one| (one.resource, one.verdict))
}
