//! Frames of Python functions, from the interpreter's own list in the memory of the process. x86-64.
//!
//! The thread state whose `thread_id` is the thread's own (`pthread_self`, which is where its thread-local storage
//! begins: `task_struct.thread.fsbase`) is looked for among those of all interpreters, the youngest first; from it the
//! list of frames goes from the innermost out. What the search found is remembered in `PYTHON_THREADS`, but never
//! believed: a state is that of the thread only if it says so now. Steps are global functions, as those of
//! [`super::walk`]. A thread that is sampled while it changes the list gives a list that is one frame short or has one
//! too many; each word of it is checked by user space, which reads the code object that it names.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use ctrscope_ebpf::{
    counter,
    profile::{MAX_FRAMES, ProgramKey, Stack},
    python::{
        self, DIRECT, FRAME_BYTES, MAX_ROUNDS, MAX_THREADS, Python, PythonThread,
        SEARCH_INTERVAL_NS,
    },
};

use super::{
    profile::read,
    walk::{get, get_word, read_user, set},
};
use crate::{
    kernel::layout,
    maps::{PYTHON_SCRATCH, PYTHON_THREADS, PYTHONS, STACK_SCRATCH, count},
};

/// Words of a frame that can be asked for.
const FRAME_WORDS: usize = 16;

/// A step found nothing more.
const OVER: u32 = 0;
const GO_ON: u32 = 1;

/// What a walk takes along.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PythonWalk {
    /// Where things are.
    python: Python,
    /// What the thread is known by.
    thread_id: u64,
    interpreter: u64,
    /// The thread state.
    thread: u64,
    /// The thread's state as it was known, which is looked at first in its interpreter; 0 is none.
    known: u64,
    known_interpreter: u64,
    /// A state of the thread that had no frames.
    idle: u64,
    idle_interpreter: u64,
    /// What the first list began with; 0 where none was entered yet.
    head: u64,
    /// The frame that is next.
    frame: u64,
    /// Words of the stack so far.
    length: u64,
    /// Of the names of its functions, which tell it from one of other functions that were at the same addresses before.
    digest: u64,
    words: [u64; FRAME_WORDS],
}

/// A place of the interpreter's.
#[inline(always)]
unsafe fn wide(place: *const u32) -> u64 {
    // SAFETY: by the caller, a place in a map value.
    unsafe { u64::from(get_word(place)) }
}

/// Puts the Python frames of the current thread, if it has any, into `stack`, which is this CPU's scratch; gives a digest
/// of their names.
#[inline(always)]
pub(super) fn walk(stack: *mut Stack, task: u64, key: ProgramKey, tid: u32) -> Option<u64> {
    let offset = layout!(task_fsbase);
    if offset == 0 {
        return None;
    }
    let Some(python) = PYTHONS.get_ptr(key) else {
        return None;
    };
    let Some(walk) = PYTHON_SCRATCH.get_ptr_mut(0) else {
        return None;
    };
    let Some(thread_id) = read::<u64>(task, offset) else {
        return None;
    };
    // SAFETY: the scratch is this CPU's, and the perf event's program does not interrupt itself.
    unsafe {
        (*walk).python = *python;
        set(&raw mut (*walk).thread_id, thread_id);
        set(&raw mut (*walk).length, 0);
        set(&raw mut (*walk).digest, 0);
        if !find(walk, key.id, tid) {
            return None;
        }
        let mut i = 0;
        while i < MAX_FRAMES {
            if python_frame() == OVER {
                break;
            }
            i += 1;
        }
        let length = get(&raw const (*walk).length);
        set(&raw mut (*stack).length, length);
        (length != 0).then(|| get(&raw const (*walk).digest))
    }
}

