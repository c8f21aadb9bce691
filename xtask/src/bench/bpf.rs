//! What the kernel counts of its eBPF programs, and a program that does nothing.
//!
//! A few `bpf()` commands, because no tool has an empty program, and because statistics that are
//! switched on by a file descriptor go off with it whatever happens to us, which the sysctl does not.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

/// Commands and constants of `include/uapi/linux/bpf.h`.
const PROG_LOAD: libc::c_int = 5;
const PROG_GET_NEXT_ID: libc::c_int = 11;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const ENABLE_STATS: libc::c_int = 32;
const STATS_RUN_TIME: u32 = 0;
const TYPE_RAW_TRACEPOINT: u32 = 17;
/// Kprobe, tracepoint, perf event, raw tracepoint, writable raw tracepoint, tracing (fentry, BTF
/// tracepoints): what can disturb a measurement. Programs of cgroups and sockets do not.
const TRACING_TYPES: [u32; 6] = [2, 5, 7, 17, 24, 26];

/// `union bpf_attr`: 128 bytes are more than any command here uses; the rest must be zero.
type Attribute = [u64; 16];
/// Room for `struct bpf_prog_info`, of which the kernel fills what it knows.
type Info = [u64; 64];

/// Two 32-bit fields in one word of an attribute.
fn pair(first: u32, second: u32) -> u64 {
    let (first, second) = (first.to_ne_bytes(), second.to_ne_bytes());
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first);
    bytes[4..].copy_from_slice(&second);
    u64::from_ne_bytes(bytes)
}

/// The first and second half of a word.
fn halves(word: u64) -> (u32, u32) {
    let bytes = word.to_ne_bytes();
    let half =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (half(0), half(4))
}

fn bpf(command: libc::c_int, attribute: &mut Attribute) -> io::Result<i32> {
    // SAFETY: a valid attribute of that size; what it points to outlives the call at every caller.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attribute.as_mut_ptr(),
            size_of::<Attribute>(),
        )
    };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn bpf_fd(command: libc::c_int, attribute: &mut Attribute) -> io::Result<OwnedFd> {
    let fd = bpf(command, attribute)?;
    // SAFETY: the command gave a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Run time statistics, on for as long as this lives.
pub(super) struct Statistics(#[expect(dead_code, reason = "held open")] OwnedFd);

impl Statistics {
    /// Switches them on.
    ///
    /// # Errors
    ///
    /// Not root, or a kernel before 5.8.
    pub(super) fn on() -> Result<Self> {
        let mut attribute = Attribute::default();
        attribute[0] = pair(STATS_RUN_TIME, 0);
        bpf_fd(ENABLE_STATS, &mut attribute)
            .map(Self)
            .context("cannot switch on the run time statistics of eBPF programs (Linux 5.8, root)")
    }

    /// Whether the sysctl has them on for everybody.
    pub(super) fn forced_on() -> bool {
        fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")
            .is_ok_and(|text| text.trim() != "0")
    }
}

/// Runs and their time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Runs {
    pub(super) count: u64,
    pub(super) ns: u64,
}

impl Runs {
    /// What was added since an earlier reading.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            count: self.count.saturating_sub(earlier.count),
            ns: self.ns.saturating_sub(earlier.ns),
        }
    }

    /// Nanoseconds of a run; `None` if there was none.
    pub(super) fn mean_ns(self) -> Option<f64> {
        (self.count > 0).then(|| self.ns as f64 / self.count as f64)
    }
}

/// A program in the kernel, kept there for as long as this lives.
pub(super) struct Program {
    fd: OwnedFd,
    pub(super) name: String,
    kind: u32,
}

impl Program {
    /// The program of that id; `None` if it has gone.
    fn by_id(id: u32) -> Result<Option<Self>> {
        let mut attribute = Attribute::default();
        attribute[0] = pair(id, 0);
        let fd = match bpf_fd(PROG_GET_FD_BY_ID, &mut attribute) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open eBPF program {id}"));
            }
        };
        let info = info(&fd)?;
        // `type` and `id`, then after 64 bytes the name.
        let name: Vec<u8> = [info[8], info[9]]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .take_while(|&byte| byte != 0)
            .collect();
        Ok(Some(Self {
            fd,
            name: String::from_utf8_lossy(&name).into_owned(),
            kind: halves(info[0]).0,
        }))
    }

    /// How often it ran, and how long, while statistics were on.
    pub(super) fn runs(&self) -> Result<Runs> {
        let info = info(&self.fd)?;
        // `run_time_ns` and `run_cnt` are at 192 and 200.
        Ok(Runs {
            ns: info[24],
            count: info[25],
        })
    }
}

