//! Answers that are of a window: asked for until there is one, and again and again where it is watched.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{CommandError, Outcome, interrupt::wait_until};
use crate::{
    source::{Cancel, SourceError},
    terminal::{Terminal, say},
};

/// Window where this process measures and none is given.
const LOCAL_WINDOW: Duration = Duration::from_secs(10);
/// Part of a window from which it is whole: readings are seconds apart.
const WHOLE: f64 = 0.9;
/// Time between two answers of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two questions while there is no window yet.
const RETRY: Duration = Duration::from_millis(500);
/// Longest time that a daemon which has just started is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is asked for.
pub(super) struct Windows {
    /// Length of the window, where one is given.
    pub(super) window: Option<Duration>,
    /// This process measures, so that there is nothing before it began.
    pub(super) is_local: bool,
    /// Again and again.
    pub(super) is_watched: bool,
    /// Each answer is a line for a program.
    pub(super) is_json: bool,
}

impl Windows {
    fn window(&self) -> Option<Duration> {
        self.window.or(self.is_local.then_some(LOCAL_WINDOW))
    }

    /// Writes what there is to say of each answer; `seconds` is the length of its window. Gives the answer, if one
    /// alone was wanted, and how it ended.
    pub(super) fn write<T>(
        &self,
        ask: impl Fn(Option<Duration>) -> Result<Arc<T>, SourceError>,
        seconds: impl Fn(&T) -> f64,
        text: impl Fn(&T) -> Result<String, CommandError>,
        (terminal, cancel): (Terminal, &Cancel),
        out: &mut dyn Write,
    ) -> Result<(Outcome, Option<Arc<T>>), CommandError> {
        let mut is_first = true;
        loop {
            let Some(answer) = self.next(&ask, &seconds, cancel)? else {
                let outcome = if is_first {
                    Outcome::Interrupted
                } else {
                    Outcome::Done
                };
                return Ok((outcome, None));
            };
            // A terminal shows the last one alone.
            let start = if self.is_json {
                ""
            } else if self.is_watched && terminal.stdout {
                "\x1b[H\x1b[2J"
            } else if is_first {
                ""
            } else {
                "\n"
            };
            let text = text(&answer)?;
            out.write_all(format!("{start}{text}").as_bytes())
                .and_then(|()| out.flush())
                .map_err(CommandError::output)?;
            if !self.is_watched {
                return Ok((Outcome::Done, Some(answer)));
            }
            is_first = false;
            wait_until(Instant::now() + WATCH_INTERVAL, cancel);
            if cancel.is_cancelled() {
                // It is how it is meant to end.
                return Ok((Outcome::Done, None));
            }
        }
    }

    /// The next answer; of a window that is whole where this process measures, and `None` where it was cancelled.
    fn next<T>(
        &self,
        ask: impl Fn(Option<Duration>) -> Result<Arc<T>, SourceError>,
        seconds: impl Fn(&T) -> f64,
        cancel: &Cancel,
    ) -> Result<Option<Arc<T>>, CommandError> {
        let window = self.window();
        let whole = window.filter(|_| self.is_local);
        let began = Instant::now();
        let mut is_announced = false;
        loop {
            match ask(window) {
                Ok(answer) => {
                    let least = whole.map_or(0.0, |whole| whole.as_secs_f64() * WHOLE);
                    if seconds(&answer) >= least {
                        return Ok(Some(answer));
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
}

/// An answer as a line of JSON.
pub(super) fn json(answer: &impl Serialize) -> Result<String, CommandError> {
    serde_json::to_string(answer)
        .map(|json| format!("{json}\n"))
        .map_err(|error| CommandError::output(error.into()))
}

/// The time of day in UTC.
pub(super) fn clock(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000 % 86_400;
    format!(
        "{:02}:{:02}:{:02} UTC",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}
