//! The live table: what it shows and what keys do.

use std::sync::Arc;

use ratatui::{
    Frame,
    crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Text},
    widgets::{Cell, Paragraph, Row as TableRow, Table},
};

use super::rows::{COLUMNS, Column, Row, VERDICT, rows, sort};
use crate::{
    cli::{SortKey, TopArgs},
    diagnosis::ContainerStanding,
    snapshot::{CollectorState, Course, Snapshot, seconds_between},
    terminal::{Align, printable},
};

/// Lines above and below the rows: heading, message, column titles, keys.
const OTHER_LINES: u16 = 4;
const MAX_FILTER_CHARS: usize = 64;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Stay,
    Quit,
}

/// The state of the screen.
pub(super) struct Screen {
    course: Course,
    /// All rows, as measured.
    all: Vec<Row>,
    /// Those that are shown, sorted.
    shown: Vec<Row>,
    seconds: f64,
    sort: SortKey,
    busy_only: bool,
    filter: String,
    is_filtering: bool,
    /// First row shown.
    offset: usize,
    /// Rows that fitted last time.
    page: usize,
    error: Option<String>,
    color: bool,
}

impl Screen {
    pub(super) fn new(arguments: &TopArgs, color: bool, first: Arc<Snapshot>) -> Self {
        let mut screen = Self {
            // Names at once, numbers after the first interval.
            all: rows(&first, &[], &[]),
            course: Course::new(first),
            shown: Vec::new(),
            seconds: 0.0,
            sort: arguments.sort,
            busy_only: arguments.busy,
            filter: arguments.filter.clone(),
            is_filtering: false,
            offset: 0,
            page: 1,
            error: None,
            color,
        };
        screen.arrange();
        screen
    }

    /// Takes a new snapshot in and returns whether it was new.
    pub(super) fn update(
        &mut self,
        snapshot: &Arc<Snapshot>,
        standing: &[ContainerStanding],
    ) -> bool {
        self.error = None;
        let seconds = seconds_between(self.course.last(), snapshot);
        let Some(rates) = self.course.follow(snapshot) else {
            return false;
        };
        self.seconds = seconds;
        self.all = rows(snapshot, &rates, standing);
        self.arrange();
        true
    }

    pub(super) fn set_error(&mut self, error: String) {
        self.error = Some(error);
    }