/// Goes to the state of the current thread, and to its innermost frame. Remembers where that was, how far it came, or
/// that there is none.
#[inline(always)]
unsafe fn find(walk: *mut PythonWalk, program: u32, tid: u32) -> bool {
    let Some(entry) = PYTHON_THREADS.get_ptr_mut(python::thread_entry(tid)) else {
        return false;
    };
    // SAFETY: places in map values. Two CPUs that run threads which share an entry may mix it: what comes of it is
    // an address to look at, too.
    unsafe {
        if get_word(&raw const (*entry).program) != program
            || get_word(&raw const (*entry).tid) != tid
        {
            *entry = PythonThread {
                program,
                tid,
                ..PythonThread::ZERO
            };
        }
        let places = &raw const (*walk).python;
        let runtime = get(&raw const (*places).runtime);
        let first = runtime.wrapping_add(wide(&raw const (*places).interpreters_head));
        set(&raw mut (*walk).thread, 0);
        set(&raw mut (*walk).idle, 0);
        set(&raw mut (*walk).idle_interpreter, 0);
        set(&raw mut (*walk).head, 0);
        let known = get(&raw const (*entry).known);
        let known_interpreter = get(&raw const (*entry).known_interpreter);
        let until_ns = get(&raw const (*entry).until_ns);
        let next_interpreter = get(&raw const (*entry).next_interpreter);
        // One that had no frames may have some now. Otherwise it is looked at in its turn: a thread that is in an
        // interpreter which another one has begun has frames in both.
        set(&raw mut (*walk).known, 0);
        if until_ns != 0 && known != 0 {
            set(&raw mut (*walk).interpreter, known_interpreter);
            set(&raw mut (*walk).thread, known);
            if python_thread() == OVER && get(&raw const (*walk).thread) != 0 {
                set(&raw mut (*entry).until_ns, 0);
                return true;
            }
        }
        if next_interpreter != 0 {
            set(&raw mut (*walk).interpreter, next_interpreter);
            set(&raw mut (*walk).thread, get(&raw const (*entry).next));
            set(&raw mut (*walk).head, get(&raw const (*entry).head));
        } else {
            if until_ns == 0 {
                set(&raw mut (*walk).known, known);
                set(&raw mut (*walk).known_interpreter, known_interpreter);
            }
            if !read_user(&raw mut (*walk).interpreter, 1, first) || !enter_interpreter(walk) {
                return false;
            }
        }
        if until_ns != 0
            && get(&raw const (*walk).head) == get(&raw const (*entry).head)
            && bpf_ktime_get_ns() < until_ns
        {
            return false;
        }
        let mut i = 0;
        while i < MAX_THREADS {
            if python_thread() == OVER {
                break;
            }
            i += 1;
        }
        let rounds = get_word(&raw const (*entry).rounds);
        set(&raw mut (*entry).next_interpreter, 0);
        set_word(&raw mut (*entry).rounds, 0);
        set(&raw mut (*entry).until_ns, 0);
        if i < MAX_THREADS && get(&raw const (*walk).thread) != 0 {
            set(&raw mut (*entry).known, get(&raw const (*walk).thread));
            let interpreter = get(&raw const (*walk).interpreter);
            set(&raw mut (*entry).known_interpreter, interpreter);
            return true;
        }
        set(&raw mut (*entry).head, get(&raw const (*walk).head));
        set(&raw mut (*entry).known, get(&raw const (*walk).idle));
        let interpreter = get(&raw const (*walk).idle_interpreter);
        set(&raw mut (*entry).known_interpreter, interpreter);
        if i < MAX_THREADS {
            let until_ns = bpf_ktime_get_ns() + SEARCH_INTERVAL_NS;
            set(&raw mut (*entry).until_ns, until_ns);
            return false;
        }
        count(counter::PYTHON_SEARCH);
        if rounds < MAX_ROUNDS {
            set(&raw mut (*entry).next, get(&raw const (*walk).thread));
            let interpreter = get(&raw const (*walk).interpreter);
            set(&raw mut (*entry).next_interpreter, interpreter);
            set_word(&raw mut (*entry).rounds, rounds + 1);
        }
        false
    }
}

#[inline(always)]
unsafe fn set_word(place: *mut u32, value: u32) {
    // SAFETY: by the caller, a place in a map value.
    unsafe { core::ptr::write_volatile(place, value) }
}

/// Goes to the first thread of the interpreter, or to the one that is known to be in it.
#[inline(always)]
unsafe fn enter_interpreter(walk: *mut PythonWalk) -> bool {
    // SAFETY: places in a map value.
    unsafe {
        let interpreter = get(&raw const (*walk).interpreter);
        let known = get(&raw const (*walk).known);
        if known != 0 && interpreter == get(&raw const (*walk).known_interpreter) {
            set(&raw mut (*walk).thread, known);
            return true;
        }
        let head = wide(&raw const (*walk).python.threads_head);
        if interpreter == 0
            || !read_user(&raw mut (*walk).thread, 1, interpreter.wrapping_add(head))
        {
            return false;
        }
        if get(&raw const (*walk).head) == 0 {
            set(&raw mut (*walk).head, get(&raw const (*walk).thread));
        }
        true
    }
}

/// Goes to the innermost frame of the thread.
#[inline(always)]
unsafe fn enter_thread(walk: *mut PythonWalk) -> bool {
    // SAFETY: places in a map value.
    unsafe {
        let thread = get(&raw const (*walk).thread);
        let offset = wide(&raw const (*walk).python.thread_frame);
        let frame = &raw mut (*walk).frame;
        if thread == 0 || !read_user(frame, 1, thread.wrapping_add(offset)) {
            return false;
        }
        let further = wide(&raw const (*walk).python.cframe_frame);
        if further == u64::from(DIRECT) {
            return true;
        }
        let cframe = get(frame);
        cframe != 0 && read_user(frame, 1, cframe.wrapping_add(further))
    }
}

