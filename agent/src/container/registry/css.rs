//! The css of a container: its own and those of its child cgroups.
//!
//! Those that live are all remembered: to forget one would only have the kernel side report it when it next runs,
//! and that would drive out another one. They are as many as its cgroups, of which the registry remembers a
//! limited number. Of the dead, which still write back, the youngest are.

use std::collections::{HashMap, VecDeque};

use super::types::CgroupKey;
use crate::bpf::{CssId, Subsystem};

/// Dead css that are remembered of one container.
const MOST_DEAD: usize = 512;

/// A css, and of which subsystem it is.
type Css = (Subsystem, CssId);

/// The css of a container.
#[derive(Clone, Debug, Default)]
pub(super) struct CssSet {
    live: HashMap<CgroupKey, [Option<CssId>; 2]>,
    /// Oldest first.
    dead: VecDeque<Css>,
}

impl CssSet {
    /// Takes in a css of a cgroup that lives; gives back one that is forgotten for it.
    pub(super) fn add(&mut self, key: CgroupKey, subsystem: Subsystem, css: CssId) -> Option<Css> {
        let of_cgroup = self.live.entry(key).or_default();
        let [cpu, block] = of_cgroup;
        let place = match subsystem {
            Subsystem::Cpu => cpu,
            Subsystem::Block => block,
        };
        // A controller that was switched off and on again makes a new one.
        match place.replace(css) {
            Some(former) if former != css => self.bury((subsystem, former)),
            _ => None,
        }
    }

    /// A cgroup has been removed; gives back what is forgotten for its css.
    pub(super) fn cgroup_removed(&mut self, key: CgroupKey) -> Vec<Css> {
        let [cpu, block] = self.live.remove(&key).unwrap_or_default();
        let cpu = cpu.and_then(|css| self.bury((Subsystem::Cpu, css)));
        let block = block.and_then(|css| self.bury((Subsystem::Block, css)));
        cpu.into_iter().chain(block).collect()
    }

    fn bury(&mut self, css: Css) -> Option<Css> {
        self.dead.push_back(css);
        (self.dead.len() > MOST_DEAD)
            .then(|| self.dead.pop_front())
            .flatten()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Css> {
        let live = self.live.values().flat_map(|[cpu, block]| {
            let cpu = cpu.map(|css| (Subsystem::Cpu, css));
            cpu.into_iter()
                .chain(block.map(|css| (Subsystem::Block, css)))
        });
        live.chain(self.dead.iter().copied())
    }

    /// Forgets all of them.
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u64) -> CgroupKey {
        CgroupKey { hierarchy: 1, id }
    }

    fn css(number: u32) -> CssId {
        CssId {
            id: number,
            serial: number.into(),
        }
    }

    #[test]
    fn what_lives_is_never_forgotten_and_of_the_dead_the_oldest_are() {
        const LIVE: u32 = 5_000;
        let mut set = CssSet::default();
        for number in 0..LIVE {
            for _ in 0..2 {
                let forgotten = set.add(key(number.into()), Subsystem::Cpu, css(number));
                assert_eq!(forgotten, None);
            }
        }
        assert_eq!(set.iter().count(), LIVE as usize);
        let dead = 600_u32;
        let forgotten: Vec<Css> = (0..dead)
            .flat_map(|number| set.cgroup_removed(key(number.into())))
            .collect();
        let expected = dead as usize - MOST_DEAD;
        assert_eq!(forgotten.len(), expected);
        assert_eq!(forgotten.first(), Some(&(Subsystem::Cpu, css(0))));
        assert_eq!(set.iter().count(), LIVE as usize - expected);
        assert_eq!(set.cgroup_removed(key(1)), []);
    }

    #[test]
    fn a_second_css_of_a_cgroup_takes_the_place_of_the_first_which_is_dead() {
        let mut set = CssSet::default();
        set.add(key(1), Subsystem::Cpu, css(1));
        set.add(key(1), Subsystem::Block, css(1));
        set.add(key(1), Subsystem::Cpu, css(2));
        let mut all: Vec<_> = set.iter().map(|(_, css)| css.id).collect();
        all.sort_unstable();
        assert_eq!(all, [1, 1, 2]);
        assert_eq!(set.take().iter().count(), 3);
        assert_eq!(set.iter().count(), 0);
    }
}
