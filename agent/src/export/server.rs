//! The HTTP server.
//!
//! It only ever reads: GET and HEAD, no body, no cookie, nothing that changes the agent; a recording that a
//! request began can be ended early by who knows its id. Whatever
//! blocks (a collection, a rendering, a profile) runs on blocking threads. What a client can ask for
//! is bounded: connections, requests at once, the size of a request's head, the time to send it and
//! to take the answer, and how many expositions are kept for slow readers.

mod bind;
mod containers;
mod diagnosis;
mod error;
mod exposition;
mod facts;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod listen;
mod params;
mod profile;
mod recordings;
mod status;
mod workloads;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::sync::Semaphore;

pub use self::{bind::bind, error::ApiError, listen::serve};
use self::{exposition::Exposition, recordings::Recordings};
use super::metrics::ServerMetrics;
use crate::source::Source;

/// Requests that are worked on at once; more are refused with 429.
pub const MAX_REQUESTS: usize = 128;
/// Longest path and query, bytes.
pub const MAX_URI_BYTES: usize = 4096;

/// What the handlers share. Clones share it.
#[derive(Clone)]
pub struct ServerState {
    /// Where snapshots and profiles come from.
    pub source: Arc<dyn Source>,
    started: Instant,
    exposition: Arc<Exposition>,
    metrics: ServerMetrics,
    requests: Arc<Semaphore>,
    recordings: Recordings,
}

impl ServerState {
    /// The state of a server over a source.
    ///
    /// # Errors
    ///
    /// The registry of the server's own metrics cannot be made, which is a defect.
    pub fn new(source: Arc<dyn Source>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            source,
            started: Instant::now(),
            exposition: Arc::default(),
            metrics: ServerMetrics::new()?,
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            recordings: Recordings::default(),
        })
    }
}

/// The routes.
pub fn router(state: ServerState) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(exposition::metrics))
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/status", get(status::status))
        .route("/api/v1/containers", get(containers::all))
        .route("/api/v1/containers/{*id}", get(containers::one))
        .route("/api/v1/diagnosis", get(diagnosis::all))
        .route("/api/v1/diagnosis/{*id}", get(diagnosis::one))
        .route("/api/v1/neighbours", get(diagnosis::neighbours))
        .route("/api/v1/verdicts", get(diagnosis::verdicts))
        .route("/api/v1/facts", get(facts::facts))
        .route("/api/v1/workloads", get(workloads::all))
        .route("/api/v1/profile", get(profile::profile))
        .route("/api/v1/profile/stop", get(profile::stop))
        .route("/debug/pprof/{name}", get(profile::pprof))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), guard))
        .with_state(state)
}

/// Bounds and counts every request.
async fn guard(State(state): State<ServerState>, request: Request, next: Next) -> Response {
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let mut response = admit(&state, &path, request, next)
        .await
        .unwrap_or_else(ApiError::into_response);
    state
        .metrics
        .count_request(&path, response.status().as_u16());
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

async fn admit(
    state: &ServerState,
    path: &str,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let uri = request.uri();
    if uri.path().len() + uri.query().map_or(0, str::len) > MAX_URI_BYTES {
        return Err(ApiError::uri_too_long(MAX_URI_BYTES));
    }
    // A busy agent is alive: restarting it would not help.
    if path == "/healthz" {
        return Ok(next.run(request).await);
    }
    let _permit = state.requests.try_acquire().map_err(|_| {
        ApiError::busy(format!(
            "all {MAX_REQUESTS} request slots are taken; try again later"
        ))
    })?;
    Ok(next.run(request).await)
}

/// Runs what blocks on a blocking thread.
async fn blocking<T: Send + 'static, E: Into<ApiError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(ApiError::failed(format!("a worker ended early: {error}"))),
    }
}

async fn index() -> Html<&'static str> {
    Html(include_str!("server/index.html"))
}

async fn not_found(request: Request) -> ApiError {
    ApiError::not_found(request.uri().path())
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::method_not_allowed(request.method())
}
