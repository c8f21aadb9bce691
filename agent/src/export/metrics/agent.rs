//! The agent's account of itself.

use super::text::Value;
use crate::snapshot::{AgentHealth, CollectorState, Operation};

/// What the agent's own process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    /// User and system CPU time, seconds.
    pub cpu_seconds: f64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
}

impl ProcessUsage {
    /// Reads it from `/proc/self/stat`.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn read() -> Result<Self, procfs::ProcError> {
        let stat = procfs::process::Process::myself()?.stat()?;
        let ticks = (stat.utime + stat.stime) as f64;
        Ok(Self {
            cpu_seconds: ticks / procfs::ticks_per_second() as f64,
            resident_bytes: stat.rss * procfs::page_size(),
        })
    }
}

/// What the agent's metrics are read from.
pub(crate) struct AgentView<'a> {
    pub(crate) health: &'a AgentHealth,
    pub(crate) process: Option<&'a ProcessUsage>,
}

/// Rows of one family: label values in the order of the metric's labels, and the number.
pub(crate) type Rows = Vec<(Vec<String>, Value)>;

/// Bytes by whom they are charged to and by operation. A flush moves none, so it has no series.
pub(crate) fn charged_bytes(view: &AgentView<'_>, rows: &mut Rows) {
    let Some(bytes) = &view.health.charged_bytes else {
        return;
    };
    for (charged, bytes) in [
        ("container", &bytes.container),
        ("service", &bytes.service),
        ("other", &bytes.other),
    ] {
        for (operation, &bytes) in Operation::ALL.iter().zip(bytes) {
            if *operation != Operation::Flush {
                let labels = vec![charged.to_owned(), operation.label().to_owned()];
                rows.push((labels, Value::Count(bytes)));
            }
        }
    }
}

/// A number of slots; without programs there are none to count.
pub(crate) fn slots(view: &AgentView<'_>, count: u32, rows: &mut Rows) {
    if view.health.slots > 0 {
        rows.push((vec![], Value::Count(u64::from(count))));
    }
}

/// Addresses of profiles by whether they have a name.
pub(crate) fn profile_addresses(view: &AgentView<'_>, rows: &mut Rows) {
    for (named, count) in ["yes", "no"].into_iter().zip(view.health.profile_addresses) {
        rows.push((vec![named.into()], Value::Count(count)));
    }
}

/// Each state of each collector: 1 for the state it is in, 0 for the others.
pub(crate) fn collector_states(view: &AgentView<'_>, rows: &mut Rows) {
    for collector in &view.health.collectors {
        for (state, label) in [
            (CollectorState::Active, "active"),
            (CollectorState::Degraded, "degraded"),
            (CollectorState::Unsupported, "unsupported"),
            (CollectorState::Failed, "failed"),
            (CollectorState::Disabled, "disabled"),
        ] {
            let is = u64::from(collector.state == state);
            rows.push((
                vec![collector.name.clone(), label.to_owned()],
                Value::Count(is),
            ));
        }
    }
}
