//! The programs that are sampled: looked at while they live, so that their stacks can be walked by unwind tables and be
//! named when they have gone.
//!
//! The kernel side asks for a program at its first sample, and again when a stack leads out of the mappings that are known
//! of it. What is found is written where the kernel side reads it: a region of mappings for each
//! program, whose tables are shared by all that map the same file. Tables stay when nobody records, the least used
//! of them until others need their place; regions are of one recording, or of several that overlap.

mod tables;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::RandomState,
    io,
    ops::Range,
    path::PathBuf,
    time::{Duration, Instant},
};

use ctrscope_ebpf::{
    profile::{Program, ProgramKey},
    walk::{self, Ask, MAX_MAPPINGS, Mapping as Region},
};

use self::tables::{Build, Placed, Table, TableId};
use super::{
    image::{FileIdentity, Images},
    maps::Mapping,
    process::{self, Process},
    unwind::Pool,
};

/// Programs that are remembered at most; later ones are walked by frame pointers and have a name alone.
const MAX_PROGRAMS: usize = 4_096;
/// Root directories that are kept open; of other programs that generate code it has no names once they have ended.
const MAX_ROOTS: usize = 128;
/// Files whose tables are remembered while nobody records.
const MAX_FILES: usize = 4_096;
/// Bytes of mappings that are remembered of them.
const MAX_MAPPING_BYTES: usize = 16 << 20;
/// How long the kernel side does not ask again for a program of which nothing new was found; doubled each time up to
/// the second one.
const QUIET: Duration = Duration::from_millis(500);
const MOST_QUIET: Duration = Duration::from_secs(8);
/// Clock ticks of `/proc/PID/stat` in nanoseconds (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

/// What the kernel side reads, written from here.
pub(crate) trait WalkMemory {
    /// Writes a mapping, or the head of a region.
    fn write_mapping(&self, at: u32, mapping: &Region);
    /// Writes rows of a table.
    fn write_rows(&self, at: u32, rows: &[u32]);
    /// Writes the page index of a table.
    fn write_index(&self, at: u32, words: &[u32]);
    /// Says where the mappings of a program are, and when it may be asked for again (`CLOCK_MONOTONIC`).
    fn publish(&self, key: ProgramKey, region: u64, ask_after_ns: u64);
    /// Has a Python interpreter looked for in a program; `is_new` says that its mappings are not those of the last time.
    /// Says whether there was room for that.
    fn look_for_python(&self, key: ProgramKey, process: &Process, is_new: bool) -> bool;
    /// Says that a program has ended.
    fn ended(&self, key: ProgramKey);
    /// Forgets all Python functions.
    fn forget_python(&self);
    /// Forgets a program.
    fn forget(&self, key: ProgramKey);
    /// Waits until nobody reads what was taken out before.
    fn wait_for_walks(&self);
    /// Places of mappings, rows, and words of page indexes.
    fn sizes(&self) -> [u32; 3];
}

/// What there was no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Tables.
    pub(crate) tables: u64,
    /// Looks at programs.
    pub(crate) programs: u64,
}

/// A program that was looked at.
#[derive(Debug)]
struct Known {
    process: Process,
    /// Places of its head and mappings.
    region: Option<Range<u32>>,
    /// Nobody has looked for a Python interpreter in its mappings yet.
    is_new_to_python: bool,
    /// How long it is left alone if nothing new is found.
    quiet: Duration,
    /// When it was seen to have ended, or to run another program.
    ended: Option<Instant>,
}

/// All of them.
pub(crate) struct Programs<M> {
    memory: M,
    proc_root: PathBuf,
    walks: bool,
    known: HashMap<ProgramKey, Known>,
    mapping_bytes: usize,
    images: Images,
    tables: HashMap<FileIdentity, Table>,
    /// Files of one build share a table. It must be the same: a container can give a file any build id.
    by_build: HashMap<Build, TableId>,
    /// Nobody outside can make a table that has the digest of another.
    hashers: [RandomState; 2],
    placed: HashMap<TableId, Placed>,
    /// When a table was last put into a region.
    used: HashMap<TableId, Instant>,
    next_table: TableId,
    regions: Pool,
    rows: Pool,
    index: Pool,
    /// Most rows of one table.
    most_rows: u32,
    /// Regions that nobody may enter any more, but somebody may still read.
    left: Vec<Range<u32>>,
    /// What there was no room for.
    refused: Refused,
    /// Nobody records.
    is_resting: bool,
    /// And what was recorded is not forgotten yet.
    is_left: bool,
}

impl<M: WalkMemory> Programs<M> {
    /// `walks` says whether the kernel side may walk stacks by tables: if not, it is told of no mapping.
    pub(crate) fn new(memory: M, proc_root: PathBuf, walks: bool) -> Self {
        let [mappings, rows, index] = memory.sizes();
        Self {
            memory,
            proc_root,
            walks,
            known: HashMap::new(),
            mapping_bytes: 0,
            images: Images::default(),
            tables: HashMap::new(),
            by_build: HashMap::new(),
            hashers: [RandomState::new(), RandomState::new()],
            placed: HashMap::new(),
            used: HashMap::new(),
            next_table: 0,
            // The first place of each means none.
            regions: Pool::new(1..mappings),
            rows: Pool::new(1..rows),
            index: Pool::new(1..index),
            most_rows: rows / 2,
            left: Vec::new(),
            refused: Refused::default(),
            is_resting: true,
            is_left: false,
        }
    }

