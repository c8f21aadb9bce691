//! Block I/O of many bytes, against the accounts of the kernel and of the disks.

mod coverage;
mod writeback;

use crate::block::assert_direct_io_agrees;

/// Bytes moved each way.
const BYTES: u64 = 64 << 20;

/// Exact whatever others do, so that one run tells.
#[test]
fn direct_io_is_charged_to_the_byte() {
    assert_direct_io_agrees(BYTES);
}
