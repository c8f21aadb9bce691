//! The eBPF programs of ctrscope.
//!
//! | program | hook | subject |
//! |---|---|---|
//! | `sched_switch` | `tp_btf/sched_switch` | run queue latency, on-CPU and off-CPU time, switches, preemptions |
//! | `sched_migrate_task` | `tp_btf/sched_migrate_task`, from 6.12 on | tells of tasks that block and are moved at once: the kernel takes their sleep for a wait |
//! | `sched_process_exit` | `tp_btf/sched_process_exit` | forgets the task, counts the process |
//! | `read_clock` | none: run on demand by `BPF_PROG_TEST_RUN` | the clock of a CPU and whether its task was moved, for slices still running |
//! | `cgroup_mkdir`, `cgroup_rmdir` | `tp_btf` of the same name | a cgroup made or removed |
//! | `cgroup_notify_populated` | `tp_btf/cgroup_notify_populated` | a cgroup's last task has ended |
//! | `block_rq_issue`, `block_rq_complete` | `tp_btf` of the same name | block I/O |
//! | `profile_sample` | perf event | on-CPU stacks |
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    allow(
        unreachable_pub,
        missing_docs,
        reason = "programs and maps are symbols of the object, not an API"
    )
)]

#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod probes;

#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; ctrscope_ebpf::LICENSE.len() + 1] = {
    let mut terminated = [0; ctrscope_ebpf::LICENSE.len() + 1];
    let mut i = 0;
    while i < ctrscope_ebpf::LICENSE.len() {
        terminated[i] = ctrscope_ebpf::LICENSE.as_bytes()[i];
        i += 1;
    }
    terminated
};

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The host has nothing to run: this lets `cargo clippy --workspace` look at the crate.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
