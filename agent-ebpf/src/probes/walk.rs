//! Walks of user stacks by unwind tables, so that programs without frame pointers have whole stacks. x86-64.
//!
//! For each frame: the mapping of its address (that of the callee, or a bisection), the row of its table
//! (page index and a bisection), the caller's frame by the rule of the row, and two words of the user's
//! stack. All in one program, without tail calls: the step from a frame to the next is a global function
//! (5.6), which the verifier proves once, by itself, and not anew for each frame. The program came to
//! 22,000 verified instructions and 18 ms of loading with it, and to 700,000 and 830 ms with the step inside of
//! the loop. What a step takes over from the one before stands in a map value.

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user},
    maps::Array,
    programs::PerfEventContext,
};
use ctrscope_ebpf::{
    counter,
    profile::{MAX_FRAMES, Stack},
    unwind,
    walk::{
        self, MAPPING_PENDING, MAPPING_STEPS, MAPPING_TABLE, Mapping, STEPPED_BY_POINTER,
        region_count, region_first,
    },
};

use super::profile::{Current, read};
use crate::{
    kernel::layout,
    maps::{MAPPINGS, STACK_SCRATCH, UNWIND_INDEX, UNWIND_ROWS, WALK_SCRATCH, count},
};

/// `struct pt_regs` of x86-64 in words, and places in it (`arch/x86/include/asm/ptrace.h`).
const REGISTERS: usize = 21;
const RBP: usize = 4;
const RIP: usize = 16;
const CS: usize = 17;
const RSP: usize = 19;
const SS: usize = 20;
/// `__USER_CS`, `__USER32_CS` and `__USER_DS` (`arch/x86/include/asm/segment.h`).
const USER_CS: u64 = 0x33;
const USER_32_CS: u64 = 0x23;
const USER_DS: u64 = 0x2b;
/// Sizes of a kernel stack, bytes: with KASAN it has twice as much (`arch/x86/include/asm/page_64_types.h`).
const KERNEL_STACK: [u64; 2] = [16 << 10, 32 << 10];
/// What may lie between the registers and the end of the stack: with FRED two words (`TOP_OF_KERNEL_STACK_PADDING`,
/// `arch/x86/include/asm/thread_info.h`).
const PADDING: [u64; 2] = [0, 16];

/// From the stack pointer of a signal's trampoline to rbp in its `ucontext`; rsp is 5 words further and rip 6
/// (`struct sigcontext_64`, `arch/x86/include/uapi/asm/sigcontext.h`, after the 40 bytes before `uc_mcontext`).
const SIGNAL_RBP: u64 = 40 + 10 * 8;
const SIGNAL_WORDS: u32 = 7;
const SIGNAL_RSP: usize = 5;
const SIGNAL_RIP: usize = 6;

/// Another frame was found.
const GO_ON: u32 = u32::MAX;

/// What a walk takes along.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Walk {
    ip: u64,
    sp: u64,
    bp: u64,
    /// 1 where `ip` is a return address: the call is before it.
    back: u64,
    /// 1 where `ip` is that of a caller that has called nothing, since a signal interrupted it: user space looks
    /// callers up one byte before.
    ahead: u64,
    /// Index of the mapping of the last frame.
    mapping: u64,
    low: u64,
    high: u64,
    /// `STEPPED_BY_POINTER`, or 0.
    stepped: u64,
    /// 1 where the last step was taken by a row of a table.
    by_row: u64,
    /// Two words of the user's stack: most often the caller's rbp, and the return address.
    pair: [u64; 2],
    registers: [u64; REGISTERS],
}

#[inline(always)]
pub(super) unsafe fn get(place: *const u64) -> u64 {
    // SAFETY: by the caller, a place in a map value; volatile, so that the verifier sees an unknown number.
    unsafe { core::ptr::read_volatile(place) }
}

#[inline(always)]
pub(super) unsafe fn get_word(place: *const u32) -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(place) }
}

#[inline(always)]
pub(super) unsafe fn set(place: *mut u64, value: u64) {
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(place, value) }
}

#[inline(always)]
pub(super) unsafe fn read_user(to: *mut u64, words: u32, from: u64) -> bool {
    // SAFETY: by the caller, `to` has room; the helper checks `from`.
    unsafe { bpf_probe_read_user(to.cast(), words * 8, from as *const _) == 0 }
}

#[inline(always)]
unsafe fn read_registers(to: *mut u64, from: u64) -> bool {
    // SAFETY: as above.
    let read =
        unsafe { bpf_probe_read_kernel(to.cast(), (REGISTERS * 8) as u32, from as *const _) };
    read == 0
}

