//! `/api/v1/workloads`: totals of workloads as JSON.

use std::collections::BTreeMap;

use axum::{
    extract::{RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{ServerState, blocking, containers::json, error::ApiError, params::Params};
use crate::snapshot::{Snapshot, Totals};

#[derive(Serialize)]
struct Answer<'a> {
    taken_at_unix_ms: u64,
    workloads: Vec<One<'a>>,
    /// Those that are no longer among them.
    evicted: Evicted,
}

#[derive(Serialize)]
struct One<'a> {
    namespace: &'a str,
    workload: &'a str,
    workload_kind: &'static str,
    /// Those that live.
    containers: Option<u64>,
    totals: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct Evicted {
    workloads: u64,
    totals: BTreeMap<&'static str, u64>,
}

pub(super) async fn all(
    State(state): State<ServerState>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Params::parse(query.as_deref(), &[])?;
    let body = blocking(move || json(&answer(&*state.source.snapshot()?))).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn answer(snapshot: &Snapshot) -> Answer<'_> {
    let named = |totals: &Totals| totals.known().collect();
    Answer {
        taken_at_unix_ms: snapshot.taken_at_unix_ms,
        workloads: snapshot
            .workloads
            .iter()
            .map(|one| One {
                namespace: &one.identity.namespace,
                workload: &one.identity.name,
                workload_kind: one.identity.kind.label(),
                containers: one.containers,
                totals: named(&one.totals),
            })
            .collect(),
        evicted: Evicted {
            workloads: snapshot.evicted_workloads.count,
            totals: named(&snapshot.evicted_workloads.totals),
        },
    }
}
