//! What the trees look at: one container among all facts of a window, with the thresholds.

use std::collections::HashMap;

use super::{
    facts::{ContainerFacts, CpuTimeFacts, WindowFacts},
    thresholds::Thresholds,
};
use crate::snapshot::Kind;

/// Shortest time that has rates: shorter ones would be out of all proportion.
const LEAST_SECONDS: f64 = 0.001;

/// What all containers of a window share, computed once.
pub(super) struct Context<'a> {
    pub(super) window: &'a WindowFacts,
    pub(super) thresholds: &'a Thresholds,
    /// Places in [`WindowFacts::containers`] of those that go by a name; more than one where a container
    /// was restarted or two are called the same.
    by_name: HashMap<String, Vec<usize>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(window: &'a WindowFacts, thresholds: &'a Thresholds) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, container) in window.containers.iter().enumerate() {
            by_name
                .entry(container.identity.label())
                .or_default()
                .push(index);
        }
        Self {
            window,
            thresholds,
            by_name,
        }
    }

    /// The containers of a name.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &'a ContainerFacts> {
        let places = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        places
            .iter()
            .filter_map(|&index| self.window.containers.get(index))
    }
}

/// One container of a window.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) window: &'a WindowFacts,
    pub(super) container: &'a ContainerFacts,
    pub(super) thresholds: &'a Thresholds,
}

impl<'a> View<'a> {
    pub(super) fn new(context: &'a Context<'a>, container: &'a ContainerFacts) -> Self {
        Self {
            context,
            window: context.window,
            container,
            thresholds: context.thresholds,
        }
    }

    /// Something of this container for each second that its facts are of.
    pub(super) fn per_second(&self, amount: f64) -> Option<f64> {
        self.per_second_of(self.container, amount)
    }

    /// The same of another container, which may be younger.
    pub(super) fn per_second_of(&self, whose: &ContainerFacts, amount: f64) -> Option<f64> {
        let seconds = if whose.seconds > 0.0 {
            whose.seconds
        } else {
            self.window.seconds
        };
        (seconds >= LEAST_SECONDS).then(|| amount / seconds)
    }

    /// Something of the host for each second of the window.
    pub(super) fn per_second_of_host(&self, amount: f64) -> Option<f64> {
        (self.window.seconds >= LEAST_SECONDS).then(|| amount / self.window.seconds)
    }

    /// CPU time as CPUs' worth of it.
    pub(super) fn used_cores(&self) -> Option<f64> {
        self.cores_of(self.container)
    }

    /// The same of another container.
    pub(super) fn cores_of(&self, whose: &ContainerFacts) -> Option<f64> {
        self.per_second_of(whose, whose.cpu.used_seconds?)
    }

    /// The CPUs that it may run on.
    pub(super) fn own_cpus(&self) -> impl Iterator<Item = &'a CpuTimeFacts> {
        let cpuset = self.container.cpu.cpuset.as_ref();
        let cpus = self.window.host.cpus.iter();
        cpus.filter(move |one| cpuset.is_none_or(|set| set.contains(&one.cpu)))
    }

    /// The CPUs that its cpuset leaves out.
    pub(super) fn foreign_cpus(&self) -> impl Iterator<Item = &'a CpuTimeFacts> {
        let cpuset = self.container.cpu.cpuset.as_ref();
        let cpus = self.window.host.cpus.iter();
        cpus.filter(move |one| cpuset.is_some_and(|set| !set.contains(&one.cpu)))
    }

    /// Whether another one may have run on a CPU of this one's in the window, by their cpusets.
    pub(super) fn may_share_cpus(&self, other: &ContainerFacts) -> bool {
        let (own, others) = (&self.container.cpu, &other.cpu);
        let (Some(of_own), Some(of_others)) = (&own.cpuset, &others.cpuset) else {
            return true;
        };
        own.is_cpuset_new
            || others.is_cpuset_new
            || of_own.iter().any(|cpu| of_others.contains(cpu))
    }

    /// The other containers, the one of all others left out.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = &'a ContainerFacts> {
        let container = self.container;
        self.window
            .containers
            .iter()
            .filter(move |other| !std::ptr::eq(*other, container))
            .filter(|other| other.identity.kind != Kind::Other)
    }

    /// Containers in a cgroup or below it, this one among them.
    pub(super) fn members(&self, cgroup: &str) -> impl Iterator<Item = &'a ContainerFacts> {
        let all = self.window.containers.iter();
        all.filter(move |one| is_within(&one.identity.cgroup, cgroup))
    }
}

/// Whether a cgroup is another one or below it.
fn is_within(cgroup: &str, ancestor: &str) -> bool {
    let ancestor = ancestor.trim_end_matches('/');
    cgroup
        .strip_prefix(ancestor)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The mean of something over CPUs; `None` without any.
pub(super) fn mean<'a>(
    cpus: impl Iterator<Item = &'a CpuTimeFacts>,
    of: impl Fn(&CpuTimeFacts) -> f64,
) -> Option<f64> {
    let (count, sum) = cpus.fold((0_u32, 0.0), |(count, sum), one| (count + 1, sum + of(one)));
    (count > 0).then(|| sum / f64::from(count))
}

/// A part of a whole; `None` where the whole is nothing.
pub(super) fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| (part / whole).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_within_itself_and_its_ancestors_and_no_namesake() {
        assert!(is_within("/pods/a", "/pods/a"));
        assert!(is_within("/pods/a/b", "/pods/a/"));
        assert!(is_within("/pods/a", "/"));
        assert!(!is_within("/pods/ab", "/pods/a"));
        assert!(!is_within("/pods", "/pods/a"));
    }
}
