//! Configuration: flags over `CTRSCOPE_*` variables over a TOML file over [`Config::default`].
//!
//! Every key has one parser in `values`, which flags, variables and the file share: it checks the range and
//! says it. The help texts print [`Config::default`], so that what they say is what happens.

mod values;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::de::{DeTable, DeValue};
use tracing_subscriber::filter::LevelFilter;

pub use values::{
    format_duration, parse_duration, parse_interval, parse_listen, parse_log_format,
    parse_log_level, parse_max_containers, parse_path, parse_retention, parse_server,
};

use crate::nearest::nearest;

/// The file that is read, if it exists, where `--config` names none.
pub const DEFAULT_FILE: &str = "/etc/ctrscope/config.toml";

/// Every key of the file.
const KEYS: [&str; 11] = [
    "address_file",
    "btf",
    "cgroup_root",
    "interval",
    "listen",
    "log_format",
    "log_level",
    "max_containers",
    "proc_root",
    "retention",
    "server",
];

/// What ctrscope was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Daemon that a command asks, `host:port`.
    pub server: String,
    /// Never ask a daemon (flag only).
    pub local: bool,
    /// Address that the daemon serves on.
    pub listen: SocketAddr,
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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: "127.0.0.1:9464".to_owned(),
            local: false,
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            address_file: None,
            retention: Duration::from_secs(300),
            max_containers: 1000,
            interval: Duration::from_secs(5),
            log_level: None,
            log_format: LogFormat::Text,
            btf: None,
            cgroup_root: PathBuf::from("/sys/fs/cgroup"),
            proc_root: PathBuf::from("/proc"),
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
        let line_at = |offset: usize| {
            let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
            1 + before.iter().filter(|&&byte| byte == b'\n').count()
        };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: line_at(error.span().map_or(0, |span| span.start)),
            message: error.message().trim().replace('\n', ", "),
        })?;
        let mut config = Self::default();
        for (key, value) in table.get_ref() {
            let name: &str = key.get_ref();
            if !KEYS.contains(&name) {
                let hint = match nearest(name, KEYS, 1).as_slice() {
                    [near, ..] => format!("did you mean {near:?}?"),
                    [] => format!("the keys are {}", KEYS.join(", ")),
                };
                return Err(ConfigError::UnknownKey {
                    path: path.to_owned(),
                    line: line_at(key.span().start),
                    key: name.to_owned(),
                    hint,
                });
            }
            config
                .set(name, value.get_ref())
                .map_err(|message| ConfigError::BadValue {
                    path: path.to_owned(),
                    line: line_at(value.span().start),
                    key: name.to_owned(),
                    message,
                })?;
        }
        Ok(config)
    }

    fn set(&mut self, key: &str, value: &DeValue<'_>) -> Result<(), String> {
        if key == "max_containers" {
            let Some(number) = value.as_integer() else {
                return Err(format!("must be an integer, not {}", type_name(value)));
            };
            self.max_containers = parse_max_containers(&number.to_string())?;
            return Ok(());
        }
        let Some(text) = value.as_str() else {
            return Err(format!("must be a string, not {}", type_name(value)));
        };
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
            _ => return Err("is not a key".to_owned()),
        }
        Ok(())
    }
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
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("c.toml"), text)
    }

    fn message(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(parse("").expect("empty"), Config::default());
        assert_eq!(parse("# nothing\n\n").expect("comment"), Config::default());
    }

    #[test]
    fn one_key_changes_one_value() {
        let config = parse("retention = \"30s\"").expect("minimal");
        assert_eq!(config.retention, Duration::from_secs(30));
        assert_eq!(
            config,
            Config {
                retention: Duration::from_secs(30),
                ..Config::default()
            }
        );
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            server = "http://[::1]:9000/"
            listen = "0.0.0.0:0"
            address_file = "/run/a"
            retention = "1h"
            max_containers = 32_000
            interval = "1500ms"
            log_level = "debug"
            log_format = "json"
            btf = "/boot/btf"
            cgroup_root = "/host/sys/fs/cgroup"
            proc_root = "/host/proc"
        "#;
        let full = Config {
            server: "[::1]:9000".to_owned(),
            local: false,
            listen: "0.0.0.0:0".parse().expect("an address"),
            address_file: Some(PathBuf::from("/run/a")),
            retention: Duration::from_secs(3600),
            max_containers: 32_000,
            interval: Duration::from_millis(1500),
            log_level: Some(LevelFilter::DEBUG),
            log_format: LogFormat::Json,
            btf: Some(PathBuf::from("/boot/btf")),
            cgroup_root: PathBuf::from("/host/sys/fs/cgroup"),
            proc_root: PathBuf::from("/host/proc"),
        };
        assert_eq!(parse(text).expect("full"), full);
        assert!(KEYS.iter().all(|key| text.contains(key)));
    }

    #[test]
    fn a_bad_value_names_line_key_and_range() {
        for (text, expected) in [
            (
                "\nmax_containers = 0",
                "c.toml:2: max_containers must be a number from 1 to 32000, not 0",
            ),
            (
                "max_containers = 32001",
                "c.toml:1: max_containers must be a number from 1 to 32000, not 32001",
            ),
            (
                "max_containers = \"9\"",
                "c.toml:1: max_containers must be an integer, not a string",
            ),
            (
                "retention = \"25h\"",
                "c.toml:1: retention must be from 0s to 24h, not 25h",
            ),
            (
                "retention = \"5\"",
                "c.toml:1: retention must be a duration such as 250ms, 30s, 5m or 2h, not \"5\"",
            ),
            (
                "interval = \"250ms\"",
                "c.toml:1: interval must be from 1s to 5m, not 250ms",
            ),
            (
                "interval = 5",
                "c.toml:1: interval must be a string, not an integer",
            ),
            (
                "log_level = \"loud\"",
                "c.toml:1: log_level must be off, error, warn, info, debug or trace, not \"loud\"",
            ),
            (
                "log_format = \"xml\"",
                "c.toml:1: log_format must be text or json, not \"xml\"",
            ),
            ("btf = \"\"", "c.toml:1: btf must be a path, not empty"),
            (
                "cgroup_root = []",
                "c.toml:1: cgroup_root must be a string, not an array",
            ),
        ] {
            assert_eq!(message(text), expected);
        }
        assert!(message("listen = \"9464\"").contains("listen must be an IP address and a port"));
        for server in ["x", "https://x:1", "x:0", ":9464", "::1:9464", "a b:1"] {
            let text = format!("server = {server:?}");
            assert!(
                message(&text).contains("server must be host:port"),
                "{server}"
            );
        }
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_key() {
        assert_eq!(
            message("listen = \"0.0.0.0:1\"\nretenton = \"5m\"\n"),
            "c.toml:2: unknown key \"retenton\"; did you mean \"retention\"?"
        );
        assert!(
            message("[collectors]\nx = 1").starts_with(
                "c.toml:1: unknown key \"collectors\"; the keys are address_file, btf"
            )
        );
    }

    #[test]
    fn broken_toml_names_its_line() {
        assert!(
            message("listen = \"0.0.0.0:1\"\nretention =\n").starts_with("c.toml:2: not valid")
        );
        assert!(message("btf = \"a\"\nbtf = \"b\"\n").starts_with("c.toml:2: not valid"));
    }

    #[test]
    fn a_named_file_must_exist() {
        let error = Config::read(Some(Path::new("/nonexistent/c.toml"))).expect_err("missing");
        assert_eq!(
            error.to_string(),
            "cannot read the configuration file /nonexistent/c.toml"
        );
    }
}
