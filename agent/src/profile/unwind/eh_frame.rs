//! Call frame information, evaluated: from `.eh_frame` or `.debug_frame` to rows.
//!
//! gimli evaluates one description at a time; the walk over them is ours, so that a broken one costs
//! itself alone, and so that one that is too long is not evaluated at all.

use std::collections::HashMap;

use ctrscope_ebpf::unwind::{
    DRAP, END, MAX_SLOT, MAX_UNITS, PLT, RBP, RSP, SIG, UNSUPPORTED, info,
};
use gimli::{
    BaseAddresses, CfaRule, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice, Error,
    LittleEndian, PartialFrameDescriptionEntry, Reader as _, ReaderOffset, Register, RegisterRule,
    UnwindContext, UnwindContextStorage, UnwindExpression, UnwindOffset, UnwindSection,
    UnwindTableRow, X86_64,
};

use super::{
    Clock, UnwindError,
    elf::u32_at,
    image::{Frames, Kind},
    table::Spans,
};

/// Longest entry that is evaluated, bytes; an instruction has one byte or more, so it bounds the rows
/// of a function and the time for one, too. The longest of rustc has 12 KiB.
const MAX_ENTRY_BYTES: usize = 64 << 10;
/// Common entries (CIEs) that are kept; a file has a handful. What exceeds them is parsed each time.
const MAX_COMMON: usize = 1024;
/// What an entry costs beside its bytes, in bytes.
const ENTRY_COST_BYTES: usize = 64;

/// Where the kernel puts the `ucontext` of a signal handler, the caller's rip is, counted from rsp
/// (`struct rt_sigframe`, `arch/x86/include/asm/sigframe.h`; 40 bytes and 16 registers).
const SIGNAL_RIP: i64 = 168;

/// The data of an entry.
type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Room for the rules of 32 registers (x86-64 has 17 that are ever named) and four remembered states.
/// What needs more is an error of gimli's.
struct Storage;

impl<T: ReaderOffset> UnwindContextStorage<T> for Storage {
    type Rules = [(Register, RegisterRule<T>); 32];
    type Stack = Box<[UnwindTableRow<T, Self>; 6]>;
}

/// Adds the rows of all functions.
///
/// # Errors
///
/// When there are too many, or the time is over. What is broken is counted and left out.
pub(super) fn collect(
    frames: &Frames,
    spans: &mut Spans<'_>,
    clock: &mut Clock,
) -> Result<(), UnwindError> {
    let mut bases = BaseAddresses::default().set_eh_frame(frames.address);
    if let Some(text) = frames.text_address {
        bases = bases.set_text(text);
    }
    if let Some(got) = frames.got_address {
        bases = bases.set_got(got);
    }
    match frames.kind {
        Kind::EhFrame => {
            let mut section = EhFrame::new(&frames.bytes, LittleEndian);
            section.set_address_size(8);
            Walk::new(section, &bases).run(frames, spans, clock)
        }
        Kind::DebugFrame => {
            let mut section = DebugFrame::new(&frames.bytes, LittleEndian);
            section.set_address_size(8);
            Walk::new(section, &bases).run(frames, spans, clock)
        }
    }
}

/// The length of the entry at a place with its length field, `None` where there is no entry.
fn entry_bytes(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let (field, length) = match u32_at(rest.get(..4)?, 0) {
        0xffff_ffff => (12, u64::from_le_bytes(rest.get(4..12)?.try_into().ok()?)),
        0xffff_fff0.. => return None,
        length => (4, u64::from(length)),
    };
    let whole = usize::try_from(length).ok()?.checked_add(field)?;
    (whole <= rest.len()).then_some(whole)
}

/// A walk over the entries of a section.
struct Walk<'a, 'b, S: UnwindSection<Bytes<'a>>> {
    section: S,
    bases: &'b BaseAddresses,
    context: UnwindContext<usize, Storage>,
    /// By offset; `None` is one that is broken.
    common: HashMap<usize, Option<CommonInformationEntry<Bytes<'a>>>>,
}

