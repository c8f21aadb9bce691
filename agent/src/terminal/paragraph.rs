//! Text that is broken between words where a terminal ends.

use super::printable;

/// Narrowest text that is broken: below it a word stands on each line.
const LEAST_WIDTH: usize = 20;

/// Lines, written one paragraph after the other.
#[derive(Debug, Default)]
pub struct Paragraphs {
    text: String,
    width: Option<usize>,
    color: bool,
}

impl Paragraphs {
    /// Nothing yet. Without a width no line is broken, so that whoever reads it by program finds each
    /// sentence on one line.
    #[must_use]
    pub fn new(width: Option<u16>, color: bool) -> Self {
        Self {
            text: String::new(),
            width: width.map(usize::from),
            color,
        }
    }

    /// An empty line.
    pub fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A paragraph; its first line begins with `first`, and the others are as far to the right. Control
    /// characters in it are replaced.
    pub fn add(&mut self, first: &str, text: &str) {
        let first = printable(first);
        let indent = first.chars().count();
        let room = self.width.map_or(usize::MAX, |width| {
            width.saturating_sub(indent).max(LEAST_WIDTH)
        });
        let text = printable(text);
        let mut line = first.into_owned();
        let mut used = 0;
        for word in text.split_ascii_whitespace() {
            let length = word.chars().count();
            if used > 0 && used + 1 + length > room {
                self.push_line(&line);
                line = " ".repeat(indent);
                used = 0;
            }
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
        self.push_line(&line);
    }

    /// The same in a colour, by its ANSI code, where colours are wanted.
    pub fn add_colored(&mut self, code: &str, first: &str, text: &str) {
        let start = self.text.len();
        self.add(first, text);
        if self.color {
            let lines = self.text.split_off(start);
            for line in lines.lines() {
                self.text.push_str(&format!("\x1b[{code}m{line}\x1b[0m\n"));
            }
        }
    }

    /// Lines that are ready, each with its end.
    pub fn add_lines(&mut self, indent: &str, lines: &str) {
        for line in lines.lines() {
            self.push_line(&format!("{indent}{line}"));
        }
    }

    fn push_line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

/// The end of a text that is too long: of a name that is the more telling part.
#[must_use]
pub fn shortened(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most || most == 0 {
        return text.to_owned();
    }
    let kept: String = text.chars().skip(length - (most - 1)).collect();
    format!("…{kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_hang() {
        let mut text = Paragraphs::new(Some(30), false);
        text.add("  - ", "one two three four five six seven eight");
        text.blank();
        text.add("", "a-word-that-is-longer-than-the-whole-line and more");
        assert_eq!(
            text.into_text(),
            "  - one two three four five\n    six seven eight\n\n\
             a-word-that-is-longer-than-the-whole-line\nand more\n"
        );
    }

    #[test]
    fn without_a_width_a_paragraph_is_one_line_and_a_tiny_one_survives() {
        let mut text = Paragraphs::new(None, false);
        text.add("x: ", &"word ".repeat(100));
        assert_eq!(text.into_text().lines().count(), 1);
        let mut text = Paragraphs::new(Some(1), true);
        text.add_colored("31", "    ", "some words that do not fit\x1b[2J");
        let text = text.into_text();
        assert!(
            text.starts_with("\x1b[31m    some words that do"),
            "{text:?}"
        );
        assert!(!text.contains("\x1b[2J"));
    }

    #[test]
    fn a_name_that_is_too_long_keeps_its_end() {
        assert_eq!(shortened("shop/checkout-1/app", 9), "…ut-1/app");
        assert_eq!(shortened("app", 9), "app");
        assert_eq!(shortened("app", 0), "app");
    }
}
