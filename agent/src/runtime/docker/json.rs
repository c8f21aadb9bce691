//! What Docker and podman answer: JSON, read so that no answer takes much more memory than it is long.

use std::{borrow::Cow, fmt, marker::PhantomData, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use crate::{
    runtime::{
        Metadata,
        bounded::{self, Labels, take_kubernetes_labels},
        oci,
    },
    snapshot::Resources,
};

/// The containers of a list, without their limits.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Listing {
    /// As many as there is room for.
    pub(super) containers: Vec<Metadata>,
    /// How many there was none for.
    pub(super) left_out: u64,
    bytes: usize,
}

/// What an event says.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// Who a container is.
    Described(Arc<Metadata>),
    /// That one ended.
    Exited {
        /// Its id.
        id: String,
        /// Its exit code.
        exit_code: Option<i32>,
        /// When.
        unix_ms: Option<u64>,
    },
}

/// Text that is not copied unless it must be.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version<'a> {
    #[serde(borrow, default)]
    components: Vec<Component<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(default, deserialize_with = "own_name")]
    names: String,
    #[serde(borrow, default)]
    image: Cow<'a, str>,
    #[serde(default)]
    labels: Labels,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    config: Option<Config<'a>>,
    #[serde(default)]
    host_config: Option<HostConfig>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config<'a> {
    #[serde(borrow, default)]
    image: Cow<'a, str>,
    #[serde(default)]
    labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HostConfig {
    nano_cpus: i64,
    cpu_quota: i64,
    cpu_period: i64,
    cpu_shares: i64,
    memory: i64,
    memory_reservation: i64,
}

#[derive(Deserialize)]
struct Happened<'a> {
    #[serde(borrow, rename = "Action", default)]
    action: Cow<'a, str>,
    #[serde(borrow, rename = "Actor", default)]
    actor: Actor<'a>,
    #[serde(rename = "timeNano", default)]
    time_ns: u64,
}

#[derive(Default, Deserialize)]
struct Actor<'a> {
    #[serde(borrow, rename = "ID", default)]
    id: Cow<'a, str>,
    #[serde(rename = "Attributes", default)]
    attributes: Attributes,
}

/// Labels, and beside them what an event says of the container.
#[derive(Default)]
struct Attributes {
    labels: Labels,
    name: Option<String>,
    image: String,
    exit_code: Option<i32>,
}

/// Whether it is podman that answers `/version`.
pub(super) fn is_podman(body: &[u8]) -> Result<bool, serde_json::Error> {
    let version: Version<'_> = serde_json::from_slice(body)?;
    Ok(version
        .components
        .iter()
        .any(|component| component.name.to_ascii_lowercase().contains("podman")))
}

/// Reads `/containers/json`, as much of it as takes no more than `most` bytes.
pub(super) fn list(
    body: &[u8],
    runtime: &'static str,
    most: usize,
) -> Result<Listing, serde_json::Error> {
    struct Reader(&'static str, usize);

    impl<'de> Visitor<'de> for Reader {
        type Value = Listing;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of containers")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Listing, A::Error> {
            let mut listing = Listing::default();
            while let Some(one) = all.next_element::<Listed<'de>>()? {
                if !bounded::is_id(&one.id) {
                    continue;
                }
                let one = describe(self.0, &one.id, &one.names, &one.image, one.labels);
                listing.bytes += one.bytes();
                if listing.bytes <= self.1 {
                    listing.containers.push(one);
                } else {
                    listing.left_out += 1;
                }
            }
            Ok(listing)
        }
    }

    let mut json = serde_json::Deserializer::from_slice(body);
    let listing = json.deserialize_seq(Reader(runtime, most))?;
    json.end()?;
    Ok(listing)
}

