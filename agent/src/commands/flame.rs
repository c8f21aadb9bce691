//! `ctrscope flame`: records a profile and writes it to a file.

mod output;

use std::{
    io::{self, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::output::Output;
use super::{CommandError, Outcome};
use crate::{
    cli::FlameArgs,
    host::SAMPLE_RATE_SETTING,
    resolve::{display_name, resolve_container},
    source::{Cancel, ProfileRequest, RenderedProfile, Source, SourceError},
    terminal::{Terminal, count, say},
};

const REDRAW: Duration = Duration::from_millis(100);

pub(super) fn flame(
    arguments: &FlameArgs,
    source: &dyn Source,
    terminal: Terminal,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<Outcome, CommandError> {
    let name = match &arguments.container {
        Some(query) => {
            let snapshot = source.snapshot()?;
            let index = resolve_container(&snapshot, query)?;
            snapshot.containers.get(index).map_or_else(
                || query.clone(),
                |container| display_name(&container.identity),
            )
        }
        None => "host".to_owned(),
    };
    // What cannot be written is said before the recording, which would be lost.
    let path = arguments.output.as_deref();
    let output = Output::open(path, Path::new(""), &name, arguments.format)?;
    let request = ProfileRequest {
        container: arguments.container.clone(),
        profile_type: arguments.profile_type,
        duration: Duration::from_secs(u64::from(arguments.seconds)),
        frequency: arguments.frequency,
        split: arguments.split,
        inlined: arguments.inlined,
        format: arguments.format,
    };
    let profile = match record(source, &request, &name, terminal, cancel) {
        Err(SourceError::Cancelled) => {
            say("interrupted; nothing was written");
            return Ok(Outcome::Interrupted);
        }
        result => result?,
    };
    let is_part = cancel.is_cancelled() && profile.seconds < f64::from(arguments.seconds);
    if profile.samples == 0 && is_part {
        say(format_args!(
            "interrupted after {:.1} s without a sample; nothing was written",
            profile.seconds
        ));
        return Ok(Outcome::Interrupted);
    }
    if profile.samples == 0 {
        return Err(CommandError::Nothing(nothing_recorded(arguments, &profile)));
    }
    let place = output.write(&profile.body, out)?;
    // Standard output may be the profile itself.
    say(summary(arguments, &place, &profile, is_part));
    Ok(if is_part {
        Outcome::Interrupted
    } else {
        Outcome::Done
    })
}

/// What was written where, and what is less than was asked for.
fn summary(arguments: &FlameArgs, place: &str, profile: &RenderedProfile, is_part: bool) -> String {
    let (asked, frequency) = (arguments.frequency, profile.frequency);
    let seconds = if is_part {
        format!("{:.1} of {}", profile.seconds, arguments.seconds)
    } else {
        arguments.seconds.to_string()
    };
    let mut text = format!(
        "{place}: {} samples of {seconds} s at {frequency} Hz, {} lost",
        count(profile.samples),
        count(profile.lost)
    );
    if frequency < asked {
        text.push_str(&format!(
            "; {SAMPLE_RATE_SETTING} allows {frequency} Hz and not the {asked} asked for"
        ));
    }
    if is_part {
        text.push_str("; interrupted, so this is a part of what was asked for");
    }
    text
}

/// Records while a bar on standard error shows how far it is. An interrupt ends it with what it has so far.
fn record(
    source: &dyn Source,
    request: &ProfileRequest,
    name: &str,
    terminal: Terminal,
    cancel: &Cancel,
) -> Result<RenderedProfile, SourceError> {
    let bar = progress_bar(request.duration, name, terminal);
    let started = Instant::now();
    let end = Cancel::default();
    thread::scope(|scope| {
        let recording = thread::Builder::new()
            .name("flame".to_owned())
            .spawn_scoped(scope, || source.profile(request, &end))
            .map_err(|error| failed("start recording", error))?;
        while !recording.is_finished() {
            if cancel.is_cancelled() {
                end.stop();
            }
            let elapsed = started.elapsed();
            bar.set_position(elapsed.min(request.duration).as_millis() as u64);
            if elapsed > request.duration || end.is_stopped() {
                bar.set_message("resolving symbols");
            }
            thread::park_timeout(REDRAW);
        }
        bar.finish_and_clear();
        recording
            .join()
            .unwrap_or_else(|_| Err(failed("record", io::Error::other("the recorder panicked"))))
    })
}

fn failed(what: &str, source: io::Error) -> SourceError {
    SourceError::Failed {
        context: format!("cannot {what}"),
        source: Box::new(source),
    }
}

fn progress_bar(duration: Duration, name: &str, terminal: Terminal) -> ProgressBar {
    let target = if terminal.stderr {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(duration.as_millis() as u64), target);
    let style = ProgressStyle::with_template("recording {prefix} [{bar:40}] {percent}% {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    bar.set_style(style);
    bar.set_prefix(crate::terminal::printable(name).into_owned());
    bar
}

fn nothing_recorded(arguments: &FlameArgs, profile: &RenderedProfile) -> String {
    let whose = arguments.container.as_deref().unwrap_or("the host");
    let mut message = format!(
        "no sample of {whose} in {} s at {} Hz, so there is no flame graph: ",
        arguments.seconds, profile.frequency
    );
    message.push_str(&if profile.lost > 0 {
        format!(
            "{} samples were lost; try a lower --frequency",
            count(profile.lost)
        )
    } else {
        "it may have been idle or waiting all that time (`ctrscope top` shows its cpu and what it \
         waits for), or too short on the CPU to be met; try --seconds 60 or --frequency 999"
            .to_owned()
    });
    message
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use super::*;
    use crate::{
        snapshot::{Container, Identity, Snapshot},
        source::{ProfileFormat, ProfileType, Split},
    };

    struct Recorder {
        samples: u64,
        frequency: u32,
        /// Whether it waits to be stopped.
        is_endless: bool,
    }

    impl Recorder {
        fn seconds(&self, cancel: &Cancel) -> f64 {
            if !self.is_endless {
                return 10.004;
            }
            while !cancel.is_stopped() {
                thread::yield_now();
            }
            2.54
        }
    }

    const RECORDER: Recorder = Recorder {
        samples: 3,
        frequency: 99,
        is_endless: false,
    };

    impl Source for Recorder {
        fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
            let identity = Identity {
                container: "web".to_owned(),
                ..Identity::default()
            };
            Ok(Arc::new(Snapshot {
                containers: vec![Container {
                    identity: Arc::new(identity),
                    ..Container::default()
                }],
                ..Snapshot::default()
            }))
        }

        fn profile(
            &self,
            request: &ProfileRequest,
            cancel: &Cancel,
        ) -> Result<RenderedProfile, SourceError> {
            assert_eq!(request.duration, Duration::from_secs(10));
            Ok(RenderedProfile {
                body: b"web;main 3\n".to_vec(),
                samples: self.samples,
                lost: 0,
                seconds: self.seconds(cancel),
                frequency: self.frequency,
            })
        }
    }

    fn arguments(output: Option<PathBuf>) -> FlameArgs {
        FlameArgs {
            container: Some("web".to_owned()),
            profile_type: ProfileType::Cpu,
            seconds: 10,
            frequency: 99,
            split: Split::Name,
            inlined: false,
            format: ProfileFormat::Folded,
            output,
        }
    }

    fn run(arguments: &FlameArgs, samples: u64, cancel: &Cancel) -> Result<Vec<u8>, CommandError> {
        let mut out = Vec::new();
        let terminal = Terminal::default();
        let recorder = Recorder {
            samples,
            ..RECORDER
        };
        flame(arguments, &recorder, terminal, cancel, &mut out).map(|_| out)
    }

    #[test]
    fn a_dash_writes_to_standard_output_and_a_file_is_overwritten() {
        let cancel = Cancel::default();
        let dash = arguments(Some(PathBuf::from("-")));
        assert_eq!(run(&dash, 3, &cancel).expect("recorded"), b"web;main 3\n");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.folded");
        std::fs::write(&path, "an older and longer profile").expect("writable");
        run(&arguments(Some(path.clone())), 3, &cancel).expect("recorded");
        assert_eq!(std::fs::read(path).expect("written"), b"web;main 3\n");
    }

    #[test]
    fn an_empty_profile_says_why_it_may_be() {
        let error = run(&arguments(None), 0, &Cancel::default()).expect_err("empty");
        let message = error.to_string();
        assert!(
            message.starts_with("no sample of web in 10 s at 99 Hz"),
            "{message}"
        );
        assert!(message.contains("idle"), "{message}");
    }

    /// It panics where it is asked to record.
    struct Unasked;
    impl Source for Unasked {
        fn snapshot(&self) -> Result<Arc<Snapshot>, SourceError> {
            RECORDER.snapshot()
        }

        fn profile(&self, _: &ProfileRequest, _: &Cancel) -> Result<RenderedProfile, SourceError> {
            panic!("it records");
        }
    }

    #[test]
    fn a_missing_folder_and_an_unknown_container_are_said_before_recording() {
        let cancel = Cancel::default();
        let missing = arguments(Some(PathBuf::from("/nonexistent/x.svg")));
        let terminal = Terminal::default();
        let error = flame(&missing, &Unasked, terminal, &cancel, &mut Vec::new());
        let error = error.expect_err("no folder");
        assert_eq!(error.to_string(), "cannot create /nonexistent/x.svg");
        let mut unknown = arguments(None);
        unknown.container = Some("wbe".to_owned());
        let error = run(&unknown, 3, &cancel).expect_err("unknown");
        assert_eq!(error.to_string(), "no container \"wbe\": did you mean web?");
    }

    #[test]
    fn an_interrupted_recording_writes_what_it_has() {
        let cancel = Cancel::default();
        cancel.cancel();
        let interrupted = |samples| {
            let recorder = Recorder {
                samples,
                is_endless: true,
                ..RECORDER
            };
            let dash = arguments(Some(PathBuf::from("-")));
            let mut out = Vec::new();
            let outcome = flame(&dash, &recorder, Terminal::default(), &cancel, &mut out);
            (outcome.expect("no error"), out)
        };
        let part = b"web;main 3\n".to_vec();
        assert_eq!(interrupted(3), (Outcome::Interrupted, part));
        assert_eq!(interrupted(0), (Outcome::Interrupted, Vec::new()));
    }

    #[test]
    fn the_last_line_says_what_is_less_than_was_asked_for() {
        let arguments = arguments(None);
        let profile = |seconds, frequency| RenderedProfile {
            body: Vec::new(),
            samples: 1200,
            lost: 0,
            seconds,
            frequency,
        };
        assert_eq!(
            summary(&arguments, "x.svg", &profile(10.004, 99), false),
            "x.svg: 1,200 samples of 10 s at 99 Hz, 0 lost"
        );
        assert_eq!(
            summary(&arguments, "x.svg", &profile(2.54, 60), true),
            "x.svg: 1,200 samples of 2.5 of 10 s at 60 Hz, 0 lost; \
             kernel.perf_event_max_sample_rate allows 60 Hz and not the 99 asked for; \
             interrupted, so this is a part of what was asked for"
        );
    }
}
