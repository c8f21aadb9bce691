//! The programs, one file a subject.

mod block;
mod cgroup;
mod profile;
mod sched;
#[cfg(bpf_target_arch = "x86_64")]
mod walk;

#[cfg(bpf_target_arch = "x86_64")]
pub use walk::Walk;
