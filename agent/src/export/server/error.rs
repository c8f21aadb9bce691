//! Errors as the API answers them: a status, and JSON with a code and a message.

use std::error::Error as _;

use axum::{
    Json,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::source::{ErrorDetails, SourceError};

/// An error answer.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// What the message says, for programs.
    details: Option<Box<ErrorDetails>>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        Self {
            status,
            code,
            message,
            details: None,
        }
    }

    /// 400: a parameter is wrong; the message names it and its range.
    pub(crate) fn bad_request(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn busy(message: String) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message)
    }

    pub(crate) fn not_ready(message: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message)
    }

    pub(crate) fn failed(message: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message)
    }

    pub(crate) fn not_found(path: &str) -> Self {
        let message = format!("no path {path:?}; / lists the paths");
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn unknown_recording(id: &str) -> Self {
        let message = format!("no recording goes on by the id {id}; it may have ended");
        Self::new(StatusCode::NOT_FOUND, "unknown_recording", message)
    }

    pub(crate) fn method_not_allowed(method: &Method) -> Self {
        let message = format!("method {method} is not allowed; use GET or HEAD");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        )
    }

    pub(crate) fn uri_too_long(limit: usize) -> Self {
        let message = format!("path and query together may have at most {limit} bytes");
        Self::new(StatusCode::URI_TOO_LONG, "uri_too_long", message)
    }
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        let (status, code) = match &error {
            SourceError::UnknownContainer { .. } => (StatusCode::NOT_FOUND, "unknown_container"),
            SourceError::AmbiguousContainer { .. } => (StatusCode::CONFLICT, "ambiguous_container"),
            SourceError::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            SourceError::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            SourceError::NotReady(_) | SourceError::Cancelled => {
                (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
            }
            SourceError::Unsupported(_) => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
            SourceError::Unreachable { .. } | SourceError::Failed { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "failed")
            }
        };
        Self {
            details: ErrorDetails::of(&error).map(Box::new),
            ..Self::new(status, code, message)
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({"error": {"code": self.code, "message": self.message}});
        if let Some(details) = self.details {
            body["error"]["details"] = json!(details);
        }
        let body = Json(body);
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(
                header::ALLOW,
                axum::http::HeaderValue::from_static("GET,HEAD"),
            );
        }
        // A place may be free again in a second, and always is when the longest profile has ended.
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(
                header::RETRY_AFTER,
                axum::http::HeaderValue::from_static("1"),
            );
        }
        response
    }
}
