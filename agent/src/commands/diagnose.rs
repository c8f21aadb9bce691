//! `ctrscope diagnose`: what holds containers back, with the evidence.

mod list;
mod page;

use std::io::Write;

use super::{
    CommandError, Outcome,
    windows::{Windows, json},
};
use crate::{
    cli::DiagnoseArgs,
    diagnosis::Diagnosis,
    source::{Cancel, DiagnosisRequest, Source},
    terminal::Terminal,
};

/// `is_local` says that this process measures, so that there is nothing before it began.
pub(super) fn diagnose(
    arguments: &DiagnoseArgs,
    source: &dyn Source,
    is_local: bool,
    terminal: Terminal,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<Outcome, CommandError> {
    let windows = Windows {
        window: arguments.window,
        is_local,
        is_watched: arguments.watch,
        is_json: arguments.json,
    };
    let (ended, last) = windows.write(
        |window| {
            source.diagnosis(&DiagnosisRequest {
                window,
                container: arguments.container.clone(),
            })
        },
        |diagnosis| diagnosis.seconds,
        |diagnosis| {
            if arguments.json {
                return json(diagnosis);
            }
            Ok(render(arguments, diagnosis, terminal))
        },
        (terminal, cancel),
        out,
    )?;
    Ok(last.map_or(ended, |diagnosis| outcome(&diagnosis)))
}

fn outcome(diagnosis: &Diagnosis) -> Outcome {
    let mut containers = diagnosis.containers.iter();
    if containers.any(|one| one.bottleneck.is_some()) {
        Outcome::Bottleneck
    } else {
        Outcome::Done
    }
}

fn render(arguments: &DiagnoseArgs, diagnosis: &Diagnosis, terminal: Terminal) -> String {
    if arguments.host {
        return page::host(diagnosis, terminal);
    }
    if arguments.container.is_none() {
        return list::render(diagnosis, arguments.all, terminal);
    }
    diagnosis
        .containers
        .iter()
        .map(|one| page::container(diagnosis, one, arguments, terminal))
        .collect()
}

#[cfg(test)]
mod tests;
