//! Samples to folded stacks.

use std::{collections::BTreeMap, io, io::Write};

use super::{
    frame_name::{UNKNOWN, clean},
    raw::{ProfileLosses, RawProfile},
    symbolize::{StackState, Symbolizer},
};
use ctrscope_ebpf::profile::MAX_FRAMES;

/// Stands at the root side of a stack whose walk ended in garbage.
pub const BROKEN: &str = "[broken stack]";
/// Stands at the root side of a stack that is deeper than the limit.
pub const TRUNCATED: &str = "[truncated]";

/// A profile with names: folded stacks and what is known about their quality.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folded {
    /// `container;process;outermost;…;innermost`, user frames then kernel frames, and its samples.
    pub stacks: BTreeMap<String, u64>,
    /// Samples in it.
    pub samples: u64,
    /// Samples by the state of their user stack.
    pub user_stacks: StackCounts,
    /// Distinct addresses that have a name.
    pub symbol_hits: u64,
    /// Distinct addresses that have none.
    pub symbol_misses: u64,
    /// How long samples were taken, seconds.
    pub seconds: f64,
    /// Samples per second and CPU, Hz.
    pub frequency: u32,
    /// What is missing.
    pub losses: ProfileLosses,
}

/// Samples by the state of their user stack ([`StackState`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackCounts {
    /// No user stack: kernel threads.
    pub absent: u64,
    /// Walked to the end.
    pub complete: u64,
    /// Cut where the walk left executable memory.
    pub cut: u64,
    /// As deep as the limit.
    pub truncated: u64,
    /// Of processes that were gone before their mappings were read.
    pub unmapped: u64,
}

impl StackCounts {
    fn add(&mut self, state: StackState, count: u64) {
        let counter = match state {
            StackState::Absent => &mut self.absent,
            StackState::Complete => &mut self.complete,
            StackState::Cut => &mut self.cut,
            StackState::Truncated => &mut self.truncated,
            StackState::Unmapped => &mut self.unmapped,
        };
        *counter = counter.saturating_add(count);
    }
}

impl Folded {
    /// Writes one line a stack: `stack count`.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        for (stack, count) in &self.stacks {
            writeln!(out, "{stack} {count}")?;
        }
        Ok(())
    }

    /// The share of distinct addresses that have a name, 0 to 1; `None` without addresses.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share for display")]
    pub fn symbol_ratio(&self) -> Option<f64> {
        let all = self.symbol_hits + self.symbol_misses;
        (all > 0).then(|| self.symbol_hits as f64 / all as f64)
    }
}

/// Names and folds a profile. Stacks that have the same names are added up; threads of a process
/// are not told apart.
#[must_use]
pub fn fold(raw: &RawProfile, symbolizer: &mut Symbolizer) -> Folded {
    let names = symbolizer.resolve(raw);
    let mut folded = Folded {
        symbol_hits: names.symbol_hits,
        symbol_misses: names.symbol_misses,
        seconds: raw.seconds,
        frequency: raw.frequency,
        losses: raw.losses,
        ..Folded::default()
    };
    let mut line = String::new();
    for sample in raw.samples.iter().filter(|sample| sample.count > 0) {
        line.clear();
        line.push_str(&clean(&sample.container));
        let mut push = |name: &str| {
            line.push(';');
            line.push_str(name);
        };
        push(&symbolizer.process_name(sample.tgid));
        let user = symbolizer.user_stack(sample);
        match user.state {
            StackState::Absent | StackState::Complete => {}
            StackState::Cut => push(BROKEN),
            StackState::Truncated => push(TRUNCATED),
            StackState::Unmapped => push(UNKNOWN),
        }
        for (index, &address) in user.frames.iter().enumerate().rev() {
            push(names.user(sample.tgid, index, address));
        }
        if sample.kernel.len() >= MAX_FRAMES {
            push("[truncated]_[k]");
        }
        for (index, &address) in sample.kernel.iter().enumerate().rev() {
            if address != 0 {
                push(names.kernel(index, address));
            }
        }
        folded.user_stacks.add(user.state, sample.count);
        folded.samples = folded.samples.saturating_add(sample.count);
        let total = folded.stacks.entry(line.clone()).or_default();
        *total = total.saturating_add(sample.count);
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::RawSample;

    #[inline(never)]
    #[unsafe(no_mangle)]
    extern "C" fn ctrscope_test_folded_function(n: u64) -> u64 {
        std::hint::black_box(n).wrapping_mul(5)
    }

    fn sample(container: &str, tgid: u32, user: &[u64], kernel: &[u64], count: u64) -> RawSample {
        RawSample {
            container: container.into(),
            tgid,
            tid: tgid,
            user: user.into(),
            kernel: kernel.into(),
            count,
        }
    }

    fn text(folded: &Folded) -> String {
        let mut out = Vec::new();
        folded.write_text(&mut out).unwrap();
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
        let symbolizer = Symbolizer::with_proc(proc_root.path());
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
            losses: ProfileLosses::default(),
        };
        let folded = fold(&raw, &mut symbolizer);
        let comm = symbolizer.process_name(own);
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
        assert_eq!(folded.stacks, expected);
        assert_eq!(folded.samples, 12);
        assert_eq!(
            folded.user_stacks,
            StackCounts {
                absent: 1,
                complete: 8,
                cut: 2,
                truncated: 0,
                unmapped: 1
            }
        );
        // Each line read back: everything before the last space, and the count after it.
        let read: BTreeMap<String, u64> = text(&folded)
            .lines()
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(stack, count)| (stack.to_owned(), count.parse().unwrap()))
            .collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn an_empty_profile_folds_to_nothing() {
        let folded = fold(&RawProfile::default(), &mut Symbolizer::new());
        assert_eq!(text(&folded), "");
        assert_eq!(folded.symbol_ratio(), None);
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
        let folded = fold(&raw, &mut Symbolizer::new());
        assert_eq!(folded.samples, u64::MAX);
        assert_eq!(folded.stacks.len(), 3);
        assert_eq!(text(&folded).lines().count(), 3);
    }
}
