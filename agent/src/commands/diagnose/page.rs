//! One container, and the machine.

use super::super::windows::clock;
use crate::{
    cli::DiagnoseArgs,
    diagnosis::{
        Bottleneck, Change, ContainerDiagnosis, Diagnosis, Resource,
        verdict::{Answer, Asked, Evidence, Finding, Party, ResourceDiagnosis, TimeUse, UseRow},
        words,
    },
    terminal::{ABSENT, Align, Paragraphs, Table, Terminal, percent, seconds},
};

const BOLD: &str = "1";
const RED: &str = "31";

pub(super) fn container(
    diagnosis: &Diagnosis,
    one: &ContainerDiagnosis,
    arguments: &DiagnoseArgs,
    terminal: Terminal,
) -> String {
    let mut text = Paragraphs::new(terminal.width, terminal.stdout && terminal.color);
    let what = match one.bottleneck {
        Some(worst) => worst.verdict.title(),
        None if one.is_idle => "idle",
        None => "nothing holds it back",
    };
    text.add_colored(BOLD, "", &format!("{}: {what}", one.name));
    let seconds = diagnosis.seconds;
    let until = clock(diagnosis.ended_at_unix_ms);
    text.add("", &format!("over {seconds:.0} s until {until}"));
    if arguments.history {
        text.blank();
        history(&one.history, &mut text);
        return text.into_text();
    }
    // What holds it back most comes first.
    let mut trees: Vec<&ResourceDiagnosis> = one.resources.iter().collect();
    let worst = one.bottleneck.map(|worst| worst.resource);
    trees.sort_by_key(|tree| (Some(tree.resource) != worst, !tree.verdict.is_bottleneck()));
    let (held_back, others): (Vec<_>, Vec<_>) = trees
        .into_iter()
        .partition(|tree| tree.verdict.is_bottleneck() || arguments.verbose);
    for tree in held_back {
        text.blank();
        whole_tree(tree, &one.history, &mut text);
    }
    if !others.is_empty() {
        text.blank();
    }
    for tree in others {
        let found = tree.findings.first();
        text.add(
            &format!("{:<9}", format!("{}:", title(tree.resource))),
            &format!(
                "{}; {}",
                tree.verdict.title(),
                found.map_or("", |found| found.summary.as_str())
            ),
        );
    }
    time(&one.time, &mut text);
    if let Some(bursting) = &one.bursting {
        text.blank();
        let at_least = if bursting.may_be_longer {
            "or longer"
        } else {
            ""
        };
        text.add(
            "Bursting: ",
            &format!(
                "since {} {at_least}: {}",
                clock(bursting.since_unix_ms),
                bursting.summary
            ),
        );
    }
    if !one.misleading.is_empty() {
        text.blank();
        text.add("", "Seen from inside it looks different:");
        for number in &one.misleading {
            text.add("  - ", &format!("{} ({})", number.summary, number.source));
        }
    }
    text.blank();
    use_table(&one.use_table, terminal, &mut text);
    text.into_text()
}

pub(super) fn host(diagnosis: &Diagnosis, terminal: Terminal) -> String {
    let mut text = Paragraphs::new(terminal.width, terminal.stdout && terminal.color);
    let containers = &diagnosis.containers;
    let held_back = containers
        .iter()
        .filter(|one| one.bottleneck.is_some())
        .count();
    text.add_colored(
        BOLD,
        "",
        &format!(
            "the host: {} CPUs, {} containers, {held_back} of them held back",
            diagnosis.host.cpus,
            containers.len()
        ),
    );
    let (seconds, until) = (diagnosis.seconds, clock(diagnosis.ended_at_unix_ms));
    text.add("", &format!("over {seconds:.0} s until {until}"));
    text.blank();
    use_table(&diagnosis.host.use_table, terminal, &mut text);
    text.into_text()
}

/// The finding that is a container's bottleneck.
pub(super) fn finding_of(one: &ContainerDiagnosis, worst: Bottleneck) -> Option<&Finding> {
    one.resource(worst.resource)?.finding(worst.verdict)
}

fn title(resource: Resource) -> &'static str {
    match resource {
        Resource::Cpu => "CPU",
        Resource::Memory => "Memory",
        Resource::Disk => "Disk",
        Resource::Network => "Network",
    }
}

