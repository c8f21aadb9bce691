//! `ci`: the tests with the rules of continuous integration.

use std::process::ExitCode;

use anyhow::Result;

use crate::test;

/// Skips that are accepted on the machines of CI: a reason that contains one of these. Anything else
/// that skips itself there is a test that stopped testing.
pub(crate) const EXPECTED_SKIPS: &[&str] = &[
    // Only a boot parameter does that.
    "the kernel is not locked down",
    // A patch of Debian and Ubuntu; the emulated machines have it.
    "this kernel lets CAP_PERFMON sample",
    // Builders share their machines.
    "no CPU was idle",
    // Where there is no apt.
    "programs of Debian are not unpacked",
];

/// Run the tests as CI does: like `test`, but a skip that is not on the list in ci.rs fails.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: &Arguments) -> Result<ExitCode> {
    test::test(&test::Arguments::default(), Some(EXPECTED_SKIPS))
}
