//! Reads BTF, the kernel's own description of its types (`include/uapi/linux/btf.h`).
//!
//! Needs a kernel built with `CONFIG_DEBUG_INFO_BTF` (shown since 5.4), which shows its BTF as
//! [`KERNEL`], or a file with the raw BTF of exactly that kernel. Without either no program can be
//! loaded: field offsets are facts of one build.
//!
//! [`Btf::parse`] walks the file once and checks that every type and name that it refers to exists;
//! it keeps the bytes and one offset per type. Names are hashed at the first look-up. What only a
//! walk can find, types that contain themselves, ends a look-up with [`Malformed::Endless`]. Drop the
//! [`Btf`] after use.
//!
//! Measured on a 6.18 kernel with 126,573 types in 5.5 MB: parsing takes 1.4 to 2.2 ms, the first
//! look-up 2.8 to 3.5 ms for the index, and 7.1 MB are held, of which 5.5 MB are the file
//! (`cargo test --release -p ctrscope --lib cost_is_shown -- --nocapture`).

use std::{
    fs::File,
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Read},
    ops::Range,
    path::Path,
    sync::OnceLock,
};

#[cfg(test)]
pub(crate) mod builder;
mod error;
mod parse;
#[cfg(test)]
mod tests;

pub use error::{BtfError, Malformed};
pub use parse::Kind;
use parse::{MAX_FILE_BYTES, Record, record, word, word_count};

/// Where the running kernel shows its BTF.
pub const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// Steps through modifiers, arrays, or levels of anonymous members, before a type is called endless.
const MAX_DEPTH: u32 = 32;
/// Members looked at in one look-up, before its type is called endless.
const MAX_MEMBERS: u32 = 1 << 20;

/// Number of a type; 0 is `void`.
pub type TypeId = u32;

/// Where a field lies in the struct that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Whole bytes from the start of the struct.
    pub offset_bytes: u32,
    /// Bits beyond that; 0 unless it is a bitfield.
    pub offset_bits: u32,
    /// Bits of a bitfield; 0 otherwise.
    pub bits: u32,
    /// Its declared type.
    pub type_id: TypeId,
}

/// The types of a kernel.
pub struct Btf {
    data: Vec<u8>,
    /// Offset of each type in `data`; that of type 0, `void`, is not used.
    types: Vec<u32>,
    strings: Range<usize>,
    names: OnceLock<Names>,
}

/// Named types by hash: `first` by bucket, then `next` by type; 0 ends a chain.
struct Names {
    hasher: RandomState,
    first: Vec<TypeId>,
    next: Vec<TypeId>,
}