/// A tree with all that it found and asked.
fn whole_tree(tree: &ResourceDiagnosis, history: &[Change], text: &mut Paragraphs) {
    for finding in &tree.findings {
        let verdict = finding.verdict;
        let mut line = format!("{} ({})", verdict.title(), verdict.label());
        if verdict.is_bottleneck() {
            line.push_str(&format!(", costs {}", percent(Some(finding.severity))));
        }
        line.push_str(&format!(
            ", confidence {}",
            finding.confidence.level.label()
        ));
        let since = history
            .iter()
            .rev()
            .find(|one| one.resource == tree.resource);
        if let Some(change) = since.filter(|change| change.to == verdict) {
            line.push_str(&format!(", since {}", clock(change.at_unix_ms)));
        }
        let color = if verdict.is_bottleneck() { RED } else { BOLD };
        text.add_colored(color, &format!("{}: ", title(tree.resource)), &line);
        text.add("  ", &finding.summary);
        for remedy in &finding.remedies {
            text.add("  -> ", remedy);
        }
        parties("culprit: ", &finding.culprits, text);
        parties("others: ", &finding.others, text);
        parties("not to blame: ", &finding.exonerated, text);
        for reason in &finding.confidence.lowered_by {
            text.add("  less sure: ", reason);
        }
    }
    text.add("  ", "asked:");
    for asked in &tree.asked {
        question(asked, text);
    }
}

fn parties(label: &str, parties: &[Party], text: &mut Paragraphs) {
    for party in parties {
        text.add(
            &format!("  {label}"),
            &format!("{}: {}", party.name, numbers(&party.evidence)),
        );
    }
}

fn question(asked: &Asked, text: &mut Paragraphs) {
    let answer = match asked.answer {
        Answer::Yes => "yes",
        Answer::No => "no",
        Answer::Unknown => "?",
    };
    text.add(&format!("    {answer:<4}"), &asked.question);
    if !asked.evidence.is_empty() {
        text.add("          ", &numbers(&asked.evidence));
    }
}

/// Numbers with their names and what they were compared with; those of one cgroup or device together.
fn numbers(evidence: &[Evidence]) -> String {
    let groups = evidence.chunk_by(|a, b| a.of == b.of).map(|group| {
        let words: Vec<String> = group.iter().map(number).collect();
        let words = words.join(", ");
        match group.first() {
            Some(first) if !first.of.is_empty() => format!("of {}: {words}", first.of),
            _ => words,
        }
    });
    groups.collect::<Vec<_>>().join("; ")
}

fn number(evidence: &Evidence) -> String {
    let compared = words::threshold(evidence);
    let compared = if compared.is_empty() {
        compared
    } else {
        format!(" ({compared})")
    };
    let name = words::label(&evidence.name);
    format!("{name} {}{compared}", words::value(evidence))
}

fn time(time: &TimeUse, text: &mut Paragraphs) {
    let parts = [
        ("on CPUs", time.on_cpu_seconds),
        ("waiting for a CPU", time.run_queue_seconds),
        ("blocked for I/O", time.io_wait_seconds),
        ("blocked uninterruptibly", time.blocked_seconds),
        ("sleeping", time.sleep_seconds),
    ];
    let known: Vec<String> = parts
        .iter()
        .filter_map(|(what, spent)| Some(format!("{} {what}", seconds(Some((*spent)?)))))
        .collect();
    if !known.is_empty() {
        text.blank();
        text.add("Time of its tasks, summed: ", &known.join(", "));
    }
}

fn use_table(rows: &[UseRow], terminal: Terminal, text: &mut Paragraphs) {
    let cell = |numbers: &[Evidence]| {
        let words: Vec<String> = numbers
            .iter()
            .map(|one| format!("{} {}", words::label(&one.name), words::value(one)))
            .collect();
        if words.is_empty() {
            ABSENT.to_owned()
        } else {
            words.join(", ")
        }
    };
    let mut table = Table::new(&[
        ("RESOURCE", Align::Left),
        ("UTILISATION", Align::Left),
        ("SATURATION", Align::Left),
        ("ERRORS", Align::Left),
    ]);
    for row in rows {
        table.row([
            row.resource.clone(),
            cell(&row.utilisation),
            cell(&row.saturation),
            cell(&row.errors),
        ]);
    }
    let lines = table.to_string();
    let widest = lines.lines().map(|line| line.chars().count()).max();
    let fits = terminal
        .width
        .is_none_or(|width| widest.unwrap_or(0) <= usize::from(width));
    if fits {
        text.add_lines("", &lines);
        return;
    }
    // Too narrow for a table: a paragraph for each resource.
    for row in rows {
        text.add_colored(BOLD, "", &row.resource);
        text.add("  utilisation: ", &cell(&row.utilisation));
        text.add("  saturation:  ", &cell(&row.saturation));
        text.add("  errors:      ", &cell(&row.errors));
    }
}

fn history(changes: &[Change], text: &mut Paragraphs) {
    if changes.is_empty() {
        text.add(
            "",
            "no verdict of it is remembered; a running daemon remembers those of the last hour",
        );
    }
    for change in changes {
        let from = change
            .from
            .map_or(String::new(), |from| format!("{} -> ", from.label()));
        text.add(
            &format!(
                "{}  {:<8}",
                clock(change.at_unix_ms),
                change.resource.label()
            ),
            &format!("{from}{}: {}", change.to.label(), change.summary),
        );
    }
}
