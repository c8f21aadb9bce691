//! Containers that live for less than a scrape interval.

use std::time::Duration;

use ctrscope::snapshot::Container as Seen;
use ctrscope_tests::{Agent, Container, ContainerSpec, metrics::Metrics, wait_until};

use crate::observe::{entry, group, snapshot};

const PATIENCE: Duration = Duration::from_secs(60);

/// A container that computes for a fifth of a second.
pub(crate) fn brief() -> ContainerSpec {
    ContainerSpec::new("brief", &["burn", "--seconds", "0.2"])
}

/// The entry of a container once its end is seen, and a scrape from after that.
pub(crate) fn wait_exited(agent: &Agent, cgroup: &str, patience: Duration) -> (Seen, Metrics) {
    let seen = wait_until(patience, "its end is seen", || {
        let snapshot = snapshot(agent);
        let seen = entry(&snapshot, cgroup).filter(|seen| seen.exited_at_unix_ms.is_some());
        Ok(seen.cloned())
    })
    .unwrap();
    (seen, agent.metrics().unwrap())
}

#[test]
fn a_short_lived_container_is_counted_and_named() {
    let agent = Agent::start(&[]).unwrap();
    let group = group();
    let container = Container::start(&group, &brief()).unwrap();
    container.wait_end().unwrap();
    let cgroup = container.cgroup().to_owned();
    drop(container);

    let (seen, metrics) = wait_exited(&agent, &cgroup, PATIENCE);
    let name = cgroup.trim_start_matches('/');
    assert_eq!(seen.identity.container, name);
    let labels = [("container", name)];
    for metric in [
        "ctrscope_container_cpu_seconds_total",
        "ctrscope_container_exited_timestamp_seconds",
    ] {
        assert!(metrics.value(metric, &labels) > Some(0.0), "{metric}");
    }
    let refused = [("reason", "limit")];
    assert_eq!(
        metrics.value("ctrscope_containers_in_other_total", &refused),
        Some(0.0)
    );
}
