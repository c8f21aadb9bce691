//! `/api/v1/diagnosis`, `/api/v1/verdicts` and `/api/v1/neighbours`: what holds containers back, and who made whom
//! wait, as JSON.

use std::time::Duration;

use axum::{
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::header,
    response::{IntoResponse, Response},
};

use super::{
    ServerState, blocking,
    containers::{container_of_path, json},
    error::ApiError,
    params::Params,
};
use crate::source::{DiagnosisRequest, MAX_WINDOW_SECONDS};

/// All containers, those that are held back most first, and the host.
pub(super) async fn all(
    State(state): State<ServerState>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    diagnose(state, query.as_deref(), None).await
}

/// One container, and the host.
pub(super) async fn one(
    State(state): State<ServerState>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let container = container_of_path(id)?;
    diagnose(state, query.as_deref(), Some(container)).await
}

async fn diagnose(
    state: ServerState,
    query: Option<&str>,
    container: Option<String>,
) -> Result<Response, ApiError> {
    let params = Params::parse(query, &["window"])?;
    let request = DiagnosisRequest {
        window: window(&params)?,
        container,
    };
    let body = blocking(move || json(&*state.source.diagnosis(&request)?)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The window that is asked for. Without it, it is the configured one.
fn window(params: &Params) -> Result<Option<Duration>, ApiError> {
    if params.get("window").is_none() {
        return Ok(None);
    }
    let seconds = params.number("window", MAX_WINDOW_SECONDS, MAX_WINDOW_SECONDS)?;
    Ok(Some(Duration::from_secs(seconds.into())))
}

/// Who made whom wait for CPUs: all, or one container.
pub(super) async fn neighbours(
    State(state): State<ServerState>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = Params::parse(query.as_deref(), &["container", "window"])?;
    let request = DiagnosisRequest {
        window: window(&params)?,
        container: params.container("leave it out to ask for all")?,
    };
    let body = blocking(move || json(&*state.source.neighbours(&request)?)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The verdicts that stand, without their evidence: what tables show.
pub(super) async fn verdicts(
    State(state): State<ServerState>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Params::parse(query.as_deref(), &[])?;
    let body = blocking(move || json(&*state.source.standing()?)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}
