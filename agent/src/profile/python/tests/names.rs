//! Names, files and lines of code objects that were made up.

use super::*;

/// A function of 3.11 with two lines.
fn function(memory: &mut Made, at: u64, name: &str, first_line: u32) {
    let layout = v3_11();
    let shift = at - CODE;
    let pointers = [QUALNAME, FILENAME, LINETABLE].map(|address| address + shift);
    memory.put_str(pointers[0], name, 1, layout.text);
    memory.put_str(pointers[1], "/srv/app/main.py", 1, layout.text);
    memory.put_bytes(pointers[2], 5, &[0x81, 0, 0xdb, 0, 0]);
    memory.put_code(at, &layout, pointers, first_line);
}

fn text(runs: &[Run]) -> Vec<Vec<String>> {
    let frame = |frame: &PyFrame| format!("{} {}:{}", frame.qualname, frame.file, frame.line);
    runs.iter()
        .map(|run| run.frames.iter().map(frame).collect())
        .collect()
}

#[test]
fn a_stack_has_names_files_and_lines_run_by_run() {
    let mut memory = Made::default();
    function(&mut memory, CODE, "A.f.<locals>.g", 7);
    function(&mut memory, CODE + 0x1000, "<module>", 1);
    let mut codes = Codes::default();
    let words = [
        word(CODE, 0, false),
        word(CODE, 2, true),
        // About to begin.
        LAST_OF_RUN,
        word(CODE + 0x1000, 1, false),
        LAST_OF_RUN,
        word(0x66_0000, 0, false),
        word(CODE, MAX_PLACE, false),
    ];
    let runs = codes.runs(PROGRAM, &v3_11(), &memory, &words);
    let f = "A.f.<locals>.g /srv/app/main.py";
    let expected = [
        vec![format!("{f}:7"), format!("{f}:8")],
        vec![],
        vec!["<module> /srv/app/main.py:1".to_owned()],
        vec!["[unknown] :0".to_owned(), format!("{f}:0")],
    ];
    assert_eq!(text(&runs), expected);
    let whole: Vec<bool> = runs.iter().map(|run| run.is_whole).collect();
    assert_eq!(whole, [true, true, true, false]);
    assert!(Arc::ptr_eq(
        &runs[0].frames[0].file,
        &runs[0].frames[1].file
    ));
    // No more than the heads for the same stack again, each once, and the hash of each name that can be read.
    memory.reads.borrow_mut().clear();
    assert_eq!(codes.runs(PROGRAM, &v3_11(), &memory, &words), runs);
    assert_eq!(memory.reads.borrow().len(), 5);
    assert_eq!(codes.runs(PROGRAM, &v3_11(), &memory, &[]), []);
}

#[test]
fn an_address_that_is_used_again_has_its_new_name() {
    let mut memory = Made::default();
    function(&mut memory, CODE, "first", 7);
    let mut codes = Codes::default();
    let mut name = |memory: &Made, program| {
        let runs = codes.runs(program, &v3_11(), memory, &[word(CODE, 0, true)]);
        text(&runs)[0][0].clone()
    };
    assert_eq!(name(&memory, PROGRAM), "first /srv/app/main.py:7");
    let layout = v3_11();
    memory.put_str(QUALNAME + 0x8000, "second", 1, layout.text);
    memory.put_code(CODE, &layout, [QUALNAME + 0x8000, FILENAME, LINETABLE], 20);
    assert_eq!(name(&memory, PROGRAM), "second /srv/app/main.py:20");
    // Another function whose parts are all at the same addresses, as the allocator likes it.
    memory.put_str(QUALNAME + 0x8000, "third!", 1, layout.text);
    memory.put_word(QUALNAME + 0x8000 + u64::from(STR_HASH), 77);
    assert_eq!(name(&memory, PROGRAM), "third! /srv/app/main.py:20");
    // Another object now.
    memory.put_word(CODE + 8, CODE_TYPE + 8);
    let mut other = Made::default();
    other.put(CODE, vec![0; 256]);
    assert_eq!(name(&other, PROGRAM), "[unknown] :0");
    // Of a process that has gone, what was known before; of another process, nothing.
    let mut memory = Made::default();
    function(&mut memory, CODE, "third", 3);
    assert_eq!(name(&memory, PROGRAM), "third /srv/app/main.py:3");
    assert_eq!(name(&Made::default(), PROGRAM), "third /srv/app/main.py:3");
    let another = ProgramKey { tgid: 8, id: 1 };
    assert_eq!(name(&Made::default(), another), "[unknown] :0");
}

