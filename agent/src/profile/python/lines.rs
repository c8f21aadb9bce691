//! Which line a place in the bytecode of a function is of: `co_linetable`.
//!
//! Entries, each of a first byte with the highest bit set and of more without: 4 bits of its kind, and 3 of how many
//! units of bytecode it is for
//! (<https://github.com/python/cpython/blob/v3.11.2/Objects/locations.md>; the same in 3.12 to 3.14).

use ctrscope_ebpf::python::MAX_PLACE;

/// The first byte of an entry.
const BEGIN: u8 = 0x80;
/// Kinds: the lines of the next two and of the third are coded in the kind, or as a number.
const ONE_LINE: [u8; 3] = [10, 11, 12];
const NO_COLUMNS: u8 = 13;
const LONG: u8 = 14;
const NO_LOCATION: u8 = 15;

/// Lines of a function, 8 bytes for each run of places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// Place after the last, and the line, 0 where there is none.
    runs: Box<[(u32, u32)]>,
}

impl Lines {
    /// Decodes a table, whose function begins at a line. Anything is a table: lines that cannot be are 0. 1.5 ns for
    /// each byte on a virtual machine.
    pub(super) fn decode(table: &[u8], first_line: u32) -> Self {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        let (mut place, mut line) = (0_u32, i64::from(first_line));
        let mut rest = table;
        while let Some((&first, after)) = rest.split_first() {
            let count = after.iter().take_while(|&&byte| byte & BEGIN == 0).count();
            let (fields, next) = after.split_at(count);
            rest = next;
            if first & BEGIN == 0 || u64::from(place) > MAX_PLACE {
                continue;
            }
            let kind = first >> 3 & 0xf;
            line = line.wrapping_add(match kind {
                NO_COLUMNS | LONG => signed(fields),
                kind if ONE_LINE.contains(&kind) => i64::from(kind - ONE_LINE[0]),
                _ => 0,
            });
            let shown = if kind == NO_LOCATION { 0 } else { shown(line) };
            place += u32::from(first & 7) + 1;
            match runs.last_mut() {
                Some(last) if last.1 == shown => last.0 = place,
                _ => runs.push((place, shown)),
            }
        }
        Self { runs: runs.into() }
    }

    /// The line of a place, 0 where there is none.
    pub(super) fn line(&self, place: u64) -> u32 {
        if place >= MAX_PLACE {
            return 0;
        }
        let index = self.runs.partition_point(|run| u64::from(run.0) <= place);
        self.runs.get(index).map_or(0, |run| run.1)
    }

    /// Memory it takes, bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.runs)
    }
}

/// A line as it is shown: 0 where it cannot be one.
fn shown(line: i64) -> u32 {
    let line = i32::try_from(line).unwrap_or(0);
    u32::try_from(line).unwrap_or(0)
}

