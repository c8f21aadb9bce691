//! Keys and values of the profile subject.

/// Most frames kept of a stack, user and kernel each (`PERF_MAX_STACK_DEPTH`,
/// `include/uapi/linux/perf_event.h`).
pub const MAX_FRAMES: usize = 127;

/// Sessions that can record at once.
pub const SESSIONS: u32 = 16;
/// Set in a session's word while it records.
const SESSION_OPEN: u64 = 1 << 32;
/// Set where it tells threads apart.
const SESSION_THREADS: u64 = 1 << 33;

/// Set while it only meets the programs that run, so that their tables are there when it begins.
const SESSION_WARMING: u64 = 1 << 34;

/// Word of a session in the array `SESSIONS`: the slot that it samples, or [`crate::slot::IDLE`] for all.
#[must_use]
pub const fn session_word(slot: u32, by_thread: bool) -> u64 {
    slot as u64 | SESSION_OPEN | if by_thread { SESSION_THREADS } else { 0 }
}

/// The word of a session that does not record yet.
#[must_use]
pub const fn warming(word: u64) -> u64 {
    word | SESSION_WARMING
}

/// Whether a session does not record yet.
#[inline(always)]
#[must_use]
pub const fn is_warming(word: u64) -> bool {
    word & SESSION_WARMING != 0
}

/// Whether a session records, or is about to.
#[inline(always)]
#[must_use]
pub const fn is_open(word: u64) -> bool {
    word & SESSION_OPEN != 0
}

/// The slot that a session samples.
#[inline(always)]
#[must_use]
pub const fn session_slot(word: u64) -> u32 {
    word as u32
}

/// Whether a session tells threads apart.
#[inline(always)]
#[must_use]
pub const fn by_thread(word: u64) -> bool {
    word & SESSION_THREADS != 0
}

/// Period of a session's perf events, nanoseconds: that of the rate, but for its lowest bits, which are the number of
/// the session. The program is handed the period with each sample and so knows for whom it is, on every
/// kernel; at 99 Hz they are 1.5 millionths of it at most.
#[must_use]
pub const fn session_period(frequency: u32, session: u32) -> u64 {
    let period = 1_000_000_000 / if frequency == 0 { 1 } else { frequency as u64 };
    period / SESSIONS as u64 * SESSIONS as u64 + (session % SESSIONS) as u64
}

/// The session of a period.
#[inline(always)]
#[must_use]
pub const fn session_of(period: u64) -> u32 {
    (period % SESSIONS as u64) as u32
}

shared! {
    /// A stack, in the hash `STACKS` by its 64-bit hash, or in `PYTHON_STACKS`.
    pub struct Stack [1024] {
        /// Number of frames.
        pub length: u64,
        /// Return addresses, the innermost first; or words of [`crate::python`].
        pub frames: [u64; MAX_FRAMES],
    }
}

shared! {
    /// Where samples were taken, in the hash `SAMPLES`, whose values are counts.
    pub struct SampleKey [48] {
        /// Hash of the user stack; 0 is none.
        pub user: u64,
        /// Hash of the kernel stack; 0 is none.
        pub kernel: u64,
        /// Hash of the stack of Python functions; 0 is none.
        pub python: u64,
        /// Slot of the container.
        pub slot: u32,
        /// The program that the process ran.
        pub program: ProgramKey,
        /// The kernel's pid; 0 where threads are not told apart.
        pub tid: u32,
        /// Number of the session.
        pub session: u32,
        /// How the walk of the user stack ended: `crate::unwind::STOP_*`, and `STEPPED_BY_POINTER`.
        pub stop: u32,
    }
}

shared! {
    /// What a process runs, from one `exec` to the next: key of the hash `PROGRAMS`.
    #[derive(PartialEq, Eq, Hash)]
    pub struct ProgramKey [8] {
        /// The kernel's tgid.
        pub tgid: u32,
        /// [`program_id`]
        pub id: u32,
    }
}