/// Looks whether the thread is the one that runs, and goes on to the next one if not. A global function, which the
/// kernel proves by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn python_thread() -> u32 {
    let Some(walk) = PYTHON_SCRATCH.get_ptr_mut(0) else {
        return OVER;
    };
    // SAFETY: the scratch is this CPU's.
    unsafe {
        let places = &raw const (*walk).python;
        let thread = get(&raw const (*walk).thread);
        let next = (&raw mut (*walk).words).cast::<u64>();
        if thread == 0 {
            let interpreter = get(&raw const (*walk).interpreter);
            let offset = wide(&raw const (*places).interpreter_next);
            let is_there = read_user(
                &raw mut (*walk).interpreter,
                1,
                interpreter.wrapping_add(offset),
            );
            if !is_there || !enter_interpreter(walk) {
                set(&raw mut (*walk).thread, 0);
                return OVER;
            }
            return GO_ON;
        }
        let offset = wide(&raw const (*places).thread_id);
        let is_read = read_user(next, 1, thread.wrapping_add(offset));
        // Each interpreter that a thread has been in has a state of it, of which one has frames.
        if is_read && get(next) == get(&raw const (*walk).thread_id) {
            if enter_thread(walk) && get(&raw const (*walk).frame) != 0 {
                return OVER;
            }
            set(&raw mut (*walk).idle, thread);
            let interpreter = get(&raw const (*walk).interpreter);
            set(&raw mut (*walk).idle_interpreter, interpreter);
        }
        if thread == get(&raw const (*walk).known) {
            // What was known is no longer so: what it says is next may be anything.
            set(&raw mut (*walk).known, 0);
            if !enter_interpreter(walk) {
                set(&raw mut (*walk).thread, 0);
                return OVER;
            }
            return GO_ON;
        }
        if !is_read {
            set(&raw mut (*walk).thread, 0);
            return OVER;
        }
        let offset = wide(&raw const (*places).thread_next);
        if !read_user(next, 1, thread.wrapping_add(offset)) {
            set(&raw mut (*walk).thread, 0);
            return OVER;
        }
        set(&raw mut (*walk).thread, get(next));
        GO_ON
    }
}

/// Adds a word to the stack.
#[inline(always)]
unsafe fn push(walk: *mut PythonWalk, word: u64) {
    let Some(stack) = STACK_SCRATCH.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the scratches are this CPU's, and the place is one of the frames.
    unsafe {
        // Through memory: 5.10 must see the very number checked that is then used.
        let length = get(&raw const (*walk).length);
        if length < MAX_FRAMES as u64 {
            set(
                (&raw mut (*stack).frames)
                    .cast::<u64>()
                    .add(length as usize),
                word,
            );
            set(&raw mut (*walk).length, length + 1);
        }
    }
}

/// Adds the name of a function, a pointer to which is at an address, to the digest.
#[inline(always)]
unsafe fn add_name(walk: *mut PythonWalk, at: u64) {
    // SAFETY: places in a map value.
    unsafe {
        let words = (&raw mut (*walk).words).cast::<u64>();
        if !read_user(words, 1, at)
            || !read_user(
                words,
                1,
                get(words).wrapping_add(u64::from(python::STR_HASH)),
            )
        {
            set(words, 0);
        }
        let digest = get(&raw const (*walk).digest) ^ get(words);
        set(
            &raw mut (*walk).digest,
            digest.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23),
        );
    }
}

/// Takes one frame and goes on to its caller. A global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn python_frame() -> u32 {
    let Some(walk) = PYTHON_SCRATCH.get_ptr_mut(0) else {
        return OVER;
    };
    // SAFETY: the scratch is this CPU's.
    unsafe {
        let frame = get(&raw const (*walk).frame);
        if frame == 0 {
            return OVER;
        }
        let words = (&raw mut (*walk).words).cast::<u64>();
        if !read_user(words, (FRAME_BYTES / 8) as u32, frame) {
            return OVER;
        }
        let places = &raw const (*walk).python;
        let word = |offset: *const u32| {
            // The words are 16, so that the mask keeps within them.
            let index = (wide(offset) >> 3) & (FRAME_WORDS as u64 - 1);
            get(words.add(index as usize))
        };
        let boundary = wide(&raw const (*places).frame_boundary);
        let byte = word(&raw const (*places).frame_boundary) >> ((boundary & 7) << 3) & 0xff;
        let is_boundary = byte == wide(&raw const (*places).boundary_value);
        let caller = word(&raw const (*places).frame_previous);
        if is_boundary && wide(&raw const (*places).boundary_is_extra) != 0 {
            push(walk, python::LAST_OF_RUN);
        } else {
            // Of a tagged pointer the lowest bits say more than where.
            let code = word(&raw const (*places).frame_code) & !15;
            let instruction = word(&raw const (*places).frame_instruction);
            let first = code.wrapping_add(wide(&raw const (*places).code_instructions));
            // Before its first instruction a frame points to the one before.
            let place = if instruction < first {
                0
            } else {
                (instruction - first) >> 1
            };
            push(walk, python::word(code, place, is_boundary));
            add_name(
                walk,
                code.wrapping_add(wide(&raw const (*places).code_name)),
            );
        }
        set(&raw mut (*walk).frame, caller);
        GO_ON
    }
}
