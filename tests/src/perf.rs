//! Kernels whose `perf_event_open` asks for more than mainline's.

use std::{fs, io, thread};

use crate::lock::Lock;

const LEVEL: &str = "/proc/sys/kernel/perf_event_paranoid";
/// Who holds it may change the level, or rely on it: it is one for all processes.
const LOCK: &str = "perf-event-paranoid";
const RATE: &str = "/proc/sys/kernel/perf_event_max_sample_rate";
const RATE_LOCK: &str = "perf-event-sample-rate";
/// Mainline's highest level.
const MAINLINE: i32 = 2;

/// Whether this kernel, as it is set, refuses `perf_event_open` to `CAP_PERFMON` without
/// `CAP_SYS_ADMIN`, as Debian's and Ubuntu's do above level 2. Mainline answers no.
///
/// # Errors
///
/// The level or the capabilities of this process cannot be read, or the call fails for another reason.
pub fn needs_sys_admin() -> io::Result<bool> {
    if level()? <= MAINLINE {
        return Ok(false);
    }
    // Capabilities are those of a thread: this one ends without it.
    thread::spawn(|| {
        drop_sys_admin()?;
        match open_clock() {
            Ok(()) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(true),
            Err(error) => Err(error),
        }
    })
    .join()
    .expect("it does not panic")
}

/// A host that allows fewer samples per second and CPU; as it was before on drop.
pub struct SampleRate {
    before: String,
    // Given back after the rate.
    _lock: Lock,
}

impl SampleRate {
    /// Lowers `kernel.perf_event_max_sample_rate`.
    ///
    /// # Errors
    ///
    /// The kernel has no such setting, or refuses it.
    pub fn lower(hertz: u32) -> io::Result<Self> {
        let lock = Lock::take(RATE_LOCK)?;
        let before = fs::read_to_string(RATE)?;
        fs::write(RATE, hertz.to_string())?;
        Ok(Self {
            before,
            _lock: lock,
        })
    }
}

impl Drop for SampleRate {
    fn drop(&mut self) {
        let _ = fs::write(RATE, self.before.trim());
    }
}

/// A host where mainline's rule holds; as it was before on drop.
pub struct Mainline {
    before: Option<i32>,
    // Given back after the level.
    _lock: Lock,
}

/// Keeps others that hold this or [`Mainline`] from changing the level.
///
/// # Errors
///
/// The lock cannot be taken.
pub fn hold_level() -> io::Result<impl Sized> {
    Lock::take(LOCK)
}

impl Mainline {
    /// Sets `kernel.perf_event_paranoid` to 2 where the kernel asks for more than mainline's.
    ///
    /// # Errors
    ///
    /// As of [`needs_sys_admin`]; the level cannot be written.
    pub fn set() -> io::Result<Self> {
        let lock = Lock::take(LOCK)?;
        let mut before = None;
        if needs_sys_admin()? {
            before = Some(level()?);
            fs::write(LEVEL, MAINLINE.to_string())?;
        }
        Ok(Self {
            before,
            _lock: lock,
        })
    }
}

impl Drop for Mainline {
    fn drop(&mut self) {
        if let Some(level) = self.before {
            // Who set it once can set it again.
            let _ = fs::write(LEVEL, level.to_string());
        }
    }
}

fn level() -> io::Result<i32> {
    let text = fs::read_to_string(LEVEL)?;
    text.trim().parse().map_err(io::Error::other)
}

/// Takes `CAP_SYS_ADMIN` out of the effective set of this thread.
fn drop_sys_admin() -> io::Result<()> {
    const CAP_SYS_ADMIN: u32 = 21;
    /// `_LINUX_CAPABILITY_VERSION_3`, of `include/uapi/linux/capability.h`.
    const VERSION: u32 = 0x2008_0522;
    // `struct __user_cap_header_struct`: version, and 0 for this thread.
    let header = [VERSION, 0];
    // Two `struct __user_cap_data_struct` of effective, permitted and inheritable bits.
    let mut data = [0_u32; 6];
    // SAFETY: both are of the size that the version asks for.
    call(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) })?;
    data[0] &= !(1 << CAP_SYS_ADMIN);
    // SAFETY: as above.
    call(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })?;
    Ok(())
}

/// Opens the clock event of the first CPU for all processes, and closes it again.
fn open_clock() -> io::Result<()> {
    /// `PERF_ATTR_SIZE_VER0` of `include/uapi/linux/perf_event.h`.
    const SIZE: usize = 64;
    const PERF_TYPE_SOFTWARE: u32 = 1;
    // Type and size; the rest, `PERF_COUNT_SW_CPU_CLOCK` too, is 0.
    let mut attributes = [0_u32; SIZE / 4];
    attributes[0] = PERF_TYPE_SOFTWARE;
    attributes[1] = SIZE as u32;
    // SAFETY: the attributes are of the size that they name.
    let file = call(unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            -1 as libc::pid_t,
            0 as libc::c_int,
            -1 as libc::c_int,
            0 as libc::c_ulong,
        )
    })?;
    // SAFETY: a new descriptor that nobody else has.
    unsafe { libc::close(file as libc::c_int) };
    Ok(())
}

fn call(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