/// Walks the user stack of the current task into `stack`; says how the walk ended.
#[inline(always)]
pub(super) fn walk(ctx: &PerfEventContext, stack: *mut Stack, task: u64, current: &Current) -> u32 {
    let first = region_first(current.region);
    let head = walk::head(current.key.tgid, current.key.id);
    let Some(region) = MAPPINGS.get_ptr(first) else {
        return walk::STOP_POINTERS;
    };
    // SAFETY: a place in a map value.
    if unsafe { get(&raw const (*region).start) } != head {
        return walk::STOP_POINTERS;
    }
    let Some(walk) = WALK_SCRATCH.get_ptr_mut(0) else {
        return walk::STOP_POINTERS;
    };
    // SAFETY: the scratch is this CPU's, and the perf event's program does not interrupt itself.
    unsafe {
        let found = find_registers(ctx, walk, task);
        if found != GO_ON {
            return found;
        }
        set(&raw mut (*walk).back, 0);
        set(&raw mut (*walk).ahead, 0);
        set(&raw mut (*walk).stepped, 0);
        set(&raw mut (*walk).by_row, 0);
        set(&raw mut (*walk).mapping, u64::from(first) + 1);
        let frames = (&raw mut (*stack).frames).cast::<u64>();
        let length = &raw mut (*stack).length;
        set(length, 0);
        let mut stop = walk::STOP_DEPTH;
        let mut i = 0_usize;
        while i < MAX_FRAMES {
            let ip = get(&raw const (*walk).ip);
            if ip == 0 {
                // The first function of a thread has no caller, and some runtimes give it none to return to; a step by
                // frame pointer may have come to any zero.
                stop = match get(&raw const (*walk).by_row) {
                    1 => walk::STOP_END,
                    _ => walk::STOP_UNMAPPED,
                };
                break;
            }
            set(frames.add(i), ip + get(&raw const (*walk).ahead));
            i += 1;
            set(length, i as u64);
            let next = walk_step(current.region);
            if next != GO_ON {
                stop = next;
                break;
            }
        }
        if stop == walk::STOP_DEPTH {
            count(counter::STACK_TRUNCATED);
        }
        stop | get(&raw const (*walk).stepped) as u32
    }
}

/// Halves a search for the last that does not begin after what is wanted. Without a branch, which no CPU could predict:
/// what begins is below 2^63, and so is what is wanted where anything is found, so the sign of the difference is the
/// answer.
#[inline(always)]
unsafe fn halve(walk: *mut Walk, middle: u64, begins: u64, wanted: u64) {
    // SAFETY: places in a map value.
    unsafe {
        let low = get(&raw const (*walk).low);
        let high = get(&raw const (*walk).high);
        let is_after = (wanted.wrapping_sub(begins) as i64 >> 63) as u64;
        set(
            &raw mut (*walk).low,
            low ^ ((low ^ (middle + 1)) & !is_after),
        );
        set(&raw mut (*walk).high, high ^ ((high ^ middle) & is_after));
    }
}

/// Registers of the interrupted user code. In the kernel they are at the end of the task's kernel stack, and the
/// segments tell which of the guesses where that is was right.
#[inline(always)]
unsafe fn find_registers(ctx: &PerfEventContext, walk: *mut Walk, task: u64) -> u32 {
    // SAFETY: the context of a perf event's program, and the scratch.
    unsafe {
        let given = &raw const (*ctx.ctx).regs;
        let cs = core::ptr::read_volatile(&raw const (*given).cs);
        if cs & 3 == 3 {
            if cs & 0xffff == USER_32_CS {
                return walk::STOP_32_BIT;
            }
            set(
                &raw mut (*walk).ip,
                core::ptr::read_volatile(&raw const (*given).rip),
            );
            set(
                &raw mut (*walk).sp,
                core::ptr::read_volatile(&raw const (*given).rsp),
            );
            set(
                &raw mut (*walk).bp,
                core::ptr::read_volatile(&raw const (*given).rbp),
            );
            return GO_ON;
        }
        let offset = layout!(task_stack);
        if offset == 0 {
            return walk::STOP_NO_REGISTERS;
        }
        let Some(stack) = read::<u64>(task, offset) else {
            return walk::STOP_NO_REGISTERS;
        };
        let registers = (&raw mut (*walk).registers).cast::<u64>();
        let mut guess = 0;
        while guess < KERNEL_STACK.len() * PADDING.len() {
            let end = stack + KERNEL_STACK[guess / PADDING.len()] - PADDING[guess % PADDING.len()];
            if read_registers(registers, end - (REGISTERS * 8) as u64) {
                let cs = get(registers.add(CS)) & 0xffff;
                let is_data = get(registers.add(SS)) & 0xffff == USER_DS;
                if is_data && cs == USER_32_CS {
                    return walk::STOP_32_BIT;
                }
                if is_data && cs == USER_CS {
                    set(&raw mut (*walk).ip, get(registers.add(RIP)));
                    set(&raw mut (*walk).sp, get(registers.add(RSP)));
                    set(&raw mut (*walk).bp, get(registers.add(RBP)));
                    return GO_ON;
                }
            }
            guess += 1;
        }
        walk::STOP_NO_REGISTERS
    }
}

