//! The programs over a memory that is a map, and this process as the one that is sampled.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
    path::Path,
    rc::Rc,
    sync::Arc,
};

use ctrscope_ebpf::walk::{
    MAPPING_PENDING, MAPPING_POINTERS, MAPPING_TABLE, region_count, region_first,
};

use super::*;
use crate::profile::{
    image::Image,
    unwind::{UnwindTable, lookup},
};

const SECOND_NS: u64 = 1_000_000_000;

/// What the kernel side would read.
#[derive(Default)]
struct Fake {
    mappings: RefCell<BTreeMap<u32, Region>>,
    rows: RefCell<Vec<u32>>,
    index: RefCell<Vec<u32>>,
    published: RefCell<HashMap<ProgramKey, (u64, u64)>>,
    pythons: RefCell<HashSet<ProgramKey>>,
    /// Looks for interpreters: whether the mappings were new.
    looks: RefCell<Vec<bool>>,
    is_refusing: Cell<bool>,
    graces: Cell<usize>,
    sizes: [u32; 3],
}

impl WalkMemory for Rc<Fake> {
    fn write_mapping(&self, at: u32, mapping: &Region) {
        assert!(at > 0 && at < self.sizes[0]);
        self.mappings.borrow_mut().insert(at, *mapping);
    }

    fn write_rows(&self, at: u32, rows: &[u32]) {
        write(&self.rows, at, rows);
    }

    fn write_index(&self, at: u32, words: &[u32]) {
        write(&self.index, at, words);
    }

    fn publish(&self, key: ProgramKey, region: u64, ask_after_ns: u64) {
        self.published
            .borrow_mut()
            .insert(key, (region, ask_after_ns));
    }

    fn look_for_python(&self, key: ProgramKey, process: &Process, is_new: bool) -> bool {
        assert!(!process.mappings.is_empty());
        self.pythons.borrow_mut().insert(key);
        self.looks.borrow_mut().push(is_new);
        !self.is_refusing.get()
    }

    fn ended(&self, key: ProgramKey) {
        self.pythons.borrow_mut().remove(&key);
    }

    fn forget_python(&self) {
        self.pythons.borrow_mut().clear();
    }

    fn forget(&self, key: ProgramKey) {
        self.published.borrow_mut().remove(&key);
    }

    fn wait_for_walks(&self) {
        self.graces.set(self.graces.get() + 1);
    }

    fn sizes(&self) -> [u32; 3] {
        self.sizes
    }
}

fn write(memory: &RefCell<Vec<u32>>, at: u32, words: &[u32]) {
    assert!(at > 0);
    let mut memory = memory.borrow_mut();
    let end = at as usize + words.len();
    if memory.len() < end {
        memory.resize(end, 0);
    }
    memory[at as usize..end].copy_from_slice(words);
}

struct Host {
    memory: Rc<Fake>,
    programs: Programs<Rc<Fake>>,
}

impl Host {
    fn new(sizes: [u32; 3]) -> Self {
        let memory = Rc::new(Fake {
            sizes,
            ..Fake::default()
        });
        Self {
            programs: Programs::new(Rc::clone(&memory), "/proc".into(), true),
            memory,
        }
        .begun()
    }

    fn begun(mut self) -> Self {
        self.programs.begin();
        self
    }

    fn roomy() -> Self {
        Self::new([4_096, 1 << 22, 1 << 20])
    }

    fn ask(&mut self, key: ProgramKey, program: &Program) {
        let ask = Ask {
            tgid: key.tgid,
            program: key.id,
            ..Ask::ZERO
        };
        self.programs.asked(&ask, program, SECOND_NS);
    }

    /// Reads every table that is asked for.
    fn build_all(&mut self) -> usize {
        let mut built = 0;
        while let Some(image) = self.programs.next_build() {
            let table = UnwindTable::read(&image.file, Duration::from_secs(600));
            self.programs.built(&image, table.ok().as_ref());
            built += 1;
        }
        built
    }

    /// The mapping of an address of a program, as the kernel side finds it.
    fn mapping(&self, key: ProgramKey, address: u64) -> Option<Region> {
        let (region, _) = *self.memory.published.borrow().get(&key)?;
        let mappings = self.memory.mappings.borrow();
        let first = region_first(region);
        if first == 0 {
            return None;
        }
        assert_eq!(mappings[&first].start, walk::head(key.tgid, key.id));
        let all = (first + 1..).take(region_count(region) as usize);
        let all: Vec<Region> = all.map(|at| mappings[&at]).collect();
        assert!(all.is_sorted_by_key(|mapping| mapping.start));
        all.into_iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&address))
    }
}

fn this() -> (ProgramKey, Program) {
    let process = Process::read(Path::new("/proc"), std::process::id()).unwrap();
    let key = ProgramKey {
        tgid: std::process::id(),
        id: 5,
    };
    let program = Program {
        comm: *b"at its sample\0\0\0",
        start_ns: process.start_ticks() * TICK_NS + 1,
        start_stack: process.start_stack(),
        samples: 1,
        ..Program::ZERO
    };
    (key, program)
}

/// An address of this program's code.
fn code() -> u64 {
    code as *const () as u64
}

