//! `demo`: the agent and real containers that suffer in different ways, for half a minute.

use std::process::ExitCode;

use anyhow::Result;

/// x
#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: &Arguments) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
