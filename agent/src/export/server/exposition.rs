//! `/metrics`: renders a snapshot once, however many ask for it.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::{ServerState, blocking, error::ApiError};
use crate::export::metrics::{self, ProcessUsage};

/// Expositions that slow readers may keep alive; with 1,000 containers one has about 13 MB.
const MAX_KEPT: usize = 3;

/// The text of one snapshot.
struct Rendered {
    taken_at_ns: u64,
    text: String,
}

/// A body that shares a text with other responses.
struct Shared(Arc<Rendered>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.text.as_bytes()
    }
}

/// What is kept from scrape to scrape. Texts are only held as long as a response needs them.
#[derive(Default)]
pub(super) struct Exposition(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    alive: Vec<Weak<Rendered>>,
    last_bytes: usize,
}

pub(super) async fn metrics(State(state): State<ServerState>) -> Result<Response, ApiError> {
    let rendered = blocking(move || render(&state)).await?;
    let body = Body::from(Bytes::from_owner(Shared(rendered)));
    let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    Ok((content_type, body).into_response())
}

/// Blocks; scrapes take turns, and one that comes while another waits gets the same text.
fn render(state: &ServerState) -> Result<Arc<Rendered>, ApiError> {
    let started = Instant::now();
    let mut kept = state
        .exposition
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let snapshot = state.source.snapshot()?;
    kept.alive.retain(|text| text.strong_count() > 0);
    let mut alive = kept.alive.iter().filter_map(Weak::upgrade);
    if let Some(same) = alive.find(|text| text.taken_at_ns == snapshot.taken_at_ns) {
        return Ok(same);
    }
    if kept.alive.len() >= MAX_KEPT {
        return Err(ApiError::busy(format!(
            "{MAX_KEPT} expositions still wait for their readers; try again later"
        )));
    }
    let process = ProcessUsage::read()
        .inspect_err(|error| tracing::debug!(%error, "could not read the agent's own usage"))
        .ok();
    let capacity = kept.last_bytes + kept.last_bytes / 16;
    // A source that diagnoses nothing has no verdicts, and none costs no other number.
    let standing = state.source.standing().unwrap_or_default();
    let text = metrics::render(
        &snapshot,
        &standing,
        process.as_ref(),
        &state.metrics,
        capacity,
    );
    kept.last_bytes = text.len();
    let rendered = Arc::new(Rendered {
        taken_at_ns: snapshot.taken_at_ns,
        text,
    });
    kept.alive.push(Arc::downgrade(&rendered));
    drop(kept);
    state
        .metrics
        .set_scrape_seconds(started.elapsed().as_secs_f64());
    Ok(rendered)
}