#[test]
fn a_program_that_is_asked_for_gets_its_mappings_and_then_their_tables() {
    let mut host = Host::roomy();
    let (key, program) = this();
    host.ask(key, &program);
    assert_eq!(host.mapping(key, code()).unwrap().kind, MAPPING_PENDING);
    assert!(host.build_all() > 0);
    let mapping = host.mapping(key, code()).unwrap();
    assert_eq!(mapping.kind, MAPPING_TABLE);
    // What the kernel side finds there is what the table says.
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let table = UnwindTable::read(&file, Duration::from_secs(600)).unwrap();
    let index = host.memory.index.borrow();
    let packed = crate::profile::unwind::Packed {
        rows: Vec::new(),
        index: index[mapping.index as usize..].to_vec(),
        page0: mapping.first_page,
        pages: mapping.pages,
    };
    let pc = u32::try_from(code() - mapping.bias).unwrap();
    let rows = host.memory.rows.borrow();
    for pc in (pc..pc + 4_096).step_by(7) {
        let found = lookup::packed(&rows, &packed, pc);
        assert_eq!(found, lookup::unpacked(&table, pc), "{pc:#x}");
    }
    let known: Vec<_> = host.programs.processes().collect();
    assert_eq!(known[0].1.comm, "at its sample");
    assert!(known[0].1.mapping(code()).unwrap().image.is_some());
}

#[test]
fn one_of_which_nothing_new_is_found_is_left_alone_for_longer_and_longer() {
    let mut host = Host::roomy();
    let (key, program) = this();
    let mut waits = Vec::new();
    for _ in 0..8 {
        // Threads of other tests may map something in between, which begins anew.
        host.ask(key, &program);
        waits.push(host.memory.published.borrow()[&key].1 - SECOND_NS);
    }
    assert_eq!(waits[0], 0);
    assert!(waits.iter().all(|wait| *wait <= 8 * SECOND_NS), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait >= SECOND_NS / 2), "{waits:?}");
}

#[test]
fn a_look_for_an_interpreter_that_is_refused_is_made_up_for() {
    let mut host = Host::roomy();
    let (key, program) = this();
    host.memory.is_refusing.set(true);
    host.ask(key, &program);
    host.programs.sweep(&[(key, program)]);
    host.memory.is_refusing.set(false);
    for _ in 0..2 {
        host.programs.sweep(&[(key, program)]);
    }
    // New to the one who looks until it is looked into; other tests may map something meanwhile.
    let looks = host.memory.looks.borrow();
    assert_eq!(looks[..3], [true; 3]);
    assert_eq!(looks.len(), 4);
}

#[test]
fn another_process_of_the_same_number_is_not_looked_at() {
    let mut host = Host::roomy();
    let (key, program) = this();
    let other = Program {
        start_ns: program.start_ns + 7 * SECOND_NS,
        comm: *b"gone\0\0\0\0\0\0\0\0\0\0\0\0",
        ..program
    };
    host.ask(key, &other);
    assert!(host.mapping(key, code()).is_none());
    let known: Vec<_> = host.programs.processes().collect();
    assert_eq!(known[0].1.comm, "gone");
    assert!(known[0].1.mappings.is_empty() && !known[0].1.alive);
}

#[test]
fn what_a_process_maps_after_an_exec_is_not_of_the_program_before() {
    let (key, program) = this();
    let earlier = ProgramKey { id: 4, ..key };
    let before = Program {
        start_stack: program.start_stack ^ 0x1000,
        comm: *b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ..program
    };
    // Whichever is looked at first.
    for is_first in [true, false] {
        let mut host = Host::roomy();
        let mut sampled = vec![(earlier, before), (key, program)];
        if !is_first {
            sampled.reverse();
        }
        host.programs.sweep(&sampled);
        let known: HashMap<_, _> = host.programs.processes().collect();
        assert!(known[&earlier].mappings.is_empty() && known[&earlier].comm == "sh");
        assert!(!known[&key].mappings.is_empty());
        assert!(host.mapping(key, code()).is_some() && host.mapping(earlier, code()).is_none());
    }
    // Where it is not known when each ran, what is mapped is of the one that was asked for first.
    let mut host = Host::roomy();
    let unknown = Program {
        start_stack: 0,
        ..program
    };
    host.ask(key, &unknown);
    host.programs.complete(&[(earlier, unknown)]);
    let known: HashMap<_, _> = host.programs.processes().collect();
    assert!(known[&earlier].mappings.is_empty() && !known[&key].mappings.is_empty());
}

#[test]
fn what_has_ended_before_all_recordings_that_are_left_is_forgotten() {
    let mut host = Host::roomy();
    let (key, program) = this();
    let gone = ProgramKey {
        tgid: u32::MAX,
        ..key
    };
    let early = Instant::now();
    host.ask(key, &program);
    host.ask(gone, &program);
    host.programs.forget_before(early);
    assert_eq!(host.programs.processes().count(), 2);
    host.programs.forget_before(Instant::now());
    let left: Vec<_> = host.programs.processes().map(|(key, _)| key).collect();
    assert_eq!(left, [key]);
    let bytes: usize = host
        .programs
        .processes()
        .map(|(_, one)| one.mapping_bytes())
        .sum();
    assert_eq!(host.programs.mapping_bytes, bytes);
}

