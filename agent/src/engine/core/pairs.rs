//! Who waited for whom, from the kernel side's pairs of slots to names.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use ctrscope_ebpf::{
    block::BLOCK_PAIRS,
    ledger::{PAIRS, PairSlot},
    slot,
};

use super::Engine;
use crate::{
    bpf::MappedArray,
    container::{Now, WaitPairs},
    reading::PairReading,
    snapshot::{Identity, NeighbourWaits},
};

impl Engine {
    /// Takes in what the kernel side has counted in pairs. Reads a word of each of 4,096 places a CPU, and of as many for
    /// block requests, and of those that are taken the rest.
    pub(super) fn read_pairs(&mut self, now: Now) {
        let Some(kernel) = &self.kernel else {
            return;
        };
        for cpu in kernel.used_cpus() {
            take_in(
                &mut self.pairs,
                kernel.pairs(),
                cpu * PAIRS..(cpu + 1) * PAIRS,
            );
        }
        self.pairs.settle(now.ns);
        take_in(&mut self.block_pairs, kernel.block_pairs(), 0..BLOCK_PAIRS);
        self.block_pairs.settle(now.ns);
    }

    /// Who can be waited for, by slot.
    pub(super) fn culprits(&self) -> HashMap<u32, Arc<Identity>> {
        let entities = self.registry.entities();
        entities
            .filter_map(|entity| Some((entity.slot?, Arc::clone(&entity.identity))))
            .collect()
    }

    /// The pairs that have series of their own. Kernel threads have no name and are in no pair; one that awaits its name
    /// has series with it.
    pub(super) fn pairs_told(&mut self, now: Now) -> NeighbourWaits {
        let answer = self.names.answer;
        let shown = self.registry.entities();
        let shown: HashMap<u32, &Arc<Identity>> = shown
            .filter(|entity| entity.is_shown(now, answer))
            .filter_map(|entity| Some((entity.slot?, &entity.identity)))
            .collect();
        let has_no_entry = |slot: u32| slot == slot::OTHER;
        let pairs = self.pairs.all().filter_map(|((victim, culprit), ns)| {
            let names = match (shown.get(&victim), shown.get(&culprit)) {
                (Some(&victim), Some(&culprit)) => Some((Arc::clone(victim), Arc::clone(culprit))),
                (None, Some(_)) if has_no_entry(victim) => None,
                (Some(_), None) if has_no_entry(culprit) => None,
                (None, None) if has_no_entry(victim) && has_no_entry(culprit) => None,
                _ => return None,
            };
            Some(((victim, culprit), names, ns))
        });
        self.pair_series.update(pairs, now.ns);
        self.pair_series.told()
    }
}

/// Takes in what is at some places.
fn take_in(pairs: &mut WaitPairs, map: &MappedArray<PairSlot>, places: Range<u32>) {
    for place in places {
        let Some(key) = map.word(place as usize, 0) else {
            continue;
        };
        if key.load(Ordering::Relaxed) == 0 && !pairs.is_known(place) {
            continue;
        }
        let Some(now) = map.read(place as usize) else {
            continue;
        };
        if pairs.update(place, now) {
            key.store(0, Ordering::Relaxed);
            if let Some(now) = map.read(place as usize) {
                pairs.update(place, now);
            }
        }
    }
}

/// Whom a slot waited for most. What has no name is left out.
pub(super) fn waited_for(
    pairs: &mut WaitPairs,
    victim: u32,
    culprits: &HashMap<u32, Arc<Identity>>,
) -> Vec<PairReading> {
    let told = pairs.told(victim, |culprit| culprits.contains_key(&culprit));
    let named = told.into_iter().filter_map(|(culprit, ns)| {
        let identity = culprits.get(&culprit)?;
        Some(PairReading {
            slot: culprit,
            culprit: Arc::clone(identity),
            ns,
        })
    });
    named.collect()
}
