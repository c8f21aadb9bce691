//! `/healthz`, `/readyz`, `/status`.

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{ServerState, blocking, error::ApiError};
use crate::{
    snapshot::{AgentHealth, CollectorState},
    source::SourceError,
};

/// Alive: the server answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Ready: a snapshot can be taken and at least one collector runs.
pub(super) async fn readyz(State(state): State<ServerState>) -> Result<Response, ApiError> {
    let snapshot = blocking(move || state.source.snapshot()).await?;
    not_collecting(&snapshot.agent).map_or_else(
        || Ok("ready\n".into_response()),
        |reason| Err(ApiError::not_ready(reason)),
    )
}

/// Each collector and program with its state and the reason; answers while not ready, too.
pub(super) async fn status(State(state): State<ServerState>) -> Result<Response, ApiError> {
    let version = env!("CARGO_PKG_VERSION");
    let uptime_seconds = state.started.elapsed().as_secs();
    let body = blocking(move || {
        Ok::<_, SourceError>(match state.source.snapshot() {
            Ok(snapshot) => {
                let reason = not_collecting(&snapshot.agent);
                json!({
                    "version": version,
                    "uptime_seconds": uptime_seconds,
                    "ready": reason.is_none(),
                    "reason": reason.unwrap_or_default(),
                    "host": snapshot.host,
                    "containers": snapshot.containers.len(),
                    "agent": snapshot.agent,
                })
            }
            Err(error) => json!({
                "version": version,
                "uptime_seconds": uptime_seconds,
                "ready": false,
                "reason": error.to_string(),
            }),
        })
    })
    .await?;
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((no_store, Json(body)).into_response())
}

/// Why nothing is collected; `None` if something is.
fn not_collecting(health: &AgentHealth) -> Option<String> {
    let runs = |state| matches!(state, CollectorState::Active | CollectorState::Degraded);
    if health.collectors.iter().any(|one| runs(one.state)) {
        return None;
    }
    let reasons: Vec<String> = health
        .collectors
        .iter()
        .map(|one| format!("{}: {}", one.name, one.reason))
        .collect();
    Some(format!("no collector runs ({})", reasons.join("; ")))
}
