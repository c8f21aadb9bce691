//! Each source names an address, and in which order they are asked.

use std::path::PathBuf;

use flate2::Crc;

use super::{
    super::made::{BASE, CODE, CODE_OFFSET, Image, go_table},
    *,
};

/// Made by xz 5.4.1 of a debug file with `from_debug_data` at 0x100, 16 bytes, and `frame_dummy`
/// without a size at 0x200.
pub(super) const DEBUG_DATA: &[u8] =
    include_bytes!("../../../../fixtures/fuzz/profile_debug_data/symbols");

const FUNCTIONS: &[(&str, u32)] = &[("main.work", 0x100), ("main.(*T).Do", 0x180), ("", 0x1c0)];
const BUILD_ID: &[u8] = b"a build id: 20 bytes";
const DEBUG_PATH: &str = "/usr/lib/debug/.build-id/61/206275696c642069643a203230206279746573.debug";

fn at(places: &[u64]) -> Vec<u64> {
    places.iter().map(|place| CODE_OFFSET + place).collect()
}

/// The name of the function at 0x100, if any, with these debug files in the container.
fn name_with(binary: &File, files: &[(&str, File)]) -> (String, Vec<PathBuf>) {
    let mut asked = Vec::new();
    let debug_files = DebugFiles {
        binary: "/usr/bin/app".as_ref(),
        open: &mut |path| {
            asked.push(path.to_owned());
            let mut known = files.iter();
            let found = known.find(|(known, _)| path.as_os_str() == *known);
            found.ok_or(io::ErrorKind::NotFound)?.1.try_clone()
        },
    };
    let keep = |name: &str| Some(name.into());
    let found = resolve_with(binary, debug_files, &at(&[0x100]), &mut budget(), keep).unwrap();
    (texts(&found).remove(0), asked)
}

fn debug_file() -> Image {
    Image::debug_file().symbols(".symtab", &[("from_debug_file", 0x100, 16)])
}

fn crc_of(image: Image) -> u32 {
    let mut crc = Crc::new();
    crc.update(&image.bytes());
    crc.sum()
}

#[test]
fn a_symbol_table_names_an_address() {
    for table in [".symtab", ".dynsym"] {
        let file = Image::binary().symbols(table, &[("f", 0x100, 16)]).file();
        assert_eq!(
            names(&file, &at(&[0xff, 0x100, 0x10f, 0x110])),
            ["", "f", "f", ""]
        );
    }
}

#[test]
fn only_in_a_full_table_a_symbol_without_size_reaches_to_the_next() {
    let list = [("stub", 0x100, 0), ("next", 0x200, 16)];
    let file = Image::binary().symbols(".symtab", &list).file();
    assert_eq!(
        names(&file, &at(&[0x100, 0x180, 0x210])),
        ["stub", "stub", ""]
    );
    let file = Image::binary().symbols(".dynsym", &list).file();
    assert_eq!(names(&file, &at(&[0x100, 0x180, 0x210])), ["stub", "", ""]);
}

#[test]
fn compressed_symbols_name_an_address() {
    let file = Image::binary().section(".gnu_debugdata", DEBUG_DATA).file();
    let found = names(&file, &at(&[0xff, 0x100, 0x10f, 0x110, 0x200]));
    assert_eq!(
        found,
        ["", "from_debug_data", "from_debug_data", "", "frame_dummy"]
    );
}

#[test]
fn compressed_symbols_that_are_broken_do_not_hide_the_dynamic_ones() {
    let file = Image::binary()
        .section(".gnu_debugdata", b"no xz")
        .symbols(".dynsym", &[("dynamic", 0x100, 16)])
        .file();
    assert_eq!(names(&file, &at(&[0x100, 0x200])), ["dynamic", ""]);
}

#[test]
fn a_debug_file_is_found_by_the_build_id() {
    let binary = Image::binary().build_id(BUILD_ID).file();
    let debug = debug_file().build_id(BUILD_ID).file();
    let (name, asked) = name_with(&binary, &[(DEBUG_PATH, debug)]);
    assert_eq!(name, "from_debug_file");
    assert_eq!(asked, [PathBuf::from(DEBUG_PATH)]);
}

#[test]
fn a_debug_file_is_found_by_the_link() {
    for path in [
        "/usr/bin/app.debug",
        "/usr/bin/.debug/app.debug",
        "/usr/lib/debug/usr/bin/app.debug",
    ] {
        let link = crc_of(debug_file());
        let binary = Image::binary().debug_link("app.debug", link).file();
        let (name, _) = name_with(&binary, &[(path, debug_file().file())]);
        assert_eq!(name, "from_debug_file", "{path}");
    }
}

#[test]
fn a_debug_file_of_another_build_is_refused() {
    let other = || debug_file().build_id(b"another build");
    let binary = Image::binary().build_id(BUILD_ID);
    let binary = binary.debug_link("app.debug", crc_of(other())).file();
    let files = [DEBUG_PATH, "/usr/bin/app.debug"].map(|path| (path, other().file()));
    let (name, asked) = name_with(&binary, &files);
    assert_eq!((name.as_str(), asked.len()), ("", 4));
}

#[test]
fn a_debug_file_with_another_checksum_is_refused() {
    let crc = crc_of(debug_file()) ^ 1;
    let binary = Image::binary().debug_link("app.debug", crc).file();
    let (name, asked) = name_with(&binary, &[("/usr/bin/app.debug", debug_file().file())]);
    assert_eq!((name.as_str(), asked.len()), ("", 3));
}

