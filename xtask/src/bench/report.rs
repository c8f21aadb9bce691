//! Results: tables, targets, and the document made of them.

use std::fmt::Write as _;

/// Numbers of one subject.
pub(super) struct Section {
    pub(super) title: &'static str,
    /// What was done, one paragraph.
    pub(super) method: String,
    pub(super) tables: Vec<Table>,
    pub(super) targets: Vec<Target>,
}

/// A table: a name in the first column, numbers in the others.
pub(super) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Something that was to be reached.
pub(super) struct Target {
    pub(super) what: String,
    pub(super) wanted: String,
    pub(super) measured: String,
    pub(super) met: bool,
}

impl Target {
    /// At most `limit`, in `unit`.
    pub(super) fn at_most(what: &str, limit: f64, measured: f64, unit: &str) -> Self {
        Self {
            what: what.to_owned(),
            wanted: format!("at most {limit} {unit}"),
            measured: format!("{} {unit}", number(measured)),
            met: measured <= limit,
        }
    }
}

impl Target {
    /// At least `limit`, in `unit`.
    pub(super) fn at_least(what: &str, limit: f64, measured: f64, unit: &str) -> Self {
        Self {
            what: what.to_owned(),
            wanted: format!("at least {limit} {unit}"),
            measured: format!("{} {unit}", number(measured)),
            met: measured >= limit,
        }
    }
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Markdown, aligned so that it can be read as it is.
    fn render(&self) -> String {
        let width = |column: usize| {
            self.rows
                .iter()
                .chain([&self.header])
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
                .max(3)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut text = String::new();
        let mut line = |cells: &[String]| {
            for (column, &width) in widths.iter().enumerate() {
                let cell = cells.get(column).map_or("", String::as_str);
                let _ = if column == 0 {
                    write!(text, "| {cell:width$} ")
                } else {
                    write!(text, "| {cell:>width$} ")
                };
            }
            text.push_str("|\n");
        };
        line(&self.header);
        let rule: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(column, &width)| {
                if column == 0 {
                    "-".repeat(width)
                } else {
                    format!("{}:", "-".repeat(width - 1))
                }
            })
            .collect();
        line(&rule);
        for row in &self.rows {
            line(row);
        }
        text
    }
}

/// All targets in one table.
fn targets(sections: &[Section]) -> Table {
    let mut table = Table::new(&["target", "wanted", "measured", "met"]);
    for target in sections.iter().flat_map(|section| &section.targets) {
        table.row([
            target.what.clone(),
            target.wanted.clone(),
            target.measured.clone(),
            if target.met { "yes" } else { "**no**" }.to_owned(),
        ]);
    }
    table
}

/// The tables for a terminal.
pub(super) fn text(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        let _ = writeln!(text, "{}\n", section.title);
        for table in &section.tables {
            let _ = writeln!(text, "{}", table.render());
        }
    }
    if sections.iter().any(|section| !section.targets.is_empty()) {
        let _ = writeln!(text, "Targets\n\n{}", targets(sections).render());
    }
    text
}

/// The document.
pub(super) fn document(preface: &str, machine: &Table, sections: &[Section]) -> String {
    let mut text = format!("# Benchmarks\n\n{preface}\n\n{}", machine.render());
    let _ = write!(text, "\n## Targets\n\n{}", targets(sections).render());
    for section in sections {
        let _ = write!(text, "\n## {}\n\n{}\n", section.title, section.method);
        for table in &section.tables {
            let _ = write!(text, "\n{}", table.render());
        }
    }
    text
}

/// A number with three digits or so.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.0995 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The middle of some numbers; not a number if there is none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_table_is_markdown_and_aligned() {
        let mut table = Table::new(&["what", "ns"]);
        table.row(["switch".into(), number(38.04)]);
        assert_eq!(
            table.render(),
            "| what   |   ns |\n| ------ | ---: |\n| switch | 38.0 |\n"
        );
    }

    #[test]
    fn a_target_is_met_up_to_its_limit() {
        assert!(Target::at_most("a", 50.0, 50.0, "ns").met);
        assert!(!Target::at_most("a", 50.0, 50.1, "ns").met);
        assert!(!Target::at_most("a", 50.0, f64::NAN, "ns").met);
    }
}
