//! End-to-end tests: real containers, the real agent, the kernel's own accounts. They need root,
//! runc and the binaries of `cargo xtask build`; `cargo xtask test` sees to all of that.

mod block;
mod container;
mod daemon;
mod input;
mod lifecycle;
mod observe;
mod profile;
mod runqlat;
mod sched;
