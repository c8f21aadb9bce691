//! `/api/v1/profile` and `/debug/pprof/`: record a profile while the client waits.

use std::time::Duration;

use axum::{
    Extension,
    body::Body,
    extract::{Path, RawQuery, State},
    http::{Method, header},
    response::{IntoResponse, Response},
};

use super::{ServerState, blocking, error::ApiError, listen::Closing, params::Params};
use crate::choice::Choice as _;
use crate::source::{
    Cancel, DEFAULT_PROFILE_FREQUENCY, MAX_PROFILE_FREQUENCY, MAX_PROFILE_SECONDS, ProfileFormat,
    ProfileRequest, ProfileType,
};

/// Longest name of a container, bytes.
pub(crate) const MAX_CONTAINER_BYTES: usize = 512;
/// Length of a profile whose length is not given, seconds.
const DEFAULT_SECONDS: u32 = 10;

/// Cancels when dropped: axum drops the handler when the client goes away.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

pub(super) async fn profile(
    State(state): State<ServerState>,
    closing: Option<Extension<Closing>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let request = parse(query.as_deref(), None)?;
    answer(state, closing, method, request).await
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
    let request = parse(query.as_deref(), Some(profile_type))?;
    answer(state, closing, method, request).await
}

async fn answer(
    state: ServerState,
    closing: Option<Extension<Closing>>,
    method: Method,
    request: ProfileRequest,
) -> Result<Response, ApiError> {
    let content_type = [(header::CONTENT_TYPE, request.format.content_type())];
    if method == Method::HEAD {
        return Ok(content_type.into_response());
    }
    let cancel = Cancel::default();
    let guard = CancelOnDrop(cancel.clone());
    let source = state.source.clone();
    let recording = blocking(move || source.profile(&request, &cancel));
    let profile = tokio::select! {
        profile = recording => profile?,
        () = closed(closing) => {
            drop(guard);
            return Err(ApiError::not_ready("the agent is shutting down".to_owned()));
        }
    };
    let counts = [
        ("x-ctrscope-samples", profile.samples.to_string()),
        ("x-ctrscope-lost", profile.lost.to_string()),
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
) -> Result<ProfileRequest, ApiError> {
    let mut known = vec!["container", "seconds", "frequency", "split"];
    if profile_type.is_none() {
        known.extend(["type", "format"]);
    }
    let params = Params::parse(query, &known)?;
    let container = match params.get("container") {
        None => None,
        Some("") => {
            return Err(ApiError::bad_request(
                "container is empty; leave it out to profile the whole host".to_owned(),
            ));
        }
        Some(name) if name.len() > MAX_CONTAINER_BYTES => {
            return Err(ApiError::bad_request(format!(
                "container may have 1 to {MAX_CONTAINER_BYTES} bytes, not {}",
                name.len()
            )));
        }
        Some(name) => Some(name.to_owned()),
    };
    let seconds = params.number("seconds", DEFAULT_SECONDS, MAX_PROFILE_SECONDS)?;
    Ok(ProfileRequest {
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
        format: match profile_type {
            Some(_) => ProfileFormat::Pprof,
            None => params.choice("format")?,
        },
    })
}
