//! How an error is told.

use std::error::Error;

/// An error and its causes in one line; a cause whose text the error has already is not repeated.
#[must_use]
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failure {
        text: &'static str,
        #[source]
        source: Option<Box<Failure>>,
    }

    #[test]
    fn a_chain_of_causes_is_one_line_without_repeats() {
        let told = |texts: &[&'static str]| {
            let chain = texts.iter().rev().fold(None, |source, text| {
                Some(Box::new(Failure { text, source }))
            });
            error_chain(chain.as_deref().expect("there is a text"))
        };
        assert_eq!(
            told(&["cannot write x", "disk full"]),
            "cannot write x: disk full"
        );
        assert_eq!(told(&["a: b", "b", "c"]), "a: b: c");
        assert_eq!(told(&["alone"]), "alone");
    }
}
