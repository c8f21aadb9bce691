//! Atomic additions on map values.
//!
//! `core` offers this target no read-modify-write atomics, the instruction set does: `xadd`, on every
//! kernel, with the result thrown away.

/// Adds to a 64-bit counter.
///
/// # Safety
///
/// `target` points into a map value and is aligned.
#[inline(always)]
pub unsafe fn add_u64(target: *mut u64, value: u64) {
    // SAFETY: by the caller.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({0} + 0) += {1}",
            in(reg) target,
            in(reg) value,
            options(nostack),
        );
    }
}

/// Adds to a 32-bit counter.
///
/// # Safety
///
/// As [`add_u64`].
#[inline(always)]
pub unsafe fn add_u32(target: *mut u32, value: u32) {
    // SAFETY: by the caller.
    unsafe {
        core::arch::asm!(
            "lock *(u32 *)({0} + 0) += {1}",
            in(reg) target,
            in(reg) u64::from(value),
            options(nostack),
        );
    }
}