fn info(fd: &OwnedFd) -> Result<Info> {
    let mut info: Info = [0; 64];
    let length = u32::try_from(size_of::<Info>())?;
    let mut attribute = Attribute::default();
    attribute[0] = pair(raw(fd), length);
    attribute[1] = info.as_mut_ptr() as u64;
    bpf(OBJ_GET_INFO_BY_FD, &mut attribute).context("cannot ask for an eBPF program")?;
    Ok(info)
}

/// Ids of all programs.
fn ids() -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    let mut last = 0;
    loop {
        let mut attribute = Attribute::default();
        attribute[0] = pair(last, 0);
        match bpf(PROG_GET_NEXT_ID, &mut attribute) {
            Ok(_) => last = halves(attribute[0]).1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ids),
            Err(error) => return Err(error).context("cannot list the eBPF programs"),
        }
        ids.push(last);
    }
}

/// Ids of the programs that a process holds, by itself or through links.
pub(super) fn ids_of(pid: u32) -> Vec<u32> {
    // A descriptor that is closed meanwhile is no failure.
    let mut ids: Vec<u32> = fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("prog_id:"))?;
            line.trim().parse().ok()
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The programs that a process holds.
pub(super) fn programs_of(pid: u32) -> Result<Vec<Program>> {
    let programs: Result<Vec<_>> = ids_of(pid).into_iter().map(Program::by_id).collect();
    Ok(programs?.into_iter().flatten().collect())
}

/// Tracing programs that belong to nobody in `own`: names, sorted.
pub(super) fn foreign(own: &[u32]) -> Result<Vec<String>> {
    let own: Vec<u32> = own
        .iter()
        .copied()
        .chain([std::process::id()])
        .flat_map(ids_of)
        .collect();
    let mut names = Vec::new();
    for id in ids()?.into_iter().filter(|id| !own.contains(id)) {
        if let Some(program) = Program::by_id(id)?
            && TRACING_TYPES.contains(&program.kind)
        {
            names.push(program.name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A program of two instructions, `r0 = 0; exit`, on a raw tracepoint: what statistics cost.
pub(super) struct Empty {
    program: Program,
    _link: OwnedFd,
}

impl Empty {
    /// Loads it and attaches it.
    ///
    /// # Errors
    ///
    /// Not root, or no such tracepoint.
    pub(super) fn attach(tracepoint: &str) -> Result<Self> {
        // struct bpf_insn: code, registers, offset (2), immediate (4), which is 0.
        const INSTRUCTIONS: [[u8; 8]; 2] =
            [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
        let license = c"Dual MIT/GPL";
        let mut attribute = Attribute::default();
        attribute[0] = pair(TYPE_RAW_TRACEPOINT, 2);
        attribute[1] = INSTRUCTIONS.as_ptr() as u64;
        attribute[2] = license.as_ptr() as u64;
        attribute[6] = u64::from_ne_bytes(*b"bench_em");
        attribute[7] = u64::from_ne_bytes(*b"pty\0\0\0\0\0");
        let fd = bpf_fd(PROG_LOAD, &mut attribute).context("cannot load an empty program")?;
        let name = CString::new(tracepoint)?;
        let mut attribute = Attribute::default();
        attribute[0] = name.as_ptr() as u64;
        attribute[1] = pair(raw(&fd), 0);
        let link = bpf_fd(RAW_TRACEPOINT_OPEN, &mut attribute)
            .with_context(|| format!("cannot attach an empty program to {tracepoint}"))?;
        Ok(Self {
            program: Program {
                fd,
                name: "empty".into(),
                kind: TYPE_RAW_TRACEPOINT,
            },
            _link: link,
        })
    }

    /// Its runs.
    pub(super) fn runs(&self) -> Result<Runs> {
        self.program.runs()
    }
}
