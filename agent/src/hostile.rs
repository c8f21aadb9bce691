//! Input that nobody would write, for the property tests of what reads text and bytes from outside.

use proptest::{prelude::*, sample::Index, test_runner::Config};

/// How a property is tested: so many inputs, and nothing written into the repository where it fails.
pub(crate) fn cases(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

/// What is written well, with up to four of its bytes changed, cut somewhere, or whole.
pub(crate) fn damaged(good: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<Index>(), any::<u8>()), 0..=4);
    (good, damage, prop::option::of(any::<Index>())).prop_map(|(mut bytes, damage, cut)| {
        for (at, value) in damage {
            if let Some(byte) = bytes.len().checked_sub(1).map(|last| at.index(last + 1)) {
                bytes[byte] = value;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes
    })
}