/// The first number among the fields of an entry: 6 bits in each byte, the least first, and the sign in the lowest.
fn signed(fields: &[u8]) -> i64 {
    let mut value = 0_u64;
    for (&byte, shift) in fields.iter().zip((0..60).step_by(6)) {
        value |= u64::from(byte & 0x3f) << shift;
        if byte & 0x40 == 0 {
            break;
        }
    }
    let size = (value >> 1).cast_signed();
    if value & 1 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &[&str]) -> Vec<u8> {
        let hex = hex.concat();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    /// A function with a comprehension, `try`, `raise` and a loop of 200 lines, and what `co_lines()` of 3.11.2 says.
    #[test]
    fn lines_are_those_of_python_3_11() {
        let table = bytes(&[
            "8000f002040906f000040906e01112f005040906f100040906f4000409068041f00a0a057f02d80d0ef00e00",
            "0e0ff10f070e0f88018801f8f510000c16f00001057f02f00001057f02f00001057f02dd0e1af000001c6c02",
            "f000006e027302f100000f7402f400000f7402f000007a027f02f00000097f02f8f8f8f8f00301057f02f8f8",
            "f8e50d12903189588c58d00455d00455880195759851917894789078a821d02555a051a051b011d73146d231",
            "46c071d13149d43149d7314fd2314fd05051d13152d43152d05354d43155a011a011d80a0bf0004b03050ff0",
            "5206000d0e8f438a43d80c0dd80c0df105020d0ff400020d0f8801f05306000b0cf0004b03050ff05806000c",
            "0d8048",
        ]);
        let lines = Lines::decode(&table, 2);
        let expected = [
            (1, 2),
            (3, 3),
            (4, 5),
            (13, 3),
            (14, 8),
            (15, 9),
            (16, 16),
            (20, 9),
            (21, 0),
            (30, 17),
            (47, 18),
            (51, 0),
            (52, 17),
            (55, 0),
            (138, 19),
            (140, 20),
            (152, 221),
            (153, 222),
            (154, 223),
            (162, 221),
            (164, 20),
            (166, 224),
        ];
        assert_eq!(*lines.runs, expected);
        let at = [0, 1, 2, 3, 165, 166, MAX_PLACE].map(|place| lines.line(place));
        assert_eq!(at, [2, 3, 3, 5, 224, 0, 0]);
    }

    /// The same function as 3.13.0 compiles it.
    #[test]
    fn lines_are_those_of_python_3_13() {
        let table = bytes(&[
            "8000f106001213f305040906e111128841dc0b0cf70500090ad91112f005000506f000040906f00a0a057f02",
            "d80d0ef00e000e0ff10f070e0f8801f414000e1390318e588801947598519478ae21a151b011d73146d13146",
            "c071d33149d7314fd1314fd05051d33152d05354d13155a2118958de0a0bf05206000d0e8f438943d80c0dd8",
            "0c0df305020d0f8801f75306000b0c8821f05806000c0d8048f9f27b06040906f8f41c000c16f30001057f02",
            "dc0e1af000001c6c02f000006e027302f300000f7402f000007a027f02f00000097f02fbf00301057f02fa",
        ]);
        let lines = Lines::decode(&table, 2);
        let expected = [
            (1, 2),
            (3, 5),
            (7, 3),
            (10, 5),
            (15, 6),
            (23, 4),
            (25, 5),
            (27, 3),
            (28, 8),
            (29, 9),
            (30, 16),
            (33, 9),
            (106, 19),
            (113, 20),
            (124, 221),
            (125, 222),
            (126, 223),
            (131, 221),
            (140, 20),
            (142, 224),
            (144, 0),
            (147, 3),
            (148, 0),
            (157, 17),
            (170, 18),
            (174, 0),
            (175, 17),
            (178, 0),
        ];
        assert_eq!(*lines.runs, expected);
    }

    /// Entries without columns, which no compiler makes of a source; again by `co_lines()` of 3.11.2 and 3.13.0.
    #[test]
    fn lines_go_back_and_far_and_below_the_first() {
        let table = bytes(&["e90ae807fa8000e8501fef417f3ff001000000"]);
        let lines = Lines::decode(&table, 100);
        // What is -129938 there is no line here.
        let expected = [(2, 105), (3, 102), (6, 0), (7, 102), (8, 1102), (17, 0)];
        assert_eq!(*lines.runs, expected);
    }

    #[test]
    fn any_bytes_are_a_table() {
        assert_eq!(Lines::decode(&[], 7), Lines::default());
        assert_eq!(Lines::decode(&[0; 100], 7), Lines::default());
        assert_eq!(Lines::default().line(0), 0);
        // Numbers without an end, again and again.
        let mut endless = vec![0xe8; 1];
        endless.extend([0x7f; 1000]);
        let lines = Lines::decode(&endless.repeat(64), u32::MAX);
        assert_eq!(lines.line(0), 0);
        // More places than can be told apart.
        let many = [0x87, 0x00, 0xdf, 0x00, 0x00].repeat(40_000);
        let lines = Lines::decode(&many, 1);
        assert!(
            lines.bytes() <= (MAX_PLACE as usize + 16) * 8,
            "{}",
            lines.bytes()
        );
        assert_eq!((lines.line(0), lines.line(MAX_PLACE - 1)), (1, 4097));
        for first in 0..=u8::MAX {
            let line = Lines::decode(&[first, 0x7f, 0x41, 0x00, 0xff], 1).line(0);
            assert!(line < 1 << 20, "{first} {line}");
        }
    }
}
