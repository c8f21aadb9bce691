//! Why BTF could not be had or used.

use std::{io, path::PathBuf};

use super::parse::MAX_FILE_BYTES;

/// Why BTF could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel shows none.
    #[error(
        "the kernel has no BTF at {}: boot one built with CONFIG_DEBUG_INFO_BTF=y, or give a file with this kernel's BTF by --btf FILE",
        path.display()
    )]
    NoKernelBtf {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("read BTF from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file was read and is not BTF, or is damaged.
    #[error("{} is not usable as BTF: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Malformed,
    },
}

/// What is wrong with some BTF.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is too large.
    #[error("larger than {} MiB", MAX_FILE_BYTES >> 20)]
    TooLarge,
    /// It is an ELF file.
    #[error(
        "an ELF file; extract its BTF first: objcopy -O binary --only-section=.BTF --set-section-flags .BTF=alloc VMLINUX FILE"
    )]
    Elf,
    /// It starts with something else.
    #[error("does not start with the magic number of BTF")]
    Magic,
    /// It was written for a machine of the other byte order.
    #[error("of a machine with the other byte order")]
    ByteOrder,
    /// Its version is unknown.
    #[error("version {0}, only 1 is known")]
    Version(u8),
    /// It ends too early.
    #[error("truncated: {what} ends at byte {end} of {size}")]
    Truncated {
        /// What is cut.
        what: &'static str,
        /// Where it would end.
        end: u64,
        /// Where the file ends.
        size: u64,
    },
    /// The string section does not begin and end with a zero byte.
    #[error("string section does not begin and end with a zero byte")]
    Strings,
    /// A kind is unknown and the file does not describe it.
    #[error("type {id} is of the unknown kind {kind}")]
    Kind {
        /// The type.
        id: u32,
        /// Its kind.
        kind: u32,
    },
    /// A type is longer than what is left of the type section.
    #[error("type {id} with {count} members reaches beyond the type section")]
    TypeTooLong {
        /// The type.
        id: u32,
        /// Its members, as it claims.
        count: u32,
    },
    /// A name is not in the string section.
    #[error("type {id} has a name at {offset}, beyond the string section")]
    NameOutOfRange {
        /// The type.
        id: u32,
        /// Where the name would be.
        offset: u32,
    },
    /// A type refers to one that is not there.
    #[error("type {id} refers to type {target} of {count}")]
    TypeOutOfRange {
        /// The type.
        id: u32,
        /// What it refers to.
        target: u32,
        /// How many there are.
        count: u32,
    },
    /// A type contains or modifies itself, or is absurdly deep.
    #[error("type {id} contains itself or is nested without end")]
    Endless {
        /// The type.
        id: u32,
    },
}
