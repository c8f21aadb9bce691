//! Recordings that go on, by the ids that their clients chose: who knows an id can end its recording early,
//! and whoever asked for that gets what was sampled so far.
//!
//! There are as many as requests that are worked on at once, at most: each leaves with its request.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::error::ApiError;
use crate::source::Cancel;

/// Longest id, bytes.
const MAX_ID_BYTES: usize = 64;

/// Recordings that go on. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Recordings(Arc<Mutex<HashMap<String, Cancel>>>);

/// A recording that goes on; dropped, which axum does when the client goes away, it is cancelled.
pub(super) struct Recording {
    all: Recordings,
    id: Option<String>,
    pub(super) cancel: Cancel,
}

impl Recordings {
    /// Begins one.
    ///
    /// # Errors
    ///
    /// Another one goes on by that id.
    pub(super) fn begin(&self, id: Option<String>) -> Result<Recording, ApiError> {
        let cancel = Cancel::default();
        if let Some(id) = &id {
            match self.lock().entry(id.clone()) {
                Entry::Vacant(place) => place.insert(cancel.clone()),
                Entry::Occupied(_) => {
                    return Err(ApiError::bad_request(format!(
                        "id {id} is that of a recording that goes on; choose another"
                    )));
                }
            };
        }
        Ok(Recording {
            all: self.clone(),
            id,
            cancel,
        })
    }

    /// Ends one early, and says whether there was one.
    pub(super) fn stop(&self, id: &str) -> bool {
        let all = self.lock();
        all.get(id).map(Cancel::stop).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Cancel>> {
        // No operation on it leaves it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(id) = &self.id {
            self.all.lock().remove(id);
        }
    }
}

/// Checks an id: 1 to 64 letters, digits, `-` and `_`.
pub(super) fn check_id(id: &str) -> Result<&str, ApiError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(is_plain) {
        return Ok(id);
    }
    Err(ApiError::bad_request(format!(
        "id must be 1 to {MAX_ID_BYTES} letters, digits, - and _, not {id:?}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_known_by_its_id_as_long_as_it_goes_on() {
        let all = Recordings::default();
        assert!(!all.stop("a"));
        let recording = all.begin(Some("a".to_owned())).expect("none of that id");
        let cancel = recording.cancel.clone();
        assert!(all.begin(Some("a".to_owned())).is_err(), "it is taken");
        let _other = all.begin(None).expect("one without an id");
        assert!(!cancel.is_stopped());
        assert!(all.stop("a"));
        assert!(cancel.is_stopped() && !cancel.is_cancelled());
        drop(recording);
        assert!(cancel.is_cancelled());
        assert!(!all.stop("a"));
        assert!(all.lock().is_empty(), "nothing is left");
    }

    #[test]
    fn an_id_is_short_and_plain() {
        let longest = "x".repeat(64);
        for id in ["a", "A-9_z", longest.as_str()] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        let longer = "x".repeat(65);
        for id in ["", "a b", "a/b", "ä", longer.as_str()] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }
}
