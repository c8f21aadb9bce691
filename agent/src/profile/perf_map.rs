//! Perf maps: how a just-in-time compiler tells profilers the names of its code.
//!
//! The file is `/tmp/perf-PID.map` with the process' own root and its own PID
//! (`tools/perf/Documentation/jit-interface.txt`), lines of `START SIZE NAME`, both numbers hex. A
//! container writes it, so it may be anything: the file is opened inside the container's root and
//! only if it is a regular one, and read as a stream in which only the names asked for are kept.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use super::open_in_root::open_regular_below;

/// Longest line that is kept, bytes; the rest of a longer one is skipped.
const MAX_LINE_BYTES: usize = 16 << 10;
/// Most times an address is given a name, over all addresses: bounds the work that overlapping
/// entries make.
const MAX_MATCHES: usize = 1 << 20;
/// Most bytes of names that are kept, those of entries replaced later included.
const MAX_NAME_BYTES: usize = 8 << 20;

/// Opens the perf map of a process.
///
/// `root` is its root directory, `own_pid` the PID that the process sees itself as.
///
/// # Errors
///
/// The kernel's; `InvalidInput` if it is not a regular file.
pub(super) fn open(root: &File, own_pid: u32) -> io::Result<File> {
    let path = PathBuf::from(format!("tmp/perf-{own_pid}.map"));
    open_regular_below(root, &path)
}

/// A file that ends at a deadline.
struct Timed<R> {
    file: R,
    deadline: Instant,
}

impl<R: Read> Read for Timed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.deadline {
            return Ok(0);
        }
        self.file.read(buffer)
    }
}

/// Finds the names of addresses, which must be sorted. Of entries that overlap the last one counts:
/// compilers append when code moves. The map may be of any size; what is not read by the deadline does not count.
/// Some 300 MB a second.
///
/// # Errors
///
/// Those of the reader.
pub(super) fn resolve(
    map: impl Read,
    addresses: &[u64],
    deadline: Instant,
) -> io::Result<Vec<Option<Arc<str>>>> {
    let mut names = vec![None; addresses.len()];
    let mut matches_left = MAX_MATCHES;
    let mut name_bytes_left = MAX_NAME_BYTES;
    let map = Timed {
        file: map,
        deadline,
    };
    let mut reader = BufReader::with_capacity(64 << 10, map);
    let mut line = Vec::with_capacity(MAX_LINE_BYTES);
    while read_line(&mut reader, &mut line)? {
        let Some((start, end, name)) = parse_line(&line) else {
            continue;
        };
        let first = addresses.partition_point(|&address| address < start);
        let past = addresses.partition_point(|&address| address < end);
        if first == past {
            continue;
        }
        let (Some(matches), Some(bytes)) = (
            matches_left.checked_sub(past - first),
            name_bytes_left.checked_sub(name.len()),
        ) else {
            break;
        };
        matches_left = matches;
        name_bytes_left = bytes;
        let name: Arc<str> = String::from_utf8_lossy(name).into();
        names[first..past].fill(Some(name));
    }
    Ok(names)
}

/// Reads a line, or as much of it as is kept. `false` at the end.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(any);
        }
        any = true;
        let newline = chunk.iter().position(|&byte| byte == b'\n');
        let length = newline.unwrap_or(chunk.len());
        let keep = length.min(MAX_LINE_BYTES - line.len());
        line.extend_from_slice(&chunk[..keep]);
        reader.consume(newline.map_or(length, |at| at + 1));
        if newline.is_some() {
            return Ok(true);
        }
    }
}

/// `START SIZE NAME` as (start, end, name).
fn parse_line(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut fields = line.splitn(3, |&byte| byte == b' ');
    let start = parse_hex(fields.next()?)?;
    let size = parse_hex(fields.next()?)?;
    let name = fields.next()?.trim_ascii();
    let end = start.checked_add(size)?;
    (size > 0 && !name.is_empty()).then_some((start, end, name))
}

