//! One collection: the counters, the slices that run, the files, and what is due for recycling.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ctrscope_ebpf::{
    block::OPERATIONS,
    counter,
    sched::{CpuState, LONGEST_SLICE_NS, MOVED, is_same_switch, since_at_most},
    slot,
};

use super::{Engine, Published};
use crate::{
    bpf::KernelSide,
    container::{Accumulated, Entity, Now, OperationBytes, RawSched},
    engine::cost::thread_cpu_time,
    snapshot::{
        Container, Counters, Identity, Kind, LossCounter, OTHER_NAME, Snapshot, WorkloadKind,
    },
};

/// How long a collection waits for the files that it asked for. What is not read by then is as it was.
const FILE_PATIENCE: Duration = Duration::from_millis(10);
/// The same of the first one, which has nothing else to show.
const FIRST_FILE_PATIENCE: Duration = Duration::from_secs(2);
/// How long a container is not shown because its files have not been read yet.
const READ_WITHIN_NS: u64 = 1_000_000_000;

/// What one collection found beside the registry's own numbers.
struct Gathered {
    began: Instant,
    /// CPU time of this thread when it began.
    cpu_began: Duration,
    now: Now,
    losses: Vec<LossCounter>,
    /// Nanoseconds that the slices now running have lasted, by slot.
    running: HashMap<u32, u64>,
    told: Told,
}

/// What the kernel side tells of each container.
#[derive(Clone, Copy)]
struct Told {
    sched_runs: bool,
    block_runs: bool,
    /// Where the kernel side cannot tell whose a task or a request is, all of it is in the row of the
    /// others, and a container's numbers would be zeroes that mean nothing.
    sched_each: bool,
    block_each: bool,
}

impl Engine {
    pub(super) fn collect(&mut self) -> Arc<Snapshot> {
        let gathered = self.gather();
        let (now, began) = (gathered.now, gathered.began);
        let (containers, slots) = self.rows(&gathered);
        let neighbours = gathered.told.sched_each.then(|| self.pairs_told(now));
        self.recycle(now);
        self.last_slots = slots;
        let cost = thread_cpu_time().saturating_sub(gathered.cpu_began);
        let oldest_files_ns = containers
            .iter()
            .filter(|container| container.exited_at_unix_ms.is_none())
            .filter_map(|container| container.as_of.files_ns)
            .map(|read_ns| now.ns.saturating_sub(read_ns))
            .max();
        let agent = self.health(gathered.losses, cost, oldest_files_ns);
        self.log_states(&agent.collectors);
        let snapshot = Arc::new(Snapshot {
            taken_at_unix_ms: now.unix_ms,
            taken_at_ns: now.ns,
            host: self.host.clone(),
            containers,
            workloads: self.registry.workloads().all().cloned().collect(),
            evicted_workloads: self.registry.workloads().evicted().clone(),
            neighbours,
            agent,
        });
        self.published.send_replace(Some(Published {
            taken: began,
            snapshot: Arc::clone(&snapshot),
        }));
        snapshot
    }

    /// Takes in the counters, what runs, and the files.
    fn gather(&mut self) -> Gathered {
        let (began, cpu_began) = (Instant::now(), thread_cpu_time());
        if !self.events_tell_all() {
            self.tree.want_walk();
        }
        self.pump();
        let losses = self
            .kernel
            .as_ref()
            .map_or_else(Vec::new, KernelSide::losses);
        let lost_events = losses
            .get(counter::EVENT_RING_FULL as usize)
            .map_or(0, |counter| counter.count);
        if lost_events > self.lost_events {
            self.lost_events = lost_events;
            self.tree.want_walk();
            self.pump();
        }
        let now = self.now();
        self.registry.judge_unnamed(now);
        self.apply_writes();
        if let Some(kernel) = &self.kernel {
            for entity in self.registry.entities_mut() {
                if let Some(slot) = entity.slot {
                    let bytes = read_slot(kernel, slot, &mut entity.stats);
                    let kind = entity.identity.kind;
                    self.block_charges.update(slot, kind, bytes);
                }
            }
            let bytes = read_slot(kernel, slot::OTHER, self.registry.other_mut());
            self.block_charges.update(slot::OTHER, Kind::Other, bytes);
        }
        self.read_pairs(now);
        let mut losses = losses;
        for (reason, pairs) in [
            ("wait_pair_unnamed_milliseconds", &self.pairs),
            ("block_pair_unnamed_milliseconds", &self.block_pairs),
        ] {
            losses.push(LossCounter {
                kind: "lost".into(),
                reason: reason.into(),
                count: pairs.lost_ns() / 1_000_000,
            });
        }
        // After the counters: a slice that ends between the two readings is then missing until the
        // next snapshot. The other way round it would be counted twice, for ever.
        let running = self.running_slices();
        let sched_runs = self.is_attached("sched_switch");
        let block_runs = self.block_runs();
        let told = Told {
            sched_runs,
            block_runs,
            sched_each: sched_runs && self.tree.tells_cpu(),
            block_each: block_runs && self.block_is_told(),
        };
        self.read_files(&running, told, now);
        Gathered {
            began,
            cpu_began,
            now,
            losses,
            running,
            told,
        }
    }

