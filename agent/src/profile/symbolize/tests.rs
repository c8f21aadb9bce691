use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use super::*;
use crate::profile::raw::Owner;

const CHILD: &str = "CTRSCOPE_TEST_CHILD";

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn ctrscope_test_known_function(n: u64) -> u64 {
    std::hint::black_box(n).wrapping_mul(3)
}

fn known_address() -> u64 {
    ctrscope_test_known_function as *const () as u64
}

impl Names {
    fn user_name(&self, tgid: u32, index: usize, address: u64) -> &str {
        &self.frames()[self.user(key(tgid), index, address) as usize].name
    }

    fn kernel_name(&self, index: usize, address: u64) -> &str {
        &self.frames()[self.kernel(index, address) as usize].name
    }
}

fn key(tgid: u32) -> ProgramKey {
    ProgramKey { tgid, id: 0 }
}

fn sample(tgid: u32, user: &[u64], kernel: &[u64]) -> RawSample {
    RawSample {
        owner: Arc::new(Owner::named("web")),
        program: key(tgid),
        tid: tgid,
        user: user.into(),
        end: WalkEnd::Pointers,
        kernel: kernel.into(),
        python: None,
        count: 1,
        ns: 0,
    }
}

fn profile(samples: Vec<RawSample>) -> RawProfile {
    RawProfile {
        samples,
        seconds: 1.0,
        frequency: 99,
        ..RawProfile::default()
    }
}

fn name(symbolizer: &mut Symbolizer, tgid: u32, address: u64) -> String {
    symbolizer.remember(tgid);
    let names = symbolizer.resolve(&profile(vec![sample(tgid, &[address], &[])]));
    names.user_name(tgid, 0, address).to_owned()
}

#[test]
fn functions_of_this_process_are_named() {
    let pid = std::process::id();
    let mut symbolizer = Symbolizer::new();
    assert_eq!(
        name(&mut symbolizer, pid, known_address()),
        "ctrscope_test_known_function"
    );
    let rust = name(&mut symbolizer, pid, place as *const () as u64);
    assert!(rust.ends_with("profile::symbolize::place"), "{rust}");
    // A libc without a symbol there would still be `libc.so.6+0x…`.
    let libc = name(&mut symbolizer, pid, libc::getppid as *const () as u64);
    assert!(libc.contains("getppid"), "{libc}");
    assert!(!symbolizer.process_name(key(pid)).is_empty());
}

#[test]
fn a_return_address_is_looked_up_one_byte_before() {
    let pid = std::process::id();
    let known = known_address();
    let raw = profile(vec![sample(pid, &[known, known + 1], &[])]);
    let mut symbolizer = Symbolizer::new();
    symbolizer.remember(pid);
    let names = symbolizer.resolve(&raw);
    assert_eq!(
        names.user_name(pid, 1, known + 1),
        "ctrscope_test_known_function"
    );
}

#[test]
fn functions_of_the_vdso_are_named() {
    let pid = std::process::id();
    let text = fs::read_to_string("/proc/self/maps").unwrap();
    let mappings = super::super::maps::parse(&text);
    let vdso = mappings.iter().find(|mapping| &*mapping.path == "[vdso]");
    let Some(vdso) = vdso else {
        println!("skipped: no vDSO");
        return;
    };
    let addresses: Vec<u64> = (vdso.start..vdso.end).step_by(64).collect();
    let samples = addresses.iter().map(|&at| sample(pid, &[at], &[]));
    let mut symbolizer = Symbolizer::new();
    symbolizer.remember(pid);
    let names = symbolizer.resolve(&profile(samples.collect()));
    let found: Vec<_> = addresses
        .iter()
        .map(|&at| names.user_name(pid, 0, at))
        .collect();
    assert!(
        found.iter().any(|name| name.contains("gettime")),
        "{found:?}"
    );
}

#[test]
fn stacks_are_cut_where_they_leave_the_code() {
    let pid = std::process::id();
    let mut symbolizer = Symbolizer::new();
    assert!(symbolizer.remember(pid));
    let code = known_address() + 1;
    for (user, state, kept) in [
        (vec![], StackState::Absent, 0),
        (vec![0, 0], StackState::Absent, 0),
        (vec![code], StackState::Pointers, 1),
        (vec![code, code, 0, 0], StackState::Pointers, 2),
        (vec![code, 0x10, code], StackState::Cut, 1),
        (vec![0x10, code], StackState::Cut, 0),
        (vec![code, u64::MAX], StackState::Cut, 1),
        (vec![code; MAX_FRAMES], StackState::Truncated, MAX_FRAMES),
    ] {
        let sample = sample(pid, &user, &[]);
        let judged = symbolizer.user_stack(&sample);
        assert_eq!(
            (judged.state, judged.frames.len()),
            (state, kept),
            "{user:x?}"
        );
    }
    let gone = sample(u32::MAX, &[code], &[]);
    assert_eq!(symbolizer.user_stack(&gone).state, StackState::Unmapped);
    assert_eq!(
        symbolizer.process_name(key(u32::MAX)),
        "[exited 4294967295]"
    );
}

