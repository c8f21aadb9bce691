//! Configuration: flags over `CTRSCOPE_*` variables over a TOML file over [`Config::default`].
//!
//! Every key has one parser in `values`, which flags, variables and the file share: it checks the range and
//! says it. The help texts print [`Config::default`], so that what they say is what happens.

mod diagnosis;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod listen;
mod values;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::de::{DeTable, DeValue};
use tracing_subscriber::filter::LevelFilter;

pub use diagnosis::{DiagnosisConfig, parse_threshold};
pub use listen::ListenAddress;
pub use values::{
    format_duration, parse_duration, parse_interval, parse_listen, parse_log_format,
    parse_log_level, parse_max_containers, parse_path, parse_pattern, parse_retention,
    parse_runtime_socket, parse_server, parse_window,
};

use crate::{
    nearest::nearest,
    runtime::RuntimeOptions,
    selection::{MAX_PATTERNS, Pattern, Selection},
};

/// The file that is read, if it exists, where `--config` names none.
pub const DEFAULT_FILE: &str = "/etc/ctrscope/config.toml";

/// Every key of the file.
const KEYS: [&str; 16] = [
    "address_file",
    "btf",
    "cgroup_root",
    "diagnosis",
    "exclude",
    "host_root",
    "include",
    "interval",
    "listen",
    "log_format",
    "log_level",
    "max_containers",
    "proc_root",
    "retention",
    "runtime_sockets",
    "server",
];

/// What ctrscope was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Daemon that a command asks, `host:port`.
    pub server: String,
    /// Never ask a daemon (flag only).
    pub local: bool,
    /// Address that the daemon serves on.
    pub listen: ListenAddress,
    /// File that gets the bound address; `None` writes none.
    pub address_file: Option<PathBuf>,
    /// How long an exited container stays.
    pub retention: Duration,
    /// Containers with numbers of their own; the rest is summed.
    pub max_containers: u32,
    /// Time between two collections in the background.
    pub interval: Duration,
    /// Least severe message to log; `None` is `info` for the daemon and `warn` for a command.
    pub log_level: Option<LevelFilter>,
    /// How messages are written.
    pub log_format: LogFormat,
    /// BTF file of the running kernel; `None` is the kernel's own.
    pub btf: Option<PathBuf>,
    /// Where the cgroup file systems are mounted.
    pub cgroup_root: PathBuf,
    /// Where the host's proc file system is mounted.
    pub proc_root: PathBuf,
    /// Where the host's root is mounted; sockets of container runtimes are looked for below it.
    pub host_root: PathBuf,
    /// Which container runtimes are asked for names.
    pub runtime_sockets: RuntimeSockets,
    /// Which containers have numbers of their own.
    pub selection: Selection,
    /// How they are diagnosed.
    pub diagnosis: DiagnosisConfig,
}

/// Which container runtimes are asked for names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RuntimeSockets {
    /// Those whose sockets are at the usual places.
    #[default]
    Usual,
    /// None.
    None,
    /// Those at these sockets, and no others.
    Only(Vec<PathBuf>),
}

/// Most sockets that can be named.
const MAX_SOCKETS: usize = 16;

impl RuntimeSockets {
    /// What a list of values means: paths, or one of the words `auto` and `none`. A list without any
    /// value is `none`.
    ///
    /// # Errors
    ///
    /// A word beside other values, or too many.
    pub fn from_list(mut values: Vec<PathBuf>) -> Result<Self, String> {
        let is_word = |value: &PathBuf| value == Path::new(AUTO) || value == Path::new(NONE);
        if values.len() > MAX_SOCKETS {
            return Err(format!("must be at most {MAX_SOCKETS} paths"));
        }
        match values.as_mut_slice() {
            [] => Ok(Self::None),
            [one] if *one == Path::new(AUTO) => Ok(Self::Usual),
            [one] if *one == Path::new(NONE) => Ok(Self::None),
            several if several.iter().any(is_word) => {
                Err(format!("must be {AUTO} or {NONE} alone, or paths"))
            }
            _ => Ok(Self::Only(values)),
        }
    }
}

/// The usual places.
const AUTO: &str = "auto";
/// No runtime.
const NONE: &str = "none";

impl Default for Config {
    fn default() -> Self {
        Self {
            server: "127.0.0.1:9464".to_owned(),
            local: false,
            listen: ListenAddress::Socket(SocketAddr::from(([127, 0, 0, 1], 9464))),
            address_file: None,
            retention: Duration::from_secs(300),
            max_containers: 1000,
            interval: Duration::from_secs(5),
            log_level: None,
            log_format: LogFormat::Text,
            btf: None,
            cgroup_root: PathBuf::from("/sys/fs/cgroup"),
            proc_root: PathBuf::from("/proc"),
            host_root: PathBuf::from("/"),
            runtime_sockets: RuntimeSockets::Usual,
            selection: Selection::default(),
            diagnosis: DiagnosisConfig::default(),
        }
    }
}

/// How log messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for a reader.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The word for it in flags and files.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// What is wrong with the configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not TOML.
    #[error("{}:{line}: not valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// It has a key that means nothing.
    #[error("{}:{line}: unknown key {key:?}; {hint}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The nearest key, or all keys.
        hint: String,
    },
    /// Values of an option do not go together.
    #[error("{option} {message}")]
    BadOption {
        /// The option.
        option: &'static str,
        /// What it must be.
        message: String,
    },
    /// A value is of the wrong type or out of range.
    #[error("{}:{line}: {key} {message}", path.display())]
    BadValue {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What it must be, and what it is.
        message: String,
    },
}

