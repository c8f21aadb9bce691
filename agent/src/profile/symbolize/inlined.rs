//! Functions that a compiler has put into others, by the DWARF of files and their debug files.
//!
//! Nothing of it is kept from one profile to the next.

use std::{
    cmp::Reverse,
    collections::HashMap,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ctrscope_ebpf::profile::ProgramKey;
use tracing::debug;

use super::{
    super::{
        demangle::demangle,
        elf::{
            self,
            inlined::{Chain, Chains},
        },
        frame_name::INLINED_SUFFIX,
        interner::Interner,
        named::{Frame, FrameKind},
        open_in_root::open_regular_in_root,
    },
    MAX_TABLE_BYTES, Module, Names, Symbolizer, Wanted, lookup_address,
};

/// Longest that DWARF is searched for a profile.
const MAX_TIME: Duration = Duration::from_secs(5);
/// Most inlined functions of a profile, counted at each address: 24 bytes each.
const MAX_INLINED: usize = 1 << 18;

impl Symbolizer {
    /// Looks for inlined functions in every file, the one with the most addresses first; gives the number of files of
    /// which some were left out because of a bound.
    pub(super) fn expand(
        &self,
        wanted: &mut HashMap<Module, Wanted>,
        interner: &mut Interner,
    ) -> u64 {
        let mut budget = elf::Budget {
            bytes: MAX_TABLE_BYTES,
            deadline: Instant::now() + MAX_TIME,
        };
        let mut room = MAX_INLINED;
        let mut left_out = 0;
        let files = wanted
            .iter_mut()
            .filter(|(module, _)| matches!(module, Module::Image(_) | Module::File(..)));
        let mut files: Vec<&mut Wanted> = files.map(|(_, wanted)| wanted).collect();
        files.sort_by_key(|wanted| Reverse(wanted.offsets.len()));
        for wanted in files {
            match self.chains(wanted, &mut budget, &mut room, interner) {
                Ok(chains) => {
                    left_out += u64::from(chains.is_cut);
                    wanted.chains = chains.of_offsets;
                }
                Err(error) => {
                    let path = wanted.openers.first().map(|(_, mapping)| &*mapping.path);
                    debug!(?path, %error, "no inlined functions");
                }
            }
        }
        left_out
    }

    fn chains(
        &self,
        wanted: &Wanted,
        budget: &mut elf::Budget,
        room: &mut usize,
        interner: &mut Interner,
    ) -> Result<Chains, elf::ElfError> {
        let openers = &wanted.openers;
        let opener = openers.first().ok_or(io::ErrorKind::NotFound);
        let (_, mapping) = opener.map_err(io::Error::from)?;
        let image = match &mapping.image {
            Some(image) => Arc::clone(image),
            None => self.open_module(openers)?,
        };
        let offsets: Vec<u64> = wanted.offsets.keys().copied().collect();
        let root = self.living_root(openers);
        let mut open;
        let debug_files = match &root {
            Some((root, path)) => {
                open = |path: &Path| open_regular_in_root(root, path);
                Some(elf::DebugFiles {
                    binary: Path::new(&**path),
                    open: &mut open,
                })
            }
            None => None,
        };
        let keep = |name: &str| interner.symbol(&demangle(name), INLINED_SUFFIX);
        elf::inlined::look_up(&image.file, debug_files, &offsets, budget, room, keep)
    }
}

impl Names {
    /// How many frames of a user stack, from the innermost on, have together at most so many inlined functions.
    pub(in crate::profile) fn expanded(
        &self,
        program: ProgramKey,
        frames: &[u64],
        most: usize,
    ) -> usize {
        if self.inlined.is_empty() {
            return frames.len();
        }
        let mut left = Some(most);
        let fits = |&(index, address): &(usize, &u64)| {
            let count = self.inlined(program, index, *address).len();
            left = left.and_then(|left| left.checked_sub(count));
            left.is_some()
        };
        frames.iter().enumerate().take_while(fits).count()
    }

    /// Numbers of the functions that were inlined at a user frame, the outermost first.
    #[must_use]
    pub fn inlined(&self, program: ProgramKey, index: usize, address: u64) -> &[u32] {
        if self.inlined.is_empty() {
            return &[];
        }
        let place = (program, lookup_address(index, address));
        self.inlined.get(&place).map_or(&[], |frames| &frames[..])
    }

    /// Takes the frame of an address, and the functions that were inlined there.
    pub(super) fn put(
        &mut self,
        place: (ProgramKey, u64),
        mut frame: Frame,
        chain: Option<&Chain>,
    ) {
        if let Some(chain) = chain {
            frame.line = chain.line;
            let inlined = chain.inlined.iter().map(|inlined| Frame {
                name: Arc::clone(&inlined.name),
                module: Arc::clone(&frame.module),
                line: inlined.line,
                function: "".into(),
                kind: FrameKind::Inlined,
            });
            let inlined: Box<[u32]> = inlined.map(|frame| self.frames.of(&frame)).collect();
            if !inlined.is_empty() {
                self.inlined.insert(place, inlined);
            }
        }
        let frame = self.frames.of(&frame);
        self.user.insert(place, frame);
    }
}