/// The mapping that holds an address: the last frame's, or by bisection; null if there is none.
#[inline(always)]
unsafe fn find_mapping(walk: *mut Walk, region: u64, address: u64) -> *const Mapping {
    // SAFETY: places in map values.
    unsafe {
        if let Some(last) = MAPPINGS.get_ptr(get(&raw const (*walk).mapping) as u32)
            && address >= get(&raw const (*last).start)
            && address < get(&raw const (*last).end)
        {
            return last;
        }
        let first = u64::from(region_first(region)) + 1;
        set(&raw mut (*walk).low, first);
        set(
            &raw mut (*walk).high,
            first + u64::from(region_count(region)),
        );
        let mut i = 0;
        while i < MAPPING_STEPS {
            let low = get(&raw const (*walk).low);
            let high = get(&raw const (*walk).high);
            if low >= high {
                break;
            }
            let middle = (low + high) >> 1;
            let Some(mapping) = MAPPINGS.get_ptr(middle as u32) else {
                break;
            };
            halve(walk, middle, get(&raw const (*mapping).start), address);
            i += 1;
        }
        let after = get(&raw const (*walk).low);
        if after == first {
            return core::ptr::null();
        }
        set(&raw mut (*walk).mapping, after - 1);
        match MAPPINGS.get_ptr((after - 1) as u32) {
            Some(mapping)
                if address >= get(&raw const (*mapping).start)
                    && address < get(&raw const (*mapping).end) =>
            {
                mapping
            }
            _ => core::ptr::null(),
        }
    }
}

/// One of the two words in each value; 0 beyond the end.
#[inline(always)]
fn word(map: &Array<u64>, index: u32) -> u32 {
    match map.get_ptr(index >> 1) {
        // SAFETY: the pointer comes from the map.
        Some(value) => unsafe { (get(value) >> ((index & 1) << 5)) as u32 },
        None => 0,
    }
}

/// The info of the row of an address: what it says is in [`ctrscope_ebpf::unwind`].
#[inline(always)]
unsafe fn find_info(walk: *mut Walk, mapping: *const Mapping, pc: u64) -> u32 {
    // SAFETY: places in map values.
    unsafe {
        if get_word(&raw const (*mapping).kind) != MAPPING_TABLE || pc > u64::from(u32::MAX) {
            return unwind::GAP;
        }
        let pc = pc as u32;
        let pages = get_word(&raw const (*mapping).pages);
        let page =
            (pc >> unwind::PAGE_SHIFT).wrapping_sub(get_word(&raw const (*mapping).first_page));
        if page >= pages {
            return unwind::GAP;
        }
        let index = get_word(&raw const (*mapping).index);
        set(
            &raw mut (*walk).low,
            u64::from(word(&UNWIND_INDEX, index + page)),
        );
        set(
            &raw mut (*walk).high,
            u64::from(word(&UNWIND_INDEX, index + page + 1)),
        );
        let mut i = 0;
        while i < unwind::SEARCH_STEPS {
            let low = get(&raw const (*walk).low);
            let high = get(&raw const (*walk).high);
            if low >= high {
                break;
            }
            let middle = (low + high) >> 1;
            let Some(pair) = UNWIND_ROWS.get_ptr((middle >> 1) as u32) else {
                break;
            };
            let row = (get(pair) >> ((middle & 1) << 5)) as u32;
            let wanted = pc & unwind::PAGE_MASK;
            halve(
                walk,
                middle,
                u64::from(unwind::row_pc(row)),
                u64::from(wanted),
            );
            i += 1;
        }
        let after = get(&raw const (*walk).low) as u32;
        let info = unwind::row_info(word(&UNWIND_ROWS, after.wrapping_sub(1)));
        if unwind::kind(info) != unwind::WIDE || info == unwind::UNSUPPORTED {
            return info;
        }
        word(&UNWIND_INDEX, index + pages + unwind::wide_number(info))
    }
}

/// Puts the last frame of the stack that is being walked ahead by one byte.
#[inline(always)]
fn put_last_ahead(walk: *mut Walk) {
    let Some(stack) = STACK_SCRATCH.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the scratch is this CPU's, and the frame is one of it.
    unsafe {
        // Through memory: 5.10 must see the very number checked that is then used.
        set(
            &raw mut (*walk).low,
            get(&raw const (*stack).length).wrapping_sub(1),
        );
        let last = get(&raw const (*walk).low);
        if last < MAX_FRAMES as u64 {
            let frame = (&raw mut (*stack).frames).cast::<u64>().add(last as usize);
            set(frame, get(frame) + 1);
        }
    }
}