    /// Has the files read of those whose turn it is.
    fn read_files(&mut self, running: &HashMap<u32, u64>, told: Told, now: Now) {
        let active = self.active(running, told, now);
        let with_files = self.registry.entities().filter(|entity| entity.has_files());
        let containers = with_files.map(|entity| {
            let path = entity.owner_path.as_str();
            (path, entity.exited.is_none(), active.contains(path))
        });
        self.files.note(containers, now.ns);
        let is_first = self.published.borrow().is_none();
        self.files.round(if is_first {
            FIRST_FILE_PATIENCE
        } else {
            FILE_PATIENCE
        });
        self.sandboxes
            .look(&mut self.registry, &self.files, &self.options.proc_root);
    }

    /// Who did something since the last collection. What is inside of a container is a part of it
    /// in the kernel's files, also where it is a container itself.
    fn active(&mut self, running: &HashMap<u32, u64>, told: Told, now: Now) -> HashSet<String> {
        let mut active: HashSet<String> = HashSet::new();
        for entity in self.registry.entities_mut() {
            let runs = entity.slot.is_some_and(|slot| running.contains_key(&slot));
            // Of one without a slot nothing is known.
            let is_active =
                !told.sched_each || entity.note_activity(runs, now) || entity.slot.is_none();
            if !is_active || entity.exited.is_some() {
                continue;
            }
            for (end, _) in entity.owner_path.match_indices('/').skip(1) {
                if let Some(above) = entity.owner_path.get(..end)
                    && !active.contains(above)
                {
                    active.insert(above.to_owned());
                }
            }
            active.insert(entity.owner_path.clone());
        }
        active
    }

    /// A row for each container that is shown, by name, and their slots; the others' last.
    fn rows(&mut self, gathered: &Gathered) -> (Vec<Container>, Vec<Option<u32>>) {
        let Gathered {
            now, running, told, ..
        } = gathered;
        // As many as the last time, most often. Rows are large, so they are not moved more than once.
        let mut rows: Vec<Container> = Vec::with_capacity(self.last_slots.len() + 1);
        let mut slots = Vec::with_capacity(self.last_slots.len() + 1);
        let answer = self.names.answer;
        let (entities, workloads) = self.registry.entities_and_workloads();
        let shown = entities.filter(|entity| entity.is_shown(*now, answer));
        for entity in by_name(shown) {
            let files = self.files.said(&entity.owner_path);
            // All its series are there from its first sight.
            let is_read = files.as_ref().is_some_and(|files| files.number > 0);
            let age_ns = now.ns.saturating_sub(entity.first_seen.ns);
            if entity.has_files() && entity.exited.is_none() && !is_read && age_ns < READ_WITHIN_NS
            {
                continue;
            }
            let running_ns = entity.slot.and_then(|slot| running.get(&slot)).copied();
            let files = files.unwrap_or_default();
            // Without a slot it is counted elsewhere, and nothing is known of it that is not old.
            let counted = entity.slot.is_some() || entity.stats.was_active();
            let row = Container {
                identity: Arc::clone(&entity.identity),
                resources: entity.metadata.as_ref().and_then(|known| known.resources),
                labels: entity
                    .metadata
                    .as_ref()
                    .map(|known| Arc::clone(&known.labels))
                    .unwrap_or_default(),
                first_seen_unix_ms: entity.first_seen.unix_ms,
                exited_at_unix_ms: entity.exited.map(|exited| exited.unix_ms),
                exit_code: entity.exit_code,
                former: entity.former.clone(),
                counters: Counters {
                    sched: (told.sched_each && counted)
                        .then(|| entity.stats.sched(running_ns.unwrap_or(0))),
                    block: (told.block_each && counted).then(|| entity.stats.block().clone()),
                    ..files.counters
                },
                gauges: files.gauges,
                as_of: files.as_of,
                is_counted_elsewhere: false,
            };
            entity.settle(workloads, &row, *now);
            rows.push(row);
            slots.push(entity.slot);
        }
        let running_other = running.get(&slot::OTHER).copied().unwrap_or(0);
        let first_seen_other = self.first_seen_other;
        let other = self.registry.other_mut();
        let row = Container {
            identity: Arc::new(Identity {
                container: OTHER_NAME.into(),
                kind: Kind::Other,
                workload: OTHER_NAME.into(),
                workload_kind: WorkloadKind::Other,
                ..Identity::default()
            }),
            first_seen_unix_ms: first_seen_other.unix_ms,
            counters: Counters {
                sched: told.sched_runs.then(|| other.sched(running_other)),
                block: told.block_runs.then(|| other.block().clone()),
                ..Counters::default()
            },
            is_counted_elsewhere: !told.sched_each,
            ..Container::default()
        };
        self.registry.settle_other(&row);
        rows.push(row);
        slots.push(Some(slot::OTHER));
        (rows, slots)
    }

