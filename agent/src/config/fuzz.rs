//! Fuzz targets: the configuration file, and values of flags and variables.

use std::{path::Path, time::Duration};

use super::*;
use crate::fuzz::{Target, text};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("config_file", file),
    Target::new("config_value", value),
    Target::new("config_pattern", pattern),
];

/// A file gives a configuration within its ranges, or one line that says where it is wrong.
fn file(bytes: &[u8]) {
    let text = text(bytes);
    match Config::parse(Path::new("c.toml"), &text) {
        Ok(config) => {
            assert!((1..=32_000).contains(&config.max_containers));
            assert!(config.interval >= Duration::from_secs(1));
            assert!(config.diagnosis.window >= Duration::from_secs(1));
            assert!(config.selection.include.len() <= MAX_PATTERNS);
            let _ = config.runtime_options();
        }
        Err(
            ConfigError::Syntax { line, .. }
            | ConfigError::UnknownKey { line, .. }
            | ConfigError::BadValue { line, .. },
        ) => {
            let lines = 1 + text.bytes().filter(|&byte| byte == b'\n').count();
            assert!((1..=lines).contains(&line));
        }
        Err(other) => panic!("{other}"),
    }
}

/// Each kind of value; what is written of one is read as the same.
fn value(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(duration) = parse_duration(&text) {
        assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }
    assert!(
        parse_retention(&text).is_ok_and(|time| time <= Duration::from_secs(24 * 3600))
            || parse_retention(&text).is_err()
    );
    assert!(parse_interval(&text).map_or(true, |time| time <= Duration::from_secs(300)));
    assert!(parse_window(&text).map_or(true, |time| time.subsec_nanos() == 0));
    if let Ok(address) = parse_server(&text) {
        assert_eq!(parse_server(&address), Ok(address.clone()));
        assert!(!address.contains(char::is_whitespace));
    }
    if let Ok(address) = parse_listen(&text) {
        assert_eq!(parse_listen(&address.to_string()), Ok(address));
    }
    assert!(parse_max_containers(&text).map_or(true, |count| count > 0));
    if let Ok((key, value)) = parse_threshold(&text) {
        assert!(text.starts_with(&key) && value.is_finite());
    }
    let _ = (parse_log_level(&text), parse_log_format(&text));
    let _ = (parse_path(&text), parse_runtime_socket(&text));
}

/// A pattern is written as it is read.
fn pattern(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(pattern) = parse_pattern(&text) {
        assert_eq!(pattern.to_string(), *text);
    }
}
