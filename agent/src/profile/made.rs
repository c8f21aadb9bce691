//! A profile made up for the tests of the formats.

use std::sync::Arc;

use super::{
    kind::Split,
    named::{Frame, FrameKind, NamedStack, Profile, StackCounts},
    raw::{Owner, ProfileLosses},
};

/// Two containers, three stacks, 8 samples of 10 ns.
pub(crate) fn made(split: Split) -> Profile {
    let frame = |name: &str, module: &str, kind| Frame {
        name: name.into(),
        module: module.into(),
        line: 0,
        function: "".into(),
        kind,
    };
    let stack = |owner, process: &str, tgid, frames: &[u32], count| NamedStack {
        owner,
        process: process.into(),
        tgid: if split == Split::Name { 0 } else { tgid },
        thread: if split == Split::Thread { "worker" } else { "" }.into(),
        tid: if split == Split::Thread { tgid + 1 } else { 0 },
        frames: frames.into(),
        count,
        ns: count * 10,
    };
    Profile {
        split,
        owners: vec![
            Arc::new(Owner {
                namespace: "shop".to_owned(),
                pod: "a".to_owned(),
                container: "web".to_owned(),
            }),
            Arc::new(Owner::named("db")),
        ],
        frames: vec![
            frame("main", "nginx", FrameKind::Native),
            frame("do_syscall_64_[k]", "[kernel]", FrameKind::Kernel),
            frame("run_[j]", "[anon]", FrameKind::Jit),
            Frame::marker("[broken stack]"),
        ],
        stacks: vec![
            stack(0, "nginx", 7, &[0, 1], 3),
            stack(1, "java", 9, &[3, 2], 3),
            stack(0, "nginx", 7, &[0, 2], 2),
        ],
        count: 8,
        ns: 80,
        symbol_hits: 3,
        symbol_misses: 1,
        began_unix_ms: 1_700_000_000_000,
        seconds: 2.0,
        frequency: 99,
        ..Profile::default()
    }
}

/// The same, and in the first stack `outer` of the first file, with `middle` and in it `leaf` inlined, at two lines of
/// each; two files have more than is shown.
pub(crate) fn with_inlined() -> Profile {
    let mut profile = made(Split::Name);
    let frame = |name: &str, line, kind| Frame {
        name: name.into(),
        module: "nginx".into(),
        line,
        function: "".into(),
        kind,
    };
    profile.frames.extend([
        frame("outer", 8, FrameKind::Native),
        frame("middle_[i]", 4, FrameKind::Inlined),
        frame("leaf_[i]", 3, FrameKind::Inlined),
        frame("outer", 9, FrameKind::Native),
        frame("middle_[i]", 5, FrameKind::Inlined),
    ]);
    profile.stacks[0].frames = [0, 4, 5, 6, 1].into();
    profile.stacks[2].frames = [0, 7, 8].into();
    profile.inlined_left_out.files = 2;
    profile
}

/// A profile with the stacks of folded lines, and twelve broken, three lost, one unnamed of ten.
pub(crate) fn of_lines(lines: &[(&str, u64)]) -> Profile {
    let mut profile = Profile {
        count: lines.iter().map(|&(_, count)| count).sum(),
        user_stacks: StackCounts {
            cut: 12,
            ..StackCounts::default()
        },
        cuts: [("fault", 9), ("unmapped", 3)].into(),
        symbol_hits: 9,
        symbol_misses: 1,
        seconds: 10.0,
        frequency: 99,
        losses: ProfileLosses {
            samples: 3,
            ..ProfileLosses::default()
        },
        ..Profile::default()
    };
    for &(line, count) in lines {
        let mut parts = line.split(';');
        let owner = Owner::named(parts.next().unwrap_or(""));
        let process = parts.next().unwrap_or("").into();
        let frames = parts.map(|name| {
            profile.frames.push(Frame {
                name: name.into(),
                module: "program".into(),
                line: 0,
                function: "".into(),
                kind: FrameKind::Native,
            });
            u32::try_from(profile.frames.len() - 1).unwrap_or(u32::MAX)
        });
        let frames = frames.collect();
        profile.owners.push(Arc::new(owner));
        profile.stacks.push(NamedStack {
            owner: u32::try_from(profile.owners.len() - 1).unwrap_or(u32::MAX),
            process,
            tgid: 0,
            thread: "".into(),
            tid: 0,
            frames,
            count,
            ns: count * 10_101_010,
        });
    }
    profile
}
