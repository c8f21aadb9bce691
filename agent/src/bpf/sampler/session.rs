//! A recording as the sampler sees it: its perf events, and what they counted.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use aya::programs::perf_event::{
    PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use ctrscope_ebpf::{
    profile::{self, ProgramKey, SampleKey},
    slot,
};

use super::{
    super::{
        BpfError,
        loader::{Wire, describe},
    },
    Sampler, program, refused,
};
use crate::snapshot::LossCounter;

/// Before a session begins it meets the programs that run for so long, so often a second: their first samples have
/// whole stacks then.
const WARMING: Duration = Duration::from_millis(50);
const WARMING_FREQUENCY: u32 = 499;

/// What a session counted at one place.
#[derive(Clone, Debug)]
pub(crate) struct SessionSample {
    pub(crate) slot: u32,
    pub(crate) program: ProgramKey,
    /// 0 where threads are not told apart.
    pub(crate) tid: u32,
    /// Innermost first; `None` where the stack was lost.
    pub(crate) user: Option<Arc<[u64]>>,
    /// Innermost first; `None` where the stack was lost.
    pub(crate) kernel: Option<Arc<[u64]>>,
    /// Hash and words of the stack of Python functions; `None` where there is none, or it was lost.
    pub(crate) python: Option<(u64, Arc<[u64]>)>,
    /// One of its stacks was lost.
    pub(crate) is_lost: bool,
    /// How the walk of the user stack ended.
    pub(crate) stop: u32,
    pub(crate) count: u64,
}

impl SessionSample {
    /// A sample with its stacks, which are looked up by their hash.
    fn of(
        key: &SampleKey,
        count: u64,
        mut stack: impl FnMut(u64) -> Option<Arc<[u64]>>,
        mut python: impl FnMut(u64) -> Option<Arc<[u64]>>,
    ) -> Self {
        let mut native = |hash: u64| {
            if hash == 0 {
                Some(Arc::from([]))
            } else {
                stack(hash)
            }
        };
        let (user, kernel) = (native(key.user), native(key.kernel));
        let python = Some(key.python)
            .filter(|hash| *hash != 0)
            .and_then(|hash| Some((hash, python(hash)?)));
        Self {
            slot: key.slot,
            program: key.program,
            tid: key.tid,
            is_lost: user.is_none() || kernel.is_none() || (key.python != 0 && python.is_none()),
            user,
            kernel,
            python,
            stop: key.stop,
            count,
        }
    }
}

/// Sampling in progress; ends when dropped.
pub(crate) struct ProfileSession {
    sampler: Arc<Sampler>,
    number: u32,
    links: Vec<PerfEventLinkId>,
    losses_before: Vec<LossCounter>,
    /// When it began.
    pub(crate) began: Instant,
}

impl ProfileSession {
    /// Starts to sample `only_slot`, or every slot, on the CPUs given, `frequency` times a second.
    ///
    /// # Errors
    ///
    /// The kernel refuses the perf events, or there are too many sessions.
    pub(crate) fn start(
        sampler: &Arc<Sampler>,
        only_slot: Option<u32>,
        frequency: u32,
        by_thread: bool,
        cpus: &[u32],
    ) -> Result<Self, BpfError> {
        let number = {
            let mut guarded = sampler.guarded();
            let number = guarded.open.trailing_ones();
            if number >= profile::SESSIONS {
                return Err(BpfError::Unsupported {
                    what: "sampling stacks",
                    reason: "too many recordings at once".to_owned(),
                });
            }
            guarded.open |= 1 << number;
            number
        };
        sampler.refresh();
        let mut session = Self {
            sampler: Arc::clone(sampler),
            number,
            links: Vec::new(),
            losses_before: sampler.losses(),
            began: Instant::now(),
        };
        let word = profile::session_word(only_slot.unwrap_or(slot::IDLE), by_thread);
        session.word(profile::warming(word));
        session.attach(WARMING_FREQUENCY, cpus)?;
        std::thread::sleep(WARMING);
        session.detach();
        session.word(word);
        session.attach(frequency, cpus)?;
        session.began = Instant::now();
        Ok(session)
    }

    fn word(&self, word: u64) {
        if let Some(place) = self.sampler.sessions.word(self.number as usize, 0) {
            place.store(word, Ordering::Release);
        }
    }

