//! `ctrscope top`: what each container gets and what it waits for.

mod rows;
mod screen;

use std::{
    io::Write,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use ratatui::crossterm::event;

use self::{
    rows::{Row, render, rows, sort},
    screen::{Action, Screen},
};
use super::{CommandError, Outcome, interrupt::wait_until};
use crate::{
    cli::TopArgs,
    diagnosis::ContainerStanding,
    snapshot::{Course, Snapshot},
    source::{Cancel, Source, SourceError},
    terminal::Terminal,
};

/// Time that a key waits at most to be seen.
const KEY_POLL: Duration = Duration::from_millis(100);

pub(super) fn top(
    arguments: &TopArgs,
    source: &dyn Source,
    terminal: Terminal,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<Outcome, CommandError> {
    if terminal.stdout && !arguments.json {
        live(arguments, source, terminal, cancel)
    } else {
        plain(arguments, source, cancel, out)
    }
}

/// Tables one after the other, for pipes and files.
fn plain(
    arguments: &TopArgs,
    source: &dyn Source,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<Outcome, CommandError> {
    let mut course = Course::new(source.snapshot()?);
    let tables = arguments.count.unwrap_or(1);
    let mut printed = 0;
    while printed < tables {
        wait_until(Instant::now() + arguments.interval, cancel);
        if cancel.is_cancelled() {
            return Ok(Outcome::Interrupted);
        }
        let snapshot = source.snapshot()?;
        let Some(rates) = course.follow(&snapshot) else {
            // The source gave the same snapshot again; the next one will have rates.
            continue;
        };
        let mut rows = rows(&snapshot, &rates, &standing(source));
        if arguments.busy {
            rows.retain(Row::is_busy);
        }
        let filter = arguments.filter.to_lowercase();
        rows.retain(|row| row.has(&filter));
        sort(&mut rows, arguments.sort);
        let text = if arguments.json {
            let json =
                serde_json::to_string(&rows).map_err(|error| CommandError::output(error.into()))?;
            format!("{json}\n")
        } else {
            let separator = if printed > 0 { "\n" } else { "" };
            format!("{separator}{}", render(&rows))
        };
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(CommandError::output)?;
        printed += 1;
    }
    Ok(Outcome::Done)
}

/// The verdicts that stand. A table without them is a table: an older daemon knows none.
fn standing(source: &dyn Source) -> Arc<Vec<ContainerStanding>> {
    source.standing().unwrap_or_else(|error| {
        tracing::debug!(%error, "no verdicts");
        Arc::default()
    })
}

type Answer = Result<(Arc<Snapshot>, Arc<Vec<ContainerStanding>>), SourceError>;

/// The table that has the terminal to itself.
fn live(
    arguments: &TopArgs,
    source: &dyn Source,
    terminal: Terminal,
    cancel: &Cancel,
) -> Result<Outcome, CommandError> {
    // What fails at once fails before the screen is taken.
    let first = source.snapshot()?;
    let mut screen = Screen::new(arguments, terminal.color, first);
    // The collecting thread ends with the screen, and not the other way round.
    let done = Cancel::default();
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1);
        let collecting = thread::Builder::new()
            .name("top".to_owned())
            .spawn_scoped(scope, || collect(source, arguments.interval, &done, sender));
        if let Err(error) = collecting {
            return Err(CommandError::io("start collecting", error));
        }
        let outcome = show(&mut screen, arguments, &receiver, cancel);
        done.cancel();
        // A collector that waits for room in the channel must not wait for ever.
        drop(receiver);
        outcome
    })
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the channel closes when the thread ends"
)]
fn collect(
    source: &dyn Source,
    interval: Duration,
    done: &Cancel,
    sender: mpsc::SyncSender<Answer>,
) {
    while !done.is_cancelled() {
        wait_until(Instant::now() + interval, done);
        if done.is_cancelled() {
            return;
        }
        let answer = source
            .snapshot()
            .map(|snapshot| (snapshot, standing(source)));
        if sender.send(answer).is_err() {
            return;
        }
    }
}

