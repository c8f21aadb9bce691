//! `ctrscope diagnose`: what holds containers back, with the evidence.

mod list;
mod page;

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{CommandError, Outcome, interrupt::wait_until};
use crate::{
    cli::DiagnoseArgs,
    diagnosis::Diagnosis,
    source::{Cancel, DiagnosisRequest, Source, SourceError},
    terminal::{Terminal, say},
};

/// Window where this process measures and none is given.
const LOCAL_WINDOW: Duration = Duration::from_secs(10);
/// Part of a window from which it is whole: readings are seconds apart.
const WHOLE: f64 = 0.9;
/// Time between two diagnoses of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two questions while there is no window yet.
const RETRY: Duration = Duration::from_millis(500);
/// Longest time that a daemon which has just started is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// `is_local` says that this process measures, so that there is nothing before it began.
pub(super) fn diagnose(
    arguments: &DiagnoseArgs,
    source: &dyn Source,
    is_local: bool,
    terminal: Terminal,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<Outcome, CommandError> {
    let window = match arguments.window {
        None if is_local => Some(LOCAL_WINDOW),
        given => given,
    };
    let request = DiagnosisRequest {
        window,
        container: arguments.container.clone(),
    };
    let whole = window.filter(|_| is_local);
    let mut is_first = true;
    loop {
        let Some(diagnosis) = next(source, &request, whole, cancel)? else {
            return Ok(if is_first {
                Outcome::Interrupted
            } else {
                Outcome::Done
            });
        };
        let text = if arguments.json {
            json(&diagnosis)?
        } else {
            // A terminal shows the last one alone.
            let start = if arguments.watch && terminal.stdout {
                "\x1b[H\x1b[2J"
            } else if is_first {
                ""
            } else {
                "\n"
            };
            format!("{start}{}", render(arguments, &diagnosis, terminal))
        };
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(CommandError::output)?;
        if !arguments.watch {
            return Ok(outcome(&diagnosis));
        }
        is_first = false;
        wait_until(Instant::now() + WATCH_INTERVAL, cancel);
        if cancel.is_cancelled() {
            // It is how it is meant to end.
            return Ok(Outcome::Done);
        }
    }
}

fn outcome(diagnosis: &Diagnosis) -> Outcome {
    let mut containers = diagnosis.containers.iter();
    if containers.any(|one| one.bottleneck.is_some()) {
        Outcome::Bottleneck
    } else {
        Outcome::Done
    }
}

fn json(diagnosis: &Diagnosis) -> Result<String, CommandError> {
    serde_json::to_string(diagnosis)
        .map(|json| format!("{json}\n"))
        .map_err(|error| CommandError::output(error.into()))
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

/// The next diagnosis; of a window that is whole where that is wanted, and `None` where it was cancelled.
fn next(
    source: &dyn Source,
    request: &DiagnosisRequest,
    whole: Option<Duration>,
    cancel: &Cancel,
) -> Result<Option<Arc<Diagnosis>>, CommandError> {
    let began = Instant::now();
    let mut is_announced = false;
    loop {
        match source.diagnosis(request) {
            Ok(diagnosis) => {
                let least = whole.map_or(0.0, |whole| whole.as_secs_f64() * WHOLE);
                if diagnosis.seconds >= least {
                    return Ok(Some(diagnosis));
                }
            }
            Err(SourceError::NotReady(_))
                if began.elapsed() < PATIENCE + whole.unwrap_or_default() => {}
            Err(error) => return Err(error.into()),
        }
        if !is_announced && let Some(whole) = whole {
            say(format_args!("Measuring for {} s...", whole.as_secs()));
            is_announced = true;
        }
        wait_until(Instant::now() + RETRY, cancel);
        if cancel.is_cancelled() {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests;
