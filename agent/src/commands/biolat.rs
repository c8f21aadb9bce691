//! `ctrscope biolat`: block I/O latency.

use std::io::Write;

use super::{CommandError, Outcome, latency};
use crate::{
    cli::BiolatArgs,
    snapshot::{Container, Operation},
    source::{Cancel, Source},
};

const ALL: latency::Measure = latency::Measure {
    name: "block_io_latency",
    title: "block I/O latency",
    collector: "block",
    read: |container: &Container| {
        let block = container.counters.block.as_ref()?;
        Some(vec![(None, block.latency())])
    },
};

const BY_OPERATION: latency::Measure = latency::Measure {
    read: |container: &Container| {
        let block = container.counters.block.as_ref()?;
        let operations = Operation::ALL.iter().zip(&block.operations);
        Some(
            operations
                .map(|(operation, stats)| (Some(operation.label()), stats.latency.clone()))
                .collect(),
        )
    },
    ..ALL
};

pub(super) fn biolat(
    arguments: &BiolatArgs,
    source: &dyn Source,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<Outcome, CommandError> {
    let measure = if arguments.by_operation {
        &BY_OPERATION
    } else {
        &ALL
    };
    latency::run(measure, &arguments.latency, source, cancel, out)
}
