//! Why a runtime did not answer.

use std::{fmt::Display, io};

/// Why a runtime did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It cannot be reached.
    #[error("cannot connect: {0}; is the runtime running, and is it its socket?")]
    Connect(#[source] io::Error),
    /// It does not answer in time.
    #[error(
        "no answer to {asked} within 2 s; is the runtime overloaded, or is it another's socket?"
    )]
    Silent {
        /// What was asked for.
        asked: String,
    },
    /// The answer is longer than any that makes sense.
    #[error("the answer to {asked} is longer than {limit} bytes")]
    TooLong {
        /// What was asked for.
        asked: String,
        /// Bytes.
        limit: usize,
    },
    /// The answer ended before its end, or is not in the protocol.
    #[error("no whole answer to {asked}: {why}")]
    Broken {
        /// What was asked for.
        asked: String,
        /// What happened.
        why: String,
    },
    /// The answer is in the protocol and means nothing.
    #[error("the answer to {asked} makes no sense: {why}; is it another program's socket?")]
    Nonsense {
        /// What was asked for.
        asked: String,
        /// What is wrong.
        why: String,
    },
    /// It says no.
    #[error("{asked} is refused: {why}")]
    Refused {
        /// What was asked for.
        asked: String,
        /// Its words.
        why: String,
    },
}

/// Bytes of a reason: it is partly of the runtime's choosing.
const MOST_REASON: usize = 200;

impl Failure {
    pub(super) fn broken(asked: &str, why: &dyn Display) -> Self {
        Self::Broken {
            asked: asked.to_owned(),
            why: super::bounded::text(&why.to_string(), MOST_REASON),
        }
    }

    pub(super) fn nonsense(asked: &str, why: &dyn Display) -> Self {
        Self::Nonsense {
            asked: asked.to_owned(),
            why: super::bounded::text(&why.to_string(), MOST_REASON),
        }
    }

    /// Whether the runtime is there and only this answer is of no use.
    pub(super) fn is_of_the_answer(&self) -> bool {
        matches!(
            self,
            Self::TooLong { .. } | Self::Nonsense { .. } | Self::Refused { .. }
        )
    }

    pub(super) fn refused(asked: &str, why: &str) -> Self {
        Self::Refused {
            asked: asked.to_owned(),
            why: super::bounded::text(why, MOST_REASON),
        }
    }
}
