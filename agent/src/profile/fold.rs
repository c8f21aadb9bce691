//! Samples to folded stacks.

use std::{collections::BTreeMap, io, io::Write};

use super::{
    frame_name::{UNKNOWN, clean},
    raw::{ProfileLosses, RawProfile},
    symbolize::{StackState, Symbolizer},
};
use ctrscope_ebpf::profile::MAX_FRAMES;

/// Stands at the root side of a stack whose walk ended in garbage.
pub const BROKEN: &str = "[broken stack]";
/// Stands at the root side of a stack that is deeper than the limit.
pub const TRUNCATED: &str = "[truncated]";

/// A profile with names: folded stacks and what is known about their quality.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folded {
    /// `container;process;outermost;…;innermost`, user frames then kernel frames, and its samples.
    pub stacks: BTreeMap<String, u64>,
    /// Samples in it.
    pub samples: u64,
    /// Samples by the state of their user stack.
    pub user_stacks: StackCounts,
    /// Distinct addresses that have a name.
    pub symbol_hits: u64,
    /// Distinct addresses that have none.
    pub symbol_misses: u64,
    /// How long samples were taken, seconds.
    pub seconds: f64,
    /// Samples per second and CPU, Hz.
    pub frequency: u32,
    /// What is missing.
    pub losses: ProfileLosses,
}

/// Samples by the state of their user stack ([`StackState`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackCounts {
    /// No user stack: kernel threads.
    pub absent: u64,
    /// Walked to the end.
    pub complete: u64,
    /// Cut where the walk left executable memory.
    pub cut: u64,
    /// As deep as the limit.
    pub truncated: u64,
    /// Of processes that were gone before their mappings were read.
    pub unmapped: u64,
}

impl StackCounts {
    fn add(&mut self, state: StackState, count: u64) {
        let counter = match state {
            StackState::Absent => &mut self.absent,
            StackState::Complete => &mut self.complete,
            StackState::Cut => &mut self.cut,
            StackState::Truncated => &mut self.truncated,
            StackState::Unmapped => &mut self.unmapped,
        };
        *counter = counter.saturating_add(count);
    }
}

impl Folded {
    /// Writes one line a stack: `stack count`.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        for (stack, count) in &self.stacks {
            writeln!(out, "{stack} {count}")?;
        }
        Ok(())
    }

    /// The share of distinct addresses that have a name, 0 to 1; `None` without addresses.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share for display")]
    pub fn symbol_ratio(&self) -> Option<f64> {
        let all = self.symbol_hits + self.symbol_misses;
        (all > 0).then(|| self.symbol_hits as f64 / all as f64)
    }
}

/// Names and folds a profile. Stacks that have the same names are added up; threads of a process
/// are not told apart.
#[must_use]
pub fn fold(raw: &RawProfile, symbolizer: &mut Symbolizer) -> Folded {
    let names = symbolizer.resolve(raw);
    let mut folded = Folded {
        symbol_hits: names.symbol_hits,
        symbol_misses: names.symbol_misses,
        seconds: raw.seconds,
        frequency: raw.frequency,
        losses: raw.losses,
        ..Folded::default()
    };
    let mut line = String::new();
    for sample in raw.samples.iter().filter(|sample| sample.count > 0) {
        line.clear();
        line.push_str(&clean(&sample.container));
        let mut push = |name: &str| {
            line.push(';');
            line.push_str(name);
        };
        push(&symbolizer.process_name(sample.tgid));
        let user = symbolizer.user_stack(sample);
        match user.state {
            StackState::Absent | StackState::Complete => {}
            StackState::Cut => push(BROKEN),
            StackState::Truncated => push(TRUNCATED),
            StackState::Unmapped => push(UNKNOWN),
        }
        for (index, &address) in user.frames.iter().enumerate().rev() {
            push(names.user(sample.tgid, index, address));
        }
        if sample.kernel.len() >= MAX_FRAMES {
            push("[truncated]_[k]");
        }
        for (index, &address) in sample.kernel.iter().enumerate().rev() {
            if address != 0 {
                push(names.kernel(index, address));
            }
        }
        folded.user_stacks.add(user.state, sample.count);
        folded.samples = folded.samples.saturating_add(sample.count);
        let total = folded.stacks.entry(line.clone()).or_default();
        *total = total.saturating_add(sample.count);
    }
    folded
}