#[test]
fn a_link_with_a_path_in_it_opens_nothing() {
    for name in ["../secret", "/etc/secret", ".."] {
        let binary = Image::binary().debug_link(name, 0).file();
        let (_, asked) = name_with(&binary, &[]);
        assert!(asked.is_empty(), "{asked:?}");
    }
}

#[test]
fn a_binary_is_not_its_own_debug_file() {
    let binary = Image::binary().debug_link("app", 0).file();
    let same = binary.try_clone().unwrap();
    let before = budget();
    let mut after = before;
    let debug_files = DebugFiles {
        binary: "/usr/bin/app".as_ref(),
        open: &mut |_| same.try_clone(),
    };
    resolve_with(&binary, debug_files, &at(&[0]), &mut after, |_| None).unwrap();
    assert_eq!(before.bytes, after.bytes);
}

#[test]
fn each_layout_of_a_go_table_names_an_address() {
    for magic in [0xfb, 0xfa, 0xf0, 0xf1] {
        let table = go_table(magic, FUNCTIONS, 0x200, CODE);
        let file = Image::binary().loaded(".gopclntab", &table).file();
        let found = names(
            &file,
            &at(&[0xff, 0x100, 0x17f, 0x180, 0x1bf, 0x1c0, 0x200]),
        );
        let [work, method] = ["main.work", "main.(*T).Do"];
        assert_eq!(
            found,
            ["", work, work, method, method, "", ""],
            "{magic:#x}"
        );
    }
}

#[test]
fn a_go_table_is_found_by_its_header() {
    let table = go_table(0xf1, FUNCTIONS, 0x200, CODE);
    // What looks like one comes first.
    let mut data = table[..16].to_vec();
    data.resize(72, 0xff);
    let without = Image::binary().loaded(".rodata", &data);
    let without = without.loaded(".rodata", &table).without_section_headers();
    assert_eq!(names(&without.file(), &at(&[0x100])), ["main.work"]);
    // The linker of C merged it with other data.
    let merged = Image::binary().loaded(".data.rel.ro", &table);
    let merged = merged.section(".go.buildinfo", b"go").file();
    assert_eq!(names(&merged, &at(&[0x100])), ["main.work"]);
    // A file with sections that is none of Go's is not searched.
    let other = Image::binary().loaded(".rodata", &table).file();
    assert_eq!(names(&other, &at(&[0x100])), [""]);
}

#[test]
fn a_relocation_tells_where_the_code_of_go_begins() {
    let table = go_table(0xf0, FUNCTIONS, 0x200, 0);
    let image = |place: u64| {
        Image::binary()
            .loaded(".data.rel.ro.gopclntab", &table)
            .relocations(&[(1, 2), (place, CODE)])
            .file()
    };
    // Behind the headers of three segments, aligned to 32.
    let begin = BASE + 192;
    assert_eq!(names(&image(begin + 24), &at(&[0x100])), ["main.work"]);
    assert!(resolve(&image(begin + 32), &at(&[0x100]), &mut budget(), |_| None).is_err());
}

#[test]
fn the_module_data_tell_where_the_code_of_go_begins() {
    let table = go_table(0xf1, FUNCTIONS, 0x200, 0);
    let image = |least: u64| {
        let mut module = [0; 23 * 8];
        module[160..168].copy_from_slice(&least.to_le_bytes());
        module[176..184].copy_from_slice(&CODE.to_le_bytes());
        Image::binary()
            .loaded(".gopclntab", &table)
            .loaded(".go.module", &module)
            .file()
    };
    assert_eq!(names(&image(CODE + 0x100), &at(&[0x100])), ["main.work"]);
    // Another layout of the data.
    assert!(resolve(&image(CODE), &at(&[0x100]), &mut budget(), |_| None).is_err());
}

#[test]
fn a_go_table_beyond_the_code_is_refused() {
    let table = go_table(0xf1, FUNCTIONS, 0x20_0000, CODE);
    let file = Image::binary().loaded(".gopclntab", &table).file();
    assert!(resolve(&file, &at(&[0x100]), &mut budget(), |_| None).is_err());
}

#[test]
fn what_one_source_names_the_next_is_not_asked_for() {
    let table = go_table(0xf1, &[("go", 0x100)], 0x200, CODE);
    let image = || {
        Image::binary()
            .build_id(BUILD_ID)
            .loaded(".gopclntab", &table)
    };
    let debug = || [(DEBUG_PATH, debug_file().build_id(BUILD_ID).file())];
    assert_eq!(name_with(&image().file(), &[]).0, "go");
    assert_eq!(name_with(&image().file(), &debug()).0, "from_debug_file");
    let image = || image().section(".gnu_debugdata", DEBUG_DATA);
    let (name, asked) = name_with(&image().file(), &debug());
    assert_eq!((name.as_str(), asked.len()), ("from_debug_data", 0));
    let dynamic = image().symbols(".dynsym", &[("dynamic", 0x100, 16)]);
    assert_eq!(name_with(&dynamic.file(), &debug()).0, "dynamic");
    // What the dynamic table does not name is looked up in the next.
    let other = image().symbols(".dynsym", &[("dynamic", 0x300, 16)]).file();
    let found = names(&other, &at(&[0x300, 0x100, 0x180]));
    assert_eq!(found, ["dynamic", "from_debug_data", "go"]);
}

#[test]
fn a_broken_source_costs_its_own_names_only() {
    let table = go_table(0xf1, FUNCTIONS, 0x200, CODE);
    let image = Image::binary().section(".gnu_debugdata", b"no xz");
    let file = image.loaded(".gopclntab", &table).file();
    assert_eq!(names(&file, &at(&[0x100])), ["main.work"]);
}
