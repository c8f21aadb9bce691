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
    fn hidden_addresses_give_no_name() {
        let hidden = "0000000000000000 T do_syscall_64\n0000000000000000 t __schedule\n";
        assert_eq!(names(hidden, &[1, u64::MAX]), [None, None]);
        assert_eq!(names("", &[1]), [None]);
        assert_eq!(names("garbage\nzz T x\n1\n", &[1]), [None]);
        assert_eq!(names(KALLSYMS, &[]), [None::<String>; 0]);
    }
}
