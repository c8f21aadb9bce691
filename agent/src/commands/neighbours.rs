//! `ctrscope neighbours`: who made whom wait for CPUs, and who made others wait most.

use std::io::Write;

use super::{
    CommandError, Outcome,
    windows::{Windows, clock, json},
};
use crate::{
    cli::NeighboursArgs,
    diagnosis::{CauseWait, Culprit, PairWait, PartyKind, Unnamed, Victim, WaitMatrix},
    source::{Cancel, DiagnosisRequest, Source},
    terminal::{ABSENT, Align, Paragraphs, Table, Terminal, percent, seconds, shortened},
};

/// Waits of a pair from which it is shown, for each second.
const LEAST_PER_SECOND: f64 = 0.001;
/// Pairs that are shown without `--all`.
const MOST_PAIRS: usize = 30;
/// Culprits that are shown without `--all`.
const MOST_CULPRITS: usize = 10;
/// Columns beside two names, at most.
const OTHER_COLUMNS: usize = 26;
/// Shortest column of names.
const LEAST_NAME: usize = 16;

/// `is_local` says that this process measures, so that there is nothing before it began.
pub(super) fn neighbours(
    arguments: &NeighboursArgs,
    source: &dyn Source,
    is_local: bool,
    terminal: Terminal,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<Outcome, CommandError> {
    let windows = Windows {
        window: arguments.window,
        is_local,
        is_watched: arguments.watch,
        is_json: arguments.json,
    };
    let (outcome, _) = windows.write(
        |window| {
            source.neighbours(&DiagnosisRequest {
                window,
                container: arguments.container.clone(),
            })
        },
        |matrix| matrix.seconds,
        |matrix| {
            if arguments.json {
                return json(matrix);
            }
            Ok(render(arguments, matrix, terminal))
        },
        (terminal, cancel),
        out,
    )?;
    Ok(outcome)
}

fn render(arguments: &NeighboursArgs, matrix: &WaitMatrix, terminal: Terminal) -> String {
    let mut page = Page {
        text: Paragraphs::new(terminal.width, terminal.stdout && terminal.color),
        most_name: terminal.width.map_or(usize::MAX, |width| {
            (usize::from(width).saturating_sub(OTHER_COLUMNS) / 2).max(LEAST_NAME)
        }),
        all: arguments.all,
        over: format!(
            "over {:.0} s until {}",
            matrix.seconds,
            clock(matrix.ended_at_unix_ms)
        ),
    };
    if arguments.container.is_none() {
        page.matrix(matrix);
    } else {
        for victim in &matrix.containers {
            page.one(victim, matrix.culprits.first());
        }
    }
    page.text.into_text()
}

struct Page {
    text: Paragraphs,
    most_name: usize,
    all: bool,
    over: String,
}

impl Page {
    /// All pairs, and the culprits.
    fn matrix(&mut self, matrix: &WaitMatrix) {
        let over = self.over.clone();
        if matrix.measured == 0 {
            let why = "it is not measured who waited for whom, or there is no container; `ctrscope check` says what \
                       this host lacks";
            return self.text.add_colored("1", "", &format!("{why}; {over}"));
        }
        let mut pairs: Vec<(&Victim, &PairWait)> = matrix
            .containers
            .iter()
            .flat_map(|victim| victim.neighbours.iter().map(move |one| (victim, one)))
            .filter(|(_, pair)| self.is_told(pair.per_second))
            .collect();
        pairs.sort_by(|(_, a), (_, b)| b.per_second.total_cmp(&a.per_second));
        let waits: f64 = matrix
            .containers
            .iter()
            .map(|one| one.waited_per_second)
            .sum();
        let count = match matrix.measured {
            1 => "1 container or service".to_owned(),
            count => format!("{count} containers and services"),
        };
        let mut unnamed = others(&matrix.unnamed).into_iter();
        let is_quiet = pairs.is_empty()
            && !unnamed.any(|(_, seconds)| self.is_told(ratio(seconds, matrix.seconds)));
        let title = if is_quiet {
            format!("nobody made anybody else wait for 1 ms a second; {count}")
        } else {
            count
        };
        let waits = seconds(Some(waits));
        let line = format!("{title} waited {waits} a second for CPUs; {over}");
        self.text.add_colored("1", "", &line);
        self.causes_of_all(&matrix.causes);
        if !pairs.is_empty() {
            self.pairs(&pairs);
        }
        if !is_quiet {
            self.culprits(matrix);
        }
    }

    fn pairs(&mut self, pairs: &[(&Victim, &PairWait)]) {
        self.text.blank();
        let most = if self.all { usize::MAX } else { MOST_PAIRS };
        let mut table = Table::new(&[
            ("VICTIM", Align::Left),
            ("CULPRIT", Align::Left),
            ("WAIT", Align::Right),
            ("OF ITS WAIT", Align::Right),
        ]);
        for (victim, pair) in pairs.iter().take(most) {
            table.row([
                self.name(&victim.name),
                self.name(&pair.name),
                per_second(pair.per_second),
                percent(Some(pair.share)),
            ]);
        }
        self.text.add_lines("", &table.to_string());
        if let Some(more @ 1..) = pairs.len().checked_sub(MOST_PAIRS).filter(|_| !self.all) {
            let line = format!("{more} more with less; --all shows them");
            self.text.add("", &line);
        }
    }

    fn causes_of_all(&mut self, causes: &[CauseWait]) {
        let named: Vec<String> = causes
            .iter()
            .filter(|one| self.all || one.share >= 0.005)
            .map(|one| format!("{} {}", title(&one.cause), percent(Some(one.share))))
            .collect();
        if !named.is_empty() {
            self.text.add("for ", &named.join(", "));
        }
    }

    fn culprits(&mut self, matrix: &WaitMatrix) {
        let told = |one: &&Culprit| self.is_told(one.per_second);
        let most = if self.all { usize::MAX } else { MOST_CULPRITS };
        let mut table = Table::new(&[
            ("WORST OFFENDER", Align::Left),
            ("OTHERS' WAIT", Align::Right),
            ("VICTIMS", Align::Right),
            ("MOST OF ALL", Align::Left),
        ]);
        for one in matrix.culprits.iter().filter(told).take(most) {
            let first = one.victims.first();
            table.row([
                self.name(&one.name),
                per_second(one.per_second),
                one.victim_count.to_string(),
                first.map_or_else(|| ABSENT.to_owned(), |first| self.name(&first.name)),
            ]);
        }
        for (name, seconds) in others(&matrix.unnamed) {
            let rate = ratio(seconds, matrix.seconds);
            if self.is_told(rate) {
                let absent = || ABSENT.to_owned();
                table.row([name.to_owned(), per_second(rate), absent(), absent()]);
            }
        }
        self.text.blank();
        self.text.add_lines("", &table.to_string());
    }

    /// One container: what it waited for, whom, and who waited for it.
    fn one(&mut self, victim: &Victim, culprit: Option<&Culprit>) {
        let name = &victim.name;
        let title = if self.is_told(victim.waited_per_second) {
            let waited = seconds(Some(victim.waited_per_second));
            format!("{name} waited {waited} a second for CPUs")
        } else {
            format!("{name} did not wait for CPUs: less than 1 ms a second")
        };
        self.text.add_colored("1", "", &title);
        let over = self.over.clone();
        self.text.add("", &over);
        if self.is_told(victim.waited_per_second) {
            self.causes(victim);
            self.neighbours(victim);
        }
        self.victims(name, culprit);
    }

    fn causes(&mut self, victim: &Victim) {
        let mut table = Table::new(&[
            ("CAUSE", Align::Left),
            ("WAIT", Align::Right),
            ("SHARE", Align::Right),
        ]);
        for one in &victim.causes {
            let rate = ratio(one.seconds, victim.seconds);
            table.row([
                title(&one.cause).to_owned(),
                per_second(rate),
                percent(Some(one.share)),
            ]);
        }
        self.text.blank();
        self.text.add_lines("", &table.to_string());
    }

    fn neighbours(&mut self, victim: &Victim) {
        let mut table = pairs("IT WAITED FOR");
        let mut count = 0;
        for one in &victim.neighbours {
            if self.is_told(one.per_second) {
                table.row(self.pair(one));
                count += 1;
            }
        }
        for (name, seconds) in others(&victim.unnamed) {
            let rate = ratio(seconds, victim.seconds);
            if self.is_told(rate) {
                let share = percent(Some(ratio(seconds, victim.waited_seconds)));
                table.row([name.to_owned(), ABSENT.to_owned(), per_second(rate), share]);
                count += 1;
            }
        }
        self.text.blank();
        if count == 0 {
            let name = &victim.name;
            let line = format!("no neighbour made {name} wait for 1 ms a second");
            return self.text.add("", &line);
        }
        self.text.add_lines("", &table.to_string());
    }

    fn victims(&mut self, name: &str, culprit: Option<&Culprit>) {
        self.text.blank();
        let told = culprit.filter(|one| self.is_told(one.per_second));
        let Some(culprit) = told else {
            let line = format!("nobody waited for {name}, or less than 1 ms a second");
            return self.text.add("", &line);
        };
        let mut table = pairs("WAITED FOR IT");
        for one in culprit
            .victims
            .iter()
            .filter(|one| self.is_told(one.per_second))
        {
            table.row(self.pair(one));
        }
        self.text.add_lines("", &table.to_string());
        if let Some(more @ 1..) = culprit.victim_count.checked_sub(culprit.victims.len()) {
            let line = format!("{more} more waited less for it");
            self.text.add("", &line);
        }
    }

    fn pair(&self, pair: &PairWait) -> [String; 4] {
        let kind = match pair.kind {
            PartyKind::Container => "container",
            PartyKind::Service => "service",
        };
        [
            self.name(&pair.name),
            kind.to_owned(),
            per_second(pair.per_second),
            percent(Some(pair.share)),
        ]
    }

    fn name(&self, name: &str) -> String {
        shortened(name, self.most_name)
    }

    fn is_told(&self, rate: f64) -> bool {
        rate >= LEAST_PER_SECOND || (self.all && rate > 0.0)
    }
}

fn pairs(title: &str) -> Table {
    Table::new(&[
        (title, Align::Left),
        ("KIND", Align::Left),
        ("WAIT", Align::Right),
        ("OF ALL ITS WAIT", Align::Right),
    ])
}

/// Those without a name, and the seconds.
fn others(unnamed: &Unnamed) -> [(&'static str, f64); 2] {
    [
        ("(other containers)", unnamed.containers_seconds),
        ("(other services, sessions, root)", unnamed.system_seconds),
    ]
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn per_second(rate: f64) -> String {
    format!("{}/s", seconds(Some(rate)))
}

/// A cause in words.
fn title(cause: &str) -> &str {
    match cause {
        "quota" => "CPU quota",
        "self" => "own tasks",
        "container" => "other containers",
        "system" => "system services and sessions",
        "kernel" => "kernel threads and interrupts",
        "wakeup" => "waking an idle CPU",
        "migrated" => "another CPU's queue",
        "unattributed" => "unknown",
        other => other,
    }
}

#[cfg(test)]
mod tests;
