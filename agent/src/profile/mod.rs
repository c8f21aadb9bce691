//! On-demand profiles: from sampled addresses to a flame graph.
//!
//! Stages: [`RawProfile`] (addresses, as sampled) → [`Symbolizer`] (names) → [`Profile`] (stacks with
//! names) → [`fold`](mod@fold), [`svg`], [`pprof`], [`speedscope`].
//!
//! Everything that comes from a container (process names, file names, symbol tables, perf maps) is
//! hostile input: opened inside the container's root, bounded, and cleaned ([`frame_name`]).
//! Without CAP_SYSLOG or with `kernel.kptr_restrict` set kernel frames have no names; without
//! CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE files are opened by path inside the container's root
//! (Linux 5.6) instead of through `map_files`, so deleted ones have no names.

mod demangle;
mod elf;
pub mod fold;
pub mod frame_name;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod image;
mod interner;
mod kallsyms;
mod kind;
#[cfg(test)]
mod made;
mod maps;
mod merge;
mod named;
mod numbers;
mod open_in_root;
mod perf_map;
pub mod pprof;
mod process;
mod programs;
mod python;
mod pythons;
mod raw;
pub mod speedscope;
pub mod svg;
pub mod symbolize;
mod symbols;
pub(crate) mod unwind;

pub use fold::{fold, write_folded};
pub(crate) use image::Image;
pub use kind::{ProfileType, Split};
pub use named::{Frame, FrameKind, InlinedLeftOut, NamedStack, Profile, StackCounts, name};
pub use pprof::write_pprof;
pub(crate) use process::Process;
pub(crate) use programs::{Programs, Refused, WalkMemory};
pub(crate) use pythons::{Pythons, WantedStack};
pub use raw::{
    Asked, Owner, ProfileLosses, PythonFrame, PythonStack, RawProfile, RawSample, WalkEnd,
};
pub use speedscope::write_speedscope;
pub use svg::{FlameGraph, SvgError};
pub use symbolize::Symbolizer;
pub(crate) use symbols::SymbolCache;
pub(crate) use unwind::UnwindTable;
