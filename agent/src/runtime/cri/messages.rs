//! The messages, as far as they are used. What is asked is encoded; what comes is read in place and
//! bounded at once.
//!
//! Numbers are those of `pkg/apis/runtime/v1/api.proto` of kubernetes/cri-api, and of
//! `api/services/*/v1/*.proto` and `api/events/*.proto` of containerd.

use prost::Message;

use super::wire::{Malformed, Value, fields};
use crate::{
    runtime::{
        bounded::{self, Labels},
        oci::{Cpu, LinuxResources, Memory, Unified},
    },
    snapshot::Resources,
};

/// Bytes that are read of an id, one more than of any that is taken for one.
const MOST_ID: usize = 129;
/// Bytes that are read of a name: more than what is kept of it.
const MOST_NAME: usize = 1_024;
/// Bytes that are read of a label's value: more than what is kept of it.
const MOST_VALUE: usize = 8_192;
/// Longest description of a container that is looked into for its limits, bytes.
const MOST_SPEC: usize = 1 << 20;
/// containerd's namespaces that are looked into, those that are not asked by their names among them.
const MOST_NAMESPACES: usize = 64;
/// `ContainerState` of a container that ended.
const EXITED: i64 = 2;

/// A message without a field that is used.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

/// A message whose first field is an id.
#[derive(Clone, PartialEq, Message)]
pub(super) struct IdRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VersionRequest {
    #[prost(string, tag = "1")]
    pub(super) version: String,
}

/// `ListContainersRequest` and `ListPodSandboxRequest`; a filter's first field is the id.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ListRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) filter: Option<IdRequest>,
}

/// `ContainerStatusRequest` and `PodSandboxStatusRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(bool, tag = "2")]
    pub(super) verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    pub(super) filters: Vec<String>,
}

/// A pod, by a list or by its status.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pod {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) labels: Labels,
    pub(super) annotations: Labels,
}

/// A container, by a list, by its status or by containerd's own service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) pod: String,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) labels: Labels,
    pub(super) annotations: Labels,
    /// What it was started with, where the message says it.
    pub(super) resources: Option<Resources>,
    /// How it ended, if it did.
    pub(super) exit: Option<Exit>,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) unix_ms: Option<u64>,
}

/// What `GetContainerEvents` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ContainerEvent {
    pub(super) id: String,
    pub(super) pod: Option<Pod>,
    pub(super) container: Option<Container>,
}

/// What `Subscribe` of containerd says; the event itself is decoded by its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Envelope<'a> {
    pub(super) namespace: &'a [u8],
    pub(super) topic: &'a [u8],
    pub(super) event: &'a [u8],
}

/// `TaskExit`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TaskExit {
    pub(super) container: String,
    pub(super) id: String,
    pub(super) exit: Option<Exit>,
}

fn name(value: Value<'_>) -> String {
    bounded::name(&value.text(MOST_NAME))
}

/// A map's entry.
fn add_label(labels: &mut Labels, entry: Value<'_>) {
    let (mut key, mut value) = (String::new(), String::new());
    for field in fields(entry.bytes()).flatten() {
        match field {
            (1, text) => key = text.text(MOST_NAME),
            (2, text) => value = text.text(MOST_VALUE),
            _ => {}
        }
    }
    labels.add(&key, &value);
}

/// The name of a `VersionResponse`'s runtime.
pub(super) fn runtime_name(message: &[u8]) -> Result<String, Malformed> {
    let mut found = String::new();
    for field in fields(message) {
        if let (2, value) = field? {
            found = value.text(MOST_NAME);
        }
    }
    Ok(found)
}

/// The elements of a list's first field, as far as they are no nonsense themselves: `ListPodSandbox`,
/// `ListContainers`, and containerd's `Containers.List`.
pub(super) fn listed<T>(
    message: &[u8],
    read: impl Fn(&[u8]) -> Result<T, Malformed>,
) -> impl Iterator<Item = Result<T, Malformed>> {
    fields(message).filter_map(move |field| match field {
        Ok((1, value)) => read(value.bytes()).ok().map(Ok),
        Ok(_) => None,
        Err(malformed) => Some(Err(malformed)),
    })
}

