//! `/api/v1/containers`: snapshots as JSON.

use axum::{
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{ServerState, blocking, error::ApiError, params::Params, profile::MAX_CONTAINER_BYTES};
use crate::{snapshot::Snapshot, source::SourceError};

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
    let Path(id) = id.map_err(|_| {
        ApiError::bad_request("the container in the path is not percent-encoded UTF-8".to_owned())
    })?;
    if id.len() > MAX_CONTAINER_BYTES {
        return Err(ApiError::bad_request(format!(
            "the container in the path may have 1 to {MAX_CONTAINER_BYTES} bytes, not {}",
            id.len()
        )));
    }
    let body = blocking(move || {
        let snapshot = state.source.snapshot()?;
        let index = resolve_container(&snapshot, &id)?;
        json(&snapshot.containers.get(index))
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, SourceError> {
    serde_json::to_vec(value).map_err(|error| SourceError::Failed {
        context: "could not write the answer as JSON".to_owned(),
        source: Box::new(error),
    })
}

/// Finds the container that a query means: cgroup path, `namespace/pod/container`, id, name, unique
/// prefix of an id; a living one before exited ones of the same name.
fn resolve_container(snapshot: &Snapshot, query: &str) -> Result<usize, SourceError> {
    let of_rank = |rank: usize| -> Vec<usize> {
        let matches = snapshot.containers.iter().enumerate().filter(|(_, one)| {
            let identity = &one.identity;
            match rank {
                0 => {
                    let full = format!(
                        "{}/{}/{}",
                        identity.namespace, identity.pod, identity.container
                    );
                    query == identity.cgroup || query == identity.container_id || query == full
                }
                1 => query == identity.container,
                _ => identity.container_id.starts_with(query),
            }
        });
        let all: Vec<usize> = matches.map(|(index, _)| index).collect();
        let lives = |&index: &usize| {
            let found = snapshot.containers.get(index);
            found.is_some_and(|one| one.exited_at_unix_ms.is_none())
        };
        let living: Vec<usize> = all.iter().copied().filter(lives).collect();
        if living.is_empty() { all } else { living }
    };
    let matches = (0..3)
        .map(of_rank)
        .find(|found| !found.is_empty() && !query.is_empty())
        .unwrap_or_default();
    match matches.as_slice() {
        [] => Err(SourceError::UnknownContainer {
            query: query.to_owned(),
            hint: "/api/v1/containers lists them".to_owned(),
        }),
        [one] => Ok(*one),
        several => Err(SourceError::AmbiguousContainer {
            query: query.to_owned(),
            matches: several
                .iter()
                .filter_map(|&index| Some(snapshot.containers.get(index)?.identity.cgroup.clone()))
                .take(10)
                .collect(),
        }),
    }
}
