//! `/api/v1/containers`: snapshots as JSON.

use std::collections::BTreeMap;

use axum::{
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    ServerState, blocking,
    error::ApiError,
    params::{MAX_CONTAINER_BYTES, Params},
};
use crate::{resolve::resolve_container, snapshot::Container, source::SourceError};

pub(super) async fn all(
    State(state): State<ServerState>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Params::parse(query.as_deref(), &[])?;
    let body = blocking(move || json(&*state.source.snapshot()?)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

pub(super) async fn one(
    State(state): State<ServerState>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Params::parse(query.as_deref(), &[])?;
    let id = container_of_path(id)?;
    let body = blocking(move || {
        let snapshot = state.source.snapshot()?;
        let index = resolve_container(&snapshot, &id)?;
        json(&snapshot.containers.get(index).map(One::of))
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The container that a path names.
pub(super) fn container_of_path(
    id: Result<Path<String>, PathRejection>,
) -> Result<String, ApiError> {
    let Path(id) = id.map_err(|_| {
        ApiError::bad_request("the container in the path is not percent-encoded UTF-8".to_owned())
    })?;
    if id.len() > MAX_CONTAINER_BYTES {
        return Err(ApiError::bad_request(format!(
            "the container in the path may have 1 to {MAX_CONTAINER_BYTES} bytes, not {}",
            id.len()
        )));
    }
    Ok(id)
}

/// A container with what lists have no room for.
#[derive(Serialize)]
struct One<'a> {
    #[serde(flatten)]
    container: &'a Container,
    labels: &'a BTreeMap<String, String>,
}

impl<'a> One<'a> {
    fn of(container: &'a Container) -> Self {
        Self {
            container,
            labels: &container.labels,
        }
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, SourceError> {
    serde_json::to_vec(value).map_err(|error| SourceError::Failed {
        context: "could not write the answer as JSON".to_owned(),
        source: Box::new(error),
    })
}
