//! End-to-end tests: real containers, the real agent, the kernel's own accounts. They need root,
//! runc and the binaries of `cargo xtask build`; `cargo xtask test` sees to all of that.

mod accuracy;
mod block;
mod churn;
mod cli;
mod container;
mod daemon;
mod degrade;
mod deploy;
mod disk;
mod exposition;
mod facts;
mod formats;
mod hierarchy;
mod input;
mod ledger;
mod lifecycle;
mod names;
mod observe;
mod profile;
mod python;
mod sched;
mod slots;
mod symbols;
#[cfg(target_arch = "x86_64")]
mod unwind;
mod whose;
