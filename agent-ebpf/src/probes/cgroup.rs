//! Cgroups made and removed, so that a container is known before its first task runs in it; and emptied, so that
//! the kernel's accounts of it can be read once more before they go with it.

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_probe_read_kernel_str},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use ctrscope_ebpf::{
    counter,
    event::{self, CgroupEvent, Event, PATH_BYTES, is_too_many, one_more},
    slot,
};

use crate::{
    kernel::{self, Kernel, layout, load},
    maps::{CPU_SLOTS, EMPTIED, EVENTS, count},
};

#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    report(&ctx, event::CGROUP_MADE);
    0
}

#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: BtfTracePointContext) -> i32 {
    report(&ctx, event::CGROUP_REMOVED);
    0
}

/// Fires for each cgroup that the first task comes to or the last one leaves, those above it included, in each
/// hierarchy.
#[btf_tracepoint(function = "cgroup_notify_populated")]
pub fn cgroup_notify_populated(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<u64>(2) as u32 == 0 && is_told(ctx.arg(0)) {
        report(&ctx, event::CGROUP_EMPTIED);
    }
    0
}

/// Whether a cgroup that is empty is worth an event: it is in the cpu controller's hierarchy, and not a part of a
/// container that is; and not too many were before it.
#[inline(always)]
fn is_told(cgroup: Kernel) -> bool {
    let cpu_css = css(cgroup, layout!(cgroup_cpu_css));
    if layout!(cgroup_cpu_css) != 0 {
        if cpu_css.is_null() {
            return false;
        }
        let parent: Kernel = load(cpu_css, layout!(css_parent));
        let own = known_owner(cpu_css);
        if slot::kind(own) == slot::KIND_CONTAINER
            && slot::slot(own) != slot::OTHER
            && own == known_owner(parent)
        {
            return false;
        }
    }
    let Some(word) = EMPTIED.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the pointer comes from the map; one aligned word.
    let now = unsafe {
        let counted = one_more(core::ptr::read_volatile(word), bpf_ktime_get_ns());
        core::ptr::write_volatile(word, counted);
        counted
    };
    if is_too_many(now) {
        count(counter::END_UNTOLD);
        return false;
    }
    true
}

/// The owner of a css, or that of what is unknown where its entry is not of it. No `Option`: LLVM copies the undefined
/// half of a `None` along, and the verifier refuses that.
#[inline(always)]
fn known_owner(css: Kernel) -> u32 {
    let unknown = slot::owner(slot::OTHER, slot::KIND_UNKNOWN);
    if css.is_null() {
        return unknown;
    }
    let id: u32 = load(css, layout!(css_id));
    let serial: u64 = load(css, layout!(css_serial));
    let Some(entry) = CPU_SLOTS.get_ptr(id) else {
        return unknown;
    };
    // SAFETY: the pointer comes from the map; one aligned word, which both sides replace whole.
    let known = unsafe { core::ptr::read_volatile(entry) };
    if slot::entry_serial(known) == serial {
        slot::entry_owner(known)
    } else {
        unknown
    }
}

/// A css of a cgroup; null if the kernel has no such controller, which is offset 0.
#[inline(always)]
fn css(cgroup: Kernel, offset: u32) -> Kernel {
    if offset == 0 {
        core::ptr::null()
    } else {
        load(cgroup, offset)
    }
}

#[inline(always)]
fn report(ctx: &BtfTracePointContext, kind: u32) {
    let cgroup: Kernel = ctx.arg(0);
    let path: Kernel = ctx.arg(1);
    let root: Kernel = load(cgroup, layout!(cgroup_root));
    let cpu_css = css(cgroup, layout!(cgroup_cpu_css));
    let block_css = css(cgroup, layout!(cgroup_block_css));
    let mut event = Event {
        kind,
        argument: load(root, layout!(cgroup_root_hierarchy_id)),
        cgroup_id: kernel::cgroup_id(cgroup),
        css: kernel::css(cpu_css),
        second: kernel::css(block_css),
        cpu: unsafe { bpf_get_smp_processor_id() },
        ..Event::ZERO
    };
    let Some(mut reserved) = EVENTS.reserve::<CgroupEvent>(0) else {
        // Nobody is missed for want of the last one, so no walk is wanted for it.
        count(if kind == event::CGROUP_EMPTIED {
            counter::END_UNTOLD
        } else {
            counter::EVENT_RING_FULL
        });
        return;
    };
    let destination = reserved.as_mut_ptr();
    // SAFETY: the reservation has the size of the type; the helper writes at most `PATH_BYTES` and
    // always terminates what it wrote. User space reads no further than `path_bytes`.
    unsafe {
        let length = bpf_probe_read_kernel_str(
            (&raw mut (*destination).path).cast(),
            PATH_BYTES as u32,
            path.cast(),
        );
        event.path_bytes = if length > 0 { length as u32 } else { 0 };
        core::ptr::write(&raw mut (*destination).event, event);
    }
    reserved.submit(0);
}