    /// Answers a question of the kernel side, which knows this of the program, at `now_ns` of `CLOCK_MONOTONIC`.
    pub(crate) fn asked(&mut self, ask: &Ask, program: &Program, now_ns: u64) {
        let key = ProgramKey {
            tgid: ask.tgid,
            id: ask.program,
        };
        if self.is_resting {
            return;
        }
        let looked = self.look(key, program);
        let quiet = match self.known.get_mut(&key) {
            Some(known) if !looked => {
                let quiet = known.quiet;
                known.quiet = (quiet * 2).min(MOST_QUIET);
                quiet
            }
            Some(known) => {
                known.quiet = QUIET;
                Duration::ZERO
            }
            None => MOST_QUIET,
        };
        let region = self.known.get(&key).and_then(|known| known.region.clone());
        let word = region.map_or(0, |region| region_word(&region));
        let quiet_ns = u64::try_from(quiet.as_nanos()).unwrap_or(u64::MAX);
        self.memory
            .publish(key, word, now_ns.saturating_add(quiet_ns));
    }

    /// Looks at a program; says whether its mappings are others than before.
    fn look(&mut self, key: ProgramKey, program: &Program) -> bool {
        let mut process = match Process::read(&self.proc_root, key.tgid) {
            Ok(process) if is_it(&process, program) => process,
            Err(error) if !is_of_the_ended(&error) => {
                tracing::debug!(%error, tgid = key.tgid, "program not looked at");
                return false;
            }
            // Or another process has the number now, or it runs another program.
            Ok(_) | Err(_) => {
                self.ended(key, program);
                return false;
            }
        };
        process.comm = comm(&program.comm);
        let before = self.known.get(&key);
        let is_done = |before: &Known| {
            (before.region.is_some() || !self.walks) && before.process.maps_the_same(&process)
        };
        if before.is_some_and(is_done) || process.mappings.is_empty() {
            self.look_for_python(key);
            return false;
        }
        if program.start_stack == 0 && self.is_of_another(key, &process) {
            return false;
        }
        let is_too_many = before.is_none() && self.known.len() >= MAX_PROGRAMS;
        if is_too_many || self.mapping_bytes + process.mapping_bytes() > MAX_MAPPING_BYTES {
            self.refused.programs += 1;
            return false;
        }
        if process.root.is_some() && self.roots() >= MAX_ROOTS {
            process.root = None;
        }
        let folder = process::folder(&self.proc_root, process.task);
        for mapping in &mut process.mappings {
            match self.images.of(&folder, mapping) {
                Ok(image) => mapping.image = image,
                Err(error) => tracing::trace!(%error, path = &*mapping.path, "not opened"),
            }
        }
        let mut former = None;
        if let Some(before) = self.known.remove(&key) {
            self.mapping_bytes -= before.process.mapping_bytes();
            former = before.region;
            process.keep_past(before.process);
        }
        self.mapping_bytes += process.mapping_bytes();
        let region = if self.walks {
            self.write_region(key, &process.mappings, program.samples.max(1))
        } else {
            None
        };
        self.known.insert(
            key,
            Known {
                process,
                region,
                is_new_to_python: true,
                quiet: QUIET,
                ended: None,
            },
        );
        self.left.extend(former);
        self.look_for_python(key);
        true
    }

    /// Root directories that are open.
    fn roots(&self) -> usize {
        let roots = self
            .known
            .values()
            .filter(|known| known.process.root.is_some());
        roots.count()
    }

    /// Whether what is mapped is that of another program of the same process, of which it is not told when it ran.
    fn is_of_another(&self, key: ProgramKey, process: &Process) -> bool {
        self.known.iter().any(|(other, known)| {
            other.tgid == key.tgid && *other != key && known.process.maps_the_same(process)
        })
    }

    /// Writes the mappings of a program where the kernel side will look; `None` if there is no room.
    fn write_region(
        &mut self,
        key: ProgramKey,
        mappings: &[Mapping],
        samples: u64,
    ) -> Option<Range<u32>> {
        let mappings = &mappings[..searched(mappings)];
        let length = u32::try_from(mappings.len()).ok()? + 1;
        let region = self.regions.take(length).or_else(|| {
            self.clear_left();
            self.regions.take(length)
        })?;
        let head = Region {
            start: walk::head(key.tgid, key.id),
            ..Region::ZERO
        };
        self.memory.write_mapping(region.start, &head);
        for (at, mapping) in (region.start + 1..).zip(mappings) {
            let entry = self.entry(mapping, samples);
            self.memory.write_mapping(at, &entry);
        }
        Some(region)
    }

    /// Makes the places of regions that were left free again. Waits some 30 ms for walks that may be in them.
    pub(crate) fn clear_left(&mut self) {
        if self.left.is_empty() {
            return;
        }
        self.memory.wait_for_walks();
        for region in self.left.drain(..) {
            self.regions.give(region);
        }
    }

