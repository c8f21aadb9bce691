//! What the kernel side and user space must agree on: shared structs, limits and the histogram layout.
//!
//! One file per subject, under the name that the subject has in every other layer. This library
//! depends on nothing, so that both worlds compile it as it is; whatever is worth testing here is
//! a plain `const fn`, tested on the host.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[macro_use]
mod pod;

pub mod block;
pub mod counter;
pub mod event;
pub mod histogram;
pub mod layout;
pub mod ledger;
pub mod profile;
pub mod python;
pub mod sched;
pub mod slot;
pub mod unwind;
pub mod walk;

pub use pod::{Pod, Wrapping};

/// Licence string of the eBPF object: both licences of the kernel side, in the kernel's own words.
///
/// The kernel compares it with its list of GPL-compatible strings (`license_is_gpl_compatible`,
/// `include/linux/license.h`) before it lets a program call the helpers marked GPL-only.
pub const LICENSE: &str = "Dual MIT/GPL";
