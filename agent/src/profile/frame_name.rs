//! Frame names that are safe to write: in folded text, in XML, on a terminal.
//!
//! Process names, symbols and file names come from containers and are hostile until cleaned. In
//! folded text `;` separates frames, a line ends a stack, the count follows the last space and a
//! second number before it means a differential profile; `_[k]` marks a kernel frame.

use std::hash::{DefaultHasher, Hasher as _};

use crate::unprintable::is_unprintable;

/// Longest frame name, bytes.
pub const MAX_FRAME_BYTES: usize = 512;

/// Ends the name of a kernel frame; flame graph tools colour by it and don't show it.
pub const KERNEL_SUFFIX: &str = "_[k]";
/// Ends the name of a frame that a just-in-time compiler named in a perf map.
pub const JIT_SUFFIX: &str = "_[j]";
/// Ends the name of a function that a compiler has put into the one before it (the mark of
/// <https://github.com/brendangregg/FlameGraph>).
pub const INLINED_SUFFIX: &str = "_[i]";

/// Shown for an address outside every mapping, and for an empty name.
pub(super) const UNKNOWN: &str = "[unknown]";

/// Makes a name from anywhere safe: at most [`MAX_FRAME_BYTES`] less the length of a suffix, no
/// separator, no control or invisible formatting character, no mark that only this agent may set. A longer one is cut
/// in the middle, where it tells least, and eight digits there keep names apart that begin and end alike.
#[must_use]
pub fn clean(name: &str) -> String {
    let limit = MAX_FRAME_BYTES - KERNEL_SUFFIX.len();
    let name = name.trim();
    let mut out: String = if name.len() <= limit {
        name.chars().map(harmless).collect()
    } else {
        cut(name, limit)
    };
    if out.is_empty() {
        return UNKNOWN.to_owned();
    }
    // A last word that is a number would be read as a count.
    if let Some(space) = out.rfind(' ')
        && out[space + 1..]
            .bytes()
            .all(|b| b.is_ascii_digit() || b == b'.')
    {
        out.replace_range(space..=space, "_");
    }
    // A line that starts so is a comment.
    if out.starts_with("# ") {
        out.replace_range(1..2, "_");
    }
    if has_mark(&out) {
        out.pop();
        out.push(')');
        let open = out.len() - 3;
        out.replace_range(open..=open, "(");
    }
    out
}

/// A character, or one of the same or a smaller length where it could do harm.
fn harmless(c: char) -> char {
    match c {
        ';' => ':',
        c if c.is_whitespace() => ' ',
        c if is_unprintable(c) => '?',
        c => c,
    }
}

/// The beginning and the end of a name with a digest of the whole between them.
fn cut(name: &str, limit: usize) -> String {
    let mut digest = DefaultHasher::new();
    digest.write(name.as_bytes());
    let middle = format!("…{:08x}…", digest.finish() >> 32);
    let half = (limit - middle.len()) / 2;
    let mut left = half;
    let mut fits = |c: &char| {
        let fits = c.len_utf8() <= left;
        left = left.saturating_sub(c.len_utf8());
        fits
    };
    let head: String = name.chars().map(harmless).take_while(&mut fits).collect();
    left = half;
    let fits = |c: &char| {
        let fits = c.len_utf8() <= left;
        left = left.saturating_sub(c.len_utf8());
        fits
    };
    let mut tail: Vec<char> = name.chars().rev().map(harmless).take_while(fits).collect();
    tail.reverse();
    head + &middle + &String::from_iter(tail)
}

/// Whether a name ends like `_[k]`.
fn has_mark(name: &str) -> bool {
    matches!(name.as_bytes(), [.., b'_', b'[', letter, b']'] if letter.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_made_harmless() {
        for (name, expected) in [
            ("plain", "plain"),
            ("std::vec<a, b>::at(int)", "std::vec<a, b>::at(int)"),
            ("a;b", "a:b"),
            ("a\nroot;x 9", "a root:x_9"),
            ("name 12", "name_12"),
            ("name 1.5", "name_1.5"),
            ("# comment", "#_comment"),
            ("\u{1b}[31mred", "?[31mred"),
            ("a\u{202e}b\0", "a?b?"),
            ("  ", UNKNOWN),
            ("", UNKNOWN),
            ("fake_[k]", "fake_(k)"),
            ("_[j]", "_(j)"),
            ("_[i]", "_(i)"),
            ("array_[10]", "array_[10]"),
            ("<script>", "<script>"),
        ] {
            assert_eq!(clean(name), expected, "{name:?}");
        }
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        for name in ["x".repeat(5000), "é".repeat(5000), "𝄞".repeat(5000)] {
            let cleaned = clean(&name);
            assert!(cleaned.len() + KERNEL_SUFFIX.len() <= MAX_FRAME_BYTES);
            assert!(cleaned.len() > MAX_FRAME_BYTES - 20);
            assert_eq!(cleaned.matches('…').count(), 2);
            assert_eq!(cleaned.chars().next(), name.chars().next());
            assert_eq!(cleaned.chars().next_back(), name.chars().next());
        }
    }

    #[test]
    fn long_names_that_differ_in_the_middle_stay_apart() {
        let name = |middle: &str| format!("{}{middle}{}", "a".repeat(2000), "b".repeat(2000));
        assert_ne!(clean(&name("x")), clean(&name("y")));
        assert_eq!(clean(&name("x")), clean(&name("x")));
    }

    #[test]
    fn a_clean_name_stays_as_it_is() {
        for name in ["a;b 1", "fake_[k]", "# x", "é 5", &"x ".repeat(600)] {
            let once = clean(name);
            assert_eq!(clean(&once), once);
        }
    }
}