impl<'a, 'b, S: UnwindSection<Bytes<'a>>> Walk<'a, 'b, S> {
    fn new(section: S, bases: &'b BaseAddresses) -> Self {
        Self {
            section,
            bases,
            context: UnwindContext::new_in(),
            common: HashMap::new(),
        }
    }

    fn run(
        mut self,
        frames: &Frames,
        spans: &mut Spans<'_>,
        clock: &mut Clock,
    ) -> Result<(), UnwindError> {
        let mut at = 0;
        while let Some(bytes) = entry_bytes(&frames.bytes, at) {
            let offset = at;
            at += bytes;
            clock.spend(bytes)?;
            if bytes == 4 {
                // Linkers leave terminators between what they join; a length that is a guess ends here.
                if frames.terminated {
                    break;
                }
                continue;
            }
            clock.spend(ENTRY_COST_BYTES)?;
            let partial = self
                .section
                .partial_fde_from_offset(self.bases, S::Offset::from(offset));
            match partial {
                Ok(_) if bytes > MAX_ENTRY_BYTES => spans.refuse(),
                Ok(partial) => self.describe(&frames.bytes, &partial, spans, clock)?,
                Err(Error::NotCiePointer(_)) => {}
                Err(_) => spans.refuse(),
            }
        }
        Ok(())
    }

    /// The common entry at an offset.
    fn common(
        &mut self,
        bytes: &[u8],
        offset: S::Offset,
        clock: &mut Clock,
    ) -> Result<Option<CommonInformationEntry<Bytes<'a>>>, UnwindError> {
        let at = UnwindOffset::into(offset);
        let Some(length) = entry_bytes(bytes, at).filter(|length| *length <= MAX_ENTRY_BYTES)
        else {
            return Ok(None);
        };
        // Its instructions are evaluated for each function.
        clock.spend(length)?;
        if let Some(known) = self.common.get(&at) {
            return Ok(known.clone());
        }
        let parsed = self
            .section
            .cie_from_offset(self.bases, offset)
            .ok()
            // A pointer to where the address is: nobody writes that for a function.
            .filter(|common| {
                common.address_size() == 8
                    && !common
                        .fde_address_encoding()
                        .is_some_and(gimli::DwEhPe::is_indirect)
            });
        if self.common.len() < MAX_COMMON {
            self.common.insert(at, parsed.clone());
        }
        Ok(parsed)
    }

    /// Adds the rows of one function.
    fn describe(
        &mut self,
        bytes: &[u8],
        partial: &PartialFrameDescriptionEntry<'_, S, Bytes<'a>>,
        spans: &mut Spans<'_>,
        clock: &mut Clock,
    ) -> Result<(), UnwindError> {
        let mut common = self.common(bytes, partial.cie_offset(), clock)?;
        let parsed = partial.parse(|_, _, offset| {
            common
                .take()
                .ok_or_else(|| Error::NotCieId(UnwindOffset::into(offset) as u64))
        });
        let Ok(function) = parsed else {
            spans.refuse();
            return Ok(());
        };
        let Some((start, end)) = spans.place(function.initial_address(), function.end_address())
        else {
            spans.refuse();
            return Ok(());
        };
        spans.begin(start);
        let rules = Rules {
            section: &self.section,
            return_address: function.cie().return_address_register(),
            is_signal: function.is_signal_trampoline(),
        };
        let mut described = start;
        if let Ok(mut rows) = function.rows(&self.section, self.bases, &mut self.context) {
            while let Ok(Some(row)) = rows.next_row() {
                // Never below the start, and never going back.
                let until = row.end_address().min(u64::from(end)) as u32;
                if until > described {
                    spans.push(described, rules.info(row))?;
                    described = until;
                }
            }
        }
        if described < end {
            // Evaluation failed on the way.
            spans.push(described, UNSUPPORTED)?;
        }
        spans.finish(end)
    }
}

/// What the rows of one function have in common.
struct Rules<'s, S> {
    section: &'s S,
    return_address: Register,
    is_signal: bool,
}

