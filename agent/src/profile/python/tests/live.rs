//! Interpreters that run: the `python3` of this machine, and those of other versions where there are any.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use ctrscope_ebpf::python::{FRAME_BYTES, MAX_THREADS};

use super::{
    super::super::{elf::u64_at, image::Images, process},
    *,
};

/// Programs that may be an interpreter.
const PROGRAMS: [&str; 6] = [
    "python3",
    "/usr/bin/python3",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
];

/// What is asked of each: its version, and whether this agent knows it.
const ASK: &str = "import sys
known = (3, 11) <= sys.version_info[:2] <= (3, 14) and 't' not in sys.abiflags
print(sys.executable if known else '')";

const SCRIPT: &str = r#"import os, threading

def pause(name):
    def hold(deep):
        if deep: return hold(deep - 1)
        print(name, flush=True); os.read(0, 1)
    hold(2)

class Grüße:
    def f(self):
        return list(map(lambda _: pause("main"), [0]))

class Made:
    def __init__(self, last):
        if last:
            Grüße().f()

def items():
    for number in range(200):
        Made(number == 199)
        yield number

def wait():
    threading.Event().wait()

threading.Thread(target=wait, daemon=True).start()
for item in items():
    pass
"#;

/// The innermost first: functions with their lines. What `map` calls begins a run, until 3.12 what a class that is
/// called calls as well, and in 3.11 a generator.
const STACK: [(&str, u32); 9] = [
    ("pause.<locals>.hold", 6),
    ("pause.<locals>.hold", 5),
    ("pause.<locals>.hold", 5),
    ("pause", 7),
    ("Grüße.f.<locals>.<lambda>", 11),
    ("Grüße.f", 11),
    ("Made.__init__", 16),
    ("items", 20),
    ("<module>", 27),
];

/// A process that is ended when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What to call interpreters of known versions by, by their files.
fn interpreters() -> BTreeMap<PathBuf, &'static str> {
    let ask = |program: &&'static str| {
        let output = Command::new(program).args(["-c", ASK]).output().ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        Some((fs::canonicalize(path.trim()).ok()?, *program))
    };
    PROGRAMS.iter().filter_map(ask).collect()
}

/// Words of the stacks of all threads, as the kernel side walks them.
fn walk(memory: &ProcessMemory, python: &Python) -> Vec<Vec<u64>> {
    let at = |base: u64, offset: u32| memory.word(base + u64::from(offset)).unwrap_or(0);
    let mut stacks = Vec::new();
    let interpreter = at(python.runtime, python.interpreters_head);
    let mut thread = at(interpreter, python.threads_head);
    for _ in 0..MAX_THREADS {
        if thread == 0 {
            break;
        }
        assert_ne!(at(thread, python.thread_id), 0);
        let mut frame = at(thread, python.thread_frame);
        if python.cframe_frame != DIRECT {
            frame = at(frame, python.cframe_frame);
        }
        stacks.push(walk_frames(memory, python, frame));
        thread = at(thread, python.thread_next);
    }
    assert_eq!(at(interpreter, python.interpreter_next), 0);
    stacks
}

fn walk_frames(memory: &ProcessMemory, python: &Python, mut frame: u64) -> Vec<u64> {
    let mut words = Vec::new();
    let mut bytes = [0; FRAME_BYTES];
    // Frames of a thread that runs come and go.
    while frame != 0 && words.len() < 100 && memory.read(frame, &mut bytes) {
        let pointer = |at: u32| u64_at(&bytes, at as usize);
        let boundary = u32::from(bytes[python.frame_boundary as usize]);
        let is_boundary = boundary == python.boundary_value;
        if is_boundary && python.boundary_is_extra == 1 {
            words.push(LAST_OF_RUN);
        } else {
            let code = pointer(python.frame_code) & !0xf;
            let begin = code + u64::from(python.code_instructions);
            let place = pointer(python.frame_instruction).wrapping_sub(begin) / 2;
            words.push(word(code, place, is_boundary));
        }
        frame = pointer(python.frame_previous);
    }
    words
}

