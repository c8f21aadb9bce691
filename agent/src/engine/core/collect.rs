//! One collection: the counters, the slices that run, the files, and what is due for recycling.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use ctrscope_ebpf::{block::OPERATIONS, counter, slot};

use super::{Engine, OTHER_NAME};
use crate::{
    bpf::KernelSide,
    cgroup::{is_pause, processes},
    container::{Accumulated, Now, OperationBytes, RawSched},
    engine::{EngineOptions, files::FileCollector},
    snapshot::{Container, Identity, Kind, Snapshot},
};

/// How often a pod's container is looked at to see whether it is the sandbox.
const SANDBOX_LOOKS: u8 = 3;

impl Engine {
    pub(super) fn collect(&mut self) -> Arc<Snapshot> {
        let began = Instant::now();
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
        // After the counters: a slice that ends between the two readings is then missing until the
        // next snapshot. The other way round it would be counted twice, for ever.
        let running = self.running_slices();
        let sched_runs = self.is_attached("sched_switch");
        let block_runs = self.block_runs();
        // Where the kernel side cannot tell whose a task or a request is, all of it is in the row of the
        // others, and a container's numbers would be zeroes that mean nothing.
        let sched_each = sched_runs && self.tree.tells_cpu();
        let block_each = block_runs && self.block_is_told();
        let read_files = self.files.is_due();

        let mut rows: Vec<(Container, Option<u32>)> = Vec::new();
        let mut kept_files = HashMap::with_capacity(self.file_samples.len());
        for entity in self.registry.entities_mut() {
            if !entity.is_visible() {
                continue;
            }
            let known = self.file_samples.remove(&entity.owner_path);
            // A container's series are all there from its first sight, not from the next round.
            let read_now = read_files || known.is_none();
            let mut files = known.unwrap_or_default();
            if !sched_each && entity.exited.is_none() {
                self.files.read_usage(&entity.owner_path, &mut files);
            }
            if read_now && entity.exited.is_none() {
                self.files.read(&entity.owner_path, &mut files);
                look_for_sandbox(
                    &mut self.files,
                    &self.options,
                    &mut self.sandbox_looks,
                    &mut entity.identity,
                );
            }
            let running_ns = entity
                .slot
                .and_then(|slot| running.get(&slot))
                .copied()
                .unwrap_or(0);
            // Without a slot it is counted elsewhere, and nothing is known of it that is not old.
            let counted = entity.slot.is_some() || entity.stats.was_active();
            rows.push((
                Container {
                    identity: entity.identity.clone(),
                    first_seen_unix_ms: entity.first_seen.unix_ms,
                    exited_at_unix_ms: entity.exited.map(|exited| exited.unix_ms),
                    sched: (sched_each && counted).then(|| entity.stats.sched(running_ns)),
                    block: (block_each && counted).then(|| entity.stats.block().clone()),
                    cpu_usage_ns: files.cpu_usage_ns,
                    is_counted_elsewhere: false,
                    cpu: files.cpu.clone(),
                    memory: files.memory.clone(),
                    pressure: files.pressure.clone(),
                },
                entity.slot,
            ));
            kept_files.insert(entity.owner_path.clone(), files);
        }
        self.file_samples = kept_files;
        let live: HashSet<&str> = rows
            .iter()
            .map(|(row, _)| row.identity.cgroup.as_str())
            .collect();
        self.sandbox_looks
            .retain(|cgroup, _| live.contains(cgroup.as_str()));
        if read_files {
            self.files.finish_round(began);
        }
        let running_other = running.get(&slot::OTHER).copied().unwrap_or(0);
        let first_seen_other = self.first_seen_other;
        let other = self.registry.other_mut();
        rows.push((
            Container {
                identity: Identity {
                    container: OTHER_NAME.into(),
                    kind: Kind::Other,
                    ..Identity::default()
                },
                first_seen_unix_ms: first_seen_other.unix_ms,
                sched: sched_runs.then(|| other.sched(running_other)),
                is_counted_elsewhere: !sched_each,
                block: block_runs.then(|| other.block().clone()),
                ..Container::default()
            },
            Some(slot::OTHER),
        ));
        rows.sort_by(|(a, _), (b, _)| name_key(&a.identity).cmp(&name_key(&b.identity)));
        self.recycle(now);

        let (containers, slots) = rows.into_iter().unzip();
        self.last_slots = slots;
        let agent = self.health(losses, began);
        self.log_states(&agent);
        let snapshot = Arc::new(Snapshot {
            taken_at_unix_ms: now.unix_ms,
            taken_at_ns: now.ns,
            host: self.host.clone(),
            containers,
            agent,
        });
        self.last = Some((began, Arc::clone(&snapshot)));
        snapshot
    }

    /// Ends what is due: retention, resting slots.
    fn recycle(&mut self, now: Now) {
        self.registry.expire(now);
        while let Some(slot) = self.registry.slot_to_clear(now) {
            if let Some(kernel) = &self.kernel {
                let last = block_bytes(kernel, slot);
                self.block_charges.finish(slot, last);
                clear_slot(kernel, slot);
            }
            self.registry.slot_cleared(slot);
        }
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
            let slot = slot::slot(state.running as u32);
            // A switch between the two readings has ended the slice; it is in the counters then.
            if switched != Some(state.running) || slot == slot::IDLE || state.on_cpu_since == 0 {
                continue;
            }
            *running.entry(slot).or_default() += state.clock.saturating_sub(state.on_cpu_since);
        }
        running
    }
}

fn name_key(identity: &Identity) -> (bool, &str, &str, &str, &str) {
    (
        identity.kind == Kind::Other,
        &identity.namespace,
        &identity.pod,
        &identity.container,
        &identity.container_id,
    )
}

fn clear_slot(kernel: &KernelSide, slot: u32) {
    let sizes = kernel.sizes();
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
    let mut sum = RawSched::default();
    for cpu in 0..sizes.cpus {
        if let Some(counted) = kernel.sched().read((cpu * sizes.slots + slot) as usize) {
            sum.add(&counted);
        }
    }
    stats.update_sched(sum);
    let mut bytes = [0; OPERATIONS];
    for (operation, bytes) in bytes.iter_mut().enumerate() {
        if let Some(counted) = kernel.block().read(slot as usize * OPERATIONS + operation) {
            stats.update_block(operation, &counted);
            *bytes = counted.bytes;
        }
    }
    bytes
}

/// A pod's sandbox runs nothing but `pause`. A container is looked at a few times after it appeared:
/// at first its only process may still be the runtime's.
fn look_for_sandbox(
    files: &mut FileCollector,
    options: &EngineOptions,
    looks: &mut HashMap<String, u8>,
    identity: &mut Identity,
) {
    if identity.kind != Kind::Container || identity.pod_uid.is_empty() {
        return;
    }
    let taken = looks.entry(identity.cgroup.clone()).or_default();
    if *taken >= SANDBOX_LOOKS {
        return;
    }
    *taken += 1;
    let mount = files
        .hierarchies()
        .cpu
        .clone()
        .or_else(|| files.hierarchies().unified.clone());
    let Some(directory) = mount.and_then(|mount| mount.directory(&identity.cgroup)) else {
        return;
    };
    let pids = processes(files.reader(), &directory, 2).unwrap_or_default();
    if is_pause(files.reader(), &options.proc_root, &pids) {
        identity.kind = Kind::Sandbox;
    }
}
