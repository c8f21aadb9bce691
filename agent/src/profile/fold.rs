//! A profile as folded stacks: `container;process;outermost;…;innermost value`.

use std::io::{self, Write};

use super::named::Profile;

/// The lines, sorted, stacks that read the same added up. The value is that which is drawn: counts
/// for samples, nanoseconds for waits.
#[must_use]
pub fn fold(profile: &Profile) -> Vec<(String, u64)> {
    let mut lines: Vec<(String, u64)> = profile
        .stacks
        .iter()
        .map(|stack| {
            let mut line = profile.roots(stack).join(";");
            for frame in &stack.frames {
                line.push(';');
                if let Some(frame) = profile.frames.get(*frame as usize) {
                    line.push_str(&frame.name);
                }
            }
            (line, profile.value(stack))
        })
        .filter(|(_, value)| *value > 0)
        .collect();
    lines.sort_unstable();
    lines.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 = kept.1.saturating_add(next.1);
        }
        same
    });
    lines
}

/// Writes one line a stack: `stack value`.
///
/// # Errors
///
/// Those of the writer.
pub fn write_folded(profile: &Profile, out: &mut impl Write) -> io::Result<()> {
    for (stack, value) in fold(profile) {
        writeln!(out, "{stack} {value}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use ctrscope_ebpf::profile::ProgramKey;

    use super::*;
    use crate::profile::{
        Owner, RawProfile, RawSample, Split, StackCounts, Symbolizer, WalkEnd, name, named::BROKEN,
    };

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn ctrscope_test_folded_function(n: u64) -> u64 {
        std::hint::black_box(n).wrapping_mul(5)
    }

    fn sample(container: &str, tgid: u32, user: &[u64], kernel: &[u64], count: u64) -> RawSample {
        RawSample {
            owner: Arc::new(Owner::named(container)),
            program: ProgramKey { tgid, id: 0 },
            tid: tgid,
            user: user.into(),
            end: WalkEnd::Pointers,
            kernel: kernel.into(),
            python: None,
            count,
            ns: count,
        }
    }

    fn text(profile: &Profile) -> String {
        let mut out = Vec::new();
        write_folded(profile, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// A symbolizer of two processes: this one, and 7, whose name is hostile.
    fn symbolizer() -> (tempfile::TempDir, Symbolizer) {
        let proc_root = tempfile::tempdir().unwrap();
        let own = std::process::id();
        std::os::unix::fs::symlink(
            format!("/proc/{own}"),
            proc_root.path().join(own.to_string()),
        )
        .unwrap();
        let folder = proc_root.path().join("7");
        std::fs::create_dir(&folder).unwrap();
        let stat = "7 (x) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8123 9";
        std::fs::write(folder.join("stat"), stat).unwrap();
        std::fs::write(folder.join("comm"), "a;b\nc_[k]").unwrap();
        std::fs::write(folder.join("status"), "").unwrap();
        std::fs::write(
            folder.join("maps"),
            "1000-2000 r-xp 00000500 00:01 9 /srv/evil;name 1\n",
        )
        .unwrap();
        std::fs::write(
            proc_root.path().join("kallsyms"),
            "ffffffff81000000 T do_syscall_64\nffffffff81000100 T vfs_read\n",
        )
        .unwrap();
        let mut symbolizer = Symbolizer::with_proc(proc_root.path());
        assert!(symbolizer.remember(own) && symbolizer.remember(7));
        (proc_root, symbolizer)
    }

    #[test]
    fn stacks_are_folded_root_first() {
        let (_proc_root, mut symbolizer) = symbolizer();
        let own = std::process::id();
        let known = ctrscope_test_folded_function as *const () as u64 + 1;
        let kernel = [0xffff_ffff_8100_0104, 0xffff_ffff_8100_0010];
        let raw = RawProfile {
            samples: vec![
                sample("web", own, &[known, known], &kernel, 3),
                sample("web", own, &[known, known], &kernel, 4),
                sample("web", own, &[known, 0x10], &[], 2),
                sample("web", 7, &[0x1010], &[], 1),
                sample("web;\nx 5", 8, &[0x1010], &[], 1),
                sample("web", 8, &[], &kernel[1..], 1),
                sample("web", own, &[known], &[], 0),
            ],
            seconds: 2.0,
            frequency: 99,
            ..RawProfile::default()
        };
        let named = name(&raw, &mut symbolizer, Split::Name);
        let comm = symbolizer.process_name(ProgramKey { tgid: own, id: 0 });
        let f = "ctrscope_test_folded_function";
        let expected: BTreeMap<String, u64> = [
            (
                format!("web;{comm};{f};{f};do_syscall_64_[k];vfs_read_[k]"),
                7,
            ),
            (format!("web;{comm};{BROKEN};{f}"), 2),
            ("web;a:b c_(k);evil:name_1+0x510".to_owned(), 1),
            ("web: x_5;[exited 8];[unknown]".to_owned(), 1),
            ("web;[exited 8];do_syscall_64_[k]".to_owned(), 1),
        ]
        .into();
        assert_eq!(named.count, 12);
        assert_eq!(
            named.user_stacks,
            StackCounts {
                absent: 1,
                complete: 0,
                pointers: 8,
                cut: 2,
                truncated: 0,
                unmapped: 1
            }
        );
        // Each line read back: everything before the last space, and the count after it.
        let read: BTreeMap<String, u64> = text(&named)
            .lines()
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(stack, count)| (stack.to_owned(), count.parse().unwrap()))
            .collect();
        assert_eq!(read, expected);

        let named = name(&raw, &mut symbolizer, Split::Process);
        assert!(text(&named).contains("\nweb;a:b c_(k)-7;evil:name_1+0x510 1\n"));
        let named = name(&raw, &mut symbolizer, Split::Thread);
        assert!(text(&named).contains("\nweb;[exited 8]-8;[exited 8]-8;do_syscall_64_[k] 1\n"));
    }

    #[test]
    fn an_empty_profile_folds_to_nothing() {
        let named = name(&RawProfile::default(), &mut Symbolizer::new(), Split::Name);
        assert_eq!(text(&named), "");
        assert_eq!(named.symbol_ratio(), None);
    }

    #[test]
    fn odd_samples_do_no_harm() {
        let own = std::process::id();
        let deep: Vec<u64> = (0..1000).map(|at| u64::MAX - at).collect();
        let raw = RawProfile {
            samples: vec![
                sample("", own, &deep, &deep, u64::MAX),
                sample("\0", 0, &[0], &[0], u64::MAX),
                sample("x", u32::MAX, &[u64::MAX, 0, 1], &[1, 0], 1),
            ],
            seconds: f64::NAN,
            ..RawProfile::default()
        };
        let named = name(&raw, &mut Symbolizer::new(), Split::Name);
        assert_eq!(named.count, u64::MAX);
        assert_eq!(named.stacks.len(), 3);
        assert_eq!(text(&named).lines().count(), 3);
    }
}