/// The first field of an answer, if it is there: a status, or containerd's container.
pub(super) fn first(message: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut found = None;
    for field in fields(message) {
        if let (1, value) = field? {
            found = Some(value.bytes());
        }
    }
    Ok(found)
}

/// `PodSandbox` of a list, or `PodSandboxStatus`: the same, but for the numbers of labels and annotations.
pub(super) fn pod(message: &[u8], is_status: bool) -> Result<Pod, Malformed> {
    let (labels, annotations) = if is_status { (7, 8) } else { (5, 6) };
    let mut pod = Pod::default();
    for field in fields(message) {
        match field? {
            (1, value) => pod.id = value.text(MOST_ID),
            (2, metadata) => {
                for field in fields(metadata.bytes()) {
                    match field? {
                        (1, value) => pod.name = name(value),
                        (2, value) => pod.uid = name(value),
                        (3, value) => pod.namespace = name(value),
                        _ => {}
                    }
                }
            }
            (number, entry) if number == labels => add_label(&mut pod.labels, entry),
            (number, entry) if number == annotations => add_label(&mut pod.annotations, entry),
            _ => {}
        }
    }
    Ok(pod)
}

/// `Container` of a list.
pub(super) fn container(message: &[u8]) -> Result<Container, Malformed> {
    let mut container = Container::default();
    for field in fields(message) {
        match field? {
            (1, value) => container.id = value.text(MOST_ID),
            (2, value) => container.pod = value.text(MOST_ID),
            (3, metadata) => container.name = name_of(metadata)?,
            (4, spec) => container.image = image(spec)?,
            (8, entry) => add_label(&mut container.labels, entry),
            (9, entry) => add_label(&mut container.annotations, entry),
            _ => {}
        }
    }
    Ok(container)
}

/// `ContainerStatus`. It does not say whose pod's it is.
pub(super) fn container_status(message: &[u8]) -> Result<Container, Malformed> {
    let mut container = Container::default();
    let (mut state, mut code, mut finished_ns) = (0, 0, 0);
    for field in fields(message) {
        match field? {
            (1, value) => container.id = value.text(MOST_ID),
            (2, metadata) => container.name = name_of(metadata)?,
            (3, value) => state = value.number(),
            (6, value) => finished_ns = value.number(),
            (7, value) => code = value.number(),
            (8, spec) => container.image = image(spec)?,
            (12, entry) => add_label(&mut container.labels, entry),
            (13, entry) => add_label(&mut container.annotations, entry),
            (16, value) => container.resources = resources(value)?,
            _ => {}
        }
    }
    container.exit = (state == EXITED).then(|| Exit {
        code: i32::try_from(code).unwrap_or(i32::MAX),
        unix_ms: u64::try_from(finished_ns / 1_000_000)
            .ok()
            .filter(|&ms| ms > 0),
    });
    Ok(container)
}

/// `ContainerMetadata`.
fn name_of(metadata: Value<'_>) -> Result<String, Malformed> {
    Ok(match first(metadata.bytes())? {
        Some(text) => name(Value::Bytes(text)),
        None => String::new(),
    })
}

/// `ImageSpec`: as the user wrote it, where that is said.
fn image(spec: Value<'_>) -> Result<String, Malformed> {
    let mut image = String::new();
    let mut is_of_user = false;
    for field in fields(spec.bytes()) {
        match field? {
            (1, value) if !is_of_user => image = name(value),
            (18, value) if !value.bytes().is_empty() => {
                is_of_user = true;
                image = name(value);
            }
            _ => {}
        }
    }
    Ok(image)
}

/// `ContainerResources`.
fn resources(value: Value<'_>) -> Result<Option<Resources>, Malformed> {
    let Some(linux) = first(value.bytes())? else {
        return Ok(None);
    };
    let (mut cpu, mut memory, mut unified) = (Cpu::default(), Memory::default(), Labels::default());
    for field in fields(linux) {
        match field? {
            (1, value) => cpu.period = Some(value.number()),
            (2, value) => cpu.quota = Some(value.number()),
            (3, value) => cpu.shares = Some(value.number()),
            (4, value) => memory.limit = Some(value.number()),
            (9, entry) => add_label(&mut unified, entry),
            _ => {}
        }
    }
    let found = LinuxResources {
        cpu: Some(cpu),
        memory: Some(memory),
        unified: Some(Unified {
            memory_min: unified.get("memory.min").map(str::to_owned),
        }),
    };
    Ok(Some(found.resources()))
}

