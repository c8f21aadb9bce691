//! All containers: a table, and a few sentences for each that is held back.

use crate::{
    diagnosis::{ContainerDiagnosis, Diagnosis},
    terminal::{ABSENT, Align, Paragraphs, Table, Terminal, percent, shortened},
};

use super::{super::windows::clock, page::finding_of};

/// Containers of which more is told than their row.
const MAX_TOLD: usize = 10;
/// Columns beside the name, at most.
const OTHER_COLUMNS: usize = 62;
/// Shortest column of names.
const LEAST_NAME: usize = 16;

pub(super) fn render(diagnosis: &Diagnosis, all: bool, terminal: Terminal) -> String {
    let mut text = Paragraphs::new(terminal.width, terminal.stdout && terminal.color);
    let held_back: Vec<&ContainerDiagnosis> = diagnosis
        .containers
        .iter()
        .filter(|one| one.bottleneck.is_some())
        .collect();
    let idle = diagnosis
        .containers
        .iter()
        .filter(|one| one.is_idle)
        .count();
    let count = diagnosis.containers.len();
    let what = match (held_back.len(), count) {
        (_, 0) => "there is no container".to_owned(),
        (1, _) => format!("1 of {count} containers is held back"),
        (held_back, _) => format!("{held_back} of {count} containers are held back"),
    };
    text.add_colored(
        "1",
        "",
        &format!(
            "{what}, {idle} idle; over {:.0} s until {}",
            diagnosis.seconds,
            clock(diagnosis.ended_at_unix_ms)
        ),
    );
    let shown: Vec<&ContainerDiagnosis> = if all {
        diagnosis.containers.iter().collect()
    } else {
        held_back.clone()
    };
    if !shown.is_empty() {
        text.blank();
        text.add_lines("", &table(&shown, terminal));
    }
    for one in held_back.iter().take(MAX_TOLD) {
        tell(one, &mut text);
    }
    if let Some(first) = held_back.first() {
        text.blank();
        let more = match held_back.len().saturating_sub(MAX_TOLD) {
            0 => String::new(),
            more => format!("{more} more are in the table only; "),
        };
        text.add(
            "",
            &format!(
                "{more}evidence and more to do: ctrscope diagnose {}",
                first.name
            ),
        );
    }
    text.into_text()
}

fn table(containers: &[&ContainerDiagnosis], terminal: Terminal) -> String {
    let most = terminal.width.map_or(usize::MAX, |width| {
        usize::from(width)
            .saturating_sub(OTHER_COLUMNS)
            .max(LEAST_NAME)
    });
    let mut table = Table::new(&[
        ("CONTAINER", Align::Left),
        ("RESOURCE", Align::Left),
        ("VERDICT", Align::Left),
        ("COST", Align::Right),
        ("CONFIDENCE", Align::Left),
        ("CULPRIT", Align::Left),
    ]);
    for one in containers {
        let name = shortened(&one.name, most);
        let Some(worst) = one.bottleneck else {
            let nothing = if one.is_idle { "idle" } else { ABSENT };
            let mut row = vec![name, ABSENT.to_owned(), nothing.to_owned()];
            row.resize(6, ABSENT.to_owned());
            table.row(row);
            continue;
        };
        let finding = finding_of(one, worst);
        let culprit = finding
            .and_then(|finding| finding.culprits.first())
            .map_or_else(|| ABSENT.to_owned(), |one| shortened(&one.name, most));
        table.row([
            name,
            worst.resource.label().to_owned(),
            worst.verdict.label().to_owned(),
            percent(Some(worst.severity)),
            finding
                .map_or(ABSENT, |finding| finding.confidence.level.label())
                .to_owned(),
            culprit,
        ]);
    }
    table.to_string()
}

/// The sentence of what holds a container back most, the first thing to do, and what else is true.
fn tell(one: &ContainerDiagnosis, text: &mut Paragraphs) {
    let Some(worst) = one.bottleneck else {
        return;
    };
    text.blank();
    text.add_colored("1", "", &format!("{}: {}", one.name, worst.verdict.title()));
    if let Some(finding) = finding_of(one, worst) {
        text.add("  ", &finding.summary);
        if let Some(remedy) = finding.remedies.first() {
            text.add("  -> ", remedy);
        }
    }
    let others: Vec<&str> = one
        .resources
        .iter()
        .flat_map(|tree| &tree.findings)
        .filter(|finding| finding.verdict.is_bottleneck() && finding.verdict != worst.verdict)
        .map(|finding| finding.verdict.title())
        .collect();
    if !others.is_empty() {
        text.add("  also: ", &others.join("; "));
    }
}
