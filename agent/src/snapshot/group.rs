//! Containers that are one to somebody, added up.

use std::{borrow::Cow, collections::HashMap, hash::Hash, sync::Arc};

use super::{Container, Counted as _, Counters, Gauges, Identity};

/// Containers of one key, added up.
///
/// Counters are those of all of them, and of those that are gone and were left to them
/// ([`Container::former`]), so that no sum falls when one goes. Gauges describe what exists: they come from
/// the living alone, and the exit code from whoever ended last.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// Who stands for all: the newest that lives, else who ended last.
    pub identity: &'a Arc<Identity>,
    /// What they counted.
    pub counters: Cow<'a, Counters>,
    /// What the living have.
    pub gauges: Gauges,
    /// When the last one ended, milliseconds since the epoch; `None` while one lives.
    pub exited_at_unix_ms: Option<u64>,
    /// Exit code of who ended last.
    pub exit_code: Option<i32>,
    /// As of [`Container::is_counted_elsewhere`].
    pub is_counted_elsewhere: bool,
    /// When the run ended whose exit code it has.
    ended_unix_ms: Option<u64>,
    /// Who is before whom of those that could stand for it.
    rank: (bool, u64),
}

/// Adds up the containers that have the same key, in the order in which the keys come first.
pub fn group_by<'a, K: Eq + Hash>(
    containers: &'a [Container],
    key: impl Fn(&'a Identity) -> K,
) -> Vec<Group<'a>> {
    let mut places: HashMap<K, usize> = HashMap::with_capacity(containers.len());
    let mut groups: Vec<Group<'a>> = Vec::with_capacity(containers.len());
    for container in containers {
        let place = *places
            .entry(key(&container.identity))
            .or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.add(container),
            None => groups.push(Group::of(container)),
        }
    }
    groups
}

/// What a series of containers is known by.
#[must_use]
pub fn series_name(identity: &Identity) -> (&str, &str, &str) {
    (&identity.namespace, &identity.pod, &identity.container)
}

impl<'a> Group<'a> {
    fn of(container: &'a Container) -> Self {
        let mut counters = Cow::Borrowed(&container.counters);
        if let Some(former) = &container.former {
            counters.to_mut().add(former);
        }
        Self {
            identity: &container.identity,
            counters,
            gauges: gauges(container),
            exited_at_unix_ms: container.exited_at_unix_ms,
            exit_code: container.exit_code,
            is_counted_elsewhere: container.is_counted_elsewhere,
            ended_unix_ms: container.exit_code.and(container.exited_at_unix_ms),
            rank: rank(container),
        }
    }

    fn add(&mut self, container: &'a Container) {
        if container.exit_code.is_some() && container.exited_at_unix_ms >= self.ended_unix_ms {
            self.ended_unix_ms = container.exited_at_unix_ms;
            self.exit_code = container.exit_code;
        }
        let counters = self.counters.to_mut();
        counters.add(&container.counters);
        if let Some(former) = &container.former {
            counters.add(former);
        }
        self.gauges.add(&gauges(container));
        let exits = self.exited_at_unix_ms.zip(container.exited_at_unix_ms);
        self.exited_at_unix_ms = exits.map(|(mine, theirs)| mine.max(theirs));
        self.is_counted_elsewhere |= container.is_counted_elsewhere;
        if rank(container) > self.rank {
            self.rank = rank(container);
            self.identity = &container.identity;
        }
    }

    /// Time on CPUs, nanoseconds, as of [`Container::on_cpu_ns`].
    #[must_use]
    pub fn on_cpu_ns(&self) -> Option<u64> {
        if self.is_counted_elsewhere {
            self.counters.cpu_usage_ns
        } else {
            self.counters.on_cpu_ns()
        }
    }
}

fn gauges(container: &Container) -> Gauges {
    match container.exited_at_unix_ms {
        None => container.gauges,
        Some(_) => Gauges::default(),
    }
}

fn rank(container: &Container) -> (bool, u64) {
    match container.exited_at_unix_ms {
        None => (true, container.first_seen_unix_ms),
        Some(exited) => (false, exited),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, id: &str, first_seen: u64, exited: Option<u64>) -> Container {
        Container {
            identity: Arc::new(Identity {
                container: name.to_owned(),
                container_id: id.to_owned(),
                ..Identity::default()
            }),
            first_seen_unix_ms: first_seen,
            exited_at_unix_ms: exited,
            counters: Counters {
                cpu_usage_ns: Some(10),
                ..Counters::default()
            },
            gauges: Gauges {
                memory_working_set_bytes: Some(7),
                ..Gauges::default()
            },
            ..Container::default()
        }
    }

    #[test]
    fn counters_of_all_and_gauges_of_the_living_are_added() {
        let mut heir = container("web", "c", 9, None);
        heir.former = Some(Box::new(Counters {
            cpu_usage_ns: Some(100),
            ..Counters::default()
        }));
        let all = [
            container("web", "a", 1, Some(5)),
            container("db", "b", 1, None),
            heir,
            container("web", "d", 3, None),
        ];
        let groups = group_by(&all, series_name);
        let told: Vec<_> = groups
            .iter()
            .map(|one| {
                let name = one.identity.container.as_str();
                (name, one.on_cpu_ns(), one.gauges.memory_working_set_bytes)
            })
            .collect();
        assert_eq!(
            told,
            [("web", Some(130), Some(14)), ("db", Some(10), Some(7))]
        );
        assert_eq!(groups[0].exited_at_unix_ms, None);
    }

    #[test]
    fn the_newest_that_lives_stands_for_all_and_else_who_ended_last() {
        let who = |all: &[Container]| group_by(all, series_name)[0].identity.container_id.clone();
        let (old, new) = (
            container("web", "old", 1, None),
            container("web", "new", 2, None),
        );
        let ended = |id, at| container("web", id, 9, Some(at));
        assert_eq!(who(&[old.clone(), new.clone(), ended("x", 99)]), "new");
        assert_eq!(who(&[ended("x", 99), new, old]), "new");
        assert_eq!(who(&[ended("first", 3), ended("last", 4)]), "last");
    }
}
