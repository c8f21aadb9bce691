//! Distinct names of one profile.

use std::{collections::HashSet, sync::Arc};

use super::frame_name::{UNKNOWN, clean};

/// Most bytes of distinct names; later ones are shown as offsets.
const MAX_NAME_BYTES: usize = 8 << 20;

/// Distinct names, up to [`MAX_NAME_BYTES`].
#[derive(Debug, Default)]
pub(super) struct Interner {
    names: HashSet<Arc<str>>,
    bytes: usize,
}

impl Interner {
    /// Whether there is room for no more.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MAX_NAME_BYTES
    }

    /// A symbol made safe, with a suffix; `None` when there is no room.
    pub(super) fn symbol(&mut self, name: &str, suffix: &str) -> Option<Arc<str>> {
        if self.is_full() {
            return None;
        }
        Some(self.keep(clean(name) + suffix))
    }

    /// The one copy of a name; beyond the limit, [`UNKNOWN`].
    pub(super) fn keep(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.names.get(name.as_str()) {
            return Arc::clone(known);
        }
        let name: Arc<str> = if self.is_full() {
            UNKNOWN.into()
        } else {
            name.into()
        };
        self.bytes += name.len();
        self.names.insert(Arc::clone(&name));
        name
    }
}