    /// A program has ended, or runs another one. What is known of it stays for its samples, be it its name alone.
    fn ended(&mut self, key: ProgramKey, program: &Program) {
        if let Some(known) = self.known.get_mut(&key) {
            known.process.alive = false;
            known.ended.get_or_insert_with(Instant::now);
            self.left.extend(known.region.take());
        } else if self.known.len() < MAX_PROGRAMS {
            let process = Process::gone(comm(&program.comm), key.tgid);
            self.known.insert(
                key,
                Known {
                    process,
                    region: None,
                    is_new_to_python: false,
                    quiet: QUIET,
                    ended: Some(Instant::now()),
                },
            );
        } else {
            self.refused.programs += 1;
        }
        self.memory.forget(key);
        self.memory.ended(key);
    }

    /// Looks again at programs that the kernel side knows, and leaves those that have ended. Some 40 µs for each.
    pub(crate) fn sweep(&mut self, sampled: &[(ProgramKey, Program)]) {
        if self.is_resting {
            return;
        }
        for (key, program) in sampled {
            if self.look(*key, program) {
                let region = self.known.get(key).and_then(|known| known.region.clone());
                let word = region.map_or(0, |region| region_word(&region));
                self.memory.publish(*key, word, 0);
            }
        }
    }

    /// What is known of the programs.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (ProgramKey, &Process)> {
        self.known.iter().map(|(key, known)| (*key, &known.process))
    }

    fn look_for_python(&mut self, key: ProgramKey) {
        // Its frames are read by the kernel side as stacks are.
        if let Some(known) = self.known.get_mut(&key).filter(|_| self.walks) {
            let is_new = known.is_new_to_python;
            // What is refused has its turn at the next look.
            if self.memory.look_for_python(key, &known.process, is_new) {
                known.is_new_to_python = false;
            }
        }
    }

    /// Looks at those of the sampled programs that nobody has looked at yet. Of those that have gone the name is known.
    pub(crate) fn complete(&mut self, sampled: &[(ProgramKey, Program)]) {
        for (key, program) in sampled {
            if !self.known.contains_key(key) && !self.look(*key, program) {
                self.ended(*key, program);
            }
        }
    }

    /// Somebody begins to record, and nobody did before.
    pub(crate) fn begin(&mut self) {
        self.is_resting = false;
        self.is_left = false;
    }

    /// Nobody records any more.
    pub(crate) fn stop(&mut self) {
        self.is_resting = true;
        self.is_left = true;
    }

    /// Whether [`Self::rest`] is due.
    pub(crate) fn is_left(&self) -> bool {
        self.is_left
    }

    /// The recordings that are left began then: who had ended before is in none of them.
    pub(crate) fn forget_before(&mut self, oldest: Instant) {
        self.known
            .retain(|_, known| known.ended.is_none_or(|ended| ended >= oldest));
        let bytes = self
            .known
            .values()
            .map(|known| known.process.mapping_bytes());
        self.mapping_bytes = bytes.sum();
    }

    /// Forgets programs when nobody records any more; tables stay. Takes as long as [`Self::clear_left`].
    pub(crate) fn rest(&mut self, sampled: &[(ProgramKey, Program)]) {
        self.is_left = false;
        for (key, _) in sampled {
            self.memory.forget(*key);
        }
        self.memory.forget_python();
        let regions = self.known.drain().filter_map(|(_, known)| known.region);
        self.left.extend(regions);
        self.mapping_bytes = 0;
        self.clear_left();
        // What was not read is asked for again; a file that cannot be read may be another one then.
        let is_crowded = self.tables.len() > MAX_FILES;
        self.tables.retain(|_, table| match table {
            Table::Building => true,
            // Each mount of a container's files makes others of them. They are found to be the same when they
            // are read again.
            Table::Placed(_) => !is_crowded,
            Table::Pending { .. } | Table::Pointers => false,
        });
    }

    /// What there was no room for since the last call.
    pub(crate) fn take_refused(&mut self) -> Refused {
        std::mem::take(&mut self.refused)
    }
}

/// Whether a process that was read runs the program that was sampled.
fn is_it(process: &Process, program: &Program) -> bool {
    let stacks = [process.start_stack(), program.start_stack];
    process.start_ticks() == program.start_ns / TICK_NS
        && (stacks.contains(&0) || stacks[0] == stacks[1])
}

/// Whether it is for the process having ended that it could not be read.
fn is_of_the_ended(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || code == Some(libc::ESRCH)
}

/// How many of the mappings, from the first, the kernel side searches: `[vsyscall]` begins where it cannot compare.
fn searched(mappings: &[Mapping]) -> usize {
    let below = mappings.partition_point(|mapping| mapping.start < 1 << 63);
    below.min(MAX_MAPPINGS as usize)
}

fn region_word(region: &Range<u32>) -> u64 {
    walk::region(region.start, region.end - region.start - 1)
}

/// A name as the kernel has it.
fn comm(bytes: &[u8; 16]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}
