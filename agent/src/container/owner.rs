//! Whose a container is: the workload that it is counted in, from what its runtime and its path say.
//!
//! No API server is asked. CRI has the labels of a pod at its sandbox, and those that a controller sets
//! say what the owner is; the pod's name says which, for a controller makes it from the owner's. Each
//! controller's labels and names are in `pkg/controller` of Kubernetes.
//!
//! A name with an id in it that is another one each time (of a session, a build, a CI job) would make a
//! workload of each container, so such ids are replaced by `*`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::{
    runtime::Metadata,
    snapshot::{Identity, Kind, OTHER_NAME, WorkloadKind},
};

/// Workload of containers that no runtime has named.
const UNNAMED: &str = "_unnamed";
/// Workload of everything that has no entry of its own.
pub(crate) const OTHER: &str = OTHER_NAME;
/// Longest name of a workload, bytes.
const MOST_NAME: usize = 256;

/// Letters of generated names: no vowels, and no digits that look like letters
/// (`k8s.io/apimachinery/pkg/util/rand`).
const RANDOM_LETTERS: &str = "bcdfghjklmnpqrstvwxz2456789";
/// Random letters at the end of a generated name, and the length at which what is before them is cut
/// (`k8s.io/apiserver/pkg/storage/names`).
const RANDOM_LENGTH: usize = 5;
const MOST_GENERATED: usize = 63;
/// Letters of the hash of a pod template: decimal digits, each as the letter that
/// `rand.SafeEncodeString` has for it.
const HASH_LETTERS: &str = "456789bcdf";

/// When a CronJob's Job can have been scheduled, in the minutes since the epoch of its name: since 2015.
/// Below lie the dates of this century written as `YYYYMMDD`.
const SCHEDULED_MINUTES: std::ops::Range<u64> = 23_668_560..100_000_000;
/// The same for Kubernetes before 1.21, which had seconds there: up to 2033, where `YYYYMMDDHH` begins.
const SCHEDULED_SECONDS: std::ops::Range<u64> = 1_420_070_400..2_000_000_000;

/// Digits from which a number in a name that somebody chose is an id, and neither a version nor an
/// ordinal.
const ID_DIGITS: usize = 5;
/// Hexadecimal digits from which they are an id, if a decimal one is among them: no word is.
const ID_HEX: usize = 8;

/// Name and kind of the workload of a container, by what its runtime says, else by its path alone. `prefix`
/// stands before the container's name, and so before that of its workload: what a user runs is never added
/// to what the system runs. `node` is the name of the host.
pub(super) fn owner(
    identity: &Identity,
    prefix: Option<&str>,
    metadata: Option<&Metadata>,
    node: &str,
) -> (String, WorkloadKind) {
    let own_name = |prefix: &str| identity.container.strip_prefix(prefix)?.strip_prefix('/');
    let container = prefix.and_then(own_name).unwrap_or(&identity.container);
    let (name, kind) = match metadata {
        Some(metadata) if !identity.pod.is_empty() => of_pod(&identity.pod, metadata, node),
        Some(metadata) => of_engine(container, &metadata.labels),
        None => of_path(identity, container),
    };
    let name = match prefix {
        Some(prefix) => {
            let units = prefix
                .split('/')
                .map(|unit| match unit.starts_with("user@") {
                    true => unit.to_owned(),
                    false => of_unit(unit),
                });
            units.chain([name]).collect::<Vec<_>>().join("/")
        }
        None => name,
    };
    (cut(name), kind)
}

/// What an engine runs without Kubernetes: a service of Compose or Swarm, else the container by itself.
fn of_engine(container: &str, labels: &BTreeMap<String, String>) -> (String, WorkloadKind) {
    let label = |key| value(labels, key);
    if let (Some(project), Some(service)) = (
        label("com.docker.compose.project"),
        label("com.docker.compose.service"),
    ) {
        return (format!("{project}/{service}"), WorkloadKind::Compose);
    }
    if let Some(service) = label("com.docker.swarm.service.name") {
        return (service.to_owned(), WorkloadKind::Swarm);
    }
    (by_itself(container), WorkloadKind::Container)
}