#[test]
fn what_calls_init_is_no_function() {
    let layout = v3_11();
    let mut memory = Made::default();
    memory.put_str(QUALNAME, "__init__", 1, layout.text);
    memory.put_code(CODE, &layout, [QUALNAME, QUALNAME, 0], 0);
    let mut codes = Codes::default();
    let runs = codes.runs(PROGRAM, &layout, &memory, &[word(CODE, 0, true)]);
    assert_eq!(
        runs,
        [Run {
            frames: vec![],
            is_whole: true,
            unread: Vec::new(),
        }]
    );
}

#[test]
fn text_of_any_width_is_read() {
    let since_3_12 = find(&made(0x030d_00f0)).unwrap().code.text;
    for layout in [v3_11().text, since_3_12] {
        for (text, width) in [
            ("plain", 1),
            ("Grüße", 1),
            ("日本", 2),
            ("🐍🐍", 4),
            ("", 1),
        ] {
            let mut memory = Made::default();
            memory.put_str(QUALNAME, text, width, layout);
            assert_eq!(layout.read(&memory, QUALNAME, 500).as_deref(), Some(text));
        }
    }
    // With 16 bits of how it is interned.
    let mut memory = Made::default();
    let wide = 3 | 1 << 16 | 1 << 19 | 1 << 20;
    memory.put_raw_str(QUALNAME, 2, wide, b"ab".to_vec(), since_3_12);
    assert_eq!(
        since_3_12.read(&memory, QUALNAME, 500).as_deref(),
        Some("ab")
    );
    // A byte of a file name that is no UTF-8.
    memory.put_raw_str(QUALNAME, 1, state(2, false), vec![0x80, 0xdc], since_3_12);
    assert_eq!(
        since_3_12.read(&memory, QUALNAME, 500).as_deref(),
        Some("\u{fffd}")
    );
}

#[test]
fn hostile_names_are_cut_and_cleaned() {
    let layout = v3_11();
    let mut memory = Made::default();
    let long = format!("Begin.{}.end", "x".repeat(60_000));
    memory.put_str(QUALNAME, &long, 1, layout.text);
    memory.put_str(
        FILENAME,
        &format!("/a\n\u{1b}[31m/{}/z.py", "é".repeat(1 << 20)),
        1,
        layout.text,
    );
    memory.put_code(CODE, &layout, [QUALNAME, FILENAME, 0], 1);
    let mut codes = Codes::default();
    let runs = codes.runs(PROGRAM, &layout, &memory, &[word(CODE, 0, true)]);
    let frame = &runs[0].frames[0];
    assert!(frame.qualname.len() <= 508 && frame.file.len() <= 4096);
    assert!(frame.qualname.starts_with("Begin.x") && frame.qualname.ends_with("x.end"));
    assert!(frame.qualname.contains('…') && frame.file.contains('…'));
    assert!(frame.file.starts_with("/a??[31m/é") && frame.file.ends_with("é/z.py"));
    assert_eq!(frame.line, 0);
    let largest = memory.reads.borrow().iter().map(|read| read.1).max();
    assert!(largest <= Some(8192), "{largest:?}");
    let wide = "🐍".repeat(400);
    assert_eq!(code::shortened(wide, 500).len(), 499);
    memory.put_str(QUALNAME, "a;b\nmain 7", 1, layout.text);
    memory.put_code(CODE + 0x1000, &layout, [QUALNAME, FILENAME, 0], 1);
    let runs = codes.runs(PROGRAM, &layout, &memory, &[word(CODE + 0x1000, 0, true)]);
    assert_eq!(&*runs[0].frames[0].qualname, "a:b main_7");
}