/// Tells the programs that a process number had one after the other: from `task_struct.start_boottime` of the first
/// thread, which tells processes that had the same number, and `task_struct.self_exec_id`, which counts
/// its `exec`s. Never 0.
#[inline(always)]
#[must_use]
pub const fn program_id(start_ns: u64, exec_id: u32) -> u32 {
    let mixed = (start_ns ^ ((exec_id as u64) << 48)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32 | 1
}

/// Stacks of Python functions of one program whose names are asked for in one window of [`ASK_WINDOW_SHIFT`]; the ring
/// holds 1,300 of all programs.
pub const MAX_PYTHON_ASKS: u32 = 100;
/// A window is two to the power of this, nanoseconds: 134 ms.
const ASK_WINDOW_SHIFT: u32 = 27;

/// Counts another question of a program: its word, which holds the number of the window and how many were asked in it, as
/// it is then; `None` where there are too many. Two CPUs that count at once may count one.
#[inline(always)]
#[must_use]
pub const fn one_more_ask(word: u32, now_ns: u64) -> Option<u32> {
    let window = (now_ns >> ASK_WINDOW_SHIFT) as u32 & 0xff_ffff;
    if word >> 8 != window {
        return Some(window << 8 | 1);
    }
    if word & 0xff >= MAX_PYTHON_ASKS {
        return None;
    }
    Some(word + 1)
}

shared! {
    /// A program that was sampled, in the hash `PROGRAMS`.
    pub struct Program [64] {
        /// `task_struct.comm` of its first thread at its first sample.
        pub comm: [u8; 16],
        /// `task_struct.start_boottime` of its first thread, nanoseconds.
        pub start_ns: u64,
        /// `mm_struct.start_stack`, where its stack began: another one after each `exec`. 0 is not known.
        pub start_stack: u64,
        /// Where its mappings are in `MAPPINGS`: `crate::unwind::region`; 0 while they are not known.
        pub region: u64,
        /// When user space may be asked for it again, `CLOCK_MONOTONIC`, nanoseconds. User space puts it off where
        /// it has found nothing new.
        pub ask_after_ns: u64,
        /// Samples of it, over all sessions.
        pub samples: u64,
        /// 1 where it has an entry in `PYTHONS`.
        pub is_python: u32,
        /// How often names of Python functions were asked for of late: [`one_more_ask`].
        pub python_asks: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_of_its_rate_and_names_its_session() {
        for frequency in [1, 19, 99, 999, 10_000] {
            for session in 0..SESSIONS {
                let period = session_period(frequency, session);
                assert_eq!(session_of(period), session);
                let wanted = 1_000_000_000 / u64::from(frequency);
                assert!(period.abs_diff(wanted) < u64::from(SESSIONS));
            }
        }
        assert_eq!(session_of(session_period(0, 3)), 3);
    }

    #[test]
    fn a_session_word_holds_what_it_is_told() {
        let word = session_word(7, true);
        assert!(is_open(word) && by_thread(word) && session_slot(word) == 7);
        let word = session_word(u32::MAX, false);
        assert!(is_open(word) && !by_thread(word) && session_slot(word) == u32::MAX);
        assert!(!is_open(0) && !is_warming(word));
        let early = warming(word);
        assert!(is_open(early) && is_warming(early) && session_slot(early) == u32::MAX);
    }

    #[test]
    fn a_program_asks_so_often_in_each_window() {
        const { assert!(MAX_PYTHON_ASKS < 0xff) };
        for now_ns in [0, 1 << 30, u64::MAX] {
            let mut word = 0xabcd_ef05;
            for asked in 1..=MAX_PYTHON_ASKS {
                word = one_more_ask(word, now_ns).unwrap();
                assert_eq!(word & 0xff, asked);
            }
            assert_eq!(one_more_ask(word, now_ns), None);
            let later = now_ns.wrapping_add(1 << ASK_WINDOW_SHIFT);
            assert_eq!(one_more_ask(word, later).unwrap() & 0xff, 1);
        }
    }

    #[test]
    fn programs_of_one_process_differ() {
        let first = program_id(12_345_678, 1);
        assert_ne!(first, program_id(12_345_678, 2));
        assert_ne!(first, program_id(12_345_679, 1));
        assert_ne!(program_id(0, 0), 0);
    }
}