    /// Ends what is due: retention, resting slots.
    fn recycle(&mut self, now: Now) {
        self.registry.expire(now);
        let mut cleared = HashSet::new();
        while let Some(slot) = self.registry.slot_to_clear(now) {
            cleared.insert(slot);
            if let Some(kernel) = &self.kernel {
                let last = block_bytes(kernel, slot);
                self.block_charges.finish(slot, last);
                clear_slot(kernel, slot);
            }
            self.registry.slot_cleared(slot);
        }
        self.pairs.forget(&cleared);
        self.block_pairs.forget(&cleared);
        self.pair_series.forget(&cleared);
        self.registry.admit_waiting(now);
        self.registry.fill_slots(now);
        self.apply_writes();
    }

    /// Nanoseconds that the slices now running have lasted, by slot.
    fn running_slices(&self) -> HashMap<u32, u64> {
        let mut running = HashMap::new();
        let readable = self.kernel.as_ref().filter(|side| side.clock_readable());
        let Some(kernel) = readable else {
            return running;
        };
        if let Err(error) = kernel.read_clocks() {
            tracing::debug!(%error, "clocks not read");
            return running;
        }
        let cpus = kernel.cpus();
        for cpu in 0..cpus.len() {
            let Some(state) = cpus.read(cpu) else {
                continue;
            };
            let switched = cpus.word(cpu, 0).map(|word| word.load(Ordering::Relaxed));
            for (slot, ns) in slices(&state) {
                // A switch between the two readings has ended the slice; it is in the counters then.
                if switched == Some(state.running) {
                    *running.entry(slot).or_default() += ns;
                }
            }
        }
        running
    }
}

/// Sorts by name. Most have the places that they had the last time, so that few names are compared.
fn by_name<'a>(entities: impl Iterator<Item = &'a mut Entity>) -> Vec<&'a mut Entity> {
    let mut entities: Vec<_> = entities.collect();
    entities.sort_by_key(|entity| entity.place);
    entities.sort_by(|a, b| name_key(&a.identity).cmp(&name_key(&b.identity)));
    for (place, entity) in entities.iter_mut().enumerate() {
        entity.place = place;
    }
    entities
}

fn name_key(identity: &Identity) -> (&str, &str, &str, &str) {
    (
        &identity.namespace,
        &identity.pod,
        &identity.container,
        &identity.container_id,
    )
}

/// What runs on a CPU, by slot: one slice, or two parts of it where the task has been moved to another cgroup
/// meanwhile. Never more than the counters will have of them: `sched_switch` splits it by the same rule, and what
/// is whose is not known yet is left out.
fn slices(state: &CpuState) -> Vec<(u32, u64)> {
    let is_known = state.on_cpu_since != 0 && is_same_switch(state.on_cpu_since, state.running);
    let slot = slot::slot(state.running as u32);
    if !is_known || slot == slot::IDLE {
        return Vec::new();
    }
    let ns = state
        .clock
        .saturating_sub(since_at_most(state.on_cpu_since));
    if state.moved_to == 0 {
        return vec![(slot, ns)];
    }
    let now = state.moved_to & !MOVED;
    let (before, after) = if state.moved_after_ns > LONGEST_SLICE_NS {
        (0, ns)
    } else {
        // The clock may be a tick behind the move.
        let before = state.moved_after_ns.min(ns);
        (before, ns - before)
    };
    let mut parts = vec![(slot, before)];
    if slot::kind(now) != slot::KIND_UNKNOWN {
        parts.push((slot::slot(now), after));
    }
    parts
}

