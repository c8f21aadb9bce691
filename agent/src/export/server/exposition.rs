//! `/metrics`: renders a snapshot once, however many ask for it.
//!
//! It is compressed while it is written, so that the text is never whole in memory, and goes out as it is to
//! who takes gzip, which Prometheus does. For others it is unpacked again, piece by piece as they read.

use std::{
    io::{self, Cursor, Read as _},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use hyper::body::{Frame, SizeHint};

use super::{ServerState, blocking, error::ApiError};
use crate::export::metrics::{self, ProcessUsage};

/// Expositions that slow readers may keep alive; with 1,000 containers one has about 0.3 MB.
const MAX_KEPT: usize = 16;
/// What is unpacked at once.
const PIECE_BYTES: usize = 64 * 1024;

/// The text of one snapshot.
struct Rendered {
    taken_at_ns: u64,
    gzip: Vec<u8>,
    text_bytes: u64,
}

/// Bytes that are shared with other responses.
struct Shared(Arc<Rendered>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.gzip
    }
}

/// The text, for who does not take it compressed.
struct Unpacked {
    decoder: GzDecoder<Cursor<Shared>>,
    left: u64,
}

impl hyper::body::Body for Unpacked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let limit = PIECE_BYTES as u64;
        let read = (&mut self.decoder).take(limit).read_to_end(&mut piece);
        self.left = self.left.saturating_sub(piece.len() as u64);
        Poll::Ready(match read {
            Ok(0) => None,
            Ok(_) => Some(Ok(Frame::data(piece.into()))),
            Err(error) => Some(Err(error)),
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
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

pub(super) async fn metrics(
    State(state): State<ServerState>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let rendered = blocking(move || render(&state)).await?;
    let takes_gzip = takes_gzip(&headers);
    let body = if takes_gzip {
        Body::from(Bytes::from_owner(Shared(rendered)))
    } else {
        Body::new(Unpacked {
            left: rendered.text_bytes,
            decoder: GzDecoder::new(Cursor::new(Shared(rendered))),
        })
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, metrics::CONTENT_TYPE);
    set(header::VARY, "accept-encoding");
    if takes_gzip {
        set(header::CONTENT_ENCODING, "gzip");
    }
    Ok(response)
}

/// Whether a client names gzip among what it takes, and not with a weight of 0.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    lists
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let is_gzip = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
            let weight = parts.find_map(|part| part.strip_prefix(['q', 'Q'])?.strip_prefix('='));
            is_gzip && weight.is_none_or(|weight| weight.trim().parse() != Ok(0.0))
        })
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
    // A source that diagnoses nothing has no verdicts, and none costs no other number.
    let standing = state.source.standing().unwrap_or_default();
    let capacity = kept.last_bytes + kept.last_bytes / 16;
    let mut encoder = GzEncoder::new(Vec::with_capacity(capacity), Compression::fast());
    let failed = |error: io::Error| ApiError::failed(format!("cannot compress: {error}"));
    let text_bytes = metrics::render(
        &snapshot,
        &standing,
        process.as_ref(),
        &state.metrics,
        &mut encoder,
    )
    .map_err(failed)?;
    let gzip = encoder.finish().map_err(failed)?;
    kept.last_bytes = gzip.len();
    let rendered = Arc::new(Rendered {
        taken_at_ns: snapshot.taken_at_ns,
        gzip,
        text_bytes,
    });
    kept.alive.push(Arc::downgrade(&rendered));
    drop(kept);
    state
        .metrics
        .set_scrape_seconds(started.elapsed().as_secs_f64());
    Ok(rendered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_taken_by_who_names_it() {
        let takes = |lists: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for list in lists {
                headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(list));
            }
            takes_gzip(&headers)
        };
        for lists in [
            &["gzip"][..],
            &["deflate, GZip;q=0.5, br"],
            &["identity", "gzip ; q=1"],
            &["gzip;q=strange"],
        ] {
            assert!(takes(lists), "{lists:?}");
        }
        for lists in [
            &[][..],
            &["identity"],
            &["gzip;q=0"],
            &["gzip; q=0.000, br"],
            &["gzip;Q=0"],
            &["x-gzip, *"],
        ] {
            assert!(!takes(lists), "{lists:?}");
        }
    }
}
