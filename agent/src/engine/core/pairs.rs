//! Who waited for whom, from the kernel side's pairs of slots to names.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use ctrscope_ebpf::ledger::PAIRS;

use super::Engine;
use crate::{reading::PairReading, snapshot::Identity};

impl Engine {
    /// Takes in what the kernel side has counted in pairs. Reads a word of each of 4,096 places a CPU, and of those that
    /// are taken the rest.
    pub(super) fn read_pairs(&mut self) {
        let Some(kernel) = &self.kernel else {
            return;
        };
        let map = kernel.pairs();
        for cpu in kernel.used_cpus() {
            for place in cpu * PAIRS..(cpu + 1) * PAIRS {
                let Some(key) = map.word(place as usize, 0) else {
                    continue;
                };
                if key.load(Ordering::Relaxed) == 0 && !self.pairs.is_known(place) {
                    continue;
                }
                let Some(now) = map.read(place as usize) else {
                    continue;
                };
                if self.pairs.update(place, now) {
                    key.store(0, Ordering::Relaxed);
                    if let Some(now) = map.read(place as usize) {
                        self.pairs.update(place, now);
                    }
                }
            }
        }
    }

    /// Who can be waited for, by slot.
    pub(super) fn culprits(&self) -> HashMap<u32, Arc<Identity>> {
        let entities = self.registry.entities();
        entities
            .filter_map(|entity| Some((entity.slot?, Arc::clone(&entity.identity))))
            .collect()
    }

    /// Whom a slot waited for. What has no name is left out.
    pub(super) fn waited_for(
        &self,
        victim: u32,
        culprits: &HashMap<u32, Arc<Identity>>,
    ) -> Vec<PairReading> {
        let named = self.pairs.of(victim).filter_map(|(culprit, ns)| {
            let identity = culprits.get(&culprit)?;
            Some(PairReading {
                slot: culprit,
                culprit: Arc::clone(identity),
                ns,
            })
        });
        named.collect()
    }
}
