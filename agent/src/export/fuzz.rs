//! Fuzz targets: queries, and texts with names in them that nobody here chose.

use super::{
    metrics::{ServerMetrics, render},
    server::fuzz as queries,
    synthetic::synthetic_snapshot,
};
use crate::{
    fuzz::{Target, texts},
    resolve::resolve_container,
    snapshot::Snapshot,
    terminal::printable,
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("http_query", queries::query),
    Target::new("metrics_labels", labels),
    Target::new("snapshot_json", snapshot),
    Target::new("container_query", container),
];

/// Names in the exposition: whatever they are, each line of it is a comment or a sample.
fn labels(bytes: &[u8]) {
    let [container, pod, image, workload] = texts(bytes);
    let mut snapshot = synthetic_snapshot(1);
    for one in &mut snapshot.containers {
        let mut identity = (*one.identity).clone();
        identity.container = container.to_string();
        identity.pod = pod.to_string();
        identity.image = image.to_string();
        identity.workload = workload.to_string();
        identity.cgroup = container.to_string();
        one.identity = identity.into();
    }
    for one in &mut snapshot.workloads {
        let mut identity = (*one.identity).clone();
        identity.name = workload.to_string();
        one.identity = identity.into();
    }
    assert_exposition(&snapshot);
}

fn assert_exposition(snapshot: &Snapshot) {
    let Ok(server) = ServerMetrics::new() else {
        panic!("the server's own metrics are constants");
    };
    let mut out = Vec::new();
    let written = render(snapshot, &[], None, &server, &mut out);
    assert_eq!(written.ok(), Some(out.len() as u64));
    let Ok(text) = String::from_utf8(out) else {
        panic!("the exposition is no UTF-8");
    };
    assert!(text.ends_with('\n') && !text.contains('\0'));
    for line in text.split_terminator('\n') {
        assert!(line.starts_with("# ") || is_sample(line), "{line:?}");
    }
}

/// `NAME{LABEL="VALUE",...} NUMBER`.
fn is_sample(line: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_word);
    let end = line.bytes().position(|byte| !is_word(byte));
    let Some((name, mut rest)) = end.and_then(|end| line.split_at_checked(end)) else {
        return false;
    };
    let mut opening = '{';
    while let Some(label) = rest.strip_prefix(opening) {
        let Some((label, value)) = label.split_once("=\"") else {
            return false;
        };
        let Some(after) = after_value(value).filter(|_| is_name(label)) else {
            return false;
        };
        rest = after;
        opening = ',';
    }
    let rest = if opening == ',' {
        rest.strip_prefix('}')
    } else {
        Some(rest)
    };
    let number = rest.and_then(|rest| rest.strip_prefix(' '));
    is_name(name) && number.is_some_and(|number| number.parse::<f64>().is_ok())
}

/// What follows the closing quote of a value; `None` where an escape is not one of the format.
fn after_value(value: &str) -> Option<&str> {
    let mut characters = value.chars();
    loop {
        match characters.next()? {
            '"' => return Some(characters.as_str()),
            '\\' if !matches!(characters.next()?, '\\' | '"' | 'n') => return None,
            _ => {}
        }
    }
}

/// What a daemon answers to a command.
fn snapshot(bytes: &[u8]) {
    if let Ok(snapshot) = serde_json::from_slice::<Snapshot>(bytes) {
        assert_exposition(&snapshot);
        let Ok(json) = serde_json::to_vec(&snapshot) else {
            panic!("it came from JSON");
        };
        assert!(serde_json::from_slice::<Snapshot>(&json).is_ok());
    }
}

/// What a user calls a container: it is found by its names alone, and errors can be printed.
fn container(bytes: &[u8]) {
    let [query, name] = texts(bytes);
    let mut snapshot = synthetic_snapshot(2);
    if let Some(one) = snapshot.containers.first_mut() {
        let mut identity = (*one.identity).clone();
        identity.container = name.to_string();
        one.identity = identity.into();
    }
    match resolve_container(&snapshot, &query) {
        Ok(index) => assert!(index < snapshot.containers.len()),
        Err(error) => assert!(!printable(&error.to_string()).contains(char::is_control)),
    }
}