/// As many frames as a busy host has, of which few are distinct, and one more.
#[test]
fn each_kernel_address_is_named_however_often_it_was_seen() {
    let proc_root = tempfile::tempdir().unwrap();
    let text = "ffffffff81000000 T first\nffffffff81000100 T second\nffffffff81000200 T _etext\n";
    fs::write(proc_root.path().join("kallsyms"), text).unwrap();
    let common = [0xffff_ffff_8100_0010; 100];
    let mut samples = vec![sample(1, &[], &common); MAX_ADDRESSES / common.len() + 1];
    let rare = 0xffff_ffff_8100_0110;
    samples.push(sample(1, &[], &[rare]));
    let mut symbolizer = Symbolizer::with_proc(proc_root.path());
    let names = symbolizer.resolve(&profile(samples));
    assert_eq!(names.kernel_name(0, rare), "second_[k]");
}

#[test]
fn kernel_functions_are_named_from_kallsyms() {
    let proc_root = tempfile::tempdir().unwrap();
    let address = 0xffff_ffff_8123_4568;
    let raw = profile(vec![sample(1, &[], &[address, address])]);
    let mut symbolizer = Symbolizer::with_proc(proc_root.path());
    let unreadable = symbolizer.resolve(&raw);
    assert_eq!(unreadable.kernel_name(0, address), "[kernel]+0x34568_[k]");
    assert_eq!(unreadable.symbol_misses, 2);
    let kallsyms = proc_root.path().join("kallsyms");
    fs::write(&kallsyms, "0000000000000000 T a\n").unwrap();
    assert_eq!(
        symbolizer.resolve(&raw).kernel_name(0, address),
        "[kernel]+0x34568_[k]"
    );
    fs::write(&kallsyms, "ffffffff81234560 T vfs_read\n").unwrap();
    let names = symbolizer.resolve(&raw);
    assert_eq!(names.kernel_name(0, address), "vfs_read_[k]");
    assert_eq!(names.kernel_name(1, address), "vfs_read_[k]");
}

#[test]
fn generated_code_is_named_by_the_perf_map_of_the_own_pid() {
    // Only what is read of a process, as files: generated code at 0x7000, own PID 1.
    let proc_root = tempfile::tempdir().unwrap();
    let folder = proc_root.path().join("4711");
    fs::create_dir_all(folder.join("root/tmp")).unwrap();
    let stat = "4711 (java) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8123 9";
    fs::write(folder.join("stat"), stat).unwrap();
    fs::write(folder.join("comm"), "java\n").unwrap();
    fs::write(folder.join("status"), "NSpid:\t4711\t1\n").unwrap();
    fs::write(folder.join("maps"), "7000-9000 r-xp 00000000 00:00 0 \n").unwrap();
    fs::write(folder.join("root/tmp/perf-1.map"), "7000 100 Lapp;run\n").unwrap();
    let raw = profile(vec![
        sample(4711, &[0x7010], &[]),
        sample(4711, &[0x8000], &[]),
    ]);
    let mut symbolizer = Symbolizer::with_proc(proc_root.path());
    symbolizer.remember(4711);
    let names = symbolizer.resolve(&raw);
    assert_eq!(names.user_name(4711, 0, 0x7010), "Lapp:run_[j]");
    assert_eq!(names.user_name(4711, 0, 0x8000), "[anon]");
    assert_eq!((names.symbol_hits, names.symbol_misses), (1, 1));
}

