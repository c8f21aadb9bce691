//! The only place that knows the layout of kernel structs.
//!
//! Offsets come as the read-only global [`LAYOUT`]. aya freezes it before it loads the programs, so
//! the verifier sees constants and follows `task_struct → task_group → css` as typed pointers: a
//! plain load each, no `bpf_probe_read_kernel` (29 ns each).

use aya_ebpf::{helpers::bpf_get_smp_processor_id, maps::Array};
use ctrscope_ebpf::{
    counter,
    event::{self, Css, Event},
    layout::Layout,
    slot,
};

use crate::maps::{BLOCK_SLOTS, CPU_SLOTS, EVENTS, count};

/// Filled by the loader.
#[unsafe(no_mangle)]
pub static LAYOUT: Layout = Layout::ZERO;

/// Reads a field of [`LAYOUT`]; volatile, or the compiler would fold the zero it was built with.
macro_rules! layout {
    ($field:ident) => {
        $crate::kernel::load_time(&$crate::kernel::LAYOUT.$field)
    };
}
pub(crate) use layout;

#[inline(always)]
pub fn load_time(field: &'static u32) -> u32 {
    // SAFETY: a valid reference.
    unsafe { core::ptr::read_volatile(field) }
}

/// An untyped pointer to a kernel struct, typed by the verifier.
pub type Kernel = *const u8;

/// `PF_KTHREAD`, `include/linux/sched.h`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// Loads a field. The verifier checks pointer type, offset and size; a fault reads as zero.
#[inline(always)]
pub fn load<T: Copy>(base: Kernel, offset: u32) -> T {
    // SAFETY: the verifier rejects the program if `base` is not a pointer to a kernel struct with
    // such a field at `offset`; volatile keeps the access at its size and place.
    unsafe { core::ptr::read_volatile(base.wrapping_add(offset as usize).cast::<T>()) }
}

#[inline(always)]
pub fn task_pid(task: Kernel) -> u32 {
    load(task, layout!(task_pid))
}

#[inline(always)]
pub fn is_kernel_thread(task: Kernel) -> bool {
    load::<u32>(task, layout!(task_flags)) & PF_KTHREAD != 0
}

/// The css through which the cpu controller sees a task.
#[inline(always)]
pub fn task_css(task: Kernel) -> Kernel {
    let group: Kernel = load(task, layout!(task_sched_task_group));
    group.wrapping_add(layout!(task_group_css) as usize)
}

/// The css that a bio is charged to; null if it has none.
#[inline(always)]
pub fn bio_css(bio: Kernel) -> Kernel {
    let blkg: Kernel = load(bio, layout!(bio_blkg));
    if blkg.is_null() {
        return core::ptr::null();
    }
    let blkcg: Kernel = load(blkg, layout!(blkg_blkcg));
    if blkcg.is_null() {
        return core::ptr::null();
    }
    blkcg.wrapping_add(layout!(blkcg_css) as usize)
}

/// A css as it goes into an event.
#[inline(always)]
pub fn css(css: Kernel) -> Css {
    let mut read = Css::ZERO;
    if !css.is_null() {
        read.serial = load(css, layout!(css_serial));
        read.id = load(css, layout!(css_id));
    }
    read
}

/// Kernfs id of a cgroup; 0 if it cannot be read.
#[inline(always)]
pub fn cgroup_id(cgroup: Kernel) -> u64 {
    if cgroup.is_null() {
        return 0;
    }
    let node: Kernel = load(cgroup, layout!(cgroup_kn));
    if node.is_null() {
        0
    } else {
        load(node, layout!(kernfs_node_id))
    }
}

/// A subsystem's slot table.
#[inline(always)]
fn table(subsystem: u32) -> &'static Array<u64> {
    if subsystem == slot::SUBSYSTEM_CPU {
        &CPU_SLOTS
    } else {
        &BLOCK_SLOTS
    }
}

/// Owner of a css by its subsystem's slot table. A css that its entry was not written for is reported and counts
/// as its parent, if that is known, until user space has decided. One whose entry asks for it is
/// reported, once.
#[inline(always)]
pub fn owner(subsystem: u32, css: Kernel, switches: u32) -> u32 {
    let id: u32 = load(css, layout!(css_id));
    let serial: u64 = load(css, layout!(css_serial));
    let Some(entry) = table(subsystem).get_ptr_mut(id) else {
        count(counter::SLOT_TABLE_FULL);
        return slot::owner(slot::OTHER, slot::KIND_UNKNOWN);
    };
    // SAFETY: the pointer comes from the map; one aligned word, which both sides replace whole.
    let known = unsafe { core::ptr::read_volatile(entry) };
    if slot::is_settled(known, serial) {
        return slot::entry_owner(known);
    }
    seen_first(subsystem, css, entry, known, switches)
}

/// The cold path of [`owner`], out of the programs' way. Not a global function: those take no kernel pointers.
#[inline(never)]
fn seen_first(subsystem: u32, css: Kernel, entry: *mut u64, known: u64, switches: u32) -> u32 {
    let table = table(subsystem);
    let this = self::css(css);
    let parent_css: Kernel = load(css, layout!(css_parent));
    let parent = self::css(parent_css);
    let mut owner = slot::owner(slot::OTHER, slot::KIND_UNKNOWN);
    if slot::entry_serial(known) == this.serial {
        // User space has decided, and only wants to be told.
        owner = slot::entry_owner(known);
    } else if parent.serial != 0
        && let Some(parent_entry) = table.get_ptr(parent.id)
    {
        // SAFETY: as in `owner`.
        let known = unsafe { core::ptr::read_volatile(parent_entry) };
        if slot::entry_serial(known) == parent.serial {
            owner = slot::entry_owner(known);
        }
    }
    // The serial is written only once the event is on its way: a full ring is tried again.
    let Some(mut reserved) = EVENTS.reserve::<Event>(0) else {
        count(counter::EVENT_RING_FULL);
        return owner;
    };
    let cgroup: Kernel = load(css, layout!(css_cgroup));
    reserved.write(Event {
        kind: event::CSS_SEEN,
        argument: subsystem,
        cgroup_id: cgroup_id(cgroup),
        css: this,
        second: parent,
        owner,
        path_bytes: 0,
        cpu: unsafe { bpf_get_smp_processor_id() },
        switches,
    });
    // SAFETY: as in `owner`.
    unsafe { core::ptr::write_volatile(entry, slot::entry(this.serial, owner)) };
    reserved.submit(0);
    owner
}

/// A number for what is at an address: that address less that of a constant of this object. The verifier allows no
/// arithmetic on a pointer but the difference of two (`adjust_reg_min_max_vals`, `kernel/bpf/verifier.c`).
#[inline(always)]
pub fn number(of: Kernel) -> u64 {
    let mut number = of as u64;
    // SAFETY: one register operation.
    unsafe {
        core::arch::asm!("{0} -= {1}", inout(reg) number, in(reg) &raw const LAYOUT, options(pure, nomem, nostack));
    }
    number
}