fn show(
    screen: &mut Screen,
    arguments: &TopArgs,
    receiver: &mpsc::Receiver<Answer>,
    cancel: &Cancel,
) -> Result<Outcome, CommandError> {
    let failed = |error| CommandError::io("use the terminal", error);
    // Sets a panic hook that gives the terminal back, too.
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let _restore = Restore;
    let mut shown = 0;
    loop {
        loop {
            match receiver.try_recv() {
                Ok(Ok((snapshot, standing))) => {
                    if screen.update(&snapshot, &standing) {
                        shown += 1;
                    }
                }
                // The table stays, with the reason above it: a daemon may come back.
                Ok(Err(error)) => screen.set_error(crate::error_chain::error_chain(&error)),
                Err(_) => break,
            }
        }
        terminal.draw(|frame| screen.draw(frame)).map_err(failed)?;
        if arguments.count.is_some_and(|count| shown >= count) {
            return Ok(Outcome::Done);
        }
        if cancel.is_cancelled() {
            return Ok(Outcome::Done);
        }
        if event::poll(KEY_POLL).map_err(failed)?
            && let event::Event::Key(key) = event::read().map_err(failed)?
            && screen.key(key) == Action::Quit
        {
            return Ok(Outcome::Done);
        }
    }
}

/// Gives the terminal back, whatever happens.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        cli::SortKey,
        source::{ProfileRequest, RenderedProfile},
    };

    /// Plays snapshots one after the other and repeats the last.
    struct Played(Mutex<Vec<Snapshot>>);

    impl Source for Played {
        fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
            let mut snapshots = self.0.lock().expect("not poisoned");
            let next = snapshots.first().cloned().unwrap_or_default();
            if snapshots.len() > 1 {
                snapshots.remove(0);
            }
            Ok(Arc::new(next))
        }

        fn standing(&self) -> Result<Arc<Vec<ContainerStanding>>, SourceError> {
            Ok(Arc::new(rows::fixture::standing()))
        }

        fn profile(&self, _: &ProfileRequest, _: &Cancel) -> Result<RenderedProfile, SourceError> {
            Err(SourceError::Cancelled)
        }
    }

    fn arguments() -> TopArgs {
        TopArgs {
            interval: Duration::from_millis(5),
            count: None,
            sort: SortKey::Cpu,
            busy: false,
            filter: String::new(),
            json: false,
        }
    }

    fn printed(arguments: &TopArgs) -> String {
        let (earlier, later) = rows::fixture::two_snapshots();
        // The same snapshot twice must not print a table without rates.
        let source = Played(Mutex::new(vec![earlier.clone(), earlier, later]));
        let mut out = Vec::new();
        let terminal = Terminal::default();
        top(arguments, &source, terminal, &Cancel::default(), &mut out).expect("it runs");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn without_a_terminal_one_table_is_printed() {
        let text = printed(&arguments());
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(
            text.lines()
                .nth(1)
                .is_some_and(|line| line.starts_with("web ")),
            "{text}"
        );
    }

    #[test]
    fn busy_hides_the_idle_and_json_is_one_array_a_line() {
        let text = printed(&TopArgs {
            busy: true,
            json: true,
            ..arguments()
        });
        let json: serde_json::Value = serde_json::from_str(text.trim_end()).expect("JSON");
        assert_eq!(json.as_array().map(Vec::len), Some(2));
        assert_eq!(json[0]["name"], "web");
        assert_eq!(json[0]["cpu_cores"], 0.75);
        assert_eq!(json[0]["cpu_pressure_ratio"], serde_json::Value::Null);
        assert_eq!(json[0]["verdict"], "cap_throttled");
        assert_eq!(json[1]["verdict"], serde_json::Value::Null);
    }

    #[test]
    fn a_filter_leaves_the_names_that_have_it() {
        let text = printed(&TopArgs {
            filter: "WE".to_owned(),
            ..arguments()
        });
        let names: Vec<_> = text
            .lines()
            .skip(1)
            .map(|line| line.split(' ').next())
            .collect();
        assert_eq!(names, [Some("web")]);
    }

    #[test]
    fn an_interrupt_ends_the_wait() {
        let cancel = Cancel::default();
        cancel.cancel();
        let (earlier, _) = rows::fixture::two_snapshots();
        let source = Played(Mutex::new(vec![earlier]));
        let terminal = Terminal::default();
        let outcome = top(&arguments(), &source, terminal, &cancel, &mut Vec::new());
        assert_eq!(outcome.expect("it runs"), Outcome::Interrupted);
    }
}
