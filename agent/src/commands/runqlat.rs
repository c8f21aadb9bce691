//! `ctrscope runqlat`: run queue latency.

use std::io::Write;

use super::{CommandError, Outcome, latency};
use crate::{
    cli::RunqlatArgs,
    snapshot::Container,
    source::{Cancel, Source},
};

pub(super) const MEASURE: latency::Measure = latency::Measure {
    name: "run_queue_latency",
    title: "run queue latency",
    collector: "sched",
    read: |container: &Container| {
        let sched = container.counters.sched.as_ref()?;
        Some(vec![(None, sched.run_queue.clone())])
    },
};

pub(super) fn runqlat(
    arguments: &RunqlatArgs,
    source: &dyn Source,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<Outcome, CommandError> {
    latency::run(&MEASURE, &arguments.latency, source, cancel, out)
}
