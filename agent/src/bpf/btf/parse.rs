//! The file's form: header, sections, and one record after the other.

use std::ops::Range;

use super::Malformed;

/// Largest file read; the kernel's own is 5 to 10 MB.
pub(super) const MAX_FILE_BYTES: u64 = 256 << 20;
/// `BTF_MAGIC`, `BTF_VERSION`.
pub(super) const MAGIC: [u8; 2] = 0xeb9f_u16.to_ne_bytes();
const VERSION: u8 = 1;
/// `struct btf_header` up to and with `str_len`, and with `layout_len`.
const HEADER_BYTES: usize = 24;
const HEADER_WITH_LAYOUT_BYTES: usize = 32;
/// `struct btf_type`.
const TYPE_BYTES: usize = 12;

/// What a type is: `BTF_KIND_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum Kind {
    Void,
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
    /// Newer than this reader; its length came with the file.
    Unknown,
}

impl Kind {
    pub(super) const ALL: [Self; 20] = [
        Self::Void,
        Self::Int,
        Self::Ptr,
        Self::Array,
        Self::Struct,
        Self::Union,
        Self::Enum,
        Self::Fwd,
        Self::Typedef,
        Self::Volatile,
        Self::Const,
        Self::Restrict,
        Self::Func,
        Self::FuncProto,
        Self::Var,
        Self::Datasec,
        Self::Float,
        Self::DeclTag,
        Self::TypeTag,
        Self::Enum64,
    ];

    fn of(number: u32) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|number| Self::ALL.get(number))
            .copied()
            .unwrap_or(Self::Unknown)
    }

    /// Bytes that follow the type itself: once, and for each member.
    fn tail(self) -> (usize, usize) {
        match self {
            Self::Int | Self::Var | Self::DeclTag => (4, 0),
            Self::Array => (12, 0),
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => (0, 12),
            Self::Enum | Self::FuncProto => (0, 8),
            _ => (0, 0),
        }
    }

    /// Whether the third word of the type is a type, not a size.
    fn refers(self) -> bool {
        self.modifies()
            || matches!(self, Self::Ptr | Self::Func | Self::FuncProto)
            || matches!(self, Self::Var | Self::DeclTag)
    }

    /// Whether it only gives another type a name or a qualifier.
    pub(super) fn modifies(self) -> bool {
        matches!(
            self,
            Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag
        )
    }

    pub(super) fn is_composite(self) -> bool {
        matches!(self, Self::Struct | Self::Union)
    }
}

/// A type's own record.
#[derive(Clone, Copy)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) flag: bool,
    pub(super) count: u32,
    pub(super) name: u32,
    pub(super) size_or_type: u32,
    /// Where in the data the rest of it begins.
    pub(super) tail: usize,
}

/// Walks all types once and checks every name and type that they refer to. Returns the offset of
/// each type, that of `void` unused, and the string section.
pub(super) fn check(data: &[u8]) -> Result<(Vec<u32>, Range<usize>), Malformed> {
    if data.len() as u64 > MAX_FILE_BYTES {
        return Err(Malformed::TooLarge);
    }
    let header = Header::parse(data)?;
    let string_count = header.strings.len();
    let mut types = Vec::with_capacity(header.types.len() / 28 + 1);
    types.push(0);
    // Types may refer to later ones, so their number is compared at the end.
    let mut furthest = (0, 0);
    let mut at = header.types.start;
    while at < header.types.end {
        let id = word_count(types.len());
        let cut = |count| Malformed::TypeTooLong { id, count };
        if header.types.end - at < TYPE_BYTES {
            return Err(cut(0));
        }
        let number = kind_number(word(data, at + 4));
        let record = record(data, at);
        let (once, each) = match record.kind {
            Kind::Void | Kind::Unknown => header
                .tail_of(data, number)
                .ok_or(Malformed::Kind { id, kind: number })?,
            kind => kind.tail(),
        };
        let tail_bytes = each
            .checked_mul(record.count as usize)
            .and_then(|bytes| bytes.checked_add(once))
            .filter(|bytes| *bytes <= header.types.end - at - TYPE_BYTES)
            .ok_or_else(|| cut(record.count))?;
        let name = |offset: u32| {
            if (offset as usize) < string_count {
                Ok(())
            } else {
                Err(Malformed::NameOutOfRange { id, offset })
            }
        };
        let mut target = |target: u32| {
            if target > furthest.1 {
                furthest = (id, target);
            }
        };
        name(record.name)?;
        if record.kind.refers() {
            target(record.size_or_type);
        }
        // Every entry's name, and the word of it that is a type.
        let (named, typed) = match record.kind {
            Kind::Struct | Kind::Union | Kind::FuncProto => (true, Some(4)),
            Kind::Enum | Kind::Enum64 => (true, None),
            Kind::Datasec => (false, Some(0)),
            Kind::Array => {
                target(word(data, record.tail));
                target(word(data, record.tail + 4));
                (false, None)
            }
            _ => (false, None),
        };
        if named || typed.is_some() {
            for entry in (0..record.count as usize).map(|i| record.tail + i * each) {
                if named {
                    name(word(data, entry))?;
                }
                if let Some(typed) = typed {
                    target(word(data, entry + typed));
                }
            }
        }
        types.push(word_count(at));
        at = record.tail + tail_bytes;
    }
    let count = word_count(types.len());
    if furthest.1 >= count {
        let (id, target) = furthest;
        return Err(Malformed::TypeOutOfRange { id, target, count });
    }
    types.shrink_to_fit();
    Ok((types, header.strings))
}

