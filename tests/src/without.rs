//! A host that lacks something: a command is started in its own mount namespace, with capabilities,
//! limits or system calls taken away. Nothing outside of that command changes.

use std::{
    ffi::CString,
    io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

/// Capabilities by their bits in `include/uapi/linux/capability.h`, as far as the agent asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum Capability {
    DacReadSearch = 2,
    SysPtrace = 19,
    SysResource = 24,
    Syslog = 34,
    Perfmon = 38,
    Bpf = 39,
}

impl Capability {
    /// The least that the agent asks for.
    pub const LEAST: [Self; 6] = [
        Self::DacReadSearch,
        Self::SysPtrace,
        Self::SysResource,
        Self::Syslog,
        Self::Perfmon,
        Self::Bpf,
    ];

    /// The kernel's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::Syslog => "CAP_SYSLOG",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    /// An empty directory, read-only.
    Hide(CString),
    /// Another file or directory in its place.
    Replace(CString, CString),
    /// Not mounted any more.
    Unmount(CString),
    /// Mounted read-only.
    ReadOnly(CString),
}

/// What is taken away from a command.
#[derive(Clone, Debug, Default)]
pub struct Without {
    changes: Vec<Change>,
    cgroup: Vec<CString>,
    keep: Option<Vec<Capability>>,
    locked_bytes: Option<u64>,
    refused_calls: Vec<libc::c_long>,
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("paths of tests hold no zero byte")
}

impl Without {
    /// Nothing taken away yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory is empty.
    #[must_use]
    pub fn directory(mut self, path: &Path) -> Self {
        self.changes.push(Change::Hide(c_string(path)));
        self
    }

    /// Another file or directory is seen in place of `path`.
    #[must_use]
    pub fn replaced(mut self, path: &Path, by: &Path) -> Self {
        self.changes
            .push(Change::Replace(c_string(by), c_string(path)));
        self
    }

    /// A file system is not mounted.
    #[must_use]
    pub fn mount(mut self, point: &Path) -> Self {
        self.changes.push(Change::Unmount(c_string(point)));
        self
    }

    /// A file system is mounted read-only.
    #[must_use]
    pub fn writing(mut self, point: &Path) -> Self {
        self.changes.push(Change::ReadOnly(c_string(point)));
        self
    }

    /// The cgroups above its own: it runs in a cgroup, whose directories these are, and in a cgroup namespace
    /// that begins there, as engines start containers.
    #[must_use]
    pub fn cgroups_above(mut self, directories: &[PathBuf]) -> Self {
        let files = directories.iter().map(|one| one.join("cgroup.procs"));
        self.cgroup = files.map(|one| c_string(&one)).collect();
        self
    }

    /// All capabilities but these; those that this process lacks stay lacking.
    #[must_use]
    pub fn capabilities_but(mut self, keep: &[Capability]) -> Self {
        self.keep = Some(keep.to_vec());
        self
    }

    /// No more locked memory than this, bytes, and no way to raise it as long as `CAP_SYS_RESOURCE` is
    /// not kept.
    #[must_use]
    pub fn locked_memory_over(mut self, bytes: u64) -> Self {
        self.locked_bytes = Some(bytes);
        self
    }

    /// A system call is refused with `EPERM`, as a seccomp profile of a container runtime does.
    #[must_use]
    pub fn call(mut self, number: libc::c_long) -> Self {
        self.refused_calls.push(number);
        self
    }

    /// Has a command run so.
    pub fn apply(&self, command: &mut Command) {
        let without = self.clone();
        let filter = seccomp_filter(&self.refused_calls);
        // SAFETY: between fork and exec only system calls are made, on memory made before.
        unsafe { command.pre_exec(move || without.take_away(&filter)) };
    }

    fn take_away(&self, filter: &[libc::sock_filter]) -> io::Result<()> {
        for file in &self.cgroup {
            write_own_pid(file)?;
        }
        if !self.cgroup.is_empty() {
            // SAFETY: no memory is involved.
            check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) })?;
        }
        if !self.changes.is_empty() {
            // SAFETY: no memory is involved.
            check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
            mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE)?;
        }
        for change in &self.changes {
            match change {
                Change::Hide(path) => {
                    let flags = libc::MS_RDONLY;
                    let tmpfs = c"tmpfs".as_ptr();
                    // SAFETY: strings that end with zero, and no data.
                    check(unsafe {
                        libc::mount(tmpfs, path.as_ptr(), tmpfs, flags, std::ptr::null())
                    })?;
                }
                Change::Replace(source, path) => mount(Some(source), path, libc::MS_BIND)?,
                Change::Unmount(path) => {
                    // SAFETY: a string that ends with zero.
                    check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) })?;
                }
                Change::ReadOnly(path) => mount(
                    None,
                    path,
                    libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY,
                )?,
            }
        }
        if let Some(bytes) = self.locked_bytes {
            let limit = libc::rlimit {
                rlim_cur: bytes,
                rlim_max: bytes,
            };
            // SAFETY: a valid struct.
            check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) })?;
        }
        if !self.refused_calls.is_empty() {
            let program = libc::sock_fprog {
                len: filter.len() as libc::c_ushort,
                filter: filter.as_ptr().cast_mut(),
            };
            // SAFETY: a valid program, which the kernel copies. Root needs no `no_new_privs` for it.
            check(unsafe {
                libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                )
            })?;
        }
        if let Some(keep) = &self.keep {
            // What root may have after exec is the bounding set.
            for bit in 0..64_u32 {
                if keep.iter().any(|kept| *kept as u32 == bit) {
                    continue;
                }
                // SAFETY: no memory is involved. `EINVAL`: the kernel knows no such capability.
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(bit)) };
            }
        }
        Ok(())
    }
}

/// Moves this process into a cgroup: 0 stands for whoever writes it.
fn write_own_pid(file: &CString) -> io::Result<()> {
    // SAFETY: a string that ends with zero.
    let fd = unsafe { libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    check(fd)?;
    // SAFETY: one byte, which is there.
    let written = unsafe { libc::write(fd, c"0".as_ptr().cast(), 1) };
    let error = io::Error::last_os_error();
    // SAFETY: opened above, and used by nobody else.
    unsafe { libc::close(fd) };
    if written == 1 { Ok(()) } else { Err(error) }
}

fn mount(source: Option<&CString>, path: &std::ffi::CStr, flags: libc::c_ulong) -> io::Result<()> {
    let source = source.map_or(std::ptr::null(), |source| source.as_ptr());
    // SAFETY: strings that end with zero, and neither type nor data.
    check(unsafe {
        libc::mount(
            source,
            path.as_ptr(),
            std::ptr::null(),
            flags,
            std::ptr::null(),
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Refuses these calls and allows the rest.
fn seccomp_filter(refused: &[libc::c_long]) -> Vec<libc::sock_filter> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    // The number of the call is the first field of `struct seccomp_data`.
    let mut filter = vec![step(LOAD_WORD, 0, 0)];
    for &call in refused {
        filter.push(step(JUMP_EQUAL, call as u32, 1));
        filter.push(step(
            RETURN,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
            0,
        ));
    }
    filter.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0));
    filter
}