    /// Filters and sorts.
    fn arrange(&mut self) {
        let filter = self.filter.to_lowercase();
        let has_rates = self.seconds > 0.0;
        self.shown = self
            .all
            .iter()
            .filter(|row| !self.busy_only || !has_rates || row.is_busy())
            .filter(|row| row.has(&filter))
            .cloned()
            .collect();
        sort(&mut self.shown, self.sort);
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Stay;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Action::Quit;
        }
        if self.is_filtering {
            self.filter_key(key.code);
            return Action::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Action::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('/') => self.is_filtering = true,
            KeyCode::Char('b') => self.busy_only = !self.busy_only,
            KeyCode::Char('c') => self.sort = SortKey::Cpu,
            KeyCode::Char('r') => self.sort = SortKey::Runq,
            KeyCode::Char('t') => self.sort = SortKey::Throttled,
            KeyCode::Char('i') => self.sort = SortKey::Io,
            KeyCode::Char('n') => self.sort = SortKey::Name,
            KeyCode::Down | KeyCode::Char('j') => self.offset = self.offset.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown => self.offset = self.offset.saturating_add(self.page),
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(self.page),
            KeyCode::Home => self.offset = 0,
            KeyCode::End => self.offset = usize::MAX,
            _ => {}
        }
        self.arrange();
        Action::Stay
    }

    fn filter_key(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.is_filtering = false,
            KeyCode::Esc => {
                self.is_filtering = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) if self.filter.chars().count() < MAX_FILTER_CHARS => {
                self.filter.push(letter);
            }
            _ => {}
        }
        self.offset = 0;
        self.arrange();
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        self.page = usize::from(area.height.saturating_sub(OTHER_LINES)).max(1);
        let last_offset = self.shown.len().saturating_sub(self.page);
        self.offset = self.offset.min(last_offset);
        let [heading, message, table, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(area);
        frame.render_widget(Paragraph::new(self.heading()), heading);
        frame.render_widget(Paragraph::new(self.message()), message);
        self.draw_table(frame, table);
        frame.render_widget(Paragraph::new(self.keys()), keys);
    }

    fn heading(&self) -> Line<'static> {
        let host = &self.course.last().host;
        let exited = self
            .course
            .last()
            .containers
            .iter()
            .filter(|container| container.exited_at_unix_ms.is_some())
            .count();
        let text = format!(
            "ctrscope top  {}  {} CPUs  Linux {}  {} containers, {exited} exited  over {:.1} s",
            printable(&host.name),
            host.cpus,
            printable(&host.kernel),
            self.course.last().containers.len(),
            self.seconds
        );
        Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
    }

    /// What goes wrong, in the order of how much it matters.
    fn message(&self) -> Line<'static> {
        if let Some(error) = &self.error {
            let text = format!("the numbers are old: {}", printable(error));
            return Line::styled(text, self.colored(Color::Red));
        }
        let reasons: Vec<String> = self
            .course
            .last()
            .agent
            .collectors
            .iter()
            // A host without a runtime's socket lacks nothing that this line could help with.
            .filter(|status| match status.state {
                CollectorState::Active => false,
                CollectorState::Unsupported | CollectorState::Disabled => status.name != "names",
                CollectorState::Degraded | CollectorState::Failed => true,
            })
            .map(|status| format!("{}: {}", status.name, printable(&status.reason)))
            .collect();
        if !reasons.is_empty() {
            return Line::styled(reasons.join("; "), self.colored(Color::Yellow));
        }
        if self.seconds <= 0.0 {
            return Line::raw("measuring the first interval...");
        }
        Line::default()
    }

    fn keys(&self) -> Line<'static> {
        if self.is_filtering {
            let filter = printable(&self.filter);
            return Line::raw(format!("/{filter}_  Enter keeps the filter, Esc clears it"));
        }
        let first = self.offset + usize::from(!self.shown.is_empty());
        let last = (self.offset + self.page).min(self.shown.len());
        let mut text = format!("{first}-{last} of {}", self.shown.len());
        if !self.filter.is_empty() {
            text.push_str(&format!("  name has {:?}", self.filter));
        }
        text.push_str(if self.busy_only { "  busy only" } else { "" });
        text.push_str("  q quit  sort: c r t i n  b busy  / filter  arrows scroll");
        Line::styled(text, Style::new().add_modifier(Modifier::DIM))
    }

    fn draw_table(&self, frame: &mut Frame<'_>, area: Rect) {
        let columns = columns_that_fit(area.width);
        let title = |column: &Column| {
            let mut style = Style::new().add_modifier(Modifier::REVERSED);
            if column.sort == Some(self.sort) {
                style = style.add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
            }
            Cell::from(aligned(column, column.title.to_owned())).style(style)
        };
        let header = TableRow::new(columns.iter().map(title))
            .style(Style::new().add_modifier(Modifier::REVERSED));
        let rows = self
            .shown
            .iter()
            .skip(self.offset)
            .take(self.page)
            .map(|row| {
                let cells = columns.iter().map(|column| {
                    let text = (column.cell)(row);
                    Cell::from(aligned(column, text)).style(self.cell_style(column, row))
                });
                TableRow::new(cells)
            });
        let widths = columns.iter().enumerate().map(|(position, column)| {
            if position == 0 {
                Constraint::Fill(1)
            } else {
                Constraint::Length(column.width)
            }
        });
        let table = Table::new(rows, widths).header(header).column_spacing(1);
        frame.render_widget(table, area);
    }

    /// Exited containers are dim; throttling and verdicts stand out.
    fn cell_style(&self, column: &Column, row: &Row) -> Style {
        if row.has_exited() {
            return Style::new().add_modifier(Modifier::DIM);
        }
        let stands_out = (column.sort == Some(SortKey::Throttled) && row.is_throttled())
            || (column.title == VERDICT && row.is_held_back());
        if stands_out {
            return self.colored(Color::Red);
        }
        Style::new()
    }

    fn colored(&self, color: Color) -> Style {
        if self.color {
            Style::new().fg(color)
        } else {
            Style::new().add_modifier(Modifier::BOLD)
        }
    }
}

fn aligned(column: &Column, text: String) -> Text<'static> {
    Text::from(text).alignment(match column.align {
        Align::Left => Alignment::Left,
        Align::Right => Alignment::Right,
    })
}

