//! Unwind tables of the files that programs map: which are to be read, and where they are.

use std::{collections::HashSet, ops::Range, sync::Arc, time::Instant};

use ctrscope_ebpf::walk::{MAPPING_PENDING, MAPPING_POINTERS, MAPPING_TABLE, Mapping as Region};

use super::{Programs, WalkMemory};
use crate::profile::{
    image::Image,
    maps::Mapping,
    unwind::{Segment, UnwindTable, bias},
};

/// A table that is in the kernel side's memory.
#[derive(Debug)]
pub(super) struct Placed {
    rows: Range<u32>,
    index: Range<u32>,
    pages: u32,
    first_page: u32,
    segments: Box<[Segment]>,
}

/// What is known of the unwind table of a file.
#[derive(Debug)]
pub(super) enum Table {
    /// Not read yet; asked for so often.
    Pending { samples: u64, image: Arc<Image> },
    /// Being read.
    Building,
    /// Its code is walked by frame pointers: it has none, or none that can be used.
    Pointers,
    /// Of the same build as another file, by which the table is placed.
    Placed(TableId),
}

pub(super) type TableId = u64;

/// What files that share a table have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Build {
    id: Option<Box<[u8]>>,
    digests: [u64; 2],
}

impl<M: WalkMemory> Programs<M> {
    /// A mapping as the kernel side reads it.
    pub(super) fn entry(&mut self, mapping: &Mapping, samples: u64) -> Region {
        let mut entry = Region {
            start: mapping.start,
            end: mapping.end,
            kind: MAPPING_POINTERS,
            ..Region::ZERO
        };
        let Some(image) = &mapping.image else {
            return entry;
        };
        let table = self
            .tables
            .entry(image.identity)
            .or_insert_with(|| Table::Pending {
                samples: 0,
                image: Arc::clone(image),
            });
        match table {
            Table::Pending { samples: all, .. } => {
                *all = all.saturating_add(samples);
                entry.kind = MAPPING_PENDING;
            }
            Table::Building => entry.kind = MAPPING_PENDING,
            Table::Pointers => {}
            Table::Placed(id) => {
                if let Some(placed) = self.placed.get(id) {
                    placed.fill(&mut entry, mapping);
                    self.used.insert(*id, Instant::now());
                }
            }
        }
        entry
    }

    /// The file whose table is to be read next: that of which most was sampled for its size.
    pub(crate) fn next_build(&mut self) -> Option<Arc<Image>> {
        let pending = self
            .tables
            .iter()
            .filter_map(|(identity, table)| match table {
                Table::Pending { samples, image } => Some((urgency(*samples, image), *identity)),
                _ => None,
            });
        let (_, identity) = pending.max_by_key(|(urgency, _)| *urgency)?;
        let table = self.tables.insert(identity, Table::Building)?;
        match table {
            Table::Pending { image, .. } => Some(image),
            _ => None,
        }
    }

    /// Takes in a table that was read, or that there is none, and tells it to all programs that map the file.
    pub(crate) fn built(&mut self, image: &Image, table: Option<&UnwindTable>) {
        let table = match table.and_then(|table| self.place(table)) {
            Some(id) => Table::Placed(id),
            None => Table::Pointers,
        };
        self.tables.insert(image.identity, table);
        let mut entries = Vec::new();
        for known in self.known.values() {
            let Some(region) = &known.region else {
                continue;
            };
            // Those beyond the region are not searched.
            for (at, mapping) in (region.start + 1..region.end).zip(&known.process.mappings) {
                if mapping
                    .image
                    .as_deref()
                    .is_some_and(|one| one.identity == image.identity)
                {
                    entries.push((at, mapping.clone()));
                }
            }
        }
        for (at, mapping) in entries {
            let entry = self.entry(&mapping, 0);
            self.memory.write_mapping(at, &entry);
        }
    }

    /// Puts a table into the kernel side's memory, or finds that of the same build.
    fn place(&mut self, table: &UnwindTable) -> Option<TableId> {
        if table.rows.is_empty() {
            return None;
        }
        let build = Build {
            id: table.build_id.clone(),
            digests: self.hashers.each_ref().map(|hasher| table.digest(hasher)),
        };
        if let Some(id) = self.by_build.get(&build) {
            return Some(*id);
        }
        let packed = table.pack(0);
        let lengths = (
            u32::try_from(packed.rows.len()).ok()?,
            u32::try_from(packed.index.len()).ok()?,
        );
        let Some((rows, index)) = self.room_for(lengths) else {
            self.refused.tables += 1;
            return None;
        };
        let packed = table.pack(rows.start);
        self.memory.write_rows(rows.start, &packed.rows);
        self.memory.write_index(index.start, &packed.index);
        let id = self.next_table;
        self.next_table += 1;
        self.by_build.insert(build, id);
        self.placed.insert(
            id,
            Placed {
                rows,
                index,
                pages: packed.pages,
                first_page: packed.page0,
                segments: table.segments.clone(),
            },
        );
        self.used.insert(id, Instant::now());
        Some(id)
    }

    /// Room for so many rows and words of an index, made by throwing out tables that no program uses, those first that
    /// were used longest ago.
    fn room_for(&mut self, (rows, words): (u32, u32)) -> Option<(Range<u32>, Range<u32>)> {
        // One file shall not drive out all others.
        if rows > self.most_rows {
            return None;
        }
        let mut has_waited = false;
        loop {
            if let Some(rows) = self.rows.take(rows) {
                if let Some(index) = self.index.take(words) {
                    return Some((rows, index));
                }
                self.rows.give(rows);
            }
            let in_use = self.in_use();
            let oldest = self.used.iter().filter(|(id, _)| !in_use.contains(id));
            let oldest = oldest.min_by_key(|(_, used)| **used).map(|(id, _)| *id)?;
            // Of what is in no region now a walk may read still that has begun before.
            if !has_waited {
                self.clear_left();
                self.memory.wait_for_walks();
                has_waited = true;
            }
            self.throw_out(oldest);
        }
    }

    /// Tables of files that a program has mapped.
    fn in_use(&self) -> HashSet<TableId> {
        let mappings = self.known.values().filter(|known| known.region.is_some());
        let mappings = mappings.flat_map(|known| &known.process.mappings);
        let images = mappings.filter_map(|mapping| mapping.image.as_ref());
        images
            .filter_map(|image| match self.tables.get(&image.identity) {
                Some(Table::Placed(id)) => Some(*id),
                _ => None,
            })
            .collect()
    }

    fn throw_out(&mut self, id: TableId) {
        self.used.remove(&id);
        if let Some(placed) = self.placed.remove(&id) {
            self.rows.give(placed.rows);
            self.index.give(placed.index);
        }
        self.by_build.retain(|_, other| *other != id);
        self.tables
            .retain(|_, table| !matches!(table, Table::Placed(other) if *other == id));
    }
}

impl Placed {
    fn fill(&self, entry: &mut Region, mapping: &Mapping) {
        let length = mapping.end - mapping.start;
        if let Some(bias) = bias(&self.segments, mapping.start, mapping.offset, length) {
            entry.bias = bias;
            entry.index = self.index.start;
            entry.pages = self.pages;
            entry.first_page = self.first_page;
            entry.kind = MAPPING_TABLE;
        }
    }
}

/// Samples for each MiB of a file: reading the table of a large one takes long, and the others wait for it.
fn urgency(samples: u64, image: &Image) -> u64 {
    samples.saturating_mul(1 << 20) / ((image.identity.bytes() >> 20) + 1)
}