    fn attach(&mut self, frequency: u32, cpus: &[u32]) -> Result<(), BpfError> {
        let mut guarded = self.sampler.guarded();
        let program = program(&mut guarded.ebpf)?;
        for &cpu in cpus {
            let link = program.attach(
                PerfEventConfig::Software(SoftwareEvent::CpuClock),
                PerfEventScope::AllProcessesOneCpu { cpu },
                SamplePolicy::Period(profile::session_period(frequency, self.number)),
                false,
            );
            match link {
                Ok(link) => self.links.push(link),
                // A CPU may go offline between the list and here.
                Err(error) if self.links.is_empty() && Some(&cpu) == cpus.last() => {
                    return Err(refused(&error));
                }
                Err(error) => tracing::debug!(cpu, error = %describe(&error), "cpu not sampled"),
            }
        }
        Ok(())
    }

    /// Takes over what the agent has decided about cgroups since the last call. Costs about 50 µs.
    pub(crate) fn refresh(&self) {
        self.sampler.refresh();
    }

    fn detach(&mut self) {
        let mut guarded = self.sampler.guarded();
        if let Ok(program) = program(&mut guarded.ebpf) {
            for link in self.links.drain(..) {
                let _ = program.detach(link);
            }
        }
    }

    /// Stops sampling; what was counted stays readable.
    pub(crate) fn stop(&mut self) {
        self.detach();
        self.word(0);
    }

    /// All that was counted.
    pub(crate) fn samples(&self) -> Vec<SessionSample> {
        let guarded = self.sampler.guarded();
        let mut stacks = HashMap::new();
        let mut pythons = HashMap::new();
        let mut stack = |hash: u64| -> Option<Arc<[u64]>> {
            let known = stacks.entry(hash);
            known.or_insert_with(|| guarded.stacks.get(hash)).clone()
        };
        let mut python = |hash: u64| -> Option<Arc<[u64]>> {
            let known = pythons.entry(hash);
            known
                .or_insert_with(|| guarded.python_stacks.get(hash))
                .clone()
        };
        guarded
            .samples
            .iter()
            .flatten()
            .filter(|(key, _)| key.0.session == self.number)
            .map(|(key, count)| SessionSample::of(&key.0, count, &mut stack, &mut python))
            .collect()
    }

    /// What was lost since it began, in the order of [`ctrscope_ebpf::counter::NAMES`]; of other sessions, too, that
    /// record at the same time.
    pub(crate) fn losses(&self) -> Vec<LossCounter> {
        let mut losses = self.sampler.losses();
        for (now, before) in losses.iter_mut().zip(&self.losses_before) {
            now.count = now.count.saturating_sub(before.count);
        }
        losses
    }
}

impl Drop for ProfileSession {
    fn drop(&mut self) {
        self.stop();
        let mut guarded = self.sampler.guarded();
        let guarded = &mut *guarded;
        let keys: Vec<SampleKey> = guarded
            .samples
            .keys()
            .flatten()
            .map(|key| key.0)
            .filter(|key| key.session == self.number)
            .collect();
        for key in keys {
            guarded.stacks.remove(key.user);
            guarded.stacks.remove(key.kernel);
            guarded.python_stacks.remove(key.python);
            let _ = guarded.samples.remove(&Wire(key));
        }
        guarded.open &= !(1 << self.number);
        if guarded.open == 0 {
            // Those whose sample found no room.
            guarded.stacks.clear();
            guarded.python_stacks.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_lost_once_however_many_of_its_stacks_are() {
        let words: Arc<[u64]> = Arc::from([1]);
        let sample = |user, kernel, python| {
            let key = SampleKey {
                user,
                kernel,
                python,
                ..SampleKey::ZERO
            };
            // The odd ones were lost.
            let find = |hash: u64| hash.is_multiple_of(2).then(|| Arc::clone(&words));
            SessionSample::of(&key, 5, find, find)
        };
        assert!(!sample(0, 0, 0).is_lost);
        assert!(!sample(2, 4, 6).is_lost);
        for [user, kernel, python] in [[3, 4, 6], [2, 3, 6], [2, 4, 3], [0, 0, 3], [3, 3, 3]] {
            let sample = sample(user, kernel, python);
            assert!(sample.is_lost);
            assert_eq!(sample.count, 5);
        }
        let whole = sample(2, 0, 6);
        assert_eq!(whole.kernel.as_deref(), Some(&[][..]));
        assert_eq!(whole.python.map(|(hash, _)| hash), Some(6));
    }
}
