//! Names of kernel functions from `/proc/kallsyms`.
//!
//! The file has some 200,000 lines. It is read as a stream and only the symbols of the addresses
//! asked for are kept: about 45 ms, and memory in proportion to the addresses. BPF programs and
//! modules are in it. With `kernel.kptr_restrict` set, or without CAP_SYSLOG, every address in it is
//! zero, and nothing is found.

use std::io::{self, BufRead, BufReader, Read};

/// Finds the functions of kernel addresses, which must be sorted; `None` where there is none.
///
/// # Errors
///
/// Those of the reader.
pub(super) fn resolve(kallsyms: impl Read, addresses: &[u64]) -> io::Result<Vec<Option<String>>> {
    // For each address the nearest symbol at or below it and above the address before.
    let mut nearest: Vec<Option<(u64, String)>> = vec![None; addresses.len()];
    let mut reader = BufReader::with_capacity(64 << 10, kallsyms);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            break;
        }
        let Some((start, name)) = parse_line(&line) else {
            continue;
        };
        let index = addresses.partition_point(|&address| address < start);
        let Some(slot) = nearest.get_mut(index) else {
            continue;
        };
        match slot {
            Some((best, kept)) if *best < start => {
                *best = start;
                kept.clear();
                kept.push_str(name);
            }
            Some(_) => {}
            None => *slot = Some((start, name.to_owned())),
        }
    }
    let mut below: Option<String> = None;
    Ok(nearest
        .into_iter()
        .map(|slot| {
            if let Some((_, name)) = slot {
                below = Some(name);
            }
            below.clone()
        })
        .collect())
}

/// Functions of the kernel itself, which are the same until the next boot.
#[derive(Debug)]
pub(super) struct CoreSymbols {
    start: u64,
    end: u64,
    /// Where each begins, in order: bytes after the start, and its name in the text.
    functions: Vec<(u32, u32)>,
    /// The names, each followed by a line's end.
    text: String,
}

impl CoreSymbols {
    /// Reads those between `_stext` and `_etext`; `None` where addresses are hidden.
    ///
    /// # Errors
    ///
    /// Those of the reader.
    pub(super) fn read(kallsyms: impl Read) -> io::Result<Option<Self>> {
        let mut reader = BufReader::with_capacity(64 << 10, kallsyms);
        let mut line = String::new();
        let (mut start, mut end) = (None, None);
        let mut found: Vec<(u64, u32)> = Vec::new();
        let mut text = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                break;
            }
            let Some((address, name)) = parse_line(&line) else {
                continue;
            };
            match name {
                "_stext" => start = Some(address),
                "_etext" => end = Some(address),
                _ if line.contains('[') => continue,
                _ => {}
            }
            let Ok(at) = u32::try_from(text.len()) else {
                break;
            };
            found.push((address, at));
            text.push_str(name);
            text.push('\n');
        }
        let (Some(start), Some(end)) = (start, end) else {
            return Ok(None);
        };
        // Of several at one place the first stands, as the nearest does for who reads the file.
        found.sort_by_key(|(address, _)| *address);
        found.dedup_by_key(|(address, _)| *address);
        let functions = found
            .into_iter()
            .filter(|(address, _)| (start..end).contains(address))
            .filter_map(|(address, at)| Some((u32::try_from(address - start).ok()?, at)))
            .collect();
        text.shrink_to_fit();
        Ok(Some(Self {
            start,
            end,
            functions,
            text,
        }))
    }

    /// Whether an address is in the kernel's own code.
    pub(super) fn covers(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// The function at or below an address of it.
    pub(super) fn name(&self, address: u64) -> Option<&str> {
        let offset = address.checked_sub(self.start)?;
        let after = self
            .functions
            .partition_point(|(begins, _)| u64::from(*begins) <= offset);
        let (_, at) = self.functions.get(after.checked_sub(1)?)?;
        self.text.get(*at as usize..)?.lines().next()
    }
}

/// `ADDRESS TYPE NAME[\t[MODULE]]` of a function that is not hidden.
fn parse_line(line: &str) -> Option<(u64, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let start = u64::from_str_radix(fields.next()?, 16).ok()?;
    let is_code = matches!(fields.next()?, "t" | "T" | "w" | "W");
    (start != 0 && is_code).then_some((start, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Linux 6.18, shortened.
    const KALLSYMS: &str = "\
0000000000000000 A __per_cpu_start
ffffffff81000000 T _text
ffffffff81000110 T do_syscall_64
ffffffff81000300 t __schedule
ffffffff82000000 D jiffies
ffffffffc0203000 t ext4_sync_file\t[ext4]
ffffffffc0100000 t bpf_prog_6deef7357e7b4530_switch\t[bpf]
";

    fn names(text: &str, addresses: &[u64]) -> Vec<Option<String>> {
        resolve(text.as_bytes(), addresses).unwrap()
    }

    #[test]
    fn an_address_gets_the_function_at_or_below_it() {
        let found = names(
            KALLSYMS,
            &[
                0x1000,
                0xffff_ffff_8100_0110,
                0xffff_ffff_8100_02ff,
                0xffff_ffff_8100_0300,
                0xffff_ffff_c010_0001,
                0xffff_ffff_c020_3abc,
            ],
        );
        let expected = [
            None,
            Some("do_syscall_64"),
            Some("do_syscall_64"),
            Some("__schedule"),
            Some("bpf_prog_6deef7357e7b4530_switch"),
            Some("ext4_sync_file"),
        ];
        assert_eq!(found, expected.map(|name| name.map(str::to_owned)));
    }

    #[test]
    fn the_kernels_own_functions_are_those_of_the_file() {
        let text = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let core = CoreSymbols::read(text.as_bytes()).unwrap();
        let Some(core) = core else {
            println!("skipped: addresses are hidden");
            return;
        };
        let step = ((core.end - core.start) / 500).max(1) as usize;
        let addresses: Vec<u64> = (core.start..core.end).step_by(step).collect();
        for (address, name) in addresses.iter().zip(names(&text, &addresses)) {
            assert_eq!(core.name(*address), name.as_deref(), "{address:#x}");
        }
        assert!(!core.covers(0) && !core.covers(u64::MAX) && core.name(0).is_none());
        assert!(CoreSymbols::read(KALLSYMS.as_bytes()).unwrap().is_none());
    }

    #[test]
    fn hidden_addresses_give_no_name() {
        let hidden = "0000000000000000 T do_syscall_64\n0000000000000000 t __schedule\n";
        assert_eq!(names(hidden, &[1, u64::MAX]), [None, None]);
        assert_eq!(names("", &[1]), [None]);
        assert_eq!(names("garbage\nzz T x\n1\n", &[1]), [None]);
        assert_eq!(names(KALLSYMS, &[]), [None::<String>; 0]);
    }
}
