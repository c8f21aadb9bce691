//! Events from the kernel side, decoded.

use ctrscope_ebpf::{
    event::{self, CgroupEvent, Css, Event},
    slot,
};

use crate::cgroup::text_of;

/// A controller that charges what the programs count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subsystem {
    /// The cpu controller.
    Cpu,
    /// The block controller (`blkio` on v1, `io` on v2).
    Block,
}

/// A css by its id and serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CssId {
    /// Small, dense, reused.
    pub(crate) id: u32,
    /// Never reused.
    pub(crate) serial: u64,
}

/// Where a task of a cgroup was first seen running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstRun {
    /// CPU.
    pub(crate) cpu: u32,
    /// Switch count that the CPU's state shows while that task runs.
    pub(crate) switches: u32,
    /// Owner under which it was dispatched.
    pub(crate) owner: u32,
}

/// What the kernel side reports one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KernelEvent {
    /// A css ran or did I/O for the first time, or under a reused id.
    CssSeen {
        subsystem: Subsystem,
        css: CssId,
        cgroup_id: u64,
        first_run: FirstRun,
    },
    /// A cgroup was made.
    CgroupMade {
        hierarchy_id: u32,
        cgroup_id: u64,
        /// `None` if it was cut or could not be read.
        path: Option<String>,
        cpu: Option<CssId>,
        block: Option<CssId>,
    },
    /// The last task of a cgroup and of all below it has ended, or was moved elsewhere.
    CgroupEmptied {
        hierarchy_id: u32,
        cgroup_id: u64,
        /// `None` if it was cut or could not be read.
        path: Option<String>,
    },
    /// A cgroup was removed.
    CgroupRemoved { hierarchy_id: u32, cgroup_id: u64 },
}

impl KernelEvent {
    /// Decodes a record of the ring buffer; `None` for one of the wrong size or kind.
    pub(crate) fn decode(record: &[u8]) -> Option<Self> {
        let event: Event = read_prefix(record)?;
        match event.kind {
            event::CSS_SEEN => Some(Self::CssSeen {
                subsystem: match event.argument {
                    slot::SUBSYSTEM_CPU => Subsystem::Cpu,
                    slot::SUBSYSTEM_BLOCK => Subsystem::Block,
                    _ => return None,
                },
                css: css(event.css)?,
                cgroup_id: event.cgroup_id,
                first_run: FirstRun {
                    cpu: event.cpu,
                    switches: event.switches,
                    owner: event.owner,
                },
            }),
            event::CGROUP_MADE => {
                let whole: CgroupEvent = read_prefix(record)?;
                Some(Self::CgroupMade {
                    hierarchy_id: event.argument,
                    cgroup_id: event.cgroup_id,
                    path: path(&whole),
                    cpu: css(event.css),
                    block: css(event.second),
                })
            }
            event::CGROUP_EMPTIED => {
                let whole: CgroupEvent = read_prefix(record)?;
                Some(Self::CgroupEmptied {
                    hierarchy_id: event.argument,
                    cgroup_id: event.cgroup_id,
                    path: path(&whole),
                })
            }
            event::CGROUP_REMOVED => Some(Self::CgroupRemoved {
                hierarchy_id: event.argument,
                cgroup_id: event.cgroup_id,
            }),
            _ => None,
        }
    }
}

fn css(css: Css) -> Option<CssId> {
    (css.serial != 0).then_some(CssId {
        id: css.id,
        serial: css.serial,
    })
}

/// The path of a cgroup event; `None` if it filled its field, for then it may have been cut.
fn path(event: &CgroupEvent) -> Option<String> {
    let bytes = event.event.path_bytes as usize;
    if !(2..event::PATH_BYTES).contains(&bytes) {
        return None;
    }
    Some(text_of(event.path.get(..bytes - 1)?).into_owned())
}

fn read_prefix<T: ctrscope_ebpf::Pod>(record: &[u8]) -> Option<T> {
    if record.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: long enough; any bit pattern is a value; alignment does not matter to the read.
    Some(unsafe { record.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<T: ctrscope_ebpf::Pod>(value: &T) -> Vec<u8> {
        // SAFETY: no padding.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
            .to_vec()
    }

    #[test]
    fn a_cgroup_event_gives_its_path_and_both_css() {
        let mut record = CgroupEvent::ZERO;
        record.event.kind = event::CGROUP_MADE;
        record.event.argument = 3;
        record.event.cgroup_id = 77;
        record.event.css = Css {
            serial: 9,
            id: 4,
            reserved: 0,
        };
        record.path[..6].copy_from_slice(b"/a/b\0x");
        record.event.path_bytes = 5;
        let expected = KernelEvent::CgroupMade {
            hierarchy_id: 3,
            cgroup_id: 77,
            path: Some("/a/b".into()),
            cpu: Some(CssId { id: 4, serial: 9 }),
            block: None,
        };
        assert_eq!(KernelEvent::decode(&bytes(&record)), Some(expected));
        record.event.kind = event::CGROUP_EMPTIED;
        let expected = KernelEvent::CgroupEmptied {
            hierarchy_id: 3,
            cgroup_id: 77,
            path: Some("/a/b".into()),
        };
        assert_eq!(KernelEvent::decode(&bytes(&record)), Some(expected));
    }

    #[test]
    fn a_path_that_fills_its_field_counts_as_unknown() {
        let mut record = CgroupEvent::ZERO;
        record.event.kind = event::CGROUP_MADE;
        record.path = [b'a'; event::PATH_BYTES];
        record.event.path_bytes = event::PATH_BYTES as u32;
        let Some(KernelEvent::CgroupMade { path, .. }) = KernelEvent::decode(&bytes(&record))
        else {
            panic!("it decodes");
        };
        assert_eq!(path, None);
    }

    #[test]
    fn short_records_and_unknown_kinds_decode_to_nothing() {
        let mut record = Event::ZERO;
        assert_eq!(KernelEvent::decode(&bytes(&record)), None);
        record.kind = event::CGROUP_MADE;
        assert_eq!(KernelEvent::decode(&bytes(&record)), None);
        assert_eq!(KernelEvent::decode(&[1, 0, 0]), None);
    }
}
