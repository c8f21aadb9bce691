//! The calls of `bpf(2)` that aya does not offer.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    thread::{MembarrierCommand, membarrier},
    time::{ClockId, clock_gettime},
};

/// `BPF_PROG_TEST_RUN`, `include/uapi/linux/bpf.h`.
const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// The `test` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

/// Runs a raw tracepoint program once on this CPU with one argument (5.10 and later), and returns
/// what it returned.
pub(crate) fn run_raw_tracepoint(program: BorrowedFd<'_>, argument: u64) -> io::Result<u32> {
    let context = [argument];
    let mut attr = TestRunAttr {
        prog_fd: u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?,
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRunAttr::default()
    };
    // SAFETY: the attribute is larger than what any kernel reads of this command and zero beyond
    // what is set; the context outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attr,
            size_of::<TestRunAttr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(attr.retval)
    }
}

/// `struct perf_event_attr` in its first published size, `include/uapi/linux/perf_event.h`.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

/// Opens the clock event of a CPU for all processes, as a profile does, and closes it again: whether
/// this process may sample. Costs a few microseconds.
///
/// # Errors
///
/// What the kernel answers: `EACCES` without `CAP_PERFMON` above `kernel.perf_event_paranoid` 0, and on
/// Debian's and Ubuntu's kernels without `CAP_SYS_ADMIN` above 2,
/// `ENOSYS` without `CONFIG_PERF_EVENTS`, what a seccomp filter says.
pub(crate) fn try_cpu_clock(cpu: u32) -> io::Result<()> {
    const PERF_TYPE_SOFTWARE: u32 = 1;
    const DISABLED: u64 = 1;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    // `PERF_COUNT_SW_CPU_CLOCK` is 0.
    let attr = PerfEventAttr {
        kind: PERF_TYPE_SOFTWARE,
        size: size_of::<PerfEventAttr>() as u32,
        flags: DISABLED,
        ..PerfEventAttr::default()
    };
    let cpu = libc::c_int::try_from(cpu).map_err(io::Error::other)?;
    // SAFETY: the attribute is valid for its size, and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            -1 as libc::pid_t,
            cpu,
            -1 as libc::c_int,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: a new descriptor that nobody else has.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// Waits until one of two descriptors is readable or the time is up; says which are.
pub(crate) fn wait_readable(
    first: BorrowedFd<'_>,
    second: BorrowedFd<'_>,
    timeout: std::time::Duration,
) -> io::Result<[bool; 2]> {
    let mut descriptors = [first, second].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match poll(&mut descriptors, Some(&timeout)) {
        Ok(_) => Ok(descriptors.map(|descriptor| !descriptor.revents().is_empty())),
        Err(Errno::INTR) => Ok([false; 2]),
        Err(error) => Err(error.into()),
    }
}

/// Waits until every program has ended that ran when this was called (`synchronize_rcu`). Some 10 to 50 ms.
///
/// # Errors
///
/// `EINVAL` where CPUs run without a tick (`nohz_full`), `ENOSYS` before 4.3 or under a seccomp filter.
pub(crate) fn wait_for_programs() -> io::Result<()> {
    Ok(membarrier(MembarrierCommand::Global)?)
}

/// `CLOCK_MONOTONIC`, nanoseconds: that of `bpf_ktime_get_ns`.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Gives memory that was freed back to the kernel: reading BTF takes tens of megabytes once, and
/// the allocator would keep them.
pub(crate) fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}
