//! The series of containers: those that share a name are one.
//!
//! A restarted container and its predecessor, which stays for the retention, have the same namespace, pod
//! and name, and Prometheus refuses a scrape that carries one series twice.

use super::text::escape_label;
use crate::snapshot::{Container, Group, Identity, group_by, series_name};

/// One set of series.
pub(crate) struct Series<'a> {
    /// Its numbers.
    pub(crate) group: Group<'a>,
    /// Its label pairs, escaped, without braces.
    pub(crate) labels: String,
}

/// Groups containers into series, in the order in which their names come first.
pub(crate) fn series(containers: &[Container]) -> Vec<Series<'_>> {
    group_by(containers, series_name)
        .into_iter()
        .map(|group| Series {
            labels: labels(group.identity),
            group,
        })
        .collect()
}

/// The label pairs of a container, escaped, without braces.
pub(crate) fn labels(identity: &Identity) -> String {
    let mut out = String::with_capacity(96);
    for (opening, value) in [
        ("namespace=\"", identity.namespace.as_str()),
        ("\",pod=\"", &identity.pod),
        ("\",container=\"", &identity.container),
    ] {
        out.push_str(opening);
        escape_label(value, &mut out);
    }
    out.push('"');
    out
}