#[test]
fn hostile_objects_have_no_names_and_take_no_memory() {
    let layout = v3_11();
    let mut codes = Codes::default();
    let mut name = |length: u64, state: u32, pointers: [u64; 3]| {
        let mut memory = Made::default();
        memory.put_raw_str(QUALNAME, length, state, b"name".to_vec(), layout.text);
        memory.put_str(FILENAME, "f", 1, layout.text);
        memory.put_bytes(LINETABLE, u64::MAX, &[0x80, 0]);
        memory.put_code(CODE, &layout, pointers, u32::MAX);
        let runs = codes.runs(PROGRAM, &layout, &memory, &[word(CODE, 0, true)]);
        let largest = memory.reads.borrow().iter().map(|read| read.1).max();
        assert!(largest <= Some(64 << 10), "{largest:?}");
        let frame = runs[0].frames[0].clone();
        (frame.qualname.to_string(), frame.line)
    };
    let sound = [QUALNAME, FILENAME, LINETABLE];
    let ascii = state(1, true);
    assert_eq!(name(4, ascii, sound), ("name".to_owned(), 0));
    let unknown = ("[unknown]".to_owned(), 0);
    // Lengths beyond what is there, or beyond all measure.
    for length in [5, 1 << 20, 1 << 31, u64::MAX, 1 << 63] {
        assert_eq!(
            name(length, ascii, [QUALNAME, FILENAME, length.wrapping_mul(8)]),
            unknown
        );
    }
    // Not compact, of no width, and wide although ASCII.
    for (number, state) in [
        0,
        u32::MAX,
        1 << 5,
        2 << 2,
        3 << 2 | 1 << 5,
        2 << 2 | 3 << 5,
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(
            name(4, state, [QUALNAME, FILENAME, 8 * number as u64]),
            unknown,
            "{state:x}"
        );
    }
    for pointer in [
        0,
        1,
        QUALNAME + 1,
        u64::MAX,
        u64::MAX - 7,
        1 << 63,
        CODE + 8,
    ] {
        assert_eq!(
            name(4, ascii, [pointer, pointer, pointer]),
            unknown,
            "{pointer:x}"
        );
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let layout = v3_11();
    let mut codes = Codes::default();
    let mut memory = Made::default();
    memory.put_str(QUALNAME, "f", 1, layout.text);
    memory.put_str(FILENAME, &"x".repeat(4000), 1, layout.text);
    let size = (layout.head_bytes() as u64).next_multiple_of(16);
    let mut object = Made::default();
    object.put_code(0, &layout, [QUALNAME, FILENAME, 0], 1);
    let mut object = object.pieces.remove(0).1;
    object.resize(usize::try_from(size).unwrap(), 0);
    let count = 20_000;
    memory.put(0x1000_0000, object.repeat(count));
    for number in 0..count as u64 {
        let word = word(0x1000_0000 + number * size, 0, true);
        codes.runs(PROGRAM, &layout, &memory, &[word]);
        let (count, bytes) = codes.sizes();
        assert!(count <= 16_384 && bytes <= 8 << 20, "{count} {bytes}");
    }
    // Without large names, by their number.
    memory.put_str(FILENAME + 0x2000, "f", 1, layout.text);
    let at = layout.filename as usize;
    object[at..at + 8].copy_from_slice(&(FILENAME + 0x2000).to_le_bytes());
    memory.put(0x1000_0000, object.repeat(count));
    for number in 0..count as u64 {
        let word = word(0x1000_0000 + number * size, 0, true);
        codes.runs(PROGRAM, &layout, &memory, &[word]);
    }
    let (count, bytes) = codes.sizes();
    assert!(
        (8_192..=16_384).contains(&count) && bytes <= 8 << 20,
        "{count} {bytes}"
    );
}