impl Config {
    /// Reads a file over the defaults: `path`, which must exist, or else [`DEFAULT_FILE`] if that
    /// exists.
    ///
    /// # Errors
    ///
    /// Any [`ConfigError`].
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let is_default = path.is_none();
        let path = path.unwrap_or(Path::new(DEFAULT_FILE));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if is_default && error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Parses the text of a file; `path` is for the messages.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Syntax`], [`ConfigError::UnknownKey`], [`ConfigError::BadValue`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let lines = Lines { path, text };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: lines.at(error.span().map_or(0, |span| span.start)),
            message: error.message().trim().replace('\n', ", "),
        })?;
        let mut config = Self::default();
        for (key, value) in table.get_ref() {
            let name: &str = key.get_ref();
            if !KEYS.contains(&name) {
                return Err(unknown_key(&lines, key.span().start, name, &KEYS));
            }
            let start = value.span().start;
            if name == "diagnosis" {
                config.diagnosis.read(value.get_ref(), start, &lines)?;
                continue;
            }
            config
                .set(name, value.get_ref())
                .map_err(|message| lines.bad_value(start, name, message))?;
        }
        Ok(config)
    }

    /// Where runtimes are asked for names; `None` if none is.
    #[must_use]
    pub fn runtime_options(&self) -> Option<RuntimeOptions> {
        let (sockets, search) = match &self.runtime_sockets {
            RuntimeSockets::None => return None,
            RuntimeSockets::Usual => (Vec::new(), true),
            RuntimeSockets::Only(sockets) => (sockets.clone(), false),
        };
        Some(RuntimeOptions {
            host_root: self.host_root.clone(),
            sockets,
            search,
        })
    }

    fn set(&mut self, key: &str, value: &DeValue<'_>) -> Result<(), String> {
        match key {
            "include" => {
                self.selection.include = patterns(value)?;
                return Ok(());
            }
            "exclude" => {
                self.selection.exclude = patterns(value)?;
                return Ok(());
            }
            "runtime_sockets" => {
                let paths = if value.is_str() {
                    vec![string(value).and_then(parse_runtime_socket)?]
                } else {
                    list(value, parse_runtime_socket)?
                };
                self.runtime_sockets = RuntimeSockets::from_list(paths)?;
                return Ok(());
            }
            _ => {}
        }
        if key == "max_containers" {
            let Some(number) = value.as_integer() else {
                return Err(format!("must be an integer, not {}", type_name(value)));
            };
            self.max_containers = parse_max_containers(&number.to_string())?;
            return Ok(());
        }
        let text = string(value)?;
        match key {
            "server" => self.server = parse_server(text)?,
            "listen" => self.listen = parse_listen(text)?,
            "address_file" => self.address_file = Some(parse_path(text)?),
            "retention" => self.retention = parse_retention(text)?,
            "interval" => self.interval = parse_interval(text)?,
            "log_level" => self.log_level = Some(parse_log_level(text)?),
            "log_format" => self.log_format = parse_log_format(text)?,
            "btf" => self.btf = Some(parse_path(text)?),
            "cgroup_root" => self.cgroup_root = parse_path(text)?,
            "proc_root" => self.proc_root = parse_path(text)?,
            "host_root" => self.host_root = parse_path(text)?,
            _ => return Err("is not a key".to_owned()),
        }
        Ok(())
    }
}

/// A file that is read: where in it something is, for messages.
struct Lines<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Lines<'_> {
    /// The line of a byte, from 1.
    fn at(&self, offset: usize) -> usize {
        let bytes = self.text.as_bytes();
        let before = bytes.get(..offset).unwrap_or(bytes);
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    fn bad_value(&self, offset: usize, key: &str, message: String) -> ConfigError {
        ConfigError::BadValue {
            path: self.path.to_owned(),
            line: self.at(offset),
            key: key.to_owned(),
            message,
        }
    }
}

fn unknown_key(lines: &Lines<'_>, offset: usize, key: &str, keys: &[&str]) -> ConfigError {
    let hint = match nearest(key, keys.iter().copied(), 1).as_slice() {
        [near, ..] => format!("did you mean {near:?}?"),
        [] => format!("the keys are {}", keys.join(", ")),
    };
    ConfigError::UnknownKey {
        path: lines.path.to_owned(),
        line: lines.at(offset),
        key: key.to_owned(),
        hint,
    }
}

fn string<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    value
        .as_str()
        .ok_or_else(|| format!("must be a string, not {}", type_name(value)))
}

/// A list of strings, each read by the parser of its kind.
fn list<T>(
    value: &DeValue<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let Some(values) = value.as_array() else {
        return Err(format!("must be an array, not {}", type_name(value)));
    };
    values
        .iter()
        .map(|value| string(value.get_ref()).and_then(&parse))
        .collect()
}

fn patterns(value: &DeValue<'_>) -> Result<Vec<Pattern>, String> {
    check_patterns(list(value, parse_pattern)?)
}

/// Holds a list of patterns to its length.
///
/// # Errors
///
/// There are too many.
pub fn check_patterns(patterns: Vec<Pattern>) -> Result<Vec<Pattern>, String> {
    if patterns.len() > MAX_PATTERNS {
        return Err(format!("must be at most {MAX_PATTERNS} patterns"));
    }
    Ok(patterns)
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests;
