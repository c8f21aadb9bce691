use std::time::Instant;

use super::{
    builder::{Builder, FLAG},
    parse::MAGIC,
    *,
};

/// xorshift: repeatable noise.
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// One of each kind.
fn sample() -> Builder {
    let mut b = Builder::new();
    let u32_ = b.int("unsigned int", 4);
    let u64_ = b.int("long unsigned int", 8);
    let typedef = b.refer(Kind::Typedef, "u64", u64_);
    let constant = b.refer(Kind::Const, "", typedef);
    let volatile = b.refer(Kind::Volatile, "", constant);
    let restrict = b.refer(Kind::Restrict, "", volatile);
    let tagged = b.refer(Kind::TypeTag, "rcu", restrict);
    let forward = b.refer(Kind::Fwd, "request", 0);
    let to_forward = b.ptr(forward);
    let element = b.composite(
        Kind::Struct,
        "element",
        12,
        &[("a", u32_, 0), ("b", u32_, 64)],
    );
    let element = b.refer(Kind::Typedef, "element_t", element);
    let elements = b.array(element, 4);
    let rows = b.array(elements, 2);
    let inner = b.composite(
        Kind::Union,
        "",
        8,
        &[("as_word", u32_, 0), ("as_long", tagged, 0)],
    );
    let middle = b.composite(Kind::Struct, "", 16, &[("first", u32_, 0), ("", inner, 64)]);
    let flags = b.composite_with(
        FLAG,
        Kind::Struct,
        "flags",
        8,
        &[
            ("low", u32_, 3 << 24),
            ("high", u32_, 5 << 24 | 11),
            ("whole", u32_, 32),
        ],
    );
    // A bitfield of the days before `kind_flag`: 3 bits, 2 into the byte that the member names.
    let old_bits = b.raw("unsigned int", 1, 0, 4, &[2 << 16 | 3]);
    b.composite(
        Kind::Struct,
        "request",
        512,
        &[
            ("bio", to_forward, 0),
            ("", middle, 64),
            ("flags", flags, 192),
            ("elements", elements, 256),
            ("rows", rows, 1024),
            ("old", old_bits, 2048),
            ("tail", tagged, 2112),
        ],
    );
    b.enumeration(
        0,
        "req_op",
        &[("REQ_OP_READ", 0), ("REQ_OP_WRITE", 0xffff_ffff)],
    );
    b.enumeration(FLAG, "signed", &[("MINUS_ONE", 0xffff_ffff)]);
    b.enumeration64("wide", &[("SMALL", 3), ("LARGE", 1 << 40)]);
    let prototype = b.raw("", 13, 1, 0, &[0, u32_]);
    b.refer(Kind::Func, "bio_put", prototype);
    b.raw("jiffies", 14, 0, u64_, &[1]);
    b.raw(".data", 15, 1, 8, &[u64_, 0, 8]);
    b.raw("double", 16, 0, 8, &[]);
    b.raw("tag", 17, 0, u32_, &[0xffff_ffff]);
    b.tracepoint("block_rq_issue", &[to_forward, typedef]);
    b.tracepoint("nothing", &[]);
    b
}

fn parsed(builder: &Builder) -> Btf {
    Btf::parse(builder.bytes()).unwrap()
}

fn place(btf: &Btf, name: &str, path: &str) -> Option<(u32, u32, u32)> {
    let id = btf.find_struct(name)?;
    let field = btf.field(id, path).unwrap()?;
    Some((field.offset_bytes, field.offset_bits, field.bits))
}

#[test]
fn fields_are_found_through_anonymous_members_arrays_and_qualifiers() {
    let btf = parsed(&sample());
    for (path, offset) in [
        ("bio", 0),
        ("first", 8),
        ("as_word", 16),
        ("as_long", 16),
        ("flags", 24),
        ("flags.whole", 28),
        ("elements", 32),
        ("elements[0].b", 40),
        ("elements[3].b", 76),
        ("rows[1]", 176),
        ("tail", 264),
    ] {
        assert_eq!(place(&btf, "request", path), Some((offset, 0, 0)), "{path}");
    }
    for path in [
        "",
        "bi",
        "bio.x",
        "elements[4]",
        "elements[",
        "elements[x]",
        "tail[0]",
        "flags..low",
        ".",
    ] {
        assert_eq!(place(&btf, "request", path), None, "{path}");
    }
}

#[test]
fn bitfields_say_their_place_and_width() {
    let btf = parsed(&sample());
    assert_eq!(place(&btf, "request", "flags.low"), Some((24, 0, 3)));
    assert_eq!(place(&btf, "request", "flags.high"), Some((25, 3, 5)));
    assert_eq!(place(&btf, "request", "old"), Some((256, 2, 3)));
}

