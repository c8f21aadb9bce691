//! Where a profile is written: opened before the recording, so that what cannot be written is said before
//! it, and filled after it, so that an older file stays until there is something new.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::super::{CommandError, interrupt::goes_with_the_process};
use crate::source::ProfileFormat;

/// Files of one name that are numbered before it gives up.
const MAX_NUMBERED: u32 = 10_000;
/// Letters of a container's name in a file's: a file name has 255 bytes.
const MAX_NAME_CHARS: usize = 120;

/// Where a profile is written.
pub(super) enum Output {
    /// Standard output.
    Standard,
    /// A file that is open.
    File(OutputFile),
}

/// A file that is open for a profile. One that was made for it is removed where none is written.
pub(super) struct OutputFile {
    file: File,
    path: PathBuf,
    is_unused: bool,
}

impl Output {
    /// Opens the file at `path`, `-` for standard output; without a path one of the container's `name` in
    /// `folder`.
    pub(super) fn open(
        path: Option<&Path>,
        folder: &Path,
        name: &str,
        format: ProfileFormat,
    ) -> Result<Self, CommandError> {
        match path {
            Some(path) if path == Path::new("-") => Ok(Self::Standard),
            Some(path) => OutputFile::open(path).map(Self::kept_track_of),
            None => OutputFile::create_numbered(folder, name, format).map(Self::kept_track_of),
        }
    }

    fn kept_track_of(file: OutputFile) -> Self {
        if file.is_unused {
            goes_with_the_process(Some(file.path.clone()));
        }
        Self::File(file)
    }

    /// Writes the profile and returns what to call the place.
    pub(super) fn write(self, body: &[u8], out: &mut dyn Write) -> Result<String, CommandError> {
        match self {
            Self::Standard => {
                out.write_all(body)
                    .and_then(|()| out.flush())
                    .map_err(CommandError::output)?;
                Ok("standard output".to_owned())
            }
            Self::File(mut file) => {
                file.fill(body).map_err(|error| {
                    CommandError::io(format!("write {}", file.path.display()), error)
                })?;
                Ok(file.path.display().to_string())
            }
        }
    }
}

impl OutputFile {
    fn open(path: &Path) -> Result<Self, CommandError> {
        let mut options = OpenOptions::new();
        options.write(true);
        let (opened, is_unused) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A link to what is not there yet is there already.
                (options.create(true).truncate(false).open(path), false)
            }
            opened => (opened, true),
        };
        let file = opened
            .map_err(|error| CommandError::io(format!("create {}", path.display()), error))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            is_unused,
        })
    }

    /// Creates `flame-<name>.<extension>`, or `flame-<name>-2.<extension>` and so on if that exists.
    fn create_numbered(
        folder: &Path,
        name: &str,
        format: ProfileFormat,
    ) -> Result<Self, CommandError> {
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
                Ok(file) => {
                    return Ok(Self {
                        file,
                        path,
                        is_unused: true,
                    });
                }
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NUMBERED =>
                {
                    number += 1;
                }
                Err(error) => {
                    let action = format!("create {} (choose another with -o)", path.display());
                    return Err(CommandError::io(action, error));
                }
            }
        }
    }

    fn fill(&mut self, body: &[u8]) -> io::Result<()> {
        let is_regular = self.file.metadata()?.is_file();
        if is_regular {
            self.file.set_len(0)?;
        }
        self.file.write_all(body)?;
        if is_regular {
            // Some file systems find out late that there is no room.
            match self.file.sync_all() {
                Err(error) if is_refused(&error) => {}
                result => result?,
            }
        }
        self.is_unused = false;
        goes_with_the_process(None);
        Ok(())
    }
}

/// Whether a file system has no such call.
fn is_refused(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if self.is_unused {
            goes_with_the_process(None);
            let _ = fs::remove_file(&self.path);
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
    use super::*;

    fn opened(path: &Path) -> Result<Output, CommandError> {
        Output::open(Some(path), Path::new(""), "web", ProfileFormat::Svg)
    }

    #[test]
    fn a_default_file_never_overwrites() {
        let folder = tempfile::tempdir().expect("a folder");
        let names: Vec<String> = (0..3)
            .map(|_| {
                let output = Output::open(None, folder.path(), "shop/a/b", ProfileFormat::Svg);
                let place = output.expect("a file").write(b"x", &mut Vec::new());
                let place = PathBuf::from(place.expect("it is written"));
                let name = place.file_name().expect("a name");
                name.to_string_lossy().into_owned()
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
    fn an_older_file_stays_until_there_is_a_new_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.svg");
        fs::write(&path, "an older and longer profile").expect("writable");
        let output = opened(&path).expect("it can be written");
        let read = || fs::read_to_string(&path).expect("it is there");
        assert_eq!(read(), "an older and longer profile");
        drop(output);
        assert_eq!(read(), "an older and longer profile");
        let output = opened(&path).expect("it can be written");
        output
            .write(b"new", &mut Vec::new())
            .expect("it is written");
        assert_eq!(read(), "new");
    }

    #[test]
    fn a_file_that_was_made_for_nothing_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.svg");
        let output = opened(&path).expect("it can be written");
        assert!(path.exists());
        drop(output);
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_written_is_said_with_its_name() {
        for (path, message) in [
            ("/nonexistent/x.svg", "No such file or directory"),
            ("/proc", "Is a directory"),
        ] {
            let error = opened(Path::new(path)).err().expect(path);
            let text = crate::error_chain::error_chain(&error);
            assert!(
                text.starts_with(&format!("cannot create {path}: {message}")),
                "{text}"
            );
        }
        let full = opened(Path::new("/dev/full")).expect("it can be opened");
        let error = full.write(b"x", &mut Vec::new()).expect_err("it is full");
        let text = crate::error_chain::error_chain(&error);
        assert!(
            text.starts_with("cannot write /dev/full: No space left"),
            "{text}"
        );
    }
}