/// The limits in the `info` of a `ContainerStatusResponse` that was asked to be verbose, where containerd
/// and CRI-O put the whole description that the container was made of.
pub(super) fn verbose_resources(message: &[u8]) -> Result<Option<Resources>, Malformed> {
    for field in fields(message) {
        let (2, entry) = field? else {
            continue;
        };
        for field in fields(entry.bytes()) {
            if let (2, Value::Bytes(text)) = field?
                && text.len() <= MOST_SPEC
                && let Some(found) = LinuxResources::of_info(text)
            {
                return Ok(Some(found.resources()));
            }
        }
    }
    Ok(None)
}

/// `Container` of containerd's own service; its name and its limits stand in labels and in the spec.
pub(super) fn own_container(message: &[u8]) -> Result<Container, Malformed> {
    let mut container = Container::default();
    for field in fields(message) {
        match field? {
            (1, value) => container.id = value.text(MOST_ID),
            (2, entry) => add_label(&mut container.labels, entry),
            (3, value) => container.image = name(value),
            (5, spec) => {
                for field in fields(spec.bytes()) {
                    if let (2, Value::Bytes(text)) = field?
                        && text.len() <= MOST_SPEC
                    {
                        let found = LinuxResources::of_spec(text);
                        container.resources = found.map(|found| found.resources());
                    }
                }
            }
            _ => {}
        }
    }
    Ok(container)
}

/// The names of a `ListNamespacesResponse`.
pub(super) fn namespaces(message: &[u8]) -> Vec<String> {
    listed(message, |namespace| {
        Ok(first(namespace)?
            .map(|text| Value::Bytes(text).text(MOST_NAME))
            .unwrap_or_default())
    })
    .flatten()
    .take(MOST_NAMESPACES)
    .collect()
}

/// `ContainerEventResponse`. A status that is no status counts as absent: field 4 was of another type in
/// the first version.
pub(super) fn container_event(message: &[u8]) -> Result<ContainerEvent, Malformed> {
    let mut event = ContainerEvent::default();
    for field in fields(message) {
        match field? {
            (1, value) => event.id = value.text(MOST_ID),
            (4, status) => event.pod = pod(status.bytes(), true).ok(),
            (5, status) => {
                // One of each container of the pod.
                if let Ok(one) = container_status(status.bytes())
                    && one.id == event.id
                {
                    event.container = Some(one);
                }
            }
            _ => {}
        }
    }
    Ok(event)
}

/// `Envelope`.
pub(super) fn envelope(message: &[u8]) -> Result<Envelope<'_>, Malformed> {
    let mut envelope = Envelope::default();
    for field in fields(message) {
        match field? {
            (2, value) => envelope.namespace = value.bytes(),
            (3, value) => envelope.topic = value.bytes(),
            (4, any) => {
                for field in fields(any.bytes()) {
                    if let (2, value) = field? {
                        envelope.event = value.bytes();
                    }
                }
            }
            _ => {}
        }
    }
    Ok(envelope)
}

/// The id of a `ContainerCreate` or a `TaskStart`, the first field of both.
pub(super) fn event_id(event: &[u8]) -> Result<String, Malformed> {
    Ok(first(event)?
        .map(|text| Value::Bytes(text).text(MOST_ID))
        .unwrap_or_default())
}

/// `TaskExit`.
pub(super) fn task_exit(event: &[u8]) -> Result<TaskExit, Malformed> {
    let mut exit = TaskExit::default();
    let (mut code, mut seconds) = (0, 0);
    for field in fields(event) {
        match field? {
            (1, value) => exit.container = value.text(MOST_ID),
            (2, value) => exit.id = value.text(MOST_ID),
            (4, value) => code = value.number(),
            (5, time) => {
                for field in fields(time.bytes()) {
                    if let (1, value) = field? {
                        seconds = value.number();
                    }
                }
            }
            _ => {}
        }
    }
    exit.exit = i32::try_from(code).ok().map(|code| Exit {
        code,
        unix_ms: u64::try_from(seconds)
            .ok()
            .filter(|&seconds| seconds > 0)
            .and_then(|seconds| seconds.checked_mul(1_000)),
    });
    Ok(exit)
}
