//! Python functions in the place of the interpreter's own frames.

/// The interpreter's loop. Each call of it from native code stands for a run of Python functions that called one
/// another (CPython 3.11 and later).
const LOOP: &str = "_PyEval_EvalFrameDefault";

/// Whether a native function is the interpreter's loop, or a part that a compiler has split off (`.cold`, `.lto_priv.0`).
pub(super) fn is_interpreter(name: &str) -> bool {
    name.strip_prefix(LOOP)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What a native frame is for [`merge`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The interpreter's loop.
    Loop,
    /// Inlined into the one before.
    Inlined,
    Other,
}

/// Puts runs of Python functions in the place of the interpreter's frames.
///
/// `native` are frames, the outermost first; `runs` the innermost first, as the functions in each are. Where both are
/// whole they belong together from the outermost on: an interpreter that has just been called has no function yet.
/// Where one is not, from the innermost on; so too where more frames of the interpreter than the innermost have none:
/// the list of a greenlet ends at its own first function, the native stack goes on to whoever switched to it. Runs that
/// are left over stand next to the one that they called or were called by. Functions inlined into the loop go with
/// it.
pub(super) fn merge(
    native: &[u32],
    kind: impl Fn(u32) -> Kind,
    runs: &[Vec<u32>],
    are_whole: bool,
    out: &mut Vec<u32>,
) {
    let is_loop = |frame: &u32| kind(*frame) == Kind::Loop;
    let loops = native.iter().filter(|frame| is_loop(frame)).count();
    let innermost = native.iter().rfind(|frame| kind(**frame) != Kind::Inlined);
    let is_entered = loops == runs.len() + 1 && innermost.is_some_and(is_loop);
    let are_whole = are_whole && (loops <= runs.len() || is_entered);
    let left_over = runs.len().saturating_sub(loops);
    // Of the loops, those without a function: the innermost, or the outermost.
    let without = loops.saturating_sub(runs.len());
    let mut runs = runs.iter().rev();
    let mut put = |out: &mut Vec<u32>, count: usize| {
        for run in runs.by_ref().take(count) {
            out.extend(run.iter().rev());
        }
    };
    if loops == 0 || !are_whole {
        put(out, left_over);
    }
    let mut met = 0;
    let mut is_replaced = false;
    for frame in native {
        match kind(*frame) {
            Kind::Inlined if is_replaced => continue,
            Kind::Inlined | Kind::Other => {
                is_replaced = false;
                out.push(*frame);
                continue;
            }
            Kind::Loop => is_replaced = false,
        }
        met += 1;
        let has_run = if are_whole {
            met <= loops - without
        } else {
            met > without
        };
        if !has_run {
            out.push(*frame);
            continue;
        }
        is_replaced = true;
        put(out, 1);
        if are_whole && met == loops {
            put(out, left_over);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOP_FRAME: u32 = 9;
    const INLINED: u32 = 8;

    fn merged(native: &[u32], runs: &[&[u32]], are_whole: bool) -> Vec<u32> {
        let runs: Vec<Vec<u32>> = runs.iter().map(|run| run.to_vec()).collect();
        let mut out = Vec::new();
        let kind = |frame| match frame {
            LOOP_FRAME => Kind::Loop,
            INLINED => Kind::Inlined,
            _ => Kind::Other,
        };
        merge(native, kind, &runs, are_whole, &mut out);
        out
    }

    #[test]
    fn each_run_stands_where_the_loop_was() {
        let native = [1, LOOP_FRAME, 2, LOOP_FRAME, 3];
        // The innermost run first, and in it the innermost function.
        let runs: [&[u32]; 2] = [&[22, 21], &[12, 11]];
        let expected = [1, 11, 12, 2, 21, 22, 3];
        assert_eq!(merged(&native, &runs, true), expected);
        assert_eq!(merged(&native, &runs, false), expected);
    }

    #[test]
    fn a_loop_without_a_function_is_the_innermost_of_whole_stacks() {
        let native = [1, LOOP_FRAME, 2, LOOP_FRAME];
        assert_eq!(merged(&native, &[&[11]], true), [1, 11, 2, LOOP_FRAME]);
        assert_eq!(merged(&native, &[&[11]], false), [1, LOOP_FRAME, 2, 11]);
        assert_eq!(merged(&[1, LOOP_FRAME], &[], true), [1, LOOP_FRAME]);
    }

    #[test]
    fn functions_of_a_greenlet_stand_behind_whoever_switched_to_it() {
        let native = [1, LOOP_FRAME, 2, LOOP_FRAME, 3];
        assert_eq!(merged(&native, &[&[11]], true), [1, LOOP_FRAME, 2, 11, 3]);
        let native = [LOOP_FRAME, LOOP_FRAME, 2, LOOP_FRAME];
        let expected = [LOOP_FRAME, LOOP_FRAME, 2, 11];
        assert_eq!(merged(&native, &[&[11]], true), expected);
    }

    #[test]
    fn what_is_inlined_into_the_loop_goes_with_it() {
        let native = [1, LOOP_FRAME, INLINED, INLINED, 2, INLINED];
        assert_eq!(merged(&native, &[&[11]], true), [1, 11, 2, INLINED]);
        let native = [1, LOOP_FRAME, INLINED];
        assert_eq!(merged(&native, &[], true), native);
    }

    #[test]
    fn runs_that_are_left_over_stay_in_their_order() {
        let runs: [&[u32]; 3] = [&[31], &[21], &[11]];
        assert_eq!(merged(&[1, LOOP_FRAME, 2], &runs, true), [1, 11, 21, 31, 2]);
        assert_eq!(merged(&[LOOP_FRAME, 2], &runs, false), [11, 21, 31, 2]);
        // A native stack without any loop is the end of one that is broken.
        assert_eq!(merged(&[1, 2], &runs, true), [11, 21, 31, 1, 2]);
        assert_eq!(merged(&[], &runs, false), [11, 21, 31]);
    }

    #[test]
    fn parts_of_the_loop_are_the_loop() {
        assert!(is_interpreter("_PyEval_EvalFrameDefault"));
        assert!(is_interpreter("_PyEval_EvalFrameDefault.cold"));
        assert!(!is_interpreter("_PyEval_EvalFrameDefaulted"));
        assert!(!is_interpreter("_PyEval_Vector"));
    }
}
