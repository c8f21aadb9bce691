//! All fuzz targets of the agent in one program: `CTRSCOPE_FUZZ_TARGET` names the one that runs.

#![no_main]

use std::{process, sync::LazyLock};

use ctrscope::fuzz::{Target, targets};
use libfuzzer_sys::fuzz_target;

/// Names the target.
const VARIABLE: &str = "CTRSCOPE_FUZZ_TARGET";

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    targets()
        .find(|target| target.name == wanted)
        .unwrap_or_else(|| {
            let names: Vec<_> = targets().map(|target| target.name).collect();
            eprintln!(
                "{VARIABLE} must be one of {}, not {wanted:?}",
                names.join(", ")
            );
            process::exit(2);
        })
});

fuzz_target!(
    init: {
        LazyLock::force(&TARGET);
    },
    |input: &[u8]| (TARGET.run)(input)
);
