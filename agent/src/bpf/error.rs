//! What can go wrong between user space and the kernel side.

use std::{io, path::PathBuf};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why the kernel side could not be brought up or read.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// Type information could not be read.
    #[error("read BTF from {}", path.display())]
    Btf {
        /// From where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Source,
    },
    /// The kernel refused the object.
    #[error(
        "load the eBPF object: it needs root, or CAP_BPF and CAP_PERFMON (CAP_SYS_ADMIN before 5.8)"
    )]
    Load {
        /// Why.
        #[source]
        source: Source,
    },
    /// The object lacks a map or program: it was not built from this source.
    #[error("the eBPF object has no {name}; it was built from another version")]
    NoMap {
        /// Which.
        name: &'static str,
    },
    /// A map has another kind than this program expects.
    #[error("the map {name} has another kind than expected; the object is of another version")]
    MapKind {
        /// Which.
        name: &'static str,
    },
    /// A map could not be opened.
    #[error("open the map {name}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: Source,
    },
    /// A map could not be mapped.
    #[error("map the memory of {name}; it needs a kernel of 5.5 or later")]
    Mmap {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// This kernel does not offer it.
    #[error("{what} does not work here: {reason}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}
