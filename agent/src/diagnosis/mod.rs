//! Diagnosis: what holds a container back, with the numbers that it rests on.
//!
//! [`facts`] are differences between two readings of everything that bears on the question; trees of
//! questions over them answer with a [`Verdict`] for each resource.

mod cpu;
mod disk;
pub mod facts;
mod history;
mod matrix;
mod memory;
mod neighbours;
mod network;
mod perspective;
mod remedy;
mod report;
mod thresholds;
mod tree;
mod use_table;
pub mod verdict;
mod view;
pub mod words;

pub use history::{CONFIRMATIONS, Change, ContainerStanding, History, Standing};
pub use matrix::{
    CauseWait, Culprit, PairWait, PartyKind, Unnamed, Victim, WaitMatrix, wait_matrix,
};
pub(crate) use neighbours::waited_for_others;
pub(crate) use report::judge;
pub use report::{Bottleneck, ContainerDiagnosis, Diagnosis, HostDiagnosis, diagnose};
pub use thresholds::{THRESHOLDS, Threshold, Thresholds};
pub use verdict::{Resource, Verdict};

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod scenarios;