/// Takes a step to the caller: puts its registers in the place of the callee's; says whether to go on, or how the walk
/// ended. A global function, which the kernel proves by itself, once for all frames.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_step(region: u64) -> u32 {
    let Some(walk) = WALK_SCRATCH.get_ptr_mut(0) else {
        return walk::STOP_NO_REGISTERS;
    };
    // SAFETY: the scratch is this CPU's.
    unsafe { step(walk, region) }
}

#[inline(always)]
unsafe fn step(walk: *mut Walk, region: u64) -> u32 {
    // SAFETY: places in map values.
    unsafe {
        let pc = get(&raw const (*walk).ip).wrapping_sub(get(&raw const (*walk).back));
        let sp = get(&raw const (*walk).sp);
        let bp = get(&raw const (*walk).bp);
        let mapping = find_mapping(walk, region, pc);
        if mapping.is_null() {
            return walk::STOP_UNMAPPED;
        }
        let pair = (&raw mut (*walk).pair).cast::<u64>();
        let pc = pc.wrapping_sub(get(&raw const (*mapping).bias));
        let info = find_info(walk, mapping, pc);
        let (cfa, slot);
        let mut astray = walk::STOP_BAD_FRAME;
        set(&raw mut (*walk).by_row, 1);
        if unwind::kind(info) == unwind::GAP {
            set(&raw mut (*walk).by_row, 0);
            set(&raw mut (*walk).stepped, STEPPED_BY_POINTER as u64);
            if get_word(&raw const (*mapping).kind) == MAPPING_PENDING {
                astray = walk::STOP_PENDING;
            } else if bp == 0 {
                // The outermost frame has none to point to (System V ABI for AMD64, 3.4.1).
                return walk::STOP_POINTER_END;
            }
            cfa = bp + 16;
            slot = 2;
        } else {
            let offset = u64::from(unwind::units(info)) << 3;
            slot = unwind::slot(info);
            match unwind::kind(info) {
                unwind::RSP => cfa = sp + offset,
                unwind::RBP => cfa = bp + offset,
                unwind::PLT => {
                    let is_past = pc & 15 >= u64::from(unwind::units(info));
                    cfa = sp + if is_past { 16 } else { 8 };
                }
                unwind::END => return walk::STOP_END,
                unwind::SIG => {
                    let registers = (&raw mut (*walk).registers).cast::<u64>();
                    if !read_user(registers, SIGNAL_WORDS, sp + SIGNAL_RBP) {
                        return walk::STOP_FAULT;
                    }
                    set(&raw mut (*walk).bp, get(registers));
                    set(&raw mut (*walk).sp, get(registers.add(SIGNAL_RSP)));
                    set(&raw mut (*walk).ip, get(registers.add(SIGNAL_RIP)));
                    set(&raw mut (*walk).back, 0);
                    set(&raw mut (*walk).ahead, 1);
                    // Nor has the trampoline called: its first byte stands there as a return address.
                    put_last_ahead(walk);
                    return GO_ON;
                }
                unwind::DRAP if slot != 0 => {
                    if !read_user(pair, 1, sp - 8 + offset) {
                        return walk::STOP_FAULT;
                    }
                    cfa = get(pair) + 8;
                }
                unwind::DRAP => {
                    if !read_user(pair, 1, bp - offset) {
                        return walk::STOP_FAULT;
                    }
                    let cfa = get(pair);
                    if !read_user(&raw mut (*walk).bp, 1, bp) {
                        return walk::STOP_FAULT;
                    }
                    if cfa <= sp || !read_user(pair.add(1), 1, cfa - 8) {
                        return walk::STOP_BAD_FRAME;
                    }
                    set(&raw mut (*walk).sp, cfa);
                    set(&raw mut (*walk).ip, get(pair.add(1)));
                    set(&raw mut (*walk).back, 1);
                    set(&raw mut (*walk).ahead, 0);
                    return GO_ON;
                }
                _ => return walk::STOP_UNSUPPORTED,
            }
        }
        if cfa <= sp {
            return astray;
        }
        if !read_user(pair, 2, cfa - 16) {
            return if astray == walk::STOP_PENDING {
                astray
            } else {
                walk::STOP_FAULT
            };
        }
        if slot == 2 {
            set(&raw mut (*walk).bp, get(pair));
        } else if slot != 0 && !read_user(&raw mut (*walk).bp, 1, cfa - (u64::from(slot) << 3)) {
            return walk::STOP_FAULT;
        }
        set(&raw mut (*walk).sp, cfa);
        set(&raw mut (*walk).ip, get(pair.add(1)));
        set(&raw mut (*walk).back, 1);
        set(&raw mut (*walk).ahead, 0);
        GO_ON
    }
}