#[test]
fn a_name_survives_its_process() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let mut symbolizer = Symbolizer::new();
    assert!(symbolizer.remember(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    let raw = profile(vec![sample(child.id(), &[0x10], &[])]);
    symbolizer.resolve(&raw);
    assert_eq!(symbolizer.process_name(key(child.id())), "sleep");
    assert_eq!(
        symbolizer.user_stack(&raw.samples[0]).state,
        StackState::Cut
    );
}

/// Ends a child with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: what `a_program_in_another_mount_namespace_is_named` starts.
#[test]
fn child_waits() {
    if std::env::var_os(CHILD).is_some() {
        println!("\nready {:#x}", known_address());
        let _ = io::stdin().read_line(&mut String::new());
    }
}

#[test]
fn a_program_in_another_mount_namespace_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // The program exists in the new namespace alone.
    let script = "mount -t tmpfs none \"$0\" && cp /proc/$PPID/exe \"$0/program\" \
                  && exec \"$0/program\" --exact --nocapture \
                  profile::symbolize::tests::child_waits";
    let child = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(folder.path())
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = child else {
        println!("skipped: no unshare");
        return;
    };
    let mut child = Guard(child);
    let output = BufReader::new(child.0.stdout.take().unwrap());
    let ready = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("ready 0x").map(str::to_owned));
    let Some(ready) = ready else {
        println!("skipped: needs root");
        return;
    };
    let address = u64::from_str_radix(&ready, 16).unwrap();
    assert!(!folder.path().join("program").exists());
    assert_eq!(
        name(&mut Symbolizer::new(), child.0.id(), address),
        "ctrscope_test_known_function"
    );
    // Without `map_files`: the path inside the root of the process.
    let symbolizer = &mut Symbolizer::new();
    symbolizer.remember(child.0.id());
    let mapping = symbolizer.processes[&key(child.0.id())]
        .mapping(address)
        .unwrap()
        .clone();
    let elsewhere = Mapping {
        start: 1,
        end: 2,
        ..mapping
    };
    let file = symbolizer
        .open_module(&[(key(child.0.id()), elsewhere)])
        .unwrap();
    assert!(file.file.metadata().unwrap().len() > 1 << 20);
}

#[test]
fn inlined_functions_are_shown_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let source = "#include <unistd.h>\nstatic volatile int sink;\n\
                  static inline __attribute__((always_inline)) void leaf(int by) { sink /= by; }\n\
                  __attribute__((noinline)) void outer(void) { leaf(3); }\n\
                  int main(void) { outer(); write(1, \"\\n\", 1); for (;;) pause(); }\n";
    fs::write(folder.path().join("a.c"), source).unwrap();
    let status = Command::new("cc")
        .args(["-O2", "-g", "-static", "-o", "program", "a.c"])
        .current_dir(folder.path())
        .status();
    assert!(status.unwrap().success());
    let program = folder.path().join("program");
    let symbols = Command::new("nm").arg(&program).output().unwrap();
    let symbols = String::from_utf8(symbols.stdout).unwrap();
    let line = symbols.lines().find(|line| line.ends_with(" T outer"));
    let (address, _) = line.unwrap().split_once(' ').unwrap();
    let begin = u64::from_str_radix(address, 16).unwrap();
    let child = Command::new(&program).stdout(Stdio::piped()).spawn();
    let mut child = Guard(child.unwrap());
    let mut output = BufReader::new(child.0.stdout.take().unwrap());
    // It is mapped once it says something.
    output.read_line(&mut String::new()).unwrap();
    let tgid = child.0.id();
    let symbolizer = |with_inlined| {
        let mut symbolizer = Symbolizer::new().with_inlined(with_inlined);
        assert!(symbolizer.remember(tgid));
        symbolizer
    };
    // Before what is inlined may stand an instruction that marks where the function begins.
    let beginning: Vec<u64> = (begin..begin + 16).collect();
    let samples = beginning.iter().map(|at| sample(tgid, &[*at], &[]));
    let names = symbolizer(true).resolve(&profile(samples.collect()));
    let has_inlined = |at: &&u64| !names.inlined(key(tgid), 0, **at).is_empty();
    let address = *beginning.iter().find(has_inlined).unwrap();

    let raw = profile(vec![sample(tgid, &[address], &[])]);
    let resolved = |with_inlined| {
        let names = symbolizer(with_inlined).resolve(&raw);
        let name = names.user_name(tgid, 0, address).to_owned();
        let inlined = names.inlined(key(tgid), 0, address).iter();
        let inlined = inlined.map(|frame| names.frames()[*frame as usize].clone());
        (name, inlined.collect::<Vec<_>>(), names.inlined_left_out)
    };
    assert_eq!(resolved(false), ("outer".to_owned(), vec![], 0));
    let leaf = Frame {
        name: "leaf_[i]".into(),
        module: "program".into(),
        line: 3,
        function: "".into(),
        kind: FrameKind::Inlined,
    };
    assert_eq!(resolved(true), ("outer".to_owned(), vec![leaf], 0));
    let split = crate::profile::Split::Name;
    let named = crate::profile::name(&raw, &mut symbolizer(true), split);
    let folded = crate::profile::fold(&named);
    assert_eq!(folded, [("web;program;outer;leaf_[i]".to_owned(), 1)]);
    // Of a stack that has too many, the innermost.
    let names = symbolizer(true).resolve(&raw);
    let expanded = |most| names.expanded(key(tgid), &[address], most);
    assert_eq!((expanded(0), expanded(1)), (0, 1));
}
