//! Cgroups made and removed, so that a container is known before its first task runs in it; and emptied, so that
//! the kernel's accounts of it can be read once more before they go with it.

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, generated::bpf_probe_read_kernel_str},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use ctrscope_ebpf::{
    counter,
    event::{self, CgroupEvent, Event, PATH_BYTES},
};

use crate::{
    kernel::{self, Kernel, layout, load},
    maps::{EVENTS, count},
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

/// Fires for each cgroup that the first task comes to or the last one leaves, those above it included.
#[btf_tracepoint(function = "cgroup_notify_populated")]
pub fn cgroup_notify_populated(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<u64>(2) as u32 == 0 {
        report(&ctx, event::CGROUP_EMPTIED);
    }
    0
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
        count(counter::EVENT_RING_FULL);
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
