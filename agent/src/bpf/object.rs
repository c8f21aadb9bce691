//! The eBPF object, embedded at build time.

/// Aligned as the ELF reader wants it.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static EMBEDDED: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/ctrscope-ebpf")));

/// The object's bytes.
pub(crate) fn bytes() -> &'static [u8] {
    &EMBEDDED.0
}

#[cfg(test)]
mod tests;
