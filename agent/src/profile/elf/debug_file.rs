//! Names from a debug file: what a debug package installs beside a stripped binary.
//!
//! It is looked for where gdb does: by the build id, else by the name and the checksum in
//! `.gnu_debuglink`. It is opened inside the container's root by the caller, and says no more about
//! the container than the binary, which is the container's as well.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    ops::ControlFlow,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use flate2::Crc;

use super::{Budget, ElfError, Headers, Lookup, read_chunks, symbol_table, u32_at};

/// Where debug files are installed.
const DEBUG_FOLDER: &str = "/usr/lib/debug";
/// Longest name of a file, bytes.
const MAX_NAME_BYTES: usize = 255;
/// Largest file whose checksum is computed, bytes; a larger one is not taken.
const MAX_CHECKED_BYTES: u64 = 512 << 20;

/// How to find the debug file of a binary.
pub(in crate::profile) struct DebugFiles<'a> {
    /// Path of the binary, as its container sees it. Only beside an absolute one is anything looked
    /// for.
    pub(in crate::profile) binary: &'a Path,
    /// Opens an absolute path inside the container's root, if it is a regular file.
    pub(in crate::profile) open: &'a mut dyn FnMut(&Path) -> io::Result<File>,
}

/// What `.gnu_debuglink` says.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    name: PathBuf,
    crc: u32,
}

/// Names what the debug file of a binary names, if there is one.
pub(super) fn look_up(
    binary: &File,
    headers: &Headers,
    mut files: DebugFiles<'_>,
    budget: &mut Budget,
    lookup: &mut Lookup<'_>,
) -> Result<(), ElfError> {
    match find(binary, headers, &mut files, budget)? {
        Some((file, headers)) => symbol_table::look_up(&file, &headers, budget, lookup),
        None => Ok(()),
    }
}

/// The debug file of a binary.
pub(super) fn find(
    binary: &File,
    headers: &Headers,
    files: &mut DebugFiles<'_>,
    budget: &mut Budget,
) -> Result<Option<(File, Headers)>, ElfError> {
    let build_id = headers.build_id(binary)?;
    let build_id = build_id.as_deref();
    if let Some(path) = build_id.and_then(path_of_build_id)
        && let Some(found) = open(&path, build_id, files)
    {
        return Ok(Some(found));
    }
    let Some(link) = read_link(binary, headers)? else {
        return Ok(None);
    };
    let own = binary.metadata()?;
    for path in paths_of_link(files.binary, &link.name) {
        let Some((file, headers)) = open(&path, build_id, files) else {
            continue;
        };
        let found = file.metadata()?;
        // A binary is not its own debug file, though it often has the name.
        let other = (found.dev(), found.ino()) != (own.dev(), own.ino());
        if other && checksum(&file, found.len(), budget)? == Some(link.crc) {
            return Ok(Some((file, headers)));
        }
    }
    Ok(None)
}

/// Opens what may be a debug file; `None` if it cannot be read or is of another build.
fn open(
    path: &Path,
    build_id: Option<&[u8]>,
    files: &mut DebugFiles<'_>,
) -> Option<(File, Headers)> {
    let file = (files.open)(path).ok()?;
    let headers = Headers::read(&file).ok()?;
    let found = headers.build_id(&file).ok()?;
    let same = build_id
        .zip(found.as_deref())
        .is_none_or(|(wanted, found)| wanted == found);
    same.then_some((file, headers))
}

fn path_of_build_id(build_id: &[u8]) -> Option<PathBuf> {
    let (first, rest) = build_id
        .split_first()
        .filter(|(_, rest)| !rest.is_empty())?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("{DEBUG_FOLDER}/.build-id/{first:02x}/{rest}.debug").into())
}

fn paths_of_link(binary: &Path, name: &Path) -> Vec<PathBuf> {
    let Some(folder) = binary.parent().filter(|_| binary.is_absolute()) else {
        return Vec::new();
    };
    let below_root = folder.strip_prefix("/").unwrap_or(folder);
    vec![
        folder.join(name),
        folder.join(".debug").join(name),
        Path::new(DEBUG_FOLDER).join(below_root).join(name),
    ]
}

fn read_link(binary: &File, headers: &Headers) -> Result<Option<Link>, ElfError> {
    // The name, zeros up to a multiple of four, the checksum.
    const MAX_BYTES: usize = (MAX_NAME_BYTES + 1).next_multiple_of(4) + 4;
    let Some(part) = headers.section(".gnu_debuglink") else {
        return Ok(None);
    };
    let mut bytes = [0; MAX_BYTES];
    let length = usize::try_from(part.bytes).map_or(MAX_BYTES, |bytes| bytes.min(MAX_BYTES));
    let bytes = &mut bytes[..length];
    binary.read_exact_at(bytes, part.offset)?;
    Ok(parse_link(bytes))
}

/// The link, if it names a file and no path.
fn parse_link(bytes: &[u8]) -> Option<Link> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    let name = &bytes[..end];
    if end > MAX_NAME_BYTES || matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return None;
    }
    let at = (end + 1).next_multiple_of(4);
    bytes.get(at..at + 4).map(|crc| Link {
        name: OsStr::from_bytes(name).into(),
        crc: u32_at(crc, 0),
    })
}

/// The CRC-32 of a file; `None` if it is too large.
fn checksum(file: &File, length: u64, budget: &mut Budget) -> Result<Option<u32>, ElfError> {
    if length > MAX_CHECKED_BYTES {
        return Ok(None);
    }
    let mut crc = Crc::new();
    read_chunks(file, 0, length, budget, |_, _, chunk| {
        crc.update(chunk);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Some(crc.sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_a_file_and_its_checksum() {
        let link = parse_link(b"app.debug\0\0\0\x78\x56\x34\x12");
        let name = PathBuf::from("app.debug");
        assert_eq!(
            link,
            Some(Link {
                name,
                crc: 0x1234_5678
            })
        );
    }

    #[test]
    fn a_link_with_a_path_in_it_is_refused() {
        for name in ["", ".", "..", "../x", "/etc/passwd", "a/b", "a/"] {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize((name.len() + 1).next_multiple_of(4) + 4, 0);
            assert_eq!(parse_link(&bytes), None, "{name:?}");
        }
        let mut long = vec![b'x'; MAX_NAME_BYTES + 1];
        long.resize(MAX_NAME_BYTES + 20, 0);
        assert_eq!(parse_link(&long), None);
        assert_eq!(parse_link(b"no end"), None);
        assert_eq!(parse_link(b"no checksum\0\0\0"), None);
    }

    #[test]
    fn debug_files_are_looked_for_where_gdb_does() {
        let path = path_of_build_id(&[0xab, 0xcd, 0x0e]).unwrap();
        assert_eq!(path, Path::new("/usr/lib/debug/.build-id/ab/cd0e.debug"));
        assert_eq!(path_of_build_id(&[0xab]), None);
        let paths = paths_of_link(Path::new("/usr/bin/app"), Path::new("x.debug"));
        let wanted = [
            "/usr/bin/x.debug",
            "/usr/bin/.debug/x.debug",
            "/usr/lib/debug/usr/bin/x.debug",
        ];
        assert_eq!(paths, wanted.map(PathBuf::from));
        assert!(paths_of_link(Path::new("[vdso]"), Path::new("x")).is_empty());
    }
}