fn parse_hex(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command, time::Duration};

    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(600)
    }

    fn names(map: &[u8], addresses: &[u64]) -> Vec<Option<String>> {
        resolve(map, addresses, later())
            .unwrap()
            .into_iter()
            .map(|name| name.map(|name| name.to_string()))
            .collect()
    }

    #[test]
    fn addresses_get_the_names_of_their_entries() {
        // Node 20, `--perf-basic-prof`, shortened.
        let map = b"7f1000 40 LazyCompile:*loop /srv/app.js:3:14\n0x7f2000 10 Builtin:Add\n";
        assert_eq!(
            names(map, &[0x7f0fff, 0x7f1000, 0x7f103f, 0x7f1040, 0x7f2008]),
            [
                None,
                Some("LazyCompile:*loop /srv/app.js:3:14".to_owned()),
                Some("LazyCompile:*loop /srv/app.js:3:14".to_owned()),
                None,
                Some("Builtin:Add".to_owned())
            ]
        );
    }

    #[test]
    fn of_overlapping_entries_the_last_counts() {
        let map = b"100 100 old\n180 10 new\n";
        let found = names(map, &[0x170, 0x180, 0x190]);
        assert_eq!(
            found,
            ["old", "new", "old"].map(|name| Some(name.to_owned()))
        );
    }

    #[test]
    fn garbage_is_skipped() {
        let map = b"\n  \nhello\n1 2\nzz 10 x\n10 zz x\n\xff\xfe\0\n-1 10 x\n\
            ffffffffffffffff 10 overflow\n10 0 empty\n10 10 \n20 10 good\xff\n30 10 last";
        assert_eq!(
            names(map, &[0x10, 0x20, 0x30]),
            [
                None,
                Some("good\u{fffd}".to_owned()),
                Some("last".to_owned())
            ]
        );
    }

    #[test]
    fn a_huge_name_is_cut() {
        let map = [
            b"10 10 ".as_slice(),
            &vec![b'x'; 10 << 20],
            b"\n20 10 next\n",
        ]
        .concat();
        let found = names(&map, &[0x10, 0x20]);
        assert_eq!(found[0].as_ref().unwrap().len(), MAX_LINE_BYTES - 6);
        assert_eq!(found[1].as_deref(), Some("next"));
    }

    #[test]
    fn entries_that_all_cover_everything_end_early() {
        let map = b"0 ffffffffffffffff all\n".repeat(1 << 20);
        let addresses: Vec<u64> = (0..10_000).collect();
        let begun = Instant::now();
        let found = resolve(map.as_slice(), &addresses, later()).unwrap();
        assert!(found[0].is_some());
        assert!(begun.elapsed().as_secs() < 5);
    }

    #[test]
    fn a_map_without_end_is_read_until_the_deadline() {
        let endless = io::repeat(b'\n');
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(resolve(endless, &[1], deadline).unwrap(), [None]);
        assert!(Instant::now() >= deadline);
        // What is written first is read first.
        let map = b"10 10 first\n".chain(io::repeat(0));
        let found = resolve(map, &[0x10], Instant::now() + Duration::from_secs(1)).unwrap();
        assert_eq!(found[0].as_deref(), Some("first"));
        let found = resolve(b"10 10 first\n".as_slice(), &[0x10], Instant::now()).unwrap();
        assert_eq!(found, [None]);
    }

    #[test]
    fn only_a_regular_file_inside_the_root_is_opened() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        let root = tempfile::tempdir().unwrap();
        let tmp = root.path().join("tmp");
        std::fs::create_dir(&tmp).unwrap();
        symlink(outside.path(), tmp.join("perf-1.map")).unwrap();
        let fifo = Command::new("mkfifo").arg(tmp.join("perf-2.map")).status();
        assert!(fifo.unwrap().success());
        std::fs::create_dir(tmp.join("perf-4.map")).unwrap();
        for own_pid in [1, 2, 4, 5] {
            assert!(
                open(&File::open(root.path()).unwrap(), own_pid).is_err(),
                "{own_pid}"
            );
        }
        std::fs::write(tmp.join("perf-6.map"), "10 10 ok\n").unwrap();
        let map = open(&File::open(root.path()).unwrap(), 6).unwrap();
        let found = resolve(map, &[0x10], later()).unwrap();
        assert_eq!(found[0].as_deref(), Some("ok"));
    }
}
