use std::collections::BTreeMap;

use ::object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind, SymbolKind,
};

use super::bytes;

/// Stack of a program and all that it calls, bytes (`MAX_BPF_STACK`, `include/linux/filter.h`).
const MOST_STACK: usize = 512;
/// What the stack of each of them is rounded up to (`check_max_stack_depth`, `kernel/bpf/verifier.c`; less in later kernels,
/// and from 6.13 on programs may have a stack of their own for each).
const ROUNDED_TO: usize = 32;
const INSTRUCTION: usize = 8;
const FRAME: u8 = 10;

/// A function: its section, and where in it.
type Place = (usize, u64);

#[derive(Default)]
struct Function {
    name: String,
    stack: usize,
    calls: Vec<Place>,
}

/// What of the stack an instruction reaches, where `copy` is the register that the frame's address was copied to before.
fn stack_of(one: &[u8], copy: &mut Option<u8>) -> usize {
    let [destination, source] = [one[1] & 0xf, one[1] >> 4];
    let offset = i16::from_le_bytes([one[2], one[3]]);
    let immediate = i32::from_le_bytes([one[4], one[5], one[6], one[7]]);
    let below = |by: i64| usize::try_from(-by).unwrap_or(0);
    match one[0] {
        // `r1 = r10`, and then `r1 += -8`.
        0xbf if source == FRAME => *copy = Some(destination),
        0x07 if *copy == Some(destination) => {
            *copy = None;
            return below(immediate.into());
        }
        operation => match operation & 0x7 {
            // A load; a store of a number or of a register.
            1 if source == FRAME => return below(offset.into()),
            2 | 3 if destination == FRAME => return below(offset.into()),
            _ => {}
        },
    }
    0
}

fn functions() -> BTreeMap<Place, Function> {
    let file = ::object::File::parse(bytes()).expect("an ELF file");
    let mut functions: BTreeMap<Place, Function> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
        .map(|symbol| {
            let place = (symbol.section_index().unwrap().0, symbol.address());
            let name = symbol.name().unwrap().to_owned();
            let function = Function {
                name,
                ..Function::default()
            };
            (place, function)
        })
        .collect();
    for section in file
        .sections()
        .filter(|one| one.kind() == SectionKind::Text)
    {
        let index = section.index().0;
        let relocations: BTreeMap<u64, _> = section.relocations().collect();
        let mut copy = None;
        for (number, one) in section
            .data()
            .unwrap()
            .chunks_exact(INSTRUCTION)
            .enumerate()
        {
            let at = (number * INSTRUCTION) as u64;
            let Some((_, function)) = functions.range_mut(..=(index, at)).next_back() else {
                continue;
            };
            function.stack = function.stack.max(stack_of(one, &mut copy));
            // A call of a function of the object.
            if one[0] != 0x85 || one[1] >> 4 != 1 {
                continue;
            }
            let immediate = i32::from_le_bytes([one[4], one[5], one[6], one[7]]);
            let further = (i64::from(immediate) + 1) * 8;
            let target = match relocations.get(&at).map(::object::Relocation::target) {
                Some(RelocationTarget::Symbol(symbol)) => {
                    let symbol = file.symbol_by_index(symbol).unwrap();
                    let address = symbol.address().wrapping_add_signed(further);
                    (symbol.section_index().unwrap().0, address)
                }
                _ => (index, at.wrapping_add_signed(further)),
            };
            function.calls.push(target);
        }
    }
    functions
}

/// The longest chain of calls from a function on: its names, and the stack that it needs.
fn deepest(functions: &BTreeMap<Place, Function>, place: Place) -> (usize, Vec<&str>) {
    let function = &functions[&place];
    let calls = function.calls.iter();
    let (below, mut names) = calls
        .map(|call| deepest(functions, *call))
        .max()
        .unwrap_or_default();
    names.insert(0, &function.name);
    let own = function.stack.max(1).next_multiple_of(ROUNDED_TO);
    (own + below, names)
}

/// The kernel of this machine may be a newer one that allows more.
#[test]
fn no_chain_of_calls_needs_more_stack_than_every_kernel_has() {
    let functions = functions();
    let chains = functions.keys().map(|place| deepest(&functions, *place));
    let (stack, names) = chains.max().expect("functions");
    println!("{stack} bytes: {names:?}");
    assert!(names.len() > 3 && stack > 200, "calls are not followed");
    assert!(
        stack <= MOST_STACK,
        "{stack} bytes of {MOST_STACK}: {names:?}"
    );
}
