//! `/api/v1/diagnosis` and `/api/v1/verdicts`: what holds containers back, as JSON.

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
    // Without it the window is the configured one.
    let window = match params.get("window") {
        None => None,
        Some(_) => Some(params.number("window", MAX_WINDOW_SECONDS, MAX_WINDOW_SECONDS)?),
    };
    let request = DiagnosisRequest {
        window: window.map(|seconds| Duration::from_secs(seconds.into())),
        container,
    };
    let body = blocking(move || json(&*state.source.diagnosis(&request)?)).await?;
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
