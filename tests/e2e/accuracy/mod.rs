//! The long run: what is measured, and can come out otherwise on a machine that is busy or slow. The gate
//! leaves all of it out; `cargo xtask accuracy` repeats each measurement and judges the medians.

mod block;
mod formats;
mod hierarchy;
mod pids;
mod profile;
mod runqlat;
mod sched;
mod symbols;