impl Btf {
    /// Reads the BTF in a file; [`KERNEL`] for the running kernel's.
    ///
    /// # Errors
    ///
    /// [`BtfError`]: no file, not readable, not BTF, damaged.
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        let failed = |source| BtfError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound && path.ends_with("sys/kernel/btf/vmlinux")
            {
                BtfError::NoKernelBtf {
                    path: path.to_owned(),
                }
            } else {
                failed(source)
            }
        })?;
        let size = file.metadata().map_err(failed)?.len().min(MAX_FILE_BYTES);
        let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut data)
            .map_err(failed)?;
        Self::parse(data).map_err(|source| BtfError::Malformed {
            path: path.to_owned(),
            source,
        })
    }

    /// Parses raw BTF.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: whatever is wrong with it, types that contain themselves excepted.
    pub fn parse(data: Vec<u8>) -> Result<Self, Malformed> {
        let (types, strings) = parse::check(&data)?;
        Ok(Self {
            data,
            types,
            strings,
            names: OnceLock::new(),
        })
    }

    /// Number of types, `void` included.
    #[must_use]
    pub fn type_count(&self) -> usize {
        self.types.len()
    }

    /// Heap memory held, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let words = self
            .names
            .get()
            .map_or(0, |names| names.first.capacity() + names.next.capacity());
        self.data.capacity() + (self.types.capacity() + words) * 4
    }

    /// What a type is; [`Kind::Void`] for a number that is none.
    #[must_use]
    pub fn kind(&self, id: TypeId) -> Kind {
        self.record(id).kind
    }

    /// A type's own name; empty where it has none.
    #[must_use]
    pub fn name(&self, id: TypeId) -> &str {
        std::str::from_utf8(self.string(self.record(id).name)).unwrap_or("?")
    }

    /// The first type of one of the kinds with this name.
    #[must_use]
    pub fn find(&self, kinds: &[Kind], name: &str) -> Option<TypeId> {
        let names = self.names.get_or_init(|| Names::build(self));
        let mut id = names.first_of(name.as_bytes());
        while id != 0 {
            let record = self.record(id);
            if kinds.contains(&record.kind) && self.string(record.name) == name.as_bytes() {
                return Some(id);
            }
            id = names.next_of(id);
        }
        None
    }

    /// The struct or union with this name.
    #[must_use]
    pub fn find_struct(&self, name: &str) -> Option<TypeId> {
        self.find(&[Kind::Struct, Kind::Union], name)
    }

    /// A type without its typedefs and qualifiers.
    ///
    /// # Errors
    ///
    /// [`Malformed::Endless`].
    pub fn strip(&self, id: TypeId) -> Result<TypeId, Malformed> {
        let mut stripped = id;
        for _ in 0..MAX_DEPTH {
            let record = self.record(stripped);
            if !record.kind.modifies() {
                return Ok(stripped);
            }
            stripped = record.size_or_type;
        }
        Err(Malformed::Endless { id })
    }

    /// Bytes that a value of the type takes; `None` where it has no size. Pointers take 8.
    ///
    /// # Errors
    ///
    /// [`Malformed::Endless`].
    pub fn size(&self, id: TypeId) -> Result<Option<u64>, Malformed> {
        let mut count = Some(1_u64);
        let mut element = id;
        for _ in 0..MAX_DEPTH {
            element = self.strip(element)?;
            let record = self.record(element);
            let size = match record.kind {
                Kind::Array => {
                    let array = self.array(record);
                    count = count.and_then(|count| count.checked_mul(u64::from(array.count)));
                    element = array.element;
                    continue;
                }
                Kind::Ptr => Some(8),
                Kind::Int
                | Kind::Struct
                | Kind::Union
                | Kind::Enum
                | Kind::Enum64
                | Kind::Float => Some(u64::from(record.size_or_type)),
                _ => None,
            };
            return Ok(size
                .zip(count)
                .and_then(|(size, count)| size.checked_mul(count)));
        }
        Err(Malformed::Endless { id })
    }

    /// What a pointer points to, without typedefs and qualifiers; `None` where the type is no
    /// pointer. A struct that is only declared there is looked up by its name.
    ///
    /// # Errors
    ///
    /// [`Malformed::Endless`].
    pub fn pointee(&self, id: TypeId) -> Result<Option<TypeId>, Malformed> {
        let record = self.record(self.strip(id)?);
        if record.kind != Kind::Ptr {
            return Ok(None);
        }
        let target = self.strip(record.size_or_type)?;
        if self.kind(target) == Kind::Fwd {
            return Ok(self.find_struct(self.name(target)));
        }
        Ok(Some(target))
    }

    /// Where the field `a.b[2].c` of a struct or union lies. The path crosses no pointer; members of
    /// anonymous members count as members. `None` where there is no such field.
    ///
    /// # Errors
    ///
    /// [`Malformed::Endless`].
    pub fn field(&self, id: TypeId, path: &str) -> Result<Option<Field>, Malformed> {
        let mut field = Field {
            offset_bytes: 0,
            offset_bits: 0,
            bits: 0,
            type_id: id,
        };
        for step in path.split('.') {
            let (name, index) = match step.split_once('[') {
                None => (step, None),
                Some((name, index)) => {
                    let index = index
                        .strip_suffix(']')
                        .and_then(|index| index.parse::<u32>().ok());
                    let Some(index) = index else { return Ok(None) };
                    (name, Some(index))
                }
            };
            let mut members = 0;
            let Some(member) = self.member(field.type_id, name, 0, &mut members)? else {
                return Ok(None);
            };
            let Some(offset) = field.offset_bytes.checked_add(member.offset_bytes) else {
                return Ok(None);
            };
            field = Field {
                offset_bytes: offset,
                ..member
            };
            let Some(index) = index else { continue };
            let record = self.record(self.strip(field.type_id)?);
            if record.kind != Kind::Array {
                return Ok(None);
            }
            let array = self.array(record);
            // A count of 0 is a flexible array.
            if array.count != 0 && index >= array.count {
                return Ok(None);
            }
            let offset = self
                .size(array.element)?
                .and_then(|size| size.checked_mul(u64::from(index)))
                .and_then(|offset| offset.checked_add(u64::from(field.offset_bytes)))
                .and_then(|offset| u32::try_from(offset).ok());
            let Some(offset) = offset else {
                return Ok(None);
            };
            field.offset_bytes = offset;
            field.type_id = array.element;
        }
        Ok(Some(field))
    }

    /// The value of an enumerator of the enum with this name.
    #[must_use]
    pub fn enum_value(&self, enumeration: &str, enumerator: &str) -> Option<i64> {
        let record = self.record(self.find(&[Kind::Enum, Kind::Enum64], enumeration)?);
        let wide = record.kind == Kind::Enum64;
        let step = if wide { 12 } else { 8 };
        (0..record.count as usize)
            .map(|i| record.tail + i * step)
            .find(|at| self.string(word(&self.data, *at)) == enumerator.as_bytes())
            .map(|at| {
                let low = word(&self.data, at + 4);
                if wide {
                    let high = word(&self.data, at + 8);
                    ((u64::from(high) << 32) | u64::from(low)).cast_signed()
                } else if record.flag {
                    i64::from(low.cast_signed())
                } else {
                    i64::from(low)
                }
            })
    }

    /// The types of a tracepoint's arguments, as a program of type `tp_btf` gets them; `None` where
    /// the kernel has no such tracepoint.
    ///
    /// # Errors
    ///
    /// [`Malformed::Endless`].
    pub fn tracepoint(&self, name: &str) -> Result<Option<Vec<TypeId>>, Malformed> {
        let Some(typedef) = self.find(&[Kind::Typedef], &format!("btf_trace_{name}")) else {
            return Ok(None);
        };
        let Some(prototype) = self.pointee(typedef)? else {
            return Ok(None);
        };
        let record = self.record(prototype);
        if record.kind != Kind::FuncProto {
            return Ok(None);
        }
        // The first is the tracepoint's own data, `void *`, which programs do not see.
        let types = (1..record.count as usize).map(|i| word(&self.data, record.tail + i * 8 + 4));
        Ok(Some(types.collect()))
    }

    /// A type as C writes it, without qualifiers: `struct request *`, `unsigned int`, `blk_opf_t`.
    #[must_use]
    pub fn describe(&self, id: TypeId) -> String {
        let mut id = id;
        let mut stars = String::new();
        for _ in 0..MAX_DEPTH {
            let record = self.record(id);
            let name = self.name(id);
            let name = if name.is_empty() { "(anonymous)" } else { name };
            let base = match record.kind {
                Kind::Ptr => {
                    stars.push('*');
                    id = record.size_or_type;
                    continue;
                }
                Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                    id = record.size_or_type;
                    continue;
                }
                Kind::Array => {
                    stars.push_str("[]");
                    id = self.array(record).element;
                    continue;
                }
                Kind::Void => "void".to_owned(),
                Kind::Struct => format!("struct {name}"),
                Kind::Union => format!("union {name}"),
                Kind::Fwd => format!("{} {name}", if record.flag { "union" } else { "struct" }),
                Kind::Enum | Kind::Enum64 => format!("enum {name}"),
                Kind::FuncProto => "function".to_owned(),
                _ => name.to_owned(),
            };
            return if stars.is_empty() {
                base
            } else {
                format!("{base} {stars}")
            };
        }
        "?".to_owned()
    }

    /// The member of a struct or union, those of anonymous members included.
    fn member(
        &self,
        id: TypeId,
        name: &str,
        depth: u32,
        seen: &mut u32,
    ) -> Result<Option<Field>, Malformed> {
        let record = self.record(self.strip(id)?);
        if !record.kind.is_composite() || name.is_empty() {
            return Ok(None);
        }
        if depth == MAX_DEPTH {
            return Err(Malformed::Endless { id });
        }
        for at in (0..record.count as usize).map(|i| record.tail + i * 12) {
            *seen += 1;
            if *seen > MAX_MEMBERS {
                return Err(Malformed::Endless { id });
            }
            let member_name = self.string(word(&self.data, at));
            let type_id = word(&self.data, at + 4);
            let position = word(&self.data, at + 8);
            let (offset, bits) = if record.flag {
                (position & 0x00ff_ffff, position >> 24)
            } else {
                (position, 0)
            };
            if member_name == name.as_bytes() {
                return Ok(Some(self.placed(offset, bits, type_id)?));
            }
            if member_name.is_empty()
                && let Some(inner) = self.member(type_id, name, depth + 1, seen)?
            {
                let outer = offset / 8;
                return Ok(inner
                    .offset_bytes
                    .checked_add(outer)
                    .map(|offset_bytes| Field {
                        offset_bytes,
                        ..inner
                    }));
            }
        }
        Ok(None)
    }

    /// A member at a bit offset. Before `kind_flag` a bitfield's width and shift were in the integer
    /// that it is of.
    fn placed(&self, offset: u32, bits: u32, type_id: TypeId) -> Result<Field, Malformed> {
        let mut field = Field {
            offset_bytes: offset / 8,
            offset_bits: offset % 8,
            bits,
            type_id,
        };
        let record = self.record(self.strip(type_id)?);
        if bits == 0 && record.kind == Kind::Int {
            let encoding = word(&self.data, record.tail);
            let (shift, width) = ((encoding >> 16) & 0xff, encoding & 0xff);
            if width != record.size_or_type.saturating_mul(8)
                || shift != 0
                || !offset.is_multiple_of(8)
            {
                let offset = offset.saturating_add(shift);
                field = Field {
                    offset_bytes: offset / 8,
                    offset_bits: offset % 8,
                    bits: width,
                    type_id,
                };
            }
        }
        Ok(field)
    }

    fn record(&self, id: TypeId) -> Record {
        match self.types.get(id as usize) {
            Some(at) if id != 0 => record(&self.data, *at as usize),
            _ => Record {
                kind: Kind::Void,
                flag: false,
                count: 0,
                name: 0,
                size_or_type: 0,
                tail: 0,
            },
        }
    }

    fn array(&self, record: Record) -> Array {
        Array {
            element: word(&self.data, record.tail),
            count: word(&self.data, record.tail + 8),
        }
    }

    fn string(&self, offset: u32) -> &[u8] {
        let from = self.strings.start + offset as usize;
        let rest = self.data.get(from..self.strings.end).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

impl std::fmt::Debug for Btf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Btf")
            .field("types", &self.types.len())
            .finish_non_exhaustive()
    }
}

