//! Programs that the compiler makes, sound and damaged.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::*;
use crate::profile::demangle::demangle;

mod hostile;

const SOURCE: &str = "\
#include \"leaf.h\"
static inline __attribute__((always_inline)) void middle(void) {
    leaf(3);
    sink += 1;
}
__attribute__((noinline)) void outer(void) {
    sink += 2;
    middle();
}
__attribute__((noinline)) void plain(void) {
    sink += 5;
}
int main(void) {
    outer();
    plain();
    return 0;
}
";

const HEADER: &str = "\
static volatile unsigned long sink;
static inline __attribute__((always_inline)) void leaf(unsigned long by) {
    sink /= by;
}
";

/// A program in a folder that goes with it.
struct Program {
    folder: TempDir,
    path: PathBuf,
}

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let status = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .status();
    assert!(status.unwrap().success(), "{program} {arguments:?}");
}

/// Compiles the program with these options.
fn built(options: &[&str]) -> Program {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("outer.c"), SOURCE).unwrap();
    fs::write(folder.path().join("leaf.h"), HEADER).unwrap();
    let mut arguments = vec!["-O2", "-o", "program", "outer.c"];
    arguments.extend(options);
    run("cc", &arguments, folder.path());
    let path = folder.path().join("program");
    Program { folder, path }
}

fn budget() -> Budget {
    Budget {
        bytes: 1 << 30,
        deadline: Instant::now() + Duration::from_secs(600),
    }
}

/// Offsets of all bytes of a function, by the symbol table.
fn offsets_of(path: &Path, function: &str) -> Vec<u64> {
    let output = Command::new("nm").arg("-S").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find(|line| line.ends_with(&format!(" {function}")));
    let mut words = line.unwrap().split(' ');
    let mut number = || u64::from_str_radix(words.next().unwrap(), 16).unwrap();
    let (address, bytes) = (number(), number());
    let headers = Headers::read(&File::open(path).unwrap()).unwrap();
    let offset = headers.offset_of(address).unwrap();
    (offset..offset + bytes).collect()
}

fn keep(name: &str) -> Option<Arc<str>> {
    Some(demangle(name).into())
}

fn chains(file: &File, debug_files: Option<DebugFiles<'_>>, offsets: &[u64]) -> Chains {
    let (mut budget, mut room) = (budget(), 1 << 18);
    look_up(file, debug_files, offsets, &mut budget, &mut room, keep).unwrap()
}

/// The chains of a function, as text: `line name:line name:line`.
fn texts(path: &Path, debug_files: Option<DebugFiles<'_>>, offsets: &[u64]) -> Vec<String> {
    let found = chains(&File::open(path).unwrap(), debug_files, offsets);
    assert!(!found.is_cut);
    let mut texts: Vec<String> = found.of_offsets.values().map(text).collect();
    texts.sort();
    texts.dedup();
    texts
}

fn text(chain: &Chain) -> String {
    let mut text = chain.line.to_string();
    for Inlined { name, line } in &chain.inlined {
        text.push_str(&format!(" {name}:{line}"));
    }
    text
}

fn assert_found(found: &[String], options: &[&str]) {
    let has = |wanted: &str| found.iter().any(|text| text == wanted);
    // `outer` at its line 7 itself, `middle` called in line 8, `leaf` in line 3, whose own line is 3 of its file.
    assert!(has("7"), "{options:?}: {found:?}");
    assert!(has("8 middle:3 leaf:3"), "{options:?}: {found:?}");
    assert!(has("8 middle:4"), "{options:?}: {found:?}");
}

#[test]
fn an_address_is_expanded_into_the_functions_that_were_inlined_there() {
    for options in [
        &["-gdwarf-4"][..],
        &["-gdwarf-5"],
        &["-gdwarf-5", "-gz=zlib"],
        &["-gdwarf-4", "-gz=zlib", "-static"],
        &["-gdwarf-5", "-flto"],
        &["-gdwarf-5", "-no-pie", "-fdebug-types-section"],
        &["-gdwarf64", "-gdwarf-5"],
    ] {
        let program = built(options);
        let offsets = offsets_of(&program.path, "outer");
        assert_found(&texts(&program.path, None, &offsets), options);
        let plain = texts(&program.path, None, &offsets_of(&program.path, "plain"));
        assert!(plain.iter().all(|text| !text.contains(' ')), "{plain:?}");
        assert!(plain.contains(&"11".to_owned()), "{plain:?}");
    }
}

#[test]
fn a_program_without_dwarf_has_no_inlined_functions() {
    for options in [&["-g0"][..], &["-g", "-Wl,--strip-debug"]] {
        let program = built(options);
        let found = texts(&program.path, None, &offsets_of(&program.path, "outer"));
        assert_eq!(found, [""; 0], "{options:?}");
    }
}

#[test]
fn a_stripped_program_has_those_of_its_debug_file() {
    for by_link in [false, true] {
        let build_id = if by_link {
            "-Wl,--build-id=none"
        } else {
            "-Wl,--build-id"
        };
        let program = built(&["-g", build_id]);
        let folder = program.folder.path();
        let offsets = offsets_of(&program.path, "outer");
        run(
            "objcopy",
            &["--only-keep-debug", "program", "x.debug"],
            folder,
        );
        run(
            "objcopy",
            &["--strip-all", "--add-gnu-debuglink=x.debug", "program"],
            folder,
        );
        assert_eq!(texts(&program.path, None, &offsets), [""; 0]);
        let mut open = |path: &Path| {
            let is_wanted = match by_link {
                true => path == Path::new("/srv/x.debug"),
                false => path.starts_with("/usr/lib/debug/.build-id"),
            };
            if is_wanted {
                File::open(folder.join("x.debug"))
            } else {
                Err(io::ErrorKind::NotFound.into())
            }
        };
        let debug_files = DebugFiles {
            binary: Path::new("/srv/program"),
            open: &mut open,
        };
        let found = texts(&program.path, Some(debug_files), &offsets);
        assert_found(&found, &[build_id]);
    }
}

#[test]
fn names_are_as_the_linker_has_them() {
    let folder = TempDir::new().unwrap();
    let source = "namespace a { struct S { volatile int x; \
                  __attribute__((always_inline)) inline void add(int y) { x /= y; } }; }\n\
                  extern \"C\" __attribute__((noinline)) void outer(a::S *s) { s->add(3); }\n\
                  int main() { a::S s{1}; outer(&s); }\n";
    fs::write(folder.path().join("a.cpp"), source).unwrap();
    let arguments = ["-O2", "-g", "-x", "c++", "-o", "program", "a.cpp"];
    let status = Command::new("c++")
        .args(arguments)
        .current_dir(folder.path())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        println!("skipped: no C++ compiler");
        return;
    }
    let path = folder.path().join("program");
    let found = texts(&path, None, &offsets_of(&path, "outer"));
    assert!(
        found.contains(&"2 a::S::add(int):1".to_owned()),
        "{found:?}"
    );
}