fn clear_slot(kernel: &KernelSide, slot: u32) {
    let sizes = kernel.sizes();
    // First, so that nothing that is under way is counted in it any more: no request, and no task that left it
    // while it ran and has not been off its CPU since.
    for cpu in kernel.used_cpus() {
        let Some(running) = kernel.cpus().word(cpu as usize, 0) else {
            continue;
        };
        let _ = running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            (slot::slot(word as u32) == slot).then_some(word & !u64::from(u32::MAX))
        });
    }
    if let Some(generation) = kernel.generations().word(slot as usize, 0) {
        generation.fetch_add(1, Ordering::Release);
    }
    for cpu in 0..sizes.cpus {
        kernel.sched().zero((cpu * sizes.slots + slot) as usize);
    }
    for operation in 0..OPERATIONS {
        kernel.block().zero(slot as usize * OPERATIONS + operation);
    }
}

/// Bytes of the block requests that a slot has counted.
pub(super) fn block_bytes(kernel: &KernelSide, slot: u32) -> OperationBytes {
    std::array::from_fn(|operation| {
        let counted = kernel.block().read(slot as usize * OPERATIONS + operation);
        counted.map_or(0, |counted| counted.bytes)
    })
}

/// Has a slot's numbers taken in; gives the bytes of its block requests.
pub(super) fn read_slot(kernel: &KernelSide, slot: u32, stats: &mut Accumulated) -> OperationBytes {
    let sizes = kernel.sizes();
    let of_cpus = || {
        kernel
            .used_cpus()
            .map(|cpu| (cpu * sizes.slots + slot) as usize)
    };
    // One that has not moved is read by a few of its words.
    let mark = of_cpus().fold(0, |mark: u64, index| {
        mark.wrapping_add(kernel.sched_mark(index))
    });
    if stats.has_moved_to(mark) {
        let mut sum = RawSched::default();
        for counted in of_cpus().filter_map(|index| kernel.sched().read(index)) {
            sum.add(&counted);
        }
        stats.update_sched(sum);
    }
    let mut bytes = [0; OPERATIONS];
    for (operation, bytes) in bytes.iter_mut().enumerate() {
        if let Some(counted) = kernel.block().read(slot as usize * OPERATIONS + operation) {
            stats.update_block(operation, &counted);
            *bytes = counted.bytes;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use ctrscope_ebpf::sched::since;

    use super::*;

    /// A task of slot 3 that was dispatched 10 ms ago by the clock.
    fn state() -> CpuState {
        CpuState {
            running: 7 << 32 | u64::from(slot::owner(3, slot::KIND_CONTAINER)),
            on_cpu_since: since(1 << 20, 7),
            clock: (1 << 20 | 0xff) + 10_000_000,
            ..CpuState::ZERO
        }
    }

    #[test]
    fn a_slice_is_of_the_switch_that_its_start_is_of() {
        assert_eq!(slices(&state()), [(3, 10_000_000)]);
        let torn = CpuState {
            on_cpu_since: since(1 << 10, 6),
            ..state()
        };
        assert_eq!(slices(&torn), []);
        let idle = CpuState {
            running: 7 << 32 | u64::from(slot::IDLE),
            ..state()
        };
        assert_eq!(slices(&idle), []);
        assert_eq!(slices(&CpuState::ZERO), []);
    }

    #[test]
    fn a_slice_of_a_task_that_moved_is_split_as_the_switch_will_split_it() {
        let moved = |to, moved_after_ns| {
            slices(&CpuState {
                moved_to: to | MOVED,
                moved_after_ns,
                ..state()
            })
        };
        let container = slot::owner(5, slot::KIND_CONTAINER);
        let parts = [(3, 4_000_000), (5, 6_000_000)];
        assert_eq!(moved(container, 4_000_000), parts);
        // The clock is a tick behind.
        assert_eq!(moved(container, 11_000_000), [(3, 10_000_000), (5, 0)]);
        // A class that does not note it: a difference that wrapped.
        assert_eq!(moved(container, u64::MAX - 5), [(3, 0), (5, 10_000_000)]);
        // Nobody knows whose the rest is.
        assert_eq!(moved(0, 4_000_000), [(3, 4_000_000)]);
    }
}
