//! All contact with aya and `bpf(2)`: what the host offers, field offsets, loading, attaching,
//! reading. Nothing outside names a type of aya.

mod error;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod loader;
mod mapped;
mod object;
mod sampler;
mod syscall;

pub mod btf;
pub mod features;
pub mod layout;

pub use error::BpfError;
pub(crate) use event::{CssId, FirstRun, KernelEvent, Subsystem};
pub(crate) use loader::{KernelSide, Sizes, unattached_programs};
pub(crate) use mapped::MappedArray;
pub(crate) use sampler::{
    Asks, INDEX_WORDS, MAPPINGS, ProfileSession, ROWS, Sampler, SessionSample, SharedSlots,
};
pub(crate) use syscall::{monotonic_ns, try_cpu_clock, wait_readable};
