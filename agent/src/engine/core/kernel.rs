//! Brings the kernel side up, or says why there is none: the engine then runs on cgroup files alone.

use std::{error::Error, path::Path, sync::Arc};

use crate::{
    bpf::{
        KernelSide, SharedSlots, Sizes,
        btf::{self, Btf},
        features::{HostFeatures, explain, sampling_fix},
        layout::{Resolved, resolve},
        try_cpu_clock, unattached_programs,
    },
    engine::{EngineError, EngineOptions},
    snapshot::KernelProgram,
};

/// What came of loading the programs.
pub(super) struct Loaded {
    /// The kernel side; `None` where not one program that measures is attached.
    pub(super) side: Option<KernelSide>,
    /// Every program, with the reason where it is not attached.
    pub(super) programs: Vec<KernelProgram>,
    /// Whether the kernel says whose a block request is.
    pub(super) block_has_blkcg: bool,
    /// What a profile session needs, or why there can be none.
    pub(super) profile: Result<ProfileParts, String>,
}

/// What the kernel side lends to profile sessions.
#[derive(Clone)]
pub(in crate::engine) struct ProfileParts {
    pub(in crate::engine) resolved: Arc<Resolved>,
    /// Whether user stacks may be walked by tables.
    pub(in crate::engine) walks: bool,
    pub(in crate::engine) slots: SharedSlots,
}

impl Loaded {
    fn nothing(reason: &str) -> Self {
        Self {
            side: None,
            programs: unattached_programs(reason),
            block_has_blkcg: false,
            profile: Err(reason.to_owned()),
        }
    }
}

/// Loads what this host allows.
///
/// # Errors
///
/// [`EngineError::Privilege`] for a process that has none of the capabilities: it was not meant to be
/// the agent. [`EngineError::Btf`] for a file of type information that was given and cannot be used.
/// All else that is lacking is in [`Loaded`].
pub(super) fn load(
    options: &EngineOptions,
    features: &HostFeatures,
    sizes: Sizes,
    sampled_cpu: u32,
) -> Result<Loaded, EngineError> {
    let path = options.btf.as_deref().unwrap_or(Path::new(btf::KERNEL));
    let has = features.capabilities;
    if has.is_some_and(|has| !has.can_load() && !has.can_trace()) {
        return Err(EngineError::Privilege);
    }
    let resolved = match Btf::from_file(path) {
        Ok(btf) => Arc::new(resolve(&btf)),
        Err(error) if options.btf.is_some() => return Err(error.into()),
        Err(error) => return Ok(Loaded::nothing(&chain(&error))),
    };
    if has.is_some_and(|has| !has.can_load()) {
        return Ok(Loaded::nothing(
            "CAP_BPF is not granted, without it no program can be loaded: run the agent with CAP_BPF",
        ));
    }
    if has.is_some_and(|has| !has.can_trace()) {
        return Ok(Loaded::nothing(
            "CAP_PERFMON is not granted, without it no program can be attached: run the agent with \
             CAP_PERFMON",
        ));
    }
    if sizes.cpus == 0 {
        return Ok(Loaded::nothing(
            "the list of CPUs that there can be, /sys/devices/system/cpu/possible, cannot be read: mount \
             sysfs at /sys",
        ));
    }
    let side = match KernelSide::load(path, &resolved, sizes) {
        Ok(side) => side,
        Err(error) => {
            return Ok(Loaded::nothing(&explain(&chain(&error), features)));
        }
    };
    let mut programs = side.programs();
    for program in &mut programs {
        program.reason = explain(&program.reason, features);
    }
    // The reader of clocks measures nothing by itself.
    let any = programs
        .iter()
        .any(|program| program.attached && program.name != "read_clock");
    if !any {
        // What was attached goes with the rest.
        for program in programs.iter_mut().filter(|program| program.attached) {
            program.attached = false;
            "nothing else could be attached".clone_into(&mut program.reason);
        }
        return Ok(Loaded {
            side: None,
            programs,
            block_has_blkcg: false,
            profile: Err("no program could be attached".to_owned()),
        });
    }
    let block_has_blkcg = resolved.layout.block_has_blkcg != 0;
    let profile = match side.profile() {
        Err(reason) => Err(explain(reason, features)),
        Ok(()) => match try_cpu_clock(sampled_cpu) {
            Err(error) => Err(format!(
                "perf_event_open: {error}: {}",
                sampling_fix(&error, features)
            )),
            Ok(()) => Ok(ProfileParts {
                resolved,
                walks: features.reads_user_memory && cfg!(target_arch = "x86_64"),
                slots: Arc::clone(side.cpu_slots()),
            }),
        },
    };
    Ok(Loaded {
        side: Some(side),
        programs,
        block_has_blkcg,
        profile,
    })
}

/// An error with its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = inner.source();
    }
    text.trim_end().replace('\n', " | ")
}
