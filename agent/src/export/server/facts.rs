//! `/api/v1/facts`: what the diagnosis rests on, as JSON.

use std::time::Duration;

use axum::{
    extract::{RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
};

use super::{ServerState, blocking, containers::json, error::ApiError, params::Params};
use crate::source::MAX_WINDOW_SECONDS;

pub(super) async fn facts(
    State(state): State<ServerState>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = Params::parse(query.as_deref(), &["window"])?;
    let seconds = params.number("window", MAX_WINDOW_SECONDS, MAX_WINDOW_SECONDS)?;
    let window = Duration::from_secs(seconds.into());
    let body = blocking(move || json(&*state.source.facts(window)?)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}
