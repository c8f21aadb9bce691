//! Slots: the small dense numbers under which the kernel side counts a container.
//!
//! A controller's css has a small dense `id`, which is reused, and a `serial_nr`, which is not
//! (`struct cgroup_subsys_state`, `include/linux/cgroup-defs.h`). The slot tables are arrays indexed
//! by the id; an entry packs the serial that it was written for with the slot, in one word, so that
//! both sides read and replace it whole and a stale entry gives itself away.

/// The slot that sums whatever has none of its own.
pub const OTHER: u32 = 0;

/// Stands for the idle task where a slot is expected.
pub const IDLE: u32 = 0xffff;

/// Stands for kernel threads and interrupts where a slot is expected.
pub const KERNEL: u32 = 0xfffe;

/// Stands for those together of whom there are too many, where a slot is expected.
pub const ANY: u32 = 0xfffd;

/// Most slots an agent can have; the number fits 16 bits beside [`IDLE`], [`KERNEL`] and [`ANY`].
pub const MAX_SLOTS: u32 = 32_768;

/// Entries of a slot table. Css ids are handed out lowest first (`cgroup_idr_alloc`), so this many
/// cgroups with the controller must live at once before one finds no entry and counts as
/// [`OTHER`].
pub const TABLE_ENTRIES: u32 = 65_536;

/// What an entry's owner is: unknown yet, or neither of the others.
pub const KIND_UNKNOWN: u32 = 0;
/// The owner is a container.
pub const KIND_CONTAINER: u32 = 1;
/// The owner is a system service, a user session, or the root cgroup.
pub const KIND_SYSTEM: u32 = 2;

/// The cpu controller's slot table.
pub const SUBSYSTEM_CPU: u32 = 0;
/// The block controller's slot table.
pub const SUBSYSTEM_BLOCK: u32 = 1;

const SLOT_BITS: u32 = 16;
const KIND_BITS: u32 = 3;
const OWNER_BITS: u32 = SLOT_BITS + KIND_BITS;
/// Between owner and serial: the css is to be reported when it is next seen.
const REPORT_BIT: u32 = OWNER_BITS;
const SERIAL_SHIFT: u32 = REPORT_BIT + 1;

/// Packs a slot and its kind: the low bits of a table entry.
#[inline(always)]
pub const fn owner(slot: u32, kind: u32) -> u32 {
    (kind << SLOT_BITS) | (slot & ((1 << SLOT_BITS) - 1))
}

/// The slot of an owner.
#[inline(always)]
pub const fn slot(owner: u32) -> u32 {
    owner & ((1 << SLOT_BITS) - 1)
}

/// The kind of an owner.
#[inline(always)]
pub const fn kind(owner: u32) -> u32 {
    (owner >> SLOT_BITS) & ((1 << KIND_BITS) - 1)
}

/// Packs a table entry.
#[inline(always)]
pub const fn entry(serial: u64, owner: u32) -> u64 {
    (serial << SERIAL_SHIFT) | (owner & ((1 << OWNER_BITS) - 1)) as u64
}

/// The same entry, with the wish that the css be reported when it is next seen. Until then, and after,
/// it counts as its owner.
#[inline(always)]
pub const fn reported_when_seen(entry: u64) -> u64 {
    entry | 1 << REPORT_BIT
}

/// Whether an entry was written for this serial and wants no report: the one comparison of the hot
/// path.
#[inline(always)]
pub const fn is_settled(entry: u64, serial: u64) -> bool {
    entry >> REPORT_BIT == serial << 1
}

/// The serial that an entry was written for.
#[inline(always)]
pub const fn entry_serial(entry: u64) -> u64 {
    entry >> SERIAL_SHIFT
}

/// The owner in an entry.
#[inline(always)]
pub const fn entry_owner(entry: u64) -> u32 {
    (entry & ((1 << OWNER_BITS) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_gives_back_what_it_was_made_of() {
        for (serial, slot_, kind_) in [
            (1, 0, KIND_UNKNOWN),
            (2, 1, KIND_CONTAINER),
            ((1 << 44) - 1, MAX_SLOTS - 1, KIND_SYSTEM),
            (77, IDLE, KIND_SYSTEM),
        ] {
            let packed = entry(serial, owner(slot_, kind_));
            assert_eq!(entry_serial(packed), serial);
            assert!(is_settled(packed, serial) && !is_settled(packed, serial + 1));
            let wanted = reported_when_seen(packed);
            assert!(!is_settled(wanted, serial));
            assert_eq!(entry_serial(wanted), serial);
            assert_eq!(entry_owner(wanted), owner(slot_, kind_));
            assert_eq!(slot(entry_owner(packed)), slot_);
            assert_eq!(kind(entry_owner(packed)), kind_);
        }
    }
}
