//! What reads text and bytes from outside, one function over bytes for each: fuzz targets.
//!
//! A target calls the parsers of one file, message or name, and panics where what they promise does not
//! hold. The functions stand beside the parsers, one file a subject; [`targets`] has them all. Two run them:
//! the unit test of this module, over the seeds in `agent/fixtures/fuzz/NAME/` and what little damage makes
//! of each, and `cargo xtask fuzz`, which lets libFuzzer look for more.

use std::borrow::Cow;

#[cfg(test)]
mod tests;

/// A parser under any input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it reads; also the folder of its seeds.
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub run: fn(&[u8]),
}

impl Target {
    pub(crate) const fn new(name: &'static str, run: fn(&[u8])) -> Self {
        Self { name, run }
    }
}

/// The targets by subject.
const SUBJECTS: [&[Target]; 9] = [
    crate::cgroup::fuzz::TARGETS,
    crate::host::fuzz::TARGETS,
    crate::runtime::fuzz::CRI,
    crate::runtime::fuzz::DOCKER,
    crate::runtime::fuzz::OCI,
    crate::profile::fuzz::TARGETS,
    crate::bpf::fuzz::TARGETS,
    crate::config::fuzz::TARGETS,
    crate::export::fuzz::TARGETS,
];

/// All targets.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    SUBJECTS.into_iter().flatten()
}

/// Bytes as the text that a parser of text gets.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The parts of an input that are divided by a zero byte, as texts; empty where there are fewer.
pub(crate) fn texts<const N: usize>(bytes: &[u8]) -> [Cow<'_, str>; N] {
    let mut parts = bytes.splitn(N, |&byte| byte == 0);
    std::array::from_fn(|_| text(parts.next().unwrap_or_default()))
}
