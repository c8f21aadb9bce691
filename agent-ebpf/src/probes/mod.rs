//! The programs, one file a subject.

mod block;
mod cgroup;
mod device;
mod ledger;
mod profile;
#[cfg(bpf_target_arch = "x86_64")]
mod python;
mod sched;
#[cfg(bpf_target_arch = "x86_64")]
mod walk;

#[cfg(bpf_target_arch = "x86_64")]
pub use python::PythonWalk;
#[cfg(bpf_target_arch = "x86_64")]
pub use walk::Walk;