fn of_path(identity: &Identity, name: &str) -> (String, WorkloadKind) {
    match identity.kind {
        Kind::Container | Kind::Sandbox if identity.runtime == "buildkit" => {
            ("buildkit".to_owned(), WorkloadKind::Container)
        }
        Kind::Container | Kind::Sandbox if !identity.container_id.is_empty() => {
            (UNNAMED.to_owned(), WorkloadKind::Container)
        }
        Kind::Container | Kind::Sandbox => (by_itself(name), WorkloadKind::Container),
        Kind::Service => (of_unit(name), WorkloadKind::Service),
        Kind::Cgroup => (without_ids(name, 1), WorkloadKind::Cgroup),
        Kind::Other => (OTHER.to_owned(), WorkloadKind::Other),
    }
}

/// A container under its own name; one that is called by its id has none.
fn by_itself(name: &str) -> String {
    let name = without_ids(name, ID_DIGITS);
    if name.is_empty() || name == "*" {
        return UNNAMED.to_owned();
    }
    name
}

/// A systemd unit: the instances of a template are one, and so are those of a name with an id
/// (`session-3.scope`, `run-u17.service`).
fn of_unit(unit: &str) -> String {
    let Some((stem, suffix)) = unit.rsplit_once('.') else {
        return without_ids(unit, 1);
    };
    match stem.split_once('@') {
        Some((template, _)) => format!("{}@.{suffix}", without_ids(template, 1)),
        None => format!("{}.{suffix}", without_ids(stem, 1)),
    }
}

fn of_pod(pod: &str, metadata: &Metadata, node: &str) -> (String, WorkloadKind) {
    let label = |key| value(&metadata.labels, key);
    // The second is what the Job controller set alone before 1.27.
    if let Some(job) = label("batch.kubernetes.io/job-name").or_else(|| label("job-name")) {
        return of_job(job);
    }
    if label("statefulset.kubernetes.io/pod-name").is_some()
        && let Some(set) = without_ordinal(pod)
    {
        return (set.to_owned(), WorkloadKind::StatefulSet);
    }
    if let Some(hash) = label("pod-template-hash")
        && let Some(deployment) = generated_after(pod, &format!("-{hash}-"))
    {
        return (deployment.to_owned(), WorkloadKind::Deployment);
    }
    if label("controller-revision-hash").is_some()
        && let Some(set) = generated_after(pod, "-")
    {
        return (set.to_owned(), WorkloadKind::DaemonSet);
    }
    // The kubelet adds the node's name to that of a pod from a file or an address of its own.
    let source = value(&metadata.annotations, "kubernetes.io/config.source");
    if matches!(source, Some("file" | "http")) {
        let name = pod
            .strip_suffix(&node.to_ascii_lowercase())
            .and_then(|rest| rest.strip_suffix('-'));
        return (name.unwrap_or(pod).to_owned(), WorkloadKind::Pod);
    }
    by_pod_name(pod, metadata)
}

/// A pod without a label of its controller: of one that sets none, or of a runtime that does not say the
/// labels of a container's pod.
fn by_pod_name(pod: &str, metadata: &Metadata) -> (String, WorkloadKind) {
    let knows_labels = metadata.runtime != "docker"
        && metadata
            .labels
            .keys()
            .any(|key| !key.starts_with("io.kubernetes."));
    if let Some(base) = generated_after(pod, "-") {
        if let Some((name, hash)) = base.rsplit_once('-')
            && (6..=10).contains(&hash.len())
            && hash.chars().all(|one| HASH_LETTERS.contains(one))
        {
            return (name.to_owned(), WorkloadKind::Deployment);
        }
        // A ReplicaSet without a Deployment sets no label, but has some, to select its pods by.
        let kind = match knows_labels {
            true => WorkloadKind::ReplicaSet,
            false => WorkloadKind::Pod,
        };
        return (base.to_owned(), kind);
    }
    let name = match value(&metadata.labels, "app.kubernetes.io/name") {
        Some(app) => app.to_owned(),
        None if knows_labels => without_ids(pod, ID_DIGITS),
        None => without_ids(without_ordinal(pod).unwrap_or(pod), ID_DIGITS),
    };
    (name, WorkloadKind::Pod)
}

