//! Writes BTF for tests.

use super::{Kind, TypeId};

/// Bit of the info word that says that members or values are encoded the other way.
pub(crate) const FLAG: u32 = 1 << 31;

/// BTF in the making; types are numbered from 1 in the order of their making.
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: TypeId,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            count: 0,
        }
    }

    /// The number that the next type will get.
    pub(crate) fn next_id(&self) -> TypeId {
        self.count + 1
    }

    pub(crate) fn string(&mut self, string: &str) -> u32 {
        if string.is_empty() {
            return 0;
        }
        let offset = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(string.as_bytes());
        self.strings.push(0);
        offset
    }

    /// A type with whatever tail.
    pub(crate) fn raw(
        &mut self,
        name: &str,
        kind: u32,
        info: u32,
        size_or_type: u32,
        tail: &[u32],
    ) -> TypeId {
        let name = self.string(name);
        for word in [name, info | kind << 24, size_or_type].iter().chain(tail) {
            self.types.extend(word.to_ne_bytes());
        }
        self.count += 1;
        self.count
    }

    fn kind(kind: Kind) -> u32 {
        u32::try_from(Kind::ALL.iter().position(|k| *k == kind).unwrap()).unwrap()
    }

    pub(crate) fn int(&mut self, name: &str, bytes: u32) -> TypeId {
        self.raw(name, Self::kind(Kind::Int), 0, bytes, &[bytes * 8])
    }

    /// A pointer, typedef, qualifier, function or declaration: a name and a type.
    pub(crate) fn refer(&mut self, kind: Kind, name: &str, target: TypeId) -> TypeId {
        self.raw(name, Self::kind(kind), 0, target, &[])
    }

    pub(crate) fn ptr(&mut self, target: TypeId) -> TypeId {
        self.refer(Kind::Ptr, "", target)
    }

    pub(crate) fn array(&mut self, element: TypeId, count: u32) -> TypeId {
        self.raw(
            "",
            Self::kind(Kind::Array),
            0,
            0,
            &[element, element, count],
        )
    }

    /// A struct or union of members: name, type, offset in bits.
    pub(crate) fn composite(
        &mut self,
        kind: Kind,
        name: &str,
        bytes: u32,
        members: &[(&str, TypeId, u32)],
    ) -> TypeId {
        self.composite_with(0, kind, name, bytes, members)
    }

    pub(crate) fn composite_with(
        &mut self,
        flag: u32,
        kind: Kind,
        name: &str,
        bytes: u32,
        members: &[(&str, TypeId, u32)],
    ) -> TypeId {
        let tail: Vec<u32> = members
            .iter()
            .flat_map(|(name, id, offset)| [self.string(name), *id, *offset])
            .collect();
        let count = u32::try_from(members.len()).unwrap();
        self.raw(name, Self::kind(kind), flag | count, bytes, &tail)
    }

    pub(crate) fn enumeration(&mut self, flag: u32, name: &str, values: &[(&str, u32)]) -> TypeId {
        let tail: Vec<u32> = values
            .iter()
            .flat_map(|(name, value)| [self.string(name), *value])
            .collect();
        let count = u32::try_from(values.len()).unwrap();
        self.raw(name, Self::kind(Kind::Enum), flag | count, 4, &tail)
    }

    pub(crate) fn enumeration64(&mut self, name: &str, values: &[(&str, u64)]) -> TypeId {
        let tail: Vec<u32> = values
            .iter()
            .flat_map(|(name, value)| {
                let name = self.string(name);
                [
                    name,
                    u32::try_from(*value & 0xffff_ffff).unwrap(),
                    u32::try_from(*value >> 32).unwrap(),
                ]
            })
            .collect();
        let count = u32::try_from(values.len()).unwrap();
        self.raw(name, Self::kind(Kind::Enum64), count, 8, &tail)
    }

    /// A tracepoint with these arguments behind the `void *`.
    pub(crate) fn tracepoint(&mut self, name: &str, arguments: &[TypeId]) -> TypeId {
        let data = self.ptr(0);
        let mut tail = vec![0, data];
        tail.extend(arguments.iter().flat_map(|id| [0, *id]));
        let count = u32::try_from(arguments.len() + 1).unwrap();
        let prototype = self.raw("", Self::kind(Kind::FuncProto), count, 0, &tail);
        let pointer = self.ptr(prototype);
        self.refer(Kind::Typedef, &format!("btf_trace_{name}"), pointer)
    }

    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_with_layout(&[])
    }

    /// The file, with the lengths of each kind's record.
    pub(crate) fn bytes_with_layout(&self, layout: &[u8]) -> Vec<u8> {
        let types = u32::try_from(self.types.len()).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        let mut header = vec![0, types, types, strings];
        if !layout.is_empty() {
            header.extend([types + strings, u32::try_from(layout.len()).unwrap()]);
        }
        let mut bytes = Vec::new();
        bytes.extend(0xeb9f_u16.to_ne_bytes());
        bytes.extend([1, 0]);
        bytes.extend((8 + 4 * u32::try_from(header.len()).unwrap()).to_ne_bytes());
        bytes.extend(header.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes.extend(layout);
        bytes
    }
}
