//! `/api/v1/profile` and `/debug/pprof/`: record a profile while the client waits.

use std::time::Duration;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, RawQuery, State},
    http::{Method, header},
    response::{IntoResponse, Response},
};

use super::{
    ServerState, blocking, error::ApiError, listen::Closing, params::Params, recordings::check_id,
};
use serde_json::json;

use crate::choice::Choice as _;
use crate::source::{
    DEFAULT_PROFILE_FREQUENCY, MAX_PROFILE_FREQUENCY, MAX_PROFILE_SECONDS, ProfileFormat,
    ProfileRequest, ProfileType,
};

/// Length of a profile whose length is not given, seconds.
const DEFAULT_SECONDS: u32 = 10;

/// A recording that is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: ProfileRequest,
    /// By which it can be ended early.
    pub(super) id: Option<String>,
}

pub(super) async fn profile(
    State(state): State<ServerState>,
    closing: Option<Extension<Closing>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let asked = parse(query.as_deref(), None)?;
    answer(state, closing, method, asked).await
}

/// Ends a recording early; what was sampled so far is the answer to the request that began it.
pub(super) async fn stop(
    State(state): State<ServerState>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = Params::parse(query.as_deref(), &["id"])?;
    let id = check_id(params.get("id").unwrap_or_default())?;
    if method != Method::HEAD && !state.recordings.stop(id) {
        return Err(ApiError::unknown_recording(id));
    }
    Ok(Json(json!({"stopped": id})).into_response())
}

/// Paths as Go programs serve them, in the format of pprof: `profile` is what runs, any other name a type
/// of profile.
pub(super) async fn pprof(
    State(state): State<ServerState>,
    closing: Option<Extension<Closing>>,
    Path(name): Path<String>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let profile_type = match name.as_str() {
        "profile" => ProfileType::Cpu,
        name => ProfileType::from_name(name)
            .filter(|one| *one != ProfileType::Cpu)
            .ok_or_else(|| ApiError::not_found(&format!("/debug/pprof/{name}")))?,
    };
    let asked = parse(query.as_deref(), Some(profile_type))?;
    answer(state, closing, method, asked).await
}

async fn answer(
    state: ServerState,
    closing: Option<Extension<Closing>>,
    method: Method,
    asked: Asked,
) -> Result<Response, ApiError> {
    let request = asked.request;
    let content_type = [(header::CONTENT_TYPE, request.format.content_type())];
    if method == Method::HEAD {
        return Ok(content_type.into_response());
    }
    // Cancelled when dropped, as axum does when the client goes away.
    let recording = state.recordings.begin(asked.id)?;
    let cancel = recording.cancel.clone();
    let source = state.source.clone();
    let answer = blocking(move || source.profile(&request, &cancel));
    let profile = tokio::select! {
        profile = answer => profile?,
        () = closed(closing) => {
            drop(recording);
            return Err(ApiError::not_ready("the agent is shutting down".to_owned()));
        }
    };
    let counts = [
        ("x-ctrscope-samples", profile.samples.to_string()),
        ("x-ctrscope-lost", profile.lost.to_string()),
        ("x-ctrscope-seconds", format!("{:.3}", profile.seconds)),
        ("x-ctrscope-frequency", profile.frequency.to_string()),
    ];
    Ok((content_type, counts, Body::from(profile.body)).into_response())
}

async fn closed(closing: Option<Extension<Closing>>) {
    match closing {
        Some(Extension(closing)) => closing.wait().await,
        None => std::future::pending().await,
    }
}

/// Reads the parameters; with a type, those of a path that says type and format itself.
pub(super) fn parse(
    query: Option<&str>,
    profile_type: Option<ProfileType>,
) -> Result<Asked, ApiError> {
    let mut known = vec!["container", "seconds", "frequency", "split", "inlined"];
    if profile_type.is_none() {
        known.extend(["type", "format", "id"]);
    }
    let params = Params::parse(query, &known)?;
    let container = params.container("leave it out to profile the whole host")?;
    let seconds = params.number("seconds", DEFAULT_SECONDS, MAX_PROFILE_SECONDS)?;
    let id = params.get("id").map(check_id).transpose()?;
    let request = ProfileRequest {
        container,
        profile_type: match profile_type {
            Some(known) => known,
            None => params.choice("type")?,
        },
        duration: Duration::from_secs(u64::from(seconds)),
        frequency: params.number(
            "frequency",
            DEFAULT_PROFILE_FREQUENCY,
            MAX_PROFILE_FREQUENCY,
        )?,
        split: params.choice("split")?,
        inlined: params.flag("inlined")?,
        format: match profile_type {
            Some(_) => ProfileFormat::Pprof,
            None => params.choice("format")?,
        },
    };
    Ok(Asked {
        request,
        id: id.map(str::to_owned),
    })
}