#[test]
fn sizes_follow_arrays_and_qualifiers() {
    let btf = parsed(&sample());
    let request = btf.find_struct("request").unwrap();
    for (path, size) in [
        ("bio", 8),
        ("first", 4),
        ("tail", 8),
        ("elements", 48),
        ("rows", 96),
    ] {
        let field = btf.field(request, path).unwrap().unwrap();
        assert_eq!(btf.size(field.type_id), Ok(Some(size)), "{path}");
    }
    assert_eq!(btf.size(0), Ok(None));
    assert_eq!(btf.size(9999), Ok(None));
}

#[test]
fn enumerators_have_their_sign_and_width() {
    let btf = parsed(&sample());
    assert_eq!(btf.enum_value("req_op", "REQ_OP_WRITE"), Some(0xffff_ffff));
    assert_eq!(btf.enum_value("signed", "MINUS_ONE"), Some(-1));
    assert_eq!(btf.enum_value("wide", "LARGE"), Some(1 << 40));
    assert_eq!(btf.enum_value("wide", "REQ_OP_READ"), None);
    assert_eq!(btf.enum_value("request", "bio"), None);
}

#[test]
fn tracepoints_show_what_programs_get() {
    let btf = parsed(&sample());
    let arguments = btf.tracepoint("block_rq_issue").unwrap().unwrap();
    let described: Vec<_> = arguments.iter().map(|id| btf.describe(*id)).collect();
    assert_eq!(described, ["struct request *", "u64"]);
    assert_eq!(btf.tracepoint("nothing"), Ok(Some(vec![])));
    assert_eq!(btf.tracepoint("something"), Ok(None));
    // What is only declared there is found by its name.
    assert_eq!(
        btf.pointee(arguments[0]).unwrap(),
        btf.find_struct("request")
    );
}

#[test]
fn the_first_of_two_types_with_one_name_is_found() {
    let mut b = Builder::new();
    let first = b.composite(Kind::Struct, "twice", 4, &[]);
    b.composite(Kind::Struct, "twice", 8, &[]);
    assert_eq!(parsed(&b).find_struct("twice"), Some(first));
}

#[test]
fn a_kind_newer_than_this_reader_is_skipped_when_the_file_says_how_long_it_is() {
    let mut b = sample();
    b.raw("new", 40, 2, 0, &[1, 2, 3, 4, 5]);
    let last = b.composite(Kind::Struct, "last", 4, &[]);
    let id = last - 1;
    assert_eq!(
        Btf::parse(b.bytes()).unwrap_err(),
        Malformed::Kind { id, kind: 40 }
    );
    let mut layout = vec![0; 40 * 4];
    layout.extend([4, 8, 0, 0]);
    let btf = Btf::parse(b.bytes_with_layout(&layout)).unwrap();
    assert_eq!(btf.find_struct("last"), Some(last));
    assert_eq!(btf.kind(id), Kind::Unknown);
}

#[test]
fn types_that_contain_themselves_end_the_look_up() {
    let mut b = Builder::new();
    let a = b.next_id();
    b.refer(Kind::Typedef, "a", a + 1);
    b.refer(Kind::Const, "", a);
    // Anonymous members twice each: without a limit, 2^32 visits.
    let nest = b.next_id();
    b.composite(Kind::Struct, "nest", 8, &[("", nest, 0), ("", nest, 32)]);
    let array = b.next_id();
    b.array(array, 2);
    b.tracepoint("loop", &[]);
    b.refer(Kind::Typedef, "btf_trace_turn", a);
    let btf = parsed(&b);
    assert_eq!(btf.strip(a), Err(Malformed::Endless { id: a }));
    assert_eq!(btf.size(array), Err(Malformed::Endless { id: array }));
    assert!(matches!(
        btf.field(nest, "x"),
        Err(Malformed::Endless { .. })
    ));
    assert!(matches!(
        btf.tracepoint("turn"),
        Err(Malformed::Endless { .. })
    ));
    assert!(!btf.describe(array).is_empty());
}

#[test]
fn damage_is_named() {
    let good = sample().bytes();
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        Btf::parse(bad).unwrap_err()
    };
    let huge = u32::MAX.to_ne_bytes();
    assert_eq!(
        Btf::parse(b"\x7fELF...".to_vec()).unwrap_err(),
        Malformed::Elf
    );
    assert_eq!(Btf::parse(b"BTF".to_vec()).unwrap_err(), Malformed::Magic);
    assert!(matches!(
        Btf::parse(vec![]).unwrap_err(),
        Malformed::Truncated { .. }
    ));
    assert_eq!(with(0, &[MAGIC[1], MAGIC[0]]), Malformed::ByteOrder);
    assert_eq!(with(2, &[2]), Malformed::Version(2));
    for at in [4, 8, 12, 16, 20] {
        assert!(
            matches!(with(at, &huge), Malformed::Truncated { .. }),
            "{at}"
        );
    }
    let last = good.len() - 1;
    assert_eq!(with(last, b"x"), Malformed::Strings);
    assert!(matches!(
        with(24, &huge),
        Malformed::NameOutOfRange { id: 1, .. }
    ));
    assert!(matches!(
        with(24 + 4, &[0, 0, 0, 99]),
        Malformed::Kind { id: 1, kind: 99 }
    ));
    // The third type is a typedef; its first two are integers of 16 bytes.
    assert!(matches!(
        with(24 + 32 + 8, &huge),
        Malformed::TypeOutOfRange { id: 3, .. }
    ));
    assert!(matches!(
        with(24 + 4, &0x04ff_ffff_u32.to_ne_bytes()),
        Malformed::TypeTooLong {
            id: 1,
            count: 0x00ff_ffff
        }
    ));
}