/// A process as the agent looks at it, with its files open.
fn look(pid: u32) -> Process {
    let proc_root = Path::new("/proc");
    let mut process = Process::read(proc_root, pid).unwrap();
    let mut images = Images::default();
    let folder = process::folder(proc_root, pid);
    for mapping in &mut process.mappings {
        mapping.image = images.of(&folder, mapping).unwrap_or(None);
    }
    process
}

#[test]
fn a_running_python_shows_its_stack() {
    let programs = interpreters();
    assert!(
        !programs.is_empty(),
        "no python3 of 3.11 to 3.14 on PATH: `cargo xtask setup --test` installs it"
    );
    for program in programs.values() {
        stack_of(program);
    }
}

/// The stack that a function is in.
fn stack_with(stacks: &[Vec<Run>], name: &str) -> Option<Vec<Run>> {
    let is_in = |run: &Run| run.frames.iter().any(|frame| &*frame.qualname == name);
    let mut stacks = stacks.iter();
    stacks.find(|runs| runs.iter().any(is_in)).cloned()
}

fn stack_of(program: &str) {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("größer.py");
    fs::write(&script, SCRIPT).unwrap();
    let mut running = Running(
        Command::new(program)
            .arg(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    let output = running.0.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    assert_eq!(line, "main\n", "{program}");
    let pid = running.0.id();
    let process = look(pid);
    let memory = ProcessMemory::open(Path::new("/proc"), pid, &process).unwrap();
    let mut interpreters = Interpreters::default();
    let interpreter = interpreters.find(&process, &memory).unwrap();
    println!("{program}: {:?}", interpreter.version.minor());
    let mut codes = Codes::default();
    // The other thread may not wait yet.
    let deadline = Instant::now() + Duration::from_secs(30);
    let [main, waiting] = loop {
        let stacks = walk(&memory, &interpreter.python);
        let mut runs = |words: &[u64]| codes.runs(PROGRAM, &interpreter.code, &memory, words);
        let stacks: Vec<Vec<Run>> = stacks.iter().map(|words| runs(words)).collect();
        let found = ["<module>", "Event.wait"].map(|name| stack_with(&stacks, name));
        if let [Some(main), Some(waiting)] = found {
            break [main, waiting];
        }
        assert!(Instant::now() < deadline, "{program}: {stacks:#?}");
        thread::sleep(Duration::from_millis(5));
    };
    let frames: Vec<_> = main.iter().flat_map(|run| &run.frames).collect();
    let lines: Vec<_> = frames
        .iter()
        .map(|frame| (&*frame.qualname, frame.line))
        .collect();
    assert_eq!(lines, STACK, "{program}");
    let file = script.to_str().unwrap();
    assert!(frames.iter().all(|frame| &*frame.file == file), "{program}");
    assert!(
        main.iter()
            .all(|run| run.is_whole && !run.frames.is_empty()),
        "{program}"
    );
    let lengths: Vec<_> = main.iter().map(|run| run.frames.len()).collect();
    let expected: &[usize] = match interpreter.version.minor() {
        (3, 11) => &[5, 2, 1, 1],
        (3, 12) => &[5, 2, 2],
        _ => &[5, 4],
    };
    assert_eq!(lengths, expected, "{program}");
    let outermost = waiting.last().and_then(|run| run.frames.last());
    let outermost = outermost.map(|frame| &*frame.qualname);
    assert_eq!(outermost, Some("Thread._bootstrap"), "{program}");
    drop(running);
    // Its memory has gone with it.
    assert!(memory.word(interpreter.python.runtime).is_none());
    assert!(ProcessMemory::open(Path::new("/proc"), pid, &process).is_err());
}

#[test]
fn a_process_without_an_interpreter_has_none() {
    let pid = std::process::id();
    let process = look(pid);
    let memory = ProcessMemory::open(Path::new("/proc"), pid, &process).unwrap();
    let found = Interpreters::default().find(&process, &memory);
    assert_eq!(found.err(), Some(Absent::NoInterpreter));
    let value = 0x1234_5678_9abc_def0_u64;
    assert_eq!(memory.word(std::ptr::from_ref(&value) as u64), Some(value));
    for address in [0, 1, u64::MAX, u64::MAX - 7, 1 << 63] {
        assert_eq!(memory.word(address), None);
    }
    assert!(File::open("/proc/self/mem").is_ok());
}
