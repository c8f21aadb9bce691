//! Frame names that are safe to write: in folded text, in XML, on a terminal.
//!
//! Process names, symbols and file names come from containers and are hostile until cleaned. In
//! folded text `;` separates frames, a line ends a stack, the count follows the last space and a
//! second number before it means a differential profile; `_[k]` marks a kernel frame.

use crate::unprintable::is_unprintable;

/// Longest frame name, bytes.
pub const MAX_FRAME_BYTES: usize = 512;

/// Ends the name of a kernel frame; flame graph tools colour by it and don't show it.
pub const KERNEL_SUFFIX: &str = "_[k]";
/// Ends the name of a frame that a just-in-time compiler named in a perf map.
pub const JIT_SUFFIX: &str = "_[j]";

/// Shown for an address outside every mapping, and for an empty name.
pub(super) const UNKNOWN: &str = "[unknown]";

/// Makes a name from anywhere safe: at most [`MAX_FRAME_BYTES`] less the length of a suffix, no
/// separator, no control or invisible formatting character, no mark that only this agent may set.
#[must_use]
pub fn clean(name: &str) -> String {
    let limit = MAX_FRAME_BYTES - KERNEL_SUFFIX.len();
    let mut out = String::with_capacity(name.len().min(limit));
    for c in name.trim().chars() {
        let c = match c {
            ';' => ':',
            c if c.is_whitespace() => ' ',
            c if is_unprintable(c) => '?',
            c => c,
        };
        if out.len() + c.len_utf8() > limit - '…'.len_utf8() {
            out.push('…');
            break;
        }
        out.push(c);
    }
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
            assert!(cleaned.ends_with('…'));
        }
    }

    #[test]
    fn a_clean_name_stays_as_it_is() {
        for name in ["a;b 1", "fake_[k]", "# x", "é 5", &"x ".repeat(600)] {
            let once = clean(name);
            assert_eq!(clean(&once), once);
        }
    }
}