struct Array {
    element: TypeId,
    count: u32,
}

impl Names {
    fn build(btf: &Btf) -> Self {
        let mut names = Self {
            hasher: RandomState::new(),
            first: vec![0; btf.types.len().next_power_of_two()],
            next: vec![0; btf.types.len()],
        };
        // Backwards, so that a chain begins with the first of its types.
        for id in (1..word_count(btf.types.len())).rev() {
            let record = btf.record(id);
            let wanted = record.kind.is_composite()
                || matches!(
                    record.kind,
                    Kind::Enum | Kind::Enum64 | Kind::Typedef | Kind::Func
                );
            if !wanted || record.name == 0 {
                continue;
            }
            let bucket = names.bucket(btf.string(record.name));
            if let (Some(first), Some(next)) =
                (names.first.get_mut(bucket), names.next.get_mut(id as usize))
            {
                *next = *first;
                *first = id;
            }
        }
        names
    }

    fn bucket(&self, name: &[u8]) -> usize {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name);
        usize::try_from(hasher.finish()).unwrap_or(0) & (self.first.len() - 1)
    }

    fn first_of(&self, name: &[u8]) -> TypeId {
        self.first.get(self.bucket(name)).copied().unwrap_or(0)
    }

    fn next_of(&self, id: TypeId) -> TypeId {
        self.next.get(id as usize).copied().unwrap_or(0)
    }
}
