//! From what a user calls a container to its place in a snapshot.

use crate::{
    nearest::nearest,
    snapshot::{Container, Identity, Kind, Snapshot},
    source::SourceError,
};

/// Names suggested for an unknown one.
const MAX_SUGGESTIONS: usize = 3;

/// Finds the container that `query` means and returns its index in [`Snapshot::containers`].
///
/// A query is a name, an id or a unique prefix of one, `namespace/pod/container`, or a cgroup path with
/// or without its leading slash. What stands before the name of something of a user (`user@1000.service/web`)
/// may be left out where nothing of the system has that name. An exact match beats a prefix, and among matches of one kind a live
/// container beats one that exited.
///
/// # Errors
///
/// [`SourceError::BadRequest`] for an empty query, [`SourceError::UnknownContainer`] with the nearest
/// names, [`SourceError::AmbiguousContainer`] with all that it could mean.
pub fn resolve_container(snapshot: &Snapshot, query: &str) -> Result<usize, SourceError> {
    let wanted = query.trim();
    if wanted.trim_matches('/').is_empty() {
        return Err(SourceError::BadRequest(
            "the container is empty; give a name, an id, namespace/pod/container or a cgroup path"
                .to_owned(),
        ));
    }
    let exact = |container: &Container| is_exactly(&container.identity, wanted);
    let prefix = |container: &Container| container.identity.container_id.starts_with(wanted);
    let mut found = matches(snapshot, exact);
    if found.is_empty() && !wanted.contains('/') {
        found = matches(snapshot, |container| {
            is_last_of_name(&container.identity, wanted)
        });
    }
    if found.is_empty() {
        found = matches(snapshot, prefix);
    }
    match found.as_slice() {
        [] => Err(unknown(snapshot, query)),
        [index] => Ok(*index),
        several => Err(SourceError::AmbiguousContainer {
            query: query.to_owned(),
            matches: several
                .iter()
                .filter_map(|&index| snapshot.containers.get(index))
                .map(|container| unambiguous_name(&container.identity))
                .collect(),
        }),
    }
}

/// The name to show for a container: `namespace/pod/container`, or the container alone outside
/// Kubernetes.
#[must_use]
pub fn display_name(identity: &Identity) -> String {
    if identity.namespace.is_empty() && identity.pod.is_empty() {
        identity.container.clone()
    } else {
        format!(
            "{}/{}/{}",
            identity.namespace, identity.pod, identity.container
        )
    }
}

fn is_exactly(identity: &Identity, wanted: &str) -> bool {
    identity.container == wanted
        || (!identity.container_id.is_empty() && identity.container_id == wanted)
        || (!identity.pod.is_empty() && display_name(identity) == wanted)
        || (!identity.cgroup.is_empty()
            && identity.cgroup.trim_matches('/') == wanted.trim_matches('/'))
}

/// Whether it is the name of a container or unit without the units that it is in.
fn is_last_of_name(identity: &Identity, wanted: &str) -> bool {
    let last = identity.container.rsplit_once('/').map(|(_, last)| last);
    identity.kind != Kind::Cgroup && last == Some(wanted)
}

/// Indices of the containers that match; the exited ones only where no live one does.
fn matches(snapshot: &Snapshot, is_match: impl Fn(&Container) -> bool) -> Vec<usize> {
    let found = |live: bool| -> Vec<usize> {
        snapshot
            .containers
            .iter()
            .enumerate()
            .filter(|(_, container)| container.exited_at_unix_ms.is_none() == live)
            .filter(|(_, container)| is_match(container))
            .map(|(index, _)| index)
            .collect()
    };
    let live = found(true);
    if live.is_empty() { found(false) } else { live }
}

/// A name that finds this container and no other: with its id, or its cgroup where it has none.
fn unambiguous_name(identity: &Identity) -> String {
    let name = display_name(identity);
    if identity.container_id.is_empty() {
        return format!("{name} ({})", identity.cgroup);
    }
    let short: String = identity.container_id.chars().take(12).collect();
    format!("{name} ({short})")
}

fn unknown(snapshot: &Snapshot, query: &str) -> SourceError {
    let names: Vec<String> = snapshot
        .containers
        .iter()
        .flat_map(|container| {
            let identity = &container.identity;
            [display_name(identity), identity.container.clone()]
        })
        .collect();
    let near = nearest(query, names.iter().map(String::as_str), MAX_SUGGESTIONS);
    let hint = if near.is_empty() {
        "`ctrscope top` lists them".to_owned()
    } else {
        format!("did you mean {}?", near.join(" or "))
    };
    SourceError::UnknownContainer {
        query: query.to_owned(),
        hint,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn container(name: &str, id: &str, cgroup: &str) -> Container {
        Container {
            identity: Arc::new(Identity {
                container: name.to_owned(),
                container_id: id.to_owned(),
                cgroup: cgroup.to_owned(),
                ..Identity::default()
            }),
            ..Container::default()
        }
    }

    fn snapshot() -> Snapshot {
        let mut pod = container("app", "cafe01", "/kubepods/podx/cafe01");
        let identity = Arc::make_mut(&mut pod.identity);
        identity.namespace = "shop".to_owned();
        identity.pod = "checkout-1".to_owned();
        let mut exited = container("web", "dead02", "/docker/dead02");
        exited.exited_at_unix_ms = Some(1);
        Snapshot {
            containers: vec![
                pod,
                exited,
                container("web", "beef03", "/docker/beef03"),
                container("cron.service", "", "/system.slice/cron.service"),
                container("cafe", "beef04", "/docker/beef04"),
            ],
            ..Snapshot::default()
        }
    }

    fn index(query: &str) -> usize {
        resolve_container(&snapshot(), query).expect(query)
    }

    fn message(query: &str) -> String {
        resolve_container(&snapshot(), query)
            .expect_err(query)
            .to_string()
    }

    #[test]
    fn a_container_is_found_by_each_of_its_names() {
        assert_eq!(index("app"), 0);
        assert_eq!(index("cafe01"), 0);
        assert_eq!(index("cafe0"), 0);
        assert_eq!(index("shop/checkout-1/app"), 0);
        assert_eq!(index("/kubepods/podx/cafe01"), 0);
        assert_eq!(index("system.slice/cron.service"), 3);
        assert_eq!(index("/system.slice/cron.service/"), 3);
    }

    #[test]
    fn live_beats_exited_and_the_exited_one_stays_reachable_by_id() {
        assert_eq!(index("web"), 2);
        assert_eq!(index("dead"), 1);
    }

    #[test]
    fn exact_beats_prefix() {
        assert_eq!(index("cafe"), 4);
    }

    #[test]
    fn an_ambiguous_prefix_lists_what_it_could_mean() {
        assert_eq!(
            message("beef"),
            "\"beef\" means 2 containers: web (beef03), cafe (beef04); give more of the name"
        );
    }

    #[test]
    fn an_unknown_name_suggests_near_ones_or_where_to_look() {
        assert_eq!(message("wbe"), "no container \"wbe\": did you mean web?");
        assert_eq!(
            message("zzzz"),
            "no container \"zzzz\": `ctrscope top` lists them"
        );
        assert!(message(" / ").starts_with("the container is empty"));
    }
}
