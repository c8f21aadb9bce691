//! Rows of unwind tables: how to find the caller of a function that keeps no frame pointer. x86-64.
//!
//! A table belongs to one ELF file. Its rows are sorted by pc, which is a virtual address of the file
//! below 4 GiB, and each is valid up to the next. The last row is a [`GAP`], and so is the first one
//! where the code does not begin at a page of [`PAGE_SHIFT`].
//!
//! A row in a map has 4 bytes, from the lowest bit: pc within its page (10) | kind (3) | slot (3) |
//! CFA offset in units of 8 bytes (16). What is above the pc is called the *info* of the row.
//!
//! The page index says where the rows of a page begin: with `page = (pc >> PAGE_SHIFT) - first page`,
//! they are `index[page] .. index[page + 1]`, and the row of `pc` is the last of them that begins at
//! `pc` or before it, or else the one before `index[page]`. [`SEARCH_STEPS`] halvings find it.
//!
//! Behind the page index, which has one entry more than there are pages, stand the *wide words*:
//! infos that do not fit into 22 bits, because the frame has 512 KiB or more. A row of kind [`WIDE`]
//! with the number `n` above the kind means the info in `index[pages + n]`; `n` begins at 1, and 0
//! means that no row can say what is right here.

/// Bits of a pc within its page: 1 KiB of code.
pub const PAGE_SHIFT: u32 = 10;
/// Mask of a pc within its page.
pub const PAGE_MASK: u32 = (1 << PAGE_SHIFT) - 1;
/// Halvings that find a row among those of one page, of which there are no more than bytes.
pub const SEARCH_STEPS: u32 = PAGE_SHIFT + 1;

/// Nothing describes this code: a guess by frame pointer is all there is.
pub const GAP: u32 = 0;
/// CFA = rsp + offset.
pub const RSP: u32 = 1;
/// CFA = rbp + offset.
pub const RBP: u32 = 2;
/// A stub of the procedure linkage table: CFA = rsp + 8, and 8 more from the byte [`units`] of each
/// 16 bytes of code on.
pub const PLT: u32 = 3;
/// The outermost frame: it has no caller.
pub const END: u32 = 4;
/// A signal trampoline: the registers are in the `ucontext` at rsp.
pub const SIG: u32 = 5;
/// A function that keeps the CFA in memory. With slot 0 one that realigns its stack: CFA = the word at rbp - offset,
/// caller's rbp = the word at rbp. With any other slot one written by hand: CFA = the word at rsp - 8 + offset, and
/// 8 more, caller's rbp in the slot.
pub const DRAP: u32 = 6;
/// The number of a wide word, or [`UNSUPPORTED`].
pub const WIDE: u32 = 7;

/// The info of code whose rule no row can express.
pub const UNSUPPORTED: u32 = WIDE;

/// Bits of an info that a row has room for.
pub const INFO_BITS: u32 = 32 - PAGE_SHIFT;
/// Greatest slot: rbp is saved at CFA - 8 × slot; 0 is not saved, it has the caller's value.
pub const MAX_SLOT: u32 = 7;
/// Greatest CFA offset of a wide word, in units of 8 bytes.
pub const MAX_UNITS: u32 = (1 << (32 - UNITS_SHIFT)) - 1;

const KIND_MASK: u32 = 7;
const SLOT_SHIFT: u32 = 3;
const UNITS_SHIFT: u32 = 6;

/// Makes an info. What exceeds [`MAX_SLOT`] or [`MAX_UNITS`] is cut off.
#[must_use]
pub const fn info(kind: u32, slot: u32, units: u32) -> u32 {
    (kind & KIND_MASK) | (slot & MAX_SLOT) << SLOT_SHIFT | units << UNITS_SHIFT
}

/// The kind of an info.
#[must_use]
pub const fn kind(info: u32) -> u32 {
    info & KIND_MASK
}

/// Where rbp is saved: at CFA - 8 × slot; 0 is not at all.
#[must_use]
pub const fn slot(info: u32) -> u32 {
    (info >> SLOT_SHIFT) & MAX_SLOT
}

/// The CFA offset of an info in units of 8 bytes; of [`PLT`], a number of bytes of code.
#[must_use]
pub const fn units(info: u32) -> u32 {
    info >> UNITS_SHIFT
}

/// The info that stands for the `number`-th wide word, counted from 1.
#[must_use]
pub const fn wide(number: u32) -> u32 {
    WIDE | number << SLOT_SHIFT
}

/// The number of the wide word that an info of kind [`WIDE`] stands for; 0 is [`UNSUPPORTED`].
#[must_use]
pub const fn wide_number(info: u32) -> u32 {
    info >> SLOT_SHIFT
}

/// Makes a row. An info of more than [`INFO_BITS`] is cut off.
#[must_use]
pub const fn row(pc: u32, info: u32) -> u32 {
    (pc & PAGE_MASK) | info << PAGE_SHIFT
}

/// The pc of a row within its page.
#[must_use]
pub const fn row_pc(row: u32) -> u32 {
    row & PAGE_MASK
}

/// The info of a row.
#[must_use]
pub const fn row_info(row: u32) -> u32 {
    row >> PAGE_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        for (code, save, offset) in [
            (RSP, 0, 1),
            (RBP, 2, 2),
            (DRAP, MAX_SLOT, 0xffff),
            (END, 0, 0),
        ] {
            let packed = row(0x1234_5678, info(code, save, offset));
            assert_eq!(row_pc(packed), 0x1234_5678 & PAGE_MASK);
            let info = row_info(packed);
            assert_eq!((kind(info), slot(info), units(info)), (code, save, offset));
        }
    }

    #[test]
    fn a_wide_word_has_room_for_half_a_gigabyte() {
        let word = info(RSP, MAX_SLOT, MAX_UNITS);
        assert_eq!(
            (kind(word), slot(word), units(word)),
            (RSP, MAX_SLOT, MAX_UNITS)
        );
        assert!(word >> INFO_BITS != 0);
        assert_eq!(wide_number(row_info(row(0, wide(70_000)))), 70_000);
        assert_eq!(wide_number(UNSUPPORTED), 0);
    }
}
