//! A kernel's types, asked as the programs need it: fields and tracepoints that are there and of the right type,
//! or what is wrong with them.

use crate::bpf::btf::{Btf, Kind, Malformed, TypeId};

/// How the programs load a field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// 1 byte.
    Byte,
    /// 4 bytes.
    Word,
    /// 4 bytes of a number of 4 or, on a little-endian machine, 8.
    LowWord,
    /// 8 bytes.
    Long,
    /// 8 bytes of a number or of a union.
    LongUnion,
    /// A pointer to a struct, which is followed.
    Pointer,
    /// Its address only.
    Struct,
    /// A pointer that is not followed.
    Address,
    /// 16 bytes of text.
    Name,
    /// The byte that a bitfield of one bit is in.
    Bit,
}

/// A field, looked for.
#[derive(Default)]
pub(super) struct Found {
    /// 0 where it was not found.
    pub(super) offset: u32,
    /// The bit in the byte at the offset, for a bitfield; else 0.
    pub(super) mask: u32,
    /// The struct that it points to or is.
    pub(super) target: Option<TypeId>,
    /// Its name and what is wrong, where it cannot be used.
    pub(super) lack: Option<String>,
}

/// A struct whose fields are looked for.
pub(super) struct Start {
    name: &'static str,
    id: Option<TypeId>,
}

/// A tracepoint, looked for.
pub(super) struct Tracepoint {
    name: &'static str,
    pub(super) arguments: Option<Vec<TypeId>>,
    /// The struct that each argument points to.
    targets: Vec<Option<TypeId>>,
}

impl Tracepoint {
    /// The struct that an argument points to.
    pub(super) fn argument(&self, number: u32) -> Option<TypeId> {
        self.targets.get(number as usize).copied().flatten()
    }

    /// That the first arguments are of one of these types each; none given means any.
    pub(super) fn check(&self, btf: &Btf, expected: &[&[&str]]) -> Found {
        let lack = match &self.arguments {
            None => Some(format!("tracepoint {}", self.name)),
            Some(arguments) => {
                let described: Vec<_> = arguments.iter().map(|id| btf.describe(*id)).collect();
                let fits = described.len() >= expected.len()
                    && described.iter().zip(expected).all(|(described, expected)| {
                        expected.is_empty() || expected.contains(&described.as_str())
                    });
                (!fits).then(|| {
                    format!(
                        "tracepoint {} (has arguments {})",
                        self.name,
                        described.join(", ")
                    )
                })
            }
        };
        Found {
            lack,
            ..Found::default()
        }
    }
}

/// The kernel's types, asked as the programs need it. Whatever is malformed counts as missing.
pub(super) struct Kernel<'a> {
    pub(super) btf: &'a Btf,
}

impl Kernel<'_> {
    pub(super) fn tracepoint(&self, name: &'static str) -> Tracepoint {
        let arguments = self.btf.tracepoint(name).ok().flatten();
        let pointee = |id: &TypeId| self.btf.pointee(*id).ok().flatten();
        let targets = arguments.iter().flatten().map(pointee).collect();
        Tracepoint {
            name,
            arguments,
            targets,
        }
    }

    /// A struct known by type, else by its name.
    pub(super) fn start(&self, name: &'static str, id: Option<TypeId>) -> Start {
        let id = id
            .filter(|id| self.btf.name(*id) == name && self.is_struct(*id))
            .or_else(|| self.btf.find_struct(name));
        Start { name, id }
    }

    pub(super) fn follow(&self, name: &'static str, field: &Found) -> Start {
        self.start(name, field.target)
    }

    fn is_struct(&self, id: TypeId) -> bool {
        matches!(self.btf.kind(id), Kind::Struct | Kind::Union)
    }

    pub(super) fn field(&self, start: &Start, path: &str, load: Load) -> Found {
        let name = || format!("{}.{path}", start.name);
        let lacking = |lack| Found {
            lack: Some(lack),
            ..Found::default()
        };
        match self.checked(start, path, load) {
            Ok(Some(found)) => found,
            Ok(None) => lacking(name()),
            Err(Problem::Type(described)) => lacking(format!("{} (is {described})", name())),
            Err(Problem::Malformed(error)) => lacking(format!("{} ({error})", name())),
        }
    }

    /// The css of a subsystem in a cgroup.
    pub(super) fn subsystem(&self, cgroup: &Start, enumerator: &str) -> Found {
        match self.btf.enum_value("cgroup_subsys_id", enumerator) {
            Some(number) => self.field(cgroup, &format!("subsys[{number}]"), Load::Pointer),
            None => Found {
                lack: Some(format!("cgroup.subsys[{enumerator}]")),
                ..Found::default()
            },
        }
    }

    fn checked(&self, start: &Start, path: &str, load: Load) -> Result<Option<Found>, Problem> {
        let Some(id) = start.id else { return Ok(None) };
        let Some(field) = self.btf.field(id, path)? else {
            return Ok(None);
        };
        let size = self.btf.size(field.type_id)?;
        let stripped = self.btf.strip(field.type_id)?;
        let kind = self.btf.kind(stripped);
        let number = matches!(kind, Kind::Int | Kind::Enum | Kind::Enum64);
        let mut target = None;
        let is_bitfield = field.bits != 0;
        let fits = match load {
            Load::Bit => number && field.bits == 1,
            // The others load whole words.
            _ if is_bitfield => false,
            Load::Byte => number && size == Some(1),
            Load::Word => number && size == Some(4),
            Load::LowWord => {
                number && (size == Some(4) || size == Some(8) && cfg!(target_endian = "little"))
            }
            Load::Long => number && size == Some(8),
            Load::LongUnion => (number || kind == Kind::Union) && size == Some(8),
            Load::Pointer => {
                target = self.btf.pointee(stripped)?.filter(|id| self.is_struct(*id));
                target.is_some()
            }
            Load::Address => kind == Kind::Ptr,
            Load::Name => kind == Kind::Array && size == Some(16),
            Load::Struct => {
                target = Some(stripped);
                self.is_struct(stripped)
            }
        };
        if !fits {
            let described = self.btf.describe(field.type_id);
            return Err(Problem::Type(match size {
                Some(size) => format!("{described} of {size} bytes"),
                None => described,
            }));
        }
        Ok(Some(Found {
            offset: field.offset_bytes,
            mask: u32::from(is_bitfield) << field.offset_bits,
            target,
            lack: None,
        }))
    }
}

/// Why a field that exists cannot be used.
enum Problem {
    Type(String),
    Malformed(Malformed),
}

impl From<Malformed> for Problem {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}