/// Sections of the file, as ranges of it.
struct Header {
    types: Range<usize>,
    strings: Range<usize>,
    /// Lengths of each kind's record, in files of 2026 and later (`struct btf_layout`).
    layout: Range<usize>,
}

impl Header {
    fn parse(data: &[u8]) -> Result<Self, Malformed> {
        let size = data.len() as u64;
        match data {
            [0x7f, b'E', b'L', b'F', ..] => return Err(Malformed::Elf),
            [a, b, ..] if [*b, *a] == MAGIC => return Err(Malformed::ByteOrder),
            [a, b, ..] if [*a, *b] != MAGIC => return Err(Malformed::Magic),
            _ => {}
        }
        let truncated = |what, end| Malformed::Truncated { what, end, size };
        if data.len() < HEADER_BYTES {
            return Err(truncated("header", HEADER_BYTES as u64));
        }
        match data.get(2) {
            Some(&VERSION) => {}
            version => return Err(Malformed::Version(version.copied().unwrap_or(0))),
        }
        let header_bytes = word(data, 4) as usize;
        if header_bytes < HEADER_BYTES || header_bytes > data.len() {
            return Err(truncated("header", header_bytes as u64));
        }
        // Sections count from the end of the header; three 32-bit numbers do not overflow 64 bits.
        let section = |what, at: usize| {
            let start = header_bytes as u64 + u64::from(word(data, at));
            let end = start + u64::from(word(data, at + 4));
            match (usize::try_from(start), usize::try_from(end)) {
                (Ok(start), Ok(end)) if end <= data.len() => Ok(start..end),
                _ => Err(truncated(what, end)),
            }
        };
        let types = section("type section", 8)?;
        let strings = section("string section", 16)?;
        let layout = if header_bytes >= HEADER_WITH_LAYOUT_BYTES {
            section("layout section", 24)?
        } else {
            0..0
        };
        match data.get(strings.clone()) {
            Some([0] | [0, .., 0]) => Ok(Self {
                types,
                strings,
                layout,
            }),
            _ => Err(Malformed::Strings),
        }
    }

    /// Bytes that follow a type of a kind unknown here: once, and for each member.
    fn tail_of(&self, data: &[u8], kind: u32) -> Option<(usize, usize)> {
        if kind == 0 {
            return None;
        }
        let at = (kind as usize).checked_mul(4)?;
        let entry = data.get(self.layout.clone())?.get(at..at + 4)?;
        Some((usize::from(*entry.first()?), usize::from(*entry.get(1)?)))
    }
}

/// The record at a place that holds one.
pub(super) fn record(data: &[u8], at: usize) -> Record {
    let info = word(data, at + 4);
    Record {
        kind: Kind::of(kind_number(info)),
        flag: info >> 31 != 0,
        // 16 bits until 2026, the ones above zero; since then 24.
        count: info & 0x00ff_ffff,
        name: word(data, at),
        size_or_type: word(data, at + 8),
        tail: at + TYPE_BYTES,
    }
}

/// 5 bits until 2026, the ones above zero; since then 7.
fn kind_number(info: u32) -> u32 {
    (info >> 24) & 0x7f
}

/// The word at an offset; 0 beyond the end, where only a defect of this reader can lead.
pub(super) fn word(data: &[u8], at: usize) -> u32 {
    data.get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// A number that [`MAX_FILE_BYTES`] bounds, in 32 bits.
pub(super) fn word_count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
