//! Containers that share a name become one series.
//!
//! A restarted container and its predecessor, which stays for the retention, have the same namespace,
//! pod and name, and Prometheus refuses a scrape that carries one series twice. Their counters are
//! summed here, with those of containers of that name that are gone ([`Container::former`]), so that the
//! sum does not fall when one of them goes. Gauges describe what exists: they come from the living
//! alone, and the exit code from whoever ended last.

use std::{borrow::Cow, collections::HashMap};

use super::text::escape_label;
use crate::snapshot::{Container, Identity, Snapshot};

/// One set of series: a container, or the sum of those that share its name.
pub(crate) struct Series<'a> {
    /// Its numbers.
    pub(crate) container: Cow<'a, Container>,
    /// Its label pairs, escaped, without braces.
    pub(crate) labels: String,
    /// When the run ended whose exit code it has.
    ended_unix_ms: Option<u64>,
}

/// Groups the containers of a snapshot into series, in the order of the snapshot.
pub(crate) fn series<'a>(snapshot: &'a Snapshot) -> Vec<Series<'a>> {
    let mut places: HashMap<(&str, &str, &str), usize> = HashMap::new();
    let mut all: Vec<Series<'a>> = Vec::with_capacity(snapshot.containers.len());
    for container in &snapshot.containers {
        let identity = &container.identity;
        let name = (
            identity.namespace.as_str(),
            identity.pod.as_str(),
            identity.container.as_str(),
        );
        let place = *places.entry(name).or_insert(all.len());
        if let Some(series) = all.get_mut(place) {
            if container.exit_code.is_some() && container.exited_at_unix_ms >= series.ended_unix_ms
            {
                series.ended_unix_ms = container.exited_at_unix_ms;
                series.container.to_mut().exit_code = container.exit_code;
            }
            merge(series.container.to_mut(), container);
        } else {
            let mut container = Cow::Borrowed(container);
            if container.exited_at_unix_ms.is_some() {
                clear_gauges(container.to_mut());
            }
            if container.former.is_some() {
                let container = container.to_mut();
                if let Some(former) = container.former.take() {
                    container.add_former(&former);
                }
            }
            let ended_unix_ms = container.exit_code.and(container.exited_at_unix_ms);
            all.push(Series {
                container,
                ended_unix_ms,
                labels: labels(identity),
            });
        }
    }
    all
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

/// Adds one container to a sum: its counters, and its gauges if it lives.
fn merge(sum: &mut Container, other: &Container) {
    sum.add_counters(other);
    match (sum.exited_at_unix_ms, other.exited_at_unix_ms) {
        (Some(_), None) => {
            sum.exited_at_unix_ms = None;
            add_gauges(sum, other);
        }
        (None, None) => add_gauges(sum, other),
        (Some(mine), Some(theirs)) => sum.exited_at_unix_ms = Some(mine.max(theirs)),
        (None, Some(_)) => {}
    }
}

fn clear_gauges(sum: &mut Container) {
    if let Some(cpu) = &mut sum.cpu {
        cpu.quota_cores = None;
        cpu.weight = None;
    }
    if let Some(memory) = &mut sum.memory {
        memory.working_set_bytes = None;
        memory.limit_bytes = None;
    }
}

fn add_gauges(sum: &mut Container, other: &Container) {
    if let (Some(mine), Some(theirs)) = (&mut sum.cpu, &other.cpu) {
        mine.quota_cores = both(mine.quota_cores, theirs.quota_cores, |a, b| a + b);
        mine.weight = both(mine.weight, theirs.weight, u64::max);
    }
    if let (Some(mine), Some(theirs)) = (&mut sum.memory, &other.memory) {
        mine.working_set_bytes = plus(mine.working_set_bytes, theirs.working_set_bytes);
        mine.limit_bytes = plus(mine.limit_bytes, theirs.limit_bytes);
    }
}

fn plus(mine: Option<u64>, theirs: Option<u64>) -> Option<u64> {
    both(mine, theirs, |a, b| a + b)
}

/// `None` where neither is known.
fn both<T>(mine: Option<T>, theirs: Option<T>, join: impl FnOnce(T, T) -> T) -> Option<T> {
    match (mine, theirs) {
        (Some(mine), Some(theirs)) => Some(join(mine, theirs)),
        (mine, theirs) => mine.or(theirs),
    }
}
