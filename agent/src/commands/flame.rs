//! `ctrscope flame`: records a profile and writes it to a file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{CommandError, Outcome};
use crate::{
    cli::FlameArgs,
    resolve::{display_name, resolve_container},
    source::{Cancel, ProfileFormat, ProfileRequest, RenderedProfile, Source, SourceError},
    terminal::{Terminal, count},
};

const REDRAW: Duration = Duration::from_millis(100);
/// Files of one name that are numbered before it gives up.
const MAX_NUMBERED: u32 = 10_000;
/// Letters of a container's name in a file's: a file name has 255 bytes.
const MAX_NAME_CHARS: usize = 120;

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
    require_folder(arguments.output.as_deref())?;
    let request = ProfileRequest {
        container: arguments.container.clone(),
        profile_type: arguments.profile_type,
        duration: Duration::from_secs(u64::from(arguments.seconds)),
        frequency: arguments.frequency,
        split: arguments.split,
        format: arguments.format,
    };
    let profile = match record(source, &request, &name, terminal, cancel) {
        Err(SourceError::Cancelled) => {
            eprintln!("interrupted; nothing was written");
            return Ok(Outcome::Interrupted);
        }
        result => result?,
    };
    if profile.samples == 0 {
        return Err(CommandError::Nothing(nothing_recorded(arguments, &profile)));
    }
    let place = write_profile(arguments, &name, &profile, out)?;
    // Standard output may be the profile itself.
    eprintln!(
        "{place}: {} samples of {} s at {} Hz, {} lost",
        count(profile.samples),
        arguments.seconds,
        arguments.frequency,
        count(profile.lost)
    );
    Ok(Outcome::Done)
}

/// Says before the recording, rather than after it, that there is nowhere to write.
fn require_folder(output: Option<&Path>) -> Result<(), CommandError> {
    let folder = output
        .filter(|path| *path != Path::new("-"))
        .and_then(Path::parent)
        .filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(CommandError::io(
            format!("write into {}", folder.display()),
            io::Error::new(io::ErrorKind::NotFound, "there is no such folder"),
        )),
        _ => Ok(()),
    }
}

/// Records while a bar on standard error shows how far it is.
fn record(
    source: &dyn Source,
    request: &ProfileRequest,
    name: &str,
    terminal: Terminal,
    cancel: &Cancel,
) -> Result<RenderedProfile, SourceError> {
    let bar = progress_bar(request.duration, name, terminal);
    let started = Instant::now();
    thread::scope(|scope| {
        let recording = thread::Builder::new()
            .name("flame".to_owned())
            .spawn_scoped(scope, || source.profile(request, cancel))
            .map_err(|error| failed("start recording", error))?;
        while !recording.is_finished() {
            let elapsed = started.elapsed();
            bar.set_position(elapsed.min(request.duration).as_millis() as u64);
            if elapsed > request.duration {
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
        arguments.seconds, arguments.frequency
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

/// Writes the profile and returns what to call the place.
fn write_profile(
    arguments: &FlameArgs,
    name: &str,
    profile: &RenderedProfile,
    out: &mut dyn Write,
) -> Result<String, CommandError> {
    match arguments.output.as_deref() {
        Some(path) if path == Path::new("-") => {
            out.write_all(&profile.body)
                .and_then(|()| out.flush())
                .map_err(CommandError::output)?;
            Ok("standard output".to_owned())
        }
        Some(path) => {
            let file = File::create(path)
                .map_err(|error| CommandError::io(format!("create {}", path.display()), error))?;
            fill(file, path, profile)
        }
        None => {
            let (file, path) = create_numbered(Path::new(""), name, arguments.format)?;
            fill(file, &path, profile)
        }
    }
}

fn fill(mut file: File, path: &Path, profile: &RenderedProfile) -> Result<String, CommandError> {
    file.write_all(&profile.body)
        .map_err(|error| CommandError::io(format!("write {}", path.display()), error))?;
    Ok(path.display().to_string())
}

/// Creates `flame-<name>.<extension>`, or `flame-<name>-2.<extension>` and so on if that exists.
fn create_numbered(
    folder: &Path,
    name: &str,
    format: ProfileFormat,
) -> Result<(File, PathBuf), CommandError> {
    let extension = format.extension();
    let name = file_name(name);
    let mut number = 1;
    loop {
        let suffix = if number == 1 {
            String::new()
        } else {
            format!("-{number}")
        };
        let path = folder.join(format!("flame-{name}{suffix}.{extension}"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NUMBERED => {
                number += 1;
            }
            Err(error) => {
                let action = format!("create {} (choose another with -o)", path.display());
                return Err(CommandError::io(action, error));
            }
        }
    }
}

/// A container's name as part of a file name: no folder, no control character, not too long.
fn file_name(name: &str) -> String {
    let name: String = name
        .trim_matches('/')
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .take(MAX_NAME_CHARS)
        .collect();
    if name.is_empty() {
        "container".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        snapshot::{Container, Identity, Snapshot},
        source::{ProfileType, Split},
    };

    struct Recorder(u64);

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
            if cancel.is_cancelled() {
                return Err(SourceError::Cancelled);
            }
            Ok(RenderedProfile {
                body: b"web;main 3\n".to_vec(),
                samples: self.0,
                lost: 0,
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
            format: ProfileFormat::Folded,
            output,
        }
    }

    fn run(arguments: &FlameArgs, samples: u64, cancel: &Cancel) -> Result<Vec<u8>, CommandError> {
        let mut out = Vec::new();
        let terminal = Terminal::default();
        flame(arguments, &Recorder(samples), terminal, cancel, &mut out).map(|_| out)
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
    fn a_default_file_never_overwrites() {
        let folder = tempfile::tempdir().expect("a folder");
        let names: Vec<String> = (0..3)
            .map(|_| {
                let (_, path) =
                    create_numbered(folder.path(), "shop/a/b", ProfileFormat::Svg).expect("a file");
                path.file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        assert_eq!(
            names,
            [
                "flame-shop-a-b.svg",
                "flame-shop-a-b-2.svg",
                "flame-shop-a-b-3.svg"
            ]
        );
        assert_eq!(file_name("/../x\n"), "..-x-");
        assert_eq!(file_name("/"), "container");
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

    #[test]
    fn a_missing_folder_and_an_unknown_container_are_said_before_recording() {
        let cancel = Cancel::default();
        let missing = arguments(Some(PathBuf::from("/nonexistent/x.svg")));
        let error = run(&missing, 3, &cancel).expect_err("no folder");
        assert_eq!(error.to_string(), "cannot write into /nonexistent");
        let mut unknown = arguments(None);
        unknown.container = Some("wbe".to_owned());
        let error = run(&unknown, 3, &cancel).expect_err("unknown");
        assert_eq!(error.to_string(), "no container \"wbe\": did you mean web?");
    }

    #[test]
    fn an_interrupted_recording_writes_nothing() {
        let cancel = Cancel::default();
        cancel.cancel();
        let mut out = Vec::new();
        let outcome = flame(
            &arguments(Some(PathBuf::from("-"))),
            &Recorder(3),
            Terminal::default(),
            &cancel,
            &mut out,
        );
        assert_eq!(outcome.expect("no error"), Outcome::Interrupted);
        assert!(out.is_empty());
    }
}
