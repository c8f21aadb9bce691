//! What commands write to a terminal: numbers with their units, tables, histograms.

mod histogram;
mod number;
mod paragraph;
mod table;

use std::{
    borrow::Cow,
    env,
    ffi::OsStr,
    fmt::Display,
    io::{IsTerminal, Write as _, stderr, stdout},
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
    /// Standard output is a terminal that takes escape codes.
    pub stdout: bool,
    /// Standard error is a terminal that takes escape codes.
    pub stderr: bool,
    /// Colours are wanted, where there is a terminal: `NO_COLOR` is not set.
    pub color: bool,
    /// Columns of standard output; `None` where it is no terminal.
    pub width: Option<u16>,
}

impl Terminal {
    /// Looks at this process' standard streams and environment.
    #[must_use]
    pub fn detect() -> Self {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let codes = takes_codes(env::var_os("TERM").as_deref());
        let size = || ratatui::crossterm::terminal::size().ok();
        let width = stdout().is_terminal().then(size).flatten();
        Self {
            width: width
                .map(|(columns, _)| columns)
                .filter(|&columns| columns > 0),
            stdout: codes && stdout().is_terminal(),
            stderr: codes && stderr().is_terminal(),
            color: codes && !no_color,
        }
    }
}

/// Whether a terminal of this `TERM` takes escape codes: one without a name is one that shows them as text,
/// as is `dumb` (Emacs, serial consoles, logs of builds). It gets what a pipe gets.
fn takes_codes(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Writes a line to standard error. One that cannot be written is left out: what was asked for is not the
/// less done, and there is no other place to say it.
pub fn say(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
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
    fn a_dumb_terminal_and_one_without_a_name_take_no_codes() {
        for (term, takes) in [
            (None, false),
            (Some(""), false),
            (Some("dumb"), false),
            (Some("xterm-256color"), true),
            (Some("linux"), true),
        ] {
            assert_eq!(takes_codes(term.map(OsStr::new)), takes, "{term:?}");
        }
    }

    #[test]
    fn escape_sequences_in_names_are_disarmed() {
        assert_eq!(printable("web"), "web");
        assert_eq!(printable("a\x1b[2Jb\n"), "a?[2Jb?");
        assert_eq!(printable("a\u{202e}b"), "a?b");
    }
}
