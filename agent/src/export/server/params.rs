//! Query parameters, read strictly: what is not understood is refused, never guessed.

use super::error::ApiError;
use crate::choice::Choice;

/// Longest name of a container, bytes.
pub(crate) const MAX_CONTAINER_BYTES: usize = 512;

/// The parameters of a query, to be taken out one by one.
#[derive(Debug)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// Reads a query and refuses what is not in `known`.
    pub(crate) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, ApiError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        let parts = query
            .unwrap_or_default()
            .split('&')
            .filter(|part| !part.is_empty());
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = decode(name).ok_or_else(|| malformed(part))?;
            let value = decode(value).ok_or_else(|| malformed(part))?;
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() {
                    "this path takes none".to_owned()
                } else {
                    format!("known are {}", known.join(", "))
                };
                return Err(ApiError::bad_request(format!(
                    "unknown parameter {name:?}; {known}"
                )));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(ApiError::bad_request(format!(
                    "parameter {name:?} is given twice; give it once"
                )));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// The value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// A container; `without` says what to do instead of leaving it empty.
    pub(crate) fn container(&self, without: &str) -> Result<Option<String>, ApiError> {
        match self.get("container") {
            None => Ok(None),
            Some("") => Err(ApiError::bad_request(format!(
                "container is empty; {without}"
            ))),
            Some(name) if name.len() > MAX_CONTAINER_BYTES => Err(ApiError::bad_request(format!(
                "container may have 1 to {MAX_CONTAINER_BYTES} bytes, not {}",
                name.len()
            ))),
            Some(name) => Ok(Some(name.to_owned())),
        }
    }

    /// A whole number from 1 to `most`.
    pub(crate) fn number(&self, name: &str, default: u32, most: u32) -> Result<u32, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        // `parse` takes a plus sign, which a query would have turned into a space.
        let number = value
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| value.parse::<u32>().ok())
            .flatten();
        number
            .filter(|number| (1..=most).contains(number))
            .ok_or_else(|| {
                ApiError::bad_request(format!(
                    "{name} must be a whole number from 1 to {most}, not {value:?}"
                ))
            })
    }

    /// `true` or `false`, which is the default.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(value) => Err(ApiError::bad_request(format!(
                "{name} must be true or false, not {value:?}"
            ))),
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Choice>(&self, name: &str) -> Result<T, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(T::default());
        };
        T::from_name(value).ok_or_else(|| {
            let words: Vec<&str> = T::ALL.iter().map(|one| one.name()).collect();
            ApiError::bad_request(format!(
                "{name} must be one of {}, not {value:?}",
                words.join(", ")
            ))
        })
    }
}

fn malformed(part: &str) -> ApiError {
    ApiError::bad_request(format!(
        "parameter {part:?} is not percent-encoded UTF-8; write a percent sign as %25"
    ))
}

/// Decodes `%xx` and `+`; `None` where the encoding is broken or the bytes are not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}
