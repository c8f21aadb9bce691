//! The long run: what is measured, and can come out otherwise on a machine that is busy or slow. The gate
//! leaves all of it out; `cargo xtask accuracy` repeats each measurement and judges the medians.

mod block;
mod churn;
mod cli;
mod container;
mod daemon;
mod degrade;
mod diagnosis;
mod facts;
#[cfg(target_arch = "x86_64")]
mod fixtures;
mod flamegraphs;
mod formats;
mod hierarchy;
mod ledger;
mod lifecycle;
mod names;
mod pids;
mod profile;
mod rates;
#[cfg(target_arch = "x86_64")]
mod reference;
mod runqlat;
mod sched;
mod symbols;
mod traced;