impl<S> Rules<'_, S> {
    /// The info of a row.
    fn info<'a>(&self, row: &UnwindTableRow<usize, Storage>) -> u32
    where
        S: UnwindSection<Bytes<'a>>,
    {
        match row.register(self.return_address) {
            Some(RegisterRule::Undefined) => return info(END, 0, 0),
            Some(RegisterRule::Offset(-8)) => {}
            Some(rule) if self.is_signal && self.is_signal_frame(row.cfa(), &rule) => {
                return info(SIG, 0, 0);
            }
            _ => return UNSUPPORTED,
        }
        // A call leaves the caller's rsp at the CFA; there is no other place for it in a row.
        if !matches!(
            row.register(X86_64::RSP),
            None | Some(
                RegisterRule::Undefined | RegisterRule::SameValue | RegisterRule::ValOffset(0)
            )
        ) {
            return UNSUPPORTED;
        }
        let rbp = row.register(X86_64::RBP);
        let slot = match &rbp {
            None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(0),
            Some(RegisterRule::Offset(offset)) => saved_slot(*offset),
            _ => None,
        };
        match (row.cfa(), slot) {
            (CfaRule::RegisterAndOffset { register, offset }, Some(slot)) => match *register {
                X86_64::RSP => at_offset(RSP, slot, *offset),
                X86_64::RBP => at_offset(RBP, slot, *offset),
                _ => UNSUPPORTED,
            },
            (CfaRule::Expression(cfa), slot) => match self.operations(cfa) {
                // rsp + 8 + ((rip & 15) >= literal) * 8
                [
                    BREG_RSP,
                    8,
                    BREG_RIP,
                    0,
                    LIT15,
                    AND,
                    literal @ LIT0..=LIT15,
                    GE,
                    LIT3,
                    SHL,
                    PLUS,
                ] if slot == Some(0) => info(PLT, 0, u32::from(literal - LIT0)),
                // The word at rsp + offset, -8 or more, is rsp as it was on entry: how OpenSSL's assembly keeps it. There
                // is no room for one that saves rbp nowhere.
                [BREG_RSP, offset @ .., DEREF, PLUS_UCONST, 8] => {
                    let offset = signed(offset).and_then(|offset| offset.checked_add(8));
                    match (slot, offset) {
                        (Some(slot @ 1..), Some(offset)) => at_offset(DRAP, slot, offset),
                        _ => UNSUPPORTED,
                    }
                }
                // The word at rbp + offset; rbp itself is at rbp, which is what an expression says.
                [BREG_RBP, offset @ .., DEREF] => match rbp {
                    Some(RegisterRule::Expression(saved))
                        if self.operations(&saved) == [BREG_RBP, 0] =>
                    {
                        signed(offset)
                            .and_then(i64::checked_neg)
                            .map_or(UNSUPPORTED, |offset| at_offset(DRAP, 0, offset))
                    }
                    _ => UNSUPPORTED,
                },
                _ => UNSUPPORTED,
            },
            _ => UNSUPPORTED,
        }
    }

    /// Whether the return address is where the kernel leaves it for a signal handler: some functions
    /// are marked as signal frames only because they are not called.
    fn is_signal_frame<'a>(&self, cfa: &CfaRule<usize>, rule: &RegisterRule<usize>) -> bool
    where
        S: UnwindSection<Bytes<'a>>,
    {
        match (cfa, rule) {
            (_, RegisterRule::Expression(at)) => match self.operations(at) {
                [BREG_RSP, offset @ ..] => signed(offset) == Some(SIGNAL_RIP),
                _ => false,
            },
            (CfaRule::RegisterAndOffset { register, offset }, RegisterRule::Offset(at)) => {
                *register == X86_64::RSP && offset.checked_add(*at) == Some(SIGNAL_RIP)
            }
            _ => false,
        }
    }

    /// The bytes of an expression.
    fn operations<'a>(&self, expression: &UnwindExpression<usize>) -> &'a [u8]
    where
        S: UnwindSection<Bytes<'a>>,
    {
        expression
            .get(self.section)
            .map_or(&[], |expression| expression.0.slice())
    }
}

const BREG_RBP: u8 = gimli::DW_OP_breg6.0;
const BREG_RSP: u8 = gimli::DW_OP_breg7.0;
const BREG_RIP: u8 = gimli::DW_OP_breg16.0;
const DEREF: u8 = gimli::DW_OP_deref.0;
const LIT0: u8 = gimli::DW_OP_lit0.0;
const LIT3: u8 = gimli::DW_OP_lit3.0;
const LIT15: u8 = gimli::DW_OP_lit15.0;
const AND: u8 = gimli::DW_OP_and.0;
const GE: u8 = gimli::DW_OP_ge.0;
const SHL: u8 = gimli::DW_OP_shl.0;
const PLUS: u8 = gimli::DW_OP_plus.0;
const PLUS_UCONST: u8 = gimli::DW_OP_plus_uconst.0;

/// A number that takes all of the bytes.
fn signed(bytes: &[u8]) -> Option<i64> {
    let mut reader = EndianSlice::new(bytes, LittleEndian);
    let number = reader.read_sleb128().ok()?;
    reader.is_empty().then_some(number)
}

/// The slot of a register that is saved at an offset from the CFA, if there is one.
fn saved_slot(offset: i64) -> Option<u32> {
    let bytes = u32::try_from(offset.checked_neg()?).ok()?;
    let slot = bytes / 8;
    (bytes % 8 == 0 && (1..=MAX_SLOT).contains(&slot)).then_some(slot)
}

/// The info of a CFA at an offset, in bytes.
fn at_offset(kind: u32, slot: u32, offset: i64) -> u32 {
    match u32::try_from(offset) {
        Ok(bytes) if bytes % 8 == 0 && bytes / 8 <= MAX_UNITS => info(kind, slot, bytes / 8),
        _ => UNSUPPORTED,
    }
}