/// A Job: one that a CronJob made has the minute at the end of its name, one with a generated name random
/// letters.
fn of_job(job: &str) -> (String, WorkloadKind) {
    if let Some((name, time)) = job.rsplit_once('-')
        && !name.is_empty()
        && time.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(time) = time.parse()
        && (SCHEDULED_MINUTES.contains(&time) || SCHEDULED_SECONDS.contains(&time))
    {
        return (name.to_owned(), WorkloadKind::CronJob);
    }
    let name = generated_after(job, "-").unwrap_or(job);
    (without_ids(name, ID_DIGITS), WorkloadKind::Job)
}

/// What a name was generated of, less `ending`: at the end stand random letters, and what was too long
/// was cut before they were added, `ending` first.
fn generated_after<'a>(name: &'a str, ending: &str) -> Option<&'a str> {
    let (base, random) = name.split_at_checked(name.len().checked_sub(RANDOM_LENGTH)?)?;
    if !random.chars().all(|one| RANDOM_LETTERS.contains(one)) {
        return None;
    }
    let base = match base.strip_suffix(ending) {
        Some(base) => base,
        None if name.len() < MOST_GENERATED => return None,
        None => (0..ending.len())
            .rev()
            .find_map(|length| base.strip_suffix(ending.get(..length)?))?,
    };
    (!base.is_empty()).then_some(base)
}

/// The name of a StatefulSet's pod without its number.
fn without_ordinal(pod: &str) -> Option<&str> {
    let (name, ordinal) = pod.rsplit_once('-')?;
    let is_number = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !name.is_empty()).then_some(name)
}

/// A name whose ids are replaced by `*`: uuids, hexadecimal digits, and numbers of `digits` at least.
/// An id is a whole word of it, between `-`, `_`, `.`, `:`, `/` and the ends. Several in a row are one.
fn without_ids(name: &str, digits: usize) -> String {
    let is_end = |one: char| matches!(one, '-' | '_' | '.' | ':' | '/');
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        let uuid = rest.get(..UUID_LENGTH).filter(|text| is_uuid(text));
        let after = |word: &str| rest.get(word.len()..).unwrap_or_default();
        let word = uuid
            .filter(|uuid| after(uuid).chars().next().is_none_or(is_end))
            .unwrap_or_else(|| rest.split(is_end).next().unwrap_or(rest));
        let after = after(word);
        // A short number beside a point is of a version.
        let is_version = out.ends_with('.')
            || after
                .strip_prefix('.')
                .is_some_and(|next| next.starts_with(|one: char| one.is_ascii_digit()));
        if is_id(word, if is_version { ID_DIGITS } else { digits }) {
            let follows_another = out.ends_with("*-") || out.ends_with("*_");
            if follows_another {
                out.pop();
            } else {
                out.push('*');
            }
        } else {
            out.push_str(word);
        }
        let mut characters = after.chars();
        out.extend(characters.next());
        rest = characters.as_str();
    }
    out
}

const UUID_LENGTH: usize = 36;

fn is_uuid(text: &str) -> bool {
    text.len() == UUID_LENGTH
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn is_id(word: &str, digits: usize) -> bool {
    if is_uuid(word) {
        return true;
    }
    // A letter of systemd-run before what makes a name unique: `run-u17`, `run-r<hex>`, `run-p4711-i5122`.
    let number = match digits {
        1 => word.strip_prefix(['u', 'r', 'p', 'i']).unwrap_or(word),
        _ => word,
    };
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_hex = |text: &str| {
        text.len() >= ID_HEX
            && text.bytes().all(|byte| byte.is_ascii_hexdigit())
            && text.bytes().any(|byte| byte.is_ascii_digit())
    };
    (number.len() >= digits && is_number(number)) || is_hex(word) || is_hex(number)
}

fn value<'a>(labels: &'a BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    labels
        .get(key)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

/// The beginning of a name that is too long.
fn cut(mut name: String) -> String {
    let mut end = name.len().min(MOST_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name
}
