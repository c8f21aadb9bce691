//! Tests that cannot run here.

use std::io::Write as _;

/// Reasons that are accepted, separated by `;`. Unset: all are.
const EXPECTED: &str = "CTRSCOPE_EXPECTED_SKIPS";

/// Says that a test does not run here, and why. The caller returns after it.
///
/// # Panics
///
/// Where `CTRSCOPE_EXPECTED_SKIPS` is set (in CI) and none of its entries is part of `reason`.
pub fn skip(reason: &str) {
    if let Ok(expected) = std::env::var(EXPECTED) {
        let accepted = expected
            .split(';')
            .any(|entry| !entry.is_empty() && reason.contains(entry));
        assert!(accepted, "this skip is not on the expected list: {reason}");
    }
    // Not `eprintln!`: the test runner swallows that of a test that passes.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: no argument, no failure.
    unsafe { libc::geteuid() == 0 }
}
