//! One parser for each kind of value: it checks the range and says it.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use tracing_subscriber::filter::LevelFilter;

use super::{ListenAddress, LogFormat};
use crate::{selection::Pattern, source::MAX_WINDOW_SECONDS};

const RETENTION: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
const MAX_CONTAINERS: RangeInclusive<u32> = 1..=32_000;

/// Parses the address of a daemon: `host:port`, an `http://` before it is dropped. What a daemon listens on
/// is where it is asked: without a host, or with that of all addresses, it is the one of this machine.
///
/// # Errors
///
/// A message that says what an address is.
pub fn parse_server(text: &str) -> Result<String, String> {
    if text.starts_with("https://") {
        return Err(format!(
            "must be host:port of a daemon, which serves plain http, not {text:?}"
        ));
    }
    let address = text.strip_prefix("http://").unwrap_or(text);
    let address = address.strip_suffix('/').unwrap_or(address);
    let is_host = |host: &str| {
        !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || ".-_[]:%".contains(c))
    };
    // `parse` takes a plus sign.
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    match address.rsplit_once(':') {
        Some((host, port))
            if is_host(host) && (!host.contains(':') || host.starts_with('[')) && is_port(port) =>
        {
            Ok(reachable(address))
        }
        Some(("", port)) if is_port(port) => Ok(format!("{}:{port}", Ipv4Addr::LOCALHOST)),
        _ => Err(format!(
            "must be host:port, for example 127.0.0.1:9464 or [::1]:9464, not {text:?}"
        )),
    }
}

/// The address with that of this machine in place of that of all addresses.
fn reachable(address: &str) -> String {
    match address.parse() {
        Ok(SocketAddr::V4(one)) if one.ip().is_unspecified() => {
            SocketAddr::from((Ipv4Addr::LOCALHOST, one.port())).to_string()
        }
        Ok(SocketAddr::V6(one)) if one.ip().is_unspecified() => {
            SocketAddr::from((Ipv6Addr::LOCALHOST, one.port())).to_string()
        }
        _ => address.to_owned(),
    }
}

/// Parses the address to serve on.
///
/// # Errors
///
/// A message that says what an address is.
pub fn parse_listen(text: &str) -> Result<ListenAddress, String> {
    text.parse()
}

/// Parses how long an exited container stays: 0s to 24h.
///
/// # Errors
///
/// A message with the range.
pub fn parse_retention(text: &str) -> Result<Duration, String> {
    duration_within(text, RETENTION)
}

/// Parses the time between two collections: 1s to 5m.
///
/// # Errors
///
/// A message with the range.
pub fn parse_interval(text: &str) -> Result<Duration, String> {
    duration_within(text, INTERVAL)
}

/// Parses the time that a diagnosis is of: whole seconds from 1 to 60.
///
/// # Errors
///
/// A message with the range.
pub fn parse_window(text: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(MAX_WINDOW_SECONDS.into());
    let window = duration_within(text, Duration::from_secs(1)..=most)?;
    if window.subsec_nanos() > 0 {
        return Err(format!("must be whole seconds, not {text}"));
    }
    Ok(window)
}

/// Parses the number of containers with numbers of their own: 1 to 32000.
///
/// # Errors
///
/// A message with the range.
pub fn parse_max_containers(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if MAX_CONTAINERS.contains(&number) => Ok(number),
        _ => Err(format!(
            "must be a number from {} to {}, not {text}",
            MAX_CONTAINERS.start(),
            MAX_CONTAINERS.end()
        )),
    }
}

/// Parses a log level.
///
/// # Errors
///
/// A message with all levels.
pub fn parse_log_level(text: &str) -> Result<LevelFilter, String> {
    let is_level = ["off", "error", "warn", "info", "debug", "trace"].contains(&text);
    match LevelFilter::from_str(text) {
        Ok(level) if is_level => Ok(level),
        _ => Err(format!(
            "must be off, error, warn, info, debug or trace, not {text:?}"
        )),
    }
}

/// Parses a log format.
///
/// # Errors
///
/// A message with all formats.
pub fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("must be text or json, not {text:?}")),
    }
}

/// Parses a path, which must not be empty.
///
/// # Errors
///
/// Empty.
pub fn parse_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("must be a path, not empty".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// Parses where a runtime is asked: a path, or `auto` or `none`.
///
/// # Errors
///
/// Empty.
pub fn parse_runtime_socket(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("must be a path, auto or none, not empty".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// Parses which containers are in or out.
///
/// # Errors
///
/// A message that says what a pattern is.
pub fn parse_pattern(text: &str) -> Result<Pattern, String> {
    text.parse()
}

/// Parses a duration: a number and one of `ms`, `s`, `m`, `h`, as in `250ms`, `30s`, `1.5m`.
///
/// # Errors
///
/// A message that says what a duration is.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let error = || format!("must be a duration such as 250ms, 30s, 5m or 2h, not {text:?}");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(error)?;
    let (number, unit) = text.split_at(digits);
    let unit_seconds = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(error()),
    };
    let number: f64 = number.parse().map_err(|_| error())?;
    let millis = Duration::try_from_secs_f64(number * unit_seconds)
        .map_err(|_| error())?
        .as_secs_f64()
        * 1e3;
    Duration::try_from_secs_f64(millis.round() / 1e3).map_err(|_| error())
}

/// Writes a duration in the form that [`parse_duration`] reads.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

fn duration_within(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if range.contains(&duration) {
        return Ok(duration);
    }
    Err(format!(
        "must be from {} to {}, not {text}",
        format_duration(*range.start()),
        format_duration(*range.end())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_asked_where_it_was_told_to_listen() {
        for (text, address) in [
            (":9464", "127.0.0.1:9464"),
            ("http://:9464/", "127.0.0.1:9464"),
            ("0.0.0.0:9464", "127.0.0.1:9464"),
            ("[::]:9464", "[::1]:9464"),
            ("[::1]:9464", "[::1]:9464"),
            ("localhost:9464", "localhost:9464"),
            ("node-1:9464", "node-1:9464"),
        ] {
            assert_eq!(parse_server(text), Ok(address.to_owned()), "{text}");
        }
        for text in [":", ":0", "", "::1:9464", "9464", ":+9464"] {
            parse_server(text).expect_err(text);
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["0s", "250ms", "30s", "5m", "2h"] {
            assert_eq!(
                parse_duration(text).map(format_duration),
                Ok(text.to_owned())
            );
        }
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-1s",
            "1d",
            "1..2s",
            "9e9s",
            &"9".repeat(400),
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        let huge = format!("{}h", "9".repeat(400));
        assert!(parse_duration(&huge).is_err());
    }
}
