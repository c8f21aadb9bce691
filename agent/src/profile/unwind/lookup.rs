//! How the kernel side finds a row, and how it would without an index: what tests compare.

use ctrscope_ebpf::unwind::{
    GAP, PAGE_MASK, PAGE_SHIFT, SEARCH_STEPS, WIDE, kind, row_info, row_pc, wide_number,
};

use super::{Packed, UnwindTable};

/// The info of an address by a search over the rows.
pub(in crate::profile) fn unpacked(table: &UnwindTable, pc: u32) -> u32 {
    let after = table.rows.partition_point(|row| row.pc <= pc);
    let row = after.checked_sub(1).and_then(|at| table.rows.get(at));
    row.map_or(GAP, |row| row.info)
}

/// The info of an address by the page index, step by step as the kernel side does it; `map` has the
/// rows of all tables.
pub(in crate::profile) fn packed(map: &[u32], table: &Packed, pc: u32) -> u32 {
    let page = (pc >> PAGE_SHIFT).wrapping_sub(table.page0);
    if page >= table.pages {
        return GAP;
    }
    let (mut low, mut high) = (table.index[page as usize], table.index[page as usize + 1]);
    for _ in 0..SEARCH_STEPS {
        if low >= high {
            break;
        }
        let middle = low.midpoint(high);
        if row_pc(map[middle as usize]) <= pc & PAGE_MASK {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    assert!(low >= high, "{SEARCH_STEPS} steps are not enough");
    let info = row_info(map[low as usize - 1]);
    match wide_number(info) {
        number if kind(info) == WIDE && number > 0 => table.index[(table.pages + number) as usize],
        _ => info,
    }
}
