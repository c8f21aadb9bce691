//! What recordings that have ended could not get, and what they found.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use ctrscope_ebpf::{counter, walk};

use crate::{
    profile::Refused,
    snapshot::{KernelMap, LossCounter},
};

/// What recordings that have ended could not get.
#[derive(Debug)]
pub(super) struct ProfileTotals {
    /// By the index of the kernel side's counters.
    losses: Box<[AtomicU64]>,
    /// User stacks by how their walk ended: [`walk::STOPS`].
    stops: Box<[AtomicU64]>,
    /// Unwind tables, and programs, for which there was no room.
    refused_tables: AtomicU64,
    refused_programs: AtomicU64,
    /// Addresses that got a name, and those that did not.
    addresses: [AtomicU64; 2],
    /// Maps of the sampler, once there was a recording.
    maps: OnceLock<Vec<KernelMap>>,
}

impl Default for ProfileTotals {
    fn default() -> Self {
        let zeroes = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            losses: zeroes(counter::NAMES.len()),
            stops: zeroes(walk::STOPS.len()),
            refused_tables: AtomicU64::new(0),
            refused_programs: AtomicU64::new(0),
            addresses: Default::default(),
            maps: OnceLock::new(),
        }
    }
}

impl ProfileTotals {
    /// Adds those of a recording: how often a walk ended how, and what there was no room for.
    pub(super) fn add(&self, stops: impl Iterator<Item = (u32, u64)>, refused: Refused) {
        for (stop, count) in stops {
            if let Some(total) = self.stops.get((stop & walk::STOP_MASK) as usize) {
                total.fetch_add(count, Ordering::Relaxed);
            }
        }
        let add = |total: &AtomicU64, count| total.fetch_add(count, Ordering::Relaxed);
        add(&self.refused_tables, refused.tables);
        add(&self.refused_programs, refused.programs);
    }

    /// Keeps what maps the sampler has.
    pub(super) fn set_maps(&self, maps: &[KernelMap]) {
        self.maps.get_or_init(|| maps.to_vec());
    }

    /// Maps of the sampler, which stay after the first recording.
    pub(super) fn maps(&self) -> &[KernelMap] {
        self.maps.get().map_or(&[], Vec::as_slice)
    }

    /// Adds addresses of a recording that got a name, and those that did not.
    pub(super) fn add_addresses(&self, counts: [u64; 2]) {
        for (total, count) in self.addresses.iter().zip(counts) {
            total.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Addresses that got a name, and those that did not.
    pub(super) fn addresses(&self) -> [u64; 2] {
        self.addresses
            .each_ref()
            .map(|total| total.load(Ordering::Relaxed))
    }

    /// Takes over the kernel side's counters, which go on from one recording to the next.
    pub(super) fn set_losses(&self, losses: &[LossCounter]) {
        for (total, loss) in self.losses.iter().zip(losses) {
            total.fetch_max(loss.count, Ordering::Relaxed);
        }
    }

    /// Adds them to the counters of the programs that always run, of which there are as many and in the same order,
    /// and stacks that are not whole by the reason behind those.
    pub(super) fn add_to(&self, losses: &mut Vec<LossCounter>) {
        for (loss, total) in losses.iter_mut().zip(&self.losses) {
            loss.count += total.load(Ordering::Relaxed);
        }
        let mut push = |reason: String, count: &AtomicU64| {
            losses.push(LossCounter {
                kind: "lost".into(),
                reason,
                count: count.load(Ordering::Relaxed),
            });
        };
        for ((stop, name), count) in (0..).zip(walk::STOPS).zip(&self.stops) {
            // Those are whole, or counted as truncated.
            let are_whole = [
                walk::STOP_END,
                walk::STOP_ABSENT,
                walk::STOP_DEPTH,
                walk::STOP_POINTER_END,
            ];
            if !are_whole.contains(&stop) {
                push(format!("profile_stack_{name}"), count);
            }
        }
        push("profile_tables_full".to_owned(), &self.refused_tables);
        push(
            "profile_programs_not_looked_at".to_owned(),
            &self.refused_programs,
        );
    }
}
