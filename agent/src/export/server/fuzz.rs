//! Fuzz targets: the query of a request.

use super::{params::Params, profile};
use crate::{fuzz::text, source::MAX_PROFILE_SECONDS};

/// A query is refused, or all that is taken of it is within its range.
pub(crate) fn query(bytes: &[u8]) {
    let query = text(bytes);
    if let Ok(profile::Asked { request, id }) = profile::parse(Some(&query), None) {
        assert!(id.is_none_or(|id| (1..=64).contains(&id.len())));
        let seconds = request.duration.as_secs();
        assert!((1..=u64::from(MAX_PROFILE_SECONDS)).contains(&seconds));
        assert!(request.frequency > 0);
        assert!(request.container.is_none_or(|name| !name.is_empty()));
    }
    if let Ok(params) = Params::parse(Some(&query), &["window"])
        && let Ok(window) = params.number("window", 7, 60)
    {
        assert!((1..=60).contains(&window));
        assert!(params.get("window").is_some() || window == 7);
    }
    if Params::parse(Some(&query), &[]).is_ok() {
        assert!(query.bytes().all(|byte| byte == b'&'));
    }
}
