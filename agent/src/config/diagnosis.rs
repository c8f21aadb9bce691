//! The table `diagnosis` of the file, and its values in flags and variables.

use std::time::Duration;

use toml::de::DeValue;

use super::{ConfigError, Lines, string, type_name, unknown_key, values::parse_window};
use crate::diagnosis::{THRESHOLDS, Thresholds};

/// The key of the window in the table; all others are thresholds.
const WINDOW: &str = "window";

/// How containers are diagnosed.
#[derive(Clone, Debug, PartialEq)]
pub struct DiagnosisConfig {
    /// Time that a diagnosis is of, where none is asked for.
    pub window: Duration,
    /// What numbers are compared with.
    pub thresholds: Thresholds,
}

impl Default for DiagnosisConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            thresholds: Thresholds::default(),
        }
    }
}

impl DiagnosisConfig {
    /// Reads the table.
    pub(super) fn read(
        &mut self,
        value: &DeValue<'_>,
        start: usize,
        lines: &Lines<'_>,
    ) -> Result<(), ConfigError> {
        let Some(table) = value.as_table() else {
            return Err(lines.bad_value(
                start,
                "diagnosis",
                format!("must be a table, not {}", type_name(value)),
            ));
        };
        for (key, value) in table {
            let name: &str = key.get_ref();
            let is_threshold = THRESHOLDS.iter().any(|one| one.key == name);
            if name != WINDOW && !is_threshold {
                let keys: Vec<&str> = [WINDOW]
                    .into_iter()
                    .chain(THRESHOLDS.iter().map(|one| one.key))
                    .collect();
                return Err(unknown_key(lines, key.span().start, name, &keys));
            }
            let set = if name == WINDOW {
                string(value.get_ref())
                    .and_then(parse_window)
                    .map(|window| self.window = window)
            } else {
                number(value.get_ref()).and_then(|value| self.thresholds.set(name, value))
            };
            set.map_err(|message| {
                let name = format!("diagnosis.{name}");
                lines.bad_value(value.span().start, &name, message)
            })?;
        }
        Ok(())
    }
}

fn number(value: &DeValue<'_>) -> Result<f64, String> {
    let text = match value {
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        _ => return Err(format!("must be a number, not {}", type_name(value))),
    };
    text.parse()
        .map_err(|_| format!("must be a number, not {text}"))
}

/// Parses `KEY=VALUE` of a threshold.
///
/// # Errors
///
/// A message with all keys, or the range.
pub fn parse_threshold(text: &str) -> Result<(String, f64), String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(format!("must be KEY=VALUE, not {text:?}"));
    };
    let number = value
        .parse()
        .map_err(|_| format!("{key} must be a number, not {value:?}"))?;
    // Its range is known by the table alone.
    Thresholds::default()
        .set(key, number)
        .map_err(|message| format!("{key} {message}"))?;
    Ok((key.to_owned(), number))
}