#[test]
fn every_mapping_of_a_region_is_found_by_halving() {
    let mut host = Host::roomy();
    let (key, program) = this();
    host.ask(key, &program);
    let (region, _) = host.memory.published.borrow()[&key];
    // Not read anew: other tests map memory meanwhile.
    let (_, process) = host.programs.processes().next().unwrap();
    let mappings = host.memory.mappings.borrow();
    for mapping in process.mappings.iter().filter(|one| one.start < 1 << 63) {
        for address in [mapping.start, mapping.end - 1] {
            // As `find_mapping` does it.
            let first = region_first(region) + 1;
            let (mut low, mut high) = (first, first + region_count(region));
            for _ in 0..walk::MAPPING_STEPS {
                if low >= high {
                    break;
                }
                let middle = low.midpoint(high);
                let begins = mappings[&middle].start;
                if address.wrapping_sub(begins).cast_signed() < 0 {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            let found = mappings[&(low - 1)];
            assert_eq!((found.start, found.end), (mapping.start, mapping.end));
        }
    }
    assert!(mappings.values().all(|mapping| mapping.end <= 1 << 63
        || mapping.end == 0
        || mapping.start == walk::head(key.tgid, key.id)));
}

#[test]
fn where_stacks_may_not_be_walked_nothing_is_told() {
    let mut host = Host::roomy();
    host.programs.walks = false;
    let (key, program) = this();
    host.ask(key, &program);
    assert!(host.mapping(key, code()).is_none() && host.memory.mappings.borrow().is_empty());
    let known: HashMap<_, _> = host.programs.processes().collect();
    assert!(known[&key].mapping(code()).is_some());
}

#[test]
fn tables_outlive_recordings_and_programs_do_not() {
    let mut host = Host::roomy();
    let (key, program) = this();
    host.ask(key, &program);
    let built = host.build_all();
    assert!(built > 0);
    host.programs.stop();
    assert!(host.programs.is_left());
    host.programs.rest(&[(key, program)]);
    assert!(!host.programs.is_left());
    // What was under way when the last recording ended comes too late.
    host.ask(key, &program);
    host.programs.sweep(&[(key, program)]);
    assert!(host.memory.published.borrow().is_empty());
    assert_eq!(host.programs.processes().count(), 0);
    assert_eq!(host.programs.regions.free_count(), 4_095);
    assert!(
        host.memory.graces.get() > 0,
        "a walk may have been under way"
    );
    host.programs.begin();
    host.ask(key, &program);
    assert_eq!(host.mapping(key, code()).unwrap().kind, MAPPING_TABLE);
}

#[test]
fn a_table_that_finds_no_room_is_counted_and_its_code_walked_by_frame_pointers() {
    let mut host = Host::new([4_096, 100, 100]);
    let (key, program) = this();
    host.ask(key, &program);
    host.build_all();
    assert_eq!(host.mapping(key, code()).unwrap().kind, MAPPING_POINTERS);
    assert!(host.programs.take_refused().tables > 0);
    assert_eq!(host.programs.take_refused(), Refused::default());
}

/// A table of one function of `bytes`, with a row for each 16 of them.
fn table(build: u8, rows: u32) -> UnwindTable {
    let mut table = UnwindTable::of_rows(rows);
    table.build_id = Some(Box::new([build; 20]));
    table
}

fn image(host: &mut Host, name: &str) -> Arc<Image> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, name).unwrap();
    host.programs
        .images
        .keep_file(std::fs::File::open(&path).unwrap())
}

#[test]
fn a_table_makes_room_for_another_once_nobody_uses_it() {
    let mut host = Host::new([4_096, 250, 4_096]);
    let images: Vec<_> = ["one", "two", "three"]
        .map(|name| image(&mut host, name))
        .into();
    host.programs.built(&images[0], Some(&table(1, 100)));
    host.programs.built(&images[1], Some(&table(2, 100)));
    let graces = host.memory.graces.get();
    host.programs.built(&images[2], Some(&table(3, 100)));
    assert!(host.memory.graces.get() > graces, "it may have been read");
    let placed = |host: &Host, image: &Arc<Image>| {
        matches!(
            host.programs.tables.get(&image.identity),
            Some(Table::Placed(_))
        )
    };
    // The one that was used longest ago has gone, and is asked for again where it is met.
    assert!(!placed(&host, &images[0]));
    assert!(placed(&host, &images[1]) && placed(&host, &images[2]));
    // Another file of a build that is there shares its table.
    let copy = image(&mut host, "a copy of two");
    host.programs.built(&copy, Some(&table(2, 100)));
    assert!(placed(&host, &copy) && placed(&host, &images[1]));
    assert_eq!(host.programs.placed.len(), 2);
    // One that only says that it is of that build does not.
    let liar = image(&mut host, "a liar");
    host.programs.built(&liar, Some(&table(2, 40)));
    assert!(placed(&host, &liar));
    assert_eq!(host.programs.placed.len(), 3);
}
