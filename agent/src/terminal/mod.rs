//! What commands write to a terminal: numbers with their units, tables, histograms.

mod histogram;
mod number;
mod paragraph;
mod table;

use std::{
    borrow::Cow,
    env,
    io::{IsTerminal, stderr, stdout},
};

use crate::unprintable::is_unprintable;

pub use histogram::{Octave, Unit, octaves, render_histogram, render_summary};
pub use number::{bytes, cores, count, per_second, percent, seconds, size};
pub use paragraph::{Paragraphs, shortened};
pub use table::{Align, Table};

/// What stands for a number that was not measured.
pub const ABSENT: &str = "-";

/// What the process writes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminal {
    /// Standard output is a terminal.
    pub stdout: bool,
    /// Standard error is a terminal.
    pub stderr: bool,
    /// Colours are wanted: `NO_COLOR` is not set and `TERM` is not `dumb`.
    pub color: bool,
    /// Columns of standard output; `None` where it is no terminal.
    pub width: Option<u16>,
}

impl Terminal {
    /// Looks at this process' standard streams and environment.
    #[must_use]
    pub fn detect() -> Self {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|value| value == "dumb");
        let size = || ratatui::crossterm::terminal::size().ok();
        let width = stdout().is_terminal().then(size).flatten();
        Self {
            width: width
                .map(|(columns, _)| columns)
                .filter(|&columns| columns > 0),
            stdout: stdout().is_terminal(),
            stderr: stderr().is_terminal(),
            color: !no_color && !dumb,
        }
    }
}

/// The text without control characters and those that reorder or hide text. The name of a cgroup is chosen by
/// whoever makes it and could otherwise carry escape sequences to the terminal of whoever looks.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_unprintable) {
        Cow::Owned(text.replace(is_unprintable, "?"))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_in_names_are_disarmed() {
        assert_eq!(printable("web"), "web");
        assert_eq!(printable("a\x1b[2Jb\n"), "a?[2Jb?");
        assert_eq!(printable("a\u{202e}b"), "a?b");
    }
}