/// As many columns as the width has room for, from the left.
fn columns_that_fit(width: u16) -> &'static [Column] {
    let mut used = 0u16;
    let fitting = COLUMNS
        .iter()
        .take_while(|column| {
            used = used.saturating_add(column.width + 1);
            used <= width.saturating_add(1)
        })
        .count();
    &COLUMNS[..fitting.max(1)]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};

    use super::{
        super::rows::fixture::{standing, two_snapshots},
        *,
    };

    fn screen() -> Screen {
        let arguments = TopArgs {
            interval: Duration::from_secs(1),
            count: None,
            sort: SortKey::Cpu,
            busy: false,
            filter: String::new(),
            json: false,
        };
        let (earlier, later) = two_snapshots();
        let mut screen = Screen::new(&arguments, false, Arc::new(earlier));
        assert!(screen.update(&Arc::new(later), &standing()));
        screen
    }

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| screen.draw(frame)).expect("drawn");
        let buffer = terminal.backend().buffer();
        (0..height)
            .map(|y| {
                let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
                line.trim_end().to_owned()
            })
            .collect()
    }

    fn press(screen: &mut Screen, keys: &str) {
        for key in keys.chars() {
            screen.key(KeyEvent::from(KeyCode::Char(key)));
        }
    }

    fn names(screen: &mut Screen) -> Vec<String> {
        let lines = drawn(screen, 150, 12);
        let rows = lines[3..11].iter();
        rows.filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect()
    }

    #[test]
    fn a_wide_screen_shows_all_columns() {
        let lines = drawn(&mut screen(), 150, 8);
        assert_eq!(
            lines[0],
            "ctrscope top  box  4 CPUs  Linux 6.1.0  3 containers, 1 exited  over 2.0 s"
        );
        let titles: Vec<&str> = COLUMNS.iter().map(|column| column.title).collect();
        assert!(
            titles.iter().all(|title| lines[2].contains(title)),
            "{lines:#?}"
        );
        assert!(
            lines[3].starts_with("web ") && lines[3].ends_with("live"),
            "{lines:#?}"
        );
        assert!(lines[5].ends_with("exited 2s"), "{lines:#?}");
        assert!(lines[7].starts_with("1-3 of 3  q quit"), "{lines:#?}");
    }

    #[test]
    fn a_narrow_screen_drops_columns_from_the_right_and_a_tiny_one_survives() {
        let lines = drawn(&mut screen(), 40, 8);
        assert!(lines[2].starts_with("CONTAINER"), "{lines:#?}");
        assert!(lines[2].ends_with("CPU"), "{lines:#?}");
        let lines = drawn(&mut screen(), 80, 8);
        assert!(lines[2].ends_with("THROTTLED"), "{lines:#?}");
        assert!(lines[3].contains(" cap_throttled "), "{lines:#?}");
        for (width, height) in [(1, 1), (5, 2), (200, 3)] {
            drawn(&mut screen(), width, height);
        }
    }

    #[test]
    fn keys_sort_hide_filter_and_quit() {
        let mut screen = screen();
        press(&mut screen, "i");
        assert_eq!(names(&mut screen), ["db", "old", "web"]);
        press(&mut screen, "b");
        assert_eq!(names(&mut screen), ["db", "web"]);
        press(&mut screen, "b/Wq");
        assert!(names(&mut screen).is_empty(), "q is a letter of the filter");
        screen.key(KeyEvent::from(KeyCode::Backspace));
        screen.key(KeyEvent::from(KeyCode::Enter));
        assert_eq!(names(&mut screen), ["web"]);
        assert_eq!(screen.key(KeyEvent::from(KeyCode::Esc)), Action::Stay);
        assert_eq!(names(&mut screen).len(), 3);
        assert_eq!(screen.key(KeyEvent::from(KeyCode::Esc)), Action::Quit);
        assert_eq!(screen.key(KeyEvent::from(KeyCode::Char('q'))), Action::Quit);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(screen.key(control_c), Action::Quit);
    }

    #[test]
    fn scrolling_stops_at_both_ends() {
        let mut screen = screen();
        drawn(&mut screen, 150, 6);
        screen.key(KeyEvent::from(KeyCode::End));
        assert!(drawn(&mut screen, 150, 6)[3].starts_with("db "));
        screen.key(KeyEvent::from(KeyCode::Down));
        assert!(drawn(&mut screen, 150, 6)[5].starts_with("2-3 of 3"));
        screen.key(KeyEvent::from(KeyCode::PageUp));
        assert!(drawn(&mut screen, 150, 6)[3].starts_with("web "));
        screen.key(KeyEvent::from(KeyCode::Up));
        assert!(drawn(&mut screen, 150, 6)[3].starts_with("web "));
    }

    #[test]
    fn an_error_stands_above_the_last_numbers() {
        let mut screen = screen();
        screen.set_error("no answer".to_owned());
        let lines = drawn(&mut screen, 150, 8);
        assert_eq!(lines[1], "the numbers are old: no answer");
        assert!(lines[3].starts_with("web "));
        let same = Arc::clone(screen.course.last());
        assert!(!screen.update(&same, &[]), "it is the same snapshot");
        assert_eq!(drawn(&mut screen, 150, 8)[1], "");
    }
}
