//! C++ and Rust names as they were written, of bounded length.
//!
//! A mangled name is input of a container. Back references let a short one stand for a name of
//! exponential length, so the result is written into a buffer that refuses to grow.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

/// Longest mangled name that is looked at, bytes.
const MAX_MANGLED_BYTES: usize = 8 * 1024;
/// Longest result, bytes; what is longer is cut.
const MAX_DEMANGLED_BYTES: usize = 1024;
/// Deepest nesting of a C++ name.
const MAX_CPP_DEPTH: u32 = 64;

/// Demangles a symbol; returns it as it is when it is not mangled, or wrongly.
pub(super) fn demangle(name: &str) -> String {
    if name.len() > MAX_MANGLED_BYTES {
        return name.chars().take(MAX_DEMANGLED_BYTES).collect();
    }
    if let Ok(symbol) = rustc_demangle::try_demangle(name) {
        let mut out = Bounded::default();
        return match write!(out, "{symbol:#}") {
            Ok(()) => out.text,
            Err(fmt::Error) if out.full => out.text,
            Err(fmt::Error) => name.to_owned(),
        };
    }
    if !name.starts_with("_Z") && !name.starts_with("__Z") {
        return name.to_owned();
    }
    let parse = ParseOptions::default().recursion_limit(MAX_CPP_DEPTH);
    let options = DemangleOptions::new()
        .no_return_type()
        .recursion_limit(MAX_CPP_DEPTH);
    let Ok(symbol) = Symbol::new_with_options(name, &parse) else {
        return name.to_owned();
    };
    let mut out = Bounded::default();
    match symbol.structured_demangle(&mut out, &options) {
        Ok(()) => out.text,
        Err(fmt::Error) if out.full => out.text,
        Err(fmt::Error) => name.to_owned(),
    }
}

/// Text up to [`MAX_DEMANGLED_BYTES`], then an error, which ends the demangling.
#[derive(Default)]
struct Bounded {
    text: String,
    full: bool,
}

impl Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = MAX_DEMANGLED_BYTES - self.text.len();
        if s.len() <= room {
            self.text.push_str(s);
            return Ok(());
        }
        let end = (0..=room).rev().find(|&at| s.is_char_boundary(at));
        self.text.push_str(&s[..end.unwrap_or(0)]);
        self.full = true;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_demangled() {
        for (name, expected) in [
            ("main", "main"),
            ("_ZN3foo3barEi", "foo::bar(int)"),
            (
                "_ZNSt6vectorIiSaIiEE9push_backERKi",
                "std::vector<int, std::allocator<int> >::push_back(int const&)",
            ),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("_Znot mangled", "_Znot mangled"),
            ("_ZN", "_ZN"),
            ("", ""),
        ] {
            assert_eq!(demangle(name), expected, "{name:?}");
        }
    }

    #[test]
    fn a_name_that_expands_without_end_is_cut() {
        // `S0_` is `pair<int, int>`, and each one after it a pair of the one before: 2^32 names.
        let mut name = String::from("_Z1fSt4pairIiiE");
        for i in 0..32 {
            let digit = char::from_digit(i, 36).unwrap().to_ascii_uppercase();
            name.push_str(&format!("S_IS{digit}_S{digit}_E"));
        }
        assert_eq!(demangle(&name).len(), MAX_DEMANGLED_BYTES);
        assert!(demangle(&"_ZN1a".repeat(100_000)).len() <= MAX_MANGLED_BYTES);
        assert!(demangle(&format!("_Z1f{}i", "P".repeat(8000))).len() <= MAX_MANGLED_BYTES);
    }
}