#[test]
fn errors_name_the_file_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sys/kernel/btf/vmlinux");
    let message = Btf::from_file(&path).unwrap_err().to_string();
    assert!(
        message.contains("CONFIG_DEBUG_INFO_BTF=y") && message.contains("--btf FILE"),
        "{message}"
    );
    let path = dir.path().join("some.btf");
    assert!(matches!(
        Btf::from_file(&path).unwrap_err(),
        BtfError::Read { .. }
    ));
    std::fs::write(&path, b"no").unwrap();
    let message = Btf::from_file(&path).unwrap_err().to_string();
    assert!(
        message.contains("some.btf") && message.contains("magic"),
        "{message}"
    );
    std::fs::write(&path, sample().bytes()).unwrap();
    assert!(Btf::from_file(&path).is_ok());
}

/// Asks a parsed file everything; damage must end in an answer or an error.
fn exercise(btf: &Btf) {
    for name in ["request", "task_struct", "rq", "flags", "nest"] {
        let Some(id) = btf.find_struct(name) else {
            continue;
        };
        for path in [
            "tail",
            "elements[3].b",
            "rows[1]",
            "as_long",
            "clock",
            "no_such_member",
        ] {
            if let Ok(Some(field)) = btf.field(id, path) {
                let _ = (btf.size(field.type_id), btf.pointee(field.type_id));
                let _ = btf.describe(field.type_id);
            }
        }
    }
    for name in ["block_rq_issue", "sched_switch"] {
        if let Ok(Some(arguments)) = btf.tracepoint(name) {
            for id in arguments {
                let _ = (btf.describe(id), btf.pointee(id));
            }
        }
    }
    let _ = btf.enum_value("req_op", "REQ_OP_WRITE");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let good = sample().bytes();
    for length in 0..good.len() {
        assert!(Btf::parse(good[..length].to_vec()).is_err(), "{length}");
    }
}

#[test]
fn flipped_bytes_never_panic_nor_loop() {
    let good = sample().bytes();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for _ in 0..30_000 {
        let mut bad = good.clone();
        for _ in 0..=noise.below(4) {
            let at = noise.below(bad.len());
            bad[at] = u8::try_from(noise.below(256)).unwrap();
        }
        if let Ok(btf) = Btf::parse(bad) {
            for id in 0..=btf.type_count() {
                let id = word_count(id);
                let _ = (
                    btf.strip(id),
                    btf.size(id),
                    btf.describe(id),
                    btf.field(id, "none"),
                );
            }
            exercise(&btf);
        }
    }
}

#[test]
fn the_running_kernels_btf_survives_damage_and_its_cost_is_shown() {
    let data = match std::fs::read(KERNEL) {
        Ok(data) => data,
        Err(error) => {
            println!("skipped: {KERNEL}: {error}");
            return;
        }
    };
    let (mut parse_ms, mut find_ms) = (f64::MAX, f64::MAX);
    for _ in 0..5 {
        let copy = data.clone();
        let begin = Instant::now();
        let btf = Btf::parse(copy).unwrap();
        parse_ms = parse_ms.min(begin.elapsed().as_secs_f64() * 1e3);
        let begin = Instant::now();
        exercise(&btf);
        find_ms = find_ms.min(begin.elapsed().as_secs_f64() * 1e3);
        assert!(btf.find_struct("task_struct").is_some());
        println!(
            "{} types, {} bytes, parse {parse_ms:.2} ms, first look-ups {find_ms:.2} ms, {} bytes held",
            btf.type_count(),
            data.len(),
            btf.memory_bytes(),
        );
    }
    for part in 0..100 {
        let length = data.len() * part / 100;
        assert!(Btf::parse(data[..length].to_vec()).is_err(), "{length}");
    }
    let mut noise = Noise(1);
    for _ in 0..20 {
        let mut bad = data.clone();
        for _ in 0..10 {
            let at = noise.below(bad.len());
            bad[at] = u8::try_from(noise.below(256)).unwrap();
        }
        if let Ok(btf) = Btf::parse(bad) {
            exercise(&btf);
        }
    }
}
