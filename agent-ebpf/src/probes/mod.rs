//! The programs, one file a subject.

mod block;
mod cgroup;
mod profile;
mod sched;