/// Reads `/containers/{id}/json`; `None` if it is of another container, of which the id is a name.
pub(super) fn inspected(
    body: &[u8],
    id: &str,
    runtime: &'static str,
) -> Result<Option<Metadata>, serde_json::Error> {
    let found: Inspected<'_> = serde_json::from_slice(body)?;
    if found.id != id {
        return Ok(None);
    }
    let config = found.config.unwrap_or_default();
    let mut metadata = describe(runtime, id, &found.name, &config.image, config.labels);
    let limits = found.host_config.unwrap_or_default();
    metadata.resources = Some(limits.resources(!metadata.pod.is_empty()));
    Ok(Some(metadata))
}

/// Reads one line of `/events`; `None` if it says nothing of use.
pub(super) fn event(
    line: &[u8],
    runtime: &'static str,
) -> Result<Option<Event>, serde_json::Error> {
    let Happened {
        action,
        actor: Actor { id, attributes },
        time_ns,
    } = serde_json::from_slice(line)?;
    if !bounded::is_id(&id) {
        return Ok(None);
    }
    Ok(match &*action {
        "die" | "died" => Some(Event::Exited {
            id: id.into_owned(),
            exit_code: attributes.exit_code,
            unix_ms: (time_ns > 0).then_some(time_ns / 1_000_000),
        }),
        "create" | "start" | "rename" => attributes.name.map(|name| {
            let image = &attributes.image;
            let described = describe(runtime, &id, &name, image, attributes.labels);
            Event::Described(Arc::new(described))
        }),
        _ => None,
    })
}

fn describe(runtime: &'static str, id: &str, name: &str, image: &str, labels: Labels) -> Metadata {
    let mut metadata = Metadata {
        id: id.to_owned(),
        runtime,
        name: bounded::name(name.trim_start_matches('/')),
        image: bounded::name(image),
        labels: labels.into_map().into(),
        ..Metadata::default()
    };
    take_kubernetes_labels(&mut metadata);
    metadata
}

impl HostConfig {
    /// Shares are a CPU request in a pod, and a weight elsewhere.
    fn resources(&self, is_in_pod: bool) -> Resources {
        let cpu_limit = if self.nano_cpus > 0 {
            Some(self.nano_cpus as f64 / 1e9)
        } else {
            oci::cores(self.cpu_quota, Some(self.cpu_period))
        };
        let request = is_in_pod.then_some(self.cpu_shares);
        Resources {
            cpu_request_cores: request.and_then(oci::cores_of_shares),
            cpu_limit_cores: cpu_limit,
            memory_request_bytes: oci::bytes(self.memory_reservation),
            memory_limit_bytes: oci::bytes(self.memory),
        }
    }
}

/// A container's own name: links give it others, with a second slash.
fn own_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct First;

    impl<'de> Visitor<'de> for First {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("names")
        }

        fn visit_unit<E>(self) -> Result<String, E> {
            Ok(String::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<String, A::Error> {
            let mut found = String::new();
            while let Some(Text(name)) = names.next_element()? {
                let name = name.trim_start_matches('/');
                if found.is_empty() && !name.contains('/') {
                    found = bounded::name(name);
                }
            }
            Ok(found)
        }
    }

    deserializer.deserialize_any(First)
}

/// Reads an object of texts, pair by pair; `null` is an empty one.
struct Pairs<T, F>(F, PhantomData<T>);

impl<'de, T: Default, F: FnMut(&mut T, &str, &str)> Visitor<'de> for Pairs<T, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut pairs: A) -> Result<T, A::Error> {
        let mut all = T::default();
        while let Some((Text(key), Text(value))) = pairs.next_entry()? {
            (self.0)(&mut all, &key, &value);
        }
        Ok(all)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Pairs(Self::add, PhantomData))
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Pairs(
            |all: &mut Self, key: &str, value: &str| match key {
                "name" => all.name = Some(bounded::name(value.trim_start_matches('/'))),
                "image" => all.image = bounded::name(value),
                "exitCode" | "containerExitCode" => all.exit_code = value.parse().ok(),
                "oldName" => {}
                _ => all.labels.add(key, value),
            },
            PhantomData,
        ))
    }
}

#[cfg(test)]
mod tests;
