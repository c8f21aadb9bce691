//! Fuzz targets: the memory of a process, all of it written by the process.

use ctrscope_ebpf::{
    profile::ProgramKey,
    python::{FRAME_BYTES, MAX_PLACE, word},
};

use super::{Codes, Interpreter, Memory, lines::Lines};
use crate::profile::fuzz::assert_frame;

/// Addresses of `_PyRuntime`, `Py_Version` and `PyCode_Type`, and of code objects.
const OBJECTS: [u64; 3] = [0, 0x400, 0x408];
const CODES: [u64; 2] = [0x800, 0x900];

/// Memory from address 0 on.
struct Image<'a>(&'a [u8]);

impl Memory for Image<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let rest = usize::try_from(address)
            .ok()
            .and_then(|at| self.0.get(at..));
        let part = rest.and_then(|rest| rest.get(..into.len()));
        part.inspect(|part| into.copy_from_slice(part)).is_some()
    }
}

/// A process, its interpreter, and a stack of its functions.
pub(in crate::profile) fn process(bytes: &[u8]) {
    let memory = Image(bytes);
    let Ok(interpreter) = Interpreter::at(OBJECTS, &memory) else {
        return;
    };
    let python = interpreter.python;
    let pointers = [
        python.frame_code,
        python.frame_previous,
        python.frame_instruction,
    ];
    let frame_bytes = u32::try_from(FRAME_BYTES).unwrap_or(0);
    assert!(pointers.iter().all(|at| at + 8 <= frame_bytes) && python.frame_boundary < frame_bytes);
    let program = ProgramKey { tgid: 1, id: 1 };
    let words = [
        word(CODES[0], 0, false),
        word(CODES[0], 3, true),
        word(CODES[1], MAX_PLACE, true),
        word(u64::MAX, 0, false),
    ];
    let mut codes = Codes::default();
    let runs = codes.runs(program, &interpreter.code, &memory, &words);
    assert!(runs.len() >= 2 && runs[0].is_whole && runs[1].is_whole);
    for frame in runs.iter().flat_map(|run| &run.frames) {
        assert_frame(&frame.qualname);
        assert!(frame.file.len() <= 4096 && !frame.file.contains(char::is_control));
        assert!(i32::try_from(frame.line).is_ok());
    }
    assert_eq!(
        codes.runs(program, &interpreter.code, &memory, &words),
        runs
    );
}

/// A location table.
pub(in crate::profile) fn lines(bytes: &[u8]) {
    let lines = Lines::decode(bytes, 1);
    assert!(lines.bytes() <= bytes.len() * 8);
    for place in [0, 1, 100, MAX_PLACE - 1] {
        assert!(i32::try_from(lines.line(place)).is_ok());
    }
    assert_eq!(lines.line(MAX_PLACE), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_sound() {
        let seeds: [&[u8]; 2] = [
            include_bytes!("../../../fixtures/fuzz/profile_python/3_11"),
            include_bytes!("../../../fixtures/fuzz/profile_python/3_13"),
        ];
        for seed in seeds {
            let memory = Image(seed);
            let interpreter = Interpreter::at(OBJECTS, &memory).unwrap();
            let words = [word(CODES[0], 2, false), word(CODES[1], 0, true)];
            let program = ProgramKey { tgid: 1, id: 1 };
            let runs = Codes::default().runs(program, &interpreter.code, &memory, &words);
            let frames: Vec<_> = runs[0]
                .frames
                .iter()
                .map(|frame| (&*frame.qualname, &*frame.file, frame.line))
                .collect();
            let expected = [
                ("Grüße.f.<locals>.<lambda>", "/srv/main.py", 8),
                ("日本:x_7", "/srv/main.py", 7),
            ];
            assert_eq!(frames, expected);
        }
    }
}
